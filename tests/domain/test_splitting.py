from __future__ import annotations

from pathlib import Path

import defusedxml.ElementTree as ElementTree
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection_assets.domain.splitting import SPLITS, History, split, straddling

SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}
BCCD = Path(__file__).parents[2] / "../shared/data/bccd"


def images_of(groups: dict[str, dict[str, int]]) -> pd.DataFrame:
    """Images from {group: {video: how many}}."""
    rows = [
        (f"{group}/{video}#{at:06d}", f"{group}/{video}", group)
        for group, videos in groups.items()
        for video, count in videos.items()
        for at in range(count)
    ]
    return pd.DataFrame(rows, columns=["frame", "video", "group"])


def boxes_of(images: pd.DataFrame, classes: dict[str, list[str]]) -> pd.DataFrame:
    """One box of each class on each image of the groups (or, with a slash, videos) that have it."""
    rows = [
        (row.frame, name)
        for row in images.itertuples()
        for name, owners in classes.items()
        if row.group in owners or row.video in owners
    ]
    return pd.DataFrame(rows, columns=["frame", "class"])


def no_boxes() -> pd.DataFrame:
    return pd.DataFrame({"frame": [], "class": []}, dtype=object)


def placed(images: pd.DataFrame, result) -> pd.DataFrame:
    return images.assign(split=images["frame"].map(result.assignments))


GROUPS = st.dictionaries(
    st.sampled_from([f"store-{at:02d}" for at in range(14)]),
    st.dictionaries(st.sampled_from(["a.mp4", "b.mp4", "c.mp4"]), st.integers(1, 6), min_size=1),
    min_size=1,
)


@settings(deadline=None, max_examples=60)
@given(GROUPS, st.integers(0, 3), st.randoms(use_true_random=False))
def test_nothing_lies_in_two_splits_and_none_is_empty(groups, seed, random):
    images = images_of(groups)
    classes = {name: random.sample(sorted(groups), k=len(groups) // 2 + 1) for name in ("apple", "cola")}
    result = split(images, boxes_of(images, classes), SHARES, seed)
    table = placed(images, result)
    assert straddling(table, result.by) == []
    assert result.optimistic == (result.by != "group") == any("optimistic" in note for note in result.notes)
    assert set(result.assignments.index) == set(images["frame"])
    if len(images) >= 3:
        assert set(table["split"]) == set(SPLITS)
    again = split(images.sample(frac=1, random_state=seed), boxes_of(images, classes), SHARES, seed)
    pd.testing.assert_series_equal(again.assignments, result.assignments)


@settings(max_examples=25, deadline=None)
@given(st.permutations([(f"store-{at:02d}", video) for at in range(6) for video in ("a.mp4", "b.mp4")]), st.data())
def test_a_group_never_changes_its_split_in_whatever_order_data_arrives(order, data):
    known: dict[str, dict[str, int]] = {}
    history: History | None = None
    settled: dict[str, str] = {}
    while order:
        take = data.draw(st.integers(1, len(order)))
        for group, video in order[:take]:
            known.setdefault(group, {})[video] = 4
        order = order[take:]
        images = images_of(known)
        result = split(images, boxes_of(images, {"apple": list(known)}), SHARES, 0, history)
        table = placed(images, result)
        assert straddling(table, result.by) == []
        now = {group: parts.iloc[0] for group, parts in table.groupby("group")["split"]}
        if settled:
            assert result.by == "group"
            assert {group: now[group] for group in settled} == settled
        if result.by == "group":
            settled = now
        history = History(result.by, table)
    # Six groups are enough, whatever had to be done before there were so many.
    assert result.by == "group"
    assert set(settled.values()) == set(SPLITS)


def test_shares_are_met_with_many_groups_and_for_each_class():
    sizes = {f"g{at:03d}": {"v.mp4": 5 + at * 37 % 41} for at in range(120)}
    images = images_of(sizes)
    owners = {"common": list(sizes), "rare": list(sizes)[::9]}
    boxes = boxes_of(images, owners)
    result = split(images, boxes, SHARES)
    assert (result.by, result.optimistic, result.notes) == ("group", False, [])
    for part in (
        result.assignments,
        *(boxes["frame"][boxes["class"] == name].map(result.assignments) for name in owners),
    ):
        shares = part.value_counts(normalize=True)
        assert {name: shares[name] for name in SPLITS} == pytest.approx(SHARES, abs=0.03)


def test_shares_are_met_when_groups_arrive_one_by_one():
    history = None
    known: dict[str, dict[str, int]] = {}
    for at in range(40):
        known[f"g{at:02d}"] = {"v.mp4": 5 + at * 7 % 11}
        images = images_of(known)
        result = split(images, no_boxes(), SHARES, 0, history)
        history = History(result.by, placed(images, result))
    shares = result.assignments.value_counts(normalize=True)
    assert {name: shares[name] for name in SPLITS} == pytest.approx(SHARES, abs=0.06)


LEVELS = {
    "three groups": ({"a": {"1": 5}, "b": {"1": 5}, "c": {"1": 5}}, {}, "group"),
    "two groups of three videos": ({"a": {"1": 5, "2": 5}, "b": {"1": 5}}, {}, "video"),
    "one group, one video": ({"a": {"1": 9}}, {}, "image"),
    "a class in one of three groups, in three videos": (
        {"a": {"1": 9, "2": 9, "3": 9}, "b": {"1": 9}, "c": {"1": 9}},
        {"cola": ["a"]},
        "video",
    ),
    "a class in one video of three groups": (
        {"a": {"1": 9}, "b": {"1": 9}, "c": {"1": 9}},
        {"cola": ["a"]},
        "image",
    ),
    "a class that nothing can spread": ({"a": {"1": 2}, "b": {"1": 9}, "c": {"1": 9}}, {"cola": ["a"]}, "group"),
    "a rare class among many groups": ({f"g{at}": {"1": 5} for at in range(12)}, {"cola": ["g3"]}, "group"),
}


@pytest.mark.parametrize(("groups", "classes", "by"), LEVELS.values(), ids=LEVELS)
def test_the_coarsest_level_that_serves_is_taken(groups, classes, by):
    images = images_of(groups)
    boxes = boxes_of(images, classes)
    result = split(images, boxes, SHARES)
    assert result.by == by
    if by != "group":
        assert any(note.startswith(f"Split by {by}") for note in result.notes)
    parts = {name: set(boxes["frame"][boxes["class"] == name].map(result.assignments)) for name in classes}
    lacking = {
        f"Class {name} is absent from {part}: add footage of it from another place."
        for name, having in parts.items()
        for part in SPLITS
        if part not in having
    }
    assert {note for note in result.notes if note.startswith("Class")} == lacking


def test_groups_that_lay_across_splits_go_to_train_once_there_are_enough():
    images = images_of({"a": {"1": 30}})
    first = split(images, no_boxes(), SHARES)
    assert first.by == "image"
    history = History("image", placed(images, first))
    more = images_of({"a": {"1": 30}, "b": {"1": 10}, "c": {"1": 10}})
    second = split(more, no_boxes(), SHARES, 0, history)
    table = placed(more, second)
    assert second.by == "group"
    assert set(table["split"][table["group"] == "a"]) == {"train"}
    assert any("placed anew, in train: a. Figures" in note for note in second.notes)
    assert set(table["split"]) == set(SPLITS)


def test_groups_that_lay_across_splits_are_placed_anew_where_train_cannot_take_them_all():
    images = images_of({"a": {"1": 10}, "b": {"1": 10}})
    first = split(images, no_boxes(), SHARES)
    assert first.by == "image"
    more = images_of({"a": {"1": 10}, "b": {"1": 10}, "c": {"1": 10}})
    second = split(more, no_boxes(), SHARES, 0, History("image", placed(images, first)))
    assert second.by == "group"
    assert set(second.assignments) == set(SPLITS)
    assert any("placed anew" in note and "taught some of what now judges it" in note for note in second.notes) == (
        set(second.assignments.filter(regex="c/")) != {"test"}
    )


def test_known_images_stay_where_they_are_while_there_is_one_group():
    images = images_of({"a": {"1": 30}})
    first = split(images, no_boxes(), SHARES)
    more = images_of({"a": {"1": 60}})
    second = split(more, no_boxes(), SHARES, 0, History("image", placed(images, first)))
    pd.testing.assert_series_equal(second.assignments[first.assignments.index], first.assignments)
    assert second.assignments.value_counts().to_dict() == pytest.approx({"train": 42, "val": 9, "test": 9}, abs=1)


def test_a_withdrawn_group_leaves_the_others_where_they_are():
    images = images_of({name: {"1": 10, "2": 10, "3": 10} for name in "abc"})
    first = placed(images, split(images, no_boxes(), SHARES))
    tested = first["group"][first["split"] == "test"].iloc[0]
    left = images[images["group"] != tested]
    second = split(left, no_boxes(), SHARES, 0, History("group", first))
    assert second.by == "group"
    pd.testing.assert_series_equal(
        second.assignments, first.set_index("frame")["split"][second.assignments.index], check_names=False
    )
    assert any(note.startswith("test has no images") for note in second.notes)


def test_a_mapping_of_groups_is_history_enough():
    images = images_of({name: {"1": 10} for name in "abcde"})
    result = split(images, no_boxes(), SHARES, 0, {"a": "test", "b": "val"})
    table = placed(images, result)
    assert set(table["split"][table["group"] == "a"]) == {"test"}
    assert set(table["split"][table["group"] == "b"]) == {"val"}
    assert "train" in set(table["split"])


def test_look_alikes_stay_together_when_the_split_is_by_image():
    images = images_of({"a": {"1": 60}})
    # Twenty scenes of three frames each, a bit or two apart.
    images["phash"] = [f"{(at // 3 + 1) * 0x9E3779B97F4A7C15 % 2**64 ^ (1 << at % 3):016x}" for at in range(60)]
    result = split(images, no_boxes(), SHARES, 0, None, near_duplicate=4)
    scenes = placed(images, result).groupby([at // 3 for at in range(60)])["split"].nunique()
    assert result.by == "image"
    assert (scenes == 1).all()
    loose = split(images, no_boxes(), SHARES)
    assert (placed(images, loose).groupby([at // 3 for at in range(60)])["split"].nunique() > 1).any()
    # A new frame of a known scene follows it.
    history = History("image", placed(images, result).iloc[:-1])
    later = split(images, no_boxes(), SHARES, 0, history, near_duplicate=4)
    pd.testing.assert_series_equal(later.assignments, result.assignments)


def test_images_that_all_look_alike_are_still_split():
    images = images_of({"a": {"1": 20}}).assign(phash="0" * 16)
    assert set(split(images, no_boxes(), SHARES, near_duplicate=4).assignments) == set(SPLITS)


def test_no_images_make_an_empty_split_and_no_history():
    empty = images_of({})
    result = split(empty, no_boxes(), SHARES)
    assert result.assignments.empty
    images = images_of({"a": {"1": 9}})
    assert split(images, no_boxes(), SHARES, 0, History(result.by, empty.assign(split=[]))).by == "image"


def test_the_seed_changes_who_is_where():
    images = images_of({f"g{at}": {"1": 5} for at in range(12)})
    results = [split(images, no_boxes(), SHARES, seed).assignments for seed in range(4)]
    assert any(not results[0].equals(other) for other in results[1:])


@pytest.mark.parametrize(
    "shares", [{"train": 0.7, "val": 0.3}, {"train": 0.7, "val": 0.2, "test": 0.2}, {"train": 1, "val": 0, "test": 0}]
)
def test_shares_that_make_no_sense_are_refused(shares):
    with pytest.raises(ValueError, match="expected train, val and test"):
        split(images_of({"a": {"1": 3}}), no_boxes(), shares)


def test_a_doubled_frame_and_a_missing_group_are_refused():
    images = images_of({"a": {"1": 3}})
    with pytest.raises(ValueError, match=r"a/1#000000 comes twice"):
        split(pd.concat([images, images.head(1)]), no_boxes(), SHARES)
    with pytest.raises(ValueError, match="no group"):
        split(images.assign(group=None), no_boxes(), SHARES)


def test_real_photographs_in_one_folder_are_split_by_image_with_every_class_in_proportion():
    if not BCCD.exists():
        pytest.skip(f"the photographs are not at {BCCD}")
    rows = [
        (f"JPEGImages#{file.stem}.jpg", element.findtext("name"))
        for file in sorted((BCCD / "Annotations").glob("*.xml"))
        for element in ElementTree.parse(file).iter("object")
    ]
    boxes = pd.DataFrame(rows, columns=["frame", "class"])
    images = pd.DataFrame({"frame": [f"JPEGImages#{file.name}" for file in (BCCD / "JPEGImages").glob("*.jpg")]})
    result = split(images.assign(video="JPEGImages", group="JPEGImages"), boxes, SHARES)
    assert (result.by, result.optimistic) == ("image", True)
    assert result.assignments.value_counts().to_dict() == pytest.approx({"train": 255, "val": 55, "test": 55}, abs=2)
    for name in ("RBC", "WBC", "Platelets"):
        shares = boxes["frame"][boxes["class"] == name].map(result.assignments).value_counts(normalize=True)
        assert {part: shares[part] for part in SPLITS} == pytest.approx(SHARES, abs=0.01)

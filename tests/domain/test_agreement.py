"""Several annotators on one frame: who is listened to, what they agree on, and how well."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from domain.test_matching import VIDEO, boxes, changed, video_frames
from hypothesis import given, settings
from hypothesis import strategies as st

from detection_assets.domain import agreement, matching
from detection_assets.domain.agreement import Policy
from detection_assets.domain.matching import Matched

CORNERS = ["x1", "y1", "x2", "y2"]
FRAMES = video_frames(0, 1, 2)


def drew(who: str | None, x: float, label: str | None = "cat", frame: int = 0, **other: Any) -> dict[str, Any]:
    return {
        **{"frame_index": frame, "annotator": who, "class": label},
        **{"x1": x, "y1": 10.0, "x2": x + 20, "y2": 30.0, **other},
    }


def found_nothing(who: str | None, frame: int = 0, **other: Any) -> dict[str, Any]:
    return drew(who, 0.0, None, frame, **other)


def run(rows: list[dict[str, Any]], policy: Policy) -> Matched:
    found = matching.match(boxes(*rows), FRAMES, VIDEO, ["cat", "dog"], 100, policy)
    sums = ("boxes_kept", "boxes_elsewhere", "unknown_class", "illegal", "duplicates", "superseded")
    assert found.counts["boxes_read"] == sum(found.counts[name] for name in (*sums, "merged", "outvoted"))
    return found


def kept(found: Matched) -> list[tuple[Any, ...]]:
    """Frame, class, left edge and annotator of each row."""
    table = found.boxes
    return [
        (int(frame[-1]), label, None if label is None else float(x1), who)
        for frame, label, x1, who in table[["frame", "class", "x1", "annotator"]].itertuples(index=False)
    ]


A, B = {"file": "a.json"}, {"file": "b.json"}
LATEST = {
    "one person": ([drew("ada", 10), drew("ada", 40)], [(0, "cat", 10, "ada"), (0, "cat", 40, "ada")], {}),
    "two in one file: the last": (
        [drew("ada", 10), drew("bob", 12), drew("bob", 40)],
        [(0, "cat", 12, "bob"), (0, "cat", 40, "bob")],
        {"superseded": 1},
    ),
    "each frame has a last of its own": (
        [drew("ada", 10), drew("bob", 12), drew("bob", 10, frame=1), drew("ada", 11, frame=1)],
        [(0, "cat", 12, "bob"), (1, "cat", 11, "ada")],
        {"superseded": 2},
    ),
    "the last found nothing": (
        [drew("ada", 10), found_nothing("bob")],
        [(0, None, None, "bob")],
        {"superseded": 1},
    ),
    "who is not named stays": (
        [drew("ada", 10), drew("bob", 12), drew(None, 60)],
        [(0, "cat", 12, "bob"), (0, "cat", 60, None)],
        {"superseded": 1},
    ),
    "who is not named is the one who is": (
        [drew("ada", 10), drew(None, 60)],
        [(0, "cat", 10, "ada"), (0, "cat", 60, None)],
        {},
    ),
    "two files: the last, as ever": (
        [drew("bob", 10, **A), drew("ada", 12, **B)],
        [(0, "cat", 12, "ada")],
        {"superseded": 1, "conflicts": 1},
    ),
}


@pytest.mark.parametrize(("rows", "expected", "counts"), LATEST.values(), ids=LATEST)
def test_the_latest_speaks(rows: list[dict[str, Any]], expected: list[Any], counts: dict[str, int]) -> None:
    found = run(rows, Policy())
    assert kept(found) == expected
    said = {name: n for name, n in changed(found).items() if name != "frames_matched"}
    assert said == counts


UNION = {
    "what both drew is one": (
        [drew("ada", 10), drew("bob", 12)],
        [(0, "cat", 11, "ada, bob")],
        {"merged": 1},
    ),
    "what one drew is kept": (
        [drew("ada", 10), drew("bob", 12), drew("bob", 60)],
        [(0, "cat", 11, "ada, bob"), (0, "cat", 60, "bob")],
        {"merged": 1},
    ),
    "one of them found nothing": ([drew("ada", 10), found_nothing("bob")], [(0, "cat", 10, "ada")], {}),
    "two files of people whom nobody names": (
        [drew(None, 10, **A), drew(None, 12, **B), drew(None, 60, **A)],
        [(0, "cat", 11, None), (0, "cat", 60, None)],
        {"merged": 1},
    ),
    "two files of one person: her last word": (
        [drew("ada", 10, **A), drew("ada", 12, **B)],
        [(0, "cat", 12, "ada")],
        {"superseded": 1},
    ),
    "what one person drew twice in one place stays two": (
        [drew("ada", 10), drew("ada", 12), drew("bob", 10)],
        [(0, "cat", 10, "ada, bob"), (0, "cat", 12, "ada")],
        {"merged": 1},
    ),
    "the class of most": (
        [drew("ada", 10), drew("bob", 10, "dog"), drew("eve", 10, "dog")],
        [(0, "dog", 10, "ada, bob, eve")],
        {"merged": 2},
    ),
    "of as many, the detector's first": (
        [drew("ada", 10, "dog"), drew("bob", 10, "cat")],
        [(0, "cat", 10, "ada, bob")],
        {"merged": 1},
    ),
}


@pytest.mark.parametrize(("rows", "expected", "counts"), UNION.values(), ids=UNION)
def test_a_union_is_what_anybody_drew(rows: list[dict[str, Any]], expected: list[Any], counts: dict[str, int]) -> None:
    found = run(rows, Policy("union"))
    assert kept(found) == expected
    assert {name: n for name, n in changed(found).items() if name != "frames_matched"} == counts


THREE = [drew("ada", 10), drew("bob", 12), drew("eve", 17)]
CONSENSUS = {
    "the median of three": (THREE, None, [(0, "cat", 12, "ada, bob, eve")], {"merged": 2}),
    "two of three": (
        [*THREE[:2], found_nothing("eve")],
        None,
        [(0, "cat", 11, "ada, bob")],
        {"merged": 1},
    ),
    "one of three is outvoted": (
        [drew("ada", 10), found_nothing("bob"), found_nothing("eve")],
        None,
        [(0, None, None, "bob")],
        {"outvoted": 1},
    ),
    "of two, both": (
        [drew("ada", 10), drew("bob", 12), drew("bob", 60)],
        None,
        [(0, "cat", 11, "ada, bob")],
        {"merged": 1, "outvoted": 1},
    ),
    "one is enough where he was alone": ([drew("ada", 10)], None, [(0, "cat", 10, "ada")], {}),
    "one is enough if one is enough": (
        [drew("ada", 10), found_nothing("bob")],
        1,
        [(0, "cat", 10, "ada")],
        {},
    ),
    "too few have looked: the frame is left out": (
        [drew("ada", 10), drew("ada", 10, frame=1), drew("bob", 10, frame=1)],
        2,
        [(1, "cat", 10, "ada, bob")],
        {"outvoted": 1, "merged": 1},
    ),
}


@pytest.mark.parametrize(("rows", "least", "expected", "counts"), CONSENSUS.values(), ids=CONSENSUS)
def test_a_consensus_is_what_enough_drew(
    rows: list[dict[str, Any]], least: int | None, expected: list[Any], counts: dict[str, int]
) -> None:
    found = run(rows, Policy("consensus", 0.5, least))
    assert kept(found) == expected
    assert {name: n for name, n in changed(found).items() if name != "frames_matched"} == counts


def test_what_was_decided_is_told() -> None:
    rows = [drew("ada", 10, "dog"), drew("bob", 10, "cat"), drew("bob", 60)]
    problems = run(rows, Policy("consensus")).problems
    assert [(one.kind, one.action, one.number) for one in problems] == [
        ("outvoted", "dropped", 1),
        ("class tie", "kept", 1),
    ]
    assert "cat or dog" in problems[1].what
    assert problems[1].frame == f"{VIDEO}#000000"
    (told,) = run([drew("ada", 10), drew("bob", 12)], Policy()).problems
    assert (told.kind, told.action) == ("annotators", "kept")
    assert "annotations.policy" in told.done


def test_tracks_of_two_people_do_not_run_into_each_other() -> None:
    rows = [drew("ada", 10, track="1"), drew("bob", 60, track="1"), drew("bob", 12, track="2")]
    found = run(rows, Policy("union")).boxes
    assert found["track"].tolist() == ["1", "bob/1"]


PEOPLE = ("ada", "bob", "eve")
DRAWN = st.lists(
    st.tuples(
        st.sampled_from(PEOPLE),
        st.sampled_from([0.0, 5.0, 9.0, 14.0, 40.0, 70.0]),
        st.sampled_from(["cat", "dog", None]),
        st.integers(0, 1),
    ),
    max_size=12,
)


def without_names(found: Matched) -> list[Any]:
    return [row[:3] for row in kept(found)]


@given(DRAWN, st.sampled_from(["union", "consensus"]), st.randoms(), st.permutations(PEOPLE))
@settings(max_examples=25, deadline=None)
def test_who_is_who_and_in_which_order_changes_nothing(
    drawn: list[Any], name: str, random: Any, people: list[str]
) -> None:
    policy = Policy(name)
    rows = [drew(*one) for one in drawn]
    found = run(rows, policy)
    shuffled = list(rows)
    random.shuffle(shuffled)
    other = run(shuffled, policy)
    named = found.boxes["class"].notna()
    pd.testing.assert_frame_equal(
        found.boxes[named].reset_index(drop=True), other.boxes[other.boxes["class"].notna()].reset_index(drop=True)
    )
    renamed = [{**row, "annotator": people[PEOPLE.index(row["annotator"])]} for row in rows]
    assert without_names(run(renamed, policy)) == without_names(found)


@given(DRAWN, st.sampled_from(["union", "consensus"]))
@settings(max_examples=25, deadline=None)
def test_people_who_draw_the_same_are_one_person(drawn: list[Any], name: str) -> None:
    mine = [drew("ada", *one[1:]) for one in drawn]
    alone = run(mine, Policy())
    together = run([{**row, "annotator": who} for who in PEOPLE for row in mine], Policy(name))
    assert without_names(together) == without_names(alone)


def said(*rows: tuple[str, str, str | None, float]) -> pd.DataFrame:
    """Rows of frame, annotator, class and left edge."""
    table = pd.DataFrame(rows, columns=["frame", "annotator", "class", "x1"])
    return table.assign(y1=0.0, x2=table["x1"] + 20, y2=20.0)


def test_how_well_two_agree() -> None:
    counts, worst = agreement.compared(
        said(
            *(("f1", "ada", "cat", 0.0), ("f1", "bob", "cat", 0.0)),
            *(("f1", "ada", "cat", 50.0), ("f1", "bob", "dog", 50.0)),
            *(("f2", "ada", "dog", 0.0), ("f2", "bob", "dog", 4.0)),
            *(("f3", "ada", "cat", 0.0), ("f3", "bob", None, 0.0)),
            *(("f4", "ada", None, 0.0), ("f4", "bob", None, 0.0)),
            ("f5", "ada", "cat", 0.0),
        ),
        0.5,
    )
    table = agreement.table(counts).set_index("class")
    assert table.index.tolist() == ["", "cat", "dog"]
    both = table.loc[""]
    assert both[["frames", "boxes_one", "boxes_other", "matched", "same_class"]].tolist() == [4, 4, 3, 3, 2]
    assert both["f1"] == pytest.approx(4 / 7)
    assert both["mean_iou"] == pytest.approx((1 + 1 + 2 / 3) / 3)
    # Three pairs, of which two agree; by chance 2/3 x 1/3 + 1/3 x 2/3.
    assert both["kappa"] == pytest.approx((2 / 3 - 4 / 9) / (1 - 4 / 9))
    assert table.loc["cat", ["boxes_one", "boxes_other", "matched", "same_class"]].tolist() == [3, 1, 2, 1]
    assert worst[["frame", "f1", "missed"]].values.tolist() == [["f3", 0.0, 1], ["f1", 0.5, 2]]
    twice = agreement.table(agreement.total([counts, counts])).set_index("class").loc[""]
    assert twice["frames"] == 8
    assert twice["f1"] == both["f1"]


def test_one_person_agrees_with_nobody() -> None:
    counts, worst = agreement.compared(said(("f1", "ada", "cat", 0.0)), 0.5)
    assert counts.empty
    assert worst.empty
    assert agreement.table(counts).empty
    assert agreement.total([]).empty


def test_what_each_says_of_shared_frames_is_kept_apart_whatever_the_policy() -> None:
    rows = [
        drew("ada", 10),
        drew("bob", 12),
        drew("ada", 10, frame=1),
        found_nothing("bob", 2),
        drew("ada", 5, frame=2),
    ]
    for policy in (Policy(), Policy("union"), Policy("consensus")):
        many = run(rows, policy).many
        assert sorted(
            (frame[-1], who, label) for frame, who, label in many[["frame", "annotator", "class"]].values
        ) == [
            *(("0", "ada", "cat"), ("0", "bob", "cat")),
            *(("2", "ada", "cat"), ("2", "bob", None)),
        ]


def test_a_chain_is_one_object_and_no_person_is_in_it_twice() -> None:
    frame = np.zeros(4, dtype=np.int64)
    corners = np.array([[x, 0, x + 20, 20] for x in (0, 5, 10, 11)], dtype=np.float64)
    found = agreement.objects(frame, np.array([0, 1, 2, 2]), frame, corners, 0.55)
    assert found.votes.tolist() == [3, 1]
    assert found.corners[0].tolist() == [5, 0, 25, 20]

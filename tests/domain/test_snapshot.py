from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection_assets.domain import snapshot, splitting
from detection_assets.domain.problems import InputError

CLASSES = ["apple", "cola", "größe 2"]
SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}


def frames_table(groups: int = 4, per_group: int = 5) -> pd.DataFrame:
    rows = []
    for group in range(groups):
        for at in range(per_group):
            video = f"store-{group}/clip é.mp4"
            digest = hashlib.sha256(f"{group} {at}".encode()).hexdigest()
            key = f"frames/{video}/v1/{at:06d}.jpg"
            rows.append((video, f"{video}#{at:06d}", f"store-{group}", key, 640, 480, digest, digest[:16], True))
    columns = ["video", "frame", "group", "key", "width", "height", "sha256", "phash", "kept"]
    return pd.DataFrame(rows, columns=columns)


def annotations_table(frames: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for at, row in enumerate(frames.itertuples()):
        if at % 5 == 4:
            rows.append((row.video, row.frame, None, *[np.nan] * 4, None))
        for nth in range(at % 5 % 4):
            x, y = 10.123 * nth + at, 20.456 * nth
            rows.append((row.video, row.frame, CLASSES[nth], x, y, x + 30.5, y + 40.25, f"t{nth}" if at % 2 else None))
    return pd.DataFrame(rows, columns=["video", "frame", "class", "x1", "y1", "x2", "y2", "track"])


def built(frames: pd.DataFrame, annotations: pd.DataFrame, classes: list[str] = CLASSES) -> snapshot.Snapshot:
    data = snapshot.labelled(frames, annotations, classes)
    return snapshot.build(data, splitting.split(data.images, data.boxes, SHARES), classes, SHARES)


FRAMES = frames_table()
ANNOTATIONS = annotations_table(FRAMES)
ANNOTATIONS = pd.concat([ANNOTATIONS, ANNOTATIONS.tail(1).assign(frame="nowhere#000001")], ignore_index=True)


def test_images_are_those_that_were_kept_and_looked_at():
    frames = FRAMES.assign(kept=[at % 7 != 6 for at in range(len(FRAMES))])
    made = built(frames, ANNOTATIONS)
    looked_at = set(ANNOTATIONS["frame"])
    expected = sorted(frames["frame"][frames["kept"] & frames["frame"].isin(looked_at)])
    assert made.images["frame"].tolist() == expected
    assert len(expected) < frames["kept"].sum()
    assert list(made.images.columns) == snapshot.IMAGES
    assert list(made.boxes.columns) == snapshot.BOXES
    assert made.images["file"].iloc[0] == "store-0/clip é.mp4/v1/000001.jpg"
    labelled = ANNOTATIONS[ANNOTATIONS["class"].notna() & ANNOTATIONS["frame"].isin(expected)]
    assert sorted(made.boxes["frame"]) == sorted(labelled["frame"])
    assert made.boxes[snapshot.SIDES].to_numpy().tolist() == made.boxes[snapshot.SIDES].round(2).to_numpy().tolist()


def test_counts_add_up():
    made = built(FRAMES, ANNOTATIONS)
    split = made.images.set_index("frame")["split"]
    for name in splitting.SPLITS:
        counts = made.meta["counts"][name]
        here = made.images[made.images["split"] == name]
        boxes = made.boxes[made.boxes["frame"].map(split) == name]
        assert counts["images"] == len(here)
        assert counts["without_boxes"] == len(set(here["frame"]) - set(boxes["frame"]))
        assert counts["boxes"] == {cls: int((boxes["class"] == cls).sum()) for cls in CLASSES}
    assert made.meta["images"] == 16
    assert made.meta["boxes"] == len(made.boxes) == 24
    assert (made.meta["videos"], made.meta["groups"], made.meta["by"]) == (4, 4, "group")


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 10_000))
def test_the_order_of_rows_changes_nothing(seed):
    expected = built(FRAMES, ANNOTATIONS)
    shuffled = built(FRAMES.sample(frac=1, random_state=seed), ANNOTATIONS.sample(frac=1, random_state=seed + 1))
    pd.testing.assert_frame_equal(shuffled.images, expected.images)
    pd.testing.assert_frame_equal(shuffled.boxes, expected.boxes)
    assert shuffled.meta == expected.meta
    scrambled = snapshot.version(
        expected.images.sample(frac=1, random_state=seed), expected.boxes.sample(frac=1, random_state=seed), CLASSES
    )
    assert scrambled == expected.version


def test_dtypes_change_nothing():
    strings = {name: "string" for name in ["video", "frame", "group", "key", "sha256", "phash"]}
    typed = built(
        FRAMES.astype(strings | {"width": "Int64", "height": "Int64"}),
        ANNOTATIONS.astype({"video": "string", "frame": "string", "class": "string", "track": "string"}),
    )
    expected = built(FRAMES, ANNOTATIONS)
    assert typed.version == expected.version
    pd.testing.assert_frame_equal(typed.images, expected.images)
    pd.testing.assert_frame_equal(typed.boxes, expected.boxes)


def test_the_version_is_the_same_in_another_process_and_does_not_drift():
    # The literal pins the format: a change of the hash must come with a new FORMAT and a new literal here.
    images = pd.DataFrame(
        [("a.mp4#000000", "a.mp4", "a", "train", 640, 480, "00ff")],
        columns=["frame", "video", "group", "split", "width", "height", "sha256"],
    )
    boxes = pd.DataFrame(
        [("a.mp4#000000", "apple", 1.0, 2.0, 3.5, 4.25, None)],
        columns=["frame", "class", "x1", "y1", "x2", "y2", "track"],
    )
    here = snapshot.version(images, boxes, ["apple"])
    code = (
        "import io, pandas as pd; from detection_assets.domain import snapshot\n"
        f"images = pd.read_json(io.StringIO({images.to_json()!r}), dtype={{'sha256': str}})\n"
        f"boxes = pd.read_json(io.StringIO({boxes.to_json()!r}))\n"
        "print(snapshot.version(images, boxes, ['apple']))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "77"},
        cwd=Path(__file__).parents[2],
    )
    assert run.stdout.strip() == here == "ds-780dc459b139"


def changed(table: pd.DataFrame, row: int, column: str, value: object) -> pd.DataFrame:
    table = table.copy()
    table.loc[row, column] = value
    return table


def test_whatever_counts_changes_the_version():
    made = built(FRAMES, ANNOTATIONS)
    images, boxes = made.images, made.boxes
    versions = [
        made.version,
        snapshot.version(changed(images, 0, "sha256", "0" * 64), boxes, CLASSES),
        snapshot.version(changed(images, 0, "split", "none"), boxes, CLASSES),
        snapshot.version(changed(images, 0, "group", "other"), boxes, CLASSES),
        snapshot.version(changed(images, 0, "width", 641), boxes, CLASSES),
        snapshot.version(images, changed(boxes, 0, "x1", boxes.loc[0, "x1"] + 0.01), CLASSES),
        snapshot.version(images, changed(boxes, 0, "class", "cola"), CLASSES),
        snapshot.version(images, changed(boxes, 0, "track", "t9"), CLASSES),
        snapshot.version(images, boxes.iloc[1:], CLASSES),
        snapshot.version(images, pd.concat([boxes, boxes.head(1)]), CLASSES),
        snapshot.version(images, boxes, CLASSES[::-1]),
        snapshot.version(images, boxes, [*CLASSES, "more"]),
    ]
    assert len(set(versions)) == len(versions)
    assert all(version.startswith("ds-") and len(version) == 15 for version in versions)


def test_less_than_half_a_hundredth_of_a_pixel_and_the_place_of_the_file_change_nothing():
    made = built(FRAMES, ANNOTATIONS)
    nudged = ANNOTATIONS.assign(**{side: ANNOTATIONS[side].round(2) + 0.004 for side in snapshot.SIDES})
    assert built(FRAMES.assign(key="elsewhere/" + FRAMES["key"]), nudged).version == made.version


def test_texts_that_run_together_are_told_apart():
    one = FRAMES.head(1).assign(split="train", video="ab", group="c")
    boxes = pd.DataFrame(columns=snapshot.BOXES)
    assert snapshot.version(one, boxes, CLASSES) != snapshot.version(one.assign(video="a", group="bc"), boxes, CLASSES)


def test_what_is_left_out_is_told():
    odd = ANNOTATIONS.copy()
    odd.loc[0, "class"] = "durian"
    odd.loc[1, ["x1", "x2"]] = [5.0, 5.004]
    odd.loc[2, "y2"] = np.nan
    data = snapshot.labelled(FRAMES, odd, CLASSES)
    assert data.notes == [
        "1 boxes of classes that the detector does not have were left out: durian.",
        "2 boxes without an area were left out.",
    ]
    assert len(data.boxes) == len(built(FRAMES, ANNOTATIONS).boxes) - 3
    assert len(data.images) == 16


def test_what_was_written_is_read_and_the_bytes_are_the_same(tmp_path):
    made = built(FRAMES, ANNOTATIONS)
    paths = snapshot.write(made.images, made.boxes, made.meta, tmp_path / "one")
    other = built(FRAMES.sample(frac=1, random_state=3), ANNOTATIONS.sample(frac=1, random_state=4))
    again = snapshot.write(other.images, other.boxes, other.meta, tmp_path / "two")
    assert [path.name for path in paths] == ["images.parquet", "boxes.parquet", "hashes.parquet", "dataset.json"]
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]
    back = snapshot.read(tmp_path / "one", verify=True)
    pd.testing.assert_frame_equal(back.images, made.images)
    pd.testing.assert_frame_equal(back.boxes, made.boxes)
    assert back.meta == made.meta
    assert back.version == made.version


def test_the_hashes_are_those_of_the_training_frames_with_what_is_on_each(tmp_path):
    made = built(FRAMES, ANNOTATIONS)
    first = made.images.index[made.images["split"] == "train"][0]
    images = made.images.assign(phash=made.images["phash"].where(made.images.index != first, None))
    snapshot.write(images, made.boxes, made.meta, tmp_path)
    train = images[images["split"] == "train"].reset_index(drop=True)
    table = pd.read_parquet(tmp_path / snapshot.HASHES, dtype_backend="pyarrow")
    for name in ("frame", "video", "file"):
        assert table[name].tolist() == train[name].tolist()
    numbers = [None if pd.isna(one) else int(one) for one in table["phash"]]
    assert numbers == [None if one is None else int(one, 16) for one in train["phash"]]
    assert numbers[0] is None
    for name in CLASSES:
        of_class = made.boxes.loc[made.boxes["class"] == name, "frame"].tolist()
        assert table[snapshot.boxes_of(name)].tolist() == [of_class.count(frame) for frame in train["frame"]]


def test_a_dataset_without_boxes_or_without_images_is_a_dataset(tmp_path):
    for number, frames in enumerate([FRAMES, FRAMES.head(0)]):
        made = built(frames, ANNOTATIONS.assign(**{"class": None}))
        folder = tmp_path / str(number)
        snapshot.write(made.images, made.boxes, made.meta, folder)
        back = snapshot.read(folder, verify=True)
        assert back.version == made.version
        assert len(back.boxes) == 0
        assert len(back.images) == (16 if number == 0 else 0)


def test_the_next_split_keeps_to_a_snapshot_that_was_read(tmp_path):
    made = built(FRAMES, ANNOTATIONS)
    snapshot.write(made.images, made.boxes, made.meta, tmp_path)
    history = snapshot.read(tmp_path).history()
    more = frames_table(groups=9)
    data = snapshot.labelled(more, annotations_table(more), CLASSES)
    later = splitting.split(data.images, data.boxes, SHARES, 5, history).assignments
    assert later[made.images["frame"]].tolist() == made.images["split"].tolist()


@pytest.mark.parametrize("harm", ["no json", "no images", "torn boxes", "other boxes", "no version"])
def test_a_dataset_that_is_not_whole_is_refused(tmp_path, harm):
    made = built(FRAMES, ANNOTATIONS)
    snapshot.write(made.images, made.boxes, made.meta, tmp_path)
    if harm == "no json":
        (tmp_path / "dataset.json").unlink()
    elif harm == "no images":
        (tmp_path / "images.parquet").unlink()
    elif harm == "torn boxes":
        (tmp_path / "boxes.parquet").write_bytes((tmp_path / "boxes.parquet").read_bytes()[:100])
    elif harm == "other boxes":
        snapshot.write(made.images, made.boxes.iloc[1:], made.meta, tmp_path)
    else:
        (tmp_path / "dataset.json").write_text('{"classes": []}')
    with pytest.raises(InputError, match="build it again"):
        snapshot.read(tmp_path, verify=True)


def test_boxes_on_no_image_and_doubled_frames_are_refused():
    made = built(FRAMES, ANNOTATIONS)
    with pytest.raises(InputError, match=r"a box has a frame that the data set lacks: 'store-0"):
        snapshot.version(made.images.iloc[1:], made.boxes, CLASSES)
    with pytest.raises(InputError, match=r"a box has a class that the data set lacks: 'apple'"):
        snapshot.version(made.images, made.boxes, CLASSES[1:])
    with pytest.raises(InputError, match="comes twice"):
        snapshot.labelled(pd.concat([FRAMES, FRAMES]), ANNOTATIONS, CLASSES)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_a_digest_of_labels_knows_no_order(seed):
    made = built(FRAMES, ANNOTATIONS)
    images, boxes = made.images, made.boxes
    frames = images["frame"].tolist()
    shuffled = boxes.sample(frac=1, random_state=seed)
    assert snapshot.labels(frames, shuffled) == snapshot.labels(frames, boxes)
    assert snapshot.labels(frames[::-1], boxes) == snapshot.labels(frames, boxes)[::-1]


def test_a_digest_of_labels_tells_what_changed_on_which_image():
    made = built(FRAMES, ANNOTATIONS)
    images, boxes = made.images, made.boxes
    frames, before = images["frame"].tolist(), snapshot.labels(images["frame"].tolist(), boxes)
    frame = boxes["frame"].iloc[0]
    moved, renamed = boxes.copy(), boxes.copy()
    moved.loc[moved.index[0], "x2"] += 0.01
    renamed.loc[renamed.index[0], "class"] = "another"
    for changed in (moved, renamed, boxes.iloc[1:], pd.concat([boxes, boxes.iloc[:1]])):
        after = snapshot.labels(frames, changed)
        assert [name for name, one, other in zip(frames, before, after, strict=True) if one != other] == [frame]
    assert snapshot.labels(["nobody drew here"], boxes) == ["0" * 16]
    # What is kept in tables for years must not depend on the release of a library.
    one = pd.DataFrame([{"frame": "a", "class": "apple", "x1": 1.0, "y1": 2.0, "x2": 3.5, "y2": 4.25}])
    assert snapshot.labels(["a"], one) == ["b0b0517434656f3a"]

from __future__ import annotations

import hashlib
import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from detection_assets.domain import croissant, layout, snapshot, splitting

CLASSES = ["apple", "größe 2", "never seen"]
SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}
ABOUT = croissant.About(
    "shelf", "Finds fruit.", "team:vision", "CC-BY-4.0", "2026-01-02T03:04:05+00:00", "1-abcdef012345"
)


def jpeg(level: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((24, 32, 3), level, np.uint8)).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with pictures, videos with awkward names, a dataset of some of them, and its description."""
    lake = tmp_path_factory.mktemp("lake")
    frames, boxes = [], []
    for group in range(5):
        video = f"store {group}/cam [1] é?.mp4"
        for at in range(3):
            key = f"{layout.frames(video, 'v1')}/a1/{at:06d}.jpg"
            data = jpeg(40 * group + at)
            (lake / key).parent.mkdir(parents=True, exist_ok=True)
            (lake / key).write_bytes(data)
            frame = f"{video}#{at:06d}"
            digest = hashlib.sha256(data).hexdigest()
            frames.append((video, frame, f"store {group}", key, 32, 24, digest, f"{group:08x}{at:08x}", True))
            if at == 0:
                boxes.append((video, frame, None, *[np.nan] * 4, None))
            for nth in range(at):
                boxes.append((video, frame, CLASSES[nth], nth + 0.25, 1.5, nth + 9.33, 20.0, "t1" if nth else None))
    images = pd.DataFrame(
        frames, columns=["video", "frame", "group", "key", "width", "height", "sha256", "phash", "kept"]
    )
    images.loc[2, "kept"] = False  # a picture that lies there and is not in the dataset
    said = pd.DataFrame(boxes, columns=["video", "frame", "class", "x1", "y1", "x2", "y2", "track"])
    data = snapshot.labelled(images, said, CLASSES)
    made = snapshot.build(data, splitting.split(data.images, data.boxes, SHARES), CLASSES, SHARES)
    folder = lake / layout.dataset(made.version) / "a1"
    snapshot.write(made.images, made.boxes, made.meta, folder)
    described = croissant.describe(
        made,
        {
            name: croissant.File(
                f"{layout.dataset(made.version)}/a1/{name}",
                hashlib.sha256((folder / name).read_bytes()).hexdigest(),
                (folder / name).stat().st_size,
            )
            for name in ("images.parquet", "boxes.parquet")
        },
        croissant.sources(made, {"store 0/cam [1] é?.mp4": "ab" * 32}, {"store 0/cam [1] é?.mp4": "an1"}),
        ABOUT,
    )
    place = lake / layout.croissant(made.version)
    place.write_text(json.dumps(described, ensure_ascii=False))
    return lake


@pytest.fixture(scope="module")
def made(lake: Path) -> snapshot.Snapshot:
    return snapshot.read(next((lake / "datasets").glob("*/a1")))


@pytest.fixture(scope="module")
def read(lake: Path) -> Any:
    """What MLCommons' own library makes of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies
        import mlcroissant

        return mlcroissant.Dataset(next(lake.glob("*.croissant.json")))


def plain(records: Any) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = [
            {key.partition("/")[2]: value.decode() if isinstance(value, bytes) else value for key, value in one.items()}
            for one in records
        ]
    return pd.DataFrame(rows)


def test_its_own_library_finds_nothing_wrong(read: Any, made: snapshot.Snapshot):
    issues = read.metadata.ctx.issues
    assert not issues.errors
    # It would like a citation, which is nobody's but the owner's, and a version in three numbers: ours is a digest.
    assert all("citeAs" in str(issue) or "MAJOR.MINOR.PATCH" in str(issue) for issue in issues.warnings)
    assert read.metadata.version == made.version
    assert read.metadata.license == ["CC-BY-4.0"]


def test_images_and_pictures_read_through_it_are_those_of_the_table(read: Any, made: snapshot.Snapshot):
    found = plain(read.records("images")).sort_values("frame", ignore_index=True)
    for name in snapshot.IMAGES:
        assert found[name].tolist() == made.images[name].tolist(), name
    assert len(found) == 14
    pictures = plain(read.records("contents")).set_index("file")["picture"]
    shown = found["file"].map(pictures)
    assert {picture.size for picture in shown} == {(32, 24)}
    level = [round(float(np.asarray(picture).mean())) for picture in shown]
    assert level == [
        40 * int(group[-1]) + int(frame[-1]) for group, frame in zip(found["group"], found["frame"], strict=True)
    ]


def test_boxes_read_through_it_are_those_of_the_table(read: Any, made: snapshot.Snapshot):
    found = plain(read.records("boxes"))
    sides = pd.DataFrame([{key.rpartition("/")[2]: side for key, side in box.items()} for box in found["box"]])
    for name in ("frame", "class", "track"):
        assert found[name].where(found[name].notna(), None).tolist() == made.boxes[name].tolist(), name
    assert sides[snapshot.SIDES].to_numpy().tolist() == made.boxes[snapshot.SIDES].to_numpy().tolist()
    assert len(found) > 10


def test_it_says_what_the_dataset_was_made_from_and_nothing_that_nobody_knows(made: snapshot.Snapshot):
    described = croissant.describe(made, {}, croissant.sources(made, {"store 0/cam [1] é?.mp4": "ab" * 32}, {}), ABOUT)
    assert [one["name"] for one in described["isBasedOn"]] == sorted(set(made.images["video"]))
    known, unknown = described["isBasedOn"][:2]
    assert known["sha256"] == "ab" * 32
    assert "sha256" not in unknown
    assert [(one["propertyID"], one["value"]) for one in unknown["identifier"]] == [("frames version", "v1")]
    assert described["creator"] == {"@type": "sc:Organization", "name": "vision"}
    bare = croissant.describe(made, {}, [], croissant.About("shelf"))
    assert not {"license", "creator", "datePublished", "creditText"} & set(bare)
    assert not [key for key in bare if key.startswith("rai:dataBias") or key.startswith("rai:personal")]

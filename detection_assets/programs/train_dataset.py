"""A dataset snapshot as ultralytics wants to see it: a folder of links and text files that we write ourselves.

Ultralytics runs code that it finds in a dataset's YAML and repairs images where they lie. So the YAML is always ours,
and an image that it would repair is copied instead of linked: the frames of the lake are never written to.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from detection_assets.domain.problems import InputError, Problem

SPLITS = ("train", "val")


@dataclass(frozen=True)
class Layout:
    """Where the YOLO layout lies and what is in it.

    Attributes:
        yaml: The dataset YAML.
        images: Number of images by split.
        boxes: Number of boxes by split.
        files: The validation images, in the order of the table.
        optimistic: The validation split has no boxes, so the training images stand in for it.
        problems: Images that could not be used.
    """

    yaml: Path
    images: dict[str, int]
    boxes: dict[str, int]
    files: list[Path]
    optimistic: bool
    problems: list[Problem] = field(default_factory=list)


def read_snapshot(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Reads the two tables of a dataset snapshot.

    Args:
        folder: Holds `images.parquet` and `boxes.parquet`.

    Returns:
        Images and boxes.

    Raises:
        InputError: One is missing, cannot be read, or lacks a column.
    """
    wanted = {
        "images": ["frame", "video", "group", "split", "file", "width", "height"],
        "boxes": ["frame", "class", "x1", "y1", "x2", "y2"],
    }
    tables: list[pd.DataFrame] = []
    for name, columns in wanted.items():
        path = folder / f"{name}.parquet"
        try:
            table = pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read ({error}); materialize the dataset again") from error
        missing = [column for column in columns if column not in table.columns]
        if missing:
            raise InputError(f"{path}: has no column {', '.join(missing)}; materialize the dataset again")
        tables.append(table)
    return tables[0], tables[1]


def write_layout(
    images: pd.DataFrame, boxes: pd.DataFrame, frames: Path, classes: Sequence[str], folder: Path
) -> Layout:
    """Writes images (as links), labels and YAML.

    Args:
        images: `frame, split, file, width, height`; `file` is relative to `frames`.
        boxes: `frame, class, x1, y1, x2, y2` in pixels.
        frames: Folder of the frames.
        classes: Class names; a class's id is its place in it.
        folder: Where to write; emptied first.

    Returns:
        What was written.

    Raises:
        InputError: No image or no box is left to train on, or a box is of an unknown class.
    """
    shutil.rmtree(folder, ignore_errors=True)
    # Test frames are not even sent along: nothing may learn from them.
    images = images.loc[images["split"].isin(SPLITS)]
    boxes = boxes.loc[boxes["class"].notna() & boxes["frame"].isin(images["frame"])]
    unknown = sorted(set(boxes["class"]) - set(classes))
    if unknown:
        raise InputError(
            f"boxes.parquet: class {', '.join(map(repr, unknown))} is not among the detector's classes "
            f"({', '.join(classes)}); add it to `classes` or drop its boxes"
        )
    there = np.array([(frames / str(file)).is_file() for file in images["file"]], bool)
    gone = images.loc[~there]
    problems = [
        Problem(str(file), str(frame), "the frame's picture is missing", "skipped; extract the frames again")
        for file, frame in zip(gone["file"], gone["frame"], strict=True)
    ]
    images = images.loc[there].reset_index(drop=True)
    labels = _labels(images, boxes, classes)
    counts = {split: (images["split"] == split) for split in SPLITS}
    in_images = {split: int(mask.sum()) for split, mask in counts.items()}
    in_boxes = {split: int(boxes["frame"].isin(images.loc[mask, "frame"]).sum()) for split, mask in counts.items()}
    if not in_boxes["train"]:
        raise InputError(
            f"the training split has {in_images['train']} images and no boxes"
            + (f" ({len(problems)} pictures are missing)" if problems else "")
            + "; annotate some of its frames, or change the split so that annotated frames are in it"
        )
    optimistic = not in_boxes["val"]
    files: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
    names = images["file"].astype(str).tolist()
    for at, (split, name) in enumerate(zip(images["split"].tolist(), names, strict=True)):
        if split not in files:
            continue
        source = frames / name
        link = folder / "images" / split / f"{at:06d}{source.suffix.lower()}"
        _link(source.resolve(), link)
        (folder / "labels" / split / f"{at:06d}.txt").write_text(labels.get(at, ""))
        files[split].append(link)
    yaml = folder / "data.yaml"
    val = "train" if optimistic else "val"
    # JSON is YAML, and leaves no doubt about a class that is called `no` or `1.0`.
    content = {"path": str(folder), "train": "images/train", "val": f"images/{val}", "names": dict(enumerate(classes))}
    yaml.write_text(json.dumps(content), encoding="utf-8")
    return Layout(yaml, in_images, in_boxes, files[val], optimistic, problems)


def _labels(images: pd.DataFrame, boxes: pd.DataFrame, classes: Sequence[str]) -> dict[int, str]:
    """The text of each image's label file by the image's row: class, centre and size, as fractions of the image."""
    row = pd.Index(images["frame"]).get_indexer(pd.Index(boxes["frame"]))
    boxes, row = boxes.loc[row >= 0], row[row >= 0]
    label = pd.Index(list(classes)).get_indexer(pd.Index(boxes["class"]))
    size = images[["width", "height"]].to_numpy(np.float64)[row]
    corners = boxes[["x1", "y1", "x2", "y2"]].to_numpy(np.float64) / np.hstack([size, size])
    corners = corners.clip(0.0, 1.0)
    centre, extent = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    lines = pd.Series(
        [
            f"{k} {x:.7f} {y:.7f} {w:.7f} {h:.7f}\n"
            for k, (x, y), (w, h) in zip(label.tolist(), centre.tolist(), extent.tolist(), strict=True)
        ],
        dtype="object",
    )
    return {int(at): "".join(part) for at, part in lines.groupby(row)}  # pyright: ignore[reportArgumentType]


def _link(source: Path, link: Path) -> None:
    if source.suffix.lower() in (".jpg", ".jpeg") and not _ends_well(source):
        shutil.copyfile(source, link)
        return
    try:
        link.symlink_to(source)
    except OSError:  # a file system without links
        shutil.copyfile(source, link)


def _ends_well(jpeg: Path) -> bool:
    """Whether a JPEG ends with its end mark; ultralytics rewrites those that do not."""
    with jpeg.open("rb") as file:
        if file.seek(0, os.SEEK_END) < 2:
            return False
        file.seek(-2, os.SEEK_END)
        return file.read() == b"\xff\xd9"

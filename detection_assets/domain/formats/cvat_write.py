"""Writes CVAT XML 1.1: `<image>` elements, or a video's `<track>` elements with keyframes and outside marks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd

from detection_assets.domain.formats.saving import Saved, check_classes, frames_to_save, lost, optional_text, xml_text
from detection_assets.domain.problems import InputError

Corners = tuple[float, float, float, float]
_NAMES = ("xtl", "ytl", "xbr", "ybr")


def save(boxes: pd.DataFrame, classes: Sequence[str], out: Path, *, video: bool = False, source: str = "") -> Saved:
    """Writes one CVAT file.

    Args:
        boxes: One row a box, in pixels; see `saving.frames_to_save`. For a video every row needs `frame_index`, and
            rows of one `track` are one object; a row without a track is an object of a single frame. Where there is a
            column `keyframe`, rows of a track where it is False are left to interpolation; the first and last row of
            each unbroken stretch are written all the same, for they say when the object came and went.
        classes: The labels of the task.
        out: The `.xml` file; its folder is made.
        video: Whether to write tracks (CVAT for video) or images (CVAT for images).
        source: Name of the video file, for those who read the XML.

    Returns:
        The file written, and what the format cannot hold.

    Raises:
        InputError: A class that is not in `classes`, a frame without number or name, a track of two classes or with two
            boxes in one frame, or text that XML cannot hold.
    """
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    ElementTree.SubElement(task, "name").text = xml_text(source or out.stem)
    ElementTree.SubElement(task, "mode").text = "interpolation" if video else "annotation"
    labels = ElementTree.SubElement(task, "labels")
    for name in classes:
        ElementTree.SubElement(ElementTree.SubElement(labels, "label"), "name").text = xml_text(name)
    if source:
        ElementTree.SubElement(root[-1], "source").text = xml_text(source)
    if video:
        _tracks(root, task, boxes, classes)
    else:
        _images(root, boxes, classes)
    out.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(out, encoding="utf-8", xml_declaration=True)
    return Saved([out], lost(boxes, ("frame_index", "track", "keyframe") if video else (), out.name))


def _images(root: ElementTree.Element, boxes: pd.DataFrame, classes: Sequence[str]) -> None:
    for number, frame in enumerate(frames_to_save(boxes, classes)):
        image = ElementTree.SubElement(root, "image", id=str(number), name=xml_text(frame.name))
        for side, value in (("width", frame.width), ("height", frame.height)):
            if value is not None:
                image.set(side, str(value))
        for box in frame.boxes:
            attributes = {"label": xml_text(box.label), "source": "manual", "occluded": "0", **_corners(box.corners)}
            ElementTree.SubElement(image, "box", attributes, z_order="0")


def _tracks(root: ElementTree.Element, task: ElementTree.Element, boxes: pd.DataFrame, classes: Sequence[str]) -> None:
    check_classes(boxes, classes)
    if bool(boxes["frame_index"].isna().to_numpy().any()):
        raise InputError("CVAT for video needs frame_index in every row")
    frames = sorted({int(frame) for frame in boxes["frame_index"]})
    step = reduce(math.gcd, (b - a for a, b in pairwise(frames)), 0) or 1
    if frames:
        meta = {"size": (frames[-1] - frames[0]) // step + 1, "start_frame": frames[0], "stop_frame": frames[-1]}
        for name, value in meta.items():
            ElementTree.SubElement(task, name).text = str(value)
        ElementTree.SubElement(task, "frame_filter").text = f"step={step}" if step > 1 else ""
        _original_size(task, boxes)
    for name, rows in _by_track(boxes):
        label = optional_text(rows[0]["class"]) or ""
        if any(row["class"] != label for row in rows):
            raise InputError(f"track '{name}' has boxes of several classes; give each object a track of its own")
        track = ElementTree.SubElement(root, "track", id=xml_text(name), label=xml_text(label), source="manual")
        for frame, corners, outside in _marks(name, rows, step, frames[-1]):
            attributes = {"frame": str(frame), "keyframe": "1", "outside": str(int(outside)), "occluded": "0"}
            ElementTree.SubElement(track, "box", {**attributes, **_corners(corners)}, z_order="0")


def _original_size(task: ElementTree.Element, boxes: pd.DataFrame) -> None:
    size = ElementTree.SubElement(task, "original_size")
    for side in ("width", "height"):
        known = boxes[side].dropna() if side in boxes else []
        if len(known):
            ElementTree.SubElement(size, side).text = str(int(max(known)))


def _by_track(boxes: pd.DataFrame) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The rows of each object in the order of frames; rows without a track get a number no track has."""
    tracks: dict[str, list[dict[str, Any]]] = {}
    single: list[dict[str, Any]] = []
    records: list[Any] = boxes.to_dict("records")
    for row in records:
        if optional_text(row["class"]) is None:
            continue
        name = optional_text(row.get("track"))
        if name is None:
            single.append(row)
        else:
            tracks.setdefault(name, []).append(row)
    for name, rows in tracks.items():
        yield name, sorted(rows, key=lambda row: int(row["frame_index"]))
    free = max((int(name) for name in tracks if name.isascii() and name.isdigit()), default=-1) + 1
    for number, row in enumerate(single, free):
        yield str(number), [row]


def _marks(name: str, rows: list[dict[str, Any]], step: int, stop: int) -> Iterator[tuple[int, Corners, bool]]:
    """Frame, corners and outside of each keyframe to write."""
    frames = [int(row["frame_index"]) for row in rows]
    for i, (row, frame) in enumerate(zip(rows, frames, strict=True)):
        if i and frame == frames[i - 1]:
            raise InputError(f"track '{name}' has two boxes in frame {frame}; give each object a track of its own")
        corners = (float(row["x1"]), float(row["y1"]), float(row["x2"]), float(row["y2"]))
        begins = i == 0 or frame - frames[i - 1] > step
        ends = i + 1 == len(rows) or frames[i + 1] - frame > step
        drawn = row.get("keyframe")
        # Where nobody said that a box was interpolated, it may stand off the line between its neighbours.
        if begins or ends or drawn is None or pd.isna(drawn) or drawn:
            yield frame, corners, False
        if ends and frame + step <= stop:
            yield frame + step, corners, True


def _corners(corners: Corners) -> dict[str, str]:
    return {name: repr(value) for name, value in zip(_NAMES, corners, strict=True)}

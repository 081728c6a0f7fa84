"""Writes CVAT XML 1.1: `<image>` elements, or a video's `<track>` elements with keyframes and outside marks.

What else the table says of a box becomes attributes of it, which the labels declare: CVAT imports no others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from detection_assets.domain.formats.attributes import NAMES, as_text, is_plain, to_write
from detection_assets.domain.formats.parsed import FLAGS
from detection_assets.domain.formats.saving import Saved, check_classes, frames_to_save, lost, said, xml_text
from detection_assets.domain.formats.shapes import Corners
from detection_assets.domain.problems import InputError, Problem

HOLDS = ("track", "annotator", "reviewed", "confidence", *FLAGS, "attributes")
"""The columns of `saving.OPTIONAL` that are written of images."""

VIDEO_HOLDS = ("frame_index", *HOLDS)
"""Those that are written of a video."""

_NAMES = ("xtl", "ytl", "xbr", "ybr")
_OF_IMAGES = ("track", "annotator", "reviewed", "confidence", "keyframe", "difficult", "truncated", "crowd")
_OF_TRACKS = ("annotator", "reviewed", "confidence", "difficult", "truncated", "crowd")


def save(boxes: pd.DataFrame, classes: Sequence[str], out: Path, *, video: bool = False, source: str = "") -> Saved:
    """Writes one CVAT file.

    Args:
        boxes: One row a box, in pixels; see `saving.frames_to_save`. For a video every row needs `frame_index`, and
            rows of one `track` are one object; a row without a track is an object of a single frame. Where there is a
            column `keyframe`, other rows of a track are left to interpolation; the first and last row of each unbroken
            stretch are written all the same, for they say when the object came and went, and so is a row that says
            something else than the row before it.
        classes: The labels of the task.
        out: The `.xml` file; its folder is made.
        video: Whether to write tracks (CVAT for video) or images (CVAT for images).
        source: Name of the video file, for those who read the XML.

    Returns:
        The file written, and what the format cannot hold. CVAT says of every box whether it is occluded: one of which
        the table says nothing is written as not.

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
    if source:
        ElementTree.SubElement(root[-1], "source").text = xml_text(source)
    declared = _Declared(mutable=video)
    if video:
        _tracks(root, task, boxes, classes, declared)
    else:
        _images(root, boxes, classes, declared)
    declared.describe(labels, classes)
    out.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(out, encoding="utf-8", xml_declaration=True)
    return Saved([out], [*lost(boxes, VIDEO_HOLDS if video else HOLDS, out.name), *declared.problems(out.name)])


@dataclass
class _Declared:
    """The attributes that boxes of each label have, and the types of their values."""

    mutable: bool
    kinds: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    ranges: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict[tuple[str, str], tuple[int, int]])
    places: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])

    def add(self, label: str, attributes: Mapping[str, Any], place: str) -> None:
        """Takes the attributes of a box."""
        kinds = self.kinds.setdefault(label, {})
        for name, value in attributes.items():
            kind = "checkbox" if isinstance(value, bool) else "number" if _is_number(value) else "text"
            if kind == "number":
                low, high = self.ranges.get((label, name), (value, value))
                self.ranges[label, name] = (min(low, value), max(high, value))
            other = kinds.setdefault(name, kind) != kind
            # What our columns are called is read by name, whatever the type.
            if (other or (kind == "text" and not is_plain(value))) and name not in NAMES.values():
                self.places.setdefault((label, name), place)
            if other:
                kinds[name] = "text"

    def describe(self, labels: ElementTree.Element, classes: Sequence[str]) -> None:
        """Writes the labels."""
        for label in classes:
            element = ElementTree.SubElement(labels, "label")
            ElementTree.SubElement(element, "name").text = xml_text(label)
            attributes = ElementTree.SubElement(element, "attributes")
            for name, kind in self.kinds.get(label, {}).items():
                low, high = self.ranges.get((label, name), (0, 0))
                values = {"checkbox": ("false", "false"), "number": (str(low), f"{low};{high};1")}.get(kind, ("", ""))
                one = ElementTree.SubElement(attributes, "attribute")
                ElementTree.SubElement(one, "name").text = xml_text(name)
                ElementTree.SubElement(one, "mutable").text = str(self.mutable)
                ElementTree.SubElement(one, "input_type").text = kind
                ElementTree.SubElement(one, "default_value").text, ElementTree.SubElement(one, "values").text = values

    def problems(self, file: str) -> list[Problem]:
        """What comes back as text and was none."""
        what = "of '{}' some values of the attribute '{}' are no plain text, and not all are of one type"
        return [
            Problem(file, place, what.format(label, name), "written as text")
            for (label, name), place in self.places.items()
        ]


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**31) < value < 2**31


def _parted(says: Mapping[str, Any], columns: Sequence[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """What is said of a box: as attributes of the XML element, and as CVAT's attributes."""
    attributes = to_write(says, columns)
    has = {"occluded": str(int(says.get("occluded", False)))}
    if isinstance(source := attributes.get("source"), str) and source not in ("", "manual"):
        has["source"] = xml_text(attributes.pop("source"))
    for name in ("z_order", "group_id"):
        if _is_number(number := attributes.get(name)) and number:
            has[name] = str(attributes.pop(name))
    return has, attributes


def _box(parent: ElementTree.Element, has: Mapping[str, str], corners: Corners, attributes: Mapping[str, Any]) -> None:
    places = {name: repr(value) for name, value in zip(_NAMES, corners, strict=True)}
    element = ElementTree.SubElement(parent, "box", {**has, **places, "z_order": has.get("z_order", "0")})
    for name, value in attributes.items():
        ElementTree.SubElement(element, "attribute", name=xml_text(name)).text = xml_text(as_text(value))


def _images(root: ElementTree.Element, boxes: pd.DataFrame, classes: Sequence[str], declared: _Declared) -> None:
    for number, frame in enumerate(frames_to_save(boxes, classes)):
        image = ElementTree.SubElement(root, "image", id=str(number), name=xml_text(frame.name))
        for side, value in (("width", frame.width), ("height", frame.height)):
            if value is not None:
                image.set(side, str(value))
        for i, box in enumerate(frame.boxes, 1):
            has, attributes = _parted(box.says, _OF_IMAGES)
            declared.add(box.label, attributes, f"image {frame.name}, shape {i}")
            _box(image, {"label": xml_text(box.label), "source": "manual", **has}, box.corners, attributes)


def _tracks(
    root: ElementTree.Element,
    task: ElementTree.Element,
    boxes: pd.DataFrame,
    classes: Sequence[str],
    declared: _Declared,
) -> None:
    check_classes(boxes, classes)
    if bool(boxes["frame_index"].isna().to_numpy().any()):
        raise InputError("CVAT for video needs frame_index in every row")
    frames = sorted(set(boxes["frame_index"].astype("int64").tolist()))
    step = reduce(math.gcd, (b - a for a, b in pairwise(frames)), 0) or 1
    if frames:
        meta = {"size": (frames[-1] - frames[0]) // step + 1, "start_frame": frames[0], "stop_frame": frames[-1]}
        for name, value in meta.items():
            ElementTree.SubElement(task, name).text = str(value)
        ElementTree.SubElement(task, "frame_filter").text = f"step={step}" if step > 1 else ""
        _original_size(task, boxes)
    for one in _objects(boxes):
        source = one.has[0].get("source", "manual")
        common = {"id": xml_text(one.name), "label": xml_text(one.label), "source": source}
        track = ElementTree.SubElement(root, "track", common)
        for i, frame, outside in _marks(one, step, frames[-1]):
            has = {"frame": str(frame), "keyframe": "1", "outside": str(int(outside)), **one.has[i]}
            if has.get("source", "manual") != source:
                has["source"] = one.has[i].get("source", "manual")
            declared.add(one.label, one.attributes[i], f"track {one.name}, frame {frame}")
            _box(track, has, one.corners[i], one.attributes[i])


def _original_size(task: ElementTree.Element, boxes: pd.DataFrame) -> None:
    size = ElementTree.SubElement(task, "original_size")
    for side in ("width", "height"):
        known = boxes[side].dropna() if side in boxes else []
        if len(known):
            ElementTree.SubElement(size, side).text = str(int(max(known)))


@dataclass(frozen=True)
class _Object:
    """The rows of one object in the order of frames, column by column."""

    name: str
    label: str
    frames: list[int]
    corners: list[Corners]
    keys: list[bool]
    has: list[dict[str, str]]
    attributes: list[dict[str, Any]]


def _objects(boxes: pd.DataFrame) -> Iterator[_Object]:
    """The objects in the order of their first rows, then rows without a track, with numbers that no track has."""
    rows = np.flatnonzero(boxes["class"].notna().to_numpy())
    taken = boxes.iloc[rows]
    if "track" in boxes:
        codes, unique = pd.factorize(taken["track"])
    else:
        codes, unique = np.full(len(rows), -1), []
    names = [str(name) for name in unique]
    free = max((int(name) for name in names if name.isascii() and name.isdigit()), default=-1) + 1
    single = np.flatnonzero(codes < 0)
    codes[single] = np.arange(len(names), len(names) + len(single))
    names += [str(free + i) for i in range(len(single))]
    frames = taken["frame_index"].astype("int64").to_numpy()
    order = np.lexsort((frames, codes))
    labels = [str(label) for label in taken["class"].iloc[order].tolist()]
    corners = list(zip(*(taken[name].iloc[order].astype("float64").tolist() for name in _XY), strict=True))
    says = said(boxes, rows[order])
    parted = [_parted(one, _OF_TRACKS) for one in says]
    numbers = frames[order].tolist()
    starts = np.append(np.flatnonzero(np.diff(codes[order], prepend=-1)), len(order)).tolist()
    for name, (a, b) in zip(names, pairwise(starts), strict=True):
        if any(label != labels[a] for label in labels[a:b]):
            raise InputError(f"track '{name}' has boxes of several classes; give each object a track of its own")
        keys = [bool(one.get("keyframe", True)) for one in says[a:b]]
        has, attributes = [one[0] for one in parted[a:b]], [one[1] for one in parted[a:b]]
        yield _Object(name, labels[a], numbers[a:b], corners[a:b], keys, has, attributes)


_XY = ("x1", "y1", "x2", "y2")


def _marks(one: _Object, step: int, stop: int) -> Iterator[tuple[int, int, bool]]:
    """Row, frame and outside of each keyframe to write."""
    frames, last = one.frames, len(one.frames) - 1
    for i, frame in enumerate(frames):
        if i and frame == frames[i - 1]:
            raise InputError(f"track '{one.name}' has two boxes in frame {frame}; give each object a track of its own")
        begins = i == 0 or frame - frames[i - 1] > step
        ends = i == last or frames[i + 1] - frame > step
        other = i > 0 and (one.has[i] != one.has[i - 1] or one.attributes[i] != one.attributes[i - 1])
        if begins or ends or one.keys[i] or other:
            yield i, frame, False
        if ends and frame + step <= stop:
            yield i, frame + step, True

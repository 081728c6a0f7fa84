"""Writes CVAT XML 1.1: `<image>` elements, or a video's `<track>` elements with keyframes and outside marks.

What else the table says of a box becomes attributes of it, which the labels declare: CVAT imports no others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd

from detection_assets.domain.formats.attributes import NAMES, as_text, is_plain, to_write
from detection_assets.domain.formats.parsed import FLAGS
from detection_assets.domain.formats.saving import Saved, check_classes, frames_to_save, lost, xml_text
from detection_assets.domain.formats.shapes import Corners
from detection_assets.domain.formats.track_objects import marks, objects, unseen
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
    between: list[Problem] = []
    if video:
        between = unseen(boxes, _tracks(root, task, boxes, classes, declared), out.name)
    else:
        _images(root, boxes, classes, declared)
    declared.describe(labels, classes)
    out.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(out, encoding="utf-8", xml_declaration=True)
    left_out = lost(boxes, VIDEO_HOLDS if video else HOLDS, out.name)
    return Saved([out], [*between, *left_out, *declared.problems(out.name)])


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
) -> int:
    """Writes the tracks; gives the number of frames that the task covers."""
    check_classes(boxes, classes)
    if bool(boxes["frame_index"].isna().to_numpy().any()):
        raise InputError("CVAT for video needs frame_index in every row")
    frames = sorted(set(boxes["frame_index"].astype("int64").tolist()))
    step = reduce(math.gcd, (b - a for a, b in pairwise(frames)), 0) or 1
    covered = (frames[-1] - frames[0]) // step + 1 if frames else 0
    if frames:
        meta = {"size": covered, "start_frame": frames[0], "stop_frame": frames[-1]}
        for name, value in meta.items():
            ElementTree.SubElement(task, name).text = str(value)
        ElementTree.SubElement(task, "frame_filter").text = f"step={step}" if step > 1 else ""
        _original_size(task, boxes)
    for one in objects(boxes):
        parted = [_parted(says, _OF_TRACKS) for says in one.says]
        source = parted[0][0].get("source", "manual")
        common = {"id": xml_text(one.name), "label": xml_text(one.label), "source": source}
        track = ElementTree.SubElement(root, "track", common)
        for i, ends in marks(one, step, lambda i, before, parted=parted: parted[i] != parted[before]):
            own, attributes = parted[i]
            # The frame after the last one says that the object is gone, unless the video ends there.
            gone = [(one.frames[i] + step, "1")] if ends and one.frames[i] + step <= frames[-1] else []
            for frame, outside in [(one.frames[i], "0"), *gone]:
                has = {"frame": str(frame), "keyframe": "1", "outside": outside, **own}
                if has.get("source", "manual") != source:
                    has["source"] = own.get("source", "manual")
                declared.add(one.label, attributes, f"track {one.name}, frame {frame}")
                _box(track, has, one.corners[i], attributes)
    return covered


def _original_size(task: ElementTree.Element, boxes: pd.DataFrame) -> None:
    size = ElementTree.SubElement(task, "original_size")
    for side in ("width", "height"):
        known = boxes[side].dropna() if side in boxes else []
        if len(known):
            ElementTree.SubElement(size, side).text = str(int(max(known)))

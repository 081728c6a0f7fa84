"""Pascal VOC XML: one file an image.

The VOC development kit counts pixels from 1 and includes the last one. The tools that write VOC today (LabelImg, CVAT,
Roboflow) do not: in the golden data the same boxes read 174, 101, 349, 351 in VOC and [174, 101, 175, 250] as COCO's
left, top, width, height. So corners are taken as they stand, 0-based and continuous; nothing is subtracted.

What else is said of an object stands beside its name (`difficult`, `truncated`, `occluded`, `pose`) or, as CVAT and
LabelImg's heirs write it, in its `<attributes>`, each with a name and a value that is text.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

import pandas as pd

from detection_assets.domain.formats.attributes import as_text, flag, is_plain, sort_out, to_json, to_write
from detection_assets.domain.formats.parsed import (
    FLAGS,
    Parsed,
    ProblemLog,
    Unreadable,
    collector_paused,
    each_file,
    frame_name,
    read_bytes,
    table,
    whole,
)
from detection_assets.domain.formats.saving import Saved, SavedBox, frames_to_save, lost, one_stem_each, xml_text
from detection_assets.domain.formats.shapes import TAKEN, Corners, around, turned
from detection_assets.domain.formats.xml import tree
from detection_assets.domain.problems import Problem

HOLDS = ("track", "annotator", "reviewed", "confidence", *FLAGS, "attributes")
"""The columns of `saving.OPTIONAL` that are written."""

MAX_BYTES = 4 * 2**20
"""One image's annotations are far smaller."""

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_BESIDE = ("difficult", "truncated", "occluded")
"""Flags that stand beside the name; what else we know of an object is among its attributes."""

_SAYS_NOTHING = {"", "Unspecified"}
_NOT_SAID = {"name", "bndbox", "robndbox", "polygon", "part", "attributes", "actions", "type"}


def load(paths: Sequence[Path], root: Path, wanted: Collection[int] | None = None) -> Parsed:
    """Reads Pascal VOC files.

    Args:
        paths: The XML files.
        root: Folder that the `file` column is relative to.
        wanted: Not used: each file is one image.

    Returns:
        The boxes and problems. The frame is called by the `filename` element, or by the file's own stem where that is
        missing. A file without objects is an empty frame. Parts of objects are not boxes of their own. Turned boxes
        (`robndbox`) and polygons without a `bndbox` are taken by the box around them, and told.
    """
    columns: dict[str, list[object]] = {name: [] for name in _FILLED}
    names: dict[str, str] = {}

    def read(path: Path, file: str, log: ProblemLog) -> None:
        _read(path, file, log, columns, names)

    with collector_paused():
        _, log = each_file(paths, root, read)
    return Parsed(table(len(columns["file"]), columns), log.problems())


_FILLED = ("frame_name", "width", "height", "class", "x1", "y1", "x2", "y2", "file", "place", *HOLDS)


def _read(path: Path, file: str, log: ProblemLog, columns: dict[str, list[object]], names: dict[str, str]) -> None:
    root = tree(read_bytes(path, MAX_BYTES))
    if root.tag != "annotation":
        raise Unreadable(f"the root element is <{root.tag[:40]}>, not <annotation>", "export it again as Pascal VOC")
    name = frame_name(root.findtext("filename") or "") or path.stem
    size = [whole((root.findtext(f"size/{side}") or "").strip(), 1) for side in ("width", "height")]
    objects = root.findall("object")
    for i, element in enumerate(objects, 1):
        place = f"object {i}"
        # By hand: looking elements up by path took half the time of reading a file.
        fields = {child.tag: child for child in element}
        label = (fields["name"].text or "").strip() if "name" in fields else ""
        if not label:
            log.add("name", file, place, "has no <name>", "dropped")
            continue
        corners = _corners(fields, file, place, log)
        if corners is None:
            continue
        said = _said(fields, file, place, log)
        more = [said.get(column, False if column == "reviewed" else None) for column in HOLDS]
        values = (name, *size, names.setdefault(label, label), *corners, file, place, *more)
        for column, value in zip(_FILLED, values, strict=True):
            columns[column].append(value)
    if not objects:
        nothing = [False if column == "reviewed" else None for column in HOLDS]
        values = (name, *size, None, *[math.nan] * 4, file, "", *nothing)
        for column, value in zip(_FILLED, values, strict=True):
            columns[column].append(value)


def _corners(fields: dict[str, ElementTree.Element], file: str, place: str, log: ProblemLog) -> Corners | None:
    """The box of an object, or the one around its shape; tells, if it has none."""
    found = {child.tag: (child.text or "").strip() for child in fields.get("bndbox", ())}
    try:
        if found or not fields.keys() & {"robndbox", "polygon"}:
            x1, y1, x2, y2 = (float(found.get(corner, "")) for corner in _CORNERS)
            return x1, y1, x2, y2
        if "robndbox" in fields:
            found = {child.tag: (child.text or "").strip() for child in fields["robndbox"]}
            cx, cy, w, h, angle = (float(found.get(key, "")) for key in ("cx", "cy", "w", "h", "angle"))
            box = turned((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), math.degrees(angle))
            log.add("robndbox", file, place, f"a box turned by {math.degrees(angle):g} degrees", TAKEN)
            return box
        numbered = [child for child in fields["polygon"].iter() if child.tag[1:].isdigit()]
        points = [(child.tag[:1], float(child.text or "")) for child in numbered]
        box = around([v for axis, v in points if axis == "x"], [v for axis, v in points if axis == "y"])
        log.add("polygon", file, place, f"a polygon of {len(points) // 2} points", TAKEN)
        return box
    except (ValueError, OverflowError):
        shown = ", ".join(f"{corner} '{found.get(corner, '')[:20]}'" for corner in _CORNERS)
        log.add("bndbox", file, place, f"the box is not four numbers: {shown}", "dropped")
        return None


def _said(fields: dict[str, ElementTree.Element], file: str, place: str, log: ProblemLog) -> dict[str, Any]:
    """What is said of an object, by column."""
    attributes: dict[str, object] = {}
    for one in fields.get("attributes", ()):
        key = (one.findtext("name") or "").strip()
        if key:
            attributes[key] = one.findtext("value") or ""
    said, rest = sort_out(attributes)
    for tag, element in fields.items():
        text = (element.text or "").strip()
        if tag in _NOT_SAID or text in _SAYS_NOTHING or len(element):
            continue
        value = flag(text) if tag in FLAGS else None
        if value is not None:
            said[tag] = value
        else:
            rest.setdefault(tag, text)
    left = to_json(rest)
    if left is not None:
        said["attributes"] = left
    return said


def save(boxes: pd.DataFrame, classes: Sequence[str], out: Path) -> Saved:
    """Writes one Pascal VOC file a frame, corners as they are (see the module's note on 1-based corners).

    Args:
        boxes: One row a box, in pixels; see `saving.frames_to_save`.
        classes: The classes that may occur.
        out: Folder for `<stem of the frame>.xml`; it is made.

    Returns:
        The files written, and what the format cannot hold.

    Raises:
        InputError: A class that is not in `classes`, two frames of one stem, or a name that XML cannot hold.
    """
    frames = frames_to_save(boxes, classes)
    one_stem_each(frames)
    documents: list[tuple[Path, ElementTree.Element]] = []
    problems = lost(boxes, HOLDS, out.name)
    told: set[str] = set()
    for frame in frames:
        root = ElementTree.Element("annotation")
        ElementTree.SubElement(root, "filename").text = xml_text(PurePosixPath(frame.name).name)
        size = ElementTree.SubElement(root, "size")
        for side, value in (("width", frame.width), ("height", frame.height), ("depth", 3)):
            ElementTree.SubElement(size, side).text = "" if value is None else str(value)
        for number, box in enumerate(frame.boxes, 1):
            other = _object(root, box)
            if other and other not in told:
                told.add(other)
                what = f"'{other}' has a value that is no plain text, and Pascal VOC has no other; the first is here"
                problems.append(Problem(f"{out.name}/{frame.stem}.xml", f"object {number}", what, "written as text"))
        documents.append((out / f"{frame.stem}.xml", root))
    out.mkdir(parents=True, exist_ok=True)
    for path, root in documents:
        ElementTree.indent(root)
        ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
    return Saved([path for path, _ in documents], problems)


def _object(root: ElementTree.Element, box: SavedBox) -> str:
    """Writes an object; returns the name of an attribute that comes back as text and was none."""
    element = ElementTree.SubElement(root, "object")
    ElementTree.SubElement(element, "name").text = xml_text(box.label)
    for name in _BESIDE:
        if name in box.says:
            ElementTree.SubElement(element, name).text = str(int(box.says[name]))
    corners = ElementTree.SubElement(element, "bndbox")
    for corner, value in zip(_CORNERS, box.corners, strict=True):
        ElementTree.SubElement(corners, corner).text = repr(value)
    own = to_write({"attributes": box.says.get("attributes")}, ())
    attributes = to_write(box.says, [column for column in HOLDS if column not in ("attributes", *_BESIDE)])
    if attributes:
        several = ElementTree.SubElement(element, "attributes")
        for key, value in attributes.items():
            one = ElementTree.SubElement(several, "attribute")
            ElementTree.SubElement(one, "name").text = xml_text(key)
            ElementTree.SubElement(one, "value").text = xml_text(as_text(value))
    return next((key for key, value in own.items() if not is_plain(value)), "")

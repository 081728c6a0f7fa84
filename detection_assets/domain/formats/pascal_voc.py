"""Pascal VOC XML: one file an image.

The VOC development kit counts pixels from 1 and includes the last one. The tools that write VOC today (LabelImg, CVAT,
Roboflow) do not: in the golden data the same boxes read 174, 101, 349, 351 in VOC and [174, 101, 175, 250] as COCO's
left, top, width, height. So corners are taken as they stand, 0-based and continuous; nothing is subtracted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import pandas as pd

from detection_assets.domain.formats.parsed import (
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
from detection_assets.domain.formats.saving import Saved, frames_to_save, lost, one_stem_each, xml_text
from detection_assets.domain.formats.xml import tree

HOLDS = ()
"""The columns of `saving.OPTIONAL` that are written."""

MAX_BYTES = 4 * 2**20
"""One image's annotations are far smaller."""

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def load(paths: Sequence[Path], root: Path, wanted: Collection[int] | None = None) -> Parsed:
    """Reads Pascal VOC files.

    Args:
        paths: The XML files.
        root: Folder that the `file` column is relative to.
        wanted: Not used: each file is one image.

    Returns:
        The boxes and problems. The frame is called by the `filename` element, or by the file's own stem where that is
        missing. A file without objects is an empty frame. Parts of objects are not boxes of their own.
    """
    columns: dict[str, list[object]] = {name: [] for name in _FILLED}
    names: dict[str, str] = {}

    def read(path: Path, file: str, log: ProblemLog) -> None:
        _read(path, file, log, columns, names)

    with collector_paused():
        _, log = each_file(paths, root, read)
    return Parsed(table(len(columns["file"]), columns), log.problems())


_FILLED = ("frame_name", "width", "height", "class", "x1", "y1", "x2", "y2", "file", "place")


def _read(path: Path, file: str, log: ProblemLog, columns: dict[str, list[object]], names: dict[str, str]) -> None:
    root = tree(read_bytes(path, MAX_BYTES))
    if root.tag != "annotation":
        raise Unreadable(f"the root element is <{root.tag[:40]}>, not <annotation>", "export it again as Pascal VOC")
    name = frame_name(root.findtext("filename") or "") or path.stem
    size = [whole((root.findtext(f"size/{side}") or "").strip(), 1) for side in ("width", "height")]
    objects = root.findall("object")
    rows: list[tuple[str, list[float], str]] = []
    for i, element in enumerate(objects, 1):
        place = f"object {i}"
        # By hand: looking elements up by path took half the time of reading a file.
        fields = {child.tag: child for child in element}
        label = (fields["name"].text or "").strip() if "name" in fields else ""
        found = {child.tag: child.text for child in fields.get("bndbox", ())}
        texts = [(found.get(corner) or "").strip() for corner in _CORNERS]
        if not label:
            log.add("name", file, place, "has no <name>", "dropped")
            continue
        try:
            rows.append((names.setdefault(label, label), [float(text) for text in texts], place))
        except ValueError:
            shown = ", ".join(f"{corner} '{text[:20]}'" for corner, text in zip(_CORNERS, texts, strict=True))
            log.add("bndbox", file, place, f"the box is not four numbers: {shown}", "dropped")
    for label, corners, place in rows:
        for column, value in zip(_FILLED, (name, *size, label, *corners, file, place), strict=True):
            columns[column].append(value)
    if not objects:
        nothing = float("nan")
        for column, value in zip(_FILLED, (name, *size, None, *[nothing] * 4, file, ""), strict=True):
            columns[column].append(value)


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
    for frame in frames:
        root = ElementTree.Element("annotation")
        ElementTree.SubElement(root, "filename").text = xml_text(PurePosixPath(frame.name).name)
        size = ElementTree.SubElement(root, "size")
        for side, value in (("width", frame.width), ("height", frame.height), ("depth", 3)):
            ElementTree.SubElement(size, side).text = "" if value is None else str(value)
        for box in frame.boxes:
            element = ElementTree.SubElement(root, "object")
            ElementTree.SubElement(element, "name").text = xml_text(box.label)
            corners = ElementTree.SubElement(element, "bndbox")
            for corner, value in zip(_CORNERS, box.corners, strict=True):
                ElementTree.SubElement(corners, corner).text = repr(value)
        documents.append((out / f"{frame.stem}.xml", root))
    out.mkdir(parents=True, exist_ok=True)
    for path, root in documents:
        ElementTree.indent(root)
        ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
    return Saved([path for path, _ in documents], lost(boxes, HOLDS, out.name))

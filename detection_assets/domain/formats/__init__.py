"""Annotation formats: siblings that read and write one file format each and meet in one table, `Parsed`.

`load` takes files of any mix, tells them apart by content and reads each with its format's module.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from detection_assets.domain.formats import (
    azureml,
    coco,
    cvat,
    ground_truth,
    label_studio,
    labelme,
    mot,
    openimages,
    pascal_voc,
    yolo,
)
from detection_assets.domain.formats.parsed import (
    COLUMNS,
    HEAD,
    Parsed,
    ProblemLog,
    Unreadable,
    join,
    lenient,
    relative_name,
)
from detection_assets.domain.problems import Problem

__all__ = [
    "COLUMNS",
    "FORMATS",
    "KNOWN",
    "Parsed",
    "azureml",
    "coco",
    "cvat",
    "detect",
    "ground_truth",
    "label_studio",
    "labelme",
    "load",
    "mot",
    "openimages",
    "pascal_voc",
    "yolo",
]

FORMATS = {
    "coco": coco,
    "yolo": yolo,
    "pascal_voc": pascal_voc,
    "cvat": cvat,
    "labelme": labelme,
    "openimages": openimages,
    "mot": mot,
    "label_studio": label_studio,
    "ground_truth": ground_truth,
    "azureml": azureml,
}

KNOWN = (
    "COCO, LabelMe or Label Studio JSON, Pascal VOC or CVAT XML, YOLO or MOT txt, OpenImages CSV, "
    "a Ground Truth manifest, or Azure ML JSONL"
)
"""The formats, as messages list them."""

XML_HEAD = 2**13
"""Characters in which an XML file's root element is looked for. Short, for hostile comments cost its square."""

_JSON_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)(?:"|\\?\Z)(\s*:\s*\[)?|[{}\[\]]', re.DOTALL)
_COCO_LISTS = {"images", "annotations", "categories"}
_XML_ROOT = re.compile(r"<(?![?!])\s*([^\s/>]+)")
_XML_ASIDE = re.compile(r"<!--.*?-->|<\?.*?\?>|<!DOCTYPE[^>\[]*(?:\[.*?\]\s*)?>", re.DOTALL)
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?(?:e[-+]?\d+)?|\.\d+|nan|inf(?:inity)?)"
_YOLO_LINE = re.compile(rf"\s*\d+(?:\.0*)?(?:[ \t]+{_NUMBER}){{4,}}\s*", re.IGNORECASE)


def detect(path: Path) -> str | None:
    """Tells an annotation file's format by its content; reads only the head of the file.

    Args:
        path: The file.

    Returns:
        A key of `FORMATS`, or None for anything else, also for what cannot be opened. The class names
        and image lists of a YOLO data set count as `yolo`: the labels cannot be read without them. So does an empty
        `.txt`, which is YOLO's way to write an empty frame.
    """
    try:
        return _detect(path, _head(path))
    except Unreadable:
        return None


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror or error}", "check that it exists and is readable") from None


def _detect(path: Path, data: bytes) -> str | None:
    text = lenient(data).lstrip()
    if text.startswith(("{", "[")):
        # A task of Label Studio has a list of annotations, too, so it is asked for before COCO.
        named = {"label_studio": label_studio, "ground_truth": ground_truth, "azureml": azureml}
        found = next((name for name, module in named.items() if module.is_mine(path, text)), None)
        if found:
            return found
    if text.startswith("{"):
        return "coco" if _is_coco(text) else "labelme" if labelme.is_mine(path, text) else None
    if path.name == azureml.TABLE:
        return "azureml" if "paths" in text else None
    if text.startswith("<"):
        root = _XML_ROOT.search(_XML_ASIDE.sub("", text[:XML_HEAD]))
        return {"annotations": "cvat", "annotation": "pascal_voc"}.get(root[1]) if root else None
    for name, module in (("openimages", openimages), ("mot", mot)):
        if module.is_mine(path, text):
            return name
    if yolo.is_companion(path.name, text):
        return "yolo"
    if path.suffix.lower() == ".txt":
        lines = [line for line in text.splitlines() if line.strip()]
        if not lines or any(_YOLO_LINE.fullmatch(line) for line in lines[:1000]):
            return "yolo"
    return None


def _is_coco(text: str) -> bool:
    """Whether the JSON object has one of COCO's lists at its top level."""
    depth = 0
    for token in _JSON_TOKEN.finditer(text):
        if token[0] in "{[":
            depth += 1
        elif token[0] in "}]":
            depth -= 1
        elif depth == 1 and token[1] in _COCO_LISTS and token[2]:
            return True
        if token[2]:
            depth += 1
    return False


def load(paths: Sequence[Path], root: Path, wanted: Collection[int] | None = None) -> Parsed:
    """Reads annotation files of any mix of formats.

    Args:
        paths: The files. One named twice is read once.
        root: Folder that names in table and messages are relative to. YOLO's class names are looked for up to it.
        wanted: Frame numbers to interpolate tracks of CVAT videos at; None for every frame of the task.

    Returns:
        All boxes and problems: first of files that are no annotations, then format by format, files in the order given.
    """
    log = ProblemLog()
    groups: dict[str, list[Path]] = {name: [] for name in FORMATS}
    for path in dict.fromkeys(paths):
        try:
            data = _head(path)
            found = _detect(path, data)
            if found is None:
                what = "is not an annotation file we know" if data.strip() else "is empty"
                raise Unreadable(what, f"give {KNOWN}")
            groups[found].append(path)
        except Unreadable as error:
            log.unreadable(relative_name(path, root), error)
    parts = [FORMATS[name].load(group, root, wanted) for name, group in groups.items() if group]
    problems: list[Problem] = log.problems()
    for part in parts:
        problems += part.problems
    boxes = join(part.boxes for part in parts)
    return Parsed(boxes, [*problems, *_flat(boxes)])


def _flat(boxes: pd.DataFrame) -> list[Problem]:
    """Tells of boxes without area. They are somebody's work and stay in what is read; matching leaves them out."""
    x1, y1, x2, y2 = (boxes[name].to_numpy() for name in ("x1", "y1", "x2", "y2"))
    log = ProblemLog()
    files: list[str] = boxes["file"].tolist()
    places: list[str | None] = boxes["place"].tolist()
    names: list[str | None] = boxes["frame_name"].tolist()
    labels: list[str | None] = boxes["class"].tolist()
    flat = np.isfinite(x1) & np.isfinite(y1) & ((x1 == x2) | (y1 == y2))
    for i in np.flatnonzero(flat).tolist():
        if log.room(files[i], "flat"):
            what = f"a box without area: {x1[i]:g}, {y1[i]:g} to {x2[i]:g}, {y2[i]:g}"
            done = "kept, and left out where frames are matched; draw it again"
            corners = (x1[i], y1[i], x2[i], y2[i])
            log.tell(files[i], places[i] or "", what, done, kind="flat", frame=names[i], label=labels[i], box=corners)
    return log.problems()

"""YOLO text labels: one file an image, a line a box, `class cx cy width height` as fractions of the frame.

Class numbers mean nothing without the list of names that lies in the labels' folder or above it; numbers are turned
into names here and go no further. https://docs.ultralytics.com/datasets/detect/ and
https://github.com/AlexeyAB/darknet describe the two ways to write that list that are read.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from detection_assets.domain.formats import yaml_file, yolo_write
from detection_assets.domain.formats.parsed import (
    Parsed,
    ProblemLog,
    Unreadable,
    collector_paused,
    decode,
    each_file,
    read_bytes,
    relative_name,
    table,
    whole,
)
from detection_assets.domain.formats.shapes import TAKEN

HOLDS = yolo_write.HOLDS
save = yolo_write.save

MAX_BYTES = 8 * 2**20
"""One image's labels are far smaller."""

MAX_NAMES_BYTES = 2**20
"""A list of class names is far smaller."""

MAX_TRACK = 2**53
"""Beyond it, a float no longer tells whole numbers apart."""

YAML_NAMES = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")
TEXT_NAMES = ("classes.txt", "obj.names")
_COMPANIONS = {*YAML_NAMES, *TEXT_NAMES, "obj.data"}
_IMAGE_LINE = re.compile(r"\S.*\.(jpe?g|png|bmp|webp|tiff?|gif)\s*", re.IGNORECASE)
_FARTHEST = 2.0
"""A fraction beyond this is no box that sticks out of its frame; it is in pixels."""


def is_companion(name: str, head: str) -> bool:
    """Says whether a file belongs to a YOLO data set without being labels: class names, or a list of images.

    Args:
        name: The file's base name.
        head: The beginning of its text.
    """
    if name.lower() in _COMPANIONS or name.lower().endswith(".names"):
        return True
    lines = [line for line in head.splitlines()[:20] if line.strip()]
    return (
        name.lower().endswith(".txt")
        and bool(lines)
        and all(_IMAGE_LINE.fullmatch(line) for line in lines[:-1] or lines)
    )


def load(paths: Sequence[Path], root: Path, wanted: Collection[int] | None = None) -> Parsed:
    """Reads YOLO label files.

    Args:
        paths: The label files; lists of names or images among them are passed over.
        root: Folder that the `file` column is relative to; class names are not looked for above it.
        wanted: Not used: each file is one frame.

    Returns:
        The boxes, as fractions of the frame (`relative`), and the problems. The frame is called by the label file's
        base name. An empty file is an empty frame. A line of five numbers is a box; a sixth is a confidence or a track
        as the `sixth` of `data.yaml` says, and passed over in one problem where nothing does; longer lines with an odd
        count are polygons, taken by their extremes and told. Labels without class names are not usable: one problem a
        folder.
    """
    rows = _Rows()
    names_of: dict[Path, _Names | None] = {}

    def read(path: Path, file: str, log: ProblemLog) -> None:
        text = decode(read_bytes(path, MAX_BYTES))
        if not is_companion(path.name, text[:4096]):
            if path.parent not in names_of:
                names_of[path.parent] = _names(path.parent, root, log)
            names = names_of[path.parent]
            if names is not None:
                _read(text, path.name, file, names, rows, log)

    with collector_paused():
        _, log = each_file(paths, root, read)
    if rows.unsaid:
        what = f"{rows.unsaid} lines have a sixth number, and nothing says whether it is a confidence or a track"
        done = "left out, the boxes are kept; write 'sixth: confidence' or 'sixth: track' in data.yaml"
        log.tell(rows.first[0], rows.first[1], what, done, kind="sixth")
    return Parsed(rows.table(), log.problems())


@dataclass(frozen=True)
class _Names:
    """Class names by number, and what the sixth number of a line is, if anybody says so."""

    names: list[str | None]
    sixth: str | None = None


class _Rows:
    """Rows of the table as they come. Numbers are packed: a million Python floats would take a quarter of a GB."""

    def __init__(self) -> None:
        self.frames: list[str] = []
        self.labels: list[str | None] = []
        self.files: list[str] = []
        self.places: list[str] = []
        self.corners = array("d")
        self.more: dict[str, dict[int, float]] = {"confidence": {}, "track": {}}
        self.unsaid = 0
        self.first = ("", "")

    def sixth(self, name: str | None, value: float, file: str, place: str) -> None:
        """The sixth number of the box that is added next."""
        if name is None:
            self.first = self.first if self.unsaid else (file, place)
            self.unsaid += 1
        else:
            self.more[name][len(self.files)] = value

    def add(self, frame: str, label: str | None, file: str, place: str, corners: Iterable[float]) -> None:
        self.frames.append(frame)
        self.labels.append(label)
        self.files.append(file)
        self.places.append(place)
        self.corners.extend(corners)

    def table(self) -> pd.DataFrame:
        corners = np.frombuffer(self.corners, dtype=np.float64).reshape(-1, 4)
        columns: dict[str, Any] = {name: corners[:, i] for i, name in enumerate(("x1", "y1", "x2", "y2"))}
        columns |= {"frame_name": self.frames, "class": self.labels, "file": self.files, "place": self.places}
        if self.more["confidence"]:
            sure = np.full(len(self.files), np.nan)
            sure[list(self.more["confidence"])] = list(self.more["confidence"].values())
            columns["confidence"] = sure
        if self.more["track"]:
            tracks: list[str | None] = [None] * len(self.files)
            for i, value in self.more["track"].items():
                tracks[i] = f"{value:.0f}"
            columns["track"] = tracks
        return table(len(self.files), {**columns, "relative": True})


_NOTHING = (math.nan,) * 4


def _read(text: str, frame: str, file: str, known: _Names, rows: _Rows, log: ProblemLog) -> None:
    seen, names = False, known.names
    for number, line in enumerate(text.split("\n"), 1):
        parts = line.split()
        if not parts:
            continue
        seen = True
        place = f"line {number}"
        try:
            values = [float(part) for part in parts]
        except ValueError:
            log.add("number", file, place, f"not numbers: '{line.strip()[:60]}'", "dropped the line")
            continue
        label = _label(values[0], names)
        if label is None:
            what = f"class {parts[0][:20]} has no name among the {len(names)} classes"
            log.add("class", file, place, what, "dropped the line; add it to the list of names")
            continue
        corners = _corners(values[1:])
        if corners is None:
            what = f"{len(values)} numbers, where a box has five and a polygon an odd count from seven"
            log.add("count", file, place, what, "dropped the line")
        elif _FARTHEST < max(-corners[0], -corners[1], corners[2], corners[3]) < math.inf:
            what = f"not fractions of the frame: '{line.strip()[:60]}'"
            log.add("fraction", file, place, what, "dropped the line; divide by the frame's width and height")
        else:
            if len(values) > 6:
                log.add("polygon", file, place, f"a polygon of {len(values) // 2} points", TAKEN)
            elif len(values) == 6:
                _sixth(values[5], known.sixth, file, place, rows, log)
            rows.add(frame, label, file, place, corners)
    if not seen:
        rows.add(frame, None, file, "", _NOTHING)


def _sixth(value: float, name: str | None, file: str, place: str, rows: _Rows, log: ProblemLog) -> None:
    nothing = value == -1 if name == "track" else name == "confidence" and math.isnan(value)
    good = value.is_integer() and abs(value) < MAX_TRACK if name == "track" else math.isfinite(value)
    if good and not nothing:
        rows.sixth(name, value, file, place)
    elif not nothing:
        what = f"the sixth number is no {name or 'number'}: {value:g}"
        log.add("sixth", file, place, what, "left out, the box is kept")


def _label(value: float, names: list[str | None]) -> str | None:
    number = int(value) if value >= 0 and value < len(names) and value.is_integer() else -1
    return names[number] if number >= 0 else None


def _corners(values: list[float]) -> tuple[float, float, float, float] | None:
    if len(values) in (4, 5):
        cx, cy, half_w, half_h = values[0], values[1], values[2] / 2, values[3] / 2
        return cx - half_w, cy - half_h, cx + half_w, cy + half_h
    if len(values) >= 6 and len(values) % 2 == 0:
        xs, ys = values[::2], values[1::2]
        return min(xs), min(ys), max(xs), max(ys)
    return None


def _names(folder: Path, root: Path, log: ProblemLog) -> _Names | None:
    """The class names, of the nearest list in `folder` or above it up to `root`."""
    here = folder
    while True:
        found = [here / name for name in (*YAML_NAMES, *TEXT_NAMES) if (here / name).is_file()]
        try:
            found += sorted(here.glob("*.names"))
        except OSError:
            found += []
        for path in found:
            try:
                known = _yaml_names(path) if path.suffix in (".yaml", ".yml") else _Names(_text_names(path))
            except Unreadable as error:
                log.unreadable(relative_name(path, root), error)
                continue
            if known.names:
                return known
        if here == root or here == here.parent or root not in here.parents:
            break
        here = here.parent
    what = "labels without class names: no data.yaml, classes.txt or obj.names here or above"
    done = "skipped the folder's labels; put the list of names beside them"
    log.tell(relative_name(folder, root), "", what, done, kind="no names")
    return None


def _text_names(path: Path) -> list[str | None]:
    lines = [line.strip() for line in decode(read_bytes(path, MAX_NAMES_BYTES)).splitlines()]
    return [line or None for line in lines]


def _yaml_names(path: Path) -> _Names:
    document = yaml_file.document(path, MAX_NAMES_BYTES, "keep 'names' only")
    names: Any = document.get("names") if isinstance(document, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise Unreadable("has no 'names'", "write 'names: {0: first, 1: second}'", "names")
    by_number = {whole(key): value for key, value in names.items()}
    numbers = [key for key in by_number if key is not None]
    if len(numbers) < len(names) or max(numbers) > 100_000:
        raise Unreadable("'names' is not numbered from 0", "write 'names: {0: first, 1: second}'", "names")
    sixth = document.get("sixth")
    said = sixth if isinstance(sixth, str) and sixth in yolo_write.SIXTH else None
    return _Names([_name(by_number.get(number)) for number in range(max(numbers) + 1)], said)


def _name(value: object) -> str | None:
    text = str(value).strip() if isinstance(value, str | int | float) else ""
    return text or None

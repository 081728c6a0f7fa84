"""OpenImages CSV: a line a box, corners as fractions of the picture.

The columns (`ImageID, Source, LabelName, Confidence, XMin, XMax, YMin, YMax, IsOccluded, IsTruncated, IsGroupOf,
IsDepiction, IsInside`) are described at https://storage.googleapis.com/openimages/web/download_v7.html. A flag is 1, 0,
or -1 for "nobody said"; `Confidence` is a dummy 1 for what people drew, so `1` says nothing here and is written where
nothing is said. A `LabelName` like `/m/01g317` is turned into the name that a `class-descriptions*.csv` beside the file
or above it gives. An `ImageID` has no ending in the data set itself, and has one in what some tools write.

Fields are parted by commas or semicolons, decimals by points or commas: spreadsheets of many countries write it so.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd

from detection_assets.domain.formats import csv_file
from detection_assets.domain.formats.frame_names import stem_of
from detection_assets.domain.formats.parsed import (
    HEAD,
    Parsed,
    ProblemLog,
    Unreadable,
    decode,
    each_file,
    frame_name,
    join,
    lenient,
    read_bytes,
    relative_name,
    table,
)
from detection_assets.domain.formats.saving import Saved, SavedBox, frames_to_save, lost
from detection_assets.domain.problems import InputError, Problem

HOLDS = ("confidence", "truncated", "occluded", "crowd")
"""The columns of `saving.OPTIONAL` that are written. Of `attributes`, `depiction`, `inside` and `source` are too."""

MAX_BYTES = 2**31
"""The boxes of the whole data set take a little more than half of that."""

MAX_NAMES_BYTES = 2**24
"""A list of class names is far smaller."""

HEADER = (
    *("ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax"),
    *("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside"),
)
_NEEDED = ("ImageID", "LabelName", "XMin", "YMin", "XMax", "YMax")
_FLAGS = {"occluded": "IsOccluded", "truncated": "IsTruncated", "crowd": "IsGroupOf"}
_ATTRIBUTES = {"depiction": "IsDepiction", "inside": "IsInside"}
_DELIMITERS = (",", ";", "\t")
_NAMES = re.compile(r"class-descriptions.*\.csv", re.IGNORECASE)
_REMEDY = f"export it again as OpenImages CSV, with the columns {','.join(HEADER)}"
_FARTHEST = 2.0
"""A fraction beyond this is no box that sticks out of its frame; it is in pixels."""


def is_mine(path: Path, text: str) -> bool:
    """Whether the head of a file is OpenImages': its line of columns; or the list of class names beside such files."""
    if _NAMES.fullmatch(path.name):
        return True
    found = _header(text)[1]
    return "ImageID" in found and ("LabelName" in found or "OriginalURL" in found)


def _header(text: str) -> tuple[str, list[str]]:
    """What parts the fields, and the columns' names."""
    line = text[:4096].lstrip("\ufeff \r\n").split("\n", 1)[0].strip()
    delimiter = max(_DELIMITERS, key=line.count)
    return delimiter, csv_file.fields(line, delimiter)


def load(paths: Sequence[Path], root: Path, wanted: Collection[int] | None = None) -> Parsed:
    """Reads OpenImages files.

    Args:
        paths: The CSV files; class names and lists of pictures among them are passed over.
        root: Folder that the `file` column is relative to; class names are not looked for above it.
        wanted: Not used: each picture is one frame.

    Returns:
        The boxes, as fractions of the frame (`relative`), and the problems. A class whose name is not to be found keeps
        its `/m/...`, in one problem a file. No line says that a picture is empty.
    """
    known: dict[Path, dict[str, str]] = {}

    def read(path: Path, file: str, log: ProblemLog) -> pd.DataFrame | None:
        if _NAMES.fullmatch(path.name):
            return None
        if path.parent not in known:
            known[path.parent] = _descriptions(path.parent, root, log)
        return _read(path, file, known[path.parent], log)

    tables, log = each_file(paths, root, read)
    return Parsed(join(tables), log.problems())


def _read(path: Path, file: str, known: Mapping[str, str], log: ProblemLog) -> pd.DataFrame | None:
    data = read_bytes(path, MAX_BYTES)
    if not data.strip():
        raise Unreadable("is empty", _REMEDY)
    delimiter, header = _header(lenient(data[:HEAD]))
    if "OriginalURL" in header and "LabelName" not in header:
        return None  # a list of pictures
    missing = [name for name in _NEEDED if name not in header]
    if missing or len(set(header)) < len(header):
        what = f"has no column {', '.join(missing)}" if missing else "has two columns of one name"
        raise Unreadable(what, _REMEDY, "line 1")
    lines = csv_file.read(data, delimiter, header, _REMEDY, header=True)
    del data
    for number, expected, found in lines.bad:
        log.add("fields", file, f"line {number}", f"{found} fields where the header has {expected}", "dropped")
    columns, numbers = lines.columns, lines.numbers
    corners = np.stack([csv_file.number(columns[name]) for name in _NEEDED[2:]], axis=1)
    names = _mapped(columns["ImageID"], frame_name)
    labels = _mapped(columns["LabelName"], lambda text: known.get(text, text))
    # Infinities are left for matching to judge; they are numbers.
    usable = ~np.isnan(corners).any(axis=1) & (names != "") & (labels != "")
    far = usable & np.isfinite(corners).all(axis=1) & (np.abs(corners).max(axis=1, initial=0) > _FARTHEST)
    for i in log.first("line", file, np.flatnonzero(~usable)):
        shown = ", ".join(f"{name} '{columns[name][int(i)].as_py()[:20]}'" for name in _NEEDED)
        log.tell(file, f"line {numbers[i]}", f"no box: {shown}", "dropped", kind="line")
    for i in log.first("fraction", file, np.flatnonzero(far)):
        what = f"not fractions of the picture: {', '.join(f'{value:.6g}' for value in corners[i])}"
        done = "dropped; divide by the picture's width and height"
        log.tell(file, f"line {numbers[i]}", what, done, kind="fraction")
    rows = np.flatnonzero(usable & ~far)
    unnamed = sorted(label for label in set(labels[rows].tolist()) if label.startswith("/m/"))
    if unnamed:
        what = f"{len(unnamed)} classes without a name, such as {unnamed[0]}"
        done = "kept as they are; put class-descriptions-boxable.csv beside the file"
        log.tell(file, "LabelName", what, done, kind="unnamed class")
    return table(
        len(rows),
        {
            "frame_name": names[rows],
            "class": labels[rows],
            **{corner: corners[rows, i] for i, corner in enumerate(("x1", "y1", "x2", "y2"))},
            "relative": True,
            "confidence": _confidence(columns, rows),
            **{flag: _flag(columns, name, rows) for flag, name in _FLAGS.items()},
            "attributes": _attributes(columns, rows),
            "file": file,
            "place": [f"line {number}" for number in numbers[rows]],
        },
    )


def _mapped(texts: Any, change: Callable[[str], str]) -> np.ndarray:
    """The changed text of each row; each different text is changed once."""
    codes, words = csv_file.words(texts)
    return np.array([*map(change, words)], dtype=object)[codes]


def _confidence(columns: Mapping[str, Any], rows: np.ndarray) -> np.ndarray | None:
    if "Confidence" not in columns:
        return None
    codes, words = csv_file.words(columns["Confidence"])
    dummy = np.array([word == "1" for word in words], dtype=bool)[codes]
    return np.where(dummy, np.nan, csv_file.number(columns["Confidence"]))[rows]


def _flag(columns: Mapping[str, Any], name: str, rows: np.ndarray) -> Any:
    if name not in columns:
        return None
    values = csv_file.number(columns[name])[rows]
    flags = pd.array(values == 1, dtype="boolean")
    flags[(values != 0) & (values != 1)] = pd.NA
    return flags


def _attributes(columns: Mapping[str, Any], rows: np.ndarray) -> np.ndarray:
    """The attributes of each row as JSON; there are few different ones."""
    if not len(rows):
        return np.empty(0, dtype=object)
    given = {key: _flag(columns, name, rows) for key, name in _ATTRIBUTES.items() if name in columns}
    coded = [(key, values.to_numpy(dtype=np.int64, na_value=-1)) for key, values in given.items()]
    sources, words = csv_file.words(columns["Source"]) if "Source" in columns else (None, [])
    frame = pd.DataFrame({**dict(coded), "source": -1 if sources is None else sources[rows]}, index=range(len(rows)))
    codes, kinds = pd.factorize(pd.MultiIndex.from_frame(frame))
    texts: list[str | None] = []
    for kind in kinds.tolist():
        one: dict[str, Any] = {key: bool(value) for key, value in zip(given, kind, strict=False) if value >= 0}
        if words and words[kind[-1]]:
            one["source"] = words[kind[-1]]
        texts.append(orjson.dumps(one, option=orjson.OPT_SORT_KEYS).decode() if one else None)
    return np.array(texts, dtype=object)[codes]


def _descriptions(folder: Path, root: Path, log: ProblemLog) -> dict[str, str]:
    """The class names by `LabelName`, of the nearest list in `folder` or above it up to `root`."""
    here = folder
    while True:
        try:
            found = sorted(path for path in here.iterdir() if _NAMES.fullmatch(path.name) and path.is_file())
        except OSError:
            found = []
        for path in found:
            try:
                text = decode(read_bytes(path, MAX_NAMES_BYTES))
                names = {row[0].strip(): row[1].strip() for row in csv.reader(io.StringIO(text)) if len(row) > 1}
            except Unreadable as error:
                log.unreadable(relative_name(path, root), error)
                continue
            except csv.Error as error:
                fault = Unreadable(f"not CSV: {error}", "write LabelName,DisplayName")
                log.unreadable(relative_name(path, root), fault)
                continue
            return {key: name for key, name in names.items() if key and name and key != "LabelName"}
        if here == root or here == here.parent or root not in here.parents:
            return {}
        here = here.parent


def save(boxes: pd.DataFrame, classes: Sequence[str], out: Path) -> Saved:
    """Writes one CSV file of boxes, and one of class names.

    Args:
        boxes: One row a box, in pixels, with the frame's `width` and `height`; see `saving.frames_to_save`.
        classes: The classes; they are their own `LabelName`.
        out: Folder for `annotations-bbox.csv` and `class-descriptions-boxable.csv`; it is made. An `ImageID` is the
            frame's name without its ending.

    Returns:
        The files written, and what the format cannot hold.

    Raises:
        InputError: A class that is not in `classes`, two frames of one id, or a frame with boxes but without size.
    """
    frames = frames_to_save(boxes, classes)
    target = out / "annotations-bbox.csv"
    problems: list[Problem] = []
    seen: dict[str, str] = {}
    lines: list[list[str]] = []
    rest: list[str | None] = []
    for frame in frames:
        folder, slash, base = frame.name.rpartition("/")
        key = folder + slash + stem_of(base)
        if (other := seen.setdefault(key, frame.name)) != frame.name:
            raise InputError(f"frames '{other}' and '{frame.name}' would have one ImageID; rename one of them")
        if not frame.boxes:
            continue
        if not frame.width or not frame.height:
            raise InputError(f"frame '{frame.name}' has no width and height, which OpenImages' fractions need")
        for box in frame.boxes:
            line, left = _line(key, frame.width, frame.height, box)
            lines.append(line)
            rest.append(left)
    empty = [frame.name for frame in frames if not frame.boxes]
    if empty:
        what = f"the format cannot say that a frame is empty, as {', '.join(islice(empty, 3))} and {len(empty)} in all"
        problems.append(Problem(target.name, "", f"{what} are", "left out; export as another format to keep them"))
    out.mkdir(parents=True, exist_ok=True)
    names = out / "class-descriptions-boxable.csv"
    _write(target, [list(HEADER), *lines])
    _write(names, [["LabelName", "DisplayName"], *([name, name] for name in classes)])
    left = pd.DataFrame({"attributes": pd.Series(rest, dtype=object)})
    kept = boxes.drop(columns="attributes", errors="ignore")
    return Saved([target, names], [*problems, *lost(kept, HOLDS, target.name), *lost(left, HOLDS, target.name)])


def _line(key: str, width: int, height: int, box: SavedBox) -> tuple[list[str], str | None]:
    """The fields of a box, and the attributes that have no field."""
    x1, y1, x2, y2 = box.corners
    says = box.says
    attributes: dict[str, Any] = orjson.loads(says["attributes"]) if "attributes" in says else {}
    source = attributes.pop("source") if _is_source(attributes.get("source")) else ""
    flags = [_written(says.get(flag)) for flag in _FLAGS]
    for name in _ATTRIBUTES:
        flags.append(_written(attributes.pop(name) if isinstance(attributes.get(name), bool) else None))
    confidence = repr(float(says["confidence"])) if "confidence" in says else "1"
    corners = [repr(value) for value in (x1 / width, x2 / width, y1 / height, y2 / height)]
    return [key, source, box.label, confidence, *corners, *flags], str(attributes) if attributes else None


def _is_source(value: object) -> bool:
    return isinstance(value, str) and value != "" and value.isprintable()


def _written(flag: object) -> str:
    return "-1" if flag is None else str(int(bool(flag)))


def _write(path: Path, rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)

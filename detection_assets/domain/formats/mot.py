"""MOTChallenge text: one file a video, a line a box, `frame, id, left, top, width, height, conf, class, visibility`.

By definition "all frame numbers, target IDs and bounding boxes are 1-based"
(https://motchallenge.net/instructions/), so the first frame and the first pixel are 1 there and 0 here; the classes
have fixed numbers (https://arxiv.org/abs/1906.04567). CVAT and datumaro write the same lines for any classes, whose
names are in a `labels.txt` beside them; they count frames from 1, but take corners as they are, both ways (`mot.py` in
https://github.com/open-edge-platform/datumaro). So where there is a `labels.txt` corners are 0-based, and nothing is
subtracted; that is how files are written here, too, for an annotation tool to import.

`conf` of ground truth is a flag: 0 for a box that is not to be counted, kept as the attribute `ignored`. Of detections
(`det.txt`, or no id in any line) it is the confidence. `visibility` below 1 is an attribute. Lines of ten fields end in
world coordinates and have no class: without a `labels.txt` they are people.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd

from detection_assets.domain.formats import csv_file, mot_write
from detection_assets.domain.formats.frame_names import without_video_suffix
from detection_assets.domain.formats.parsed import (
    HEAD,
    MAX_INDEX,
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
    whole,
)

HOLDS = mot_write.HOLDS
"""The columns of `saving.OPTIONAL` that are written. Of `attributes`, `ignored` and `visibility` are too."""

MAX_BYTES = 2**30
"""The longest video of the benchmark takes a few MB."""

MAX_NAMES_BYTES = 2**20
MAX_FRAMES = 5_000_000
"""Most frames that a sequence is believed to have."""

CLASSES = (
    *("pedestrian", "person on vehicle", "car", "bicycle", "motorbike", "non motorized vehicle", "static person"),
    *("distractor", "occluder", "occluder on the ground", "occluder full", "reflection", "crowd"),
)
save = mot_write.save

_FIELDS = ("frame", "id", "left", "top", "width", "height", "conf", "class", "visibility")
_LEAST, _MOST = 6, 12
_NUMBER = r"\s*[-+]?(?:\d+(?:\.\d*)?(?:e[-+]?\d+)?|\.\d+|nan|inf(?:inity)?)\s*"
_LINE = re.compile(rf"\s*\d+(?:\.0*)?\s*(?:,{_NUMBER}){{{_LEAST - 1},{_MOST - 1}}},?\s*", re.IGNORECASE)
_OWN = {"gt.txt", "det.txt"}
_SEQINFO, _LABELS = "seqinfo.ini", "labels.txt"
_REMEDY = "export it again as MOT, a line of `frame,id,left,top,width,height,conf,class,visibility` a box"


def is_mine(path: Path, text: str) -> bool:
    """Whether the head of a file is MOT's: lines of numbers with commas; or a `seqinfo.ini` or `labels.txt` of one."""
    name = path.name.lower()
    if name == _SEQINFO:
        return text.lstrip().lower().startswith("[sequence]")
    if name == _LABELS:
        return any((path.parent / own).is_file() for own in _OWN)
    if path.suffix.lower() not in (".txt", ".csv"):
        return False
    lines = [line for line in text.splitlines()[:1000] if line.strip()]
    if not lines:
        return name in _OWN
    return any(map(_is_line, lines))


def _is_line(line: str) -> bool:
    return len(line) < 1000 and _LINE.fullmatch(line) is not None


def load(paths: Sequence[Path], root: Path, wanted: Collection[int] | None = None) -> Parsed:
    """Reads MOT files.

    Args:
        paths: The text files; `labels.txt` and `seqinfo.ini` among them are passed over, and read where they belong.
        root: Folder that the `file` column is relative to; nothing is looked for above it.
        wanted: Not used: the file says nothing between its frames.

    Returns:
        The boxes and problems. Rows have a frame number and no name; where there are files of several sequences, the
        name is `<the sequence>/<number>`. Where `seqinfo.ini` says how long the sequence is, frames of the ground truth
        without boxes are empty frames.
    """
    own = [path for path in paths if path.name.lower() not in (_SEQINFO, _LABELS)]
    several = len({_folder(path) for path in own}) > 1

    def read(path: Path, file: str, log: ProblemLog) -> pd.DataFrame:
        return _read(path, file, _sequence(path, root, log), several, log)

    tables, log = each_file(own, root, read)
    return Parsed(join(tables), log.problems())


def _folder(path: Path) -> Path:
    """The folder of the sequence, which holds `gt/gt.txt` or the file itself."""
    return path.parent.parent if path.parent.name.lower() in ("gt", "det") else path.parent


@dataclass(frozen=True)
class _Sequence:
    """What lies beside the boxes: the sequence's name, size and length, and the class names of a `labels.txt`."""

    name: str
    width: int | None
    height: int | None
    length: int | None
    labels: list[str] | None


def _sequence(path: Path, root: Path, log: ProblemLog) -> _Sequence:
    said: Mapping[str, str] = {}
    for folder in dict.fromkeys((path.parent, _folder(path))):
        info = folder / _SEQINFO
        if _inside(folder, root) and info.is_file():
            try:
                parser = configparser.ConfigParser(interpolation=None, strict=False)
                parser.read_string(decode(read_bytes(info, MAX_NAMES_BYTES)))
                said = next((parser[key] for key in parser.sections() if key.lower() == "sequence"), {})
            except Unreadable as error:
                log.unreadable(relative_name(info, root), error)
            except configparser.Error as error:
                what = f"not an INI file: {str(error).splitlines()[0][:200]}"
                log.unreadable(relative_name(info, root), Unreadable(what, "write [Sequence] and its fields"))
    labels = None
    beside = path.parent / _LABELS
    if beside.is_file():
        try:
            lines = [line.strip() for line in decode(read_bytes(beside, MAX_NAMES_BYTES)).split("\n")]
            labels = lines[: max((i for i, line in enumerate(lines, 1) if line), default=0)] or None
        except Unreadable as error:
            log.unreadable(relative_name(beside, root), error)
    length = whole(said.get("seqlength"), 1)
    name = frame_name(said.get("name", "")).rpartition("/")[2] or frame_name(_folder(path).name) or path.stem
    size = (whole(said.get("imwidth"), 1), whole(said.get("imheight"), 1))
    return _Sequence(name, *size, length if length is not None and length <= MAX_FRAMES else None, labels)


def _inside(folder: Path, root: Path) -> bool:
    return folder == root or root in folder.parents


def _read(path: Path, file: str, sequence: _Sequence, several: bool, log: ProblemLog) -> pd.DataFrame:
    data = read_bytes(path, MAX_BYTES)
    first = next((line for line in lenient(data[:HEAD]).splitlines() if _is_line(line)), None)
    if first is None and data.strip():
        raise Unreadable("holds no line of numbers with commas", _REMEDY)
    width = len(csv_file.fields(first, ",")) if first else len(_FIELDS)
    names = [*_FIELDS, *(f"more {i}" for i in range(_MOST))][:width]
    lines = csv_file.read(data, ",", names, _REMEDY, header=False)
    del data
    for number, expected, found in lines.bad:
        log.add("fields", file, f"line {number}", f"{found} fields where the first line has {expected}", "dropped")
    rows = pd.DataFrame({name: csv_file.number(lines.columns[name]) for name in names if name in _FIELDS})
    rows["line"] = lines.numbers
    # Infinities are left for matching to judge; they are numbers.
    bad = rows[["frame", "left", "top", "width", "height"]].isna().any(axis=1)
    bad |= (rows["frame"] < 1) | ~_counts(rows["frame"].to_numpy())
    for i in log.first("numbers", file, np.flatnonzero(bad.to_numpy())):
        shown = lines.columns["frame"][int(i)].as_py()[:20]
        what = f"no frame from 1, or corners that are no numbers: frame '{shown}'"
        log.tell(file, f"line {rows['line'].iloc[i]}", what, "dropped", kind="numbers")
    labels = _labels(rows, bad.to_numpy(), len(names), sequence, file, log)
    rows, classes = rows[~bad & pd.notna(labels)].reset_index(drop=True), labels[~bad.to_numpy() & pd.notna(labels)]
    found = _boxes(rows, classes, path, sequence, several, file)
    if sequence.length is None or path.name.lower() == "det.txt":
        return found
    empty = np.setdiff1d(np.arange(sequence.length), _spoken_of(lines.columns["frame"]) - 1)
    return join([found, table(len(empty), {**_common(empty, sequence, several, file), "place": _places(empty)})])


def _counts(numbers: np.ndarray) -> np.ndarray:
    """Whether each is a whole number that one can count with: infinities are no remainder's business."""
    with np.errstate(invalid="ignore"):
        return (np.abs(numbers) <= MAX_INDEX) & (numbers % 1 == 0)


def _spoken_of(texts: Any) -> np.ndarray:
    """The frames that any line speaks of, also one that could not be used: such a frame is not empty."""
    numbers = csv_file.number(texts)
    return numbers[np.isfinite(numbers)]


def _places(frames: np.ndarray) -> list[str]:
    return [f"frame {frame + 1}" for frame in frames.tolist()]


def _common(frames: np.ndarray, sequence: _Sequence, several: bool, file: str) -> dict[str, Any]:
    # Called like a file, so that nobody takes a sequence named `test` for a data set's folder.
    video = sequence.name if without_video_suffix(sequence.name) != sequence.name else f"{sequence.name}.mp4"
    return {
        "frame_name": [f"{video}/{frame:06d}" for frame in frames.tolist()] if several else None,
        "frame_index": frames,
        "width": sequence.width,
        "height": sequence.height,
        "file": file,
    }


def _labels(
    rows: pd.DataFrame, bad: np.ndarray, width: int, sequence: _Sequence, file: str, log: ProblemLog
) -> np.ndarray:
    """The class of each row by name, None where it has none that is known."""
    names = sequence.labels or list(CLASSES)
    alone = names[0] if sequence.labels is None or len(names) == 1 else None
    labels = np.full(len(rows), alone, dtype=object)
    if "class" not in rows or (width > len(_FIELDS) and sequence.labels is None):
        numbers = np.full(len(rows), -1.0)
    else:
        numbers = rows["class"].to_numpy(dtype=np.float64)
    said = ~np.isnan(numbers) & (numbers != -1)
    known = said & _counts(numbers) & (numbers >= 1) & (numbers <= len(names))
    labels[known] = np.array(names, dtype=object)[numbers[known].astype(np.int64) - 1]
    labels[said & ~known] = None
    labels[labels == ""] = None
    for i in log.first("class", file, np.flatnonzero(~bad & pd.isna(labels))):
        what = f"class {numbers[i]:g} has no name among the {len(names)} classes"
        log.tell(file, f"line {rows['line'].iloc[i]}", what, f"dropped; write the names into {_LABELS}", kind="class")
    return labels


def _boxes(
    rows: pd.DataFrame, classes: np.ndarray, path: Path, sequence: _Sequence, several: bool, file: str
) -> pd.DataFrame:
    frames = rows["frame"].to_numpy(dtype=np.int64) - 1
    first_pixel = 0 if sequence.labels else 1
    left, top = rows["left"].to_numpy() - first_pixel, rows["top"].to_numpy() - first_pixel
    ids = rows["id"].to_numpy()
    tracked = _counts(ids) & (ids >= 0)
    conf = rows["conf"].to_numpy() if "conf" in rows else np.full(len(rows), np.nan)
    name = path.name.lower()
    # Ground truth is told by its name, else by its flags and ids.
    truth = name == "gt.txt" or (name != "det.txt" and bool(tracked.any() or np.isin(conf, (0, 1)).all()))
    seen = rows["visibility"].to_numpy() if "visibility" in rows and _has_visibility(rows) else None
    with np.errstate(invalid="ignore"):
        corners = {"x1": left, "y1": top, "x2": left + rows["width"], "y2": top + rows["height"]}
    return table(
        len(rows),
        {
            **_common(frames, sequence, several, file),
            "class": classes,
            **corners,
            "track": [str(int(key)) if is_one else None for key, is_one in zip(ids, tracked, strict=True)],
            "confidence": np.where(conf == -1, np.nan, conf) if not truth else None,
            "attributes": _attributes(conf == 0 if truth else np.zeros(len(rows), dtype=bool), seen),
            "place": [f"line {number}" for number in rows["line"].tolist()],
        },
    )


def _has_visibility(rows: pd.DataFrame) -> bool:
    """Whether the eighth and ninth field are class and visibility: of world coordinates both are -1, or anything."""
    return bool((rows["class"] >= 1).all()) and bool(rows["visibility"].between(0, 1).all())


def _attributes(ignored: np.ndarray, seen: np.ndarray | None) -> list[str | None]:
    texts: list[str | None] = [None] * len(ignored)
    partly = np.zeros(len(ignored), dtype=bool) if seen is None else (seen >= 0) & (seen < 1)
    for i in np.flatnonzero(ignored | partly):
        one: dict[str, Any] = {"ignored": True} if ignored[i] else {}
        if seen is not None and partly[i]:
            one["visibility"] = float(seen[i])
        texts[i] = orjson.dumps(one, option=orjson.OPT_SORT_KEYS).decode()
    return texts

"""What the writers of all formats share: boxes grouped by frame, refusals before anything is written, and what is lost.

A writer names the columns of `OPTIONAL` that its format can hold. What the table says beyond them is told as problems.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from detection_assets.domain.formats.frame_names import stem_of
from detection_assets.domain.formats.parsed import FLAGS, frame_name
from detection_assets.domain.problems import InputError, Problem

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
OPTIONAL = ("frame_index", "pts_s", "track", "annotator", "reviewed", "confidence", *FLAGS, "attributes")
"""What a table may say of a box or a frame, and not every format can hold."""

_ONLY_TRUE = ("reviewed", "difficult", "truncated", "occluded", "crowd")
_CORNERS = ("x1", "y1", "x2", "y2")


@dataclass(frozen=True)
class Saved:
    """What a writer wrote.

    Attributes:
        files: The files.
        problems: What the format cannot hold, one a column that says something.
    """

    files: list[Path]
    problems: list[Problem]


class SavedBox(NamedTuple):
    """A box to write, corners in pixels.

    Attributes:
        label: The class.
        corners: `x1, y1, x2, y2`.
        track: The object's id along the video.
        says: What else the row says, by the names of `OPTIONAL`; never None or NaN.
    """

    label: str
    corners: tuple[float, float, float, float]
    track: str | None
    says: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class SavedFrame:
    """A frame to write, with its boxes; none means that the frame is known to be empty. `pts_s` is its time."""

    name: str
    index: int | None
    width: int | None
    height: int | None
    boxes: list[SavedBox]
    pts_s: float | None = None

    @property
    def stem(self) -> str:
        """The base name without its extension."""
        return frame_stem(self.name)


@dataclass(frozen=True)
class Grouped:
    """A table of boxes by frame, column by column: for writers that have no time for an object a box.

    Attributes:
        names: The frames' names, cleaned, in the order of their first row.
        index: Their numbers.
        width: Their widths.
        height: Their heights.
        pts_s: Their times.
        rows: Positions in the table of the rows that are boxes, frame by frame.
        starts: Where in `rows` each frame's boxes begin, and at last their number.
        labels: The class of each of `rows`, as a position in the classes.
        corners: `x1, y1, x2, y2` of each of `rows`.
        empty_for: Who found a frame empty, by its position in `names`, where the table says who did.
    """

    names: list[str]
    index: list[int | None]
    width: list[int | None]
    height: list[int | None]
    pts_s: list[float | None]
    rows: np.ndarray
    starts: np.ndarray
    labels: np.ndarray
    corners: np.ndarray
    empty_for: Mapping[int, list[str]]

    def frames(self) -> np.ndarray:
        """The frame of each of `rows`, as a position in `names`."""
        return np.repeat(np.arange(len(self.names)), np.diff(self.starts))


def group(boxes: pd.DataFrame, classes: Sequence[str]) -> Grouped:
    """Groups a table of boxes by frame; arguments and refusals are those of `frames_to_save`."""
    label_codes, labels = pd.factorize(boxes["class"])
    number = {name: i for i, name in enumerate(classes)}
    texts = [str(label) for label in labels]
    check_classes(boxes, classes)
    codes, names = _frames(boxes)
    firsts = np.zeros(len(names), dtype=np.int64)
    firsts[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    rows = np.flatnonzero(label_codes >= 0)
    rows = rows[np.argsort(codes[rows], kind="stable")]
    starts = np.zeros(len(names) + 1, dtype=np.int64)
    np.cumsum(np.bincount(codes[rows], minlength=len(names)), out=starts[1:])
    return Grouped(
        names,
        _numbers(boxes, "frame_index", firsts),
        _numbers(boxes, "width", firsts),
        _numbers(boxes, "height", firsts),
        _times(boxes, firsts),
        rows,
        starts,
        np.array([number[text] for text in texts], dtype=np.int64)[label_codes[rows]],
        np.column_stack([boxes[name].to_numpy(dtype=np.float64, na_value=np.nan)[rows] for name in _CORNERS]),
        _empty_for(boxes, codes, np.flatnonzero(label_codes < 0)),
    )


def _empty_for(boxes: pd.DataFrame, codes: np.ndarray, rows: np.ndarray) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    if "annotator" in boxes and len(rows):
        people = boxes["annotator"].iloc[rows]
        for code, who in zip(codes[rows].tolist(), people.tolist(), strict=True):
            if (name := optional_text(who)) and name not in found.setdefault(code, []):
                found[code].append(name)
    return {code: names for code, names in found.items() if names}


def _frames(boxes: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """The frame of each row, numbered in the order of their first rows, and the frames' names."""
    found: dict[str, int] = {}
    if "frame_name" in boxes:
        raw, unique = pd.factorize(boxes["frame_name"])
        called = [frame_name(str(name)) for name in unique]
        codes = np.array([*(found.setdefault(name, len(found)) if name else -1 for name in called), -1])[raw]
    else:
        codes = np.full(len(boxes), -1)
    nameless = np.flatnonzero(codes < 0)
    if len(nameless):
        numbers = boxes["frame_index"].iloc[nameless] if "frame_index" in boxes else None
        if numbers is None or bool(numbers.isna().to_numpy().any()):
            raise InputError("a box to save has neither frame_name nor frame_index; give one of them")
        raw, unique = pd.factorize(numbers)
        called = [f"{int(value):06d}.jpg" for value in unique]
        codes[nameless] = np.array([found.setdefault(name, len(found)) for name in called])[raw]
    ordered, unique = pd.factorize(codes)
    names = list(found)
    return ordered, [names[code] for code in unique]


def _numbers(boxes: pd.DataFrame, name: str, rows: np.ndarray) -> list[int | None]:
    if name not in boxes:
        return [None] * len(rows)
    column = boxes[name].iloc[rows]
    known = column.notna().tolist()
    return [int(value) if here else None for value, here in zip(column.tolist(), known, strict=True)]


def _times(boxes: pd.DataFrame, rows: np.ndarray) -> list[float | None]:
    if "pts_s" not in boxes:
        return [None] * len(rows)
    column = boxes["pts_s"].iloc[rows]
    known = column.notna().tolist()
    return [float(value) if here else None for value, here in zip(column.tolist(), known, strict=True)]


def frames_to_save(boxes: pd.DataFrame, classes: Sequence[str]) -> list[SavedFrame]:
    """Groups a table of boxes by frame, frames in the order of their first row.

    Args:
        boxes: Columns `frame_name`, `frame_index` (either may be missing: a frame without a name is called by its
            number), `width`, `height`, `class` (None for an empty frame), `x1, y1, x2, y2` in pixels, and any of
            `OPTIONAL`.
        classes: The classes that may occur.

    Returns:
        The frames.

    Raises:
        InputError: A class that is not in `classes`, or a frame with neither name nor number.
    """
    grouped = group(boxes, classes)
    says = said(boxes, grouped.rows)
    labels = [classes[i] for i in grouped.labels.tolist()]
    tracks = [None if (track := one.get("track")) is None else str(track) for one in says]
    rows = zip(labels, *grouped.corners.T.tolist(), tracks, says, strict=True)
    saved = [SavedBox(label, (x1, y1, x2, y2), track, more) for label, x1, y1, x2, y2, track, more in rows]
    starts = grouped.starts.tolist()
    columns = zip(grouped.names, grouped.index, grouped.width, grouped.height, grouped.pts_s, strict=True)
    return [
        SavedFrame(name, index, width, height, saved[starts[i] : starts[i + 1]], time)
        for i, (name, index, width, height, time) in enumerate(columns)
    ]


def said(boxes: pd.DataFrame, rows: np.ndarray, names: Collection[str] = OPTIONAL) -> list[dict[str, Any]]:
    """What each of `rows` says in the columns `names`; a column costs only where it says something."""
    says: list[dict[str, Any]] = [{} for _ in range(len(rows))]
    for name in names:
        if name in boxes:
            column = boxes[name].iloc[rows]
            here = np.flatnonzero(column.notna().to_numpy())
            for i, value in zip(here.tolist(), column.iloc[here].tolist(), strict=True):
                says[i][name] = value
    return says


def frame_stem(name: str) -> str:
    """The base name of a frame without its extension."""
    return stem_of(name.rpartition("/")[2])


def lost(boxes: pd.DataFrame, holds: Collection[str], file: str) -> list[Problem]:
    """Tells what a format cannot hold.

    Args:
        boxes: The table that is written.
        holds: The columns of `OPTIONAL` that the format has a place for.
        file: The file or folder written, as messages name it.

    Returns:
        One problem a column that says something and is not written. A flag that is nowhere True says nothing, except
        `keyframe`: most formats write a 0 for what nobody looked at.
    """
    problems: list[Problem] = []
    for name in OPTIONAL:
        if name in boxes and name not in holds:
            says = boxes[name].notna().to_numpy()
            if name in _ONLY_TRUE:
                says &= boxes[name].eq(True).fillna(False).to_numpy(dtype=bool)
            if number := int(says.sum()):
                what = f"the format has no place for '{name}', which {number} rows say"
                problems.append(Problem(file, name, what, "left out; export as another format to keep it"))
    return problems


def one_stem_each(frames: Iterable[SavedFrame | str]) -> list[str]:
    """Refuses two frames that would be written to one file.

    Args:
        frames: The frames, or their names.

    Returns:
        The stem of each.

    Raises:
        InputError: Names both.
    """
    seen: dict[str, str] = {}
    stems: list[str] = []
    for frame in frames:
        name = frame if isinstance(frame, str) else frame.name
        stem = frame_stem(name)
        if (other := seen.setdefault(stem, name)) != name:
            raise InputError(f"frames '{other}' and '{name}' would be written to one file; rename one of them")
        stems.append(stem)
    return stems


def check_classes(boxes: pd.DataFrame, classes: Sequence[str]) -> None:
    """Refuses a table with a class that is not in `classes`.

    Raises:
        InputError: Names the class.
    """
    unknown = sorted({str(value) for value in boxes["class"].dropna().unique()} - set(classes))
    if unknown:
        raise InputError(f"class '{unknown[0]}' is not among the classes to save: {', '.join(classes)}")


def xml_text(value: str) -> str:
    """The text itself, if XML can hold it.

    Raises:
        InputError: It holds a control character that no XML file can have.
    """
    if _NOT_XML.search(value):
        raise InputError(f"{value!r} holds a character that XML cannot; rename it")
    return value


def optional_text(value: Any) -> str | None:
    """The value as text; None where it is missing."""
    return None if value is None or pd.isna(value) else str(value)

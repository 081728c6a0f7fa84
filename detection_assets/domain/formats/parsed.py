"""What every annotation format is read into, and the means all readers share.

A reader turns files into one table (`Parsed.boxes`) and a list of problems. Here live the table's columns, reading a
file without trusting it, and a log that stays small however much is wrong with the input.
"""

from __future__ import annotations

import codecs
import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from detection_assets.domain.problems import Problem

COLUMNS: dict[str, Literal["object", "Int64", "float64", "bool", "boolean"]] = {
    "frame_name": "object",
    "frame_index": "Int64",
    "pts_s": "float64",
    "width": "Int64",
    "height": "Int64",
    "class": "object",
    "x1": "float64",
    "y1": "float64",
    "x2": "float64",
    "y2": "float64",
    "relative": "bool",
    "track": "object",
    "annotator": "object",
    "reviewed": "bool",
    "confidence": "float64",
    "keyframe": "boolean",
    "difficult": "boolean",
    "truncated": "boolean",
    "occluded": "boolean",
    "crowd": "boolean",
    "attributes": "object",
    "file": "object",
    "place": "object",
}
"""Columns of `Parsed.boxes` and their types. `object` columns hold `str` or None; `boolean` ones True, False or NA."""

FLAGS = ("keyframe", "difficult", "truncated", "occluded", "crowd")
"""What a format may say of a box; NA where it does not."""

MAX_LISTED = 1000
"""Problems of one kind in one file that are told one by one; the rest are told as a number."""

MAX_INDEX = 2**31 - 1
"""Largest frame number, width or height that is believed."""

HEAD = 2**16
"""Bytes that are enough to tell a format."""

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@dataclass(frozen=True)
class Parsed:
    """Annotation files, read but not yet matched to frames.

    Attributes:
        boxes: One row a box, with the columns of `COLUMNS`. A row whose `class` is None says that the file covers the
            frame and there is nothing in it; its coordinates are NaN. Corners are continuous, origin top left, `x2`
            and `y2` exclusive; pixels, or fractions of the frame where `relative`. `pts_s` is the frame's time in the
            video where the file says it, in seconds. `reviewed` is True where the file says that somebody checked the
            annotator's work, `confidence` is from 0 to 1. `keyframe` is False where a track's box was interpolated.
            `attributes` is what else the annotator said of the box: a JSON object, keys sorted, or None.
        problems: What was wrong, in the order met.
    """

    boxes: pd.DataFrame
    problems: list[Problem]


class Unreadable(Exception):
    """A file that cannot be used at all; becomes one problem, and the other files go on."""

    def __init__(self, what: str, remedy: str, place: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy
        self.place = place

    def problem(self, file: str) -> Problem:
        """The problem to report for `file`."""
        return Problem(file, self.place, self.what, f"skipped the file: {self.remedy}", "unreadable")


@dataclass
class ProblemLog:
    """Problems of many files, at most `MAX_LISTED` of a kind in a file one by one, the rest as one number."""

    _listed: list[Problem] = field(default_factory=list[Problem])
    _counts: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    _last: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])

    def room(self, file: str, kind: str) -> bool:
        """Counts one more problem and says whether it is still to be told, so that its text is made only if needed."""
        count = self._counts[file, kind] = self._counts.get((file, kind), 0) + 1
        return count <= MAX_LISTED

    def add(self, kind: str, file: str, place: str, what: str, done: str) -> None:
        """Tells a problem, unless there were too many of its kind in the file."""
        if self.room(file, kind):
            self.tell(file, place, what, done, kind=kind)

    def first(self, kind: str, file: str, rows: np.ndarray) -> np.ndarray:
        """Counts a problem a row and gives those that are still to be told."""
        before = self._counts.get((file, kind), 0)
        if len(rows):
            self._counts[file, kind] = before + len(rows)
        return rows[: max(0, MAX_LISTED - before)]

    def tell(self, file: str, place: str, what: str, done: str, **about: Any) -> None:
        """Tells a problem for which `room` said yes, or of which a file has only one; `about`: more of `Problem`."""
        problem = Problem(file, place, what, done, **about)
        self._listed.append(problem)
        self._last[file, problem.kind] = problem.action

    def unreadable(self, file: str, error: Unreadable) -> None:
        """Tells that a whole file was left out."""
        self._listed.append(error.problem(file))

    def problems(self) -> list[Problem]:
        """All problems told, and for each kind that had too many one more that gives the number."""
        more = [
            Problem(
                *(file, "", f"{count - MAX_LISTED} more problems of the kind '{kind}', {count} in all"),
                done=f"{self._last.get((file, kind), '')}, not listed".removeprefix(", "),
                kind=kind,
                number=count - MAX_LISTED,
            )
            for (file, kind), count in self._counts.items()
            if count > MAX_LISTED
        ]
        return [*self._listed, *more]


def table(rows: int, columns: Mapping[str, Any]) -> pd.DataFrame:
    """Makes a table with exactly the columns of `COLUMNS`.

    Args:
        rows: Number of rows.
        columns: A sequence of `rows` values or one value for all rows, by column. Missing ones are None, NaN or False.

    Returns:
        The table, with the types of `COLUMNS` whatever the values are.
    """
    return pd.DataFrame({name: _column(dtype, rows, columns.get(name)) for name, dtype in COLUMNS.items()})


def table_of(rows: Sequence[Mapping[str, Any]], file: str) -> pd.DataFrame:
    """A table of rows that one file has, each with those of the columns of `COLUMNS` that it says something in."""
    said = {name for row in rows for name in row}
    values = {name: [row.get(name) for row in rows] for name in COLUMNS if name in said}
    for name in ("relative", "reviewed"):
        values[name] = [bool(row.get(name)) for row in rows]
    return table(len(rows), {**values, "file": file})


def _column(dtype: str, rows: int, values: Any) -> Any:
    if dtype == "Int64":
        if values is None or isinstance(values, int):
            values = [values] * rows if rows < 2 else pd.array([values], dtype="Int64").repeat(rows)
        return pd.array(values, dtype="Int64")
    if dtype == "boolean":
        known = [values] * rows if values is None or isinstance(values, bool) else values
        return pd.array(known, dtype="boolean")
    if dtype == "object":
        column = np.empty(rows, dtype=object)
        column[:] = values
        return column
    if values is None:
        values = np.nan if dtype == "float64" else False
    return np.full(rows, values, dtype=dtype) if np.ndim(values) == 0 else np.asarray(values, dtype=dtype)


def join(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Puts tables of the same columns under one another; without any, an empty table."""
    filled = [part for part in tables if len(part)]
    if not filled:
        return table(0, {})
    return filled[0] if len(filled) == 1 else pd.concat(filled, ignore_index=True)


def each_file(
    paths: Sequence[Path], root: Path, read: Callable[[Path, str, ProblemLog], pd.DataFrame | None]
) -> tuple[list[pd.DataFrame], ProblemLog]:
    """Reads files one by one; what cannot be read becomes a problem and the others go on.

    Args:
        paths: The files.
        root: Folder that the names in messages are relative to.
        read: Reads one file: its path, its name in messages, the log. Raises `Unreadable`. Formats of one file a frame
            gather their rows themselves and return None: a table a file would cost more than the reading.

    Returns:
        The tables in the order of `paths`, and the log.
    """
    log = ProblemLog()
    tables: list[pd.DataFrame] = []
    for path in paths:
        file = relative_name(path, root)
        try:
            part = read(path, file, log)
            if part is not None:
                tables.append(part)
        except Unreadable as error:
            log.unreadable(file, error)
    return tables, log


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keeps Python from looking for cycles while many objects that hold none are made; that took most of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def relative_name(path: Path, root: Path) -> str:
    """The file as messages name it: relative to `root` with `/`, or the whole path if it lies elsewhere."""
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        return path.as_posix()


def read_bytes(path: Path, limit: int) -> bytes:
    """Reads a file of at most `limit` bytes.

    Raises:
        Unreadable: It cannot be opened, or it is larger.
    """
    try:
        if path.stat().st_size > limit:
            raise Unreadable(f"larger than {limit // 2**20} MiB", "split it into several files")
        return path.read_bytes()
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror or error}", "check that it exists and is readable") from None


def decode(data: bytes) -> str:
    """Decodes text as its byte order mark says, else as UTF-8.

    Raises:
        Unreadable: The bytes are no text in that encoding; the place is the line.
    """
    encoding = "utf-8"
    for mark, name in _BOMS:
        if data.startswith(mark):
            data, encoding = data[len(mark) :], name
            break
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Unreadable(f"not {encoding.upper()} text", "save it as UTF-8", f"line {line}") from None


def lenient(head: bytes) -> str:
    """The head of a file as text. It may end inside a character, and its encoding is for the reader to judge."""
    wide = head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return head.decode("utf-16" if wide else "utf-8-sig", "replace")


def frame_name(value: str) -> str:
    """Cleans a frame's name that a stranger wrote: `/` between folders, no drive, nothing that leads upwards.

    A name that is absolute or holds `..` says nothing about our folders, so only its base name is kept.
    """
    parts = value.replace("\\", "/").strip().split("/")
    absolute = len(parts) > 1 and (not parts[0] or parts[0].endswith(":"))
    clean = [part for part in parts if part not in ("", ".", "..")]
    if not clean:
        return ""
    return clean[-1] if absolute or ".." in parts else "/".join(clean)


def whole(value: object, least: int = 0) -> int | None:
    """The value as a whole number from `least` to `MAX_INDEX`, or None where it is no such number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return int(number) if least <= number <= MAX_INDEX and number.is_integer() else None

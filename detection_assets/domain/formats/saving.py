"""What the writers of all formats share: boxes grouped by frame, refusals before anything is written, and what is lost.

A writer names the columns of `OPTIONAL` that its format can hold. What the table says beyond them is told as problems.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from detection_assets.domain.formats.frame_names import stem_of
from detection_assets.domain.formats.parsed import FLAGS, frame_name
from detection_assets.domain.problems import InputError, Problem

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
OPTIONAL = ("frame_index", "pts_s", "track", "annotator", "reviewed", "confidence", *FLAGS, "attributes")
"""What a table may say of a box or a frame, and not every format can hold."""


@dataclass(frozen=True)
class Saved:
    """What a writer wrote.

    Attributes:
        files: The files.
        problems: What the format cannot hold, one a column that says something.
    """

    files: list[Path]
    problems: list[Problem]


@dataclass(frozen=True)
class SavedBox:
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
    says: Mapping[str, Any] = field(default_factory=dict[str, Any])


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
        return stem_of(self.name.rpartition("/")[2])


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
    check_classes(boxes, classes)
    frames: dict[str, SavedFrame] = {}
    for row in boxes.to_dict("records"):
        index, width, height = (_optional_int(row.get(key)) for key in ("frame_index", "width", "height"))
        name = frame_name(text) if (text := optional_text(row.get("frame_name"))) else ""
        if not name and index is None:
            raise InputError("a box to save has neither frame_name nor frame_index; give one of them")
        name = name or f"{index:06d}.jpg"
        time = row.get("pts_s")
        known = None if time is None or pd.isna(time) else float(time)
        frame = frames.setdefault(name, SavedFrame(name, index, width, height, [], known))
        label = optional_text(row["class"])
        if label is not None:
            corners = (float(row["x1"]), float(row["y1"]), float(row["x2"]), float(row["y2"]))
            says = {name: row[name] for name in OPTIONAL if name in row and not pd.isna(row[name])}
            frame.boxes.append(SavedBox(label, corners, optional_text(row.get("track")), says))
    return list(frames.values())


def lost(boxes: pd.DataFrame, holds: Collection[str], file: str) -> list[Problem]:
    """Tells what a format cannot hold.

    Args:
        boxes: The table that is written.
        holds: The columns of `OPTIONAL` that the format has a place for.
        file: The file or folder written, as messages name it.

    Returns:
        One problem a column that says something and is not written. A `reviewed` that is nowhere True says nothing.
    """
    problems: list[Problem] = []
    for name in OPTIONAL:
        if name in boxes and name not in holds:
            said = boxes[name].fillna(False).astype(bool) if name == "reviewed" else boxes[name].notna()
            if number := int(said.sum()):
                what = f"the format has no place for '{name}', which {number} rows say"
                problems.append(Problem(file, name, what, "left out; export as another format to keep it"))
    return problems


def one_stem_each(frames: Sequence[SavedFrame]) -> None:
    """Refuses two frames that would be written to one file.

    Raises:
        InputError: Names both.
    """
    seen: dict[str, str] = {}
    for frame in frames:
        other = seen.setdefault(frame.stem, frame.name)
        if other != frame.name:
            raise InputError(f"frames '{other}' and '{frame.name}' would be written to one file; rename one of them")


def check_classes(boxes: pd.DataFrame, classes: Sequence[str]) -> None:
    """Refuses a table with a class that is not in `classes`.

    Raises:
        InputError: Names the class.
    """
    unknown = sorted({text for value in boxes["class"].unique() if (text := optional_text(value))} - set(classes))
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


def _optional_int(value: Any) -> int | None:
    return None if value is None or pd.isna(value) else int(value)

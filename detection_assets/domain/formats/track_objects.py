"""Objects of a video as rows of a table have them, and the frames at which a tool for videos needs a keyframe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from detection_assets.domain.formats.saving import said
from detection_assets.domain.formats.shapes import Corners
from detection_assets.domain.problems import InputError, Problem

_XY = ("x1", "y1", "x2", "y2")


@dataclass(frozen=True)
class Object:
    """The rows of one object in the order of frames, column by column.

    `keys` says which were drawn and not interpolated, `says` what else a row says, by the names of `saving.OPTIONAL`.
    """

    name: str
    label: str
    frames: list[int]
    corners: list[Corners]
    keys: list[bool]
    says: list[dict[str, Any]]


def objects(boxes: pd.DataFrame) -> Iterator[Object]:
    """The objects in the order of their first rows, then rows without a track, with numbers that no track has.

    Args:
        boxes: One row a box, in pixels, each with a `frame_index`.

    Raises:
        InputError: A track of two classes.
    """
    rows = np.flatnonzero(boxes["class"].notna().to_numpy())
    taken = boxes.iloc[rows]
    if "track" in boxes:
        codes, unique = pd.factorize(taken["track"])
    else:
        codes, unique = np.full(len(rows), -1), []
    names = [str(name) for name in unique]
    free = max((int(name) for name in names if name.isascii() and name.isdigit()), default=-1) + 1
    single = np.flatnonzero(codes < 0)
    codes[single] = np.arange(len(names), len(names) + len(single))
    names += [str(free + i) for i in range(len(single))]
    frames = taken["frame_index"].astype("int64").to_numpy()
    order = np.lexsort((frames, codes))
    labels = [str(label) for label in taken["class"].iloc[order].tolist()]
    corners = list(zip(*(taken[name].iloc[order].astype("float64").tolist() for name in _XY), strict=True))
    says = said(boxes, rows[order])
    numbers = frames[order].tolist()
    starts = np.append(np.flatnonzero(np.diff(codes[order], prepend=-1)), len(order)).tolist()
    for name, (a, b) in zip(names, pairwise(starts), strict=True):
        if any(label != labels[a] for label in labels[a:b]):
            raise InputError(f"track '{name}' has boxes of several classes; give each object a track of its own")
        keys = [bool(one.get("keyframe", True)) for one in says[a:b]]
        yield Object(name, labels[a], numbers[a:b], corners[a:b], keys, says[a:b])


def unseen(boxes: pd.DataFrame, covered: int, file: str) -> list[Problem]:
    """Tells that a file of a video speaks for frames that the table does not have: none is left out of a track.

    Args:
        boxes: The table that is written, each row with a `frame_index`.
        covered: How many frames the file speaks for.
        file: The file, as messages name it.
    """
    seen = boxes["frame_index"].nunique()
    if covered <= seen:
        return []
    what = f"a video's file speaks for all of its frames, here {covered}, and the table has {seen} of them"
    done = "written so that others have boxes in a straight line between, or none; export pictures to leave them out"
    return [Problem(file, "frame_index", what, done, "frames between", number=covered - seen)]


def marks(one: Object, step: int, other: Callable[[int, int], bool]) -> Iterator[tuple[int, bool]]:
    """The rows of an object that must be keyframes, and whether the object is gone after each.

    Args:
        one: The object.
        step: From one frame that was looked at to the next.
        other: Whether two rows say something else of the box.

    Raises:
        InputError: The object has two boxes in one frame.
    """
    frames, last = one.frames, len(one.frames) - 1
    for i, frame in enumerate(frames):
        if i and frame == frames[i - 1]:
            raise InputError(f"track '{one.name}' has two boxes in frame {frame}; give each object a track of its own")
        begins = i == 0 or frame - frames[i - 1] > step
        ends = i == last or frames[i + 1] - frame > step
        if begins or ends or one.keys[i] or other(i, i - 1):
            yield i, ends

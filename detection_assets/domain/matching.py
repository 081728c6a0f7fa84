"""From parsed annotation files to the `annotations` table of one video: every box on its frame, in pixels, legal.

What does not fit is dropped with a problem that names file and place, and counted; the rest goes on. All steps work on
whole columns, so a million boxes take seconds.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from detection_assets.domain import frame_matching
from detection_assets.domain.formats.parsed import FLAGS, Parsed, ProblemLog
from detection_assets.domain.problems import Problem

_CARRIED = ("track", "annotator", "reviewed", "confidence", *FLAGS, "attributes")
"""What the files say of a box that goes into the table as it stands."""
COLUMNS = ["video", "frame", "class", "x1", "y1", "x2", "y2", "source", *_CARRIED]
COUNTS = (
    *("boxes_read", "boxes_kept", "boxes_elsewhere", "unknown_class", "illegal", "duplicates", "superseded", "clipped"),
    *frame_matching.COUNTS,
    *("conflicts", "scaled"),
)
SAME_PX = 0.5
"""Corners that differ by no more are the same: formats round differently. A box may stick out this much unmentioned."""

ASPECT = 0.02
"""How much the shapes of frame and annotated picture may differ, relatively, for the one to be a copy of the other."""

_CORNERS = ["x1", "y1", "x2", "y2"]


@dataclass(frozen=True)
class Matched:
    """Annotations of one video.

    Attributes:
        boxes: The `annotations` table, columns as `COLUMNS`, corners in pixels of the frame; a row without class
            is a frame known to be empty. Ordered by frame, then class.
        problems: What was dropped, clipped or decided, by file and place.
        counts: Numbers by the names of `COUNTS`. Every box read is counted in exactly one of `boxes_kept`,
            `boxes_elsewhere` (its frame is none of this table's), `unknown_class`, `illegal`, `duplicates` and
            `superseded` (another file's boxes for its frame were kept). `clipped` counts kept boxes that were cut,
            `scaled` boxes drawn on a copy of another size, `conflicts` frames on which files disagreed. The matched
            frames are those `matched_by_pts`, `matched_by_index` and `matched_by_name`.
    """

    boxes: pd.DataFrame
    problems: list[Problem]
    counts: dict[str, int]


@dataclass
class _Rows:
    """The rows of `Parsed.boxes` that are on frames of this video, column by column."""

    frame: np.ndarray
    label: np.ndarray
    corners: np.ndarray
    file: np.ndarray
    at: np.ndarray

    def take(self, keep: np.ndarray) -> _Rows:
        return _Rows(self.frame[keep], self.label[keep], self.corners[keep], self.file[keep], self.at[keep])


def match(parsed: Parsed, frames: pd.DataFrame, video: str, classes: Sequence[str], frame_count: int | None) -> Matched:
    """Puts parsed boxes on the extracted frames of one video.

    Frames are found by their time, number or name, as `frame_matching` describes. Relative boxes are scaled to the
    frame; so are boxes drawn on a smaller or larger copy of it. Where several files cover one frame, the last in sorted
    order speaks for it; if they disagree by more than `SAME_PX`, a problem names both. A frame with nothing left is an
    empty one if its boxes were of other classes, but is left out if they were illegal: then something is there, and
    nobody knows where.

    Args:
        parsed: The annotation files; not changed.
        frames: Rows of `extracted_frames`; those of other videos are passed over.
        video: The video's key.
        classes: The detector's classes, by name.
        frame_count: Frames that the video has; None if unknown, then every frame number is believed.

    Returns:
        The table, the problems and the counts. The problems of `parsed` are not repeated.
    """
    log = ProblemLog()
    counts = dict.fromkeys(COUNTS, 0)
    frames = frames.loc[frames["video"] == video].reset_index(drop=True)
    parsed_rows = parsed.boxes
    counts["boxes_read"] = int(parsed_rows["class"].notna().sum())
    found = frame_matching.find(parsed_rows, frames, video, frame_count, log)
    target = found.target
    counts |= found.counts
    at = np.flatnonzero(target >= 0)
    counts["boxes_elsewhere"] = counts["boxes_read"] - int(parsed_rows["class"].notna().to_numpy()[at].sum())
    file_codes, files = pd.factorize(parsed_rows["file"], sort=True)
    label_codes, labels = pd.factorize(parsed_rows["class"])
    corners = parsed_rows[_CORNERS].to_numpy(dtype=np.float64)[at]
    rows = _Rows(target[at], label_codes[at], corners, file_codes[at], at)
    teller = _Teller(parsed_rows, frames, log)
    misfit = _to_pixels(rows, teller, counts)
    speaks = _one_file_a_frame(rows, list(files), teller, counts)
    rows, misfit = rows.take(speaks), misfit[speaks]
    first = pd.Series(rows.at).groupby(rows.frame).first()
    boxes, misfit = rows.take(rows.label >= 0), misfit[rows.label >= 0]
    again = pd.DataFrame(boxes.corners).assign(frame=boxes.frame, label=boxes.label).duplicated().to_numpy()
    counts["duplicates"] = int(again.sum())
    boxes, misfit = boxes.take(~again), misfit[~again]
    known = _known_classes(boxes, [str(label) for label in labels], classes, teller, counts)
    boxes, misfit = boxes.take(known), misfit[known]
    legal = _legal(boxes, misfit, teller, counts)
    lost = np.unique(boxes.frame[~legal])
    boxes = boxes.take(legal)
    _clip(boxes, teller, counts)
    counts["boxes_kept"] = len(boxes.frame)
    empty = first.loc[~np.isin(first.index.to_numpy(), np.concatenate([boxes.frame, lost]))]
    table = _table(boxes, empty, parsed_rows, frames, video, [str(label) for label in labels])
    return Matched(table, log.problems(), counts)


class _Teller:
    """Tells problems of rows by their file and place; knows the frames' sizes."""

    def __init__(self, parsed_rows: pd.DataFrame, frames: pd.DataFrame, log: ProblemLog) -> None:
        self.log = log
        self.files: list[str] = parsed_rows["file"].tolist()
        self.places: list[str] = parsed_rows["place"].tolist()
        self.drawn = parsed_rows[["width", "height"]].to_numpy(dtype=np.float64, na_value=np.nan)
        self.relative = parsed_rows["relative"].to_numpy(dtype=bool)
        self.frames: list[str] = frames["frame"].tolist()
        self.sizes = frames[["width", "height"]].to_numpy(dtype=np.float64, na_value=np.nan)

    def boxes(self, kind: str, rows: _Rows, where: Any, done: str) -> None:
        """One problem a row of `where`, showing the box."""
        for i in np.flatnonzero(where):
            file = self.files[rows.at[i]]
            if self.log.room(file, kind):
                width, height = self.sizes[rows.frame[i]]
                shown = ", ".join(f"{value:.6g}" for value in rows.corners[i])
                what = f"{kind}: box {shown} on frame {self.frames[rows.frame[i]]} of {width:.6g}x{height:.6g}"
                self.log.tell(file, self.places[rows.at[i]] or "", what, done)


def _to_pixels(rows: _Rows, teller: _Teller, counts: dict[str, int]) -> np.ndarray:
    """Scales boxes in place to their frames' pixels; returns where that cannot be."""
    size = teller.sizes[rows.frame]
    drawn = teller.drawn[rows.at]
    relative = teller.relative[rows.at]
    with np.errstate(all="ignore"):
        factor = size / drawn
        other_size = (
            ~relative & (rows.label >= 0) & (np.abs(size - drawn) >= 1).any(axis=1) & np.isfinite(factor).all(axis=1)
        )
        other_shape = other_size & (np.abs(factor[:, 0] / factor[:, 1] - 1) > ASPECT)
        scale = np.where(relative[:, None], size, np.where((other_size & ~other_shape)[:, None], factor, 1.0))
        rows.corners *= np.tile(scale, 2)
    counts["scaled"] = int((other_size & ~other_shape).sum())
    for code in np.unique(rows.file[other_size]):
        mine = other_size & (rows.file == code)
        for where, done in ((mine & ~other_shape, "scaled"), (mine & other_shape, "dropped")):
            if where.any():
                i = np.flatnonzero(where)[0]
                sizes = f"{drawn[i, 0]:.0f}x{drawn[i, 1]:.0f}, the frame has {size[i, 0]:.0f}x{size[i, 1]:.0f}"
                what = f"{int(where.sum())} boxes were drawn on pictures of another size: {sizes}"
                teller.log.tell(teller.files[rows.at[i]], teller.places[rows.at[i]] or "", what, done)
    return other_shape


def _one_file_a_frame(rows: _Rows, files: list[str], teller: _Teller, counts: dict[str, int]) -> np.ndarray:
    """Where a row is of the file that speaks for its frame. Tells where the other files say something else."""
    speaker = np.full(len(teller.frames), -1, dtype=np.int64)
    np.maximum.at(speaker, rows.frame, rows.file)
    speaks = rows.file == speaker[rows.frame]
    if speaks.all():
        return speaks
    silent = np.zeros(len(teller.frames), dtype=bool)
    silent[rows.frame[~speaks]] = True
    contested = rows.take(silent[rows.frame] & (rows.label >= 0))
    boxes = rows.take(silent[rows.frame])
    counts["superseded"] = int((~speaks & (rows.label >= 0)).sum())
    pairs = np.unique(np.column_stack([boxes.frame, boxes.file]), axis=0)
    n_files = len(files)
    keys = pairs[:, 0] * n_files + pairs[:, 1]
    against = np.searchsorted(keys, pairs[:, 0] * n_files + speaker[pairs[:, 0]])
    pair = np.searchsorted(keys, contested.frame * n_files + contested.file)
    sizes = np.bincount(pair, minlength=len(keys))
    differs = sizes != sizes[against]
    same_size = np.flatnonzero(~differs & (against != np.arange(len(keys))) & (sizes > 0))
    # Each corner is sorted by itself within frame, file and class, so boxes need not come in the same order.
    starts = np.cumsum(sizes) - sizes
    steps = np.arange(sizes[same_size].sum()) - np.repeat(
        np.cumsum(sizes[same_size]) - sizes[same_size], sizes[same_size]
    )
    one, two = (np.repeat(starts[which], sizes[same_size]) + steps for which in (same_size, against[same_size]))
    for column in range(4):
        values = np.nan_to_num(contested.corners[:, column], nan=-1e12, posinf=1e12, neginf=-1e12)
        order = np.lexsort((values, contested.label, pair))
        values, label = values[order], contested.label[order]
        other = (label[one] != label[two]) | (np.abs(values[one] - values[two]) > SAME_PX)
        differs[np.repeat(same_size, sizes[same_size])[other]] = True
    counts["conflicts"] = len(np.unique(pairs[differs, 0]))
    for i in np.flatnonzero(differs):
        frame, kept, left = pairs[i, 0], files[pairs[against[i], 1]], files[pairs[i, 1]]
        if teller.log.room(kept, f"conflict with {left}"):
            what = f"disagrees with {left}: {sizes[against[i]]} boxes here, {sizes[i]} there"
            teller.log.tell(
                kept, f"frame {teller.frames[frame]}", what, f"kept those of {kept}; remove one of the files"
            )
    return speaks


def _known_classes(
    boxes: _Rows, labels: list[str], classes: Sequence[str], teller: _Teller, counts: dict[str, int]
) -> np.ndarray:
    """Where a box is of one of the detector's classes. One problem a file and class."""
    is_known = (
        np.isin(np.array(labels, dtype=object), np.array(list(classes), dtype=object)) if labels else np.empty(0, bool)
    )
    known = is_known[boxes.label]
    counts["unknown_class"] = int((~known).sum())
    strange = boxes.take(~known)
    groups, where, sizes = np.unique(
        np.column_stack([strange.file, strange.label]), axis=0, return_index=True, return_counts=True
    )
    for group, i, size in zip(groups, where, sizes, strict=True):
        label, at = labels[group[1]], strange.at[i]
        near = difflib.get_close_matches(label.casefold(), [name.casefold() for name in classes], 1)
        meant = next((f"; did you mean '{name}'?" for name in classes if [name.casefold()] == near), "")
        if teller.log.room(teller.files[at], "unknown class"):
            what = f"class '{label}' is none of the detector's ({size} boxes, the first here){meant}"
            teller.log.tell(
                teller.files[at], teller.places[at] or "", what, "dropped; rename it or add it to the classes"
            )
    return known


def _legal(boxes: _Rows, misfit: np.ndarray, teller: _Teller, counts: dict[str, int]) -> np.ndarray:
    """Where a box can be on its frame. One problem a box that cannot."""
    x1, y1, x2, y2 = (boxes.corners[:, i] for i in range(4))
    width, height = teller.sizes[boxes.frame].T
    good = ~misfit
    with np.errstate(invalid="ignore"):
        faults: dict[str, Any] = {
            "not a number": ~np.isfinite(boxes.corners).all(axis=1) & np.isfinite(width * height),
            "frame of unknown size": ~((width > 0) & (height > 0)),
            "inverted": (x2 < x1) | (y2 < y1),
            "no area": (x2 <= x1) | (y2 <= y1),
            # A box cut by the edge sticks out a little. One that begins or ends a whole frame away is a slip.
            "absurd": (x1 < -width) | (y1 < -height) | (x2 > 2 * width) | (y2 > 2 * height),
            "outside the frame": (x1 >= width) | (y1 >= height) | (x2 <= 0) | (y2 <= 0),
        }
    for kind, fault in faults.items():
        teller.boxes(kind, boxes, fault & good, "dropped")
        good &= ~fault
    counts["illegal"] = int((~good).sum())
    return good


def _clip(boxes: _Rows, teller: _Teller, counts: dict[str, int]) -> None:
    """Cuts boxes in place at their frames' edges, and tells where that takes off more than `SAME_PX`."""
    size = np.tile(teller.sizes[boxes.frame], 2)
    inside = np.clip(boxes.corners, 0.0, size)
    out = (np.abs(inside - boxes.corners) > SAME_PX).any(axis=1)
    counts["clipped"] = int(out.sum())
    teller.boxes("out of frame", boxes, out, "clipped")
    boxes.corners = inside


def _table(
    boxes: _Rows, empty: pd.Series, parsed_rows: pd.DataFrame, frames: pd.DataFrame, video: str, labels: list[str]
) -> pd.DataFrame:
    """The annotations table, in the order of frames, then class and corners, so equal content has equal bytes."""
    frame = np.concatenate([boxes.frame, empty.index.to_numpy(dtype=np.int64)])
    at = np.concatenate([boxes.at, empty.to_numpy(dtype=np.int64)])
    corners = np.concatenate([boxes.corners, np.full((len(empty), 4), np.nan)])
    ranks = np.argsort(np.argsort(np.array(labels, dtype=object))) if labels else np.empty(0, dtype=np.int64)
    rank = np.concatenate([ranks[boxes.label], np.full(len(empty), -1)]).astype(np.int64)
    names = np.array([*sorted(labels), None], dtype=object)
    order = np.lexsort((*corners.T[::-1], rank, frames["index"].to_numpy(dtype=np.int64)[frame]))
    at = at[order]
    taken: dict[str, Any] = {name: parsed_rows[name].array.take(at) for name in _CARRIED}
    nothing = rank[order] < 0
    taken["track"] = np.where(nothing, None, taken["track"])
    columns: dict[str, Any] = {
        "video": np.full(len(at), video, dtype=object),
        "frame": frames["frame"].to_numpy(dtype=object)[frame[order]],
        "class": names[rank[order]],
        **{name: corners[order, i] for i, name in enumerate(_CORNERS)},
        "source": parsed_rows["file"].to_numpy(dtype=object)[at],
        **taken,
    }
    return pd.DataFrame({name: columns[name] for name in COLUMNS})

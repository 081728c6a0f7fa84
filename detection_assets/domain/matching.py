"""From parsed annotation files to the `annotations` table of one video: every box on its frame, in pixels, legal.

What does not fit is dropped with a problem that names file and place, and counted; the rest goes on. All steps work on
whole columns, so a million boxes take seconds.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from detection_assets.domain import consensus, frame_matching, voices
from detection_assets.domain.agreement import LATEST, Policy
from detection_assets.domain.formats.parsed import FLAGS, Parsed, ProblemLog
from detection_assets.domain.matched_rows import SAME_PX, Rows, Teller
from detection_assets.domain.problems import Problem

_CARRIED = ("track", "annotator", "reviewed", "confidence", *FLAGS, "attributes")
"""What the files say of a box that goes into the table as it stands."""
COLUMNS = ["video", "frame", "class", "x1", "y1", "x2", "y2", "source", *_CARRIED]
COUNTS = (
    *("boxes_read", "boxes_kept", "boxes_elsewhere", "unknown_class", "illegal", "duplicates", "superseded", "clipped"),
    *frame_matching.COUNTS,
    *("conflicts", "scaled", "merged", "outvoted"),
)
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
            `boxes_elsewhere` (its frame is none of this table's), `unknown_class`, `illegal`, `duplicates`,
            `superseded` (another file's, or annotator's, boxes for its frame were kept), `merged` (with a box of the
            same object) and `outvoted` (too few annotators drew its object). `clipped` counts kept boxes that were cut,
            `scaled` boxes drawn on a copy of another size, `conflicts` frames on which files disagreed. The matched
            frames are those `matched_by_pts`, `matched_by_index` and `matched_by_name`.
        many: What each of several annotators says of the frames that they share, whatever came into the table: columns
            `frame, annotator, class, x1, y1, x2, y2`, a row a box, one without class where he found none.
    """

    boxes: pd.DataFrame
    problems: list[Problem]
    counts: dict[str, int]
    many: pd.DataFrame


def match(
    parsed: Parsed,
    frames: pd.DataFrame,
    video: str,
    classes: Sequence[str],
    frame_count: int | None,
    policy: Policy = LATEST,
) -> Matched:
    """Puts parsed boxes on the extracted frames of one video.

    Frames are found by their time, number or name, as `frame_matching` describes. Relative boxes are scaled to the
    frame; so are boxes drawn on a smaller or larger copy of it. Where several files or annotators cover one frame,
    `policy` says whose word counts: by `latest` the last file in sorted order, and in it the last annotator; if files
    disagree by more than `SAME_PX`, a problem names both. A frame with nothing left is an empty one if its boxes were
    of other classes, but is left out if they were illegal: then something is there, and nobody knows where.

    Args:
        parsed: The annotation files; not changed.
        frames: Rows of `extracted_frames`; those of other videos are passed over.
        video: The video's key.
        classes: The detector's classes, by name.
        frame_count: Frames that the video has; None if unknown, then every frame number is believed.
        policy: Whose word counts where several annotators looked at one frame.

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
    rows = Rows(target[at], label_codes[at], corners, file_codes[at], at)
    teller = Teller(parsed_rows, frames, video, log)
    misfit = _to_pixels(rows, teller, counts)
    heard = voices.voices(rows, parsed_rows)
    names = [str(label) for label in labels]
    several = np.flatnonzero(heard.several)
    many = _many(rows.take(several), misfit[several], heard.take(several), names, classes, teller)
    alone = policy.name == "latest"
    if alone:
        speaks = voices.latest(rows, heard, list(files), teller, counts)
    else:
        speaks = voices.each_once(rows, heard, counts)
    rows, misfit, heard = rows.take(speaks), misfit[speaks], heard.take(speaks)
    # Whoever says that a frame is empty answers for its being so before those who were outvoted.
    order = np.lexsort((rows.at, (rows.label >= 0) & (not alone)))
    first = pd.Series(rows.at[order]).groupby(rows.frame[order]).first()
    boxes, lost, row = _judged(rows, misfit, heard.code * (not alone), names, classes, teller, counts)
    instead: dict[str, np.ndarray] = {}
    if not alone:
        ranks = np.array([list(classes).index(name) if name in classes else -1 for name in names], dtype=np.int64)
        boxes, instead, unsure = consensus.settle(boxes, heard.take(row), heard, rows, ranks, policy, teller, counts)
        lost = np.concatenate([lost, unsure])
    counts["boxes_kept"] = len(boxes.frame)
    empty = first.loc[~np.isin(first.index.to_numpy(), np.concatenate([boxes.frame, lost]))]
    table = _table(boxes, empty, parsed_rows, frames, video, names, instead)
    return Matched(table, log.problems(), counts, many)


def _judged(
    rows: Rows,
    misfit: np.ndarray,
    voice: np.ndarray,
    labels: list[str],
    classes: Sequence[str],
    teller: Teller,
    counts: dict[str, int],
) -> tuple[Rows, np.ndarray, np.ndarray]:
    """The boxes that are of known classes and legal, clipped; frames on which one is not legal; and the boxes' rows."""
    row = np.flatnonzero(rows.label >= 0)
    boxes = rows.take(row)
    again = pd.DataFrame(boxes.corners).assign(frame=boxes.frame, label=boxes.label, voice=voice[row]).duplicated()
    counts["duplicates"] = int(again.sum())
    row = row[~again.to_numpy()]
    row = row[_known_classes(rows.take(row), labels, classes, teller, counts)]
    boxes = rows.take(row)
    legal = _legal(boxes, misfit[row], teller, counts)
    lost = np.unique(boxes.frame[~legal])
    boxes = boxes.take(legal)
    _clip(boxes, teller, counts)
    return boxes, lost, row[legal]


def _many(
    rows: Rows,
    misfit: np.ndarray,
    heard: voices.Voices,
    labels: list[str],
    classes: Sequence[str],
    teller: Teller,
) -> pd.DataFrame:
    """What each of several annotators says of the frames that they share; see `Matched.many`."""
    counts, teller = dict.fromkeys(COUNTS, 0), teller.quiet()
    once = voices.each_once(rows, heard, counts)
    rows, misfit, heard = rows.take(once), misfit[once], heard.take(once)
    boxes, _, row = _judged(rows, misfit, heard.code, labels, classes, teller, counts)
    looked = pd.DataFrame({"frame": rows.frame, "voice": heard.code}).drop_duplicates()
    drawn = pd.DataFrame({"frame": boxes.frame, "voice": heard.code[row], "label": boxes.label})
    drawn[_CORNERS] = boxes.corners
    table = looked.merge(drawn, on=["frame", "voice"], how="left")
    frames, people, names = (np.array([*of, None], dtype=object) for of in (teller.frames, heard.names, labels))
    label = table["label"].fillna(-1).to_numpy(np.int64)
    said: dict[str, Any] = {"frame": frames[table["frame"]], "annotator": people[table["voice"]], "class": names[label]}
    return pd.DataFrame(said).assign(**{side: table[side].to_numpy(np.float64) for side in _CORNERS})


def _to_pixels(rows: Rows, teller: Teller, counts: dict[str, int]) -> np.ndarray:
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
                about = {"kind": "picture of another size", "video": teller.video, "number": int(where.sum())}
                teller.log.tell(teller.files[rows.at[i]], teller.places[rows.at[i]] or "", what, done, **about)
    return other_shape


def _known_classes(
    boxes: Rows, labels: list[str], classes: Sequence[str], teller: Teller, counts: dict[str, int]
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
            about = {"kind": "unknown class", "video": teller.video, "label": label, "number": int(size)}
            done = "dropped; rename it or add it to the classes"
            teller.log.tell(teller.files[at], teller.places[at] or "", what, done, **about)
    return known


def _legal(boxes: Rows, misfit: np.ndarray, teller: Teller, counts: dict[str, int]) -> np.ndarray:
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


def _clip(boxes: Rows, teller: Teller, counts: dict[str, int]) -> None:
    """Cuts boxes in place at their frames' edges, and tells where that takes off more than `SAME_PX`."""
    size = np.tile(teller.sizes[boxes.frame], 2)
    inside = np.clip(boxes.corners, 0.0, size)
    out = (np.abs(inside - boxes.corners) > SAME_PX).any(axis=1)
    counts["clipped"] = int(out.sum())
    teller.boxes("out of frame", boxes, out, "clipped")
    boxes.corners = inside


def _table(
    boxes: Rows,
    empty: pd.Series,
    parsed_rows: pd.DataFrame,
    frames: pd.DataFrame,
    video: str,
    labels: list[str],
    instead: Mapping[str, np.ndarray],
) -> pd.DataFrame:
    """The annotations table, in the order of frames, then class and corners, so equal content has equal bytes.

    `instead` holds, by column, what goes in place of what the boxes' own rows say.
    """
    frame = np.concatenate([boxes.frame, empty.index.to_numpy(dtype=np.int64)])
    at = np.concatenate([boxes.at, empty.to_numpy(dtype=np.int64)])
    corners = np.concatenate([boxes.corners, np.full((len(empty), 4), np.nan)])
    ranks = np.argsort(np.argsort(np.array(labels, dtype=object))) if labels else np.empty(0, dtype=np.int64)
    rank = np.concatenate([ranks[boxes.label], np.full(len(empty), -1)]).astype(np.int64)
    names = np.array([*sorted(labels), None], dtype=object)
    order = np.lexsort((*corners.T[::-1], rank, frames["index"].to_numpy(dtype=np.int64)[frame]))
    at = at[order]
    taken: dict[str, Any] = {name: parsed_rows[name].array.take(at) for name in _CARRIED}
    for name, values in instead.items():
        own = parsed_rows[name].to_numpy(dtype=object)[empty.to_numpy(dtype=np.int64)]
        taken[name] = np.concatenate([values, own])[order]
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

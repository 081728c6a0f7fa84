"""Annotations as annotators hand them over: one clip as COCO, one as YOLO, one as Pascal VOC, one as CVAT tracks.

The convention is the one of `truth`: a box holds the visible part of a thing, and a thing that is hidden too much gets
none. Formats of still pictures cover the frames that annotators were given, two a second; CVAT covers every frame, by
keyframes as sparse as straight lines between them allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from detection_assets.domain.formats import coco, cvat, pascal_voc, yolo
from detection_assets.samples.clip import Footage

LEAST_VISIBLE = 0.35
"""Share of a thing that must be seen for it to get a box."""
STILLS_PER_SECOND = 2
"""How often annotators of still pictures were given a frame."""
TOLERANCE = 0.75
"""How far, in pixels, a box between two keyframes may be from the exact one."""
FORMS = ("coco", "yolo", "pascal_voc", "cvat")


def boxes_of(footage: Footage) -> pd.DataFrame:
    """The exact boxes of a clip as annotators would draw them.

    Args:
        footage: A clip's truth.

    Returns:
        Columns `frame_name, frame_index, width, height, class, x1, y1, x2, y2, track`, one row a box; a frame in which
        nothing is to be labelled has one row with class None.
    """
    rows = footage.rows[footage.rows[:, 6] >= LEAST_VISIBLE]
    roles = [footage.roles[int(number)] for number in rows[:, 1]]
    boxes = pd.DataFrame(
        {
            "frame_index": rows[:, 0].astype(np.int64),
            "class": pd.Series([role.label for role in roles], dtype=object),
            "track": pd.Series([role.track for role in roles], dtype=object),
            **{name: rows[:, 2 + k] for k, name in enumerate(("x1", "y1", "x2", "y2"))},
        }
    )
    empty = sorted(set(range(len(footage.pts))) - set(boxes["frame_index"]))
    if empty:
        blank = pd.DataFrame({"frame_index": empty, "class": pd.Series([None] * len(empty), dtype=object)})
        boxes = pd.concat([boxes, blank.assign(track=None, x1=np.nan, y1=np.nan, x2=np.nan, y2=np.nan)])
        boxes = boxes.sort_values("frame_index", kind="stable", ignore_index=True)
    stem = footage.plan.stem
    names = [f"{stem}_{index:06d}.jpg" for index in boxes["frame_index"]]
    return boxes.assign(frame_name=names, width=footage.size[0], height=footage.size[1])


def still_frames(pts: NDArray[np.float64]) -> list[int]:
    """The frames that annotators of still pictures were given: the first one at or after each half second.

    Args:
        pts: Presentation times in seconds, rising.
    """
    ticks = np.arange(0, pts[-1] + 1e-9, 1 / STILLS_PER_SECOND)
    return sorted({int(k) for k in np.searchsorted(pts, ticks - 1e-9) if k < len(pts)})


def keyframes(corners: NDArray[np.float64], tolerance: float) -> NDArray[np.bool_]:
    """Picks the rows between which straight lines stay within `tolerance` of all others.

    Splits where the line is furthest off, as Ramer, Douglas and Peucker do for curves.

    Args:
        corners: N x 4, one row for each of N consecutive frames.
        tolerance: Pixels.
    """
    keep = np.zeros(len(corners), np.bool_)
    keep[[0, -1]] = True
    spans = [(0, len(corners) - 1)]
    while spans:
        a, b = spans.pop()
        if b - a < 2:
            continue
        share = (np.arange(a + 1, b) - a)[:, None] / (b - a)
        off = np.abs(corners[a] + (corners[b] - corners[a]) * share - corners[a + 1 : b]).max(axis=1)
        worst = int(off.argmax())
        if off[worst] > tolerance:
            middle = a + 1 + worst
            keep[middle] = True
            spans += [(a, middle), (middle, b)]
    return keep


def with_keyframes(boxes: pd.DataFrame) -> pd.DataFrame:
    """Marks in a column `keyframe` the rows that an annotator of tracks would have set by hand.

    A thing that is out of sight for a while starts again: the frames at both ends of each stretch are keyframes.
    """
    marks = np.zeros(len(boxes), np.bool_)
    for _, rows in boxes[boxes["class"].notna()].groupby("track", sort=True):
        frames = rows["frame_index"].to_numpy()
        corners = rows[["x1", "y1", "x2", "y2"]].to_numpy(np.float64)
        for stretch in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(frames) > 1) + 1):
            marks[rows.index.to_numpy()[stretch]] = keyframes(corners[stretch], TOLERANCE)
    return boxes.assign(keyframe=marks)


def hand_over(footage: Footage, classes: Sequence[str], annotations: Path) -> list[Path]:
    """Writes a clip's annotations to where the lake looks for them.

    Args:
        footage: The clip's truth; its plan says which format.
        classes: The sample's classes.
        annotations: The folder that holds all annotations.

    Returns:
        The files written.
    """
    boxes, plan = boxes_of(footage), footage.plan
    base = annotations / plan.group / plan.camera
    if plan.form == "cvat":
        return cvat.save(
            with_keyframes(boxes), classes, base / f"{plan.stem}.xml", video=True, source=f"{plan.stem}.mp4"
        ).files
    stills = boxes[boxes["frame_index"].isin(still_frames(footage.pts))].reset_index(drop=True)
    if plan.form == "coco":
        return coco.save(stills, classes, base / f"{plan.stem}.json").files
    if plan.form == "yolo":
        return yolo.save(stills, classes, base / plan.stem).files
    return pascal_voc.save(stills, classes, base / plan.stem).files

"""Regions of a Label Studio video as tracks, and where their boxes are between keyframes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detection_assets.domain.formats.cvat_stream import Track
from detection_assets.domain.formats.label_studio_regions import Keyframe, Region, turned_in_degrees


def track_of(region: Region, label: str, keyframes: Sequence[Keyframe], said: int) -> Track:
    """The region as a CVAT track, which ends one frame after the last on which the object is seen."""
    track = Track(region.name, label, "")
    after = [one.frame for one in keyframes[1:]]
    for i, one in enumerate(keyframes):
        track.frames.append(one.frame)
        track.outside.append(0)
        if not one.enabled and (i == len(after) or after[i] > one.frame + 1):
            track.frames.append(one.frame + 1)
            track.outside.append(1)
        for _ in range(len(track.frames) - len(track.said)):
            track.corners.extend(one.box)
            track.keys.append(1)
            track.said.append(said + i)
    return track


def upright(
    boxes: np.ndarray,
    frames: np.ndarray,
    owners: np.ndarray,
    turns: Sequence[Sequence[tuple[int, float]]],
    size: tuple[int, int] | None,
) -> np.ndarray:
    """Corners (n x 4) of boxes that may be turned.

    Args:
        boxes: `x, y, width, height` in per cent (n x 4).
        frames: Their frames (n).
        owners: Their tracks (n).
        turns: The keyframes of each track, and how far it is turned there; between them it turns steadily.
        size: Width and height in pixels; None where nobody says, then corners are fractions.
    """
    scale = np.array([*size, *size] if size else [1.0, 1.0, 1.0, 1.0])
    with np.errstate(all="ignore"):  # numbers may be infinite; matching drops such boxes
        places = boxes / 100 * scale
        corners = places.copy()
        corners[:, 2:] += corners[:, :2]
        for owner, turn in enumerate(turns):
            at, degrees = zip(*turn, strict=True)
            if not any(one % 360 for one in degrees):
                continue
            mine = np.flatnonzero(owners == owner)
            for i, angle in zip(mine.tolist(), np.interp(frames[mine], at, degrees).tolist(), strict=True):
                x1, y1, x2, y2 = turned_in_degrees(tuple(places[i].tolist()), angle)
                corners[i] = x1, y1, x2, y2
    return np.round(corners, 9) if size else corners

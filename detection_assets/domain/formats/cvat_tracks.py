"""Where the tracks of a CVAT video are at given frames: straight lines between keyframes, as CVAT itself draws them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from detection_assets.domain.formats.cvat_stream import Task, Track


@dataclass(frozen=True)
class Covered:
    """The frames to give boxes for.

    Attributes:
        frames: Their numbers in the source video, ascending.
        stop: Last frame of the task; a track that nobody ended ends here.
        uncertain: How many wanted frames were left out because nobody saw whether a track was there.
    """

    frames: np.ndarray
    stop: int
    uncertain: int


@dataclass(frozen=True)
class Positions:
    """Boxes of tracks at frames.

    Attributes:
        frames: Frame numbers (n).
        owners: Positions among the tracks (n).
        corners: x1 y1 x2 y2 in pixels (n x 4).
        said: What else is said of each, as `Sayings` counts (n).
        drawn: Where the box is a keyframe (n).
    """

    frames: np.ndarray
    owners: np.ndarray
    corners: np.ndarray
    said: np.ndarray
    drawn: np.ndarray


def covered_frames(task: Task, tracks: Sequence[Track], wanted: Collection[int] | None, limit: int) -> Covered | None:
    """Finds the frames of a task to give boxes for.

    Args:
        task: The task; where it does not say its first and last frame, those of the keyframes count.
        tracks: Its tracks.
        wanted: Frame numbers to choose from; None for all that the task showed.
        limit: Most frames to give.

    Returns:
        The frames, or None if there were more than `limit`.
    """
    numbers = [
        number for track in tracks for number in (min(track.frames, default=None), max(track.frames, default=None))
    ]
    known = [number for number in numbers if number is not None]
    start, stop = task.start, task.stop
    if start is None or stop is None or stop < start:
        if not known:
            return Covered(np.empty(0, dtype=np.int64), -1, 0)
        start, stop = min(known), max(known)
    step = task.step
    if wanted is None:
        if (stop - start) // step >= limit:
            return None
        return Covered(np.arange(start, stop + 1, step, dtype=np.int64), stop, 0)
    frames = np.array(sorted({frame for frame in wanted if start <= frame <= stop}), dtype=np.int64)
    if len(frames) > limit:
        return None
    following = start + -(-(frames - start) // step) * step
    changes = [change for track in tracks for change in _changes(track) if change > start]
    uncertain = (following != frames) & np.isin(following, np.array(changes, dtype=np.int64))
    return Covered(frames[~uncertain], stop, int(uncertain.sum()))


def positions(tracks: Sequence[Track], covered: Covered, limit: int) -> Positions | None:
    """Places every track at every covered frame where it is visible.

    Args:
        tracks: The tracks.
        covered: The frames.
        limit: Most boxes to give.

    Returns:
        The boxes, track by track; None if there were more than `limit`.
    """
    frames: list[np.ndarray] = [np.empty(0, dtype=np.int64)]
    owners: list[np.ndarray] = [np.empty(0, dtype=np.int64)]
    corners: list[np.ndarray] = [np.empty((0, 4))]
    said: list[np.ndarray] = [np.empty(0, dtype=np.int64)]
    drawn: list[np.ndarray] = [np.empty(0, dtype=bool)]
    total = 0
    for owner, track in enumerate(tracks):
        at, here, says, keys = _positions(track, covered)
        total += len(at)
        if total > limit:
            return None
        frames.append(at)
        owners.append(np.full(len(at), owner, dtype=np.int64))
        corners.append(here)
        said.append(says)
        drawn.append(keys)
    return Positions(*(np.concatenate(parts) for parts in (frames, owners, corners, said, drawn)))


def _positions(track: Track, covered: Covered) -> tuple[np.ndarray, ...]:
    keys, corners, outside, order = _keyframes(track)
    if not len(keys):
        nothing = np.empty(0, dtype=np.int64)
        return nothing, np.empty((0, 4)), nothing, np.empty(0, dtype=bool)
    at = covered.frames[(covered.frames >= keys[0]) & (covered.frames <= covered.stop)]
    left = np.searchsorted(keys, at, side="right") - 1
    at, left = at[~outside[left]], left[~outside[left]]
    right = np.minimum(left + 1, len(keys) - 1)
    span = np.maximum(keys[right] - keys[left], 1)
    share = ((at - keys[left]) / span)[:, None]
    with np.errstate(invalid="ignore", over="ignore"):  # corners may be infinite; matching drops such boxes
        here = corners[left] + (corners[right] - corners[left]) * share
    # A frame that is a keyframe shows what was drawn there, bit for bit.
    exact = at == keys[left]
    here[exact] = corners[left[exact]]
    # What is said of a box holds until the next keyframe.
    marks = order[left]
    said = np.array(track.said, dtype=np.int64)[marks]
    return at, here, said, exact & np.array(track.keys, dtype=bool)[marks]


def _keyframes(track: Track) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Keyframes in ascending order, and where they stand in the file; of two for one frame, the later in the file."""
    frames = np.array(track.frames, dtype=np.int64)
    order = np.argsort(frames, kind="stable")
    last = np.append(frames[order][1:] != frames[order][:-1], True)[: len(order)]
    order = order[last]
    corners = np.array(track.corners, dtype=np.float64).reshape(-1, 4)
    return frames[order], corners[order], np.array(track.outside, dtype=bool)[order], order


def _changes(track: Track) -> list[int]:
    """Frames at which the track appears or disappears."""
    keys, _, outside, _ = _keyframes(track)
    before = np.append(True, outside[:-1])[: len(outside)]
    return keys[outside != before].tolist()

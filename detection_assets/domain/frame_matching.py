"""Which extracted frame of a video each annotated frame is: by its time, then by its number, then by its name.

A time and a number are exact; a name is what somebody called a file. So of a video's frame the time goes first, which
holds in every copy of the video, then the number, then what the name says, as `formats.frame_names` reads it. Where
they disagree the first of them is taken, and the disagreement is told. A name that leads to another video is that
video's, whatever else is said.

Images of a folder have no times, and their numbers change when one is added: their number goes only where there is no
name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from detection_assets.domain.formats.frame_names import AMBIGUOUS, OTHER, UNKNOWN, Images, Names
from detection_assets.domain.formats.parsed import ProblemLog

COUNTS = (
    *("frames_annotated", "frames_matched", "frames_not_extracted", "frames_unknown", "frames_of_other_videos"),
    *("matched_by_pts", "matched_by_index", "matched_by_name"),
)

WAYS = ("pts", "index", "name")
"""How a frame is found, the surest first."""

NEAR_S = 0.001
"""Seconds by which a time may differ from that of a frame whose duration nobody knows."""

_ABSENT = -4
"""The frame is in the video, but was not extracted."""

_NOTHING = -1
"""No number: nothing is said, or nothing that is in the video."""


@dataclass(frozen=True)
class Found:
    """The frames of annotated rows.

    Attributes:
        target: Row of the frames that each annotated row is on; negative where on none.
        counts: Numbers of frames by the names of `COUNTS`. A matched frame is counted in the surest of `WAYS` by which
            any of its rows found it.
    """

    target: np.ndarray
    counts: dict[str, int]


def find(rows: pd.DataFrame, frames: pd.DataFrame, video: str, frame_count: int | None, log: ProblemLog) -> Found:
    """Finds the frame of every row.

    Args:
        rows: `Parsed.boxes`.
        frames: The rows of `extracted_frames` of this video.
        video: Its key.
        frame_count: Frames that the video has; None if unknown, then every number and every later time is believed.
        log: Takes a problem for each frame that is not in the video, or of which two things are said.
    """
    name_codes, unique = pd.factorize(rows["frame_name"])
    called = [str(name) for name in unique]
    names = Names(video, called)
    suffixes = [str(frame).rpartition("#")[2] for frame in frames["frame"]]
    index = frames["index"].to_numpy(dtype=np.int64)
    said = rows["frame_index"].fillna(_NOTHING).to_numpy(dtype=np.int64)
    if any(suffix != f"{number:06d}" for suffix, number in zip(suffixes, index, strict=True)):
        images = Images(suffixes, names)
        # The last one answers for rows without a name, whose code is -1.
        target = np.array([*map(images.position, called), UNKNOWN], dtype=np.int64)[name_codes]
        # A name that no image has is not made good by a number: it would be another image's.
        said = np.where(name_codes < 0, said, _NOTHING)
        numbers = np.where((target == UNKNOWN) & (said >= 0), said, _NOTHING)
        way = np.where(numbers >= 0, WAYS.index("index"), WAYS.index("name"))
    else:
        bases = [str(file).rpartition("/")[2] for file in frames["file"]]
        extracted = {base: int(i) for base, i in zip(bases, index, strict=True) if base}
        by_name = [extracted[name] if name in extracted else names.index(name) for name in called]
        of_name = np.array([*by_name, UNKNOWN], dtype=np.int64)[name_codes]
        times = _Times(frames, index, frame_count)
        pts = rows["pts_s"].to_numpy(dtype=np.float64)
        of_pts = times.numbers(pts, said)
        numbers, way = _first_of(of_pts, np.where(_in_video(said, frame_count), said, _NOTHING), of_name)
        target = np.where(of_name == OTHER, OTHER, UNKNOWN)
        numbers[of_name == OTHER] = _NOTHING
        _tell_doubts(rows, pts, of_pts, said, of_name, way, video, times, log)
    there = numbers >= 0
    target[there] = _by_number(numbers[there], index, frame_count)
    # What is not in the video is told by what was said of it.
    numbers = np.where(there, numbers, np.where(target == UNKNOWN, said, _NOTHING))
    dropped = (target >= 0) & ~np.append(frames["kept"].to_numpy(dtype=bool), False)[np.maximum(target, -1)]
    counts = dict.fromkeys(COUNTS, 0)
    counts["frames_not_extracted"] = len(np.unique(target[dropped])) + len(np.unique(numbers[target == _ABSENT]))
    target[dropped] = _ABSENT
    # Two names of one frame are one frame: where there is a number, that tells frames apart.
    said_codes = np.where(name_codes < 0, len(called) + pd.factorize(rows["pts_s"])[0] + 1, name_codes)
    frame_codes = np.where((numbers < 0) | (target == OTHER), -2 - said_codes, numbers)
    unknown = (target == UNKNOWN) | (target == AMBIGUOUS)
    counts["frames_unknown"] = len(np.unique(frame_codes[unknown]))
    counts["frames_of_other_videos"] = len(np.unique(frame_codes[target == OTHER]))
    _count_ways(target, way, len(frames), counts)
    counts["frames_annotated"] = sum(counts[f"frames_{what}"] for what in ("matched", "not_extracted", "unknown"))
    _tell_unknown(rows, target, np.flatnonzero(unknown), frame_codes, video, frame_count, log)
    return Found(target, counts)


def _first_of(*ways: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first number of each row, and the way by which it was found."""
    numbers, way = ways[-1].copy(), np.full(len(ways[-1]), len(ways) - 1)
    for i in range(len(ways) - 2, -1, -1):
        says = ways[i] >= 0
        numbers[says], way[says] = ways[i][says], i
    return np.maximum(numbers, _NOTHING), way


def _in_video(numbers: np.ndarray, frame_count: int | None) -> np.ndarray:
    return (numbers >= 0) & (numbers < (frame_count if frame_count is not None else np.iinfo(np.int64).max))


def _count_ways(target: np.ndarray, way: np.ndarray, frames: int, counts: dict[str, int]) -> None:
    hit = target >= 0
    surest = np.full(frames, len(WAYS), dtype=np.int64)
    np.minimum.at(surest, target[hit], way[hit])
    for i, name in enumerate(WAYS):
        counts[f"matched_by_{name}"] = int((surest == i).sum())
    counts["frames_matched"] = int((surest < len(WAYS)).sum())


class _Times:
    """The times of a video's extracted frames, and which frame is shown at any time.

    A frame's time is met within half of its duration. Between two extracted frames others were shown, one after the
    other at even distances as far as anybody knows.
    """

    def __init__(self, frames: pd.DataFrame, index: np.ndarray, frame_count: int | None) -> None:
        nobody = np.full(len(index), np.nan)
        pts = frames["pts_s"].to_numpy(dtype=np.float64, na_value=np.nan) if "pts_s" in frames else nobody
        known = np.flatnonzero(np.isfinite(pts))
        order = known[np.lexsort((index[known], pts[known]))]
        self._pts, self._index = pts[order], index[order]
        gaps, steps = np.diff(self._pts), np.diff(self._index)
        with np.errstate(all="ignore"):
            lasts = np.where((gaps > 0) & (steps > 0), gaps / steps, np.nan)
        self._typical = float(np.nanmedian(lasts)) if np.isfinite(lasts).any() else np.nan
        self._lasts = np.where(np.isfinite(lasts), lasts, self._typical)
        self._count = frame_count

    @property
    def last(self) -> str:
        """Until when the video is known to go, for messages."""
        return f", whose last extracted frame is at {self._pts[-1]:.6g} s" if len(self._pts) else ""

    def numbers(self, times: np.ndarray, said: np.ndarray) -> np.ndarray:
        """The number of the frame at each time; `_NOTHING` where none is said or the video has no frame then.

        Args:
            times: Seconds, NaN where nothing is said.
            said: The number that is said of the same frame. It decides between frames that were not extracted.
        """
        found = np.full(len(times), _NOTHING, dtype=np.int64)
        asked = np.flatnonzero(np.isfinite(times))
        if not len(self._pts) or not len(asked):
            return found
        values, back = np.unique(times[asked], return_inverse=True)
        numbers, low, high = self._at(values)
        numbers, low, high = numbers[back], low[back], high[back]
        # Strictly between two extracted frames, the number that is said is surer than one that is reckoned.
        between = (said[asked] > low) & (said[asked] < high)
        found[asked] = np.where(between, said[asked], numbers)
        return np.where(_in_video(found, self._count), found, _NOTHING)

    def _at(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers at times; where they are no extracted frame's, also those between which they lie, else two equal."""
        n = len(self._pts)
        right = np.searchsorted(self._pts, times)
        left = np.clip(right - 1, 0, n - 1)
        right = np.clip(right, 0, n - 1)
        nearest = np.where(times - self._pts[left] <= self._pts[right] - times, left, right)
        off = times - self._pts[nearest]
        if n == 1 or not np.isfinite(self._typical):
            numbers = np.where(np.abs(off) <= NEAR_S, self._index[nearest], _NOTHING)
            return numbers, numbers, numbers
        gap = np.clip(np.where(off < 0, nearest - 1, nearest), 0, n - 2)
        lasts = self._lasts[gap]
        steps = np.rint(np.clip(off / lasts, -1e12, 1e12)).astype(np.int64)
        numbers = self._index[nearest] + np.where(np.abs(off) <= lasts / 2, 0, steps)
        inside = (left != right) & (numbers != self._index[nearest])
        low, high = (np.where(inside, self._index[side], numbers) for side in (left, right))
        return np.maximum(numbers, _NOTHING), low, high


def _by_number(numbers: np.ndarray, index: np.ndarray, frame_count: int | None) -> np.ndarray:
    """Rows of the frames with these numbers; `_ABSENT` if not extracted, `UNKNOWN` if the video has no such frame."""
    order = np.argsort(index, kind="stable")
    place = np.searchsorted(index[order], numbers)
    row = np.append(order, -1)[place]
    hit = np.append(index, -1)[row] == numbers
    return np.where(hit, row, np.where(_in_video(numbers, frame_count), _ABSENT, UNKNOWN))


def _tell_doubts(
    rows: pd.DataFrame,
    pts: np.ndarray,
    of_pts: np.ndarray,
    said: np.ndarray,
    of_name: np.ndarray,
    way: np.ndarray,
    video: str,
    times: _Times,
    log: ProblemLog,
) -> None:
    """One problem a frame whose time is none of the video's, or whose time, number and name are different frames."""
    ours = of_name != OTHER
    no_time = ours & np.isfinite(pts) & (of_pts < 0) & ((said >= 0) | (of_name >= 0))
    taken = np.where(way == 0, of_pts, said)
    apart = ours & (way < 2) & (((way == 0) & (said >= 0) & (said != taken)) | ((of_name >= 0) & (of_name != taken)))
    doubtful = np.flatnonzero(no_time | apart)
    if not len(doubtful):
        return
    about = rows[["file", "frame_name", "frame_index", "pts_s"]].iloc[doubtful]
    firsts = doubtful[~about.duplicated().to_numpy()]
    files: list[str] = rows["file"].iloc[firsts].tolist()
    places: list[str | None] = rows["place"].iloc[firsts].tolist()
    called: list[str | None] = rows["frame_name"].iloc[firsts].tolist()
    for i, file, place, name in zip(firsts.tolist(), files, places, called, strict=True):
        if no_time[i] and log.room(file, "time of no frame"):
            what = f"no frame of {video} is at {pts[i]:.6g} s{times.last}"
            went = f"went by its {'number' if way[i] == 1 else 'name'}"
            log.tell(file, place or "", what, went, kind="time of no frame", video=video, frame=name)
        if apart[i] and log.room(file, "two frames said"):
            says = [
                *([f"its time {pts[i]:.6g} s is frame {of_pts[i]}"] if of_pts[i] >= 0 else []),
                *([f"its number is {said[i]}"] if said[i] >= 0 else []),
                *([f"its name '{name}' is frame {of_name[i]}"] if of_name[i] >= 0 else []),
            ]
            done = f"went by its {'time' if way[i] == 0 else 'number'}; export it again if that is wrong"
            what = f"it is not clear which frame is meant: {', '.join(says)}"
            log.tell(file, place or "", what, done, kind="two frames said", video=video, frame=name)


def _tell_unknown(
    rows: pd.DataFrame,
    target: np.ndarray,
    unknown: np.ndarray,
    frame_codes: np.ndarray,
    video: str,
    frame_count: int | None,
    log: ProblemLog,
) -> None:
    """One problem a frame that is not in the video."""
    firsts = unknown[np.sort(np.unique(frame_codes[unknown], return_index=True)[1])]
    files: list[str] = rows["file"].tolist()
    for i in firsts:
        file = files[i]
        if not log.room(file, "unknown frame"):
            continue
        row: dict[str, Any] = rows.iloc[i].to_dict()
        called = f"'{row['frame_name']}'" if row["frame_name"] else f"number {row['frame_index']}"
        if not row["frame_name"] and pd.isna(row["frame_index"]) and np.isfinite(row["pts_s"]):
            called = f"at {row['pts_s']:.6g} s"
        if target[i] == AMBIGUOUS:
            what, done = (
                f"several images of {video} are called {called}",
                "dropped; write the file name with its ending",
            )
        else:
            has = "" if frame_count is None else f", which has {frame_count} frames"
            what, done = f"no frame {called} in {video}{has}", "dropped"
        about = {"kind": "unknown frame", "video": video, "frame": row["frame_name"] or called}
        log.tell(file, row["place"] or "", what, done, fix="name a frame of the video", **about)

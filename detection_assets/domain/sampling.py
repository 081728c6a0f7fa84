"""Which frames of a video are wanted: by a rate, at scene changes, or at key frames.

Everything here goes by timestamps in ticks of the stream's time base, as exact integers: a frame a second means a frame
a second for variable frame rates and for streams that do not start at zero, too.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

METHODS = ("rate", "scene", "keyframes")

SCENE_SIZE = (64, 36)
"""Width and height of the luma thumbnails on which scene changes are seen."""

_SCENE_HISTORY = 12
_SCENE_REST_S = Fraction(1, 2)


@dataclass(frozen=True)
class Sampling:
    """How frames are chosen and written.

    Attributes:
        method: `rate`, `scene` or `keyframes`.
        rate: Frames a second, for `rate`: for each k, the first frame shown at k/rate seconds or later, counted from
            the stream's first frame.
        scene_threshold: For `scene`, 0..1: how much more than usual the luma has to change. 0.3 is a hard cut.
        min_sharpness: Frames below are dropped as blurred (variance of the Laplacian, see `quality.sharpness`); 0: off.
        near_duplicate: Frames whose perceptual hash differs in at most so many of 64 bits from one of the frames kept
            just before are dropped; None is off.
        max_frames: At most so many frames are sampled from a video, spread evenly over it; None is no limit. Counted
            before blurred and near-duplicate ones are dropped. Images of a folder are all taken.
        jpeg_quality: 1..100.
    """

    method: str = "rate"
    rate: float = 1.0
    scene_threshold: float = 0.3
    min_sharpness: float = 0.0
    near_duplicate: int | None = None
    max_frames: int | None = None
    jpeg_quality: int = 90

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f"sampling.method: {self.method!r} is unknown; use one of {', '.join(METHODS)}")
        if not 0 < self.rate <= 1000:
            raise ValueError(f"sampling.rate: {self.rate} frames a second; use more than 0 and at most 1000")
        if not 0 < self.scene_threshold <= 1:
            raise ValueError(f"sampling.scene_threshold: {self.scene_threshold}; use more than 0 and at most 1")
        if not self.min_sharpness >= 0:
            raise ValueError(f"sampling.min_sharpness: {self.min_sharpness}; use 0 (off) or more")
        if self.near_duplicate is not None and not 0 <= self.near_duplicate <= 64:
            raise ValueError(f"sampling.near_duplicate: {self.near_duplicate} bits; use 0 to 64, or null for off")
        if self.max_frames is not None and self.max_frames < 1:
            raise ValueError(f"sampling.max_frames: {self.max_frames}; use 1 or more, or null for no limit")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"sampling.jpeg_quality: {self.jpeg_quality}; use 1 to 100")

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Sampling:
        """Reads the options of a detector file.

        Args:
            params: Option by name; what is missing takes its default.

        Raises:
            ValueError: An option is unknown or its value is out of range; the message names it.
        """
        unknown = sorted(set(params) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(
                f"sampling: unknown option {', '.join(unknown)}; known: {', '.join(cls.__dataclass_fields__)}"
            )
        return cls(**params)

    @property
    def exact_rate(self) -> Fraction:
        """The rate as the fraction that its decimal notation, or a third or so, meant."""
        return Fraction(str(self.rate)).limit_denominator(1_000_000)


def evenly(count: int, at_most: int | None) -> list[int]:
    """Chooses positions spread evenly over `range(count)`, the first one always among them.

    Args:
        count: Positions to choose from.
        at_most: Positions to choose, or None for all.
    """
    if at_most is None or count <= at_most:
        return list(range(count))
    return [position * count // at_most for position in range(at_most)]


class RateGrid:
    """Picks, for each instant k/rate from the first frame on, the first frame shown then or later.

    One frame may serve several instants (a slow or a halting video); it is picked once.

    Args:
        rate: Instants a second.
        time_base: Seconds of a tick.
        instants: The k to serve, ascending; None for all.
    """

    def __init__(self, rate: Fraction, time_base: Fraction, instants: Iterable[int] | None = None):
        step = rate * time_base
        self._up, self._down = step.numerator, step.denominator
        self._instants = iter(instants) if instants is not None else None
        self._next: int | None = next(self._instants, None) if self._instants is not None else 0
        self._first: int | None = None

    def instant(self, ticks: int) -> int:
        """The last k with k/rate <= the time since the first frame."""
        return (ticks - (ticks if self._first is None else self._first)) * self._up // self._down

    def wants(self, ticks: int) -> bool:
        """Says whether the next frame in display order is picked.

        Args:
            ticks: Its presentation timestamp; must not fall from call to call.
        """
        if self._first is None:
            self._first = ticks
        if self._next is None:
            return False
        reached = self.instant(ticks)
        if reached < self._next:
            return False
        if self._instants is None:
            self._next = reached + 1
        else:
            self._next = next((instant for instant in self._instants if instant > reached), None)
        return True


def grid_instants(span_s: Fraction | float, rate: Fraction, max_frames: int | None) -> list[int] | None:
    """Thins the instants of a rate so that at most `max_frames` remain, spread evenly over the video.

    Args:
        span_s: Seconds from the first to the last frame's timestamp.
        rate: Instants a second.
        max_frames: The limit, or None.

    Returns:
        The k to serve, or None for all of them.
    """
    count = int(Fraction(span_s) * rate) + 1
    return None if max_frames is None or count <= max_frames else evenly(count, max_frames)


def choose(ticks: np.ndarray, key: np.ndarray, sampling: Sampling, time_base: Fraction) -> np.ndarray:
    """Chooses frames whose timestamps are all known beforehand.

    Args:
        ticks: Presentation timestamps in display order, ascending, int64.
        key: Which of them are key frames, bool.
        sampling: By `rate` or by `keyframes`.
        time_base: Seconds of a tick.

    Returns:
        Positions in `ticks`, ascending.

    Raises:
        ValueError: The method needs pictures (`scene`).
    """
    if not len(ticks):
        return np.zeros(0, np.int64)
    if sampling.method == "keyframes":
        positions = np.flatnonzero(key)
        return positions[evenly(len(positions), sampling.max_frames)]
    if sampling.method != "rate":
        raise ValueError(f"frames cannot be chosen by {sampling.method} without looking at them")
    rate = sampling.exact_rate
    span = int(ticks[-1] - ticks[0]) * time_base
    grid = RateGrid(rate, time_base, grid_instants(span, rate, sampling.max_frames))
    return np.array([position for position, tick in enumerate(ticks.tolist()) if grid.wants(tick)], np.int64)


class SceneCut:
    """Sees scene changes: the luma changes more than usual for this stretch of the video.

    The score of a frame is its mean absolute luma difference to the frame before, less the median difference of the
    dozen frames before, over 100 grey levels (the scale of FFmpeg's `scene` filter). Steady motion raises the median,
    and so the bar; a hard cut stands out whatever the motion. Fades are not seen.

    Args:
        threshold: Score from which on a frame begins a scene.
        time_base: Seconds of a tick.
    """

    def __init__(self, threshold: float, time_base: Fraction):
        self._threshold = threshold
        self._rest = int(_SCENE_REST_S / time_base)
        self._recent: deque[float] = deque(maxlen=_SCENE_HISTORY)
        self._before: np.ndarray | None = None
        self._last_cut = 0

    def wants(self, ticks: int, thumbnail: np.ndarray) -> bool:
        """Says whether the next frame in display order begins a scene; the first frame does.

        Args:
            ticks: Its presentation timestamp.
            thumbnail: Its luma, uint8, at `SCENE_SIZE`.
        """
        small = thumbnail.astype(np.int16)
        if self._before is None:
            self._before, self._last_cut = small, ticks
            return True
        change = float(np.abs(small - self._before).mean())
        usual = statistics.median(self._recent) if self._recent else 0.0
        self._recent.append(change)
        self._before = small
        # A flash is two changes a moment apart; one frame of it is enough.
        if (change - usual) / 100 < self._threshold or ticks - self._last_cut < self._rest:
            return False
        self._last_cut = ticks
        return True


def missing_instants(sampling: Sampling, from_s: float, to_s: float, max_instants: int = 100_000) -> Iterator[float]:
    """The instants of a rate that a truncated video should have served and cannot.

    Args:
        sampling: With method `rate`; other methods cannot say what is missing.
        from_s: Seconds after the first frame where the video really ends.
        to_s: Seconds after the first frame where its header claims that it ends.
        max_instants: No more than so many, whatever a lying header claims.

    Yields:
        Seconds after the first frame.
    """
    if sampling.method != "rate":
        return
    rate = sampling.exact_rate
    first = -int(-Fraction(from_s) * rate // 1)
    for instant in range(first, min(int(Fraction(to_s) * rate) + 1, first + max_instants)):
        seconds = float(instant / rate)
        if from_s <= seconds < to_s:
            yield seconds

"""How a deployment does under real requests: the server's counters, and the window between two looks at them.

The server counts, and whoever looks subtracts. So a controller that dies and comes back loses nothing, and two
controllers that look at different moments do not disturb each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

LATENCY_BOUNDS_MS: tuple[float, ...] = tuple(round(60_000.0 ** (step / 115), 3) for step in range(116))
"""Upper bounds of the latency buckets, milliseconds: 1 ms to 60 s, each 10 % above the one before.

A latency is counted in the first bucket whose bound is not below it; one more bucket counts what is above the last.
"""
SAME_OBJECT_IOU = 0.5
"""Two models' boxes of one class that overlap at least so much stand for the same object."""
TRIAL = "detection-trial"
"""Marks a request that is a trial and no traffic, where the platform does not let a slot see that it was named."""
ENOUGH_F1 = 0.8
"""Two models agree on a picture when their boxes match with at least this F1."""


@dataclass(frozen=True)
class Health:
    """Counters of one slot, since its model was loaded or, after `after`, over a window.

    Attributes:
        since: When the counters began, epoch seconds; it tells one life of the counters from the next.
        requests: Requests of the traffic that were given to this slot, failed ones included.
        errors: Those that it failed.
        latency: How many answers fell into each bucket of `LATENCY_BOUNDS_MS`, and above.
        compared: Mirrored requests whose answer was held against the one returned.
        agreed: Those on which `agree` held.
    """

    since: float
    requests: int
    errors: int
    latency: tuple[int, ...]
    compared: int
    agreed: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Health:
        """Reads the counters that a server tells of a slot.

        Raises:
            ValueError: If one is missing or no count.
        """
        try:
            latency = tuple(int(count) for count in told["latency"])
            counts = [int(told[name]) for name in ("requests", "errors", "compared", "agreed")]
            since = float(told["since"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"statistics of a slot: {type(error).__name__} {error}") from error
        if len(latency) != len(LATENCY_BOUNDS_MS) + 1:
            raise ValueError(
                f"statistics of a slot: {len(latency)} latency buckets, {len(LATENCY_BOUNDS_MS) + 1} asked"
            )
        if min(*counts, *latency) < 0 or not math.isfinite(since):
            raise ValueError("statistics of a slot: a count below 0, or no time")
        return cls(since, counts[0], counts[1], latency, counts[2], counts[3])

    def dump(self) -> dict[str, Any]:
        """The counters as `of` reads them."""
        return {**asdict(self), "latency": list(self.latency)}

    def after(self, earlier: Health | None) -> Health:
        """The window from an earlier look to this one.

        Counters that began anew in between (another `since`) are taken from 0: what came before is lost.
        """
        if earlier is None or earlier.since != self.since:
            return self
        return Health(
            self.since,
            max(0, self.requests - earlier.requests),
            max(0, self.errors - earlier.errors),
            tuple(max(0, now - then) for now, then in zip(self.latency, earlier.latency, strict=True)),
            max(0, self.compared - earlier.compared),
            max(0, self.agreed - earlier.agreed),
        )

    def plus(self, other: Health) -> Health:
        """Two windows as one; the later one's `since`."""
        return Health(
            max(self.since, other.since),
            self.requests + other.requests,
            self.errors + other.errors,
            tuple(one + two for one, two in zip(self.latency, other.latency, strict=True)),
            self.compared + other.compared,
            self.agreed + other.agreed,
        )

    def quantile_ms(self, q: float) -> float:
        """The latency below which a share `q` of the answers lies, within its bucket's 10 %; NaN without answers.

        Interpolated linearly inside the bucket, as `histogram_quantile` of Prometheus does. Answers above the last
        bound count as 60 s.
        """
        total = sum(self.latency)
        if not total:
            return math.nan
        rank = q * total
        below = 0
        for index, count in enumerate(self.latency[:-1]):
            if count and below + count >= rank:
                low = LATENCY_BOUNDS_MS[index - 1] if index else 0.0
                return low + (LATENCY_BOUNDS_MS[index] - low) * max(0.0, rank - below) / count
            below += count
        return LATENCY_BOUNDS_MS[-1]

    @property
    def error_rate(self) -> float:
        """Share of the requests that failed; 0 without requests."""
        return self.errors / self.requests if self.requests else 0.0

    @property
    def disagreement(self) -> float:
        """Share of the compared answers that did not agree; 0 without comparisons."""
        return 1 - self.agreed / self.compared if self.compared else 0.0


NO_HEALTH = Health(0.0, 0, 0, (0,) * (len(LATENCY_BOUNDS_MS) + 1), 0, 0)
"""Counters of a slot that nobody asked anything."""


def agree(one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> bool:
    """Says whether two answers to the same picture say the same.

    Boxes are matched greedily, those of the highest confidence first, each with the free box of its class that it
    overlaps most, if by at least `SAME_OBJECT_IOU`. The answers agree if F1 = 2 * matched / (boxes of both) is at least
    `ENOUGH_F1`, or if both are empty.

    Args:
        one: The boxes that were returned: `class`, `confidence`, `x1 y1 x2 y2` in any unit both share.
        other: The boxes of the other slot.
    """
    both = len(one) + len(other)
    if not both:
        return True
    if 2 * min(len(one), len(other)) < ENOUGH_F1 * both:
        return False
    overlap = _overlaps(one, other)
    free = np.ones(len(one), dtype=bool)
    matched = 0
    for index in sorted(range(len(other)), key=lambda at: -float(other[at]["confidence"])):
        column = np.where(free, overlap[:, index], 0.0)
        best = int(column.argmax())
        if column[best] >= SAME_OBJECT_IOU:
            free[best] = False
            matched += 1
    return 2 * matched >= ENOUGH_F1 * both


def _overlaps(one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Intersection over union of each pair of boxes, 0 where the classes differ; shape (len(one), len(other))."""
    names = ("x1", "y1", "x2", "y2")
    a = np.array([[float(box[name]) for name in names] for box in one])
    b = np.array([[float(box[name]) for name in names] for box in other])
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    shared = np.clip(sides, 0, None).prod(axis=2)
    areas = (a[:, 2:] - a[:, :2]).prod(axis=1)[:, None] + (b[:, 2:] - b[:, :2]).prod(axis=1)[None, :]
    union = areas - shared
    overlap = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    same = np.array([box["class"] for box in one])[:, None] == np.array([box["class"] for box in other])[None, :]
    return np.where(same, np.nan_to_num(overlap), 0.0)

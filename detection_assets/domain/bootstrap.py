"""The bootstrap behind every interval: what is drawn, and AP50 over what was drawn.

Resampling whole groups needs no new matching, only new weights for the matches that there are: counting a frame twice
is the same as having it twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

RECALLS = np.linspace(0.0, 1.0, 101)
"""Where COCO reads precision off."""

_CHUNK = 4_000_000  # resampled weights held at once: 32 MB


@dataclass(frozen=True)
class Difference:
    """How much better one detector is than another on the same frames.

    Attributes:
        value: AP50 of the first minus AP50 of the second.
        low: Lower end of the 95 % bootstrap interval, NaN if there was nothing to resample.
        high: Upper end.
        unit: What was drawn anew each time: `group`, `video` or `image`.
        units: How many of them there are. Below about five, an interval says little.
    """

    value: float
    low: float
    high: float
    unit: str
    units: int


@dataclass(frozen=True)
class Matches:
    """What AP50 is made of: predictions in descending confidence, and the number of truth boxes.

    Attributes:
        row: Each prediction's row in the table of predictions.
        image: Its frame, as a row.
        label: Its class, as a number.
        right: Whether it is right at IoU 0.50.
        truth: (frames, classes): truth boxes.
    """

    row: Ints
    image: Ints
    label: Ints
    right: Flags
    truth: Ints


def units(images: pd.DataFrame) -> tuple[str, Ints]:
    """What a bootstrap draws: groups if there are two or more, otherwise videos, otherwise single frames.

    Frames of one video resemble each other; drawing them one by one would make intervals look far too good.

    Args:
        images: `group, video`, a row a frame.

    Returns:
        `group`, `video` or `image`, and each frame's unit as a number from 0.
    """
    for unit in ("group", "video"):
        codes, names = pd.factorize(images[unit], sort=True)
        if len(names) > 1:
            return unit, codes.astype(np.int64)
    return "image", np.arange(len(images))


def resampled(matches: Matches, chosen: Ints, unit_of: Ints, resamples: int, seed: int) -> Floats:
    """AP50 of each class in bootstrap samples of units.

    The same seed over the same frames draws the same samples, so that two detectors can be compared pair by pair.

    Args:
        matches: The matches of all frames.
        chosen: The frames to draw from, as rows.
        unit_of: The unit of each of them, from `units`.
        resamples: Number of samples.
        seed: Seed of the draws.

    Returns:
        Array of shape (resamples, classes); NaN where a sample has no truth of a class.
    """
    frames, classes = matches.truth.shape
    count = int(unit_of.max()) + 1 if len(unit_of) else 0
    if not count:
        return np.full((resamples, classes), np.nan)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    unit = np.full(frames, -1)
    unit[chosen] = unit_of
    truth = np.zeros((count, classes), np.int64)
    np.add.at(truth, unit_of, matches.truth[chosen])
    unit_of_match = unit[matches.image]
    values = np.full((resamples, classes), np.nan)
    for k in np.flatnonzero(truth.sum(0)):
        mine = (matches.label == k) & (unit_of_match >= 0)
        values[:, k] = _weighted_ap(draws, unit_of_match[mine], matches.right[mine], draws @ truth[:, k])
    return values


def row_means(values: Floats) -> Floats:
    """The mean of each row's known values; NaN for a row without any."""
    known = ~np.isnan(values)
    count = known.sum(1)
    total = np.where(known, values, 0.0).sum(1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def interval(samples: Floats | None) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile; NaN where fewer than half of the samples could be scored."""
    if samples is None or not len(samples) or np.isnan(samples).mean() > 0.5:
        return float("nan"), float("nan")
    low, high = np.nanpercentile(samples, [2.5, 97.5])
    return float(low), float(high)


def _weighted_ap(draws: Ints, unit: Ints, right: Flags, truth: Ints) -> Floats:
    """AP with COCO's 101-point interpolation, each unit counted as often as it was drawn.

    Counting a frame twice is the same as having it twice, so this equals an evaluation of the resampled data set.

    Args:
        draws: (samples, units): how often each unit was drawn.
        unit: The unit of each prediction, in descending confidence.
        right: Whether each prediction is right.
        truth: (samples,): truth boxes in each sample.

    Returns:
        (samples,), NaN where a sample has no truth.
    """
    values = np.full(len(draws), np.nan)
    values[truth > 0] = 0.0
    hits = np.flatnonzero(right)
    if not len(hits):
        return values
    step = max(1, _CHUNK // len(unit))
    for start in range(0, len(draws), step):
        part = slice(start, start + step)
        seen = np.cumsum(draws[part][:, unit], axis=1)[:, hits]
        found = np.cumsum(draws[part][:, unit[hits]], axis=1)
        # Precision is highest at a right prediction, so the others need not be looked at.
        precision = np.divide(found, seen, out=np.zeros(found.shape), where=seen > 0)
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        total = np.maximum(truth[part], 1)[:, None]
        # In whole boxes, because the same quotient must come out on the same side of a threshold as in COCO.
        needed = np.floor(RECALLS * total).astype(np.int64)
        needed += needed / total < RECALLS
        rows = np.arange(len(found))[:, None]
        apart = int(max(found.max(), total.max())) + 2  # rows one after the other make one ascending sequence
        at = np.searchsorted((found + rows * apart).ravel(), (needed + rows * apart).ravel()).reshape(needed.shape)
        at -= rows * len(hits)
        reached = at < len(hits)
        points = np.where(reached, np.take_along_axis(best, np.minimum(at, len(hits) - 1), axis=1), 0.0)
        values[part] = np.where(truth[part] > 0, points.mean(1), np.nan)
    return values

"""Whether what comes in, and what the model answers, is still like what it was made with.

The features of a detector: what the pictures look like (light, contrast, sharpness, colour, size), held against the
frames of the dataset that taught it; and what it finds (boxes a frame, class mix, confidence, box size), held against
what it found on the test split of that dataset.

A verdict asks for two things: that the difference cannot be chance (`two_samples`), and that it is large enough to
matter (the detector's limits). All features of a report are asked at once, so the p-values are adjusted for their
number; the same day is asked again every hour as it fills, so the level is strict.

Pictures are no independent draws. Frames of one camera that follow each other, and the same picture sent twice, count
for less (`two_samples.effective_size`). The frames of the dataset are the standard itself, drawn from it at random; but
what the model answered is known of the test split alone, which is a few videos: there the frames of a video count
together, and a test split of one video is no standard at all. Cameras that send in turns are not told apart: if few of
them make most of the traffic, what is found is true of those.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from detection_assets.domain.image_statistics import NAMES
from detection_assets.domain.two_samples import Comparison, Floats, Ints, Sample, compare, holm

LEVEL = 0.01
"""Chance that a report in which nothing changed has a verdict other than stable. A fifth of the usual, because the same
day is judged up to twenty-four times."""
WORTH_WATCHING = 0.5
"""From this share of a limit on, a difference that is no chance is worth watching."""

IMAGE_FEATURES = (*NAMES, "width", "height")
ANSWER_FEATURES = ("boxes_a_frame", "class_mix", "confidence", "box_size")
FEATURES = (*IMAGE_FEATURES, *ANSWER_FEATURES)
LABELS = {
    **{name: name.replace("_", " ") for name in FEATURES},
    **{"red": "red level", "green": "green level", "blue": "blue level"},
    "box_size": "box size, % of the picture's side",
}
"""What the features are called in front of people."""

TOO_FEW, STABLE, WATCH, DRIFT, NO_REFERENCE = "too few", "stable", "watch", "drift", "no reference"


@dataclass(frozen=True, slots=True)
class Limits:
    """When a difference matters.

    Attributes:
        psi: Population stability index, above what chance alone gives.
        ks: Kolmogorov-Smirnov distance, 0 to 1.
        min_requests: Fewest requests that can be judged.
    """

    psi: float = 0.2
    ks: float = 0.15
    min_requests: int = 50


@dataclass(frozen=True, slots=True)
class Finding:
    """One feature of one deployment. Means and medians are NaN for the class mix.

    Attributes:
        feature: One of `FEATURES`.
        reference_n: Values of the reference.
        production_n: Values of production.
        requests: Requests that they come from.
        compared: The tests; None if there is nothing to compare.
        reference_mean: Mean of the reference.
        production_mean: Mean of production.
        reference_median: Median of the reference.
        production_median: Median of production.
        p: The p-value, adjusted for all features of the report; NaN before it is judged.
        verdict: too few, stable, watch, drift or no reference.
        why: In words.
    """

    feature: str
    reference_n: int
    production_n: int
    requests: int
    compared: Comparison | None
    reference_mean: float = math.nan
    production_mean: float = math.nan
    reference_median: float = math.nan
    production_median: float = math.nan
    p: float = math.nan
    verdict: str = ""
    why: str = ""


def image_samples(frames: pd.DataFrame, *, ordered: bool) -> dict[str, Sample]:
    """What pictures look like, feature by feature.

    Args:
        frames: A row a picture: the columns `IMAGE_FEATURES`, and `unit` where pictures belong together (see `units`);
            in order of time if `ordered`. Missing figures are left out.
        ordered: Whether neighbouring rows are neighbours in time.
    """
    unit = _unit(frames)
    order = np.argsort(unit, kind="stable")
    samples: dict[str, Sample] = {}
    for name in IMAGE_FEATURES:
        values = frames[name].to_numpy(np.float64, na_value=np.nan)[order]
        there = np.isfinite(values)
        samples[name] = Sample(values[there], unit[order][there], ordered)
    return samples


def repeats(frames: pd.DataFrame) -> Ints:
    """Numbers pictures so that the very same picture, sent again, has the same number: it tells nothing new.

    Args:
        frames: A row a picture, with the columns `image_statistics.NAMES`. One without figures is like no other.

    Returns:
        A number a row, from 0, in order of first appearance.
    """
    known = frames[list(NAMES)].notna().all(axis=1).to_numpy(np.bool_)
    keys = [
        tuple(row) if there else at
        for at, (there, row) in enumerate(zip(known, frames[list(NAMES)].to_numpy(np.float64).tolist(), strict=True))
    ]
    return pd.factorize(pd.Series(keys, dtype=object))[0].astype(np.int64)


def _unit(frames: pd.DataFrame) -> Ints:
    return frames["unit"].to_numpy(np.int64) if "unit" in frames else np.arange(len(frames), dtype=np.int64)


def answer_samples(frames: pd.DataFrame, boxes: pd.DataFrame, *, ordered: bool) -> dict[str, Sample]:
    """What a model found, feature by feature.

    Args:
        frames: A row a picture: `frame`, `width`, `height` (pixels), and `unit` where pictures belong together; in
            order of time if `ordered`.
        boxes: A row a box on them: `frame`, `class`, `confidence`, `x1 y1 x2 y2` (pixels). Boxes on no frame of these
            are left out.
        ordered: Whether neighbouring rows of `frames` are neighbours in time.
    """
    unit = _unit(frames)
    place = pd.Index(frames["frame"]).get_indexer(pd.Index(boxes["frame"])).astype(np.int64)
    count = np.bincount(place[place >= 0], minlength=len(frames)).astype(np.float64)
    order = np.argsort(np.where(place < 0, -1, unit[place] if len(unit) else -1), kind="stable")
    order = order[int((place < 0).sum()) :]
    frame = place[order]
    corners = boxes[["x1", "y1", "x2", "y2"]].to_numpy(np.float64)[order]
    area = np.clip(corners[:, 2] - corners[:, 0], 0, None) * np.clip(corners[:, 3] - corners[:, 1], 0, None)
    whole = (frames["width"].to_numpy(np.float64) * frames["height"].to_numpy(np.float64))[frame]
    side = 100 * np.sqrt(np.divide(area, whole, out=np.zeros(len(area)), where=whole > 0))
    by_unit = np.argsort(unit, kind="stable")
    return {
        "boxes_a_frame": Sample(count[by_unit], unit[by_unit], ordered),
        "class_mix": Sample(boxes["class"].astype(object).to_numpy()[order], unit[frame], ordered),
        "confidence": Sample(boxes["confidence"].to_numpy(np.float64)[order], unit[frame], ordered),
        "box_size": Sample(side, unit[frame], ordered),
    }


def find(
    reference: Mapping[str, Sample], production: Mapping[str, Sample], requests: int, limits: Limits
) -> list[Finding]:
    """Compares each feature; `judge` gives the verdicts.

    Args:
        reference: Samples of what the model was made with; a feature may be missing.
        production: Samples of what came in.
        requests: Requests that they come from.
        limits: The detector's.
    """
    findings: list[Finding] = []
    for name, sample in production.items():
        base = reference.get(name)
        if base is None or not len(base):
            findings.append(
                Finding(name, 0, len(sample), requests, None, verdict=NO_REFERENCE, why="there is nothing to compare")
            )
            continue
        compared = compare(base, sample) if requests >= limits.min_requests else None
        (mean, median), (mean_now, median_now) = _middle(base), _middle(sample)
        findings.append(
            Finding(
                name,
                len(base),
                len(sample),
                requests,
                compared,
                reference_mean=mean,
                production_mean=mean_now,
                reference_median=median,
                production_median=median_now,
                why=_shift(base, sample),
            )
        )
    return findings


def judge(findings: Sequence[Finding], limits: Limits) -> list[Finding]:
    """Gives each feature of a report its verdict.

    Args:
        findings: Of all deployments that the report is about: what is asked together is adjusted together.
        limits: The detector's.

    Returns:
        The same findings in the same order, with p and verdict.
    """
    asked = [at for at, one in enumerate(findings) if one.compared is not None and one.compared.enough]
    adjusted = holm(np.array([_compared(findings[at]).p for at in asked], np.float64))
    p_of = dict(zip(asked, adjusted.tolist(), strict=True))
    judged: list[Finding] = []
    for at, one in enumerate(findings):
        if at in p_of:
            verdict, why = _verdict(_compared(one), p_of[at], limits)
            judged.append(_with(one, p_of[at], verdict, f"{one.why}: {why}"))
        elif one.verdict:
            judged.append(one)
        else:
            why = f"{one.requests} requests, at least {limits.min_requests} are needed"
            if one.compared is not None:
                worth = min(one.compared.reference_size, one.compared.production_size)
                why = f"the values are worth {worth:.1f} independent ones, too few to tell"
            judged.append(_with(one, math.nan, TOO_FEW, why))
    return judged


def _compared(one: Finding) -> Comparison:
    assert one.compared is not None
    return one.compared


def _with(one: Finding, p: float, verdict: str, why: str) -> Finding:
    return replace(one, p=p, verdict=verdict, why=why)


def _verdict(compared: Comparison, p: float, limits: Limits) -> tuple[str, str]:
    excess = compared.psi - compared.psi_by_chance
    share = max(excess / limits.psi, 0.0 if math.isnan(compared.ks) else compared.ks / limits.ks)
    if p > LEVEL:
        return STABLE, f"may be chance (p = {p:.2g})"
    if share >= 1:
        return DRIFT, f"no chance (p = {p:.1g}) and over the limit"
    if share >= WORTH_WATCHING:
        return WATCH, f"no chance (p = {p:.1g}), but under the limit"
    return STABLE, "no chance, but too small to matter"


def _middle(sample: Sample) -> tuple[float, float]:
    if sample.categorical or not len(sample):
        return math.nan, math.nan
    return float(sample.values.mean()), float(np.median(sample.values))


def _shift(reference: Sample, production: Sample) -> str:
    if not len(production):
        return "no values"
    if not reference.categorical:
        (mean, median), (mean_now, median_now) = _middle(reference), _middle(production)
        if _short(median) != _short(median_now):
            return f"median {_short(median)} → {_short(median_now)}"
        return f"mean {_short(mean)} → {_short(mean_now)}"
    shares = pd.DataFrame({
        "before": pd.Series(reference.values).value_counts(normalize=True),
        "now": pd.Series(production.values).value_counts(normalize=True),
    }).fillna(0.0)  # fmt: skip
    gap = (shares["now"] - shares["before"]).abs().sort_values(ascending=False)
    return ", ".join(
        f"{name} {shares.loc[name, 'before']:.0%} → {shares.loc[name, 'now']:.0%}" for name in gap.index[:3]
    )


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def strangest(reference: Mapping[str, Sample], frames: pd.DataFrame, most: int) -> pd.DataFrame:
    """The pictures least like the reference.

    A picture is as strange as its strangest feature: how far it lies outside what is usual, the middle 98 % of the
    reference, as a multiple of that range. Among pictures inside it, the one nearest to an end is the strangest.

    Args:
        reference: From `image_samples`.
        frames: A row a picture, with the columns `IMAGE_FEATURES`.
        most: How many to return.

    Returns:
        `row` (position in `frames`), `feature`, `value`, `low` and `high` (what is usual); the strangest first.
    """
    names = [name for name in IMAGE_FEATURES if name in reference and len(reference[name])]
    if not names or frames.empty:
        return pd.DataFrame({name: [] for name in ("row", "feature", "value", "low", "high")})
    low, high = np.array([np.quantile(reference[name].values, [0.01, 0.99]) for name in names]).T
    # A usual picture size has no range: then a part of the value itself.
    width = np.maximum(high - low, np.maximum(0.05 * np.abs(high), 1e-6))
    values = np.column_stack([frames[name].to_numpy(np.float64, na_value=np.nan) for name in names])
    far: Floats = np.abs(values - (low + high) / 2) / width
    far = np.where(high > low, far, far + 0.5 * (far > 0))  # 0.5 is the end of the range
    far = np.nan_to_num(far, nan=-1.0)
    worst = far.argmax(axis=1)
    order = np.argsort(-far.max(axis=1), kind="stable")[:most]
    return pd.DataFrame({
        "row": order,
        "feature": [names[at] for at in worst[order]],
        "value": values[order, worst[order]],
        "low": low[worst[order]],
        "high": high[worst[order]],
    })  # fmt: skip

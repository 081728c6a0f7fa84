"""Whether two samples come from one distribution, and how far apart they are.

Significance and size are two questions. With ten thousand requests a difference that nobody would notice is certain,
with fifty a large one can be chance; so each comparison gives a p-value, which knows the sizes of the samples, and two
distances, which do not grow with them.

Frames of one camera, one after the other, and boxes of one frame resemble each other: two hundred of them tell less
than two hundred independent ones. Each sample therefore counts with its effective size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BINS = 10
"""Bins of the population stability index: tenths of the reference, as is usual (Siddiqi, Credit Risk Scorecards,
2006)."""
A_BIN = 20
"""Values of the reference in a bin at least, so fewer bins for a small one: its own quantiles are uncertain."""
LEAST_EXPECTED = 1.0
"""Bins in which the smaller sample would have fewer are joined with their neighbour (Cochran, Biometrics 10(4), 1954):
otherwise one frame of a rare kind would be an alarm."""
QUARTERS = 4
NOTHING = 1e-9
"""A mean square below this is rounding: ranks lie a half apart, indicators one."""
LEAST_SIZE = 5.0
"""Under this effective size of either sample, the approximations of the tests do not hold."""


@dataclass(frozen=True)
class Sample:
    """Values of one feature.

    Attributes:
        values: float64 for numbers; object (text) for categories. No missing ones.
        units: What each value belongs to (its frame, its request), as numbers that do not fall; in order of time if
            `ordered`.
        ordered: Whether neighbouring units are neighbours in time.
    """

    values: NDArray[Any]
    units: Ints
    ordered: bool = False

    def __len__(self) -> int:
        return len(self.values)

    @property
    def categorical(self) -> bool:
        """Whether the values are categories."""
        return self.values.dtype == object


@dataclass(frozen=True, slots=True)
class Comparison:
    """How two samples of a feature differ.

    Attributes:
        reference_size: Effective size of the reference.
        production_size: Effective size of what is compared with it.
        psi: Population stability index, 0 for equal shares.
        psi_by_chance: What it would be on average if nothing had changed.
        ks: Largest distance of the two distribution functions, 0 to 1; NaN for categories.
        p: How likely a difference at least as large is if nothing had changed.
    """

    reference_size: float
    production_size: float
    psi: float
    psi_by_chance: float
    ks: float
    p: float

    @property
    def enough(self) -> bool:
        """Whether both samples are large enough for `p` to mean anything."""
        return min(self.reference_size, self.production_size) >= LEAST_SIZE


def compare(reference: Sample, production: Sample) -> Comparison:
    """Compares two samples of a feature.

    Numbers are tested by Kolmogorov-Smirnov, which sees a shift best, and by chi-square over the bins, which sees a
    new value or another spread; the smaller p-value counts, doubled because there were two (Bonferroni). Categories
    are tested by chi-square alone.

    Args:
        reference: What is known to be right.
        production: What is compared with it; of the same kind.
    """
    m, n = effective_size(reference), effective_size(production)
    if not len(reference) or not len(production):
        return Comparison(m, n, math.nan, math.nan, math.nan, 1.0)
    counts = binned(reference, production, min(m, n))
    psi = stability_index(*counts)
    chance = (len(counts[0]) - 1) * (1 / m + 1 / n)
    p = chi_square(*counts, m, n)
    if reference.categorical:
        return Comparison(m, n, psi, chance, math.nan, p)
    ks = distance(reference.values, production.values)
    return Comparison(m, n, psi, chance, ks, min(1.0, 2 * min(p, distance_p(ks, m, n))))


def stability_index(reference: Floats, production: Floats) -> float:
    """Population stability index, sum of (p - q) ln(p / q) over bins with shares p and q.

    It is Jeffreys' divergence (Proc. R. Soc. A 186, 1946); as the PSI in Siddiqi, Credit Risk Scorecards, 2006. Half an
    observation is added to each bin, so that an empty one gives a large number and not infinity. Of two samples of one
    distribution its mean is about (bins - 1) (1/m + 1/n) (Yurdakul, Statistical Properties of Population Stability
    Index, 2018).

    Args:
        reference: Counts a bin.
        production: Counts in the same bins.
    """
    q, p = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (reference, production))
    return float(((p - q) * np.log(p / q)).sum())


def chi_square(reference: Floats, production: Floats, m: float, n: float) -> float:
    """p-value of Pearson's chi-square test that two rows of counts have the same shares.

    With effective sizes in place of the numbers of observations it is the first-order correction of Rao and Scott
    (Annals of Statistics 12(1), 1984) for observations that come in clusters.

    Args:
        reference: Counts a bin.
        production: Counts in the same bins.
        m: Effective size of the reference.
        n: Effective size of production.
    """
    from scipy.special import chdtrc  # scipy.stats has the same behind seconds of imports

    q, p = reference / reference.sum(), production / production.sum()
    pooled = (m * q + n * p) / (m + n)
    seen = pooled > 0
    if seen.sum() < 2:
        return 1.0
    statistic = (m * n / (m + n)) * float(((p - q)[seen] ** 2 / pooled[seen]).sum())
    return float(chdtrc(int(seen.sum()) - 1, statistic))


def distance(reference: Floats, production: Floats) -> float:
    """The two-sample Kolmogorov-Smirnov statistic: the largest distance of the two empirical distribution functions."""
    one, other = np.sort(reference), np.sort(production)
    at = np.concatenate([one, other])
    gap = np.searchsorted(one, at, side="right") / len(one) - np.searchsorted(other, at, side="right") / len(other)
    return float(np.abs(gap).max())


def distance_p(ks: float, m: float, n: float) -> float:
    """p-value of a Kolmogorov-Smirnov distance, asymptotic with Stephens' correction (J. R. Stat. Soc. B 32, 1970).

    With ties it is on the safe side.

    Args:
        ks: The distance.
        m: Effective size of the reference.
        n: Effective size of production.
    """
    from scipy.special import kolmogorov

    root = math.sqrt(m * n / (m + n))
    return float(kolmogorov((root + 0.12 + 0.11 / root) * ks))


def binned(reference: Sample, production: Sample, smaller: float) -> tuple[Floats, Floats]:
    """Counts both samples in the same bins.

    Numbers: the edges are quantiles of the reference. A value that makes up a bin's share by itself (a picture width, a
    count of boxes) gets a bin of its own, so that what lies beside it is seen. Categories: a bin each.

    Args:
        reference: What the bins are made of.
        production: Counted in them.
        smaller: Effective size of the smaller sample: bins too small for it are joined.

    Returns:
        Counts of the reference and of production, float64, of the same length.
    """
    if reference.categorical:
        codes = np.unique(np.concatenate([reference.values, production.values]), return_inverse=True)[1]
        bins = int(codes.max()) + 1
        one = np.bincount(codes[: len(reference)], minlength=bins).astype(np.float64)
        other = np.bincount(codes[len(reference) :], minlength=bins).astype(np.float64)
    else:
        edges = _edges(reference.values)
        one, other = (
            np.bincount(np.searchsorted(edges, sample.values, side="right"), minlength=len(edges) + 1).astype(
                np.float64
            )
            for sample in (reference, production)
        )
    expected = smaller * (one / one.sum() + other / other.sum()) / 2
    if reference.categorical:
        order = np.argsort(expected, kind="stable")  # the rare ones together
        one, other, expected = one[order], other[order], expected[order]
    return _joined(one, other, expected)


def unexplained(reference: Sample, production: Sample, values: NDArray[Any]) -> Floats:
    """For each value, the share of production with such values that the reference does not explain: 1 - p / q.

    p and q are the shares of reference and production in the value's bin, those of the stability index. Their ratio is
    what samples are weighed by under covariate shift (Shimodaira, J. Stat. Plan. Inference 90(2), 2000).

    Args:
        reference: Makes the bins; not empty.
        production: Counted in them; not empty.
        values: Of the same kind.

    Returns:
        Between 0, as usual as ever, and 1, of a kind that the reference has not at all.
    """
    if reference.categorical:
        kinds = np.unique(np.concatenate([reference.values, production.values, values]))
        where = [np.searchsorted(kinds, part) for part in (reference.values, production.values, values)]
        bins = len(kinds)
    else:
        edges = _edges(reference.values)
        where = [np.searchsorted(edges, part, side="right") for part in (reference.values, production.values, values)]
        bins = len(edges) + 1
    p, q = (np.bincount(part, minlength=bins) / len(part) for part in where[:2])
    return np.clip(1 - np.divide(p, q, out=np.ones(bins), where=q > 0), 0.0, 1.0)[where[2]]


def _edges(values: Floats) -> Floats:
    bins = min(BINS, max(2, len(values) // A_BIN))
    edges = np.unique(np.quantile(values, np.arange(1, bins) / bins, method="inverted_cdf"))
    ordered = np.sort(values)
    ties = np.searchsorted(ordered, edges, side="right") - np.searchsorted(ordered, edges, side="left")
    atoms = edges[ties >= len(values) / bins]
    return np.union1d(edges, np.nextafter(atoms, np.inf))


def _joined(one: Floats, other: Floats, expected: Floats) -> tuple[Floats, Floats]:
    """Joins neighbouring bins until each has enough; the rest goes to the last."""
    starts: list[int] = []
    begun, held = 0, 0.0
    for at, count in enumerate(expected.tolist()):
        held += count
        if held >= LEAST_EXPECTED:
            starts.append(begun)
            begun, held = at + 1, 0.0
    starts = starts or [0]
    return np.add.reduceat(one, starts), np.add.reduceat(other, starts)


def effective_size(sample: Sample) -> float:
    """How many independent values a sample is worth.

    Boxes of one frame: Kish's design effect 1 + (size - 1) rho (Survey Sampling, 1965), where rho is the intraclass
    correlation by analysis of variance. Frames one after the other: a first-order autoregression's (1 - r) / (1 + r),
    where r is the correlation of neighbours (Bayley and Hammersley, J. R. Stat. Soc. Suppl. 8(2), 1946), corrected for
    its bias in short series, -(1 + 4 r) / length (Kendall, Biometrika 41, 1954). Numbers go in by their ranks, so that
    outliers do not decide; categories as indicators.

    r is taken about the mean of each quarter of the series, and the quarters' median counts. What lasts longer than a
    quarter is a change and no resemblance of neighbours: a light that fails at noon must not make the day's sample
    worthless.

    Args:
        sample: The values and their units.

    Returns:
        Between 1 and the number of values; 0 for an empty sample.
    """
    total = len(sample)
    if total < 2:
        return float(total)
    scores = _scores(sample)
    units, sizes = np.unique(sample.units, return_counts=True)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    means = np.add.reduceat(scores, starts, axis=0) / sizes[:, None]
    everything = float((scores**2).sum())
    if everything <= NOTHING * total or len(units) < 2:
        # All alike: units of a kind cannot be told apart, and the same picture, sent again, tells nothing.
        return float(len(units) if sample.ordered or len(units) < 2 else total)
    size = float(total)
    if total > len(units):
        between = float((sizes[:, None] * means**2).sum())
        usual = (total - float((sizes**2).sum()) / total) / (len(units) - 1)
        outer, inner = between / (len(units) - 1), max(0.0, everything - between) / (total - len(units))
        rho = (outer - inner) / (outer + (usual - 1) * inner) if outer > 0 else 0.0
        size = total / (1 + (float((sizes**2).sum()) / total - 1) * min(1.0, max(0.0, rho)))
    if sample.ordered:
        r = _neighbours(means)
        size *= (1 - r) / (1 + r)
    return max(1.0, size)


def _neighbours(means: Floats) -> float:
    """Correlation of neighbours, 0 to 0.99: the median of those about the means of the quarters of a series."""
    found: list[float] = []
    for part in np.array_split(means, max(1, min(QUARTERS, len(means) // 10))):
        centred = part - part.mean(axis=0)
        spread, length = float((centred**2).sum()), len(part)
        r = float((centred[1:] * centred[:-1]).sum()) / spread if spread > NOTHING * length else -1 / length
        found.append((r + 1 / length) / max(0.1, 1 - 4 / length))
    return min(0.99, max(0.0, float(np.median(found))))


def _scores(sample: Sample) -> Floats:
    """Values as columns of numbers about their mean: mid-ranks, or an indicator a category."""
    _, codes, counts = np.unique(sample.values, return_inverse=True, return_counts=True)
    if sample.categorical:
        scores = np.zeros((len(codes), len(counts)))
        scores[np.arange(len(codes)), codes] = 1.0
    else:
        ranks = np.cumsum(counts) - (counts - 1) / 2
        scores = ranks[codes][:, None].astype(np.float64)
    return scores - scores.mean(axis=0)


def holm(p: Floats) -> Floats:
    """Adjusts p-values for having asked several questions at once (Holm, Scand. J. Statist. 6, 1979).

    Whatever the dependence among them, the chance of one or more false alarms is at most the level that the adjusted
    values are held against.

    Args:
        p: The p-values.

    Returns:
        The adjusted ones, in the same order, at most 1.
    """
    order = np.argsort(p, kind="stable")
    scaled = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted

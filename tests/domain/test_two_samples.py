from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from detection_assets.domain import two_samples
from detection_assets.domain.two_samples import Sample, compare, effective_size, holm


def sample(values: np.ndarray, units: np.ndarray | None = None, *, ordered: bool = True) -> Sample:
    return Sample(values, np.arange(len(values)) if units is None else units, ordered)


def autoregressive(rng: np.random.Generator, length: int, r: float) -> np.ndarray:
    values = np.empty(length)
    values[0] = rng.normal()
    for at in range(1, length):
        values[at] = r * values[at - 1] + np.sqrt(1 - r * r) * rng.normal()
    return values


@pytest.mark.parametrize(("m", "n"), [(1000, 50), (1000, 200), (60, 2000), (30, 30)])
def test_the_distance_and_its_p_value_are_scipys(m: int, n: int) -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(0, 1, m), rng.normal(0.2, 1.2, n)
    theirs = stats.ks_2samp(one, other, method="exact")
    ks = two_samples.distance(one, other)
    assert ks == pytest.approx(theirs.statistic, abs=1e-12)
    assert two_samples.distance_p(ks, m, n) == pytest.approx(theirs.pvalue, rel=0.15, abs=0.01)


def test_the_distance_counts_ties_like_scipy() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.poisson(2, 300).astype(float), rng.poisson(3, 100).astype(float)
    assert two_samples.distance(one, other) == pytest.approx(stats.ks_2samp(one, other).statistic, abs=1e-12)


def test_chi_square_is_scipys() -> None:
    one, other = np.array([30.0, 50.0, 20.0]), np.array([10.0, 10.0, 30.0])
    theirs = stats.chi2_contingency(np.array([one, other]), correction=False).pvalue
    assert two_samples.chi_square(one, other, 100, 50) == pytest.approx(theirs)
    halved = stats.chi2_contingency(np.array([one, other]) / 2, correction=False).pvalue
    assert two_samples.chi_square(one, other, 50, 25) == pytest.approx(halved), "clustered: worth half"


def test_the_index_is_siddiqis() -> None:
    one, other = np.array([4000.0, 6000.0]), np.array([6000.0, 4000.0])
    assert two_samples.stability_index(one, other) == pytest.approx(2 * 0.2 * np.log(1.5), rel=1e-3)
    assert two_samples.stability_index(one, one) == 0
    assert np.isfinite(two_samples.stability_index(np.array([10.0, 0.0]), np.array([0.0, 10.0])))


@pytest.mark.parametrize(("m", "n"), [(1000, 200), (400, 100)])
def test_the_index_of_two_samples_of_one_distribution_is_what_chance_gives(m: int, n: int) -> None:
    rng = np.random.default_rng(2)
    found = [compare(sample(rng.normal(0, 1, m), ordered=False), sample(rng.normal(0, 1, n))) for _ in range(300)]
    assert np.mean([one.psi for one in found]) == pytest.approx(np.mean([one.psi_by_chance for one in found]), rel=0.25)


@pytest.mark.parametrize("value", [320.0, 1280.0])
def test_a_value_beside_a_constant_reference_is_seen_on_either_side(value: float) -> None:
    constant = sample(np.full(500, 640.0), ordered=False)
    some = sample(np.where(np.arange(200) % 5 == 0, value, 640.0))
    assert compare(constant, some).p < 1e-6
    assert compare(constant, sample(np.full(200, 640.0))).p == 1
    assert compare(constant, sample(np.full(200, 640.0))).psi == 0


def test_one_frame_of_a_rare_kind_is_no_alarm() -> None:
    reference = np.array(["cola"] * 999 + ["water"], object)
    production = np.array(["cola"] * 49 + ["water"], object)
    assert compare(sample(reference, ordered=False), sample(production)).p > 0.05


def test_a_class_that_is_new_is_seen() -> None:
    reference = np.array(["apple", "banana"] * 200, object)
    production = np.array(["apple", "banana", "mango", "apple", "banana"] * 30, object)
    assert compare(sample(reference, ordered=False), sample(production)).p < 1e-6


def test_bins_are_tenths_of_the_reference() -> None:
    rng = np.random.default_rng(3)
    one, _ = two_samples.binned(sample(rng.normal(0, 1, 1000)), sample(rng.normal(0, 1, 100)), 100)
    np.testing.assert_allclose(one, 100, atol=1)
    few, _ = two_samples.binned(sample(rng.normal(0, 1, 60)), sample(rng.normal(0, 1, 100)), 60)
    assert len(few) == 3, "a small reference does not know its tenths"


@pytest.mark.parametrize(("r", "worth"), [(0.0, 1.0), (0.5, 1 / 3), (0.8, 1 / 9)])
def test_neighbours_that_resemble_each_other_count_for_less(r: float, worth: float) -> None:
    sizes = [effective_size(sample(autoregressive(np.random.default_rng(seed), 2000, r))) / 2000 for seed in range(20)]
    assert np.mean(sizes) == pytest.approx(worth, rel=0.2)


def test_boxes_of_one_frame_that_are_alike_count_as_one() -> None:
    rng = np.random.default_rng(4)
    units = np.repeat(np.arange(100), 6)
    frame = rng.normal(0, 1, 100)
    assert effective_size(sample(frame[units], units, ordered=False)) == pytest.approx(100)
    apart = effective_size(sample(rng.normal(0, 1, 600), units, ordered=False))
    assert apart > 500
    half = effective_size(sample(frame[units] + rng.normal(0, 1, 600), units, ordered=False))
    assert 100 < half < 300, "an intraclass correlation of a half: 600 / (1 + 5 / 2)"


def test_a_change_at_noon_does_not_make_the_sample_worthless() -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(0, 1, 200)
    values[110:] -= 6
    assert effective_size(sample(values)) > 100


@pytest.mark.parametrize("values", [np.array([]), np.array([1.0]), np.full(50, 3.0)])
def test_degenerate_samples_have_a_size(values: np.ndarray) -> None:
    assert effective_size(sample(values)) == len(values)
    found = compare(sample(np.arange(100.0), ordered=False), sample(values))
    assert 0 <= found.p <= 1


def test_holm_is_the_textbooks() -> None:
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([])).size == 0

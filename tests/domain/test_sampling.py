"""Which frames are wanted, against the definition written out in fractions."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detection_assets.domain.sampling import (
    SCENE_SIZE,
    RateGrid,
    Sampling,
    SceneCut,
    choose,
    evenly,
    grid_instants,
    missing_instants,
)

rates = st.fractions(min_value=Fraction(1, 50), max_value=120, max_denominator=1001)


def defined(ticks: list[int], rate: Fraction, time_base: Fraction) -> list[int]:
    """For each k, the first frame shown at k/rate or later."""
    times = [(tick - ticks[0]) * time_base for tick in ticks]
    last = int(times[-1] * rate)
    return sorted({next(n for n, time in enumerate(times) if time >= k / rate) for k in range(last + 1)})


@given(
    start=st.integers(-100_000, 100_000),
    steps=st.lists(st.integers(1, 9_000), max_size=60),
    rate=rates,
    time_base=st.sampled_from([Fraction(1, 90_000), Fraction(1, 1000), Fraction(1001, 30_000), Fraction(1, 11_456)]),
)
def test_rate_grid_is_exact(start: int, steps: list[int], rate: Fraction, time_base: Fraction):
    ticks = [start, *(start + sum(steps[: n + 1]) for n in range(len(steps)))]
    if (ticks[-1] - ticks[0]) * time_base * rate > 5_000:
        rate = Fraction(1, 50)
    grid = RateGrid(rate, time_base)
    assert [n for n, tick in enumerate(ticks) if grid.wants(tick)] == defined(ticks, rate, time_base)


@pytest.mark.parametrize(
    ("ticks", "rate", "expected"),
    [
        ([0, 500, 1000, 1500, 2000], 1.0, [0, 2, 4]),
        ([700, 1200, 1700, 2200, 2700], 1.0, [0, 2, 4]),  # does not start at zero
        ([0, 400, 900, 1001, 1900, 2500], 1.0, [0, 3, 5]),  # the first one at 1 s or later, not the nearest
        ([0, 100, 4200, 4300], 1.0, [0, 2]),  # a pause is served once
        ([0, 33, 67, 100, 133], 1000, [0, 1, 2, 3, 4]),  # more often than there are frames
        ([0, 333, 667, 1000], 3.0, [0, 2, 3]),  # 333 ms are less than a third of a second
        ([5], 1.0, [0]),
        ([], 1.0, []),
    ],
)
def test_choose_by_rate(ticks: list[int], rate: float, expected: list[int]):
    chosen = choose(np.array(ticks, np.int64), np.zeros(len(ticks), bool), Sampling(rate=rate), Fraction(1, 1000))
    assert chosen.tolist() == expected


@pytest.mark.parametrize(
    ("rate", "meant"), [(29.97, Fraction(2997, 100)), (0.1, Fraction(1, 10)), (1 / 3, Fraction(1, 3))]
)
def test_rates_are_what_was_written(rate: float, meant: Fraction):
    assert Sampling(rate=rate).exact_rate == meant


def test_keyframes_and_limits():
    ticks, key = np.arange(0, 1000, 10), np.arange(100) % 10 == 0
    time_base = Fraction(1, 100)
    assert choose(ticks, key, Sampling("keyframes"), time_base).tolist() == list(range(0, 100, 10))
    assert choose(ticks, key, Sampling("keyframes", max_frames=2), time_base).tolist() == [0, 50]
    assert choose(ticks, key, Sampling(rate=10, max_frames=4), time_base).tolist() == [0, 25, 50, 75]
    with pytest.raises(ValueError, match="scene"):
        choose(ticks, key, Sampling("scene"), time_base)


@given(count=st.integers(0, 300), at_most=st.integers(1, 50))
def test_evenly(count: int, at_most: int):
    chosen = evenly(count, at_most)
    assert len(chosen) == len(set(chosen)) == min(count, at_most)
    assert chosen == sorted(chosen)
    assert chosen[:1] == ([0] if count else [])
    gaps = {after - before for before, after in itertools.pairwise(chosen)}
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_grid_instants():
    assert grid_instants(Fraction(10), Fraction(2), None) is None
    assert grid_instants(Fraction(10), Fraction(2), 21) is None
    assert grid_instants(Fraction(10), Fraction(2), 3) == [0, 7, 14]


def test_scene_cuts_stand_out_and_motion_does_not():
    width, height = SCENE_SIZE
    rng = np.random.default_rng(1)
    one = rng.integers(0, 256, (height, width * 4), dtype=np.uint8)
    # Fast motion changes each frame nearly as much as a cut would: what counts is more than usual.
    moving = [np.roll(one, 7 * n, axis=1)[:, :width] for n in range(40)]
    still = [np.full((height, width), 90, np.uint8)] * 30
    bright = [np.full((height, width), 180, np.uint8)] * 30
    for pictures, expected in (
        (moving, [0]),
        (still + bright, [0, 30]),
        ([*still, bright[0], *still], [0, 30]),  # a flash is one scene, not two
        ([*still, *moving], [0, 30]),
    ):
        cut = SceneCut(0.3, Fraction(1, 30))
        assert [n for n, image in enumerate(pictures) if cut.wants(n, image)] == expected


def test_missing_instants():
    assert list(missing_instants(Sampling(rate=2), 1.2, 3.0)) == [1.5, 2.0, 2.5]
    assert list(missing_instants(Sampling(rate=2), 3.0, 3.0)) == []
    assert list(missing_instants(Sampling("keyframes"), 0.0, 9.0)) == []
    assert len(list(missing_instants(Sampling(rate=10), 0.0, 1e9, 50))) == 50


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"method": "all"}, "method"),
        ({"rate": 0}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"scene_threshold": 2}, "scene_threshold"),
        ({"min_sharpness": -1}, "min_sharpness"),
        ({"near_duplicate": 65}, "near_duplicate"),
        ({"max_frames": 0}, "max_frames"),
        ({"jpeg_quality": 0}, "jpeg_quality"),
        ({"speed": 1}, "speed"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], named: str):
    with pytest.raises(ValueError, match=named):
        Sampling.from_params(options)

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection_assets.domain.rollout import LATENCY_BOUNDS_MS, NO_HEALTH, Health, agree

BUCKETS = len(LATENCY_BOUNDS_MS) + 1


def health(requests: int = 0, errors: int = 0, compared: int = 0, agreed: int = 0, since: float = 1.0) -> Health:
    latency = [0] * BUCKETS
    latency[30] = requests
    return Health(since, requests, errors, tuple(latency), compared, agreed)


def counted(times_ms: np.ndarray) -> Health:
    counts = np.bincount(np.searchsorted(LATENCY_BOUNDS_MS, times_ms), minlength=BUCKETS)
    return Health(1.0, len(times_ms), 0, tuple(int(count) for count in counts), 0, 0)


def test_the_buckets_go_from_a_millisecond_to_a_minute_in_steps_of_a_tenth() -> None:
    assert (LATENCY_BOUNDS_MS[0], LATENCY_BOUNDS_MS[-1]) == (1.0, 60_000.0)
    steps = np.array(LATENCY_BOUNDS_MS[1:]) / np.array(LATENCY_BOUNDS_MS[:-1])
    assert (steps > 1.09).all()
    assert (steps < 1.11).all()


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3000), st.sampled_from([0.0, 0.5, 0.9, 0.95, 0.99, 1.0]))
def test_a_quantile_is_right_within_its_bucket(seed: int, n: int, q: float) -> None:
    times = np.random.default_rng(seed).lognormal(3, 1, n).clip(1.01, 59_000)
    exact = float(np.quantile(times, q, method="inverted_cdf"))
    assert counted(times).quantile_ms(q) == pytest.approx(exact, rel=0.105)


def test_a_quantile_of_nothing_is_no_number_and_one_beyond_the_buckets_is_the_last_bound() -> None:
    assert math.isnan(NO_HEALTH.quantile_ms(0.95))
    assert counted(np.array([1e9])).quantile_ms(0.95) == 60_000


def test_a_window_is_what_came_between_two_looks() -> None:
    window = health(30, 3, 10, 4).after(health(20, 1, 5, 3))
    assert (window.requests, window.errors, window.compared, window.agreed) == (10, 2, 5, 1)
    assert sum(window.latency) == 10
    assert (window.error_rate, window.disagreement) == (0.2, 0.8)
    assert health(30).after(None) == health(30)


def test_counters_that_began_anew_count_from_nothing() -> None:
    assert health(5, 1, since=2.0).after(health(20, 1, since=1.0)) == health(5, 1, since=2.0)


def test_rates_of_nothing_are_nought() -> None:
    assert (NO_HEALTH.error_rate, NO_HEALTH.disagreement) == (0.0, 0.0)


def test_counters_survive_the_wire() -> None:
    assert Health.of(health(7, 1, 3, 2).dump()) == health(7, 1, 3, 2)


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"requests": None},
        {"requests": "many"},
        {"errors": -1},
        {"latency": [1, 2]},
        {"latency": None},
        {"since": float("nan")},
    ],
)
def test_counters_that_are_none_are_refused(broken: dict) -> None:
    told = {**health(7).dump(), **broken} if broken else {}
    with pytest.raises(ValueError, match="statistics of a slot"):
        Health.of(told)


def box(x: float, name: str = "a", confidence: float = 0.9, size: float = 10) -> dict:
    return {"class": name, "confidence": confidence, "x1": x, "y1": 0.0, "x2": x + size, "y2": size}


FIVE = [box(20.0 * index) for index in range(5)]
AGREE = {
    "both empty": ([], [], True),
    "the same": (FIVE, FIVE, True),
    "in another order": (FIVE, FIVE[::-1], True),
    "one of five missing": (FIVE, FIVE[:4], True),
    "two of five missing": (FIVE, FIVE[:3], False),
    "nothing found": (FIVE, [], False),
    "found in nothing": ([], FIVE[:1], False),
    "other classes": (FIVE, [{**item, "class": "b"} for item in FIVE], False),
    "shifted by a third": (FIVE, [box(item["x1"] + 3.3) for item in FIVE], True),
    "shifted by a half": (FIVE, [box(item["x1"] + 5) for item in FIVE], False),
    "less confident": (FIVE, [{**item, "confidence": 0.3} for item in FIVE], True),
    "not numbers": (FIVE, [{**item, "x1": float("nan")} for item in FIVE], False),
    "no area": ([box(0, size=0)], [box(0, size=0)], False),
    "one box twice does not stand for two": ([box(0), box(0.5), box(40)], [box(0), box(40), box(40)], False),
}


@pytest.mark.parametrize(("one", "other", "same"), AGREE.values(), ids=AGREE)
def test_answers_agree(one: list, other: list, same: bool) -> None:
    assert agree(one, other) is same


BOXES = st.lists(
    st.builds(box, st.floats(0, 100), st.sampled_from("ab"), st.floats(0, 1), st.floats(1, 30)), max_size=8
)


@given(BOXES, BOXES)
def test_an_answer_agrees_with_itself_and_with_none_that_has_far_more(one: list, other: list) -> None:
    assert agree(one, one)
    if 2 * len(one) < 0.8 * (len(one) + len(other)):
        assert not agree(one, other)

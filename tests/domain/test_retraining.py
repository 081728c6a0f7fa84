from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detection_assets.domain.retraining import WINDOW_S, Limits, Spent, decide

NOW = 2e9
HOUR = 3600.0


@pytest.mark.parametrize(
    ("spent", "limits", "under_way", "go", "says"),
    [
        ([], Limits(24), False, True, "labels"),
        ([], Limits(24), True, False, "under way"),
        ([Spent(NOW - 2 * HOUR, HOUR, 1)], Limits(24), False, False, "22.0 h to wait"),
        ([Spent(NOW - 25 * HOUR, HOUR, 1)], Limits(24), False, True, "labels"),
        ([Spent(NOW - HOUR, HOUR, 1)], Limits(0), False, True, "labels"),
        ([Spent(NOW - 99 * HOUR, 3 * HOUR, 1)], Limits(24, budget_h=5), False, False, "ceiling of 5 h"),
        ([Spent(NOW - 99 * HOUR, 2 * HOUR, 1)], Limits(24, budget_h=5), False, True, "labels"),
        ([Spent(NOW - 99 * HOUR, HOUR, 30.0)], Limits(24, budget_usd=50), False, False, "ceiling of 50 USD"),
        ([Spent(NOW - 99 * HOUR, HOUR, 20.0)], Limits(24, budget_usd=50), False, True, "labels"),
        # What was spent before the window is forgiven, but tells what the next one will take.
        ([Spent(NOW - WINDOW_S - 1, 3 * HOUR, 0.0)], Limits(24, budget_h=5), False, True, "labels"),
        ([Spent(NOW - WINDOW_S - 1, 6 * HOUR, 0.0)], Limits(24, budget_h=5), False, False, "ceiling"),
    ],
)
def test_one_rule_for_every_trigger(spent: list[Spent], limits: Limits, under_way: bool, go: bool, says: str) -> None:
    decision = decide("labels", NOW, spent, limits, under_way=under_way)
    assert decision.go is go
    assert says in decision.why
    assert decision.why.startswith("labels")


@given(
    st.lists(st.tuples(st.floats(0, 60 * 24), st.floats(0, 50), st.floats(0, 50)), max_size=8),
    st.floats(0.1, 100),
    st.floats(0.1, 100),
)
def test_a_training_that_may_start_passes_no_ceiling(
    trainings: list[tuple[float, float, float]], budget_h: float, budget_usd: float
) -> None:
    spent = [Spent(NOW - ago * HOUR, hours * HOUR, cost) for ago, hours, cost in trainings]
    decision = decide("x", NOW, spent, Limits(0, budget_h, budget_usd), under_way=False)
    if decision.go and spent:
        last = max(spent, key=lambda one: one.ended)
        lately = [one for one in spent if NOW - one.ended < WINDOW_S]
        assert sum(one.seconds for one in [*lately, last]) / HOUR <= budget_h + 1e-9
        assert sum(one.cost_usd for one in [*lately, last]) <= budget_usd + 1e-9

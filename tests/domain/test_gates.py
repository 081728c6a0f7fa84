import math

import pandas as pd
import pytest

from detection_assets.domain.gates import GATES, judge, passed
from detection_assets.domain.metrics import Difference
from detection_assets.domain.problems import InputError

ALL = {"map50": 0.8, "non_inferiority": 0.02, "latency_ms": 50, "size_mb": 12}


def table(challenger, champion=None, full=None):
    """The challenger's AP50-95 is always 0.5; `full` is that of the same network in float32."""
    rows = [("challenger", "all", challenger, 0.5), ("challenger", "class", 0.1, 0.1), ("champion", "class", 0.9, 0.9)]
    if champion is not None:
        rows.append(("champion", "all", champion, 0.5))
    if full is not None:
        rows += [("full", "all", 0.9, full), ("full", "class", 0.9, 0.9)]
    return pd.DataFrame(rows, columns=["model", "slice_kind", "ap50", "ap50_95"])


def gap(value, low, high, unit="group", units=12):
    return Difference(value, low, high, unit, units)


NAN = math.nan


@pytest.mark.parametrize(
    ("name", "ap50", "champion", "difference", "latency", "size", "failed"),
    [
        ("all well, no champion", 0.9, None, None, 20, 10, set()),
        ("exactly on every limit", 0.8, 0.82, gap(-0.02, -0.02, -0.02), 50, 12, set()),
        ("below the floor", 0.7999, None, None, 20, 10, {"map50"}),
        ("no boxes to measure on", NAN, None, None, 20, 10, {"map50"}),
        ("the same model again", 0.9, 0.9, gap(0.0, 0.0, 0.0), 20, 10, set()),
        ("better, but not surely", 0.9, 0.88, gap(0.02, -0.05, 0.08), 20, 10, {"non_inferiority"}),
        ("surely within the margin", 0.89, 0.9, gap(-0.01, -0.019, 0.001), 20, 10, set()),
        ("no interval, within", 0.89, 0.9, gap(-0.01, NAN, NAN), 20, 10, set()),
        ("no interval, outside", 0.87, 0.9, gap(-0.03, NAN, NAN), 20, 10, {"non_inferiority"}),
        ("nothing to compare on", NAN, NAN, gap(NAN, NAN, NAN), 20, 10, {"map50", "non_inferiority"}),
        ("slow", 0.9, None, None, 50.1, 10, {"latency_ms"}),
        ("big", 0.9, None, None, 20, 12.1, {"size_mb"}),
        ("not measured", 0.9, None, None, None, None, {"latency_ms", "size_mb"}),
        ("everything wrong", 0.1, 0.9, gap(-0.8, -0.9, -0.7), 90, 90, set(GATES) - {"export_loss"}),
    ],
)  # fmt: skip
def test_gates(name, ap50, champion, difference, latency, size, failed):
    verdicts = judge(table(ap50, champion), ALL, difference=difference, latency_ms=latency, size_mb=size)
    assert [verdict.gate for verdict in verdicts] == list(GATES)
    assert {verdict.gate for verdict in verdicts if not verdict.passed} == failed, verdicts
    assert passed(verdicts) == (not failed)
    assert all(verdict.why for verdict in verdicts)


@pytest.mark.parametrize("gates", [{}, dict.fromkeys(GATES)])
def test_without_limits_everything_passes_and_the_figures_are_still_told(gates):
    verdicts = judge(table(0.1, 0.9), gates, difference=gap(-0.8, -0.9, -0.7), latency_ms=900, size_mb=900)
    assert passed(verdicts)
    assert [verdict.value for verdict in verdicts] == [0.1, -0.9, 0.0, 900, 900]
    assert [verdict.limit for verdict in verdicts] == [None] * 5


@pytest.mark.parametrize(
    ("full", "limit", "right", "says"),
    [
        (None, 0.01, True, "exported in float32"),
        (0.51, 0.02, True, "AP50-95 is 0.500, and 0.510 in float32: a loss of 0.010, at most 0.02"),
        (0.53, 0.02, False, "a loss of 0.030, more than 0.02"),
        (0.45, 0.0, True, "a loss of -0.050"),
        (0.9, None, True, "no limit is set"),
        (NAN, 0.02, False, "cannot be measured"),
    ],
)
def test_an_export_below_float32_is_held_against_itself(full, limit, right, says):
    verdicts = judge(table(0.9, full=full), {"export_loss": limit}, latency_ms=1, size_mb=1)
    (verdict,) = [verdict for verdict in verdicts if verdict.gate == "export_loss"]
    assert verdict.passed == right
    assert says in verdict.why


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        ({"map51": 0.8}, "unknown gate 'map51'"),
        ({"map50": "high"}, r"gates.map50: 'high' is not a number"),
        ({"size_mb": True}, r"gates.size_mb: True is not a number"),
        ({"latency_ms": NAN}, r"gates.latency_ms: nan is not a number"),
    ],
)
def test_nonsense_limits_are_refused(gates, message):
    with pytest.raises(InputError, match=message):
        judge(table(0.9), gates)


def test_a_champion_cannot_be_left_out_of_the_comparison():
    with pytest.raises(ValueError, match="difference between the two must be given"):
        judge(table(0.9, 0.9), ALL, latency_ms=1, size_mb=1)


def test_a_table_without_a_challenger_is_refused():
    with pytest.raises(ValueError, match="no row of the challenger"):
        judge(table(0.9).query("slice_kind == 'class'"), ALL)


@pytest.mark.parametrize(("unit", "units", "rough"), [("group", 12, False), ("video", 3, True), ("image", 400, True)])
def test_says_when_an_interval_is_rough(unit, units, rough):
    verdict = judge(table(0.9, 0.9), ALL, difference=gap(0, -0.01, 0.01, unit, units), latency_ms=1, size_mb=1)[1]
    assert ("rough" in verdict.why) == rough

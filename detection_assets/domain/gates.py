"""What a trained detector must reach before it may be promoted.

A gate is judged on measured figures alone. It cannot be skipped: a figure that is missing fails its gate, and an
override, with a name and a reason, is the registry's business.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from detection_assets.domain.metrics import Difference
from detection_assets.domain.problems import InputError

GATES = ("map50", "non_inferiority", "export_loss", "latency_ms", "size_mb")
FULL = "full"
"""The challenger in float32, in the evaluation table of one that is exported in less."""

_FEW_UNITS = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one gate says.

    Attributes:
        gate: One of `GATES`.
        passed: Whether it lets the challenger through.
        value: The figure that was judged; NaN if it could not be measured. For `non_inferiority`, the lower end of the
            interval of the difference, where there is one.
        limit: What it was held against; None if the detector sets none, and the gate then always passes.
        why: One sentence for a person.
    """

    gate: str
    passed: bool
    value: float
    limit: float | None
    why: str


def judge(
    table: pd.DataFrame,
    gates: Mapping[str, Any],
    *,
    difference: Difference | None = None,
    latency_ms: float | None = None,
    size_mb: float | None = None,
) -> list[Verdict]:
    """Holds the challenger against every gate.

    Args:
        table: The evaluation table with its `model` column; only the rows over all frames and classes are read.
        gates: Limit of each gate, None or absent for no limit. `map50`: least AP50 on the test split.
            `non_inferiority`: how much AP50 the challenger may lose against the champion. `export_loss`: how much
            AP50-95 it may lose against itself in float32. `latency_ms`: most milliseconds one prediction may take.
            `size_mb`: most megabytes (10^6 bytes) of the model's file.
        difference: Challenger against champion on the same frames; needed if the table has a champion.
        latency_ms: Measured milliseconds of one prediction.
        size_mb: Size of the challenger's file, megabytes.

    Returns:
        One verdict for each of `GATES`, in that order.

    Raises:
        InputError: A gate is unknown, or its limit is not a number.
        ValueError: The table has no challenger, or a champion but no difference is given.
    """
    limits = _limits(gates)
    whole = table[table["slice_kind"] == "all"].set_index("model")
    overall = whole["ap50"]
    if "challenger" not in overall.index:
        raise ValueError("the evaluation table has no row of the challenger over all frames")
    if "champion" in overall.index and difference is None:
        raise ValueError("the table has a champion, so the difference between the two must be given")
    return [
        _floor(float(overall["challenger"]), limits["map50"]),
        _non_inferiority(difference if "champion" in overall.index else None, limits["non_inferiority"]),
        _export_loss(whole["ap50_95"], limits["export_loss"]),
        _ceiling("latency_ms", "one prediction takes", "ms", latency_ms, limits["latency_ms"]),
        _ceiling("size_mb", "the model's file has", "MB", size_mb, limits["size_mb"]),
    ]


def passed(verdicts: Iterable[Verdict]) -> bool:
    """Whether every gate lets the challenger through."""
    return all(verdict.passed for verdict in verdicts)


def _limits(gates: Mapping[str, Any]) -> dict[str, float | None]:
    limits: dict[str, float | None] = dict.fromkeys(GATES)
    for gate, limit in gates.items():
        if gate not in limits:
            raise InputError(f"gates: unknown gate {gate!r}; there are {', '.join(GATES)}")
        if limit is None:
            continue
        if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not math.isfinite(limit):
            raise InputError(f"gates.{gate}: {limit!r} is not a number; give one, or leave it out for no limit")
        limits[gate] = float(limit)
    return limits


def _floor(value: float, limit: float | None) -> Verdict:
    if limit is None:
        return Verdict("map50", True, value, None, f"AP50 is {value:.3f}; no floor is set")
    if math.isnan(value):
        return Verdict("map50", False, value, limit, "AP50 cannot be measured: the test split has no boxes")
    right = value >= limit
    return Verdict("map50", right, value, limit, f"AP50 is {value:.3f}, {'at least' if right else 'below'} {limit:g}")


def _non_inferiority(difference: Difference | None, margin: float | None) -> Verdict:
    gate = "non_inferiority"
    if difference is None:
        return Verdict(gate, True, float("nan"), margin, "there is no champion yet")
    low, high, count = difference.low, difference.high, difference.units
    says = f"AP50 differs from the champion's by {difference.value:+.3f}"
    if math.isnan(low):
        value = difference.value
    else:
        value = low
        says += f" (95 % interval {low:+.3f} to {high:+.3f} over {count} {difference.unit}{'s' if count != 1 else ''})"
    if margin is None:
        return Verdict(gate, True, value, None, f"{says}; no margin is set")
    if math.isnan(value):
        return Verdict(gate, False, value, margin, "the two cannot be compared: the test split has no boxes")
    right = value >= -margin
    says += f"; at worst it {'stays within' if right else 'exceeds'} the allowed loss of {margin:g}"
    if difference.unit == "image" or count < _FEW_UNITS:
        says += f"; with {count} {difference.unit}{'s' if count != 1 else ''} the interval is only a rough one"
    return Verdict(gate, right, value, margin, says)


def _export_loss(ap: pd.Series[float], limit: float | None) -> Verdict:
    gate = "export_loss"
    if FULL not in ap.index:
        return Verdict(gate, True, 0.0, limit, "it is exported in float32, as it was trained")
    before, after = float(ap[FULL]), float(ap["challenger"])
    lost = before - after
    says = f"AP50-95 is {after:.3f}, and {before:.3f} in float32"
    if limit is None:
        return Verdict(gate, True, lost, None, f"{says}; no limit is set")
    if math.isnan(lost):
        return Verdict(gate, False, lost, limit, "AP50-95 cannot be measured: the test split has no boxes")
    right = lost <= limit
    return Verdict(
        gate, right, lost, limit, f"{says}: a loss of {lost:.3f}, {'at most' if right else 'more than'} {limit:g}"
    )


def _ceiling(gate: str, subject: str, unit: str, value: float | None, limit: float | None) -> Verdict:
    if value is None or math.isnan(value):
        why = "it was not measured" if limit is not None else "it was not measured; no limit is set"
        return Verdict(gate, limit is None, float("nan"), limit, why)
    if limit is None:
        return Verdict(gate, True, value, None, f"{subject} {value:.1f} {unit}; no limit is set")
    right = value <= limit
    return Verdict(
        gate, right, value, limit, f"{subject} {value:.1f} {unit}, {'at most' if right else 'over'} {limit:g}"
    )

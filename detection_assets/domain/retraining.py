"""Whether a training may start by itself: one rule for every trigger.

Drift, new labels and the clock each say that a training might pay. Whether it may start is decided here, by one
cooldown and one ceiling for all of them, so that two triggers never pay twice for the same thing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TRIGGER = "detection/trigger"
"""Tag of a run: what started it; `labels`, `drift` or `schedule`."""
EVIDENCE = "detection/evidence"
"""Tag of a run: the figures and the place that show why."""
WINDOW_S = 30 * 24 * 3600.0
"""The ceilings are over so many seconds, counted back from now."""


@dataclass(frozen=True, slots=True)
class Spent:
    """A training that ended: when (seconds since the epoch), how long it ran, and what it is estimated to have cost."""

    ended: float
    seconds: float
    cost_usd: float


@dataclass(frozen=True, slots=True)
class Limits:
    """What retraining may take.

    Attributes:
        cooldown_h: Hours that must pass between the end of a training and the next one that starts by itself.
        budget_h: Hours of training within the last 30 days; None: no ceiling.
        budget_usd: Estimated US dollars within the last 30 days; None: no ceiling.
    """

    cooldown_h: float
    budget_h: float | None = None
    budget_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a training may start, and why or why not, for people."""

    go: bool
    why: str


def decide(trigger: str, now: float, spent: Sequence[Spent], limits: Limits, *, under_way: bool) -> Decision:
    """Says whether a training may start by itself.

    The next training is expected to take as much as the last one did: a ceiling that it would pass stops it before it
    is passed, not after.

    Args:
        trigger: What asks for it, in words.
        now: Seconds since the epoch.
        spent: Trainings that ended, in any order.
        limits: The detector's.
        under_way: Whether a training runs or waits to run.
    """
    if under_way:
        return Decision(False, f"{trigger}, but a training is under way already")
    last = max(spent, key=lambda one: one.ended, default=None)
    if last is not None:
        since_h = (now - last.ended) / 3600
        if since_h < limits.cooldown_h:
            left = limits.cooldown_h - since_h
            return Decision(False, f"{trigger}, but the last training ended {since_h:.1f} h ago: {left:.1f} h to wait")
    lately = [one for one in spent if now - one.ended < WINDOW_S]
    for what, unit, limit, used, next_one in (
        ("hours of training", "h", limits.budget_h, sum(one.seconds for one in lately) / 3600, _hours(last)),
        ("cost", "USD", limits.budget_usd, sum(one.cost_usd for one in lately), last.cost_usd if last else 0.0),
    ):
        if limit is not None and used + next_one > limit:
            return Decision(
                False,
                f"{trigger}, but the {what} of the last 30 days ({used:.2f} {unit}) and of one more training "
                f"({next_one:.2f} {unit}) would pass the ceiling of {limit:g} {unit}",
            )
    return Decision(True, trigger)


def cause(tags: Mapping[str, str]) -> dict[str, str]:
    """What started a run, from its tags: `trigger` and `evidence`; a person, where no tag says otherwise."""
    return {"trigger": tags.get(TRIGGER, "by hand"), "evidence": tags.get(EVIDENCE, "")}


def _hours(last: Spent | None) -> float:
    return last.seconds / 3600 if last else 0.0

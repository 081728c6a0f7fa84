"""How a new version takes the traffic over: the state machine, without anything that acts.

    prepare -> golden -> (shadow) -> canary, step by step -> full -> kept -> retired

and from each of them but the last to `rolled_back`.

`entry` says what must be true of the endpoint in a state, as actions that may be done again; `advance` says which state
follows from what was seen. Whoever drives it writes the state down before it acts (`resources/rollouts.py`), so a
driver that is killed is continued by the next from the state alone.

What holds in every state: the new slot has traffic only after its golden frames, the old slot keeps its model until
the very end, and every failure leads to 100 % on the old slot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from detection_assets.domain.golden import Answer as Answer
from detection_assets.domain.golden import Verdict as Verdict
from detection_assets.domain.golden import compare as compare
from detection_assets.domain.golden import iou as iou
from detection_assets.domain.golden import judge as judge
from detection_assets.domain.health import LATENCY_BOUNDS_MS as LATENCY_BOUNDS_MS
from detection_assets.domain.health import NO_HEALTH
from detection_assets.domain.health import TRIAL as TRIAL
from detection_assets.domain.health import Health as Health
from detection_assets.domain.health import agree as agree

Stage = Literal["prepare", "golden", "shadow", "canary", "full", "kept", "retired", "rolled_back"]
OPEN = ("prepare", "golden", "shadow", "canary", "full")
"""The stages in which somebody has to go on; in the others the endpoint can stay as it is."""
WATCHED = ("shadow", "canary", "full")
"""The stages in which real requests are held against the limits."""
ONE_SIDED_95 = 1.645
"""Standard deviations below which 95 % of a normal distribution lie."""


@dataclass(frozen=True)
class Plan:
    """How a rollout goes, and what it must keep to.

    Attributes:
        ready_s: Seconds that the new slot has to load its model.
        shadow_s: Seconds in which requests are mirrored to the new slot before it gets any; 0: no such stage.
        shadow_share: Share of the old slot's requests that are mirrored, in shadow and canary; 0: nothing is compared.
        canary: Shares of the traffic in per cent, rising, below 100.
        bake_s: Seconds that each canary step, and then 100 %, is watched.
        min_requests: Requests that a verdict on latency or disagreement needs.
        max_error_rate: Most of its requests that the new slot may fail.
        max_disagreement: Most of the mirrored requests on which the two slots may differ.
        max_slowdown: Most that the new slot's 95th percentile may be of the old slot's.
        p95_ms: Most that the new slot's 95th percentile may be, milliseconds.
        keep_s: Seconds that the old slot is kept, without traffic, after 100 %.
    """

    ready_s: float = 60.0
    shadow_s: float = 0.0
    shadow_share: float = 1.0
    canary: tuple[int, ...] = (10, 50)
    bake_s: float = 20.0
    min_requests: int = 20
    max_error_rate: float = 0.01
    max_disagreement: float = 0.8
    max_slowdown: float = 2.0
    p95_ms: float = 1000.0
    keep_s: float = 3600.0


@dataclass(frozen=True)
class Rollout:
    """One version on its way to the traffic, as it is written down.

    Attributes:
        id: Its own name.
        version: The registered version.
        sha256: Digest of the model.
        onnx: Storage key of the model.
        settings: `confidence`, `iou`, `max_det`.
        slot: Where the new version goes.
        old: The slot that served when it began; None: nothing did.
        old_version: The version in it, or "".
        approved_by: Who let this version serve.
        approval: Why.
        instead_of: The version that it is the way back from, or "". A way back goes straight from the golden frames to
            100 %, unwatched, for it must not take its time, and nothing is kept of the version that it leaves.
        stage: Where it is.
        step: Which canary step, from 0.
        entered: When it entered the stage, epoch seconds.
        why: Why it is in this stage.
        by: Who ended it by hand, or "".
        notes: What a person should know of the stages that were passed.
        golden: The verdict on the golden frames, once there is one.
        base: Counters of the new and the old slot (`new`, `old`) when the stage began, where there were any.
    """

    id: str
    version: str
    sha256: str
    onnx: str
    settings: Mapping[str, Any]
    slot: str
    old: str | None
    old_version: str
    approved_by: str = ""
    approval: str = ""
    instead_of: str = ""
    stage: Stage = "prepare"
    step: int = 0
    entered: float = 0.0
    why: str = ""
    by: str = ""
    notes: tuple[str, ...] = ()
    golden: Verdict | None = None
    base: Mapping[str, Health] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses a rollout into the slot that serves.

        Raises:
            ValueError: If it is one, or the stage is none.
        """
        if self.slot == self.old:
            raise ValueError(f"slot {self.slot} serves; a new version goes to the other one")
        if self.stage not in get_args(Stage):
            raise ValueError(f"stage {self.stage!r}: there are {', '.join(get_args(Stage))}")

    @property
    def open(self) -> bool:
        """Whether somebody has to go on with it."""
        return self.stage in OPEN

    def dump(self) -> dict[str, Any]:
        """The rollout as JSON-serialisable values."""
        base = {name: health.dump() for name, health in self.base.items()}
        return {**asdict(self), "settings": dict(self.settings), "notes": list(self.notes), "base": base}

    @classmethod
    def load(cls, raw: Mapping[str, Any]) -> Rollout:
        """Reads what `dump` wrote; keys of a later version are left out.

        Raises:
            ValueError: If it is not a rollout.
        """
        known = {item.name for item in fields(cls)}
        given: dict[str, Any] = {key: value for key, value in raw.items() if key in known}
        try:
            base = {name: Health.of(told) for name, told in given.pop("base", {}).items()}
            given["notes"] = tuple(given.get("notes", ()))
            given["golden"] = Verdict(**given["golden"]) if given.get("golden") else None
            return cls(**given, base=base)
        except (TypeError, AttributeError) as error:
            raise ValueError(f"a rollout that cannot be read: {error}") from error


@dataclass(frozen=True)
class Seen:
    """What there was to see at one moment.

    Attributes:
        now: Epoch seconds.
        state: The new slot: `loading`, `ready`, `failed`, `tripped`, `stopped` or `absent`.
        error: What the endpoint says is wrong with it.
        golden: The verdict on the golden frames, once they were asked.
        new: Counters of the new slot, if the endpoint counts.
        old: Counters of the old slot.
    """

    now: float
    state: str
    error: str = ""
    golden: Verdict | None = None
    new: Health | None = None
    old: Health | None = None


@dataclass(frozen=True)
class Deploy:
    """Let a slot load the version, without traffic."""

    slot: str


@dataclass(frozen=True)
class AskGolden:
    """Send the golden frames to a slot."""

    slot: str


@dataclass(frozen=True)
class Mirror:
    """Mirror a share of the requests to a slot; None: to none."""

    slot: str | None
    share: float = 0.0


@dataclass(frozen=True)
class Route:
    """Give slots their shares of the traffic, per cent."""

    traffic: Mapping[str, int]


@dataclass(frozen=True)
class Remove:
    """Unload a slot, if it holds this version still."""

    slot: str
    version: str


@dataclass(frozen=True)
class Point:
    """Let the registry's champion be this version."""

    version: str


@dataclass(frozen=True)
class Tag:
    """Write into the registry what became of a version."""

    version: str
    outcome: str
    why: str


Action = Deploy | AskGolden | Mirror | Route | Remove | Point | Tag


def entry(rollout: Rollout, plan: Plan) -> tuple[Action, ...]:
    """What must be done on entering a stage; doing it again changes nothing."""
    slot, old = rollout.slot, rollout.old
    match rollout.stage:
        case "prepare":
            return (Deploy(slot),)
        case "golden":
            return (AskGolden(slot),)
        case "shadow":
            return (Mirror(slot, plan.shadow_share),)
        case "canary":
            share = share_of(rollout, plan)
            assert old is not None, "a canary needs a slot to share with"
            mirror = Mirror(slot, plan.shadow_share) if plan.shadow_share > 0 else Mirror(None)
            return (Route({slot: share, old: 100 - share}), mirror)
        case "full":
            return (Mirror(None), Route({slot: 100} if old is None else {slot: 100, old: 0}))
        case "kept":
            left = rollout.instead_of
            away: tuple[Action, ...] = (Tag(left, "rolled back", rollout.approval),) if left else ()
            return (Point(rollout.version), Tag(rollout.version, "complete", rollout.why), *away)
        case "retired":
            return () if old is None else (Remove(old, rollout.old_version),)
        case "rolled_back":
            back: tuple[Action, ...] = () if old is None else (Route({old: 100}),)
            last: tuple[Action, ...] = (
                Remove(slot, rollout.version),
                Tag(rollout.version, "rolled back", rollout.why),
            )
            return (Mirror(None), *back, *last, *((Point(rollout.old_version),) if rollout.old_version else ()))


def path(rollout: Rollout, plan: Plan) -> Sequence[tuple[Stage, int]]:
    """The stages of a rollout that goes well, in order, each with its step."""
    found: list[tuple[Stage, int]] = [("prepare", 0), ("golden", 0)]
    if not _alone(rollout):
        if plan.shadow_s > 0 and plan.shadow_share > 0:
            found.append(("shadow", 0))
        found.extend(("canary", step) for step in range(len(plan.canary)))
    return [*found, ("full", 0), ("kept", 0)]


def share_of(rollout: Rollout, plan: Plan) -> int:
    """The new slot's share of the traffic in a stage, per cent."""
    if rollout.stage == "canary":
        # A plan that lost a step since the rollout began is taken at its last one.
        return plan.canary[min(rollout.step, len(plan.canary) - 1)] if plan.canary else 100
    return 100 if rollout.stage in ("full", "kept", "retired") else 0


def advance(rollout: Rollout, seen: Seen, plan: Plan) -> tuple[Rollout, tuple[Action, ...]]:
    """The state that follows, and what must be done to enter it; the same state and nothing while there is none.

    Args:
        rollout: The state.
        seen: What there is to see now.
        plan: The rules.
    """
    following = _following(rollout, seen, plan)
    return (rollout, ()) if following is rollout else (following, entry(following, plan))


def roll_back(rollout: Rollout, now: float, why: str, by: str = "") -> Rollout:
    """The state after a failure, or after somebody's decision.

    Args:
        rollout: A state in which the old slot still has its model: any but `retired`.
        now: Epoch seconds.
        why: The reason.
        by: Who decided it; "" where nobody did.

    Raises:
        ValueError: If there is nothing to go back to any more.
    """
    if rollout.stage in ("retired", "rolled_back"):
        raise ValueError(f"version {rollout.version} is {rollout.stage}: there is no slot to go back to")
    return replace(rollout, stage="rolled_back", entered=now, why=why, by=by, base={})


def _following(rollout: Rollout, seen: Seen, plan: Plan) -> Rollout:
    if rollout.stage in WATCHED and not _alone(rollout):
        problem = _problem(rollout, seen, plan)
        if problem:
            return roll_back(rollout, seen.now, f"{_named(rollout, plan)}: {problem}")
    waited = seen.now - rollout.entered
    match rollout.stage:
        case "prepare":
            if seen.state == "ready":
                return _enter(rollout, "golden", seen, plan, f"slot {rollout.slot} is ready")
            if seen.state in ("failed", "tripped"):
                return roll_back(rollout, seen.now, f"slot {rollout.slot} failed to load: {seen.error or 'no reason'}")
            if waited > plan.ready_s:
                return roll_back(rollout, seen.now, f"slot {rollout.slot} is {seen.state} after {plan.ready_s:.0f} s")
        case "golden":
            if seen.golden is not None:
                judged = replace(rollout, golden=seen.golden)
                if not seen.golden.passed:
                    return roll_back(judged, seen.now, f"golden frames: {seen.golden.why}")
                return _onward(judged, seen, plan, seen.golden.why)
        case "shadow":
            if waited >= plan.shadow_s:
                return _onward(rollout, seen, plan, _bill(rollout, seen, plan))
        case "canary":
            if waited >= plan.bake_s:
                return _onward(rollout, seen, plan, _bill(rollout, seen, plan))
        case "full":
            if _alone(rollout):
                return _enter(rollout, "kept", seen, plan, rollout.why)
            if waited >= plan.bake_s:
                return _enter(rollout, "kept", seen, plan, _bill(rollout, seen, plan))
        case "kept":
            if _alone(rollout) or waited >= plan.keep_s:
                why = "nothing to keep" if _alone(rollout) else f"kept for {waited:.0f} s"
                return _enter(rollout, "retired", seen, plan, why)
        case _:
            pass
    return rollout


def _alone(rollout: Rollout) -> bool:
    """Whether there is nothing to watch against or to go back to, or no time for it."""
    return rollout.old is None or bool(rollout.instead_of)


def _onward(rollout: Rollout, seen: Seen, plan: Plan, why: str) -> Rollout:
    """The stage after this one, of those that the plan has now; it may have lost the one that the rollout is in."""
    order = get_args(Stage)
    here = (order.index(rollout.stage), rollout.step)
    stage, step = next(ahead for ahead in path(rollout, plan) if (order.index(ahead[0]), ahead[1]) > here)
    return replace(_enter(rollout, stage, seen, plan, why), step=step)


def _enter(rollout: Rollout, stage: Stage, seen: Seen, plan: Plan, why: str) -> Rollout:
    told = {"new": seen.new, "old": seen.old} if stage in WATCHED else {}
    base = {name: health for name, health in told.items() if health is not None}
    notes = rollout.notes
    if rollout.stage in WATCHED or rollout.stage == "golden":
        share = f" {share_of(rollout, plan)} %" if rollout.stage in ("canary", "full") else ""
        notes = (*notes, f"{rollout.stage}{share}: {why}")
    return replace(rollout, stage=stage, entered=seen.now, why=why, base=base, notes=notes)


def _named(rollout: Rollout, plan: Plan) -> str:
    if rollout.stage == "shadow":
        return "in shadow"
    return f"at {share_of(rollout, plan)} % of the traffic"


def _windows(rollout: Rollout, seen: Seen) -> tuple[Health, Health]:
    """Counters of the new and the old slot since the stage began."""
    new = seen.new.after(rollout.base.get("new")) if seen.new else NO_HEALTH
    old = seen.old.after(rollout.base.get("old")) if seen.old else NO_HEALTH
    return new, old


def _problem(rollout: Rollout, seen: Seen, plan: Plan) -> str | None:
    """What is wrong with the new slot under real requests, or None."""
    if seen.state != "ready":
        return f"slot {rollout.slot} is {seen.state}{f': {seen.error}' if seen.error else ''}"
    new, old = _windows(rollout, seen)
    # Even if all requests up to the fewest for a verdict went well, the rate would be above the limit.
    if new.errors > plan.max_error_rate * max(new.requests, plan.min_requests):
        return f"{new.errors} of {new.requests} requests failed; at most {plan.max_error_rate:.1%} may"
    if new.compared >= plan.min_requests and new.disagreement > plan.max_disagreement:
        return (
            f"{new.compared - new.agreed} of {new.compared} mirrored requests were answered differently; at most "
            f"{plan.max_disagreement:.0%} may"
        )
    if sum(new.latency) < plan.min_requests:
        return None
    surely = new.quantile_ms(_shifted(new, -1))
    if surely > plan.p95_ms:
        return f"p95 is {new.quantile_ms(0.95):.0f} ms; at most {plan.p95_ms:.0f} ms may be"
    # An old slot that was hardly asked in this stage is known by all that it has answered.
    known = old if sum(old.latency) >= plan.min_requests else seen.old
    if known is None or sum(known.latency) < plan.min_requests:
        return None
    usual = known.quantile_ms(_shifted(known, +1))
    if surely > plan.max_slowdown * usual:
        return (
            f"p95 is {new.quantile_ms(0.95):.0f} ms, beside {known.quantile_ms(0.95):.0f} ms of version "
            f"{rollout.old_version}; at most {plan.max_slowdown:g} times as much may be"
        )
    return None


def _shifted(health: Health, sign: int) -> float:
    """The quantile that is surely (95 %) below (-1) or above (+1) the true 95th percentile.

    The number of answers below a quantile q is binomial; its normal approximation gives the ranks
    q +- z sqrt(q (1 - q) / n). Few requests thus make a wide allowance instead of a false alarm.
    """
    return min(1.0, 0.95 + sign * ONE_SIDED_95 * math.sqrt(0.95 * 0.05 / sum(health.latency)))


def _bill(rollout: Rollout, seen: Seen, plan: Plan) -> str:
    """What was seen in a stage that was passed, for a person."""
    new, _ = _windows(rollout, seen)
    if seen.new is None:
        return "passed on time: the endpoint keeps no statistics"
    count, what = (new.compared, "mirrored requests") if rollout.stage == "shadow" else (new.requests, "requests")
    if count < plan.min_requests:
        return f"passed on time: only {count} {what} seen"
    told = [f"{count} {what}"]
    if new.requests:
        told.append(f"{new.errors} failed")
    if new.compared:
        told.append(f"{new.disagreement:.0%} of {new.compared} answered differently")
    if sum(new.latency):
        told.append(f"p95 {new.quantile_ms(0.95):.0f} ms")
    return ", ".join(told)

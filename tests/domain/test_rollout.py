from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection_assets.domain import rollout as machine
from detection_assets.domain.rollout import (
    LATENCY_BOUNDS_MS,
    AskGolden,
    Deploy,
    Health,
    Mirror,
    Plan,
    Point,
    Remove,
    Rollout,
    Route,
    Seen,
    Tag,
    Verdict,
)

GOOD = Verdict(True, "12 of 12 boxes found again", 3, 12, 12, 9.0)
BAD = Verdict(False, "only 4 of 12 boxes found again", 3, 12, 4, 9.0)
PLAN = Plan(shadow_s=5, canary=(10, 50), bake_s=10, keep_s=100)


def fresh(**changes: object) -> Rollout:
    base = Rollout("r1", "2", "bbb", "weights/b/best.onnx", {"confidence": 0.25}, "green", "blue", "1", entered=0.0)
    return replace(base, **changes)


def counters(n: int, ms: float = 20.0, errors: int = 0, compared: int = 0, agreed: int = 0) -> Health:
    latency = [0] * (len(LATENCY_BOUNDS_MS) + 1)
    latency[next(index for index, bound in enumerate(LATENCY_BOUNDS_MS) if bound >= ms)] = n - errors
    return Health(1.0, n, errors, tuple(latency), compared, agreed)


def walk(rollout: Rollout, plan: Plan = PLAN, **seen: object) -> list[tuple[str, int]]:
    """The stages that follow while everything goes well, each with the new slot's share."""
    now, stages = 0.0, []
    while True:
        now += 1000
        following, _ = machine.advance(rollout, Seen(now, "ready", golden=GOOD, **seen), plan)
        if following is rollout:
            return stages
        rollout = following
        stages.append((rollout.stage, machine.share_of(rollout, plan)))


def test_a_good_version_goes_all_the_way() -> None:
    assert walk(fresh()) == [
        *(("golden", 0), ("shadow", 0), ("canary", 10), ("canary", 50), ("full", 100)),
        *(("kept", 100), ("retired", 100)),
    ]


WAYS = {
    "no shadow": (replace(PLAN, shadow_s=0), fresh(), ["golden", "canary", "canary", "full", "kept", "retired"]),
    "nothing to mirror": (replace(PLAN, shadow_share=0), fresh(), ["golden", "canary", "canary", "full", "kept"]),
    "no canary": (replace(PLAN, shadow_s=0, canary=()), fresh(), ["golden", "full", "kept", "retired"]),
    "shadow alone": (replace(PLAN, canary=()), fresh(), ["golden", "shadow", "full", "kept"]),
    "the first": (PLAN, fresh(old=None, old_version=""), ["golden", "full", "kept", "retired"]),
    "a way back": (PLAN, fresh(instead_of="1"), ["golden", "full", "kept", "retired"]),
}


@pytest.mark.parametrize(("plan", "rollout", "stages"), WAYS.values(), ids=WAYS)
def test_stages_that_the_plan_does_not_have_are_left_out(plan: Plan, rollout: Rollout, stages: list[str]) -> None:
    assert [stage for stage, _ in walk(rollout, plan)][: len(stages)] == stages


def test_what_each_stage_asks_for() -> None:
    asked = {
        stage: machine.entry(fresh(stage=stage, why="w"), PLAN)
        for stage in ("prepare", "golden", "shadow", "canary", "full", "kept", "retired", "rolled_back")
    }
    assert asked == {
        "prepare": (Deploy("green"),),
        "golden": (AskGolden("green"),),
        "shadow": (Mirror("green", 1.0),),
        "canary": (Route({"green": 10, "blue": 90}), Mirror("green", 1.0)),
        "full": (Mirror(None), Route({"green": 100, "blue": 0})),
        "kept": (Point("2"), Tag("2", "complete", "w")),
        "retired": (Remove("blue", "1"),),
        "rolled_back": (
            Mirror(None),
            Route({"blue": 100}),
            Remove("green", "2"),
            Tag("2", "rolled back", "w"),
            Point("1"),
        ),
    }


def test_without_an_old_slot_there_is_nothing_to_route_back_to() -> None:
    alone = fresh(old=None, old_version="")
    assert machine.entry(replace(alone, stage="full"), PLAN) == (Mirror(None), Route({"green": 100}))
    assert machine.entry(replace(alone, stage="rolled_back", why="w"), PLAN) == (
        *(Mirror(None), Remove("green", "2"), Tag("2", "rolled back", "w")),
    )


def test_a_rollout_into_the_slot_that_serves_is_refused() -> None:
    with pytest.raises(ValueError, match="slot blue serves"):
        fresh(slot="blue")


STAYS = {
    "still loading": ("prepare", Seen(59, "loading")),
    "not asked yet": ("golden", Seen(10_000, "ready")),
    "in shadow": ("shadow", Seen(4.9, "ready")),
    "baking": ("canary", Seen(9.9, "ready", new=counters(1000), old=counters(1000))),
    "at 100 %": ("full", Seen(9.9, "ready")),
    "kept": ("kept", Seen(99, "ready")),
    "kept, whatever becomes of it": ("kept", Seen(99, "failed")),
    "retired": ("retired", Seen(1e9, "ready")),
    "rolled back": ("rolled_back", Seen(1e9, "ready", golden=GOOD)),
}


@pytest.mark.parametrize(("stage", "seen"), STAYS.values(), ids=STAYS)
def test_nothing_happens_before_its_time(stage: machine.Stage, seen: Seen) -> None:
    rollout = fresh(stage=stage)
    assert machine.advance(rollout, seen, PLAN) == (rollout, ())


FAILS = {
    "does not load": ("prepare", Seen(1, "failed", "not an ONNX file"), "slot green failed to load: not an ONNX file"),
    "never ready": ("prepare", Seen(61, "loading"), "slot green is loading after 60 s"),
    "golden frames": ("golden", Seen(1, "ready", golden=BAD), "golden frames: only 4 of 12 boxes found again"),
    "breaker": ("canary", Seen(1, "tripped", "5 of 20"), "at 10 % of the traffic: slot green is tripped: 5 of 20"),
    "gone": ("shadow", Seen(1, "absent"), "in shadow: slot green is absent"),
    "server gone": ("full", Seen(1, "stopped"), "at 100 % of the traffic: slot green is stopped"),
    "errors": ("canary", Seen(1, "ready", new=counters(100, errors=2)), "2 of 100 requests failed; at most 1.0% may"),
    "errors among few": ("canary", Seen(1, "ready", new=counters(3, errors=1)), "1 of 3 requests failed"),
    "slow": ("canary", Seen(1, "ready", new=counters(100, 3000)), "ms; at most 1000 ms may be"),
    "slower": (
        "canary",
        Seen(1, "ready", new=counters(100, 300), old=counters(100, 20)),
        "beside 21 ms of version 1; at most 2 times",
    ),
    "differs": (
        "shadow",
        Seen(1, "ready", new=counters(0, compared=50, agreed=5)),
        "45 of 50 mirrored requests were answered differently; at most 80% may",
    ),
}


@pytest.mark.parametrize(("stage", "seen", "why"), FAILS.values(), ids=FAILS)
def test_whatever_fails_ends_with_the_old_slot(stage: machine.Stage, seen: Seen, why: str) -> None:
    following, actions = machine.advance(fresh(stage=stage), seen, PLAN)
    assert following.stage == "rolled_back"
    assert why in following.why
    assert Route({"blue": 100}) in actions
    assert actions.index(Route({"blue": 100})) < actions.index(Remove("green", "2"))


PASSES = {
    "few are slow": (counters(19, 30_000), counters(500)),
    "few differ": (counters(200, compared=19), counters(500)),
    "one of a hundred fails": (counters(100, errors=1), counters(100)),
    "a little slower": (counters(1000, 35), counters(1000, 20)),
    "slower, and nobody knows what is usual": (counters(100, 500), counters(3, 20)),
    "slower by chance: the tail of few requests": (counters(20, 45), counters(20, 25)),
}


@pytest.mark.parametrize(("new", "old"), PASSES.values(), ids=PASSES)
def test_what_proves_nothing_fails_nothing(new: Health, old: Health) -> None:
    following, _ = machine.advance(fresh(stage="canary"), Seen(11, "ready", new=new, old=old), PLAN)
    assert following.stage == "canary"
    assert following.step == 1


def test_an_old_slot_that_gets_no_requests_any_more_is_known_by_what_it_did_before() -> None:
    before = counters(1000, 20)
    at_full = fresh(stage="full", base={"old": before})
    following, _ = machine.advance(at_full, Seen(1, "ready", new=counters(100, 300), old=before), PLAN)
    assert "beside 21 ms of version 1" in following.why


def test_only_what_came_since_the_stage_began_counts() -> None:
    base = {"new": counters(1000, errors=500), "old": counters(10)}
    seen = Seen(1, "ready", new=counters(1100, errors=500), old=counters(10))
    assert machine.advance(fresh(stage="canary", base=base), seen, PLAN)[0].stage == "canary"
    worse = replace(seen, new=counters(1100, errors=510))
    assert "10 of 100 requests failed" in machine.advance(fresh(stage="canary", base=base), worse, PLAN)[0].why


NOTES = {
    "few requests": (Seen(11, "ready", new=counters(3)), "canary 10 %: passed on time: only 3 requests seen"),
    "no statistics": (Seen(11, "ready"), "canary 10 %: passed on time: the endpoint keeps no statistics"),
    "many": (
        Seen(11, "ready", new=counters(200, errors=1, compared=40, agreed=30)),
        "canary 10 %: 200 requests, 1 failed, 25% of 40 answered differently, p95 21 ms",
    ),
}


@pytest.mark.parametrize(("seen", "note"), NOTES.values(), ids=NOTES)
def test_what_was_seen_is_noted(seen: Seen, note: str) -> None:
    following, _ = machine.advance(fresh(stage="canary"), seen, PLAN)
    assert following.notes == (note,)


def test_going_back_by_hand() -> None:
    back = machine.roll_back(fresh(stage="kept"), 7.0, "rolled back by Ada: too many bananas", "Ada")
    assert (back.stage, back.entered, back.by) == ("rolled_back", 7.0, "Ada")
    for stage in ("retired", "rolled_back"):
        with pytest.raises(ValueError, match="no slot to go back to"):
            machine.roll_back(fresh(stage=stage), 7.0, "")


def test_a_rollout_survives_being_written_down() -> None:
    rollout = fresh(stage="canary", step=1, notes=("a", "b"), golden=GOOD, base={"new": counters(3)}, by="Ada")
    assert Rollout.load(json.loads(json.dumps(rollout.dump()))) == rollout
    assert Rollout.load({**rollout.dump(), "of a later version": 1}) == rollout
    for nonsense in ({}, {**rollout.dump(), "stage": "flying"}, {**rollout.dump(), "base": {"new": {}}}):
        with pytest.raises(ValueError, match=r"."):
            Rollout.load(nonsense)


def test_a_plan_that_lost_steps_is_taken_at_its_last_one() -> None:
    late = fresh(stage="canary", step=3)
    assert machine.share_of(late, PLAN) == 50
    assert machine.share_of(late, replace(PLAN, canary=())) == 100


# The promises, whatever happens -------------------------------------------------------------------------------------


class World:
    """An endpoint as the actions leave it."""

    def __init__(self, rollout: Rollout) -> None:
        self.holds = {rollout.old: rollout.old_version} if rollout.old else {}
        self.traffic = {rollout.old: 100} if rollout.old else {}
        self.mirror: str | None = None

    def act(self, action: machine.Action, rollout: Rollout) -> None:
        match action:
            case Deploy(slot):
                assert not self.traffic.get(slot), "a model is never exchanged under traffic"
                self.holds[slot] = rollout.version
            case Route(traffic):
                assert set(traffic) <= set(self.holds)
                assert sum(traffic.values()) == 100
                self.traffic = {slot: share for slot, share in traffic.items() if share}
            case Mirror(slot, _):
                self.mirror = slot
            case Remove(slot, version):
                assert not self.traffic.get(slot), "what has traffic is never removed"
                if self.holds.get(slot) == version:
                    del self.holds[slot]
            case _:
                pass


HEALTHS = st.none() | st.builds(
    lambda n, ms, errors, compared, agreed: counters(n, ms, min(n, errors), compared, min(compared, agreed)),
    *(st.integers(0, 300), st.sampled_from([2.0, 20.0, 200.0, 5000.0]), st.integers(0, 5)),
    *(st.integers(0, 100), st.integers(0, 100)),
)
LOOKS = st.lists(
    st.tuples(
        st.builds(
            lambda golden, state, new, old: Seen(0.0, state, "", golden, new, old),
            st.sampled_from([None, GOOD, GOOD, BAD]),
            st.sampled_from(["ready"] * 6 + ["loading", "failed", "tripped", "absent", "stopped"]),
            HEALTHS,
            HEALTHS,
        ),
        st.floats(0, 200),
        st.sampled_from(["look"] * 8 + ["killed", "by hand"]),
    ),
    max_size=30,
)
PLANS = st.builds(
    Plan,
    shadow_s=st.sampled_from([0.0, 5.0]),
    shadow_share=st.sampled_from([0.0, 0.5, 1.0]),
    canary=st.sampled_from([(), (10,), (10, 50), (1, 2, 99)]),
    bake_s=st.sampled_from([0.0, 10.0]),
    keep_s=st.sampled_from([0.0, 100.0]),
)


@settings(deadline=None, max_examples=500)
@given(PLANS, LOOKS, st.booleans(), st.booleans())
def test_the_promises_hold_whatever_is_seen(plan: Plan, looks: list, alone: bool, back: bool) -> None:
    rollout = fresh(old=None, old_version="") if alone else fresh(instead_of="1" if back else "")
    world = World(rollout)
    actions = machine.entry(rollout, plan)
    passed = False
    now = 0.0
    for seen, waits, what in looks:
        now += waits
        for action in actions:
            world.act(action, rollout)
        if what == "killed":
            # Whoever comes next does what the state asks for once more.
            rollout = Rollout.load(json.loads(json.dumps(rollout.dump())))
            for action in machine.entry(rollout, plan):
                world.act(action, rollout)
        passed = passed or bool(rollout.golden and rollout.golden.passed)
        if not passed:
            assert not world.traffic.get("green"), "no traffic before the golden frames"
        if not alone and rollout.stage != "retired":
            assert world.holds["blue"] == "1", "the old slot keeps its model until the end"
        if rollout.stage == "rolled_back":
            assert world.traffic == ({} if alone else {"blue": 100})
            assert world.holds.get("green") is None
            assert world.mirror is None
        if rollout.stage in ("full", "kept", "retired"):
            assert world.traffic == {"green": 100}
        if what == "by hand" and rollout.stage not in ("retired", "rolled_back") and not alone:
            rollout = machine.roll_back(rollout, now, "by hand", "Ada")
            actions = machine.entry(rollout, plan)
        else:
            rollout, actions = machine.advance(rollout, replace(seen, now=now), plan)

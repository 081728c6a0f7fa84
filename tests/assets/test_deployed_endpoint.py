from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from assets.deployment_world import NAME, World
from dagster import AssetKey, DagsterInstance

from detection_assets import definitions, detector_file
from detection_assets.domain import history, layout
from detection_assets.domain.problems import InputError
from resources import tables
from resources.instance import open_instance
from resources.registry.base import CHAMPION
from resources.rollouts import Rollouts

DETECTION = Path(sys.executable).with_name("detection")
pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parent / "deployment_world.py"


@pytest.fixture
def world(home: Path, empty_mlflow: Path) -> Iterator[World]:
    (home / ".mlflow").mkdir()
    shutil.copyfile(empty_mlflow, home / ".mlflow" / "mlflow.db")
    made = World(home)
    yield made
    made.endpoints.stop()
    made.close()


@pytest.fixture
def served(world: World) -> World:
    """A world in which version 1 serves."""
    world.model("good")
    assert world.deploy()
    return world


def last_event(asset: str) -> dg.AssetMaterialization:
    with open_instance() as instance:
        event = instance.get_latest_materialization_event(AssetKey([NAME, asset]))
        assert event is not None
        assert event.asset_materialization is not None
        return event.asset_materialization


def failure(instance: DagsterInstance) -> str:
    """What the last run's failed step says."""
    run = instance.get_runs(limit=1)[0]
    (record,) = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    return record.dagster_event.event_specific_data.error.message  # type: ignore[union-attr]


def test_the_first_version_goes_straight_to_all_of_the_traffic(world: World) -> None:
    assert world.model("good") == "1"
    assert world.deploy()
    assert world.served() == ("1", {"blue": 100})
    table = tables.read(world.storage, "deployed_endpoint")
    assert table[["slot", "version", "traffic", "state"]].to_numpy().tolist() == [["blue", "1", 100, "ready"]]
    assert world.registry.get(CHAMPION).version == "1"
    assert world.registry.get(CHAMPION).tags["rollout"] == "complete"
    told = last_event("deployed_endpoint").metadata
    assert "boxes on 4 golden frames found again" in str(told["rollout"].value)
    assert "data:image/svg+xml;base64," in str(told["shares"].value)


def test_a_good_version_is_rolled_out_by_canary_while_traffic_runs_and_no_request_fails(served: World) -> None:
    served.write(bake=3.0, canary="[30]")
    served.model("good", size=96)
    with served.traffic() as going:
        assert served.deploy()
        assert served.served() == ("2", {"blue": 0, "green": 100})
        time.sleep(0.5)
    assert set(going.statuses) == {200}
    assert len(going.statuses) > 100
    assert set(going.versions) == {"1", "2"}
    assert going.versions[-1] == "2"
    assert served.registry.get(CHAMPION).version == "2"
    found = history.periods(served.log.entries())
    assert [(p.version, p.share) for p in found if p.share] == [("1", 100), ("1", 70), ("2", 30), ("2", 100)]
    canary = next(p for p in found if p.share == 30)
    assert canary.end is not None
    assert 2.9 < canary.end - canary.start < 8
    table = tables.read(served.storage, "deployment_history")
    assert table["until"].isna().sum() == 2, "the new version, and the old one that is kept"
    note = str(last_event("deployed_endpoint").metadata["rollout"].value)
    assert "canary 30 %: " in note.replace("\\", "")
    assert "requests, 0 failed" in note

    # The old slot is kept, then retired.
    driver = Rollouts(served.storage, served.registry, served.endpoints, definitions.deployed_endpoint.plan_of(
        served.project.detector
    ))  # fmt: skip
    assert not driver.retire_if_due()
    served.write(keep=0)
    assert served.deploy()
    assert served.served() == ("2", {"green": 100})


BAD = {
    "never loads": ("nan", None, "slot green failed to load"),
    "other boxes than when it was evaluated": ("wrong", "good", "golden frames: only"),
}


@pytest.mark.parametrize(("kind", "golden_of", "why"), BAD.values(), ids=BAD)
def test_a_model_that_is_bad_from_the_start_never_gets_traffic(
    served: World, kind: str, golden_of: str | None, why: str
) -> None:
    served.model(kind, golden_of=golden_of)
    with served.traffic() as going:
        assert not served.deploy()
    assert served.served() == ("1", {"blue": 100})
    assert set(going.statuses) == {200}
    assert set(going.versions) == {"1"}
    assert why in (served.log.rolled_back("2") or "")
    tagged = next(known for known in served.registry.history() if known.version == "2")
    assert tagged.tags["rollout"] == "rolled back"
    assert why in tagged.tags["rollout_reason"]
    assert served.registry.get(CHAMPION).version == "1"
    table = tables.read(served.storage, "deployed_endpoint")
    assert table[["version", "traffic"]].to_numpy().tolist() == [["1", 100]], "the table says what is"
    with open_instance() as instance:
        assert why in failure(instance)
        assert "Now version 1 serves" in failure(instance)


FAILS_LATER = {
    # kind, golden frames of, levels of the pictures sent, settings, why
    "answers that are not numbers": ("bright", None, (0.35, 0.8), {}, "requests failed|tripped"),
    "raises": ("raises", None, (0.35, 0.8), {}, "requests failed|tripped"),
    "slow": ("slow", "good", (0.35,), {"slowdown": 3.0}, "at most 3 times as much may be"),
    "slow for the limit": ("slow", "good", (0.35,), {"p95": 60}, "at most 60 ms may be"),
    "other answers than the version that serves": ("wrong", "wrong", (0.5,), {}, "were answered differently"),
}


@pytest.mark.parametrize(("kind", "golden_of", "levels", "settings", "why"), FAILS_LATER.values(), ids=FAILS_LATER)
def test_a_model_that_fails_under_traffic_is_taken_back_and_no_caller_notices(
    served: World, kind: str, golden_of: str | None, levels: tuple[float, ...], settings: dict, why: str
) -> None:
    served.write(bake=20.0, **settings)
    served.model(kind, golden_of=golden_of or "good")
    with served.traffic(levels) as going:
        assert not served.deploy()
        assert served.served() == ("1", {"blue": 100})
        time.sleep(0.5)
    assert set(going.statuses) == {200}
    reason = served.log.rolled_back("2") or ""
    assert any(part in reason for part in why.split("|")), reason
    assert "at 50 % of the traffic" in reason
    shares = [(p.version, p.share) for p in served.log.periods() if p.share]
    assert shares == [("1", 100), ("1", 50), ("2", 50), ("1", 100)]


def test_what_was_rolled_back_is_tried_again_only_when_somebody_asks(served: World) -> None:
    version = served.model("wrong", golden_of="good")
    assert not served.deploy()
    before = served.log.last().number
    assert served.deploy(**{"dagster/sensor_name": "a sensor"})
    assert served.log.last().number == before, "nothing was tried"
    assert f"version {version} is not tried again by itself" in str(
        last_event("deployed_endpoint").metadata["rollout"].value
    )
    assert not served.deploy()
    assert served.log.last().number > before


@pytest.mark.parametrize("stage", ["golden", "canary", "full"])
def test_a_killed_rollout_goes_on_in_the_next_run(served: World, stage: str) -> None:
    served.write(bake=4.0)
    served.model("good", size=96)
    with served.traffic() as going:
        running = subprocess.Popen([sys.executable, "-W", "ignore", str(SCRIPT)], env=environment())
        until = time.monotonic() + 120
        while time.monotonic() < until:
            now = served.log.last().rollout
            if now is not None and (now.version, now.stage) == ("2", stage):
                break
            assert running.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
        running.wait()
        shares = served.served()[1]
        assert sum(shares.values()) == 100
        assert stage != "golden" or not shares.get("green"), "no traffic before the golden frames"
        served.write(bake=0.5)
        assert served.deploy()
    assert served.served() == ("2", {"blue": 0, "green": 100})
    assert set(going.statuses) == {200}
    ids = {entry.rollout.id for entry in served.log.entries() if entry.rollout and entry.rollout.version == "2"}
    assert len(ids) == 1, "it was gone on with, not begun anew"
    numbers = [entry.number for entry in served.log.entries()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_killed_rollout_is_rolled_back_if_another_version_is_asked_for(served: World) -> None:
    served.write(bake=60.0)
    served.model("good", size=96)
    running = subprocess.Popen([sys.executable, "-W", "ignore", str(SCRIPT)], env=environment())
    until = time.monotonic() + 120
    while served.served()[1].get("green") != 50 and time.monotonic() < until:
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    served.endpoints.stop()  # the machine went down, too
    served.write(bake=0.5)
    served.model("good", size=128)
    assert served.deploy()
    assert served.served()[0] == "3"
    assert "version 3 was asked for instead" in (served.log.rolled_back("2") or "")
    assert [(p.version, p.share) for p in served.log.periods() if p.share] == [
        *(("1", 100), ("1", 50), ("2", 50), ("1", 100), ("1", 50), ("3", 50), ("3", 100))
    ]


def environment() -> dict[str, str]:
    root = Path(__file__).parents[2]
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"}


def driver_of(world: World) -> Rollouts:
    plan = definitions.deployed_endpoint.plan_of(world.project.detector)
    return Rollouts(world.storage, world.registry, world.endpoints, plan)


def test_going_back_by_hand_is_instant_while_the_old_version_is_kept(served: World) -> None:
    served.model("good", size=96)
    assert served.deploy()
    with served.traffic() as going:
        began = time.monotonic()
        driver_of(served).roll_back("Ada", "too many bananas")
        took = time.monotonic() - began
        time.sleep(0.3)
    assert set(going.statuses) == {200}
    assert took < 3
    assert served.served() == ("1", {"blue": 100})
    assert served.registry.get(CHAMPION).version == "1"
    assert served.log.rolled_back("2") == "rolled back by Ada: too many bananas"
    last = [p for p in served.log.periods() if p.share][-1]
    assert (last.version, last.who) == ("1", "Ada")
    assert "too many bananas" in last.why


def test_going_back_by_hand_deploys_the_version_before_when_it_is_not_kept(served: World) -> None:
    served.write(keep=0)
    served.model("good", size=96)
    assert served.deploy()
    assert served.served() == ("2", {"green": 100})
    with served.traffic() as going:
        driver_of(served).roll_back("Ada", "too many bananas")
    assert set(going.statuses) == {200}
    assert served.served() == ("1", {"blue": 100})
    assert served.registry.get(CHAMPION).version == "1"
    assert served.log.rolled_back("2") == "rolled back by Ada: too many bananas"
    assert served.log.last().rollout.golden.passed  # type: ignore[union-attr]
    with pytest.raises(InputError, match="there is no version to go back to"):
        driver_of(served).roll_back("Ada", "")
    assert served.deploy(**{"dagster/sensor_name": "a sensor"}), "and nothing brings it back by itself"
    assert served.served()[0] == "1"


def test_going_back_by_hand_stops_a_rollout_that_another_process_drives(served: World) -> None:
    served.write(bake=60.0)
    served.model("good", size=96)
    running = subprocess.Popen([sys.executable, "-W", "ignore", str(SCRIPT)], env=environment())
    until = time.monotonic() + 120
    while served.served()[1].get("green") != 50 and time.monotonic() < until:
        time.sleep(0.05)
    driver_of(served).roll_back("Ada", "stop it")
    assert running.wait(timeout=120) == 1
    with open_instance() as instance:
        assert "rolled back by Ada: stop it" in failure(instance)
    assert served.served() == ("1", {"blue": 100})


def test_a_new_endpoint_has_nothing_to_go_back_to(world: World) -> None:
    with pytest.raises(InputError, match="nothing serves"):
        driver_of(world).roll_back("Ada", "")
    world.model("good")
    assert world.deploy()
    with pytest.raises(InputError, match="version 1 is the first"):
        driver_of(world).roll_back("Ada", "")


def test_rollback_as_a_run(served: World) -> None:
    served.model("good", size=96)
    assert served.deploy()
    defs = definitions.build(detector_file.find(NAME))
    with open_instance() as instance:
        config = {"ops": {f"{NAME}_go_back": {"config": {"by": "Ada", "reason": "too many bananas"}}}}
        done = defs.resolve_job_def(f"{NAME}_rollback").execute_in_process(instance=instance, run_config=config)
        assert done.success
    assert served.served() == ("1", {"blue": 100})
    assert last_event("deployed_endpoint").metadata["version"].value == "1"
    assert tables.read(served.storage, "deployed_endpoint")["version"].tolist() == ["1"]


def tick(name: str) -> dg.SensorResult:
    defs = definitions.build(detector_file.find(NAME))
    with open_instance() as instance:
        resources = {key: defs.resources[key] for key in ("storage", "registry", "endpoints", "tracking")}
        with dg.build_sensor_context(instance, resources=resources, definitions=defs) as context:
            data = defs.resolve_sensor_def(name).evaluate_tick(context)
        for event in data.asset_events:
            instance.report_runless_asset_event(event)  # type: ignore[arg-type]
        return data  # type: ignore[return-value]


WAYS = ["command", "run", "alias"]


@pytest.mark.parametrize("way", WAYS)
def test_a_version_that_waits_is_rolled_out_once_somebody_approves_it(served: World, way: str) -> None:
    served.write(approval="manual")
    waiting = {"approval": "pending", "approved_by": "", "approval_reason": ""}
    served.model("good", size=96, **waiting)
    assert served.deploy()
    assert served.served() == ("1", {"blue": 100})
    said = str(last_event("deployed_endpoint").metadata["rollout"].value).replace("\\", "")
    assert "waiting for approval: detection approve tiny 2 --by ... --reason ..." in said
    assert not tick(f"{NAME}_approved_models").run_requests
    served.model("good", size=128, **waiting)  # a third that waits, and nobody approves

    if way == "command":
        done = subprocess.run(
            [DETECTION, "approve", NAME, "2", "--by", "Ada", "--reason", "looks right"],
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "version 2 is approved, by Ada" in done.stdout
    elif way == "run":
        defs = definitions.build(detector_file.find(NAME))
        config = {"version": "2", "by": "Ada", "reason": "looks right"}
        with open_instance() as instance:
            assert (
                defs.resolve_job_def(f"{NAME}_approve")
                .execute_in_process(instance=instance, run_config={"ops": {f"{NAME}_decide": {"config": config}}})
                .success
            )
    else:
        served.registry.point("approved", "2")

    (request,) = tick(f"{NAME}_approved_models").run_requests or []
    assert [key.path[-1] for key in request.asset_selection or []] == ["deployed_endpoint"]
    assert served.deploy(**{"dagster/sensor_name": f"{NAME}_approved_models", **request.tags})
    assert served.served()[0] == "2"
    assert not tick(f"{NAME}_approved_models").run_requests
    who = [p.who for p in served.log.periods() if p.version == "2" and p.share][-1]
    assert who == ("registry" if way == "alias" else "Ada")


def test_a_rejected_version_is_never_deployed(served: World) -> None:
    served.model("good", size=96, approval="pending", approved_by="", approval_reason="")
    served.registry.reject("2", "Ada", "looks wrong")
    served.is_registered("2")
    assert served.deploy()
    assert served.served() == ("1", {"blue": 100})
    assert not tick(f"{NAME}_approved_models").run_requests


def test_upkeep_retires_what_was_kept_and_notices_what_was_changed_by_hand(served: World) -> None:
    served.model("good", size=96)
    assert served.deploy()
    assert tick(f"{NAME}_endpoint_upkeep").skip_message
    served.endpoints.route({"blue": 20, "green": 80})
    tick(f"{NAME}_endpoint_upkeep")
    assert [(p.version, p.share, p.why) for p in served.log.periods() if p.end is None] == [
        *(("1", 20, "changed by hand"), ("2", 80, "changed by hand"))
    ]
    served.endpoints.route({"green": 100, "blue": 0})
    served.write(keep=0)
    tick(f"{NAME}_endpoint_upkeep")
    assert served.served() == ("2", {"green": 100})
    assert tables.read(served.storage, "deployed_endpoint")["slot"].tolist() == ["green"]


def test_upkeep_goes_on_with_a_rollout_whose_process_died(served: World) -> None:
    served.model("good", size=96)
    target = served.registry.history()[0]
    settings = served.project.detector.endpoint.model_dump(include={"confidence", "iou", "max_det"})
    entry = driver_of(served).begin(target, settings)
    served.log.pulse()
    assert not tick(f"{NAME}_endpoint_upkeep").run_requests, "somebody drives it"
    served.storage.put(layout.ROLLOUT_PULSE, b'{"run": "", "at": 0}')
    (request,) = tick(f"{NAME}_endpoint_upkeep").run_requests or []
    assert [key.path[-1] for key in request.asset_selection or []] == ["deployed_endpoint"]
    assert served.deploy(**{"dagster/sensor_name": "upkeep"})
    assert served.served()[0] == "2"
    assert served.log.last().rollout.id == entry.rollout.id  # type: ignore[union-attr]


def test_a_way_back_whose_process_died_is_gone_to_the_end(served: World) -> None:
    served.write(keep=0)
    served.model("good", size=96)
    assert served.deploy()
    first = served.registry.history()[-1]
    settings = driver_of(served).settings_of("1")
    assert settings is not None
    driver_of(served).begin(first, settings, instead_of="2", why="rolled back by Ada: too many bananas")
    assert served.deploy(**{"detection/process": "a `detection run`"})
    assert served.served() == ("1", {"blue": 100})
    assert served.log.rolled_back("2") == "rolled back by Ada: too many bananas"


def test_an_endpoint_that_lost_its_state_is_deployed_again(served: World) -> None:
    served.endpoints.stop()
    shutil.rmtree(served.endpoints.home)
    assert served.served() == (None, {})
    assert served.deploy()
    assert served.served() == ("1", {"blue": 100})


def test_deploying_what_serves_changes_nothing_and_other_settings_are_rolled_out(served: World) -> None:
    before = served.log.last().number
    assert served.deploy()
    assert served.log.last().number == before
    path = served.home / "detectors" / f"{NAME}.yaml"
    path.write_text(path.read_text().replace("endpoint: {", "endpoint: {confidence: 0.4, "))
    assert served.deploy()
    assert served.served()[1] == {"blue": 0, "green": 100}
    assert served.endpoints.state()["slots"]["green"]["confidence"] == 0.4

from __future__ import annotations

import shutil
import subprocess
import time

import dagster as dg
import pytest
from assets.deployment_world import NAME, World
from assets.deployments import at_canary, driver_of, failure, last_event
from project import DETECTION

from detection_assets import definitions, detector_file
from detection_assets.domain import layout
from detection_assets.domain.problems import InputError
from resources import tables
from resources.instance import open_instance
from resources.registry.base import CHAMPION

pytestmark = [pytest.mark.slow, pytest.mark.long]


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
    running = at_canary(served)
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

"""What only training jobs of several instances do: one training, told and delivered once, ended for all together."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from contract import clouds
from contract.in_a_run import in_a_run
from programs.test_train import CLASSES, snapshot

from detection_assets.domain.tuning import Real
from resources.compute import managed
from resources.compute.base import Input, Objective, Step, StepFailed, Study

PLATFORMS = ["aws", "azure"]
pytestmark = pytest.mark.stand_in("its program is in no image")
ROOT = Path(__file__).parents[2]
PROGRAM = '''
"""Counts epochs on each instance, and has the first keep how far it is, as a training does."""
import os, socket, time
from detection_assets.domain.world import World
from detection_assets.programs import train_together as together
from detection_assets.programs.job import main

def run(job):
    world, params = World.of(os.environ), job.params
    print(f"instance {world.instance} of {world.instances}, over {world.interface}")
    # They find each other as a training's processes do, by names that are not known at once.
    name, _, port = world.first.rpartition(":")
    if world.leads:
        with socket.create_server(("", int(port))) as listening:
            listening.accept()[0].close()
    else:
        together.found(name, int(port))
    mark = job.checkpoint / "epoch"
    done = int(mark.read_text()) if mark.exists() else 0
    if params.get("breaks") == world.instance:
        raise RuntimeError(f"instance {world.instance} has no more memory")
    for epoch in range(done + 1, params["epochs"] + 1):
        time.sleep(params["pause"])
        if world.leads:
            fresh = mark.with_name("epoch.new")
            fresh.write_text(str(epoch))
            fresh.replace(mark)
        job.report({"kind": "epoch", "epoch": epoch, "from": done, "by": world.instance})
    (job.output / "weights").mkdir()
    (job.output / "weights" / "best.onnx").write_text(f"by {world.instance}")

if __name__ == "__main__":
    main(run, __doc__)
'''


def training(epochs: int = 3, pause: float = 0.0, **params: Any) -> Step:
    return Step(
        program="train",
        version="0123456789abcdef",
        inputs={"dataset": Input("datasets/ds-1")},
        outputs={"weights": "weights/w1"},
        params={"epochs": epochs, "pause": pause, **params},
        hardware="gpu",
    )


@pytest.fixture(autouse=True)
def two_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the platform is made of the settings, with machines that may be taken away."""
    for name in (clouds.OnSageMaker.instances, clouds.OnAzureML.instances):
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("DETECTION_AZURE_SPOT", "spot")


@pytest.fixture
def service(request: pytest.FixtureRequest, platform: Any) -> Any:
    return clouds.on(request.node.callspec.params["platform"], request)


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: Any) -> None:
    package = tmp_path / "scripted"
    package.mkdir()
    (package / "train.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "tests")]))
    monkeypatch.setattr(managed, "PROGRAMS", "scripted")
    platform.storage.put("datasets/ds-1/boxes.txt", b"boxes")


def run(platform: Any, step: Step, on_report: Any = None) -> Any:
    return in_a_run(lambda context: platform.compute.run(context, step, on_report))


@pytest.mark.usefixtures("scripted")
def test_the_first_speaks_for_all_and_each_has_a_log(
    platform: Any, service: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    reports: list[Any] = []
    result = run(platform, training(), reports.append)
    assert [(report["epoch"], report["by"]) for report in reports] == [(1, 0), (2, 0), (3, 0)]
    assert (service.phase(service.job), service.count(service.job)) == ("done", 2)
    assert len(service.processes(service.job)) == 2
    weights = result.outputs["weights"]
    assert platform.storage.get(weights.key("best.onnx")) == b"by 0"
    kept = {item.key.removeprefix("weights/w1/") for item in platform.storage.list("weights/w1")}
    assert kept == {"manifest.json", weights.key("best.onnx").removeprefix("weights/w1/")}, "it is delivered once"
    assert result.instance == f"2 x {service.instance}"
    assert result.cost_usd == pytest.approx(2 * service.price / 3600 * service.ran(service.job), rel=0.01, abs=1e-6)
    told = service.printed(platform.compute, service.job)
    said = f"instance 1 of 2, over {service.interface}".strip()
    assert said in [line.strip() for line in told[1]]
    assert service.line(1, said) in capfd.readouterr().err, "the run's own log says whose line it is"


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize("breaks", [0, 1])
def test_a_failure_of_any_instance_is_the_jobs(platform: Any, service: Any, breaks: int) -> None:
    with pytest.raises(StepFailed, match=f"instance {breaks} has no more memory"):
        run(platform, training(600, 0.2, breaks=breaks))
    assert service.phase(service.job) == "failed"
    assert all(one.poll() is not None for one in service.processes(service.job)), "the other is not left behind"
    assert platform.storage.published("weights/w1") is None


@pytest.mark.usefixtures("scripted")
def test_an_interruption_is_gone_on_with_by_all(platform: Any, service: Any) -> None:
    reports: list[Any] = []

    def told(report: Any) -> None:
        reports.append(report)
        if report["epoch"] == 2 and report["from"] == 0:
            service.interrupt(service.job)

    run(platform, training(6, 0.6), told)
    assert (service.job.starts, service.phase(service.job)) == (2, "done")
    assert sorted({report["epoch"] for report in reports}) == [1, 2, 3, 4, 5, 6]
    assert {report["from"] for report in reports} > {0}, "both went on from the same checkpoint"


def trial() -> Step:
    space, objective = {"lr0": Real(0.001, 0.1)}, Objective("map", "trial.json")
    return Study("v1", training(training={}), "training", space, objective, trials=1).step_of({"lr0": 0.01})


def test_a_trial_has_one_instance(platform: Any, service: Any) -> None:
    price, attempt = platform.compute.price, platform.compute.attempt
    assert price(attempt(trial(), 1), 3600) == pytest.approx(service.price)
    assert price(attempt(training(), 1), 3600) == pytest.approx(2 * service.price)


@pytest.mark.platforms("aws")
def test_a_trial_asks_for_one_instance(platform: Any) -> None:
    definition = platform.compute.definition
    assert definition(trial(), "jobs/a", "jobs/c")["ResourceConfig"]["InstanceCount"] == 1
    assert definition(training(), "jobs/a", "jobs/c")["ResourceConfig"]["InstanceCount"] == 2


@pytest.mark.long
def test_the_real_program_on_two_instances_of_which_spot_takes_one_away(
    platform: Any, service: Any, tmp_path: Path
) -> None:
    snapshot(tmp_path)
    for path in (*(tmp_path / "dataset").iterdir(), *(tmp_path / "frames").rglob("*.jpg")):
        platform.storage.put(path.relative_to(tmp_path).as_posix(), path.read_bytes())
    step = Step(
        program="train",
        version="0123456789abcdef",
        inputs={"dataset": Input("dataset"), "frames": Input("frames")},
        outputs={"weights": "weights/w1"},
        params={"classes": CLASSES, "training": {"imgsz": 64, "epochs": 4, "batch": 8}, "device": None},
        hardware="cpu",
    )
    reports: list[Any] = []

    def told(report: Any) -> None:
        reports.append(report)
        if report["kind"] == "epoch" and report["epoch"] == 1:
            service.interrupt(service.job)

    result = run(platform, step, told)
    assert (service.job.starts, service.phase(service.job), result.instance[:4]) == (2, "done", "2 x ")
    (resumed,) = [report for report in reports if report["kind"] == "resumed"]
    epochs = [report["epoch"] for report in reports if report["kind"] == "epoch"]
    assert epochs == [*range(1, resumed["epoch"] + 1), *range(resumed["epoch"] + 1, 5)], "none is lost or told twice"
    weights = result.outputs["weights"]
    training = json.loads(platform.storage.get(weights.key("training.json")))
    assert (training["processes"], training["instances"], training["epochs_run"]) == (2, 2, 4)
    assert training["agreement"]["agrees"]
    assert "this instance has done its part; the first one goes on" in service.printed(platform.compute, service.job)[1]

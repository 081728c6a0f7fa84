"""What only jobs of SageMaker do: they outlive the run, are interrupted, refused and charged for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from contract.in_a_run import in_a_run
from dagster._core.errors import DagsterExecutionInterruptedError
from fakes import sagemaker

from resources.compute import managed
from resources.compute.base import Input, Step, StepFailed

PLATFORMS = ["aws"]
ROOT = Path(__file__).parents[2]
PROGRAM = '''
"""Trains nothing: counts epochs, and keeps how far it is in the checkpoint."""
import json, time
from detection_assets.programs.job import main

def run(job):
    mark = job.checkpoint / "epoch"
    done = int(mark.read_text()) if mark.exists() else 0
    print(f"going on after epoch {done}")
    for epoch in range(done + 1, job.params["epochs"] + 1):
        time.sleep(job.params.get("pause", 0))
        fresh = job.checkpoint / "epoch.new"
        fresh.write_text(str(epoch))
        fresh.replace(mark)
        job.report({"kind": "epoch", "epoch": epoch, "from": done})
    if job.params.get("breaks"):
        raise RuntimeError("the loss is not finite")
    (job.output / "weights").mkdir()
    (job.output / "weights" / "best.onnx").write_bytes(job.inputs["dataset"].joinpath("boxes.txt").read_bytes())

if __name__ == "__main__":
    main(run, __doc__)
'''
WORKER = """
import sys
import dagster as dg
from contract.in_a_run import in_a_run
from contract.test_compute_sagemaker import training
from resources import profiles
from resources.compute import managed
managed.PROGRAMS = "scripted"
with dg.build_resources(profiles.PROFILES["aws"]("tiny", host="127.0.0.1", port=0)) as opened:
    in_a_run(lambda context: opened.compute.run(context, training(pause=0.5)))
"""


def training(epochs: int = 6, **params: Any) -> Step:
    return Step(
        program="train",
        version="0123456789abcdef",
        inputs={"dataset": Input("datasets/ds-1")},
        outputs={"weights": "weights/w1"},
        params={"epochs": epochs, **params},
        hardware="gpu",
    )


@pytest.fixture
def service(sagemaker_service: sagemaker.SageMaker) -> sagemaker.SageMaker:
    sagemaker_service.jobs.clear()
    sagemaker_service.calls.clear()
    sagemaker_service.silent = 0
    return sagemaker_service


@pytest.fixture(autouse=True)
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: Any, service: sagemaker.SageMaker) -> None:
    """Puts the program where the containers find it, and a dataset into the lake."""
    package = tmp_path / "scripted"
    package.mkdir()
    (package / "train.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "tests")]))
    monkeypatch.setattr(managed, "PROGRAMS", "scripted")
    platform.storage.put("datasets/ds-1/boxes.txt", b"boxes")


def until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, what
        time.sleep(0.05)


def epoch_of(service: sagemaker.SageMaker) -> int:
    marks = [job.folder / "checkpoints" / "epoch" for job in service.jobs.values()]
    return max((int(mark.read_text()) for mark in marks if mark.exists()), default=0)


def run(platform: Any, step: Step, on_report: Callable[[Any], object] | None = None) -> Any:
    return in_a_run(lambda context: platform.compute.run(context, step, on_report))


def test_a_training_is_a_job_with_a_price(platform: Any, service: sagemaker.SageMaker) -> None:
    reports: list[Any] = []
    result = run(platform, training(), reports.append)
    assert [report["epoch"] for report in reports] == [1, 2, 3, 4, 5, 6]
    assert platform.storage.get(result.outputs["weights"].key("best.onnx")) == b"boxes"
    (job,) = service.jobs.values()
    assert (job.kind, result.instance) == ("TrainingJob", "ml.g5.xlarge")
    assert job.asked["EnableManagedSpotTraining"]
    assert result.cost_usd == pytest.approx(1.408 / 3600 * max(1, round(job.ended - job.started)), rel=0.01)
    assert result.outputs["weights"].notes["job"] == job.name
    assert not list(platform.storage.list("jobs")), "nothing is left in the lake but what was published"
    assert run(platform, training()).reused


def test_a_run_that_is_killed_finds_its_job_and_goes_on(
    platform: Any, service: sagemaker.SageMaker, tmp_path: Path
) -> None:
    worker = subprocess.Popen([sys.executable, "-c", WORKER], env=os.environ.copy(), cwd=ROOT)
    try:
        until(lambda: epoch_of(service) >= 1, "the job trains")
    finally:
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
    reports: list[Any] = []
    result = run(platform, training(pause=0.5), reports.append)
    assert service.calls.count("CreateTrainingJob") == 1
    assert len(service.jobs) == 1
    assert [report["epoch"] for report in reports] == [1, 2, 3, 4, 5, 6], "what it told before is told again"
    assert result.outputs["weights"].notes["job"] in service.jobs
    assert not result.reused


def test_a_run_that_was_killed_uses_a_job_that_has_ended_meanwhile(platform: Any, service: sagemaker.SageMaker) -> None:
    worker = subprocess.Popen([sys.executable, "-c", WORKER], env=os.environ.copy(), cwd=ROOT)
    try:
        until(lambda: bool(service.jobs), "there is a job")
    finally:
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
    (job,) = service.jobs.values()
    until(lambda: job.status == "Completed", "it ends")
    result = run(platform, training(pause=0.5))
    assert service.calls.count("CreateTrainingJob") == 1
    assert platform.storage.published("weights/w1") == result.outputs["weights"]


@pytest.mark.parametrize("stop", [DagsterExecutionInterruptedError, KeyboardInterrupt])
def test_a_run_that_is_cancelled_stops_its_job_and_fails(
    platform: Any, service: sagemaker.SageMaker, stop: type[BaseException]
) -> None:
    def cancel(_: Any) -> None:
        raise stop()

    with pytest.raises(BaseException) as raised:  # noqa: PT011 - either of them
        run(platform, training(pause=0.5), cancel)
    assert not isinstance(raised.value, AssertionError)
    (job,) = service.jobs.values()
    assert job.status == "Stopped"
    assert platform.storage.published("weights/w1") is None
    result = run(platform, training(pause=0))
    assert [job.name[-2:] for job in service.jobs.values()] == ["-1", "-2"], "the next run is another attempt"
    assert result.outputs["weights"]


def test_a_spot_instance_that_is_taken_away_is_gone_on_with(platform: Any, service: sagemaker.SageMaker) -> None:
    reports: list[Any] = []

    def told(report: Any) -> None:
        reports.append(report)
        if report["epoch"] == 3 and report["from"] == 0:
            service.interrupt(next(iter(service.jobs)))

    run(platform, training(8, pause=0.6), told)
    (job,) = service.jobs.values()
    assert (job.starts, job.status) == (2, "Completed")
    assert reports[-1]["epoch"] == 8
    resumed = {report["from"] for report in reports}
    assert 0 in resumed
    assert max(resumed) >= 3, "it went on from its checkpoint"
    epochs = [report["epoch"] for report in reports]
    assert sorted(set(epochs)) == list(range(1, 9)), "nothing that it told is lost"


def test_a_job_that_fails_says_why_and_the_next_goes_on_from_its_checkpoint(
    platform: Any, service: sagemaker.SageMaker
) -> None:
    with pytest.raises(StepFailed, match="the loss is not finite") as raised:
        run(platform, training(breaks=True))
    assert "console.aws.amazon.com" in str(raised.value)
    reports: list[Any] = []
    run(platform, training(8), reports.append)
    assert [report["epoch"] for report in reports] == [7, 8]


def test_the_lines_of_a_job_are_in_the_runs_own_log(
    platform: Any, service: sagemaker.SageMaker, capfd: pytest.CaptureFixture[str]
) -> None:
    run(platform, training())
    told = capfd.readouterr().err
    assert "going on after epoch 0" in told
    assert f"#/jobs/{next(iter(service.jobs))}" in told, "and where its page is"


def test_refusals_say_what_to_ask_for(
    platform: Any, service: sagemaker.SageMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sagemaker.INSTANCES, "ml.g5.xlarge", 0)
    with pytest.raises(StepFailed, match=r"ml\.g5\.xlarge for TrainingJob usage.*Service Quotas"):
        run(platform, training())
    assert not service.jobs
    monkeypatch.setitem(sagemaker.INSTANCES, "ml.g5.xlarge", 1)
    service.no_capacity.add("ml.g5.xlarge")
    try:
        with pytest.raises(StepFailed, match=r"CapacityError.*different ML instance type"):
            run(platform, training())
    finally:
        service.no_capacity.clear()
    with pytest.raises(StepFailed, match=r"(?s)No S3 objects found.*datasets/ds-2"):
        run(platform, Step(**{**vars(training()), "inputs": {"dataset": Input("datasets/ds-2")}, "version": "f" * 16}))
    monkeypatch.setattr(sagemaker, "ROLE", "arn:aws:iam::123456789012:role/another")
    with pytest.raises(StepFailed, match=r"Could not assume role.*DETECTION_AWS_ROLE"):
        run(platform, training())


def test_what_a_job_is_told_fits_however_much_it_is(platform: Any, service: sagemaker.SageMaker) -> None:
    run(platform, training(1, notes=["x" * 100] * 2000))
    (job,) = service.jobs.values()
    assert len(json.dumps(job.asked)) < 4000


def test_two_lakes_do_not_share_a_job(platform: Any, service: sagemaker.SageMaker) -> None:
    step = training()
    other = platform.compute.storage.model_copy(update={"prefix": "another"})
    first, second = platform.compute.job_of(step), platform.compute.model_copy(update={"storage": other}).job_of(step)
    assert first.name != second.name
    assert len(first.name) <= 63


def test_a_service_that_is_silent_for_a_while_stops_no_job(platform: Any, service: sagemaker.SageMaker) -> None:
    told: list[Any] = []

    def silence(report: Any) -> None:
        told.append(report)
        if len(told) == 1:
            service.silent = 5

    run(platform, training(pause=0.6), silence)
    (job,) = service.jobs.values()
    assert job.status == "Completed"
    assert service.silent == 0


def test_a_service_that_stays_silent_fails_the_run_and_leaves_the_job_to_the_next(
    platform: Any, service: sagemaker.SageMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silence(_: Any) -> None:
        service.silent = 1000

    monkeypatch.setattr(managed, "PATIENCE_S", 0.5)
    try:
        with pytest.raises(StepFailed, match="does not say how it is"):
            run(platform, training(pause=1.0), silence)
    finally:
        service.silent = 0
    (job,) = service.jobs.values()
    assert job.status != "Stopped"
    assert run(platform, training(pause=1.0)).outputs["weights"].notes["job"] == job.name
    assert service.calls.count("CreateTrainingJob") == 1

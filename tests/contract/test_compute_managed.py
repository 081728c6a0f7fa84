"""What jobs of a cloud's service do: they outlive the run, lose their machines, are cancelled, charged for and told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from contract import clouds
from contract.a_training import ROOT, put_in_place, run, training, trains, until
from dagster._core.errors import DagsterExecutionInterruptedError

from resources.compute import managed
from resources.compute.base import StepFailed

PLATFORMS = ["aws", "azure"]
pytestmark = pytest.mark.stand_in("its program is in no image")
WORKER = """
import sys
import dagster as dg
from contract.a_training import run, training
from resources import profiles
from resources.compute import managed
managed.PROGRAMS = "scripted"
with dg.build_resources(profiles.PROFILES[sys.argv[1]]("tiny", host="127.0.0.1", port=0)) as opened:
    run(opened, training(pause=0.5))
"""


@pytest.fixture
def profile(request: pytest.FixtureRequest) -> str:
    return request.node.callspec.params["platform"]


@pytest.fixture
def service(profile: str, request: pytest.FixtureRequest) -> Any:
    return clouds.on(profile, request)


@pytest.fixture(autouse=True)
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: Any, service: Any) -> None:
    put_in_place(tmp_path, monkeypatch, platform)


def killed_once(condition: Any, what: str, profile: str) -> None:
    """A run that is killed when something has come about."""
    worker = subprocess.Popen([sys.executable, "-c", WORKER, profile], env=os.environ.copy(), cwd=ROOT)
    try:
        until(condition, what)
    finally:
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()


def test_a_training_is_a_job_with_a_price(platform: Any, service: Any) -> None:
    reports: list[Any] = []
    result = run(platform, training(), reports.append)
    assert [report["epoch"] for report in reports] == [1, 2, 3, 4, 5, 6]
    assert platform.storage.get(result.outputs["weights"].key("best.onnx")) == b"boxes"
    assert (service.phase(service.job), result.instance) == ("done", service.instance)
    assert result.cost_usd == pytest.approx(service.price / 3600 * service.ran(service.job), rel=0.01, abs=1e-6)
    assert result.outputs["weights"].notes["job"] == service.job.name
    assert not list(platform.storage.list("jobs")), "nothing is left in the lake but what was published"
    assert run(platform, training()).reused


def test_a_run_that_is_killed_finds_its_job_and_goes_on(platform: Any, service: Any, profile: str) -> None:
    killed_once(lambda: trains(platform), "the job trains", profile)
    reports: list[Any] = []
    result = run(platform, training(pause=0.5), reports.append)
    assert service.created == 1
    assert [report["epoch"] for report in reports] == [1, 2, 3, 4, 5, 6], "what it told before is told again"
    assert result.outputs["weights"].notes["job"] == service.job.name
    assert not result.reused


@pytest.mark.long
def test_a_run_that_was_killed_uses_a_job_that_has_ended_meanwhile(platform: Any, service: Any, profile: str) -> None:
    killed_once(lambda: bool(service.jobs), "there is a job", profile)
    until(lambda: service.phase(service.job) == "done", "it ends")
    result = run(platform, training(pause=0.5))
    assert service.created == 1
    assert platform.storage.published("weights/w1") == result.outputs["weights"]


@pytest.mark.parametrize("stop", [DagsterExecutionInterruptedError, KeyboardInterrupt])
def test_a_run_that_is_cancelled_stops_its_job_and_fails(
    platform: Any, service: Any, stop: type[BaseException]
) -> None:
    def cancel(_: Any) -> None:
        raise stop()

    with pytest.raises(BaseException) as raised:  # noqa: PT011 - either of them
        run(platform, training(pause=0.5), cancel)
    assert not isinstance(raised.value, AssertionError)
    assert service.phase(service.job) == "stopped"
    assert platform.storage.published("weights/w1") is None
    result = run(platform, training(pause=0))
    assert [job.name[-2:] for job in service.jobs] == ["-1", "-2"], "the next run is another attempt"
    assert result.outputs["weights"]


def test_a_machine_that_is_taken_away_is_gone_on_without(platform: Any, service: Any, profile: str) -> None:
    compute = platform.compute.model_copy(update={"spot": {"aws": True, "azure": "spot"}[profile]})
    reports: list[Any] = []

    def told(report: Any) -> None:
        reports.append(report)
        if report["epoch"] == 3 and report["from"] == 0:
            service.interrupt(service.job)

    run(clouds.Only(compute), training(8, pause=0.6), told)
    assert (service.job.starts, service.phase(service.job)) == (2, "done")
    assert reports[-1]["epoch"] == 8
    assert max(report["from"] for report in reports) >= 3, "it went on from its checkpoint"
    assert sorted({report["epoch"] for report in reports}) == list(range(1, 9)), "nothing that it told is lost"


def test_a_job_that_fails_says_why_and_the_next_goes_on_from_its_checkpoint(platform: Any, service: Any) -> None:
    with pytest.raises(StepFailed, match="the loss is not finite") as raised:
        run(platform, training(breaks=True))
    assert service.page in str(raised.value)
    reports: list[Any] = []
    run(platform, training(8), reports.append)
    assert [report["epoch"] for report in reports] == [7, 8]


def test_the_lines_of_a_job_are_in_the_runs_own_log(
    platform: Any, service: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    run(platform, training())
    told = capfd.readouterr().err
    assert told.count("going on after epoch 0\n") == 1
    assert platform.compute.link(platform.compute.attempt(training(), 1)) in told, "and where its page is"


def test_what_a_job_is_told_fits_however_much_it_is(platform: Any, service: Any) -> None:
    run(platform, training(1, notes=["x" * 100] * 2000))
    assert len(json.dumps(service.job.asked)) < 4000


def test_two_lakes_do_not_share_a_job(platform: Any) -> None:
    step = training()
    other = platform.compute.storage.model_copy(update={"prefix": "another"})
    first, second = platform.compute.job_of(step), platform.compute.model_copy(update={"storage": other}).job_of(step)
    assert first.name != second.name
    assert len(first.name) <= 63


def test_a_service_that_is_silent_for_a_while_stops_no_job(platform: Any, service: Any) -> None:
    told: list[Any] = []

    def silence(report: Any) -> None:
        told.append(report)
        if len(told) == 1:
            service.service.silent = 5

    run(platform, training(4, pause=0.6), silence)
    assert service.phase(service.job) == "done"
    assert service.service.silent == 0


@pytest.mark.long
def test_a_service_that_stays_silent_fails_the_run_and_leaves_the_job_to_the_next(
    platform: Any, service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silence(_: Any) -> None:
        service.service.silent = 1000

    monkeypatch.setattr(managed, "PATIENCE_S", 0.5)
    try:
        with pytest.raises(StepFailed, match="does not say how it is"):
            run(platform, training(pause=0.8), silence)
    finally:
        service.service.silent = 0
    assert service.phase(service.job) != "stopped"
    assert run(platform, training(pause=0.8)).outputs["weights"].notes["job"] == service.job.name
    assert service.created == 1

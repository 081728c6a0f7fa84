"""What only jobs of Azure ML do: they outlive the run, lose their machines, wait for them, are refused and charged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from contract.in_a_run import in_a_run
from contract.test_compute_sagemaker import PROGRAM, ROOT, run, training, until
from dagster._core.errors import DagsterExecutionInterruptedError
from fakes import azureml, blob
from fakes.azureml_jobs import FakeJob

from detection_assets.domain import layout
from detection_assets.domain.tuning import Real
from resources.compute import managed
from resources.compute.base import Input, Objective, StepFailed, Study

PLATFORMS = ["azure"]
WORKER = """
import dagster as dg
from contract.in_a_run import in_a_run
from contract.test_compute_sagemaker import training
from resources import profiles
from resources.compute import managed
managed.PROGRAMS = "scripted"
with dg.build_resources(profiles.PROFILES["azure"]("tiny", host="127.0.0.1", port=0)) as opened:
    in_a_run(lambda context: opened.compute.run(context, training(pause=0.5)))
"""


@pytest.fixture
def service(azureml_service: azureml.AzureML) -> azureml.AzureML:
    azureml_service.jobs.all.clear()
    azureml_service.calls.clear()
    azureml_service.silent = 0
    return azureml_service


@pytest.fixture(autouse=True)
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: Any, service: azureml.AzureML) -> None:
    """Puts the program where the containers find it, and a dataset into the lake."""
    package = tmp_path / "scripted"
    package.mkdir()
    (package / "train.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "tests")]))
    monkeypatch.setattr(managed, "PROGRAMS", "scripted")
    platform.storage.put("datasets/ds-1/boxes.txt", b"boxes")
    platform.storage.put("datasets/ds-1/more.txt", b"more")


def only(service: azureml.AzureML) -> FakeJob:
    (job,) = service.jobs
    return job


def epoch_of(platform: Any) -> int:
    """The epoch that the lake's checkpoint holds."""
    try:
        return int(platform.storage.get(f"{layout.checkpoint(training().name)}/epoch"))
    except FileNotFoundError:
        return 0


def on_the(cluster: str, platform: Any) -> Any:
    """The platform's jobs, trainings on another cluster."""
    return SimpleNamespace(compute=platform.compute.model_copy(update={"spot": cluster}))


def test_a_training_is_a_job_with_a_price(platform: Any, service: azureml.AzureML) -> None:
    reports: list[Any] = []
    result = run(platform, training(), reports.append)
    assert [report["epoch"] for report in reports] == [1, 2, 3, 4, 5, 6]
    assert platform.storage.get(result.outputs["weights"].key("best.onnx")) == b"boxes"
    job = only(service)
    assert (job.cluster, job.status, result.instance) == ("gpu", "Completed", "Standard_NC4as_T4_v3")
    assert job.ended is not None
    assert job.started is not None
    assert result.cost_usd == pytest.approx(0.526 / 3600 * (job.ended - job.started), abs=0.526 / 3600 * 1.1)
    assert result.outputs["weights"].notes["job"] == job.name
    assert job.asked["limits"]["timeout"] == "P1D"
    assert not list(platform.storage.list("jobs")), "nothing is left in the lake but what was published"
    assert run(platform, training()).reused


def test_the_studio_is_told_what_a_job_reads_and_writes(platform: Any, service: azureml.AzureML) -> None:
    step = replace(training(), inputs={"dataset": Input("datasets/ds-1", ["boxes.txt"])})
    published = run(platform, step).outputs["weights"]
    asked = only(service).asked
    lake = platform.storage.root.removeprefix(f"az://{blob.CONTAINER}/")
    place = f"azureml://datastores/{azureml.DATASTORE}/paths/{lake}/tiny"
    (given,), (made,) = asked["inputs"].values(), asked["outputs"].values()
    assert given == {"jobInputType": "uri_folder", "mode": "ReadOnlyMount", "uri": f"{place}/datasets/ds-1/"}
    assert (made["jobOutputType"], made["mode"]) == ("uri_folder", "ReadWriteMount")
    assert made["uri"] == f"{place}/{published.folder}/", "where it was delivered, and no copy of it"
    assert [item.key for item in platform.storage.list(published.folder)] == [published.key("best.onnx")]


def test_a_job_is_told_no_secret_and_fits_however_much_it_is(platform: Any, service: azureml.AzureML) -> None:
    run(platform, training(1, notes=["x" * 100] * 2000))
    asked = json.dumps(only(service).asked)
    assert blob.KEY not in asked
    assert service.secret not in asked
    assert only(service).asked["identity"] == {"identityType": "Managed"}, "it asks for tokens of its own"
    assert len(asked) < 4000


def test_a_run_that_is_killed_finds_its_job_and_goes_on(platform: Any, service: azureml.AzureML) -> None:
    worker = subprocess.Popen([sys.executable, "-c", WORKER], env=os.environ.copy(), cwd=ROOT)
    try:
        until(lambda: epoch_of(platform) >= 1, "the job trains")
    finally:
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
    reports: list[Any] = []
    result = run(platform, training(pause=0.5), reports.append)
    assert service.calls.count("PUT jobs") == 1
    assert [report["epoch"] for report in reports] == [1, 2, 3, 4, 5, 6], "what it told before is told again"
    assert result.outputs["weights"].notes["job"] == only(service).name
    assert not result.reused


def test_a_job_that_was_asked_for_twice_is_one(platform: Any, service: azureml.AzureML) -> None:
    compute, step = platform.compute, training(pause=0.2)
    job = compute.attempt(step, 1)
    platform.storage.put(job.order, b"{}")
    assert {compute.submit(job).phase for _ in range(2)} <= {"running", "failed"}
    assert service.calls.count("PUT jobs") == 2
    assert len(list(service.jobs)) == 1
    # One that differs, as by another version of this program, is as good: the name says what is run.
    other = compute.model_copy(update={"image": f"{azureml.IMAGE}2"})
    assert other.submit(job).phase in ("running", "failed")
    assert only(service).starts <= 1


@pytest.mark.parametrize("stop", [DagsterExecutionInterruptedError, KeyboardInterrupt])
def test_a_run_that_is_cancelled_stops_its_job_and_fails(
    platform: Any, service: azureml.AzureML, stop: type[BaseException]
) -> None:
    def cancel(_: Any) -> None:
        raise stop()

    with pytest.raises(BaseException) as raised:  # noqa: PT011 - either of them
        run(platform, training(pause=0.5), cancel)
    assert not isinstance(raised.value, AssertionError)
    assert only(service).status == "Canceled"
    assert platform.storage.published("weights/w1") is None
    result = run(platform, training(pause=0))
    assert [job.name[-2:] for job in service.jobs] == ["-1", "-2"], "the next run is another attempt"
    assert result.outputs["weights"]


def test_a_job_that_somebody_cancels_in_the_studio_is_no_success(platform: Any, service: azureml.AzureML) -> None:
    def cancel(_: Any) -> None:
        service.jobs.cancel(only(service).name) if only(service).status == "Running" else None

    with pytest.raises(StepFailed, match="the job was stopped: Canceled"):
        run(platform, training(pause=0.5), cancel)
    assert platform.storage.published("weights/w1") is None


def test_a_machine_of_low_priority_that_is_taken_away_is_gone_on_without(
    platform: Any, service: azureml.AzureML
) -> None:
    reports: list[Any] = []

    def told(report: Any) -> None:
        reports.append(report)
        if report["epoch"] == 3 and report["from"] == 0:
            service.jobs.interrupt(only(service).name)

    run(on_the("spot", platform), training(6, pause=0.5), told)
    job = only(service)
    assert (job.cluster, job.starts, job.status) == ("spot", 2, "Completed")
    assert max(report["from"] for report in reports) >= 3, "it went on from its checkpoint"
    epochs = [report["epoch"] for report in reports]
    assert sorted(set(epochs)) == list(range(1, 7)), "nothing that it told is lost"


def test_a_job_that_fails_says_why_and_the_next_goes_on_from_its_checkpoint(
    platform: Any, service: azureml.AzureML
) -> None:
    with pytest.raises(StepFailed, match="the loss is not finite") as raised:
        run(platform, training(breaks=True))
    assert "exit code 1" in str(raised.value)
    assert "https://ml.azure.com/runs/tiny-train-" in str(raised.value)
    reports: list[Any] = []
    run(platform, training(8), reports.append)
    assert [report["epoch"] for report in reports] == [7, 8]


def test_the_lines_of_a_job_are_in_the_runs_own_log(
    platform: Any, service: azureml.AzureML, capfd: pytest.CaptureFixture[str]
) -> None:
    run(platform, training())
    told = capfd.readouterr().err
    assert told.count("going on after epoch 0\n") == 1
    assert f"https://ml.azure.com/runs/{only(service).name}?wsid=/subscriptions/" in told, "and where its page is"


def test_refusals_say_what_to_do(platform: Any, service: azureml.AzureML, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(remedy: str, **changes: Any) -> None:
        compute = platform.compute.model_copy(update=changes)
        with pytest.raises(StepFailed, match=remedy):
            in_a_run(lambda context: compute.run(context, training()))
        assert not list(service.jobs)

    refused("has no compute cluster huge; make it, or set DETECTION_AZURE_GPU", gpu="huge")
    refused("has no compute cluster none; make it, or set DETECTION_AZURE_SPOT", spot="none")
    refused("Could not find datastore 'other'", datastore="other")
    refused(r"detection-ml2.*was not found.*correct DETECTION_AZURE_SUBSCRIPTION", workspace="detection-ml2")
    service.denied = {"PUT jobs"}
    try:
        refused("AuthorizationFailed.*give whom Dagster runs as the role AzureML Data Scientist")
    finally:
        service.denied = set()
    monkeypatch.setenv("MSI_SECRET", "another")
    refused(r"DefaultAzureCredential failed.*az login")


def test_a_folder_that_is_not_there_fails_the_job_plainly(platform: Any, service: azureml.AzureML) -> None:
    step = replace(training(), inputs={"dataset": Input("datasets/ds-2")}, version="f" * 16)
    with pytest.raises(StepFailed, match=r"(?s)Failed to mount azureml://.*datasets/ds-2/"):
        run(platform, step)


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        ("ClusterCoreQuotaReached", "ask for more cores of Standard_NC4as_T4_v3 at the studio's Quota"),
        ("AllocationFailed", "wait, or set a cluster of other machines"),
    ],
)
def test_a_job_that_waits_for_a_machine_says_what_to_ask_for(
    platform: Any, service: azureml.AzureML, code: str, remedy: str, capfd: pytest.CaptureFixture[str]
) -> None:
    errors = service.clusters["gpu"].errors
    errors[code] = "there are no machines"
    said: list[str] = []

    def watched(look: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def act(job: Any) -> Any:
            state = look(job)
            said.append(state.detail if state else "")
            if code in said[-1]:
                errors.clear()  # somebody has given it more
            return state

        return act

    compute = platform.compute.model_copy()
    object.__setattr__(compute, "look", watched(compute.look))
    assert in_a_run(lambda context: compute.run(context, training())).outputs["weights"]
    assert any(line.startswith(f"Queued: {code}: there are no machines ({remedy}") for line in said)
    assert remedy in capfd.readouterr().err, "and the run's log has it"


def test_a_service_that_is_silent_for_a_while_stops_no_job(platform: Any, service: azureml.AzureML) -> None:
    told: list[Any] = []

    def silence(report: Any) -> None:
        told.append(report)
        if len(told) == 1:
            service.silent = 5

    run(platform, training(4, pause=0.5), silence)
    assert only(service).status == "Completed"
    assert service.silent == 0


def test_tuning_is_refused_with_a_way_out(platform: Any) -> None:
    study = Study("v1", training(), "training", {"lr0": Real(0.1, 1.0)}, Objective("map", "m.json"), 3)
    with pytest.raises(StepFailed, match="set `hardware: here` for the training"):
        in_a_run(lambda context: platform.compute.tune(context, study))

"""What only jobs of Azure ML do: how they are asked for, wait for machines, and are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from contract.a_training import put_in_place, run, training
from contract.clouds import OnAzureML
from contract.in_a_run import in_a_run
from fakes import azureml, blob
from fakes.azureml_jobs import FakeJob

from resources.compute.base import Input, StepFailed

PLATFORMS = ["azure"]


@pytest.fixture
def service(azureml_service: azureml.AzureML) -> azureml.AzureML:
    return OnAzureML(azureml_service).service


@pytest.fixture(autouse=True)
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: Any, service: azureml.AzureML) -> None:
    put_in_place(tmp_path, monkeypatch, platform)


def only(service: azureml.AzureML) -> FakeJob:
    (job,) = service.jobs
    return job


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


def test_a_job_is_told_no_secret(platform: Any, service: azureml.AzureML) -> None:
    run(platform, training(1))
    asked = json.dumps(only(service).asked)
    assert blob.KEY not in asked
    assert service.secret not in asked
    assert only(service).asked["identity"] == {"identityType": "Managed"}, "it asks for tokens of its own"
    assert only(service).asked["limits"]["timeout"] == "P1D"


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


def test_a_job_that_somebody_cancels_in_the_studio_is_no_success(platform: Any, service: azureml.AzureML) -> None:
    def cancel(_: Any) -> None:
        service.jobs.cancel(only(service).name) if only(service).status == "Running" else None

    with pytest.raises(StepFailed, match="the job was stopped: Canceled"):
        run(platform, training(pause=0.5), cancel)
    assert platform.storage.published("weights/w1") is None


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

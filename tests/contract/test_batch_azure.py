"""What only a batch endpoint of Azure ML does: deployments that stay, jobs of its own names, lists tried again."""

from __future__ import annotations

import base64
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from contract import a_batch
from contract.a_batch import MODEL, model_in, run, step, steps, table
from contract.test_batch import batch_service as batch_service
from contract.test_batch import world as world
from fakes import azureml, blob

from detection_assets.serving import batch as script
from resources import microsoft_batch, profiles
from resources.batch import azure as backend
from resources.batch.local import LocalBatch
from resources.compute.base import Input, StepFailed

PLATFORMS = ["azure"]
pytestmark = pytest.mark.usefixtures("batch_service")


def deployments(service: azureml.AzureML) -> dict[str, dict[str, Any]]:
    return {name: one["properties"] for (_, name), one in service.batch.deployments.items()}


def changed(world: Any, **changes: Any) -> Any:
    """The platform with another batch endpoint."""

    return SimpleNamespace(batch=world.batch.model_copy(update=changes), storage=world.storage)


def test_both_sides_know_the_lists_by_the_same_words() -> None:
    assert (backend.LISTS, backend.SETTINGS) == (script.LISTS, script.SETTINGS)


def deployed(world: Any, **settings: Any) -> str:
    """The deployment for the lake's model, made without a job."""
    wanted = replace(step("a", "red.png"), params={"settings": {**a_batch.SETTINGS, **settings}})
    return world.batch.deployed(wanted, model_in(world.storage))


def invoked(client: Any, endpoint: str, inputs: dict[str, Any], **more: Any) -> Any:
    """A job of an endpoint's default deployment."""
    from azure.ai.ml.constants._endpoint import EndpointInvokeFields

    # The SDK keeps the deployment that was asked last, and asks it again.
    EndpointInvokeFields.DEFAULT_HEADER.pop(EndpointInvokeFields.MODEL_DEPLOYMENT, None)
    return client.batch_endpoints.invoke(endpoint_name=endpoint, inputs=inputs, **more)


def test_a_version_is_a_deployment_that_stays_and_a_job_reads_what_it_is_asked_about(
    world: Any, azureml_service: azureml.AzureML, capfd: pytest.CaptureFixture[str]
) -> None:
    world.storage.put("frames/a/v1/made/torn.png", b"no picture")
    run(world, [step("a", "red.png", "torn.png")])
    told = capfd.readouterr().err
    assert "begun as a batch job of Azure ML: https://ml.azure.com/runs/batchjob-" in told
    assert "000000.pictures.json: 2 pictures, 1 of them not readable, the first a/v1/made/torn.png" in told
    ((_, name, asked),) = azureml_service.batch.asked.values()
    (given,) = asked["inputData"].values()
    assert given["jobInputType"] == "UriFolder"
    assert "/jobs/predict-" in given["uri"], "not the folder of all frames"
    made = deployments(azureml_service)[name]
    assert name.startswith("v7-")
    assert azureml_service.calls.count("PUT codes") == 1
    model = azureml_service.assets.there[("models", *made["model"]["assetId"].split("/")[-3::2])]
    assert model["properties"]["modelUri"].endswith(f"/tiny/{MODEL}"), "it lies where it lay"
    secret = json.dumps([asked, made])
    assert blob.KEY not in secret
    assert azureml_service.secret not in secret
    assert deployed(world) == name
    other = deployed(world, confidence=0.5)
    assert set(deployments(azureml_service)) == {name, other}, "other thresholds are another"
    (endpoint,) = azureml_service.batch.endpoints.values()
    assert endpoint["name"] == world.batch.endpoint
    assert endpoint["properties"]["defaults"]["deploymentName"] == other, "the newest is the default"


def test_two_runs_may_make_the_same_deployment_at_once(
    world: Any, azureml_service: azureml.AzureML, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(microsoft_batch, "POLL_S", 0.05)
    with ThreadPoolExecutor() as pool:
        names = set(pool.map(lambda _: deployed(world), range(3)))
    assert set(deployments(azureml_service)) == names
    assert len(names) == 1


def test_old_deployments_make_room(
    world: Any, azureml_service: azureml.AzureML, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(microsoft_batch, "KEPT", 2)
    seen = [deployed(world, confidence=confidence) for confidence in (0.1, 0.2, 0.3, 0.4)]
    assert list(deployments(azureml_service)) == seen[-2:]


def test_pictures_in_many_lists_are_answered_each_by_its_own(
    world: Any, azureml_service: azureml.AzureML, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "LIST", 2)
    names = ["red.png", "blue.jpg", "dark.png", "black.png", "red.png"]
    world.storage.put("frames/a/v1/made/black.png", a_batch.picture("black.png"))
    for number, name in enumerate(names):
        world.storage.put(f"frames/a/v1/made/{number}-{name}", a_batch.picture(name))
    (result,) = run(changed(world, count=2), [step("a", *(f"{number}-{name}" for number, name in enumerate(names)))])
    found = table(world, result)
    assert found["frame"].tolist() == [f"a#{number}-{name}" for number, name in enumerate(names)]
    assert found["class"].isna().tolist() == [name == "black.png" for name in names]


def test_a_job_that_nobody_has_noted_is_found_by_its_mark(
    world: Any, azureml_service: azureml.AzureML, monkeypatch: pytest.MonkeyPatch
) -> None:
    azureml_service.batch.pause = 2.0
    note = type(world.batch)._note

    def killed(batch: Any, job: Any, what: str, value: str) -> None:
        if what == "name":
            raise KeyboardInterrupt
        note(batch, job, what, value)

    with monkeypatch.context() as patch:
        patch.setattr(type(world.batch), "_note", killed)
        with pytest.raises(BaseException):  # noqa: B017, PT011 - as Dagster passes it on
            run(world, steps())
    assert len(azureml_service.batch.asked) == 1
    first, _ = run(world, steps())
    assert not first.reused
    assert len(azureml_service.batch.asked) == 1, "it was asked for once"


@pytest.mark.long
def test_a_request_whose_answer_got_lost_makes_one_job_in_the_end(
    world: Any, azureml_service: azureml.AzureML, batch_service: a_batch.Service
) -> None:
    azureml_service.batch.pause = 6.0  # longer than the SDK takes to ask again, or there is nothing left to cancel
    azureml_service.batch.lost = 2
    run(world, steps())
    assert len(azureml_service.batch.asked) > 1, "the SDK repeats what is not answered"
    assert batch_service.states().count("Completed") == 1
    assert set(batch_service.states()) == {"Completed", "Canceled"}


@pytest.mark.long
def test_a_list_is_tried_again_when_its_process_dies(
    world: Any, azureml_service: azureml.AzureML, batch_service: a_batch.OnAzure
) -> None:
    azureml_service.batch.dying = 1
    first, _ = run(world, steps())
    assert len(table(world, first)) == 2
    azureml_service.batch.dying = 99
    with pytest.raises(StepFailed, match="more than the error threshold"):
        run(world, steps(version="v2"))


def test_somebody_elses_folder_of_pictures_is_answered_in_the_jobs_own_output(
    world: Any, azureml_service: azureml.AzureML
) -> None:
    from azure.ai.ml import Input as Given
    from azure.ai.ml import Output

    deployed(world)
    world.storage.put("guests/red.png", a_batch.picture("red.png"))
    world.storage.put("guests/deep/torn.png", b"no picture")
    place = world.compute.place(Input("guests"))
    asked = invoked(
        world.batch.ml.client,
        world.batch.endpoint,
        {"pictures": Given(type="uri_folder", path=place)},
        outputs={"answers": Output(type="uri_folder", path=world.compute.place(Input("answers-of-guests")))},
    )
    ends = time.monotonic() + 60
    while (status := azureml_service.jobs.all[asked.name].status) not in ("Completed", "Failed"):
        assert time.monotonic() < ends
        time.sleep(0.1)
    assert status == "Completed"
    told = [
        json.loads(line)
        for item in world.storage.list("answers-of-guests")
        if item.key.endswith(".jsonl")
        for line in world.storage.get(item.key).splitlines()
    ]
    by_name = {Path(one["file"]).name: one for one in told}
    assert len(by_name["red.png"]["boxes"]) == 1
    assert "is not a" in by_name["torn.png"]["error"]


def test_refusals_say_what_to_do(world: Any, azureml_service: azureml.AzureML) -> None:
    def refused(why: str, **changes: Any) -> None:
        with pytest.raises(StepFailed, match=why):
            run(changed(world, **changes), steps())
        assert not azureml_service.batch.asked

    refused("has no compute cluster huge; make it, or set DETECTION_AZURE_BATCH", cluster="huge")
    refused("at most 2 machines, and 3 are asked for.*DETECTION_AZURE_BATCH_INSTANCES", count=3)
    elsewhere = world.compute.model_copy(update={"workspace": "detection-ml2"})
    refused(r"detection-ml2.*was not found.*correct DETECTION_AZURE_SUBSCRIPTION", compute=elsewhere)
    azureml_service.denied = {"PUT batchEndpoints"}
    try:
        refused("AuthorizationFailed.*give whom Dagster runs as")
    finally:
        azureml_service.denied = set()


@pytest.mark.long
def test_a_job_that_waits_for_machines_says_why(
    world: Any, azureml_service: azureml.AzureML, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors, said = azureml_service.clusters["cpu"].errors, []
    errors["ClusterCoreQuotaReached"] = "there are no cores"
    look = type(world.batch).look

    def watched(batch: Any, job: Any) -> Any:
        state = look(batch, job)
        said.append(state.detail if state else "")
        if "ClusterCoreQuotaReached" in said[-1]:
            errors.clear()  # somebody has given it more
        return state

    monkeypatch.setattr(type(world.batch), "look", watched)
    run(world, steps())
    assert any("ask for more cores of Standard_DS3_v2" in line for line in said)


@pytest.mark.long
def test_a_service_that_is_silent_for_a_while_stops_no_job(
    world: Any, azureml_service: azureml.AzureML, batch_service: a_batch.Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished, looks = type(world.batch).finished, []

    def silence(batch: Any, handle: Any) -> bool:
        looks.append(handle)
        if len(looks) == 1:
            azureml_service.silent = 3
        return finished(batch, handle)

    azureml_service.batch.pause = 1.0
    monkeypatch.setattr(type(world.batch), "finished", silence)
    run(world, steps())
    assert azureml_service.silent == 0
    assert batch_service.states() == ["Completed"]


def test_without_a_cluster_of_its_own_it_is_a_job_like_any_other(
    platform: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DETECTION_AZURE_BATCH_IMAGE")
    with pytest.raises(profiles.SettingsError, match="DETECTION_AZURE_BATCH_IMAGE is not set"):
        profiles.azure("tiny", host="127.0.0.1", port=0)
    monkeypatch.delenv("DETECTION_AZURE_BATCH")
    with dg.build_resources(profiles.azure("tiny", host="127.0.0.1", port=0)) as opened:
        assert isinstance(opened.batch, LocalBatch)
        assert opened.batch.compute.service == "Azure ML"


def test_the_doctor_looks_at_the_cluster(world: Any) -> None:
    (found,) = world.batch.check()
    assert (found.what, found.state) == ("cluster cpu", "good")
    (missing,) = world.batch.model_copy(update={"cluster": "none"}).check()
    assert missing.remedy == "make it, or correct DETECTION_AZURE_BATCH"


class TestTheStandIn:
    """It refuses what Azure ML refuses."""

    @pytest.fixture
    def client(self, world: Any) -> Any:
        deployed(world)
        return world.batch.ml.client

    def test_names_and_deployments(self, world: Any, client: Any, azureml_service: azureml.AzureML) -> None:
        from azure.ai.ml import Input as Given
        from azure.ai.ml.entities import BatchEndpoint
        from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

        (name,) = deployments(azureml_service)
        with pytest.raises(HttpResponseError, match="is the default one"):
            client.batch_deployments.begin_delete(name, world.batch.endpoint).result()
        with pytest.raises(ResourceNotFoundError):
            client.batch_deployments.get("none", world.batch.endpoint)
        wrong = BatchEndpoint(name=world.batch.endpoint, defaults={"deployment_name": "none"})
        with pytest.raises(ResourceNotFoundError, match="deployments/none was not found"):
            client.batch_endpoints.begin_create_or_update(wrong)
        client.batch_endpoints.begin_create_or_update(BatchEndpoint(name="another-one")).result()
        folder = Given(type="uri_folder", path=world.compute.place(Input("frames")))
        with pytest.raises(HttpResponseError, match="No valid deployments to route to"):
            invoked(client, "another-one", {"one": folder})
        endpoint = world.batch.endpoint
        with pytest.raises(HttpResponseError, match="takes one data input"):
            invoked(client, endpoint, {"one": folder, "two": folder})
        with pytest.raises(HttpResponseError, match="none of the supported types"):
            invoked(client, endpoint, {"one": Given(type="mltable", path=folder.path)})
        with pytest.raises(HttpResponseError, match="Could not find datastore 'none'"):
            invoked(client, endpoint, {"one": Given(type="uri_folder", path="azureml://datastores/none/paths/x")})

    def test_a_token_for_the_resource_manager_asks_no_endpoint(
        self, world: Any, client: Any, azureml_service: azureml.AzureML
    ) -> None:
        from azure.core.exceptions import ClientAuthenticationError
        from azure.identity import DefaultAzureCredential

        token = DefaultAzureCredential().get_token(f"{azureml_service.url}/.default").token
        claims = token.split(".")[1]
        assert json.loads(base64.urlsafe_b64decode(f"{claims}=="))["aud"] == azureml_service.url
        client.batch_endpoints._credentials, kept = _Fixed(token), client.batch_endpoints._credentials
        try:
            with pytest.raises(ClientAuthenticationError):
                list(client.batch_endpoints.list_jobs(world.batch.endpoint))
        finally:
            client.batch_endpoints._credentials = kept


class _Fixed:
    """A credential with one token."""

    def __init__(self, token: str) -> None:
        self.token = token

    def get_token(self, *_: Any) -> Any:
        return self

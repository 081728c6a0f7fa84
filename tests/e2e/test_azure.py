"""The whole graph with the lake on Blob storage and its programs as jobs of Azure ML, by the environment alone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from e2e import shows
from e2e.shows import detection
from e2e.test_aws import World as OnAws
from e2e.test_aws import project
from fakes import azureml, blob, certificates
from forked import Command

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@dataclass
class World:
    """Two projects with the same detector and footage, one on this machine and one on Azure."""

    service: azureml.AzureML
    local: Mapping[str, str]
    azure: Mapping[str, str]
    switched: Mapping[str, str]

    table = OnAws.table


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    blob_server: str,
    certificate: certificates.Certificate,
    azureml_service: azureml.AzureML,
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("azure")
    azureml_service.jobs.all.clear()
    azureml_service.assets.there.clear()
    settings = {
        **blob.environment(blob_server, certificate),
        **azureml_service.settings,
        "DETECTION_PLATFORM": "azure",
        "DETECTION_LAKE": f"az://{blob.CONTAINER}/{folder.name}",
        "DETECTION_POLL_S": "0.5",
        "DETECTION_REPORT_S": "0.3",
        "DETECTION_AZURE_ENDPOINT_MOST": "2",
    }
    local = project(folder / "local")
    azure = {**project(folder / "azure"), **settings}
    switched = {**local, **settings, "DETECTION_LAKE": f"az://{blob.CONTAINER}/{folder.name}-moved"}
    detection(local, "sample", "fridge", "--clips", "4")
    # The same footage, not rendered twice.
    detection({**switched, "DETECTION_LAKE": settings["DETECTION_LAKE"]}, "push", "fridge")
    detection(local, "run", "fridge", "--until", "detection_dataset")
    detection(azure, "run", "fridge")
    try:
        yield World(azureml_service, local, azure, switched)
    finally:
        detection(azure, "stop")
        azureml_service.endpoints.clear()


def test_the_tables_are_the_same_as_on_one_machine(world: World) -> None:
    for asset in ("extracted_frames", "annotations", "detection_dataset"):
        here, there = (shows.comparable(world.table(env, asset)) for env in (world.local, world.azure))
        pd.testing.assert_frame_equal(here, there)


def test_each_program_was_one_job_with_a_price(world: World) -> None:
    assert sorted((job.name.split("-")[1], job.cluster, job.status) for job in world.service.jobs) == [
        ("evaluate", "cpu", "Completed"),
        ("extract", "cpu", "Completed"),
        ("train", "gpu", "Completed"),
    ]
    assert world.table(world.azure, "trained_weights")["cost_usd"].iloc[0] > 0
    assert world.table(world.azure, "deployed_endpoint")["state"].tolist() == ["ready"]


def test_the_studio_has_the_dataset_the_model_and_the_figures(world: World) -> None:
    weights = world.table(world.azure, "trained_weights").iloc[0]
    there, version = world.service.assets.there, weights["dataset_version"]
    assert [name for kind, name, of in there if (kind, of) == ("data", version)] == [
        *("fridge-dataset", "fridge-boxes", "fridge-images")
    ]
    (model,) = [one["properties"] for key, one in there.items() if key == ("models", "fridge", "1")]
    assert model["properties"].items() >= {"dataset_version": version, "mlflow_run": weights["mlflow_run"]}.items()
    assert float(model["properties"]["ap50_95"]) >= 0
    assert model["tags"]["approval"] == "approved"
    assert {"alias.champion", "alias.challenger"} <= set(model["tags"])
    _, told, _ = world.service.mlflow.ask("GET", "api/2.0/mlflow/runs/get", {"run_id": weights["mlflow_run"]})
    assert told["run"]["info"]["status"] == "FINISHED"
    assert {metric["key"] for metric in told["run"]["data"]["metrics"]} > {"final/map50", "final/map50_95"}


def test_there_is_nothing_left_to_do(world: World) -> None:
    told = detection(world.azure, "status", "fridge")
    assert "stale" not in told
    assert "behind" not in told
    detection(world.azure, "run", "fridge")
    assert len(list(world.service.jobs)) == 3, "nothing was asked for again"


def test_each_asset_says_what_its_jobs_cost(world: World) -> None:
    shows.costs(world.azure, "fridge", "Standard_")


def test_a_detector_that_is_pushed_goes_on_there_and_comes_back(world: World) -> None:
    shows.moves(world.local, world.switched, "fridge", lambda: len(list(world.service.jobs)))


def test_no_secret_lies_in_the_project(world: World) -> None:
    (endpoint,) = world.service.endpoints.all.values()
    for secret in (blob.KEY, world.service.secret, *endpoint.keys):
        for path in Path(world.azure["DETECTION_HOME"]).rglob("*"):
            assert not path.is_file() or secret.encode() not in path.read_bytes(), path


def azureml_caller(service: azureml.AzureML, detector: str) -> shows.Ask:
    """Asks the endpoint of a detector, with its key."""
    (endpoint,) = (one for name, one in service.endpoints.all.items() if detector in name)

    def ask(body: bytes, headers: Mapping[str, str]) -> tuple[int, str]:
        given = {**headers, "Authorization": f"Bearer {endpoint.keys[0]}"}
        status, _, told = service.endpoints.score(endpoint.name, body, given)
        return status, told.get("azureml-model-deployment", "")

    return ask


def test_a_version_that_azure_gives_up_with_half_of_the_traffic_goes_back(world: World) -> None:
    rollout = "rollout: {canary: [50], bake_s: 20.0, min_requests: 5}\nendpoint: {confidence: 0.3}"
    shows.configure(world.azure, "fridge", rollout)
    (endpoint,) = world.service.endpoints.all.values()
    running = Command({**os.environ, **world.azure}, "run", "fridge")
    with shows.traffic(azureml_caller(world.service, "fridge")) as seen:
        ends = time.monotonic() + 300
        while not endpoint.traffic.get("green"):
            assert running.poll() is None, running.end()
            assert time.monotonic() < ends
            time.sleep(0.05)
        endpoint.deployments["green"].state = "Failed"
        code, told = running.end()
    assert code != 0, told
    assert "slot green is failed" in told
    assert {name: share for name, share in endpoint.traffic.items() if share} == {"blue": 100}
    assert seen.slots[-1] == "blue"
    (rule,) = world.service.endpoints.scaling.values()
    assert rule["properties"]["targetResourceUri"].endswith("/blue")


def test_an_endpoint_that_is_stopped_leaves_nothing_that_costs(world: World) -> None:
    detection(world.azure, "stop", "fridge")
    assert not world.service.endpoints.all
    assert not world.service.endpoints.scaling

"""The whole graph with the lake on Blob storage and its programs as jobs of Azure ML, by the environment alone."""

from __future__ import annotations

import io
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from e2e.test_aws import Seen, detection, project
from e2e.test_aws import World as OnAws
from fakes import azureml, blob, certificates
from forked import Command
from PIL import Image
from project import ROOT

TEMPLATE = ROOT / "infra" / "azure" / "template.bicep"

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@dataclass
class World:
    """Two projects with the same detector and footage, one on this machine and one on Azure."""

    service: azureml.AzureML
    local: Mapping[str, str]
    azure: Mapping[str, str]

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
    local = project(folder / "local")
    azure = {
        **project(folder / "azure"),
        **blob.environment(blob_server, certificate),
        **azureml_service.settings,
        "DETECTION_PLATFORM": "azure",
        "DETECTION_LAKE": f"az://{blob.CONTAINER}/{folder.name}",
        "DETECTION_POLL_S": "0.5",
        "DETECTION_REPORT_S": "0.3",
        "DETECTION_AZURE_ENDPOINT_MOST": "2",
    }
    for env in (local, azure):
        detection(env, "sample", "fridge", "--clips", "4")
    detection(local, "run", "fridge", "--until", "detection_dataset")
    detection(azure, "run", "fridge")
    try:
        yield World(azureml_service, local, azure)
    finally:
        detection(azure, "stop")
        azureml_service.endpoints.clear()


def test_the_tables_are_the_same_as_on_one_machine(world: World) -> None:
    for asset in ("extracted_frames", "annotations", "detection_dataset"):
        here, there = (world.table(env, asset) for env in (world.local, world.azure))
        passing = [name for name in here.columns if name in ("key",)]  # names the attempt that made it
        pd.testing.assert_frame_equal(
            here.drop(columns=passing).sort_values(list(here.columns[:2]), ignore_index=True),
            there.drop(columns=passing).sort_values(list(there.columns[:2]), ignore_index=True),
        )


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


BELOW = {"workspace": "", "runs": "experiments/runs/", "mlflow": "experiments/runs/"}
VERSIONED = ("environments", "data", "models")


def test_the_role_of_the_template_allows_what_was_asked(world: World) -> None:
    allowed = re.findall(r"'Microsoft\.MachineLearningServices/workspaces/(.+)'", TEMPLATE.read_text())
    needed: set[str] = set()
    for asked in set(world.service.calls):
        verb, what = asked.split()
        below = BELOW.get(what, f"{what}/versions/" if what in VERSIONED else f"{what}/")
        needed.add(f"{below}{'read' if verb == 'GET' else 'write'}")
    assert {"models/versions/write", "data/versions/write", "experiments/runs/write", "jobs/write"} <= needed
    assert sorted(needed - set(allowed)) == []


def test_no_secret_lies_in_the_project(world: World) -> None:
    (endpoint,) = world.service.endpoints.all.values()
    for secret in (blob.KEY, world.service.secret, *endpoint.keys):
        for path in Path(world.azure["DETECTION_HOME"]).rglob("*"):
            assert not path.is_file() or secret.encode() not in path.read_bytes(), path


def change(world: World, settings: str) -> None:
    """Says how the detector rolls out; other settings of the same version are enough to roll out."""
    file = Path(world.azure["DETECTION_DETECTORS"]) / "fridge.yaml"
    lines = [line for line in file.read_text().splitlines() if not line.startswith(("rollout:", "endpoint:"))]
    file.write_text("\n".join([*lines, settings, ""]))


@contextmanager
def traffic(world: World) -> Iterator[Seen]:
    """Sends pictures to the endpoint with its key, one after the other."""
    seen, over = Seen(), threading.Event()
    (endpoint,) = world.service.endpoints.all.values()
    out = io.BytesIO()
    Image.new("RGB", (96, 96), (120, 130, 140)).save(out, "JPEG")
    headers = {"Authorization": f"Bearer {endpoint.keys[0]}", "Content-Type": "image/jpeg"}

    def send() -> None:
        while not over.wait(0.05):
            status, _, told = world.service.endpoints.score(endpoint.name, out.getvalue(), headers)
            seen.statuses.append(status)
            seen.variants.append(told.get("azureml-model-deployment", ""))

    sending = threading.Thread(target=send)
    sending.start()
    try:
        yield seen
        time.sleep(0.5)
    finally:
        over.set()
        sending.join()


def test_a_canary_takes_over_while_traffic_runs(world: World) -> None:
    change(
        world,
        "rollout: {canary: [30], bake_s: 3.0, shadow_s: 2.0, shadow_share: 1.0}\nendpoint: {confidence: 0.2}",
    )
    with traffic(world) as seen:
        detection(world.azure, "run", "fridge")
    assert seen.count(200) == len(seen.statuses) > 20, seen.statuses
    assert (seen.variants[0], seen.variants[-1]) == ("blue", "green")
    assert world.table(world.azure, "deployed_endpoint")[["slot", "traffic"]].to_numpy().tolist() == [
        ["blue", 0], ["green", 100],
    ]  # fmt: skip
    (rule,) = world.service.endpoints.scaling.values()
    assert rule["properties"]["targetResourceUri"].endswith("/green")
    assert "30" in detection(world.azure, "history", "fridge")


def test_a_version_that_azure_gives_up_with_half_of_the_traffic_goes_back(world: World) -> None:
    change(world, "rollout: {canary: [50], bake_s: 20.0, min_requests: 5}\nendpoint: {confidence: 0.3}")
    (endpoint,) = world.service.endpoints.all.values()
    running = Command({**os.environ, **world.azure}, "run", "fridge")
    with traffic(world) as seen:
        ends = time.monotonic() + 300
        while not endpoint.traffic.get("blue"):
            assert running.poll() is None, running.end()
            assert time.monotonic() < ends
            time.sleep(0.05)
        endpoint.deployments["blue"].state = "Failed"
        code, told = running.end()
    assert code != 0, told
    assert "slot blue is failed" in told
    assert {name: share for name, share in endpoint.traffic.items() if share} == {"green": 100}
    assert seen.variants[-1] == "green"


def test_an_endpoint_that_is_stopped_leaves_nothing_that_costs(world: World) -> None:
    detection(world.azure, "stop", "fridge")
    assert not world.service.endpoints.all
    assert not world.service.endpoints.scaling

"""The three platforms at once, in one Dagster: a detector on each, taught by the same footage, by its file alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from dagster import AssetKey, DagsterInstance
from e2e import shows
from e2e.shows import comparable, detection
from e2e.test_aws import PARTITIONED, project, sagemaker_caller
from e2e.test_azure import azureml_caller
from fakes import azureml, blob, certificates, s3, sagemaker
from forked import Command
from project import write_detector

from resources import tables
from resources.storage import Storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CLOUDS = {"fridge": "azure", "surgical": "aws"}
DETECTORS = {**CLOUDS, "shelf": "local"}
STAGES = [
    *("raw_videos", "extracted_frames", "annotations", "detection_dataset"),
    *("trained_weights", "evaluation", "registered_model", "deployed_endpoint"),
]


@dataclass
class World:
    """A project with a detector on each platform, the two in clouds taken all the way, side by side."""

    env: Mapping[str, str]
    sagemaker: sagemaker.SageMaker
    azureml: azureml.AzureML

    def lake(self, detector: str) -> Storage:
        """A detector's part of its own lake."""
        return Storage(root=self.env[f"DETECTION_{DETECTORS[detector].upper()}_LAKE"], prefix=detector)

    def table(self, detector: str, asset: str) -> pd.DataFrame:
        """An asset's table, as its lake has it."""
        with DagsterInstance.get() as instance:
            videos = list(instance.get_dynamic_partitions(f"{detector}_videos"))
        return tables.read(self.lake(detector), asset, videos if asset in PARTITIONED else None)


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    s3_server: str,
    sagemaker_service: sagemaker.SageMaker,
    blob_server: str,
    certificate: certificates.Certificate,
    azureml_service: azureml.AzureML,
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("platforms")
    sagemaker_service.jobs.clear()
    azureml_service.jobs.all.clear()
    home = folder / "home"
    env = {
        **project(home),
        **s3.environment(s3_server),
        **sagemaker_service.settings,
        **blob.environment(blob_server, certificate),
        **azureml_service.settings,
        "DETECTION_LOCAL_LAKE": str(home / "lake"),
        "DETECTION_AWS_LAKE": f"s3://{s3.BUCKET}/{folder.name}",
        "DETECTION_AZURE_LAKE": f"az://{blob.CONTAINER}/{folder.name}",
        "DETECTION_POLL_S": "0.5",
        "DETECTION_REPORT_S": "0.3",
    }
    for detector, platform in DETECTORS.items():
        file = write_detector(home, detector, epochs=2)
        file.write_text(f"platform: {platform}\n{file.read_text()}")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        made = World(env, sagemaker_service, azureml_service)
        detection(env, "sample", "fridge", "--clips", "4")
        footage = made.lake("fridge")
        for item in footage.list(""):
            for detector in ("surgical", "shelf"):
                made.lake(detector).put(item.key, footage.get(item.key))
        running = {name: Command({**os.environ, **env}, "run", name) for name in CLOUDS}
        detection(env, "run", "shelf", "--until", "detection_dataset")
        for name, command in running.items():
            code, told = command.end()
            assert code == 0, f"{name}: {told}"
        try:
            yield made
        finally:
            detection(env, "stop")
            sagemaker_service.endpoints.clear()


@pytest.mark.parametrize("detector", CLOUDS)
def test_both_are_taken_all_the_way_in_one_dagster(world: World, detector: str) -> None:
    with DagsterInstance.get() as instance:
        for stage in STAGES:
            assert instance.get_latest_materialization_event(AssetKey([detector, stage])), stage
    assert world.table(detector, "deployed_endpoint")[["traffic", "state"]].to_numpy().tolist() == [[100, "ready"]]
    assert "stale" not in detection(world.env, "status", detector)


def test_the_tables_are_the_same_on_all_three(world: World) -> None:
    for asset in ("extracted_frames", "annotations", "detection_dataset"):
        here, *there = (comparable(world.table(detector, asset)) for detector in ("shelf", *CLOUDS))
        for other in there:
            pd.testing.assert_frame_equal(here, other)
    versions = {name: world.table(name, "detection_dataset")["dataset_version"].unique().tolist() for name in DETECTORS}
    assert len({tuple(found) for found in versions.values()}) == 1, versions


def test_the_same_data_teaches_the_same_weights(world: World) -> None:
    digests = {detector: world.table(detector, "trained_weights")["sha256"].iloc[0] for detector in CLOUDS}
    assert digests["fridge"] == digests["surgical"]


def test_nothing_is_shared(world: World) -> None:
    """Each lake, service and registry has what is of its own detector, and not a word of the other."""
    keys = {detector: {item.key for item in world.lake(detector).list("")} for detector in CLOUDS}
    assert all(keys.values())
    for detector, other in (("fridge", "surgical"), ("surgical", "fridge")):
        place = world.env[f"DETECTION_{CLOUDS[detector].upper()}_LAKE"]
        assert {item.key.split("/")[0] for item in Storage(root=place, prefix="").list("")} == {detector}
        assert not list(world.lake(detector).list(other))
    assert {job.name.split("-")[0] for job in world.sagemaker.jobs.values()} == {"surgical"}
    assert {job.name.split("-")[0] for job in world.azureml.jobs} == {"fridge"}
    assert {name.split("-")[1] for name in world.sagemaker.endpoints.endpoints} <= {"surgical"}
    asked = "\n".join(str(job.asked) for job in world.sagemaker.jobs.values())
    assert blob.ACCOUNT not in asked
    assert world.azureml.secret not in asked
    told = "\n".join(str(job.asked) for job in world.azureml.jobs)
    assert "AWS_" not in told
    assert blob.KEY not in told
    assert f"s3://{s3.BUCKET}" not in told


def test_a_canary_takes_over_while_traffic_runs_and_goes_back_on_both(world: World) -> None:
    asks = {
        "fridge": azureml_caller(world.azureml, "fridge"),
        "surgical": sagemaker_caller(world.sagemaker, "surgical"),
    }
    shows.takes_over_and_goes_back(world.env, asks)
    for detector in CLOUDS:
        assert world.table(detector, "deployed_endpoint")["slot"].iloc[-1] in ("blue", "green")


@pytest.mark.parametrize(("detector", "machines"), [("fridge", "Standard_"), ("surgical", "ml.")])
def test_each_asset_says_what_its_jobs_cost(world: World, detector: str, machines: str) -> None:
    shows.costs(world.env, detector, machines)


def test_one_stops_and_the_other_goes_on(world: World) -> None:
    before = world.table("fridge", "deployed_endpoint")
    detection(world.env, "stop", "surgical")
    assert not world.sagemaker.endpoints.endpoints
    assert "stale" not in detection(world.env, "status", "fridge")
    pd.testing.assert_frame_equal(world.table("fridge", "deployed_endpoint"), before)


def test_no_secret_of_either_cloud_lies_in_the_project(world: World) -> None:
    for secret in (blob.KEY, world.azureml.secret):
        for path in Path(world.env["DETECTION_HOME"]).rglob("*"):
            assert not path.is_file() or secret.encode() not in path.read_bytes(), path

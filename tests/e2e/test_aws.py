"""The whole graph with the lake on S3 and its programs as SageMaker jobs, by nothing but the environment."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from dagster import DagsterInstance
from e2e import shows
from e2e.shows import detection
from fakes import s3, sagemaker
from fakes.iam import right_for
from fakes.s3 import Between
from forked import Command
from project import make_home, write_detector

from detection_assets import definitions, detector_file
from resources import amazon, tables
from resources.storage import Storage

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
TEMPLATE = Path(__file__).parents[2] / "infra" / "aws" / "template.yaml"
PARTITIONED = ("raw_videos", "extracted_frames", "annotations")


@dataclass
class World:
    """Two projects with the same detector and footage, one on this machine and one on AWS."""

    service: sagemaker.SageMaker
    local: Mapping[str, str]
    aws: Mapping[str, str]
    switched: Mapping[str, str]
    asked_by_dagster: Between
    asked_by_jobs: Between

    def table(self, env: Mapping[str, str], asset: str) -> pd.DataFrame:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in env.items():
                patch.setenv(name, value)
            storage = Storage(root=env.get("DETECTION_LAKE", f"{env['DETECTION_HOME']}/lake"), prefix="fridge")
            with DagsterInstance.get() as instance:
                videos = list(instance.get_dynamic_partitions("fridge_videos"))
            return tables.read(storage, asset, videos if asset in PARTITIONED else None)

    def jobs(self, kind: str, program: str) -> list[sagemaker.FakeJob]:
        found = [job for job in self.service.jobs.values() if job.kind == kind]
        return [job for job in found if f"-{program}-" in job.name]


def kill_in_training(env: Mapping[str, str], service: sagemaker.SageMaker) -> None:
    """Runs the detector until a job of it trains, and kills the run."""
    running = Command({**os.environ, **env}, "run", "fridge")
    ends = time.monotonic() + 300
    while not any(job.kind == "TrainingJob" and job.secondary == "Training" for job in list(service.jobs.values())):
        assert running.poll() is None, running.end()
        assert time.monotonic() < ends
        time.sleep(0.05)
    running.kill()
    running.end()


def project(folder: Path) -> dict[str, str]:
    env: dict[str, str] = {}
    home = make_home(folder, env.__setitem__)
    write_detector(home, "fridge", epochs=3)
    return env


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, s3_server: str, sagemaker_service: sagemaker.SageMaker
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("aws")
    sagemaker_service.jobs.clear()
    sagemaker_service.calls.clear()
    with ExitStack() as opened:
        by_dagster, by_jobs = Between(), Between()
        settings = s3.environment(opened.enter_context(by_dagster.open(s3_server)))
        sagemaker_service.environment = s3.environment(opened.enter_context(by_jobs.open(s3_server)))
        servers = sagemaker_service.endpoints.environment
        opened.callback(servers.update, s3.environment(s3_server))
        servers.update(sagemaker_service.environment)
        opened.callback(setattr, sagemaker_service, "environment", s3.environment(s3_server))
        yield from taken_all_the_way(folder, settings, sagemaker_service, by_dagster, by_jobs)


def taken_all_the_way(
    folder: Path,
    settings: dict[str, str],
    sagemaker_service: sagemaker.SageMaker,
    by_dagster: Between,
    by_jobs: Between,
) -> Iterator[World]:
    settings = {
        **settings,
        **sagemaker_service.settings,
        "DETECTION_PLATFORM": "aws",
        "DETECTION_LAKE": f"s3://{s3.BUCKET}/{folder.name}",
        "DETECTION_POLL_S": "0.5",
        "DETECTION_REPORT_S": "0.3",
        "DETECTION_AWS_ENDPOINT_MOST": "2",
        "DETECTION_AWS_PROCESSING_INSTANCES": "2",
    }
    local = project(folder / "local")
    aws = {**project(folder / "aws"), **settings}
    switched = {**local, **settings, "DETECTION_LAKE": f"s3://{s3.BUCKET}/{folder.name}-moved"}
    detection(local, "sample", "fridge", "--clips", "4")
    # The same footage, not rendered twice.
    detection({**switched, "DETECTION_LAKE": settings["DETECTION_LAKE"]}, "push", "fridge")
    detection(local, "run", "fridge", "--until", "detection_dataset")
    kill_in_training(aws, sagemaker_service)
    detection(aws, "run", "fridge")
    try:
        yield World(sagemaker_service, local, aws, switched, by_dagster, by_jobs)
    finally:
        detection(aws, "stop")
        sagemaker_service.endpoints.clear()


def test_the_tables_are_the_same_as_on_one_machine(world: World) -> None:
    for asset in ("extracted_frames", "annotations", "detection_dataset"):
        here, there = (shows.comparable(world.table(env, asset)) for env in (world.local, world.aws))
        pd.testing.assert_frame_equal(here, there)


def test_each_program_was_one_job_although_its_run_was_killed(world: World) -> None:
    (training,) = world.jobs("TrainingJob", "train")
    (evaluation,) = world.jobs("ProcessingJob", "evaluate")
    extraction = world.jobs("ProcessingJob", "extract")
    assert {job.status for job in (training, evaluation, *extraction)} == {"Completed"}
    first, second = extraction  # which is what was set
    assert second.began < (first.ended or 0), "side by side"
    assert world.table(world.aws, "trained_weights")["cost_usd"].iloc[0] > 0
    assert world.table(world.aws, "registered_model")["registry"].tolist() == ["SageMakerRegistry"]
    assert world.table(world.aws, "deployed_endpoint")[["traffic", "state"]].to_numpy().tolist() == [[100, "ready"]]


def test_each_asset_says_what_its_jobs_cost(world: World) -> None:
    shows.costs(world.aws, "fridge", "ml.")


def test_a_second_run_has_nothing_to_do(world: World) -> None:
    before = len(world.service.jobs)
    assert "nothing to do" in detection(world.aws, "run", "fridge")
    assert len(world.service.jobs) == before


def test_a_detector_that_is_pushed_goes_on_there_and_comes_back(world: World) -> None:
    shows.moves(world.local, world.switched, "fridge", lambda: len(world.service.jobs))


def test_a_canary_takes_over_while_traffic_runs_and_goes_back(world: World) -> None:
    assert list(world.service.endpoints.endpoints) == ["detection-fridge"]
    for kept in (world.service.endpoints.models, world.service.endpoints.configs):
        kept["detection-fridge-blue-00000000"] = (0.0, {"ProductionVariants": []})  # what an early change has left
    shows.takes_over_and_goes_back(world.aws, {"fridge": sagemaker_caller(world.service, "fridge")})
    detection(world.aws, "stop", "fridge")
    assert not world.service.endpoints.endpoints


def sagemaker_caller(service: sagemaker.SageMaker, detector: str) -> shows.Ask:
    """Asks the endpoint of a detector."""

    def ask(body: bytes, headers: Mapping[str, str]) -> tuple[int, str]:
        status, _, told = service.endpoints.invoke(f"detection-{detector}", body, dict(headers))
        return status, told.get("x-Amzn-Invoked-Production-Variant", "")

    return ask


UNUSED = {
    "sagemaker:StopTrainingJob": "a run that is cancelled stops its job; tests/contract/test_compute_sagemaker.py does",
    "sagemaker:StopProcessingJob": "as of a training",
    "s3:AbortMultipartUpload": "a long upload that fails half-way is taken back",
}
"""Rights that this run had no use for, and what they are for."""
UNUSED_BY_JOBS = {
    "s3:AbortMultipartUpload": "as above",
    "s3:GetBucketLocation": "Ground Truth looks in which region pictures are",
    "s3:DeleteObject": "captured requests that are past keeping; tests/serving/test_serving_capture.py",
}


def hear_of_a_video(world: World) -> list[str | None]:
    """Lets the sensor of that project take a message from a queue, and end it; what its ticks say."""
    queue = "detection-{detector}-videos"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in world.aws.items():
            patch.setenv(name, value)
        sqs = amazon.client("sqs")
        # Whoever deploys makes the queue, and S3 sends: neither is among the rights of who takes.
        before = len(world.asked_by_dagster.seen)
        url = sqs.create_queue(QueueName=queue.replace("{detector}", "fridge"))["QueueUrl"]
        sqs.send_message(QueueUrl=url, MessageBody='{"Event": "s3:TestEvent"}')
        del world.asked_by_dagster.seen[before:]
        patch.setenv("DETECTION_AWS_QUEUE", url.replace("fridge", "{detector}"))
        defs, cursor, said = definitions.build(detector_file.find("fridge")), None, []
        given = {name: (defs.resources or {})[name] for name in ("storage", "arrivals")}
        with DagsterInstance.get() as instance:
            for _ in range(3):  # the first one lists, the second takes, the third ends
                with dg.build_sensor_context(instance, cursor=cursor, resources=given, definitions=defs) as context:
                    data = defs.resolve_sensor_def("fridge_new_videos").evaluate_tick(context)
                cursor = data.cursor
                said.append(data.skip_message)
    return said


def test_the_rights_are_those_that_are_used(world: World) -> None:
    assert hear_of_a_video(world) == ["nothing new"] * 3
    # This run tunes nothing, predicts no batch, and hands no pictures to people; tests/contract/test_tune_sagemaker.py,
    # test_batch.py and test_labeling_ground_truth.py do, and compare these.
    parts = ("Tuning", "Batch", "Labeling", "LabelingTeam", "LabelingPictures")
    elsewhere = {right for part in parts for right in rights_of("DagsterPolicy", part)}
    rights = rights_of("DagsterPolicy") - (elsewhere - {"sagemaker:AddTags"})
    used = {right_for(asked) for asked in world.asked_by_dagster.seen}
    used |= {f"sagemaker:{operation}" for operation in world.service.calls}
    used |= {"iam:PassRole"} if any("RoleArn" in job.asked for job in world.service.jobs.values()) else set()
    assert used <= rights, "what is done is allowed"
    assert rights - used == UNUSED.keys(), "and hardly more"
    by_jobs = {right_for(asked) for asked in world.asked_by_jobs.seen}
    # Its image and its log are the service's business, which asks in the role's name.
    own = {right for right in rights_of("JobsRole") if right.startswith("s3:")}
    assert by_jobs <= own
    assert own - by_jobs <= UNUSED_BY_JOBS.keys()


def rights_of(resource: str, statement: str | None = None) -> set[str]:
    """The actions that a role or a policy of the template allows, in one of its statements or in all."""
    from cfnlint.decode.cfn_yaml import load

    properties = load(str(TEMPLATE))["Resources"][resource]["Properties"]
    documents = [properties["PolicyDocument"]] if "PolicyDocument" in properties else []
    documents += [policy["PolicyDocument"] for policy in properties.get("Policies", [])]
    found = [one for document in documents for one in document["Statement"] if statement in (None, one["Sid"])]
    actions = [one["Action"] for one in found]
    return {action for each in actions for action in ([each] if isinstance(each, str) else each)}


def test_settings_that_are_missing_are_named(world: World) -> None:
    for name, remedy in (("DETECTION_LAKE", "s3://my-bucket"), ("DETECTION_AWS_ROLE", "ARN of the role")):
        told = detection({**world.aws, name: ""}, "run", "fridge", code=2)
        assert name in told
        assert remedy in told
        assert "Traceback" not in told


def test_a_lake_that_is_not_there_is_told_in_words(world: World) -> None:
    told = detection({**world.aws, "DETECTION_LAKE": "s3://no-such-bucket-at-all/lake"}, "status", "fridge", code=2)
    assert "there is no such bucket" in told
    assert "Traceback" not in told

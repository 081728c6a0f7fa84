"""A registered model over many pictures: the same table wherever it comes from, and what only a service's job does."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from contract.in_a_run import in_a_run
from dagster._core.errors import DagsterExecutionInterruptedError
from e2e.test_aws import rights_of
from fakes import sagemaker
from monitored import FRAMES_A_VIDEO, NAME, World, check, metadata
from networks import CLASSES, PLACE, SIZE, network
from PIL import Image

from detection_assets.domain import layout
from detection_assets.serving import images
from detection_assets.serving.scoring import Limits
from resources.batch.aws import AT_ONCE
from resources.batch.base import LONGEST, ManagedBatch
from resources.compute.base import Input, Step, StepFailed, StepResult, TookTooLong
from resources.registry.base import ModelVersion
from resources.storage import Storage

PLATFORMS = ["local", "aws", "azure"]
ROOT = Path(__file__).parents[2]
COLORS = {"red.png": (250, 0, 20), "blue.jpg": (20, 0, 250), "black.png": (0, 0, 0), "dark.png": (120, 0, 10)}
SETTINGS = {"confidence": 0.25, "iou": 0.7, "max_det": 300}
WORKER = """
import sys
import dagster as dg
from contract.in_a_run import in_a_run
from contract.test_batch import model_in, steps
from resources import profiles
with dg.build_resources(profiles.PROFILES["aws"]("tiny", host="127.0.0.1", port=0)) as opened:
    in_a_run(lambda context: opened.batch.run(context, steps(), model_in(opened.storage)))
"""


def picture(name: str) -> bytes:
    out = io.BytesIO()
    kind = "PNG" if name.endswith(".png") else "JPEG"
    Image.new("RGB", (SIZE, SIZE), COLORS[name]).save(out, kind)
    return out.getvalue()


@functools.cache
def digest() -> str:
    """The digest of the one network."""
    with tempfile.TemporaryDirectory() as scratch:
        return hashlib.sha256((network(Path(scratch) / "model") / "best.onnx").read_bytes()).hexdigest()


def step(video: str, *names: str, version: str = "v1", **changes: Any) -> Step:
    """A step as the asset `batch_predictions` makes it."""
    files = [f"{video}/v1/made/{name}" for name in names]
    wanted = {
        "program": "predict",
        "version": f"{video}-{version}",
        "inputs": {"frames": Input(layout.FRAMES, files), "model": Input("weights/w1", ["best.onnx"])},
        "outputs": {video: layout.predictions(video, version)},
        "params": {
            "videos": [
                {
                    "video": video,
                    "out": video,
                    "frames": [[f"{video}#{n}", f] for n, f in zip(names, files, strict=True)],
                }
            ],
            "settings": SETTINGS,
            "sha256": digest(),
            "classes": CLASSES,
        },
        "hardware": "cpu",
    }
    return Step(**{**wanted, **changes})


def steps(**changes: Any) -> list[Step]:
    return [step("a", "red.png", "blue.jpg", **changes), step("b", "black.png", **changes)]


def model_in(storage: Any) -> ModelVersion:
    onnx = storage.get("weights/w1/best.onnx")
    return ModelVersion("tiny", "7", hashlib.sha256(onnx).hexdigest(), "weights/w1/best.onnx")


@pytest.fixture
def world(platform: Any, tmp_path: Path) -> Any:
    """A platform whose lake has a model and the frames of two videos."""
    platform.storage.put("weights/w1/best.onnx", (network(tmp_path / "model") / "best.onnx").read_bytes())
    for name in COLORS:
        platform.storage.put(f"frames/{'b' if name == 'black.png' else 'a'}/v1/made/{name}", picture(name))
    return platform


@pytest.fixture
def service(sagemaker_service: sagemaker.SageMaker) -> Iterator[sagemaker.SageMaker]:
    sagemaker_service.transform.clear()
    sagemaker_service.calls.clear()
    yield sagemaker_service
    sagemaker_service.transform.clear()


def run(world: Any, wanted: list[Step]) -> list[StepResult]:
    return in_a_run(lambda context: world.batch.run(context, wanted, model_in(world.storage)))


def table(world: Any, result: StepResult) -> pd.DataFrame:
    ((_, published),) = result.outputs.items()
    return pd.read_parquet(io.BytesIO(world.storage.get(published.key("predictions.parquet"))))


def summary(world: Any, result: StepResult) -> dict[str, Any]:
    ((_, published),) = result.outputs.items()
    return json.loads(world.storage.get(published.key("summary.json")))


def until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, what
        time.sleep(0.05)


def test_the_table_is_the_same_wherever_it_comes_from(world: Any) -> None:
    first, second = run(world, steps())
    found = table(world, first)
    assert found["frame"].tolist() == ["a#red.png", "a#blue.jpg"]
    assert found["class"].tolist() == CLASSES
    np.testing.assert_allclose(found[["x1", "y1", "x2", "y2"]], [PLACE[0], PLACE[1]], atol=0.01)
    np.testing.assert_allclose(found["confidence"], [0.9 * 250 / 255] * 2, atol=0.01)
    empty = table(world, second)
    assert empty["class"].tolist() == [None]
    assert (empty.dtypes == found.dtypes).all()
    assert summary(world, first)["boxes"] == 2
    assert summary(world, first)["sha256"] == digest()
    assert [name for name in first.outputs["a"].files if name.startswith("preview/")] == [
        "preview/01.jpg", "preview/02.jpg",
    ]  # fmt: skip
    assert not first.reused
    again = run(world, steps())
    assert [one.reused for one in again] == [True, True]
    assert [(one.instance, one.cost_usd) for one in again] == [(one.instance, one.cost_usd) for one in (first, second)]
    assert not list(world.storage.list("jobs")), "nothing is left in the lake but what was published"


def test_a_picture_that_cannot_be_looked_at_loses_itself_alone(world: Any) -> None:
    world.storage.put("frames/a/v1/made/torn.png", picture("red.png")[:40])
    world.storage.put("frames/a/v1/made/empty.png", b"")
    one = step("a", "red.png", "torn.png", "gone.png", "empty.png", "dark.png")
    one = replace(one, params={**one.params, "settings": {**SETTINGS, "confidence": 0.5}})
    (result,) = run(world, [one])
    found = table(world, result)
    assert found["frame"].tolist() == ["a#red.png", "a#dark.png"]
    assert found["class"].tolist() == [CLASSES[0], None], "the threshold is the step's"
    problems = summary(world, result)["problems"]
    assert [problem.split(",")[0].rpartition("/")[2] for problem in problems] == ["torn.png", "gone.png", "empty.png"]
    with pytest.raises(StepFailed, match=r"gone\.png"):
        run(world, [step("a", "gone.png", version="v2")])


@pytest.mark.platforms("aws")
def test_what_is_asked_is_what_the_server_takes(platform: Any) -> None:
    assert LONGEST == images.MAX_BYTES
    assert Limits().queue + 1 == AT_ONCE


@pytest.mark.platforms("aws")
def test_a_step_that_is_to_run_here_is_no_job(world: Any, service: sagemaker.SageMaker) -> None:
    (result,) = run(world, [step("a", "red.png", hardware="here")])
    assert result.instance == "here"
    assert not service.transform.jobs


@pytest.mark.platforms("aws")
def test_a_run_that_is_killed_finds_its_job_again(
    world: Any, service: sagemaker.SageMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTION_AWS_BATCH_INSTANCES", "2")
    service.transform.pause = 1.0
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    worker = subprocess.Popen([sys.executable, "-c", WORKER], env=env, cwd=ROOT)
    try:
        until(lambda: any(job.started for job in service.transform.jobs.values()), "the job asks")
    finally:
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
    with monkeypatch.context() as patch:
        patch.setattr(type(world.batch), "answers", lambda *_: {"a/v1/made/red.png": "nowhere"})
        with pytest.raises(StepFailed, match=r"2 of its 3 answers are not in the lake.*blue\.jpg; delete s3://"):
            run(world, steps())
    assert world.storage.published(layout.predictions("a", "v1")) is None
    first, second = run(world, steps())
    (job,) = service.transform.jobs.values()
    assert service.calls.count("CreateTransformJob") == 1
    assert first.outputs["a"].notes["batch"]["job"] == job.name
    assert first.instance == second.instance == "2 x ml.c5.xlarge"
    assert first.seconds == pytest.approx(2 * second.seconds, abs=0.01), "by their pictures"
    assert job.ended is not None
    assert job.started is not None
    assert first.seconds + second.seconds == pytest.approx(job.ended - job.started, abs=0.01)
    assert first.cost_usd == pytest.approx(first.seconds * 0.204 / 3600, rel=0.05)
    assert not service.endpoints.models, "SageMaker's model goes with its job"


@pytest.mark.platforms("aws")
def test_a_job_is_stopped_with_its_run_and_made_again_by_the_next(
    world: Any, service: sagemaker.SageMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, service.transform.pause = ManagedBatch.finished, 30.0
    seen = []

    def cancelled(batch: Any, handle: Any) -> bool:
        if next(iter(service.transform.jobs.values())).started:
            seen.append(handle.job.name)
            raise DagsterExecutionInterruptedError
        return look(batch, handle)

    with monkeypatch.context() as patch:
        patch.setattr(ManagedBatch, "finished", cancelled)
        with pytest.raises(DagsterExecutionInterruptedError):
            run(world, steps())
    (job,) = service.transform.jobs.values()
    assert (job.name, job.status) == (seen[0], "Stopped")
    with pytest.raises(TookTooLong, match="after its limit of 1 s"):
        run(world, steps(timeout_s=1))
    assert [job.status for job in service.transform.jobs.values()] == ["Stopped"] * 2
    assert not service.endpoints.models
    assert world.storage.published(layout.predictions("a", "v1")) is None
    assert [name[-2:] for name in service.transform.jobs] == ["-1", "-2"], "the next run is another attempt"
    used = {f"sagemaker:{operation}" for operation in service.calls if "TransformJob" in operation}
    assert used | {"sagemaker:AddTags"} == rights_of("DagsterPolicy", "Batch"), "no right too few, and none too many"


@pytest.mark.platforms("aws")
def test_a_job_that_fails_says_why_and_the_next_run_tries_again(
    world: Any, service: sagemaker.SageMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = world.storage.get("weights/w1/best.onnx")
    world.storage.put("weights/w1/best.onnx", b"no network")
    with monkeypatch.context() as patch:
        # As if the run had been killed between SageMaker's model and the job.
        patch.setattr(type(world.batch), "forget", lambda *_: None)
        patch.setitem(sagemaker.INSTANCES, "ml.c5.xlarge", 0)
        with pytest.raises(StepFailed, match=r"ml\.c5\.xlarge for transform job usage.*Service Quotas"):
            run(world, steps())
    assert len(service.endpoints.models) == 1
    with pytest.raises(StepFailed, match=r"(?s)not an ONNX model.*did not respond to /ping.*#/transform-jobs/tiny-"):
        run(world, steps())
    assert not service.endpoints.models
    world.storage.put("weights/w1/best.onnx", good)
    run(world, steps())
    assert [job.status for job in service.transform.jobs.values()] == ["Failed", "Completed"]


@pytest.mark.platforms("aws")
def test_refusals_say_what_to_do(world: Any, service: sagemaker.SageMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = ModelVersion("tiny", "7", "0" * 64, "weights/w1/best.onnx")
    with pytest.raises(StepFailed, match="not the expected"):
        in_a_run(lambda context: world.batch.run(context, steps(), changed))
    monkeypatch.setattr(service.endpoints, "role", "arn:aws:iam::123456789012:role/another")
    with pytest.raises(StepFailed, match=r"Could not assume role.*DETECTION_AWS_ROLE"):
        run(world, steps())
    assert not service.transform.jobs
    assert not service.endpoints.models


@pytest.mark.platforms("aws")
def test_the_asset_is_made_by_such_a_job(
    platform: Any, service: sagemaker.SageMaker, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTION_PLATFORM", "aws")
    video = "store-0/clip.mp4"
    monitored = World(home)
    monitored.storage = Storage(root=os.environ["DETECTION_LAKE"], prefix=NAME)
    version = monitored.register()
    monitored.write_detector(evaluation={"hardware": "cpu"})
    result = monitored.predict(video)
    (job,) = service.transform.jobs.values()
    assert job.status == "Completed"
    assert metadata(result, "batch_predictions")["instance"] == "ml.c5.xlarge"
    assert metadata(result, "batch_predictions")["cost_usd"] > 0
    assert check(result, "every_kept_frame").passed
    found = monitored.table("batch_predictions", video)
    assert found["frame"].nunique() == FRAMES_A_VIDEO
    assert set(found["model_version"]) == {version}
    for frame, rows in found.groupby("frame"):
        expected = monitored.boxes(monitored.frames[str(frame)])
        boxes = rows[rows["class"].notna()]
        assert list(boxes["class"]) == [box["class"] for box in expected]
        sides = ["confidence", "x1", "y1", "x2", "y2"]
        np.testing.assert_allclose(boxes[sides], [[box[side] for side in sides] for box in expected], atol=0.01)

"""A registered model over many pictures: the same table wherever it comes from, and what every service's job does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from contract import a_batch
from contract.a_batch import (
    COLORS,
    MODEL,
    OnAzure,
    OnSageMaker,
    Service,
    digest,
    run,
    step,
    steps,
    summary,
    table,
    until,
)
from contract.in_a_run import in_a_run
from dagster._core.errors import DagsterExecutionInterruptedError
from monitored import FRAMES_A_VIDEO, NAME, World, check, metadata
from networks import CLASSES, PLACE, network

from detection_assets.domain import layout
from detection_assets.serving import images
from resources.batch.base import LONGEST, ManagedBatch
from resources.compute.base import StepFailed, TookTooLong
from resources.registry.base import ModelVersion
from resources.storage import Storage

PLATFORMS = ["local", "aws", "azure"]
ROOT = Path(__file__).parents[2]
SETTINGS = a_batch.SETTINGS
WORKER = """
import sys
import dagster as dg
from contract.in_a_run import in_a_run
from contract.a_batch import model_in, steps
from resources import profiles
with dg.build_resources(profiles.PROFILES[sys.argv[1]]("tiny", host="127.0.0.1", port=0)) as opened:
    in_a_run(lambda context: opened.batch.run(context, steps(), model_in(opened.storage)))
"""
ON_A_SERVICE = pytest.mark.platforms("aws", "azure")


@pytest.fixture
def world(platform: Any, tmp_path: Path) -> Any:
    """A platform whose lake has a model and the frames of two videos."""
    platform.storage.put(MODEL, (network(tmp_path / "model") / "best.onnx").read_bytes())
    for name in COLORS:
        platform.storage.put(f"frames/{'b' if name == 'black.png' else 'a'}/v1/made/{name}", a_batch.picture(name))
    return platform


@pytest.fixture
def batch_service(platform: Any, request: pytest.FixtureRequest) -> Iterator[Service]:
    """The service that has the platform's jobs, without any yet."""
    if request.node.callspec.params["platform"] == "aws":
        fake = request.getfixturevalue("sagemaker_service")
        jobs, service = fake.transform, OnSageMaker(fake)
    else:
        fake = request.getfixturevalue("azureml_service")
        jobs, service = fake.batch, OnAzure(fake)
    jobs.clear()
    fake.calls.clear()
    yield service
    jobs.clear()


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
    world.storage.put("frames/a/v1/made/torn.png", a_batch.picture("red.png")[:40])
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


@ON_A_SERVICE
def test_what_is_asked_is_what_the_server_takes(platform: Any) -> None:
    assert LONGEST == images.MAX_BYTES


@ON_A_SERVICE
def test_a_step_that_is_to_run_here_is_no_job(world: Any, batch_service: Service) -> None:
    (result,) = run(world, [step("a", "red.png", hardware="here")])
    assert result.instance == "here"
    assert not batch_service.states()


@ON_A_SERVICE
def test_a_run_that_is_killed_finds_its_job_again(
    world: Any, batch_service: Service, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(batch_service.instances, "2")
    world = SimpleNamespace(batch=world.batch.model_copy(update={"count": 2}), storage=world.storage)
    batch_service.slow(1.0)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    profile = request.node.callspec.params["platform"]
    worker = subprocess.Popen([sys.executable, "-c", WORKER, profile], env=env, cwd=ROOT)
    try:
        until(batch_service.at_work, "the job asks")
    finally:
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
    with monkeypatch.context() as patch:
        patch.setattr(type(world.batch), "answers", lambda *_: {"a/v1/made/red.png": "nowhere"})
        with pytest.raises(StepFailed, match=r"2 of its 3 answers are not in the lake.*blue\.jpg; delete \w+://"):
            run(world, steps())
    assert world.storage.published(layout.predictions("a", "v1")) is None
    first, second = run(world, steps())
    assert batch_service.states() == ["Completed"], "it was asked for once"
    assert first.outputs["a"].notes["batch"]["job"].startswith("tiny-predict-")
    assert first.instance == second.instance == f"2 x {batch_service.machine}"
    assert first.seconds == pytest.approx(2 * second.seconds, abs=0.01), "by their pictures"
    assert first.seconds + second.seconds == pytest.approx(batch_service.seconds(), abs=1.1)
    assert first.cost_usd == pytest.approx(2 * first.seconds * batch_service.hourly / 3600, rel=0.05)
    assert not batch_service.left()


@ON_A_SERVICE
def test_a_job_is_stopped_with_its_run_and_made_again_by_the_next(
    world: Any, batch_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, seen = ManagedBatch.finished, []
    batch_service.slow(30.0)

    def cancelled(batch: Any, handle: Any) -> bool:
        if batch_service.at_work():
            seen.append(handle.job.name)
            raise DagsterExecutionInterruptedError
        return look(batch, handle)

    with monkeypatch.context() as patch:
        patch.setattr(ManagedBatch, "finished", cancelled)
        with pytest.raises(DagsterExecutionInterruptedError):
            run(world, steps())
    assert batch_service.states() == [batch_service.stopped]
    with pytest.raises(TookTooLong, match="-2: stopped after its limit of 1 s"):
        run(world, steps(timeout_s=1))
    assert batch_service.states() == [batch_service.stopped] * 2, "the next run is another attempt"
    assert seen[0].endswith("-1")
    assert not batch_service.left()
    assert world.storage.published(layout.predictions("a", "v1")) is None


@ON_A_SERVICE
def test_a_job_that_fails_says_why_and_the_next_run_tries_again(world: Any, batch_service: Service) -> None:
    good = world.storage.get(MODEL)
    world.storage.put(MODEL, b"no network")
    with pytest.raises(StepFailed, match=r"(?s)not an ONNX model.*" + batch_service.page):
        run(world, steps())
    assert not batch_service.left()
    world.storage.put(MODEL, good)
    run(world, steps())
    assert batch_service.states() == ["Failed", "Completed"]


@ON_A_SERVICE
def test_a_model_that_was_changed_is_refused(world: Any, batch_service: Service) -> None:
    changed = ModelVersion("tiny", "7", "0" * 64, MODEL)
    with pytest.raises(StepFailed, match="not the expected"):
        in_a_run(lambda context: world.batch.run(context, steps(), changed))
    assert not batch_service.states()
    assert not batch_service.left()


@ON_A_SERVICE
def test_the_asset_is_made_by_such_a_job(
    platform: Any, batch_service: Service, request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTION_PLATFORM", request.node.callspec.params["platform"])
    video = "store-0/clip.mp4"
    monitored = World(home)
    monitored.storage = Storage(root=os.environ["DETECTION_LAKE"], prefix=NAME)
    version = monitored.register()
    monitored.write_detector(evaluation={"hardware": "cpu"})
    result = monitored.predict(video)
    assert batch_service.states() == ["Completed"]
    assert metadata(result, "batch_predictions")["instance"] == batch_service.machine
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

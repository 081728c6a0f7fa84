"""`detection tune` on AWS as it is used: interrupted, gone on with, taken up by MLflow. Real trainings, of seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from e2e.test_aws import detection, project, rights_of
from fakes import s3, sagemaker
from fakes.iam import right_for
from fakes.s3 import Between
from project import DETECTION

from resources import tables
from resources.storage import Storage

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]
# The file has 0.002 for lr0, which is inside the space: it is tried first.
TUNING = """
tuning:
  trials: 3
  space:
    lr0: {low: 0.001, high: 0.01, log: true}
    close_mosaic: {low: 1, high: 10}
    optimizer: {choices: [AdamW, SGD]}
"""


def test_a_tuning_that_is_interrupted_goes_on_with_no_more_rights_than_it_has(
    tmp_path: Path, s3_server: str, sagemaker_service: sagemaker.SageMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, asked = sagemaker_service, Between()
    service.jobs.clear()
    service.tuning.jobs.clear()
    with ExitStack() as opened:
        env = {
            **project(tmp_path / "home"),
            **s3.environment(opened.enter_context(asked.open(s3_server))),
            **service.settings,
            "DETECTION_PLATFORM": "aws",
            "DETECTION_LAKE": f"s3://{s3.BUCKET}/{tmp_path.name}",
            "DETECTION_POLL_S": "0.3",
        }
        prepare(env, tmp_path / "home")
        service.calls.clear()

        def searches() -> bool:
            trials = [trial for job in list(service.tuning.jobs.values()) for trial in job.trials]
            return any(trial.secondary == "Training" for trial in trials)

        interrupted_and_gone_on_with(env, searches, monkeypatch)
    assert {job.status for job in service.tuning.jobs.values()} == {"Stopped", "Completed"}
    used = {f"sagemaker:{operation}" for operation in service.calls}
    assert used | {right_for(one) for one in asked.seen} <= rights_of("DagsterPolicy")


def prepare(env: dict[str, str], home: Path) -> None:
    """A dataset, and a search of three trials."""
    path = home / "detectors" / "fridge.yaml"
    path.write_text(path.read_text().replace("imgsz: 96", "imgsz: 64, lr0: 0.002, optimizer: AdamW") + TUNING)
    detection(env, "sample", "fridge", "--clips", "3")
    detection(env, "run", "fridge", "--until", "detection_dataset")


def interrupted_and_gone_on_with(
    env: dict[str, str], searches: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tunes, is interrupted while the search runs, and tunes on to a whole table."""
    interrupt(env, searches)
    told = detection(env, "tune", "fridge")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    table = tables.read(Storage(root=env["DETECTION_LAKE"], prefix="fridge"), "tuned_hyperparameters")
    values = [json.loads(params) for params in table["params"]]
    assert values[0] == {"lr0": 0.002, "close_mosaic": 10, "optimizer": "AdamW"}, "what the file has comes first"
    assert (table["state"] == "complete").sum() == 3, told
    assert table["best"].sum() == 1
    assert table["mlflow_run"].is_unique
    assert "[3/3] trial" in told


def interrupt(env: dict[str, str], when: Callable[[], bool]) -> None:
    running = subprocess.Popen(
        [DETECTION, "tune", "fridge"], env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    ends = time.monotonic() + 300
    while not when():
        assert running.poll() is None, running.communicate()[0]
        assert time.monotonic() < ends
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=120)
    assert running.returncode != 0

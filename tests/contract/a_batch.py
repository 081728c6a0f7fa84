"""What the contract of batch prediction needs on every platform: pictures, steps, and a look into the service."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from contract.in_a_run import in_a_run
from fakes import azureml, sagemaker
from networks import CLASSES, SIZE, network
from PIL import Image

from detection_assets.domain import layout
from resources.compute.base import Input, Step, StepResult
from resources.registry.base import ModelVersion

COLORS = {"red.png": (250, 0, 20), "blue.jpg": (20, 0, 250), "black.png": (0, 0, 0), "dark.png": (120, 0, 10)}
SETTINGS = {"confidence": 0.25, "iou": 0.7, "max_det": 300}
MODEL = "weights/w1/best.onnx"


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
    return ModelVersion("tiny", "7", hashlib.sha256(storage.get(MODEL)).hexdigest(), MODEL)


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


class Service(ABC):
    """A service's batch jobs, as its stand-in has them.

    Attributes:
        instances: The setting of how many instances share a job.
        machine: What one instance is, unless another is set.
        hourly: Its price in US dollars.
        stopped: The service's word for a job that was.
        page: Part of the address of a job's page.
    """

    instances: str
    machine: str
    hourly: float
    stopped: str
    page: str

    @abstractmethod
    def states(self) -> list[str]:
        """How each job is that was asked for, in their order."""

    @abstractmethod
    def at_work(self) -> bool:
        """Whether a job's machines are running."""

    @abstractmethod
    def seconds(self) -> float:
        """What the one job is charged for, on each of its machines."""

    @abstractmethod
    def slow(self, seconds: float) -> None:
        """Makes each request, or list of pictures, take longer."""

    def left(self) -> list[str]:
        """What it keeps beside its jobs though nobody needs it."""
        return []


class OnSageMaker(Service):
    """Transform jobs."""

    instances, machine, hourly = "DETECTION_AWS_BATCH_INSTANCES", "ml.c5.xlarge", 0.204
    stopped, page = "Stopped", "#/transform-jobs/tiny-"

    def __init__(self, fake: sagemaker.SageMaker) -> None:
        self.fake = fake

    def states(self) -> list[str]:
        return [job.status for job in self.fake.transform.jobs.values()]

    def at_work(self) -> bool:
        return any(job.started for job in self.fake.transform.jobs.values())

    def seconds(self) -> float:
        (job,) = self.fake.transform.jobs.values()
        assert job.ended is not None
        assert job.started is not None
        return job.ended - job.started

    def slow(self, seconds: float) -> None:
        self.fake.transform.pause = seconds

    def left(self) -> list[str]:
        return list(self.fake.endpoints.models)


class OnAzure(Service):
    """Jobs of a batch endpoint."""

    instances, machine, hourly = "DETECTION_AZURE_BATCH_INSTANCES", "Standard_DS3_v2", 0.293
    stopped, page = "Canceled", "https://ml.azure.com/runs/batchjob-"

    def __init__(self, fake: azureml.AzureML) -> None:
        self.fake = fake

    def states(self) -> list[str]:
        return [self.fake.jobs.all[name].status for name in self.fake.batch.asked]

    def at_work(self) -> bool:
        return any(step.started for step in self.steps())

    def seconds(self) -> float:
        (job,) = self.steps()
        assert job.ended is not None
        assert job.started is not None
        return job.ended - job.started

    def slow(self, seconds: float) -> None:
        self.fake.batch.pause = seconds

    def steps(self) -> list[Any]:
        return [job for job in self.fake.jobs if job.parent in self.fake.batch.asked]

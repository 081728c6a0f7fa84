"""A training as a job of a cloud: a small program that counts epochs, so that each case takes seconds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from contract.in_a_run import in_a_run

from detection_assets.domain import layout
from resources.compute import managed
from resources.compute.base import Input, Step

ROOT = Path(__file__).parents[2]
PROGRAM = '''
"""Trains nothing: counts epochs, and keeps how far it is in the checkpoint."""
import json, time
from detection_assets.programs.job import main

def run(job):
    mark = job.checkpoint / "epoch"
    done = int(mark.read_text()) if mark.exists() else 0
    print(f"going on after epoch {done}")
    for epoch in range(done + 1, job.params["epochs"] + 1):
        time.sleep(job.params.get("pause", 0))
        fresh = job.checkpoint / "epoch.new"
        fresh.write_text(str(epoch))
        fresh.replace(mark)
        job.report({"kind": "epoch", "epoch": epoch, "from": done})
    if job.params.get("breaks"):
        raise RuntimeError("the loss is not finite")
    (job.output / "weights").mkdir()
    (job.output / "weights" / "best.onnx").write_bytes(job.inputs["dataset"].joinpath("boxes.txt").read_bytes())

if __name__ == "__main__":
    main(run, __doc__)
'''


def training(epochs: int = 6, **params: Any) -> Step:
    return Step(
        program="train",
        version="0123456789abcdef",
        inputs={"dataset": Input("datasets/ds-1")},
        outputs={"weights": "weights/w1"},
        params={"epochs": epochs, **params},
        hardware="gpu",
    )


def put_in_place(folder: Path, monkeypatch: pytest.MonkeyPatch, platform: Any) -> None:
    """Puts the program where the containers find it, and a dataset into the lake."""
    package = folder / "scripted"
    package.mkdir()
    (package / "train.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(ROOT), str(ROOT / "tests")]))
    monkeypatch.setattr(managed, "PROGRAMS", "scripted")
    platform.storage.put("datasets/ds-1/boxes.txt", b"boxes")
    platform.storage.put("datasets/ds-1/more.txt", b"more")


def run(platform: Any, step: Step, on_report: Callable[[Any], object] | None = None) -> Any:
    return in_a_run(lambda context: platform.compute.run(context, step, on_report))


def until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, what
        time.sleep(0.05)


def trains(platform: Any) -> bool:
    """Whether a job has told of an epoch."""
    parts = platform.storage.list(f"{layout.job(training().name, 1)}/messages")
    return any(b'"epoch"' in platform.storage.get(part.key) for part in parts)

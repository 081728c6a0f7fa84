"""A study over real processes: a small program stands in for the training, so that each case takes seconds."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from contract.in_a_run import in_a_run

from detection_assets.domain.tuning import Choice, Real, Trial
from resources.compute import local, managed
from resources.compute.base import Input, Objective, Step, Study, TuneResult

ROOT = Path(__file__).parents[2]
PROGRAM = '''
"""Learns nothing: its curve rises to 1 - |lr0 - 0.3| and is known beforehand. Keeps its epoch in the checkpoint."""
import json, os, time
from detection_assets.programs.job import end_in_good_order, main

def run(job):
    end_in_good_order()
    training, how = job.params["training"], job.params["how"]
    top = 1 - abs(training["lr0"] - 0.3)
    mark = job.checkpoint / "epoch"
    done = int(mark.read_text()) if mark.exists() else 0
    seen = sorted(str(path.relative_to(job.inputs["frames"])) for path in job.inputs["frames"].rglob("*.jpg"))
    with open(how["record"], "a") as record:
        record.write(json.dumps({"training": training, "from": done, "seen": seen, "pid": os.getpid()}) + "\\n")
    try:
        for epoch in range(1, how["epochs"] + 1):
            if epoch > done:
                stays = epoch == how["epochs"] and training["lr0"] > how.get("stays_above", 9)
                time.sleep(60 if stays else how.get("pause", 0))  # whoever should be stopped must not end first
            if training["lr0"] > how.get("breaks_above", 9):
                raise RuntimeError(f"lr0 {training['lr0']} is too much")
            fresh = job.checkpoint / "epoch.new"  # as a checkpoint has to be written: a kill may come between
            fresh.write_text(str(max(epoch, done)))
            fresh.replace(mark)
            figure = top * epoch / how["epochs"]
            job.report({"kind": "epoch", "epoch": epoch, "epochs": how["epochs"], "metrics": {"score": figure}})
    finally:
        with open(how["record"] + ".ends", "a") as record:
            record.write(f"{os.getpid()}\\n")
    (job.output / "trial").mkdir()
    (job.output / "trial" / "trial.json").write_text(json.dumps({"objective": how.get("result", top)}))

if __name__ == "__main__":
    main(run, __doc__)
'''


def put_in_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts the program where the compute finds it; returns where it writes down what it was given."""
    package = folder / "scripted"
    package.mkdir()
    (package / "curve.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(ROOT), str(ROOT / "tests")]))
    for module in (local, managed):
        monkeypatch.setattr(module, "PROGRAMS", "scripted")
    return folder / "record"


def study(platform: Any, record: Path, how: dict[str, Any] | None = None, **changes: Any) -> Study:
    for key in ("a/v1/1.jpg", "a/v1/2.jpg", "b/v1/1.jpg"):
        platform.storage.put(f"frames/{key}", b"jpeg")
    params = {"training": {"lr0": 0.5, "extra": {"mosaic": 1.0}}, "how": {"record": str(record), "epochs": 4}}
    params["how"].update(how or {})
    step = Step("curve", "", {"frames": Input("frames", ["a/v1/1.jpg", "b/v1/1.jpg"])}, {}, params, hardware="gpu")
    wanted = {
        "version": "v1",
        "step": step,
        "into": "training",
        "space": {"lr0": Real(0.01, 1.0, log=True), "fliplr": Choice((0.1, 0.3))},
        "objective": Objective("score", "trial/trial.json"),
        "trials": 3,
    }
    return Study(**{**wanted, **changes})


def tune(platform: Any, of: Study, told: list[Trial] | None = None) -> TuneResult:
    """Tunes as an asset does, in a real Dagster run."""
    return in_a_run(lambda context: platform.compute.tune(context, of, told.append if told is not None else None))


def started(record: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in record.read_text().splitlines()]


def alive(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return bool(state) and not state.startswith("Z")

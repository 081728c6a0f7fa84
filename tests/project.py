"""A project of its own for a test: a folder, its environment, a detector that trains in seconds."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from forked import Command

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
DETECTION = str(Path(sys.executable).with_name("detection"))

# The words for hardware mean this machine where the platform has no jobs.
TINY = """\
name: {name}
classes: [{classes}]
sampling: {{rate: 2.0, min_sharpness: 0, near_duplicate: 0, hardware: cpu}}
dataset: {{split: {{train: 0.5, val: 0.25, test: 0.25}}, min_images: 1, near_duplicate: 0}}
training: {{imgsz: 96, epochs: {epochs}, batch: 8, nbs: 8, hardware: gpu}}
evaluation: {{bootstrap: 20, hardware: cpu}}
gates: {{map50: 0.0, latency_ms: 10000}}
rollout: {{bake_s: 1.0}}
"""


def make_home(folder: Path, setenv: Callable[[str, str], object]) -> Path:
    """Makes a project folder and points the environment at it."""
    (folder / "detectors").mkdir(parents=True)
    shutil.copyfile(ROOT / "dagster.yaml", folder / "dagster.yaml")
    (folder / "workspace.yaml").write_text("load_from:\n")
    for name, value in {
        "DETECTION_HOME": str(folder),
        "DETECTION_DETECTORS": str(folder / "detectors"),
        "DAGSTER_HOME": str(folder / ".dagster"),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }.items():
        setenv(name, value)
    for name in ("DETECTION_PLATFORM", "DETECTION_LAKE", "DETECTION_LOCAL_LAKE", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    return folder


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def give_mlflow(home: Path, database: Path) -> None:
    """Gives a project an MLflow database that is there already: making one takes seconds."""
    (home / ".mlflow").mkdir()
    shutil.copyfile(database, home / ".mlflow" / "mlflow.db")


def write_detector(folder: Path, name: str, classes: str = "apple, banana, cola, water", epochs: int = 1) -> Path:
    """Writes a detector that trains in seconds and passes whatever it scores."""
    path = folder / "detectors" / f"{name}.yaml"
    path.write_text(TINY.format(name=name, classes=classes, epochs=epochs))
    return path


def kill_when(seen: Callable[[str], bool], *words: str, after_s: float = 0.0) -> None:
    """Runs `detection` until it says something, and kills it.

    Args:
        seen: Takes a line that it said.
        *words: The command.
        after_s: How long it may go on after it.
    """
    running, said = Command({**os.environ, "COLUMNS": "240"}, *words), []
    with running.said:
        for line in running.said:
            said.append(line)
            if seen(line):
                time.sleep(after_s)
                running.kill()
                break
    assert running.wait() == -signal.SIGKILL, "".join(said)


@contextmanager
def closed_again() -> Iterator[None]:
    """Closes what commands open that run in this process: a process of their own would end with them."""
    from detection_assets.commands.context import Project

    opened: list[Project] = []
    of = Project.of

    def noted(name: str) -> Project:
        opened.append(of(name))
        return opened[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Project, "of", noted)
        yield
    for project in opened:
        project.close()

"""Sensors and schedules in a running daemon, as `detection dev` starts it: what arrives in the lake is taken in."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from dagster import AssetKey, DagsterInstance, DagsterRunStatus
from dagster._core.scheduler.instigation import TickStatus
from project import DETECTION, free_port, write_detector

from detection_assets import samples
from resources import tables
from resources.storage import Storage

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]
DAGSTER = str(Path(sys.executable).with_name("dagster"))


def until(condition: Callable[[], object], what: str, seconds: float, log: Path) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, f"not within {seconds:.0f} s: {what}\n{log.read_text()[-6000:]}"
        time.sleep(1)


def dagster(home: Path, *words: str) -> None:
    command = [DAGSTER, *words, "-w", str(home / "workspace.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=home)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def dev(home: Path) -> Iterator[Path]:
    """`detection dev` with one detector and every sensor and schedule switched on; the file that it writes to."""
    write_detector(home, "fridge")
    (home / "workspace.yaml").write_text(
        "load_from:\n  - python_module:\n      module_name: detection_assets.definitions\n"
        "      attribute: fridge\n      location_name: fridge\n"
    )
    port, log = free_port(), home / "dev.log"
    command = [DETECTION, "dev", "--port", str(port), "--mlflow-port", str(free_port())]
    with log.open("wb") as out:
        running = subprocess.Popen(command, stdout=out, stderr=out, cwd=home)

    def answers() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/server_info", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    try:
        until(answers, "the UI answers", 120, log)
        dagster(home, "sensor", "start", "--start-all")
        dagster(home, "schedule", "start", "--start-all")
        yield log
    finally:
        running.send_signal(signal.SIGINT)
        running.wait(timeout=60)
        subprocess.run([DETECTION, "stop"], capture_output=True)


def test_what_arrives_is_taken_in_and_a_launched_training_reaches_the_endpoint(home: Path, dev: Path) -> None:
    made = samples.render("fridge", home / "sample", clips=3, progress=lambda *_: None)
    storage = Storage(root=str(home / "lake"), prefix="fridge")
    shutil.copytree(home / "sample" / "annotations", home / "lake" / "fridge" / "annotations")
    shutil.copytree(home / "sample" / "videos", home / "lake" / "fridge" / "videos")
    videos = [clip.video for clip in made.clips]
    with DagsterInstance.get() as instance:

        def runs(*statuses: DagsterRunStatus) -> int:
            return sum(run.status in statuses for run in instance.get_runs())

        def taken_in() -> bool:
            done = instance.get_materialized_partitions(AssetKey(["fridge", "annotations"]))
            return set(done) == set(videos)

        until(taken_in, "the videos are taken in", 240, dev)
        assert len(instance.get_runs()) <= 3, "many videos make few runs"

        # An annotator mends a file: the labels are read again, the frames are not extracted again.
        extracted = len(instance.fetch_materializations(AssetKey(["fridge", "extracted_frames"]), limit=100).records)
        read = len(instance.fetch_materializations(AssetKey(["fridge", "annotations"]), limit=100).records)
        path = home / "lake" / "fridge" / made.clips[0].annotations[0].relative_to(made.folder)
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(path.read_bytes() + b"\n")
        os.replace(part, path)
        until(
            lambda: len(instance.fetch_materializations(AssetKey(["fridge", "annotations"]), limit=100).records) > read,
            "the labels are read again", 180, dev,
        )  # fmt: skip
        again = len(instance.fetch_materializations(AssetKey(["fridge", "extracted_frames"]), limit=100).records)
        assert again == extracted

        dagster(home, "job", "launch", "-j", "fridge_retrain")
        until(
            lambda: instance.get_latest_materialization_event(AssetKey(["fridge", "deployed_endpoint"])),
            "the endpoint is deployed", 300, dev,
        )  # fmt: skip
        until(
            lambda: not runs(DagsterRunStatus.STARTED, DagsterRunStatus.QUEUED, DagsterRunStatus.STARTING),
            "all runs ended", 120, dev,
        )  # fmt: skip
        assert runs(DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED) == 0
        table = tables.read(storage, "deployed_endpoint")
        assert table[["version", "traffic", "state"]].to_numpy().tolist() == [["1", 100, "ready"]]

        time.sleep(70)  # every sensor ticks at least once beside an endpoint
        states = instance.all_instigator_state()
        ticks = {
            state.origin.instigator_name: instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=200)
            for state in states
        }
        failed = {name: tick.error for name, of in ticks.items() for tick in of if tick.status == TickStatus.FAILURE}
        assert failed == {}
        ticked = {name for name, of in ticks.items() if of}
        assert {
            *("fridge_new_videos", "fridge_new_annotations", "fridge_approved_models", "fridge_endpoint_upkeep"),
            *("fridge_retrain_on_labels", "fridge_retrain_on_drift"),
        } <= ticked

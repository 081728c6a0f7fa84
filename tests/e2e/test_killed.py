"""kill -9 in the middle of each stage in turn: the next run goes on, and in the end nothing is lost or doubled."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from dagster import AssetKey, DagsterInstance, DagsterRunStatus, RunsFilter
from project import DETECTION, kill_when, write_detector

from resources import tables
from resources.storage import Storage

STAGES = [
    *("raw_videos", "extracted_frames", "annotations", "detection_dataset"),
    *("trained_weights", "evaluation", "registered_model", "deployed_endpoint"),
]


@pytest.mark.slow
def test_a_run_killed_in_each_stage_is_completed_by_the_next(home: Path) -> None:
    write_detector(home, "fridge")
    subprocess.run([DETECTION, "sample", "fridge", "--clips", "3"], check=True, capture_output=True)
    for number, stage in enumerate(STAGES):
        # At the very start of one stage, further into another.
        kill_when(lambda line: line.startswith(f"{stage} ..."), "run", "fridge", after_s=0.1 * number)  # noqa: B023

    done = subprocess.run([DETECTION, "run", "fridge"], capture_output=True, text=True)
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        storage = Storage(root=str(home / "lake"), prefix="fridge")
        with DagsterInstance.get() as instance:
            videos = instance.get_dynamic_partitions("fridge_videos")
            assert len(videos) == len(set(videos)) == 3
            for stage in STAGES:
                assert instance.get_latest_materialization_event(AssetKey(["fridge", stage])), stage
            failed = instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.FAILURE]))
            going = instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTED]))
            assert going == [], "killed runs are marked as failed"
            assert len(failed) >= 6
        frames = tables.read(storage, "extracted_frames", videos)
        boxes = tables.read(storage, "annotations", videos)
        assert not frames["frame"].duplicated().any()
        assert not boxes.dropna(subset=["class"]).duplicated(["frame", "class", "x1", "y1", "x2", "y2"]).any()
        assert tables.read(storage, "registered_model")["version"].tolist() == ["1"], "registered once"
        endpoint = tables.read(storage, "deployed_endpoint")
        assert endpoint[["traffic", "state"]].to_numpy().tolist() == [[100, "ready"]]
        assert not list((home / ".scratch").rglob("*.jpg")), "no scratch is left"
    finally:
        subprocess.run([DETECTION, "stop"], capture_output=True, check=False)

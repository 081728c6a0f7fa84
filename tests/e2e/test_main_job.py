"""The whole graph through the command line, as a newcomer uses it: real files, real training, a real server.

On its way there the run is killed several times. What all tests look at is what the next run made of it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lineage_events
import pandas as pd
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from dagster import AssetKey, DagsterInstance, DagsterRunStatus, RunsFilter
from forked import Command
from project import kill_when, make_home, write_detector

from detection_assets.domain import layout
from resources import tables
from resources.storage import Storage

STAGES = [
    *("raw_videos", "extracted_frames", "annotations", "detection_dataset"),
    *("trained_weights", "evaluation", "registered_model", "deployed_endpoint"),
]

KILLED = ("extracted_frames", "deployed_endpoint")
"""Where the run is killed every day; once in a while it is everywhere."""


def detection(*words: str, code: int | None = 0) -> str:
    ended, told = Command(os.environ, *words).end()
    assert code is None or ended == code, f"{words}: {ended}\n{told}"
    return told


class World:
    """A project in which one detector has been taken all the way."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.storage = Storage(root=str(home / "lake"), prefix="fridge")

    @property
    def videos(self) -> list[str]:
        with self.instance() as instance:
            return list(instance.get_dynamic_partitions("fridge_videos"))

    def instance(self) -> DagsterInstance:
        return DagsterInstance.get()

    def table(self, asset: str) -> pd.DataFrame:
        return tables.read(self.storage, asset, self.videos if asset in STAGES[:3] else None)

    def materializations(self) -> dict[str, int]:
        with self.instance() as instance:
            return {
                stage: len(instance.fetch_materializations(AssetKey(["fridge", stage]), limit=1000).records)
                for stage in STAGES
            }

    def ask(self, path: str, body: bytes | None = None) -> Any:
        folder = self.home / ".endpoints" / "fridge"
        url = f"http://127.0.0.1:{(folder / 'port').read_text()}{path}"
        headers = {"X-API-Key": (folder / "key").read_text(), "Content-Type": "image/jpeg"}
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=20) as answer:
            return json.loads(answer.read())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        home = make_home(tmp_path_factory.mktemp("e2e") / "home", patch.setenv)
        write_detector(home, "fridge", epochs=2)
        patch.setenv("DETECTION_OPENLINEAGE", (home / "events.jsonl").as_uri())
        detection("sample", "fridge", "--clips", "4")
        killed_in(KILLED)
        detection("run", "fridge")
        yield World(home)
        detection("stop", code=None)


def killed_in(stages: Sequence[str]) -> None:
    """Begins a run for each of the stages, and kills it there: at the very start of one, further into another."""
    for stage in stages:
        after_s = 0.1 * STAGES.index(stage)
        kill_when(lambda line, of=stage: line.startswith(f"{of} ..."), "run", "fridge", after_s=after_s)


# The way there alone is several commands, and a slow machine takes as long as it takes.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_what_was_killed_is_completed_and_nothing_is_lost_or_doubled(world: World) -> None:
    whole(world, KILLED)


@pytest.mark.long
def test_what_was_killed_in_every_stage_is_completed_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        home = make_home(tmp_path / "home", patch.setenv)
        write_detector(home, "fridge", epochs=2)
        detection("sample", "fridge", "--clips", "4")
        killed_in(STAGES)
        detection("run", "fridge")
        whole(World(home), STAGES)
        detection("stop", code=None)


def test_every_run_is_told_to_a_catalogue_with_its_end_also_one_that_was_killed(world: World) -> None:
    # Told at least once: what is told twice is told alike.
    lines = dict.fromkeys((world.home / "events.jsonl").read_text().splitlines())
    told: dict[str, list[dict[str, Any]]] = {}
    for event in map(json.loads, lines):
        lineage_events.check(event)
        told.setdefault(event["run"]["runId"], []).append(event)
    for events in told.values():
        first, last = (event["eventType"] for event in events)
        assert first == "START"
        assert last in ("COMPLETE", "FAIL")
    with world.instance() as instance:
        assert {run.run_id for run in instance.get_runs()} <= set(told)
    written = {output["name"].rpartition("/")[2] for events in told.values() for output in events[1]["outputs"]}
    assert written == set(STAGES)


def test_the_dataset_and_the_model_are_described_as_other_tools_read_it(world: World) -> None:
    version = world.table("detection_dataset")["dataset_version"].iloc[0]
    described = json.loads(world.storage.get(layout.croissant(version)))
    assert {one["name"] for one in described["isBasedOn"]} <= set(world.videos)
    assert all(len(one["sha256"]) == 64 and len(one["identifier"]) == 2 for one in described["isBasedOn"])
    for one in described["distribution"][:2]:
        assert hashlib.sha256(world.storage.get(one["contentUrl"])).hexdigest() == one["sha256"]
    detection("card", "fridge", "--bom", "--to", str(world.home / "bom.json"))
    bill = (world.home / "bom.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None
    parts = {one["name"] for one in json.loads(bill)["components"]}
    assert {"torch", "ultralytics-opencv-headless", "onnx", "fridge dataset"} <= parts
    assert "version 9; there are: 1" in detection("card", "fridge", "9", code=2)


def whole(world: World, killed: Sequence[str]) -> None:
    """Looks whether all is there once, and nothing else."""
    with world.instance() as instance:
        assert len(world.videos) == len(set(world.videos)) == 4
        for stage in STAGES:
            assert instance.get_latest_materialization_event(AssetKey(["fridge", stage])), stage
        assert instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTED])) == [], "killed runs are marked so"
        assert len(instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.FAILURE]))) >= len(killed) - 2
    assert not world.table("extracted_frames")["frame"].duplicated().any()
    boxes = world.table("annotations").dropna(subset=["class"])
    assert not boxes.duplicated(["frame", "class", "x1", "y1", "x2", "y2"]).any()
    assert world.table("registered_model")["version"].tolist() == ["1"], "registered once"
    assert world.table("deployed_endpoint")[["traffic", "state"]].to_numpy().tolist() == [[100, "ready"]]
    assert not list((world.home / ".scratch").rglob("*.jpg")), "no scratch is left"


def test_every_stage_has_its_table(world: World) -> None:
    for stage in STAGES:
        assert len(world.table(stage)), stage
    frames = world.table("extracted_frames")
    assert frames["kept"].any()
    assert set(frames.loc[frames["kept"], "sha256"].str.len()) == {64}
    assert world.table("annotations")["source"].str.startswith("annotations/").all()
    dataset = world.table("detection_dataset")
    assert dataset["dataset_version"].str.fullmatch("ds-[0-9a-f]{12}").all()
    assert set(dataset["split"]) == {"train", "val", "test"}
    assert not dataset["frame"].duplicated().any()


def test_the_lineage_hangs_together(world: World) -> None:
    dataset = world.table("detection_dataset")["dataset_version"].iloc[0]
    weights = world.table("trained_weights").iloc[0]
    model = world.table("registered_model").iloc[0]
    endpoint = world.table("deployed_endpoint").iloc[0]
    assert weights["dataset_version"] == model["dataset_version"] == dataset
    assert weights["sha256"] == model["sha256"] == endpoint["sha256"]
    assert model["evaluation_version"] == world.table("evaluation")["evaluation_version"].iloc[0]
    assert endpoint["version"] == model["version"]
    assert endpoint["traffic"] == 100


def test_the_endpoint_goes_on_answering(world: World) -> None:
    dataset = world.table("detection_dataset")
    picture = world.storage.get(str(dataset["key"].iloc[0]))
    answer = world.ask("/score", picture)
    assert answer["model_version"] == world.table("registered_model")["version"].iloc[0]
    assert (answer["width"], answer["height"]) == (dataset["width"].iloc[0], dataset["height"].iloc[0])


def test_a_person_asks_it_by_a_command(world: World, tmp_path: Path) -> None:
    dataset = world.table("detection_dataset")
    picture, torn = tmp_path / "a.jpg", tmp_path / "torn.jpg"
    picture.write_bytes(world.storage.get(str(dataset["key"].iloc[0])))
    torn.write_bytes(picture.read_bytes()[:300])
    assert "a.jpg" in detection("ask", "fridge", str(picture))
    told = detection("ask", "fridge", str(torn), str(tmp_path / "none.jpg"), str(picture), code=1)
    assert "torn.jpg: " in told
    assert "none.jpg: No such file" in told
    assert "a.jpg" in told, "one bad picture loses itself alone"


def test_a_person_looks_at_the_worst_frames_by_a_command_and_in_the_ui(world: World) -> None:
    told = detection("show", "fridge", "--worst", "3")
    assert "<figure>" in Path(told.splitlines()[-1]).read_text()
    with world.instance() as instance:
        event = instance.get_latest_materialization_event(AssetKey(["fridge", "evaluation"]))
    metadata = event.asset_materialization.metadata if event and event.asset_materialization else {}
    assert "data:image/jpeg;base64," in str(metadata["worst frames"].value)
    page = Path(str(metadata["page of the worst frames"].value).removeprefix("file://"))
    assert "<figure>" in page.read_text()


def test_mlflow_has_one_finished_run_with_curves(world: World) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{world.home / '.mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("fridge")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED", "FAILED"}, "none was left open"
    (run,) = [run for run in runs if run.info.status == "FINISHED"]
    assert run.data.params["imgsz"] == "96"
    assert len({metric for metric in run.data.metrics if metric.startswith("AP50-95/")}) >= 1
    curves = {metric: len(client.get_metric_history(run.info.run_id, metric)) for metric in run.data.metrics}
    assert max(curves.values()) == 2, "a figure an epoch"
    assert "champion" in client.get_registered_model("fridge").aliases


def test_running_again_does_nothing(world: World) -> None:
    before = world.materializations()
    assert "up to date: nothing to do" in detection("run", "fridge")
    assert world.materializations() == before


def test_dagster_agrees_that_nothing_is_stale(world: World) -> None:
    from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
    from dagster._core.loader import LoadingContextForTest

    from detection_assets import definitions, detector_file

    graph = definitions.build(detector_file.find("fridge")).resolve_asset_graph()
    with world.instance() as instance:
        resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
        for stage in STAGES:
            for video in world.videos if stage in STAGES[:3] else [None]:
                assert resolver.get_status(AssetKey(["fridge", stage]), video) == StaleStatus.FRESH, (stage, video)


def test_status_shows_what_is_there(world: World) -> None:
    told = detection("status", "fridge")
    assert told.count("fresh") == len(STAGES)
    assert "answers with version" in told


@pytest.mark.long
def test_a_detector_sees_nothing_of_another(world: World) -> None:
    write_detector(world.home, "other")
    assert "no videos in" in detection("run", "other", code=2)
    assert list(Storage(root=str(world.home / "lake"), prefix="other").list("")) == []
    before = world.materializations()
    detection("add", "other", str(world.home / "lake" / "fridge" / "videos"))
    detection("run", "other", "--until", "extracted_frames")
    assert world.materializations() == before
    with world.instance() as instance:
        assert set(instance.get_dynamic_partitions("other_videos")).isdisjoint(world.videos)
        assert instance.get_latest_materialization_event(AssetKey(["other", "extracted_frames"]))


def test_one_new_video_is_all_that_is_extracted(world: World) -> None:
    before = world.materializations()
    source = world.storage.local_path(f"videos/{world.videos[0]}")
    assert source is not None
    frames = world.table("extracted_frames").set_index("frame")["key"].to_dict()
    new = world.home / "store-99" / "new.mp4"
    new.parent.mkdir()
    new.write_bytes(source.read_bytes() + b"\0" * 8)
    detection("add", "fridge", str(new.parent))
    told = detection("run", "fridge", "--until", "annotations")
    assert "for 1 videos" in told
    after = world.materializations()
    assert {stage: after[stage] - before[stage] for stage in STAGES[:3]} == dict.fromkeys(STAGES[:3], 1)
    now = world.table("extracted_frames").set_index("frame")["key"].to_dict()
    assert {frame: now[frame] for frame in frames} == frames, "no other video's frames were touched"


def test_a_changed_annotation_makes_its_video_stale_and_no_other(world: World) -> None:
    files = sorted(item.key for item in world.storage.list("annotations") if item.key.endswith((".json", ".xml")))
    path = world.storage.local_path(files[0])
    assert path is not None
    path.write_bytes(path.read_bytes() + b"\n")
    before = world.materializations()
    told = detection("run", "fridge", "--until", "annotations")
    after = world.materializations()
    assert "changed in the lake" in told
    assert after["annotations"] == before["annotations"] + 1
    assert after["extracted_frames"] == before["extracted_frames"]


def test_a_version_says_what_it_took_asset_by_asset(world: World) -> None:
    with world.instance() as instance:
        records = instance.fetch_materializations(AssetKey(["fridge", "registered_model"]), limit=1000).records
    metadata = records[-1].asset_materialization.metadata
    told = str(metadata["cost since the version before"].value).replace("\\", "")
    assert "usd 0\n" in told, "one's own machine costs nothing"
    lines = [line.strip("| ").split(" | ") for line in told.splitlines() if line.startswith("| ")]
    assert lines[0][0] == "asset"
    assert lines[0][-1] == "seconds"
    rows = {cells[0]: cells[1:] for cells in lines[2:]}
    assert list(rows) == ["extracted_frames", "trained_weights", "evaluation", "all"]
    assert all(float(row[-1]) > 0 for row in rows.values())
    shown = detection("cost", "fridge")
    assert all(name in shown for name in rows)
    assert "fridge version 1 is the first" in metadata["unlike the version before"].value
    first = [video for video in world.videos if not video.startswith("store-99/")]  # which comes later
    for answered, video in itertools.product(("taught by", "judged on"), first):
        assert f"| {video} |" in metadata[answered].value, "each video is in each split"
    assert "no step was run" in detection("cost", "fridge", "--days", "0")


@pytest.mark.long
def test_an_export_below_float32_is_one_word_and_no_training(world: World) -> None:
    path = write_detector(world.home, "fridge", epochs=2)
    path.write_text(path.read_text().replace("nbs: 8,", "nbs: 8, export: int8,"))
    before = world.table("trained_weights").iloc[0]
    told = detection("run", "fridge")
    after = world.table("trained_weights").iloc[0]
    assert "epochs, mAP50" not in told, "nothing was trained"
    assert (before["export"], after["export"]) == ("f32", "int8")
    assert after["onnx_f32"] == before["onnx"]
    assert after["pt"] == before["pt"]
    assert after["bytes"] < 0.5 * before["bytes"]
    judged = world.table("evaluation")
    overall = judged[judged["slice_kind"] == "all"].set_index("model")["sha256"]
    assert overall["challenger"] == after["sha256"]
    assert {"champion", "full"} <= set(overall.index)
    picture = world.storage.get(str(world.table("detection_dataset")["key"].iloc[0]))
    answer = world.ask("/score", picture)
    assert answer["model_version"] == world.table("registered_model")["version"].iloc[0]
    assert world.table("deployed_endpoint")["sha256"].iloc[-1] == after["sha256"]


# Before, it was killed at its start; here it is in the middle of its epochs.
@pytest.mark.long
def test_a_killed_training_is_completed_by_the_next_run(world: World) -> None:
    path = write_detector(world.home, "fridge", epochs=6)
    running = Command(os.environ, "run", "fridge")
    checkpoints = world.home / ".scratch" / "fridge"
    ends = time.monotonic() + 120
    while time.monotonic() < ends and not list(checkpoints.glob("train-*/checkpoint/last.pt")):
        time.sleep(0.1)
        assert running.poll() is None, running.end()
    running.kill()
    running.end()
    versions = len(world.table("registered_model"))
    told = detection("run", "fridge")
    assert "killed is marked as failed" in told
    weights = world.table("trained_weights").iloc[0]
    assert weights["epochs"] == 6
    assert len(world.table("registered_model")) == versions
    assert world.ask("/status")["slots"], "the endpoint never stopped"
    assert not list(checkpoints.glob("*")), "nothing is left of the killed step"
    write_detector(world.home, "fridge", epochs=6)
    assert path.exists()

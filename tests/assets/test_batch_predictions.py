from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from monitored import CLASSES, FRAMES_A_VIDEO, NAME, World, check, metadata
from project import give_mlflow, make_home

from detection_assets.domain import layout
from resources import tables
from resources.compute.base import StepFailed

VIDEOS = [f"store-{number}/clip.mp4" for number in range(8)]


@pytest.fixture
def world(monitored: World) -> Iterator[World]:
    yield monitored
    monitored.storage.delete("predictions")
    monitored.storage.delete("tables/batch_predictions")


def test_a_video_gets_the_boxes_that_the_endpoint_would_answer(world: World) -> None:
    result = world.predict(VIDEOS[0])
    table = world.table("batch_predictions", VIDEOS[0])
    assert table["frame"].nunique() == FRAMES_A_VIDEO
    assert set(table["model_version"]) == {world.version}
    for frame, rows in table.groupby("frame"):
        expected = world.boxes(world.frames[str(frame)])
        found = rows[rows["class"].notna()]
        assert list(found["class"]) == [box["class"] for box in expected]
        np.testing.assert_allclose(
            found[["confidence", "x1", "y1", "x2", "y2"]],
            [[box[name] for name in ("confidence", "x1", "y1", "x2", "y2")] for box in expected],
            atol=1e-4,
        )
    assert check(result, "every_kept_frame").passed
    told = metadata(result, "batch_predictions")
    assert "data:image/jpeg;base64," in told["preview"]
    assert "truth against prediction" not in told, "nothing is annotated"


def test_many_videos_make_one_run_with_a_version_each(world: World) -> None:
    result = world.predict(VIDEOS[0], VIDEOS[3])
    assert result.success
    assert len(world.table("batch_predictions", *VIDEOS[:4])) >= 4 * FRAMES_A_VIDEO
    events = result.asset_materializations_for_node("batch_predictions")
    by_video = {event.partition: event.tags for event in events}
    assert set(by_video) == set(VIDEOS[:4])
    last = {partition: tags["dagster/data_version"] for partition, tags in by_video.items()}
    assert len(set(last.values())) == 4
    for event in {event.partition: event for event in events}.values():
        told = event.metadata
        key = str(told["dagster/uri"].value).removeprefix(f"{world.storage.uri}/")
        assert len(tables.read_versions(world.storage, "batch_predictions", [key])) == told["dagster/row_count"].value
        (source,) = told["dagster/column_lineage"].value.deps_by_column["model_version"]
        assert (source.asset_key.path, source.column_name) == ([NAME, "deployed_endpoint"], "version")


def test_where_frames_are_annotated_predictions_are_held_against_them(world: World) -> None:
    world.predict(VIDEOS[0])
    found = world.table("batch_predictions", VIDEOS[0]).dropna(subset=["class"])
    truth = found[["video", "frame", "class", "x1", "y1", "x2", "y2"]].reset_index(drop=True)
    truth.loc[0, "class"] = None
    truth = truth.assign(track=None, source="a.json", annotator="ada", reviewed=True)
    tables.write(world.storage, "annotations", VIDEOS[0], truth, "run")
    try:
        shown = metadata(world.predict(VIDEOS[0]), "batch_predictions")["truth against prediction"]
    finally:
        world.storage.delete("tables/annotations")
    assert f"{len(truth) - 1} right, 1 invented on " in shown
    assert "data:image/jpeg;base64," in shown
    assert len(shown) < 100_000, "events are kept for good"


def test_what_is_published_is_not_predicted_again(world: World) -> None:
    world.predict(VIDEOS[0], VIDEOS[1])
    before = {item.key: item.tag for item in world.storage.list("predictions")}
    assert world.predict(VIDEOS[0], VIDEOS[1]).success
    assert {item.key: item.tag for item in world.storage.list("predictions")} == before


def test_a_frame_in_which_nothing_is_found_was_looked_at(world: World) -> None:
    world.write_detector(endpoint={"confidence": 0.99})
    try:
        result = world.predict(VIDEOS[0])
    finally:
        world.write_detector()
    table = world.table("batch_predictions", VIDEOS[0])
    assert len(table) == FRAMES_A_VIDEO
    assert table["class"].isna().all()
    assert check(result, "every_kept_frame").passed


def test_a_frame_that_is_gone_is_named_and_the_rest_is_predicted(world: World) -> None:
    frames = world.table("extracted_frames", VIDEOS[6])
    key = frames["key"].iloc[3]
    whole = world.storage.get(key)
    world.storage.put(key, whole[:30])
    try:
        result = world.predict(VIDEOS[6])
    finally:
        world.storage.put(key, whole)
    found = check(result, "every_kept_frame")
    assert not found.passed
    assert frames["frame"].iloc[3].replace("#", r"\#") in found.metadata["missing"].value
    assert world.table("batch_predictions", VIDEOS[6])["frame"].nunique() == FRAMES_A_VIDEO - 1


def test_a_model_that_is_not_what_was_registered_predicts_nothing(world: World) -> None:
    good = world.storage.get(world.onnx)
    world.storage.put(world.onnx, good + b"\0")
    try:
        with pytest.raises(StepFailed, match="not the expected"):
            world.predict(VIDEOS[7])
    finally:
        world.storage.put(world.onnx, good)
    assert not list(world.storage.list("predictions"))


def test_a_killed_step_goes_on_after_its_last_finished_video(world: World) -> None:
    """The second of two videos has no frame left, so the step fails after the first: that one is not done again."""
    frames = world.table("extracted_frames", VIDEOS[5])
    whole = {key: world.storage.get(key) for key in frames["key"]}
    for key in whole:
        world.storage.put(key, b"nothing")
    with pytest.raises(StepFailed, match="none of its frames can be read"):
        world.predict(VIDEOS[4], VIDEOS[5])
    assert not [item for item in world.storage.list("predictions") if item.key.endswith(layout.MANIFEST)]
    kept = sorted((world.home / ".scratch" / NAME).glob("predict-*/checkpoint/*/summary.json"))
    assert [json.loads(path.read_text())["video"] for path in kept] == [VIDEOS[4]]
    before = kept[0].stat().st_mtime_ns
    for key, data in whole.items():
        world.storage.put(key, data)
    result = world.predict(VIDEOS[4], VIDEOS[5])
    assert result.success
    published = world.storage.list(layout.predictions(VIDEOS[4], "")[:-1])
    first = next(item.key for item in published if item.key.endswith("summary.json"))
    path = world.storage.local_path(first)
    assert path is not None
    assert path.stat().st_mtime_ns == before, "the first video's outcome is the killed step's own"
    assert len(world.table("batch_predictions", VIDEOS[4], VIDEOS[5])) >= 2 * FRAMES_A_VIDEO


def test_without_a_model_in_service_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_mlflow: Path
) -> None:
    home = make_home(tmp_path / "other", monkeypatch.setenv)
    give_mlflow(home, empty_mlflow)
    other = World(home)
    other.frames_alone(VIDEOS[0])
    result = other.predict(VIDEOS[0], raise_on_error=False)
    assert not result.success
    (event,) = [event for event in result.all_events if event.is_step_failure]
    assert f"detection run {NAME}" in str(event.step_failure_data.user_failure_data or event)


def test_the_classes_of_boxes_are_the_networks(world: World) -> None:
    world.predict(VIDEOS[2])
    assert set(world.table("batch_predictions", VIDEOS[2])["class"].dropna()) <= set(CLASSES)


def test_a_new_model_in_service_makes_predictions_stale_and_dagster_agrees(world: World) -> None:
    from dagster import AssetKey, AssetMaterialization
    from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
    from dagster._core.loader import LoadingContextForTest

    from detection_assets import definitions, detector_file
    from resources import event_notes, versions

    def made(asset: str, version: str, partition: str | None = None) -> None:
        key = AssetKey([NAME, asset])
        tags = {versions.DATA: version, versions.PROVIDED: "true"}
        with world.instance() as instance:
            instance.report_runless_asset_event(AssetMaterialization(key, partition=partition, tags=tags))

    for video in VIDEOS[:3]:
        made("extracted_frames", f"frames of {video}", video)
    made("deployed_endpoint", "first model")
    key = AssetKey([NAME, "batch_predictions"])
    for videos in (VIDEOS[:1], VIDEOS[:3]):
        assert world.predict(videos[0], videos[-1]).success
        with world.instance() as instance:
            graph = definitions.build(detector_file.find(NAME)).resolve_asset_graph()
            assert versions.stale_videos(event_notes.Log(instance), graph.get(key).assets_def, videos) == {}
            resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
            statuses = {video: resolver.get_status(key, video) for video in videos}
            assert statuses == dict.fromkeys(videos, StaleStatus.FRESH)
    made("deployed_endpoint", "second model")
    with world.instance() as instance:
        found = versions.stale_videos(event_notes.Log(instance), graph.get(key).assets_def, VIDEOS[:3])
    assert found == dict.fromkeys(VIDEOS[:3], "deployed_endpoint changed")

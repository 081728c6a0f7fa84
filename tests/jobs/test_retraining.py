from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from dagster import DagsterEvent, DagsterEventType, DagsterInstance
from dagster._core.events import StepMaterializationData
from dagster._core.events.log import EventLogEntry
from project import write_detector

from detection_assets import definitions, detector_file
from detection_assets.domain import retraining, schemas
from jobs.retraining import spent
from resources import tables
from resources.storage import Storage

DAY = "2026-11-23"


class World:
    """A real instance and a real lake, whose tables are written by hand."""

    def __init__(self, instance: DagsterInstance, home: Path, settings: str) -> None:
        path = write_detector(home, "tiny")
        path.write_text(path.read_text() + f"retraining: {settings}\n")
        self.instance, self.storage = instance, Storage(root=str(home / "lake"), prefix="tiny")
        self.defs = definitions.build(detector_file.find("tiny"))
        self.cursors: dict[str, str | None] = {}
        instance.add_dynamic_partitions("tiny_videos", ["a.mp4", "b.mp4"])

    def made(self, asset: str, partition: str | None = None, **metadata: object) -> None:
        told = dg.AssetMaterialization(["tiny", asset], partition=partition, metadata=metadata)  # type: ignore[arg-type]
        event = DagsterEvent(
            event_type_value=DagsterEventType.ASSET_MATERIALIZATION.value,
            event_specific_data=StepMaterializationData(told),
            job_name="test",
        )
        entry = EventLogEntry(None, "info", "", "run-1", pd.Timestamp.now().timestamp(), dagster_event=event)
        self.instance.event_log_storage.store_event(entry)

    def label(self, video: str, frames: int) -> None:
        columns = schemas.empty("annotations").columns
        rows = [
            {
                **dict.fromkeys(columns),
                **{"video": video, "frame": f"{video}#{frame}", "class": "apple", "source": "x"},
                **{"x1": 1.0, "y1": 1.0, "x2": 2.0, "y2": 2.0, "reviewed": True},
            }
            for frame in range(frames)
        ]
        tables.write(self.storage, "annotations", video, pd.DataFrame(rows, columns=columns), "run-1")
        self.made("annotations", video)

    def trained(self, labelled: int, seconds: float = 60.0) -> None:
        self.made("detection_dataset", version="ds-1", **{"labelled frames": labelled})
        self.made("trained_weights", seconds=seconds, cost_usd=0.0, reused=False)

    def drifted(self, *features: str) -> None:
        columns = schemas.SCHEMAS["drift_report"]
        rows = [
            {
                **{name: (0.5 if column.dtype == "float64" else 1) for name, column in columns.items()},
                **{name: "" for name, column in columns.items() if column.dtype == "string"},
                **{"day": DAY, "feature": feature, "version": "1"},
                "verdict": "drift" if feature in features else "stable",
            }
            for feature in ("brightness", "sharpness", "confidence")
        ]
        tables.write(self.storage, "drift_report", DAY, pd.DataFrame(rows), "run-1")
        self.made("drift_report", DAY)

    def tick(self, sensor: str) -> tuple[list[dg.RunRequest], str]:
        name = f"tiny_{sensor}"
        with dg.build_sensor_context(
            self.instance,
            cursor=self.cursors.get(name),
            resources={"storage": self.storage},
            definitions=self.defs,
        ) as context:
            data = self.defs.resolve_sensor_def(name).evaluate_tick(context)
        self.cursors[name] = data.cursor
        return list(data.run_requests or ()), data.skip_message or ""


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    (tmp_path / "instance").mkdir()
    with DagsterInstance.local_temp(str(tmp_path / "instance")) as made:
        yield made


@pytest.fixture
def world(instance: DagsterInstance, home: Path) -> World:
    return World(instance, home, "{new_frames: 5, cooldown_h: 0.0}")


def test_enough_new_labels_ask_for_one_training_and_say_why(world: World) -> None:
    assert world.tick("retrain_on_labels") == ([], "nothing is annotated yet")
    world.label("a.mp4", 10)
    assert "no model yet" in world.tick("retrain_on_labels")[1]
    world.trained(labelled=10)
    assert world.tick("retrain_on_labels") == ([], "0 of 5 newly labelled frames since ds-1")
    world.label("b.mp4", 4)
    assert world.tick("retrain_on_labels") == ([], "4 of 5 newly labelled frames since ds-1")
    world.label("b.mp4", 5)
    (request,), _ = world.tick("retrain_on_labels")
    assert request.job_name == "tiny_retrain"
    assert request.tags[retraining.TRIGGER] == "labels"
    assert request.tags[retraining.EVIDENCE] == "5 newly labelled frames since ds-1"
    assert "asked for already" in world.tick("retrain_on_labels")[1]
    world.trained(labelled=15)
    assert world.tick("retrain_on_labels") == ([], "0 of 5 newly labelled frames since ds-1")


def test_drift_starts_a_training_only_when_there_is_something_to_learn(world: World) -> None:
    world.label("a.mp4", 10)
    world.trained(labelled=10)
    assert world.tick("retrain_on_drift") == ([], "no drift report yet")
    world.drifted()
    assert "no drift in the report of 2026-11-23" in world.tick("retrain_on_drift")[1]
    world.drifted("brightness", "sharpness")
    assert "nothing was labelled since ds-1" in world.tick("retrain_on_drift")[1]
    world.label("b.mp4", 1)
    (request,), _ = world.tick("retrain_on_drift")
    assert request.tags[retraining.TRIGGER] == "drift"
    assert "brightness" in request.tags[retraining.EVIDENCE]
    assert "sharpness" in request.tags[retraining.EVIDENCE]
    assert "confidence" not in request.tags[retraining.EVIDENCE]
    assert "asked for already" in world.tick("retrain_on_drift")[1]
    world.trained(labelled=11)
    assert "younger than the last drift report" in world.tick("retrain_on_drift")[1]


def test_cooldown_and_ceiling_hold_for_every_trigger(instance: DagsterInstance, home: Path) -> None:
    world = World(instance, home, "{new_frames: 1, cooldown_h: 1.0}")
    world.label("a.mp4", 10)
    world.trained(labelled=0)
    world.drifted("brightness")
    for sensor in ("retrain_on_labels", "retrain_on_drift"):
        requests, why = world.tick(sensor)
        assert not requests
        assert "h to wait" in why
    schedule = world.defs.resolve_schedule_def("tiny_retraining")
    data = schedule.evaluate_tick(dg.build_schedule_context(instance))
    assert not data.run_requests
    assert "h to wait" in (data.skip_message or "")


def test_a_reused_training_is_no_training(world: World) -> None:
    world.made("trained_weights", seconds=60.0, cost_usd=1.0, reused=True)
    assert spent(world.instance, "tiny", pd.Timestamp.now().timestamp()) == []
    world.made("trained_weights", seconds=60.0, cost_usd=1.0, reused=False)
    (only,) = spent(world.instance, "tiny", pd.Timestamp.now().timestamp())
    assert (only.seconds, only.cost_usd) == (60.0, 1.0)


def test_switched_off_triggers_have_no_sensor(instance: DagsterInstance, home: Path) -> None:
    world = World(instance, home, "{new_frames: null, on_drift: false}")
    names = {sensor.name for sensor in world.defs.sensors or ()}
    assert not {"tiny_retrain_on_labels", "tiny_retrain_on_drift"} & names

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from contract.annotators import InAFolder
from contract.test_labeling import APPLE, CLIP, COLA, World, opened, publish
from dagster import DagsterInstance, DagsterRunStatus
from forked import Command
from project import write_detector

from detection_assets import definitions, detector_file
from jobs import labeling as job
from resources.instance import open_instance
from resources.labeling.base import UnreachableError
from resources.labeling.local import FolderLabeling


@pytest.fixture
def instance(home: Path) -> Iterator[DagsterInstance]:
    with open_instance() as found:
        yield found


@pytest.fixture
def world(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    write_detector(home, "tiny")
    people = InAFolder(tmp_path / "outbox")
    for name, value in people.settings.items():
        monkeypatch.setenv(name, value)
    with opened() as resources:
        return World(resources.labeling, people, publish(resources.storage))


class Ticks:
    """The sensor, ticked as the daemon would."""

    def __init__(self, instance: DagsterInstance, world: World) -> None:
        self.instance, self.world = instance, world
        self.defs = definitions.build(detector_file.find("tiny"))
        self.cursor: str | None = None
        self.why = ""

    def __call__(self) -> int:
        """Ticks; gives how many runs were asked for."""
        sensor = self.defs.resolve_sensor_def("tiny_finished_labels")
        resources = {"labeling": self.world.labeling}
        with dg.build_sensor_context(
            self.instance, cursor=self.cursor, resources=resources, definitions=self.defs
        ) as context:
            data = sensor.evaluate_tick(context)
        self.cursor, self.why = data.cursor, data.skip_message or ""
        return len(data.run_requests or ())

    def run(self) -> Any:
        """The run that was asked for."""
        of = self.defs.resolve_job_def("tiny_collect_labels")
        return of.execute_in_process(instance=self.instance, raise_on_error=False)


def test_what_is_finished_starts_one_run_that_brings_it_in(instance: DagsterInstance, world: World) -> None:
    tick = Ticks(instance, world)
    assert tick() == 0
    place = world.hand_over()
    world.collect()
    assert tick() == 0
    world.people.submit(place, world.names[0], [APPLE])
    assert tick() == 1
    assert tick() == 0, "it was asked for already"
    assert tick.run().success
    assert tick() == 0
    assert world.boxes(CLIP) == {world.names[0]: [APPLE]}
    world.people.submit(place, world.names[0], [COLA])
    assert tick() == 1


def test_what_a_failed_run_was_to_bring_in_is_asked_for_again_though_not_at_once(
    instance: DagsterInstance, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tick = Ticks(instance, world)
    world.people.submit(world.hand_over(), world.names[0], [APPLE])
    assert tick() == 1
    monkeypatch.setattr(job, "AGAIN_S", 0.0)
    assert tick() == 1


def test_while_a_run_brings_labels_in_no_other_is_started(instance: DagsterInstance, world: World) -> None:
    tick = Ticks(instance, world)
    world.people.submit(world.hand_over(), world.names[0], [APPLE])
    of = tick.defs.resolve_job_def("tiny_collect_labels")
    going = instance.create_run_for_job(of, status=DagsterRunStatus.STARTED, tags={"detection/detector": "tiny"})
    assert tick() == 0
    assert "being brought in" in tick.why
    instance.report_run_failed(going)
    assert tick() == 1


def test_a_tool_that_does_not_answer_is_asked_once_a_tick(
    instance: DagsterInstance, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.hand_over()
    world.labeling.request(publish(world.storage, first=60).id)
    asked: list[str] = []

    def silent(self: FolderLabeling, batch: str, place: str) -> str:
        asked.append(batch)
        raise UnreachableError("it does not answer")

    monkeypatch.setattr(FolderLabeling, "stamp", silent)
    tick = Ticks(instance, world)
    assert tick() == 0
    assert "cannot be asked" in tick.why
    assert len(asked) == 1


def test_a_batch_whose_place_is_gone_fails_the_run_when_the_others_are_in(
    instance: DagsterInstance, world: World
) -> None:
    other = publish(world.storage, first=60)
    place = world.labeling.request(other.id).place
    world.people.delete(world.hand_over())
    world.people.submit(place, str(other.frames["name"].iloc[0]), [COLA])
    ran = Ticks(instance, world).run()
    assert not ran.success
    (failure,) = [event for event in ran.all_events if event.event_type_value == "STEP_FAILURE"]
    assert world.batch.id in failure.event_specific_data.error.message
    assert [len(found.finished) for found in map(world.far, (world.batch.id, other.id))] == [0, 1]


def test_a_person_sees_the_batches_and_brings_them_in_by_hand(world: World) -> None:
    def detection(*words: str, code: int = 0) -> str:
        ended, told = Command(os.environ, *words).end()
        assert ended == code, told
        return told

    world.people.submit(world.hand_over(), world.names[0], [APPLE])
    assert f"{world.batch.id}: 1 of 5 finished, 1 new" in detection("collect", "tiny")
    told = detection("labels", "tiny")
    assert "1 of 5" in told
    assert "open" in told
    assert "no batch lb-nonsense" in detection("collect", "tiny", "--close", "lb-nonsense", code=2)
    detection("collect", "tiny", "--close", world.batch.id)
    assert world.far(world.batch.id).closed == "given up"

from __future__ import annotations

import os
from pathlib import Path

import pytest
from dagster import DagsterInstance
from project import write_detector
from ticking import Ticker

from jobs import sensors
from resources import lake
from resources.storage import Storage


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([], []),
        (["b"], [("b", "b")]),
        (["a", "b", "c"], [("a", "c")]),
        (["d", "a", "b"], [("a", "b"), ("d", "d")]),
        (["a", "c", "e"], [("a", "a"), ("c", "c"), ("e", "e")]),
    ],
)
def test_ranges_hold_the_wanted_partitions_and_no_other(wanted: list[str], expected: list[tuple[str, str]]) -> None:
    assert sensors.ranges(wanted, ["a", "b", "c", "d", "e"]) == expected


def test_a_range_has_a_limit() -> None:
    order = [f"{number:05}" for number in range(sensors.MOST_A_RUN * 2 + 1)]
    assert len(sensors.ranges(order, order)) == 3


def test_what_is_still_changing_waits_and_what_was_asked_for_is_not_asked_again() -> None:
    cursor = sensors.Cursor()
    assert cursor.settle({"a": "1"}, {}) == []
    assert cursor.settle({"a": "2"}, {}) == []
    assert cursor.settle({"a": "2"}, {}) == ["a"]
    assert cursor.settle({"a": "2"}, {}) == []
    assert cursor.settle({"a": "2"}, {"a": "2"}) == []
    assert cursor.asked == {}
    assert cursor.settle({"a": "3"}, {"a": "2"}) == []
    assert cursor.settle({"a": "3"}, {"a": "2"}) == ["a"]


def test_a_look_at_some_leaves_what_was_asked_for_the_others() -> None:
    cursor = sensors.Cursor(asked={"a": "1", "gone": "1"})
    assert cursor.settle({"b": "1", "photos": "1"}, {}, looked_at=["b", "photos", "gone"], whole=["b"]) == ["b"]
    assert cursor.asked == {"a": "1", "b": "1"}
    assert cursor.waiting == {"photos": "1"}


def test_a_cursor_survives_the_round_trip_and_nonsense() -> None:
    cursor = sensors.Cursor("x", {"a": "1"}, {"b": "2"})
    assert sensors.Cursor.load(cursor.dump()) == cursor
    assert sensors.Cursor.load("not json") == sensors.Cursor()
    assert sensors.Cursor.load('{"other": 1}') == sensors.Cursor()


@pytest.fixture
def instance(tmp_path: Path) -> DagsterInstance:
    (tmp_path / "instance").mkdir()
    return DagsterInstance.local_temp(str(tmp_path / "instance"))


@pytest.fixture
def place(home: Path) -> Storage:
    write_detector(home, "tiny")
    return Storage(root=str(home / "lake"), prefix="tiny")


def test_many_new_videos_make_one_run(instance: DagsterInstance, place: Storage) -> None:
    tick = Ticker(instance, place, "tiny_new_videos")
    assert tick() == []
    for number in range(30):
        place.put(f"videos/store/{number:02}.mp4", b"x")
    assert tick() == []
    assert tick() == [("store/00.mp4", "store/29.mp4")]
    assert len(instance.get_dynamic_partitions("tiny_videos")) == 30
    assert tick() == []


def test_a_file_that_grows_waits(instance: DagsterInstance, place: Storage) -> None:
    tick = Ticker(instance, place, "tiny_new_videos")
    for content in (b"x", b"xx", b"xxx"):
        place.put("videos/a.mp4", content)
        assert tick() == []
    assert tick() == [("a.mp4", "a.mp4")]


def test_a_changed_video_is_taken_in_again_and_a_known_one_is_not(instance: DagsterInstance, place: Storage) -> None:
    tick = Ticker(instance, place, "tiny_new_videos")
    place.put("videos/a.mp4", b"x")
    place.put("videos/b.mp4", b"x")
    tick()
    assert tick() == [("a.mp4", "b.mp4")]
    lake.remember(place, "videos", {source.video: source.fingerprint for source in lake.list_sources(place)[0]})
    place.put("videos/a.mp4", b"changed")
    assert tick() == []
    assert tick() == [("a.mp4", "a.mp4")]


def test_partial_hidden_and_impossible_names_are_left_out(instance: DagsterInstance, place: Storage) -> None:
    tick = Ticker(instance, place, "tiny_new_videos")
    for name in ("a.mp4.part", ".hidden.mp4", "b.mp4.crdownload", "three...dots.mp4", "loose.jpg"):
        path = place.local_path(f"videos/{name}")
        assert path is not None
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    assert tick() == []
    assert tick() == []
    assert instance.get_dynamic_partitions("tiny_videos") == []


def test_a_folder_of_images_is_one_video_and_grows_as_one(instance: DagsterInstance, place: Storage) -> None:
    tick = Ticker(instance, place, "tiny_new_videos")
    place.put("videos/photos/1.jpg", b"x")
    place.put("videos/photos/2.jpg", b"x")
    tick()
    assert tick() == [("photos", "photos")]


def test_annotations_of_known_videos_are_read_when_they_come(instance: DagsterInstance, place: Storage) -> None:
    tick = Ticker(instance, place, "tiny_new_annotations")
    instance.add_dynamic_partitions("tiny_videos", ["a/1.mp4", "a/2.mp4"])
    lake.remember(place, "annotations", {"a/1.mp4": "none", "a/2.mp4": "none"})
    tick()
    tick()
    place.put("annotations/a/2.json", b"{}")
    assert tick() == []
    assert tick() == [("a/2.mp4", "a/2.mp4")]


def test_a_tick_reads_no_file(instance: DagsterInstance, place: Storage) -> None:
    tick = Ticker(instance, place, "tiny_new_videos")
    place.put("videos/a.mp4", b"x")
    path = place.local_path("videos/a.mp4")
    assert path is not None
    os.utime(path, (1_000_000_000, 1_000_000_000))
    tick()
    tick()
    assert path.stat().st_atime == 1_000_000_000

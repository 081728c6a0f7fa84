"""New videos where a queue tells of them: what it costs, and what it may not lose."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from dagster import DagsterInstance
from fakes import telling_blob
from fakes.s3 import Between
from fakes.telling import Telling, record, telling
from project import write_detector
from ticking import Ticker

from jobs import sensors
from resources import lake
from resources.arrivals import aws, managed
from resources.storage import Storage


@pytest.fixture
def told(s3_server: str, between: Between, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Telling]:
    write_detector(home, "tiny")
    with telling(s3_server, "eventbridge") as one:
        yield one


@pytest.fixture
def storage(told: Telling) -> Storage:
    return Storage(root=told.lake, prefix="tiny")


@pytest.fixture
def instance(tmp_path: Path) -> DagsterInstance:
    (tmp_path / "instance").mkdir()
    return DagsterInstance.local_temp(str(tmp_path / "instance"))


@pytest.fixture
def tick(instance: DagsterInstance, told: Telling, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> Ticker:
    """A sensor that has listed everything once."""
    monkeypatch.setattr(aws, "WAIT_S", 0)  # moto has one server, which knows at once
    one = Ticker(instance, storage, "tiny_new_videos", told.reader())
    assert one() == []
    return one


def taken_in(storage: Storage) -> None:
    """What a run does at its end, for every video there is."""
    lake.remember(storage, "videos", {source.video: source.fingerprint for source in lake.list_sources(storage)[0]})


def test_a_video_is_asked_for_by_the_first_tick_that_hears_of_it(told: Telling, tick: Ticker) -> None:
    told.put("videos/store/a.mp4")
    assert tick() == [("store/a.mp4", "store/a.mp4")], "an object is there as a whole or not at all"
    assert told.left() == 1, "not before it is certain that the cursor was kept"
    assert tick() == []
    assert told.left() == 0


def test_what_a_tick_costs_follows_what_is_new(
    told: Telling, tick: Ticker, storage: Storage, between: Between, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(name: str = "") -> list[str]:
        """What a tick asks, a new video's name left out, and the folder of notes that follows from it."""
        before = len(between.seen)
        tick()
        said = [f"{one.method} {one.path} {one.headers.get('X-Amz-Target', '')}" for one in between.seen[before:]]
        said = [re.sub("known/videos/[0-9a-f]{2}/", "known/videos/??/", unquote(one)) for one in said]
        return sorted(one.replace(name, "*") if name else one for one in said)

    def rounds(name: str) -> list[list[str]]:
        told.put(f"videos/store/{name}.mp4")
        told.put(f"videos/photos/{name}/1.jpg")
        found = [asked(name) for _ in range(4)]
        for video in (f"store/{name}.mp4", f"photos/{name}"):
            (source,) = lake.look_up(storage, [video]).values()
            assert source is not None
            lake.remember(storage, "videos", {video: source.fingerprint})
        return found

    few = rounds("first")
    for number in range(25):
        told.put(f"videos/store/{number:05}.mp4")
        told.put(f"videos/photos/{number:05}/1.jpg")
    for _ in range(3):
        tick()
    taken_in(storage)
    assert rounds("second") == few
    everything = [f"prefix=tiny/{prefix}/" for prefix in ("videos", "known/videos")]
    # A page of a listing holds a thousand: that none is of everything says more than that there are as many.
    assert not [one for each in few for one in each for prefix in everything if f"{one} ".count(f"{prefix} ")]
    assert [one.split()[-1] for one in asked()] == ["AmazonSQS.ReceiveMessage"], "nothing new: the lake is not asked"
    monkeypatch.setattr(sensors, "LISTING_EVERY_S", 0.0)
    listing = asked()
    assert [prefix for prefix in everything if any(f"{one} ".count(f"{prefix} ") for one in listing)] == everything


def test_doubled_and_late_events_make_one_run(told: Telling, tick: Ticker, storage: Storage) -> None:
    event = {"source": "aws.s3", "detail": {"bucket": {"name": told.bucket}, "object": {"key": "tiny/videos/a.mp4"}}}
    told.put("videos/a.mp4")
    for _ in range(3):
        told.send(event)
    assert tick() == [("a.mp4", "a.mp4")]
    told.send(event)
    assert tick() == [], "a run was asked for"
    taken_in(storage)
    told.send(event)
    assert tick() == [], "it is known"
    told.put("videos/a.mp4", b"changed")
    told.send(event)
    assert tick() == [("a.mp4", "a.mp4")]
    tick()
    assert told.left() == 0


def test_events_that_come_in_the_wrong_order_do_no_harm(told: Telling, tick: Ticker, storage: Storage) -> None:
    told.put("videos/a.mp4")
    told.delete("videos/a.mp4")
    told.put("videos/a.mp4", b"now")
    told.put("videos/gone.mp4")
    told.delete("videos/gone.mp4")
    assert tick() == [("a.mp4", "a.mp4")]
    assert tick() == []
    assert told.left() == 0, "what is gone is not looked for again"


def test_a_tick_that_is_killed_loses_nothing(told: Telling, tick: Ticker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(managed, "HIDDEN_S", 1)
    told.put("videos/a.mp4")
    told.put("videos/photos/1.jpg")
    tick.dies()
    assert tick() == [], "the messages are hidden for now"
    time.sleep(1.1)
    assert tick() == [("a.mp4", "a.mp4")]
    tick.dies()
    time.sleep(1.1)
    assert tick() == [("photos", "photos")], "what waited still waits"
    assert tick() == []
    assert told.left() == 0


def test_a_lost_event_is_made_good_by_the_hourly_listing(
    told: Telling, tick: Ticker, monkeypatch: pytest.MonkeyPatch
) -> None:
    told.put("videos/a.mp4")
    told.put("videos/photos/1.jpg")
    told.lose()
    assert tick() == []
    hour = sensors.LISTING_EVERY_S
    monkeypatch.setattr(sensors.time, "time", lambda: time.monotonic() + 1e9)
    assert tick() == [("a.mp4", "a.mp4")]
    assert tick() == [("photos", "photos")], "a folder is seen twice, and the second look is at that folder alone"
    monkeypatch.setattr(sensors.time, "time", lambda: time.monotonic() + 1e9 + hour)
    assert tick() == []
    assert abs(sensors.Cursor.load(tick.cursor).listed - (time.monotonic() + 1e9 + hour)) < 60


def test_a_queue_that_cannot_be_asked_fails_the_tick_but_not_the_listing(
    told: Telling, instance: DagsterInstance, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    tick = Ticker(instance, storage, "tiny_new_videos", told.reader(told.queue + "x"))
    told.put("videos/a.mp4")
    assert tick() == [("a.mp4", "a.mp4")]
    with pytest.raises(Exception, match="DETECTION_AWS_QUEUE"):
        tick()
    told.put("videos/b.mp4")
    monkeypatch.setattr(sensors, "LISTING_EVERY_S", 0.0)
    assert tick() == [("b.mp4", "b.mp4")]


def test_a_folder_that_grows_waits_and_nothing_else_is_listed(
    told: Telling, tick: Ticker, storage: Storage, between: Between
) -> None:
    for number in range(3):
        told.put(f"videos/photos/deeper/{number}.mp4")
        told.put(f"videos/other/{number}.jpg")
    for _ in range(3):
        tick()
    taken_in(storage)
    before = len(between.seen)
    for number in range(3):
        told.put(f"videos/photos/{number}.jpg")
        assert tick() == []
    assert tick() == [("photos", "photos")]
    taken_in(storage)
    listings = [one.path for one in between.seen[before:] if "list-type" in one.path and "known" not in one.path]
    told.delete("videos/photos/0.jpg")
    assert tick() == []
    assert tick() == [("photos", "photos")], "a folder from which an image went has changed"
    assert all("prefix=tiny%2Fvideos%2Fphotos%2F" in path for path in listings[:4])
    assert all("delimiter" in path for path in listings[:4]), "what lies deeper is not listed"


HOSTILE = [
    "not json",
    {"Event": "s3:TestEvent", "Bucket": "lake"},
    {"Records": []},
    *(
        {"source": "aws.s3", "detail": {"bucket": {"name": "BUCKET"}, "object": {"key": f"tiny/videos/{key}"}}}
        for key in (
            "", "/", "//", "a//b.mp4", "../../other/videos/x.mp4", "./a.mp4", "..", "three...dots.mp4", "a#1.mp4",
            "new\nline.mp4", "\x00", "x" * 1100, "映" * 400 + ".mp4", "loose.jpg", "notes.txt", ".hidden.mp4",
            "a.mp4.part", "gone.mp4", "gone/1.jpg", "%2e%2e/%2e%2e", "\\..\\", "back\\slash.mp4", "?list-type=2", "*",
            "a b/ c .mp4",
        )
    ),
]  # fmt: skip


def test_hostile_messages_stop_nobody_and_are_not_looked_at_twice(
    told: Telling, tick: Ticker, instance: DagsterInstance
) -> None:
    for body in HOSTILE:
        told.send(body if isinstance(body, str) else json.dumps(body).replace("BUCKET", told.bucket))
    told.send(
        {"Records": [record("elsewhere", "tiny/videos/a.mp4"), record(told.bucket, "tiny/videos/good%20one.mp4")]}
    )
    told.put("videos/good one.mp4")
    assert tick() == [("good one.mp4", "good one.mp4")]
    for word in (
        "no JSON: 'not json'",
        "another lake, 'elsewhere'",
        "gone.mp4: it is not there",
        "three dots in a row",
    ):
        assert [line for line in tick.said if word in line], word
    assert not [line for line in tick.said if "TestEvent" in line], "S3 sends one to every new queue"
    said = len(tick.said)
    assert instance.get_dynamic_partitions("tiny_videos") == ["good one.mp4"]
    assert tick() == []
    assert told.left() == 0
    assert len(tick.said) == said, "once is enough"


def test_a_folder_that_is_made_in_the_console_is_no_video(
    told: Telling, tick: Ticker, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    told.put("videos/photos/", b"")
    assert tick() == []
    monkeypatch.setattr(sensors, "LISTING_EVERY_S", 0.0)
    assert tick() == []
    assert instance.get_dynamic_partitions("tiny_videos") == []


def test_many_that_come_at_once_make_few_runs(told: Telling, tick: Ticker) -> None:
    for number in range(30):
        told.put(f"videos/{number:02}.mp4")
    assert tick() == [("00.mp4", "29.mp4")]


def test_more_than_is_worth_looking_up_is_listed(
    told: Telling, tick: Ticker, between: Between, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "MOST_LOOKS", 5)
    for number in range(9):
        told.put(f"videos/{number}.mp4")
    before = len(between.seen)
    assert tick() == [("0.mp4", "8.mp4")]
    assert not [one for one in between.seen[before:] if one.method == "HEAD"]
    assert tick() == []
    assert told.left() == 0


def test_a_cursor_from_before_there_was_a_queue_goes_on(
    told: Telling, instance: DagsterInstance, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Ticker(instance, storage, "tiny_new_videos")
    told.put("videos/a.mp4")
    assert before() == []
    tick = Ticker(instance, storage, "tiny_new_videos", told.reader())
    tick.cursor = before.cursor
    assert tick() == [("a.mp4", "a.mp4")], "the first tick with a queue lists: its rule may be younger than a video"
    assert tick() == []


def test_on_azure_a_tick_takes_a_message_and_the_next_one_ends_it(
    queue_server: str, blob_lake: str, home: Path, instance: DagsterInstance
) -> None:
    write_detector(home, "tiny")
    with telling_blob.telling(queue_server, blob_lake, "eventgrid") as told:
        tick = Ticker(instance, Storage(root=blob_lake, prefix="tiny"), "tiny_new_videos", told.reader())
        assert tick() == [], "it has listed everything once"
        told.put("videos/two words/ä+b.mp4")
        told.put("videos/photos/1.jpg")
        assert tick() == [("two words/ä+b.mp4", "two words/ä+b.mp4")]
        assert told.left() == 2, "not before it is certain that the cursor was kept"
        assert tick() == [("photos", "photos")], "a folder of images is looked at twice"
        assert told.left() == 0
        told.delete("videos/photos/1.jpg")
        told.send("rubbish")
        assert tick() == []
        assert [line for line in tick.said if "no JSON: 'rubbish'" in line]
        assert tick() == []
        assert told.left() == 0

"""What a queue says, as S3 writes it and as nobody should."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
from fakes.s3 import Between, environment
from fakes.telling import WAYS, Telling, record, telling

from resources import profiles
from resources.arrivals import aws as module
from resources.arrivals.aws import QueueArrivals
from resources.arrivals.base import ArrivalsError
from resources.arrivals.local import NobodyTells
from resources.profiles import SettingsError
from resources.storage import Storage

NAMES = ["videos/a.mp4", "videos/two words/ä+b (1) 100%.mp4", "videos/映像/日本 %2F=&;.mp4"]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0)  # moto has one server, which knows at once


@pytest.fixture(params=WAYS)
def told(request: pytest.FixtureRequest, s3_server: str, s3_lake: str) -> Iterator[Telling]:
    with telling(s3_server, request.param) as one:
        yield one


@pytest.fixture
def one_way(s3_server: str, s3_lake: str) -> Iterator[Telling]:
    with telling(s3_server, "eventbridge") as one:
        yield one


def reader(told: Telling, queue: str | None = None) -> QueueArrivals:
    return QueueArrivals(storage=Storage(root=told.lake, prefix="tiny"), queue=queue or told.queue)


def emptied(told: Telling) -> QueueArrivals:
    """A reader of a queue from which the message is gone with which S3 tries a new one out."""
    one = reader(told)
    one.done([notice.receipt for notice in one.take(10)])
    return one


def test_what_comes_is_told_by_its_key_whatever_that_is(told: Telling) -> None:
    arrivals = emptied(told)
    for name in [*NAMES, "annotations/a.json", "videos/made in the console/"]:
        told.put(name)
    notices = arrivals.take(100)
    assert sorted(key for notice in notices for key in notice.keys) == sorted(NAMES)
    assert not [problem for notice in notices for problem in notice.problems]
    assert all(arrivals.storage.find(key) for notice in notices for key in notice.keys)
    arrivals.done([notice.receipt for notice in notices])
    assert told.left() == 0


def test_what_goes_is_told_too(told: Telling) -> None:
    told.put("videos/photos/1.jpg")
    arrivals = emptied(told)
    told.delete("videos/photos/1.jpg")
    assert [list(notice.keys) for notice in arrivals.take(10)] == [["videos/photos/1.jpg"]]


def test_the_message_that_tries_a_new_queue_out_is_no_problem(s3_server: str, s3_lake: str) -> None:
    with telling(s3_server, "notification") as told:
        (notice,) = reader(told).take(10)
        assert (notice.keys, notice.problems) == ([], [])


def test_who_takes_and_dies_has_lost_nothing(one_way: Telling, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HIDDEN_S", 1)
    arrivals = emptied(one_way)
    one_way.put("videos/a.mp4")
    (first,) = arrivals.take(10)
    assert arrivals.take(10) == [], "hidden from whoever takes next"
    time.sleep(1.1)
    (again,) = arrivals.take(10)
    assert again.keys == first.keys


def test_more_than_one_answer_holds_and_no_more_than_asked_for(one_way: Telling) -> None:
    arrivals = emptied(one_way)
    for number in range(27):
        one_way.put(f"videos/{number:02}.mp4")
    taken = [*arrivals.take(13), *arrivals.take(100)]
    assert len(taken) == 27
    assert len({notice.receipt for notice in taken}) == 27
    arrivals.done([notice.receipt for notice in taken])
    assert one_way.left() == 0


def test_a_message_that_was_ended_and_a_receipt_of_another_queue_are_no_error(one_way: Telling) -> None:
    arrivals = emptied(one_way)
    one_way.put("videos/a.mp4")
    receipts = [notice.receipt for notice in arrivals.take(10)]
    arrivals.done(receipts)
    arrivals.done([*receipts, "of another queue"])
    arrivals.done([])


BAD = {
    "text": ("hello\n\x07", "no JSON"),
    "nothing": (" ", "no JSON"),
    "a number": ("1e999", "no JSON"),
    "too deep": ("[" * 100_000, "no JSON"),
    "half a character": ('{"Event": "\\ud800"}', "no JSON"),
    "a list": ([], "no event of S3"),
    "of no service": ({"source": "aws.ec2", "detail": {}}, "no event of S3"),
    "without details": ({"source": "aws.s3"}, "no event of S3"),
    "a bucket that is none": ({"Records": [{"s3": {"bucket": {"name": 1}, "object": {"key": "k"}}}]}, "no event of S3"),
    "no key": ({"source": "aws.s3", "detail": {"bucket": {"name": "b"}, "object": {"key": None}}}, "no event of S3"),
    "records of nothing": ({"Records": [None]}, "no event of S3"),
    "records that are text": ({"Records": "s3"}, "no event of S3"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_event_of_s3_is_told_and_can_be_ended(one_way: Telling, case: str) -> None:
    body, why = BAD[case]
    arrivals = emptied(one_way)
    one_way.put("videos/a.mp4")
    one_way.send(body)
    notices = arrivals.take(10)
    assert [key for notice in notices for key in notice.keys] == ["videos/a.mp4"], "the others are none the worse"
    (problem,) = [problem for notice in notices for problem in notice.problems]
    assert why in problem
    assert len(problem) < 400
    assert problem.isprintable()
    arrivals.done([notice.receipt for notice in notices])
    assert one_way.left() == 0


def test_one_message_may_tell_of_many_and_only_what_is_ours_is_taken(one_way: Telling) -> None:
    arrivals, ours = emptied(one_way), one_way.bucket
    mine = [record(ours, quote_plus("tiny/" + name)) for name in NAMES]
    others = [("elsewhere", "tiny/videos/a.mp4"), (ours, "other/videos/a.mp4"), (ours, "tiny/frames/a"), (ours, "")]
    one_way.send({"Records": [*mine, *(record(*other) for other in others)]})
    (notice,) = arrivals.take(10)
    assert list(notice.keys) == NAMES
    assert len(notice.problems) == len(others)
    assert "another bucket, 'elsewhere'" in notice.problems[0]


def test_a_queue_that_is_not_there_says_what_to_do(one_way: Telling) -> None:
    nowhere = reader(one_way, one_way.queue + "-not-there")
    for ask in (lambda: nowhere.take(1), lambda: nowhere.done(["x"])):
        with pytest.raises(ArrivalsError, match=r"-not-there: .*infra/aws/detector.yaml.*DETECTION_AWS_QUEUE"):
            ask()
    (finding,) = nowhere.check()
    assert (finding.what, finding.state) == ("queue", "bad")
    assert "DETECTION_AWS_QUEUE" in finding.remedy
    (finding,) = reader(one_way).check()
    assert finding.state == "good"


def test_a_refusal_says_what_to_do(s3_server: str, one_way: Telling, monkeypatch: pytest.MonkeyPatch) -> None:
    denied = json.dumps({"__type": "com.amazonaws.sqs#AccessDeniedException", "message": "not you"}).encode()
    between = Between(before=lambda _: (403, denied))
    with between.open(s3_server) as url:
        for name, value in environment(url).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ArrivalsError, match="this right; infra/aws has the policy"):
            reader(one_way).take(1)
        (finding,) = reader(one_way).check()
    assert finding.state == "unknown", "looking at a queue takes a right that taking from it does not"


def resources(**settings: str) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        return profiles.resources_for("tiny", settings.get("DETECTION_PLATFORM"), host="127.0.0.1", port=0)


def test_a_setting_picks_the_queue_of_the_detector(home: Path, aws_settings: None) -> None:
    assert isinstance(resources()["arrivals"], NobodyTells)
    assert isinstance(resources(DETECTION_PLATFORM="aws")["arrivals"], NobodyTells)
    queue = "https://sqs.eu-central-1.amazonaws.com/123456789012/detection-{detector}-videos"
    found = resources(DETECTION_PLATFORM="aws", DETECTION_AWS_QUEUE=queue)["arrivals"]
    assert isinstance(found, QueueArrivals)
    assert found.queue.endswith("/detection-tiny-videos")


def test_detectors_may_not_share_a_queue(home: Path, aws_settings: None) -> None:
    with pytest.raises(SettingsError, match=r"DETECTION_AWS_QUEUE has no \{detector\} in it"):
        resources(DETECTION_PLATFORM="aws", DETECTION_AWS_QUEUE="https://sqs.eu-central-1.amazonaws.com/1/videos")


def test_where_nobody_tells_there_is_nothing_to_take_or_end() -> None:
    nobody = NobodyTells()
    assert not nobody.tells
    assert nobody.take(10) == ()
    nobody.done(["x"])
    assert list(nobody.check()) == []

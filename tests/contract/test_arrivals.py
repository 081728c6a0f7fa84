"""What a queue says, as a cloud's storage writes it and as nobody should."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
from fakes import azureml, blob, telling, telling_blob
from fakes.s3 import Between, environment, refusal
from fakes.telling import Telling, record

from resources import profiles
from resources.arrivals import aws, managed
from resources.arrivals.aws import SqsArrivals
from resources.arrivals.azure import StorageQueueArrivals
from resources.arrivals.base import ArrivalsError
from resources.arrivals.local import NobodyTells
from resources.arrivals.managed import QueueArrivals
from resources.profiles import SettingsError

NAMES = ["videos/a.mp4", "videos/two words/ä+b (1) 100%.mp4", "videos/映像/日本 %2F=&;.mp4"]
AnyTelling = Telling | telling_blob.Telling


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws, "WAIT_S", 0)  # moto has one server, which knows at once


def _told(way: str, request: pytest.FixtureRequest) -> Iterator[AnyTelling]:
    platform, _, schema = way.partition("-")
    if platform == "aws":
        server, _ = request.getfixturevalue("s3_server"), request.getfixturevalue("s3_lake")
        with telling.telling(server, schema) as one:  # type: ignore[arg-type]
            yield one
    else:
        lake = request.getfixturevalue("blob_lake")
        with telling_blob.telling(request.getfixturevalue("queue_server"), lake, schema) as one:  # type: ignore[arg-type]
            yield one


@pytest.fixture(params=[*(f"aws-{way}" for way in telling.WAYS), *(f"azure-{way}" for way in telling_blob.WAYS)])
def told(request: pytest.FixtureRequest) -> Iterator[AnyTelling]:
    """Every way that a message can be written in."""
    yield from _told(request.param, request)


@pytest.fixture(params=["aws", "azure"])
def one_way(request: pytest.FixtureRequest) -> Iterator[AnyTelling]:
    """One way of each platform."""
    yield from _told({"aws": "aws-eventbridge", "azure": "azure-eventgrid"}[request.param], request)


@pytest.fixture
def on_aws(request: pytest.FixtureRequest) -> Iterator[Any]:
    yield from _told("aws-eventbridge", request)


@pytest.fixture
def on_azure(request: pytest.FixtureRequest) -> Iterator[Any]:
    yield from _told("azure-eventgrid", request)


def emptied(told: AnyTelling) -> QueueArrivals:
    """A reader of a queue from which the message is gone with which S3 tries a new one out."""
    one = told.reader()
    one.done([notice.receipt for notice in one.take(10)])
    return one


def test_what_comes_is_told_by_its_key_whatever_that_is(told: AnyTelling) -> None:
    arrivals = emptied(told)
    for name in [*NAMES, "annotations/a.json", "videos/made in the console/"]:
        told.put(name)
    notices = arrivals.take(100)
    assert sorted(key for notice in notices for key in notice.keys) == sorted(NAMES)
    assert not [problem for notice in notices for problem in notice.problems]
    assert all(arrivals.storage.find(key) for notice in notices for key in notice.keys)
    arrivals.done([notice.receipt for notice in notices])
    assert told.left() == 0


def test_what_goes_is_told_too(told: AnyTelling) -> None:
    told.put("videos/photos/1.jpg")
    arrivals = emptied(told)
    told.delete("videos/photos/1.jpg")
    assert [list(notice.keys) for notice in arrivals.take(10)] == [["videos/photos/1.jpg"]]


def test_the_message_that_tries_a_new_queue_out_is_no_problem(s3_server: str, s3_lake: str) -> None:
    with telling.telling(s3_server, "notification") as told:
        (notice,) = told.reader().take(10)
        assert (notice.keys, notice.problems) == ([], [])


def test_who_takes_and_dies_has_lost_nothing(one_way: AnyTelling, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(managed, "HIDDEN_S", 1)
    arrivals = emptied(one_way)
    one_way.put("videos/a.mp4")
    (first,) = arrivals.take(10)
    assert arrivals.take(10) == [], "hidden from whoever takes next"
    time.sleep(1.1)
    (again,) = arrivals.take(10)
    assert again.keys == first.keys


def test_more_than_one_answer_holds_and_no_more_than_asked_for(one_way: AnyTelling) -> None:
    arrivals = emptied(one_way)
    for number in range(27):
        one_way.put(f"videos/{number:02}.mp4")
    taken = [*arrivals.take(13), *arrivals.take(100)]
    assert len(taken) == 27
    assert len({notice.receipt for notice in taken}) == 27
    arrivals.done([notice.receipt for notice in taken])
    assert one_way.left() == 0


def test_a_message_that_was_ended_and_a_receipt_of_another_queue_are_no_error(one_way: AnyTelling) -> None:
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
    "too deep": ("[" * 40_000, "no JSON"),
    "half a character": ('{"Event": "\\ud800"}', "no JSON"),
    "a list": (["s3"], "no event of the lake's"),
    "a word": ('"s3"', "no event of the lake's"),
    "of no service": ({"source": "aws.ec2", "detail": {}}, "no event of the lake's"),
    "without details": ({"source": "aws.s3", "eventType": "Microsoft.Storage.BlobCreated"}, "no event of the lake's"),
    "records of nothing": ({"Records": [None]}, "no event of the lake's"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_event_of_the_lakes_is_told_and_can_be_ended(one_way: AnyTelling, case: str) -> None:
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


BAD_EVENTS = {
    "bucket that is none": ({"Records": [{"s3": {"bucket": {"name": 1}, "object": {"key": "k"}}}]}),
    "no key": {"source": "aws.s3", "detail": {"bucket": {"name": "b"}, "object": {"key": None}}},
    "records that are text": {"Records": "s3"},
}
BAD_EVENTS_OF_BLOB: dict[str, Any] = {
    "another kind": {"eventType": "Microsoft.Storage.BlobTierChanged", "data": {"url": "https://a.blob.b/c/d"}},
    "an address that is none": {"eventType": "Microsoft.Storage.BlobCreated", "data": {"url": 1}},
    "half an address": {"type": "Microsoft.Storage.BlobCreated", "data": {"url": "https://[::1/c/d"}},
    "data that are text": {"type": "Microsoft.Storage.BlobDeleted", "data": "https://a.blob.b/c/d"},
    "a list with a stranger in it": [{"type": "Microsoft.Storage.BlobDeleted", "data": {}}, None],
    "half a renaming": {"eventType": "Microsoft.Storage.BlobRenamed", "data": {"sourceUrl": "https://a.blob.b/c/d"}},
}


@pytest.mark.parametrize("case", BAD_EVENTS)
def test_an_event_of_s3_that_names_nothing_is_told(s3_lake: str, case: str) -> None:
    arrivals = SqsArrivals(storage=profiles.Storage(root=s3_lake, prefix="tiny"), queue="q")
    notice = arrivals._notice(managed.Message("r", json.dumps(BAD_EVENTS[case])))
    assert ["no event of the lake's" in problem for problem in notice.problems] == [True]


@pytest.mark.parametrize("case", BAD_EVENTS_OF_BLOB)
def test_an_event_of_blob_storage_that_names_nothing_is_told(blob_lake: str, case: str) -> None:
    arrivals = StorageQueueArrivals(storage=profiles.Storage(root=blob_lake, prefix="tiny"), queue="q")
    notice = arrivals._notice(managed.Message("r", json.dumps(BAD_EVENTS_OF_BLOB[case])))
    assert ["no event of the lake's" in problem for problem in notice.problems] == [True]


def test_one_message_may_tell_of_many_and_only_what_is_ours_is_taken(on_aws: Telling) -> None:
    arrivals, ours = emptied(on_aws), on_aws.bucket
    mine = [record(ours, quote_plus("tiny/" + name)) for name in NAMES]
    others = [("elsewhere", "tiny/videos/a.mp4"), (ours, "other/videos/a.mp4"), (ours, "tiny/frames/a"), (ours, "")]
    on_aws.send({"Records": [*mine, *(record(*other) for other in others)]})
    (notice,) = arrivals.take(10)
    assert list(notice.keys) == NAMES
    assert len(notice.problems) == len(others)
    assert "another lake, 'elsewhere'" in notice.problems[0]


@pytest.mark.parametrize("schema", telling_blob.WAYS)
def test_events_of_blob_storage_may_come_together_and_only_what_is_ours_is_taken(
    on_azure: telling_blob.Telling, schema: telling_blob.Way
) -> None:
    on_azure.way = schema
    mine = [on_azure.event(f"tiny/{name}") for name in NAMES]
    container = f"{blob.ACCOUNT}/elsewhere"
    account = f"somebody/{blob.CONTAINER}"
    others = [on_azure.event("tiny/videos/a.mp4", lake) for lake in (container, account)]
    others += [on_azure.event(key) for key in ("other/videos/a.mp4", "tiny/frames/a", "")]
    on_azure.send([*mine, *others])
    (notice,) = on_azure.reader().take(10)
    assert list(notice.keys) == NAMES
    assert len(notice.problems) == len(others)
    assert f"another lake, '{container}'" in notice.problems[0]
    assert f"another lake, '{account}'" in notice.problems[1]


def test_an_address_with_the_account_in_its_path_is_read_too(on_azure: telling_blob.Telling) -> None:
    event = on_azure.event("tiny/videos/a b.mp4")
    event["data"]["url"] = event["data"]["url"].replace(
        f"https://{blob.ACCOUNT}.blob.core.windows.net", f"https://127.0.0.1:10000/{blob.ACCOUNT}"
    )
    on_azure.send(event)
    assert [list(notice.keys) for notice in on_azure.reader().take(10)] == [["videos/a b.mp4"]]


def test_a_blob_that_is_renamed_goes_and_comes_and_one_that_is_begun_does_neither(
    on_azure: telling_blob.Telling,
) -> None:
    urls = [on_azure.event(f"tiny/videos/{name}")["data"]["url"] for name in ("a/1.jpg", "b/1.jpg")]
    renamed = on_azure.event("tiny/videos/b/1.jpg", kind="Microsoft.Storage.BlobRenamed", api="RenameFile")
    renamed["data"] |= {"sourceUrl": urls[0], "destinationUrl": urls[1]}
    on_azure.send(renamed)
    for api in ("CreateFile", "SftpCreate"):
        on_azure.send(on_azure.event("tiny/videos/c.mp4", api=api))
    on_azure.send(on_azure.event("tiny/videos/d.mp4", api="FlushWithClose"))
    notices = on_azure.reader().take(10)
    assert [list(notice.keys) for notice in notices] == [["videos/a/1.jpg", "videos/b/1.jpg"], [], [], ["videos/d.mp4"]]
    assert not [problem for notice in notices for problem in notice.problems]


def test_a_message_that_is_not_in_base64_is_read_all_the_same(on_azure: telling_blob.Telling) -> None:
    on_azure._queue.send_message(json.dumps(on_azure.event("tiny/videos/a.mp4")))
    on_azure._queue.send_message("!")
    first, second = on_azure.reader().take(10)
    assert list(first.keys) == ["videos/a.mp4"]
    assert second.problems == ["a message that is no JSON: '!'"]


def test_a_message_that_ticks_died_of_is_ended_with_a_line(
    on_azure: telling_blob.Telling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managed, "MOST_TIMES", 1)
    on_azure.put("videos/a.mp4")
    on_azure.put("videos/b.mp4")
    (message,) = on_azure._queue.receive_messages(max_messages=1, visibility_timeout=1)
    on_azure._queue.update_message(message, visibility_timeout=0)
    first, second = sorted(on_azure.reader().take(10), key=lambda notice: len(notice.problems))
    assert len(first.keys) == 1
    assert not second.keys
    assert "a message that was taken 2 times, and that nobody lived to end" in second.problems[0]
    on_azure.reader().done([first.receipt, second.receipt])
    assert on_azure.left() == 0


def test_receipts_of_another_kind_of_queue_are_no_error(on_azure: telling_blob.Telling) -> None:
    """What a cursor holds from before a lake was moved."""
    on_azure.put("videos/a.mp4")
    on_azure.reader().done(["AQEB/r+Z=", "a/b?c d", "", "x y z"])
    assert on_azure.left() == 1


def test_a_queue_that_is_not_there_says_what_to_do(one_way: AnyTelling) -> None:
    nowhere = one_way.reader(one_way.queue + "-not-there")
    file = {"DETECTION_AWS_QUEUE": "infra/aws/detector.yaml", "DETECTION_AZURE_QUEUE": "infra/azure/detector.bicep"}
    for ask in (lambda: nowhere.take(1), lambda: nowhere.done(["x"])):
        with pytest.raises(ArrivalsError, match=rf"-not-there: .*{file[one_way.setting]}.*{one_way.setting}"):
            ask()
    (finding,) = nowhere.check()
    assert (finding.what, finding.state) == ("queue", "bad")
    assert one_way.setting in finding.remedy
    (finding,) = one_way.reader().check()
    assert finding.state == "good"


def test_a_refusal_says_what_to_do(s3_server: str, on_aws: Telling, monkeypatch: pytest.MonkeyPatch) -> None:
    denied = json.dumps({"__type": "com.amazonaws.sqs#AccessDeniedException", "message": "not you"}).encode()
    between = Between(before=lambda _: (403, denied))
    with between.open(s3_server) as url:
        for name, value in environment(url).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ArrivalsError, match="this right; infra/aws has the policy"):
            on_aws.reader().take(1)
        (finding,) = on_aws.reader().check()
    assert finding.state == "unknown", "looking at a queue takes a right that taking from it does not"


@pytest.mark.parametrize(
    ("status", "code", "remedy"),
    [
        (403, "AuthorizationPermissionMismatch", "the role Storage Queue Data Message Processor"),
        (403, "AuthenticationFailed", "does not know these credentials; correct them in .env"),
        (400, "OutOfRangeInput", "DETECTION_AZURE_QUEUE"),
    ],
)
def test_a_refusal_of_a_storage_queue_says_what_to_do(
    queue_server: str, on_azure: telling_blob.Telling, status: int, code: str, remedy: str
) -> None:
    between = Between(before=lambda _: refusal(status, code))
    with between.open(queue_server) as url:
        arrivals = on_azure.reader(on_azure.queue.replace(queue_server, url))
        with pytest.raises(ArrivalsError, match=remedy) as raised:
            arrivals.take(1)
        (finding,) = arrivals.check()
    assert len(str(raised.value)) < 500
    assert (finding.what, finding.state) == ("queue", "bad")
    assert remedy in finding.remedy


WAYS_IN = {
    "a connection string": lambda key, _: {
        "AZURE_STORAGE_CONNECTION_STRING": f"AccountName={blob.ACCOUNT};AccountKey={key};"
        f"BlobEndpoint=https://{blob.ACCOUNT}.blob.core.windows.net"
    },
    "a signature": lambda _, signature: {"AZURE_STORAGE_SAS_TOKEN": f"?{signature}"},
    "an identity": lambda *_: {},
}


@pytest.mark.parametrize("way_in", WAYS_IN)
def test_a_queue_is_opened_as_the_lake_is(
    on_azure: telling_blob.Telling, way_in: str, azureml_service: azureml.AzureML, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import datetime, timedelta, timezone

    from azure.storage.queue import AccountSasPermissions, ResourceTypes, generate_account_sas

    # In a connection string nothing else of the environment counts.
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "bm9uZSBvZiB0aGVz")
    if way_in != "a connection string":
        monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
    signature = generate_account_sas(
        blob.ACCOUNT, blob.KEY, ResourceTypes(service=True, container=True, object=True),
        AccountSasPermissions(read=True, process=True, delete=True), datetime.now(timezone.utc) + timedelta(hours=1),
    )  # fmt: skip
    for name, value in {**azureml_service.settings, **WAYS_IN[way_in](blob.KEY, signature)}.items():
        monkeypatch.setenv(name, value)
    on_azure.send(on_azure.event("tiny/videos/a.mp4"))
    arrivals = on_azure.reader()
    (finding,) = arrivals.check()
    assert (finding.state, finding.told) == ("good", f"{on_azure.queue}: 1 messages")
    (notice,) = arrivals.take(10)
    assert list(notice.keys) == ["videos/a.mp4"]
    arrivals.done([notice.receipt])
    assert on_azure.left() == 0


def test_what_is_no_queues_address_says_so(on_azure: telling_blob.Telling) -> None:
    with pytest.raises(ArrivalsError, match="DETECTION_AZURE_QUEUE"):
        on_azure.reader("not-an-address").take(1)


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
    assert isinstance(found, SqsArrivals)
    assert found.queue.endswith("/detection-tiny-videos")


def test_a_setting_picks_the_queue_of_the_detector_on_azure(home: Path, azure_settings: None) -> None:
    assert isinstance(resources(DETECTION_PLATFORM="azure")["arrivals"], NobodyTells)
    queue = "https://me.queue.core.windows.net/detection-{detector}-videos"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTION_AZURE_QUEUE", queue)
        found = profiles.azure("cold_shelf", host="127.0.0.1", port=0)["arrivals"]
        patch.setenv("DETECTION_AZURE_QUEUE", queue.replace("{detector}", "all"))
        with pytest.raises(SettingsError, match=r"DETECTION_AZURE_QUEUE has no \{detector\} in it"):
            profiles.azure("cold_shelf", host="127.0.0.1", port=0)
    assert isinstance(found, StorageQueueArrivals)
    assert found.queue.endswith("/detection-cold-shelf-videos"), "a queue's name has no underscores"


def test_detectors_may_not_share_a_queue(home: Path, aws_settings: None) -> None:
    with pytest.raises(SettingsError, match=r"DETECTION_AWS_QUEUE has no \{detector\} in it"):
        resources(DETECTION_PLATFORM="aws", DETECTION_AWS_QUEUE="https://sqs.eu-central-1.amazonaws.com/1/videos")


def test_where_nobody_tells_there_is_nothing_to_take_or_end() -> None:
    nobody = NobodyTells()
    assert not nobody.tells
    assert nobody.take(10) == ()
    nobody.done(["x"])
    assert list(nobody.check()) == []

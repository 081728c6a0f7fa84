"""What events said is noted once, and believed only of the log that it was read from."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import orjson
import pytest
from dagster import DagsterInstance
from project import make_home

from resources import event_notes, versions
from resources.instance import open_instance

KEY = dg.AssetKey(["tiny", "annotations"])


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    make_home(tmp_path / "home", monkeypatch.setenv)
    with open_instance() as opened:
        yield opened


def make(instance: DagsterInstance, **made: str) -> None:
    for video, version in made.items():
        tags = {versions.DATA: version, versions.CODE: "1"}
        instance.report_runless_asset_event(dg.AssetMaterialization(KEY, partition=video, tags=tags))


def said(instance: DagsterInstance) -> Mapping[str, str]:
    return {video: one.tag(versions.DATA) for video, one in event_notes.latest(instance, KEY).items()}


def read(patch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the events that are read from now on."""
    numbers: list[int] = []
    real = event_notes.read

    def reading(instance: DagsterInstance, key: dg.AssetKey, ids: Any) -> list[event_notes.Noted]:
        numbers.extend(ids)
        return real(instance, key, ids)

    patch.setattr(event_notes, "read", reading)
    return numbers


def test_an_event_is_read_once(instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    make(instance, a="1", b="1", c="1")
    first = event_notes.latest(instance, KEY)
    numbers = read(monkeypatch)
    assert event_notes.latest(instance, KEY) == first
    assert numbers == [first["c"].id], "the newest, to see that it is the same log"
    make(instance, b="2")
    numbers.clear()
    assert said(instance) == {"a": "1", "b": "2", "c": "1"}
    assert numbers == [first["c"].id, first["c"].id + 1]
    numbers.clear()
    log = event_notes.Log(instance)
    assert log.last(KEY) == log.latest(KEY)["b"]
    assert numbers == [], "the newest was read already"


def test_a_partition_whose_events_are_gone_is_in_no_note(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(instance, a="1", b="1")
    ids = dict(event_notes.latest(instance, KEY).ids)
    del ids["a"]
    assert set(event_notes.latest(instance, KEY, ids)) == {"b"}
    numbers = read(monkeypatch)
    assert event_notes.latest(instance, KEY, ids).column(versions.DATA) == {"b": "1"}
    assert len(numbers) == 1, "only the newest is read, for ever after as well"


def test_what_is_noted_is_what_the_event_says(instance: DagsterInstance) -> None:
    make(instance, a="1")
    instance.report_runless_asset_event(dg.AssetMaterialization(KEY, partition="bare"))
    for _ in range(2):
        found = event_notes.latest(instance, KEY)
        assert [found["a"].tag(name) for name in (versions.DATA, versions.CODE, "no such")] == ["1", "1", ""]
        assert found["bare"].tag(versions.CODE) == ""
        record = instance.fetch_materializations(dg.AssetRecordsFilter(KEY, asset_partitions=["a"]), limit=1).records[0]
        assert (found["a"].id, found["a"].at, found["a"].run) == (record.storage_id, record.timestamp, record.run_id)


def test_notes_of_another_log_that_counts_from_one_again_are_not_believed(
    instance: DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(instance, a="1", b="1")
    event_notes.latest(instance, KEY)
    place = event_notes.PLACE + KEY.to_user_string()
    noted = instance.daemon_cursor_storage.get_cursor_values({place})
    make_home(tmp_path / "another", monkeypatch.setenv)
    with open_instance() as other:
        make(other, a="7", b="7")
        assert event_notes.latest_ids(other, KEY) == event_notes.latest_ids(instance, KEY)
        other.daemon_cursor_storage.set_cursor_values(noted)
        assert said(other) == {"a": "7", "b": "7"}


def test_what_is_settled_is_believed_of_this_state_of_this_log_only(
    instance: DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(instance, a="1", b="1")
    state = event_notes.Log(instance).state([KEY], "code")
    event_notes.Log(instance).note("tiny/annotations", state, "so it is")
    assert event_notes.Log(instance).state([KEY], "code") == state
    assert event_notes.Log(instance).recall("tiny/annotations", state) == "so it is"
    assert event_notes.Log(instance).recall("tiny/raw_videos", state) is None
    assert event_notes.Log(instance).state([KEY], "another code") != state
    make(instance, a="1")
    assert event_notes.Log(instance).state([KEY], "code") != state, "the same version, made again"
    make_home(tmp_path / "another", monkeypatch.setenv)
    with open_instance() as other:
        make(other, a="1", b="1")
        assert event_notes.Log(other).state([KEY], "code") != state, "the same numbers, of other events"


def packed(**told: Any) -> str:
    return base64.b64encode(zlib.compress(orjson.dumps(told))).decode()


WHOLE = {"partitions": ["a"], "ids": [1], "at": [0.0], "runs": [""], "tags": {versions.DATA: ["7"]}}
BROKEN = {
    "empty": "",
    "no base64": "no base64!",
    "not compressed": "AAAA",
    "no JSON": base64.b64encode(zlib.compress(b"{")).decode(),
    "not a table": base64.b64encode(zlib.compress(b"[1]")).decode(),
    "of another release": packed(**{**WHOLE, "format": 1}),
    "a column is missing": packed(format=2, partitions=["a"], ids=[1]),
    "a column is shorter": packed(**{**WHOLE, "format": 2, "at": []}),
    "a tag's column is longer": packed(**{**WHOLE, "format": 2, "tags": {versions.DATA: ["7", "8"]}}),
    "tags are no columns": packed(**{**WHOLE, "format": 2, "tags": [1]}),
    "of another event": packed(**{**WHOLE, "format": 2}),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_notes_that_are_broken_are_made_anew(instance: DagsterInstance, broken: str) -> None:
    make(instance, a="1")
    instance.daemon_cursor_storage.set_cursor_values({event_notes.PLACE + KEY.to_user_string(): broken})
    assert said(instance) == {"a": "1"}
    assert event_notes._recall(instance, KEY)


def test_who_may_not_write_asks_all_the_same(instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise PermissionError("read-only")

    make(instance, a="1")
    monkeypatch.setattr(type(instance.daemon_cursor_storage), "set_cursor_values", refused)
    assert said(instance) == {"a": "1"}
    assert event_notes._recall(instance, KEY) == {}
    event_notes.Log(instance).note("tiny/annotations", "state", "so it is")
    assert event_notes.Log(instance).recall("tiny/annotations", "state") is None

"""What the last event of each partition said of versions, noted beside Dagster's log, so that it is read once.

Dagster indexes an event's data version. What the event was made of stands in the event itself, between pictures and
tables: to read one takes a millisecond, and there is one for each video and stage. An event never changes, so its tags
are noted under its number, in the key-value store of the same database. They are gone when that is gone, and may be
deleted at any time: what is not noted is read.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import dagster as dg
import orjson
from dagster import DagsterEventType, DagsterInstance

MADE = DagsterEventType.ASSET_MATERIALIZATION
CHUNK = 2000
"""Events fetched, and partitions asked for by name, in one query."""
FORMAT = 1
PLACE = "detection/event_notes/"
"""How the names of the notes begin."""
SETTLED = "settled"
"""What is noted where nothing is stale."""


@dataclass(frozen=True)
class Noted:
    """A materialization.

    Attributes:
        partition: What it is of; None where the asset has no partitions.
        id: Its number in the log.
        at: When, seconds since 1970.
        run: The run's id.
        names: Where each tag stands in `values`; one for all events that were noted together.
        values: Of its tags: data version, code version, what it read; None where it lacks one.
    """

    partition: str | None
    id: int
    at: float
    run: str
    names: Mapping[str, int]
    values: Sequence[str | None]

    def tag(self, name: str) -> str:
        """One of its tags, or ""."""
        place = self.names.get(name)
        return (self.values[place] if place is not None else None) or ""


def column(known: Mapping[str, Noted], name: str) -> dict[str, str]:
    """One tag of each partition's event, or ""."""
    return {partition: one.tag(name) for partition, one in known.items()}


class Log:
    """The log as one question sees it: of each asset it is asked once.

    Attributes:
        instance: The Dagster instance.
    """

    def __init__(self, instance: DagsterInstance) -> None:
        self.instance = instance
        self._ids: dict[dg.AssetKey, dict[str, int]] = {}
        self._states: dict[dg.AssetKey, str] = {}
        self._latest: dict[dg.AssetKey, Mapping[str, Noted]] = {}
        self._last: dict[dg.AssetKey, Noted | None] = {}

    def last(self, key: dg.AssetKey) -> Noted | None:
        """The last materialization of an asset, of whatever partition; None if it was never made."""
        if key not in self._last:
            self._last[key] = last(self.instance, key)
        return self._last[key]

    def latest(self, key: dg.AssetKey) -> Mapping[str, Noted]:
        """The last materialization of each partition that has one."""
        if key not in self._latest:
            self._latest[key] = latest(self.instance, key, self.ids(key))
        return self._latest[key]

    def ids(self, key: dg.AssetKey) -> dict[str, int]:
        """The number of the last materialization of each partition that has one."""
        if key not in self._ids:
            self._ids[key] = latest_ids(self.instance, key)
        return self._ids[key]

    def state(self, keys: Iterable[dg.AssetKey], *more: object) -> str:
        """A digest of which events are the last of some assets, for `recall`: events do not change, so numbers tell.

        Args:
            keys: The assets.
            more: What else an answer depends on, as JSON holds it.
        """
        return digest([FORMAT, *more, *(self._state(key) for key in sorted(keys))])

    def _state(self, key: dg.AssetKey) -> str:
        if key not in self._states:
            last = self.last(key)
            # Numbers may count from 1 again, in another log.
            said = [key.to_user_string(), *((last.id, last.at, last.run) if last else ())]
            self._states[key] = digest([said, *(self.ids(key).items() if last and last.partition is not None else ())])
        return self._states[key]

    def recall(self, what: str, state: str) -> str | None:
        """What `note` noted of an asset, or of a lake, in this state; None if it was in another."""
        before, _, found = (_get(self.instance, f"settled/{what}") or "").partition(" ")
        return found if before == state else None

    def note(self, what: str, state: str, found: str) -> None:
        """Notes what is true as long as this is the state, so that nobody has to find it out again."""
        _put(self.instance, f"settled/{what}", f"{state} {found}")


def last(instance: DagsterInstance, key: dg.AssetKey) -> Noted | None:
    """The last materialization of an asset, of whatever partition; None if it was never made."""
    return next(map(noted, instance.fetch_materializations(key, limit=1).records), None)


def latest(instance: DagsterInstance, key: dg.AssetKey, ids: Mapping[str, int] | None = None) -> dict[str, Noted]:
    """The last materialization of each partition that has one, whose numbers may be known already."""
    ids = latest_ids(instance, key) if ids is None else ids
    known = _recall(instance, key)
    found = {
        partition: known[partition] for partition, at in ids.items() if partition in known and known[partition].id == at
    }
    missing = {at: partition for partition, at in ids.items() if partition not in found}
    if missing:
        fresh = {missing[one.id]: one for one in read(instance, key, list(missing))}
        found |= fresh
        _keep(instance, key, {**known, **fresh})
    return found


def latest_ids(instance: DagsterInstance, key: dg.AssetKey, partitions: Sequence[str] | None = None) -> dict[str, int]:
    """The number of the last materialization of each partition that has one; of these partitions, or of all."""
    wanted = None if partitions is None else set(partitions)
    asked = wanted if wanted is not None and len(wanted) <= CHUNK else None
    found = instance.event_log_storage.get_latest_storage_id_by_partition(key, MADE, asked)
    return {partition: at for partition, at in found.items() if wanted is None or partition in wanted}


def records(instance: DagsterInstance, key: dg.AssetKey, ids: Sequence[int]) -> Iterator[dg.EventLogRecord]:
    """The events of these numbers, as they are in the log; those that are gone are left out."""
    for first in range(0, len(ids), CHUNK):
        asked = dg.AssetRecordsFilter(asset_key=key, storage_ids=list(ids[first : first + CHUNK]))
        yield from instance.fetch_materializations(asked, limit=CHUNK).records


def read(instance: DagsterInstance, key: dg.AssetKey, ids: Sequence[int]) -> list[Noted]:
    """Reads events by their numbers; those that are gone are left out."""
    return list(map(noted, records(instance, key, ids)))


def noted(record: dg.EventLogRecord) -> Noted:
    """What is noted of an event."""
    event = record.asset_materialization
    tags = (event.tags if event else None) or {}
    names = {name: place for place, name in enumerate(tags)}
    return Noted(
        event.partition if event else None,
        record.storage_id,
        record.timestamp,
        record.run_id,
        names,
        list(tags.values()),
    )


def digest(of: Sequence[object]) -> str:
    """A digest of what JSON can hold."""
    return hashlib.blake2b(orjson.dumps(of), digest_size=16).hexdigest()


def _recall(instance: DagsterInstance, key: dg.AssetKey) -> dict[str, Noted]:
    """What was noted; nothing if it is of another log that counts from 1 again, or cannot be read."""
    text = _get(instance, key.to_user_string())
    if text is None:
        return {}
    try:
        told: dict[str, Any] = orjson.loads(zlib.decompress(base64.b64decode(text)))
        if told["format"] != FORMAT:
            return {}
        names = {name: place for place, name in enumerate(told["names"])}
        known = {name: Noted(name, at, time, run, names, values) for name, at, time, run, values in told["events"]}
    except (ValueError, KeyError, TypeError, zlib.error):
        return {}
    newest = max(known.values(), key=lambda one: one.id, default=None)
    there = read(instance, key, [newest.id]) if newest is not None else []
    same = bool(there) and newest is not None and (there[0].run, there[0].at) == (newest.run, newest.at)
    return known if same else {}


def _keep(instance: DagsterInstance, key: dg.AssetKey, known: Mapping[str, Noted]) -> None:
    names = sorted({name for one in known.values() for name in one.names})
    events = [
        [partition, one.id, one.at, one.run, [one.tag(name) for name in names]] for partition, one in known.items()
    ]
    data = zlib.compress(orjson.dumps({"format": FORMAT, "names": names, "events": events}), 1)
    _put(instance, key.to_user_string(), base64.b64encode(data).decode())


def _get(instance: DagsterInstance, name: str) -> str | None:
    return instance.daemon_cursor_storage.get_cursor_values({PLACE + name}).get(PLACE + name)


def _put(instance: DagsterInstance, name: str, text: str) -> None:
    # Who may only read asks all the same, and finds it out again.
    with suppress(Exception):
        instance.daemon_cursor_storage.set_cursor_values({PLACE + name: text})

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
from functools import cached_property
from typing import NamedTuple

import dagster as dg
import orjson
from dagster import DagsterEventType, DagsterInstance

MADE = DagsterEventType.ASSET_MATERIALIZATION
CHUNK = 2000
"""Events fetched, and partitions asked for by name, in one query."""
FORMAT = 2
PLACE = "detection/event_notes/"
"""How the names of the notes begin."""
SETTLED = "settled"
"""What is noted where nothing is stale."""


class Noted(NamedTuple):
    """A materialization.

    Attributes:
        partition: What it is of; None where the asset has no partitions.
        id: Its number in the log.
        at: When, seconds since 1970.
        run: The run's id.
        tags: What it says of versions: its data version, its code version, what it read.
    """

    partition: str | None
    id: int
    at: float
    run: str
    tags: Mapping[str, str]

    def tag(self, name: str) -> str:
        """One of its tags, or ""."""
        return self.tags.get(name, "")


class Events(Mapping[str, Noted]):
    """Materializations of an asset by partition, kept as columns: of thousands, one tag is compared at once.

    Attributes:
        ids: The number of each partition's.
    """

    def __init__(
        self, ids: Mapping[str, int], at: Sequence[float], runs: Sequence[str], tags: Mapping[str, Sequence[str]]
    ) -> None:
        self.ids = ids
        self._at, self._runs, self._tags = at, runs, tags

    @staticmethod
    def of(each: Mapping[str, Noted]) -> Events:
        """The same of single ones."""
        names = sorted({name for one in each.values() for name in one.tags})
        tags = {name: [one.tag(name) for one in each.values()] for name in names}
        at, runs = [one.at for one in each.values()], [one.run for one in each.values()]
        return Events({partition: one.id for partition, one in each.items()}, at, runs, tags)

    def column(self, name: str) -> dict[str, str]:
        """One tag of each partition's, or ""."""
        return dict(zip(self.ids, self._tags[name], strict=True)) if name in self._tags else dict.fromkeys(self.ids, "")

    @cached_property
    def _places(self) -> dict[str, int]:
        return {partition: place for place, partition in enumerate(self.ids)}

    def __getitem__(self, partition: str) -> Noted:
        place = self._places[partition]
        tags = {name: values[place] for name, values in self._tags.items()}
        return Noted(partition, self.ids[partition], self._at[place], self._runs[place], tags)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def dump(self) -> bytes:
        """As `load` reads it."""
        columns = {"partitions": list(self.ids), "ids": list(self.ids.values()), "at": self._at, "runs": self._runs}
        return orjson.dumps({"format": FORMAT, **columns, "tags": self._tags})

    @staticmethod
    def load(data: bytes) -> Events:
        """What `dump` wrote.

        Raises:
            ValueError: It did not write this.
        """
        told = orjson.loads(data)
        try:
            if told["format"] != FORMAT:
                raise ValueError("of another release")
            columns = told["at"], told["runs"], told["tags"]
            found = Events(dict(zip(told["partitions"], told["ids"], strict=True)), *columns)
            lengths = {len(found), len(columns[0]), len(columns[1]), *map(len, columns[2].values())}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("not what was written") from error
        if len(lengths) > 1:
            raise ValueError("columns of several lengths")
        return found


class Log:
    """The log as one question sees it: of each asset it is asked once.

    Attributes:
        instance: The Dagster instance.
    """

    def __init__(self, instance: DagsterInstance) -> None:
        self.instance = instance
        self._ids: dict[dg.AssetKey, dict[str, int]] = {}
        self._states: dict[dg.AssetKey, str] = {}
        self._latest: dict[dg.AssetKey, Events] = {}
        self._last: dict[dg.AssetKey, Noted | None] = {}

    def last(self, key: dg.AssetKey) -> Noted | None:
        """The last materialization of an asset, of whatever partition; None if it was never made."""
        if key not in self._last:
            self._last[key] = last(self.instance, key)
        return self._last[key]

    def latest(self, key: dg.AssetKey) -> Events:
        """The last materialization of each partition that has one."""
        if key not in self._latest:
            self._latest[key] = latest(self.instance, key, self.ids(key), self.last(key))
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


def latest(
    instance: DagsterInstance, key: dg.AssetKey, ids: Mapping[str, int] | None = None, last: Noted | None = None
) -> Events:
    """The last materialization of each partition that has one.

    Args:
        instance: The Dagster instance.
        key: The asset.
        ids: Their numbers, if they are known already.
        last: The last of whatever partition, likewise.
    """
    ids = latest_ids(instance, key) if ids is None else ids
    known = _recall(instance, key, last)
    if known.ids == ids:
        return known
    found = {partition: known[partition] for partition, at in ids.items() if known.ids.get(partition) == at}
    missing = {at: partition for partition, at in ids.items() if partition not in found}
    found |= {missing[one.id]: one for one in read(instance, key, list(missing))}
    return _keep(instance, key, Events.of(found))


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
    return Noted(event.partition if event else None, record.storage_id, record.timestamp, record.run_id, tags)


def digest(of: Sequence[object]) -> str:
    """A digest of what JSON can hold."""
    return hashlib.blake2b(orjson.dumps(of), digest_size=16).hexdigest()


def _recall(instance: DagsterInstance, key: dg.AssetKey, last: Noted | None = None) -> Events:
    """What was noted; nothing if it is of another log that counts from 1 again, or cannot be read."""
    nothing, text = Events({}, (), (), {}), _get(instance, key.to_user_string())
    try:
        known = Events.load(zlib.decompress(base64.b64decode(text or "")))
    except (ValueError, zlib.error):
        return nothing
    newest = known[max(known.ids, key=known.ids.__getitem__)] if known else None
    if newest is None:
        return nothing
    there = last if last is not None and last.id == newest.id else next(iter(read(instance, key, [newest.id])), None)
    return known if there is not None and (there.run, there.at) == (newest.run, newest.at) else nothing


def _keep(instance: DagsterInstance, key: dg.AssetKey, known: Events) -> Events:
    _put(instance, key.to_user_string(), base64.b64encode(zlib.compress(known.dump(), 1)).decode())
    return known


def _get(instance: DagsterInstance, name: str) -> str | None:
    return instance.daemon_cursor_storage.get_cursor_values({PLACE + name}).get(PLACE + name)


def _put(instance: DagsterInstance, name: str, text: str) -> None:
    # Who may only read asks all the same, and finds it out again.
    with suppress(Exception):
        instance.daemon_cursor_storage.set_cursor_values({PLACE + name: text})

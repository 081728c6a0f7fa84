"""Which versions a partition of an asset has had: told by Dagster's event log, and readable in the lake.

An event counts if a table lies under the hash that it tells: a run over many videos also records a version over all of
them, which is nobody's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import dagster as dg
import pandas as pd
from dagster import DagsterInstance

from detection_assets.domain import layout, schemas
from detection_assets.domain.problems import InputError
from resources import tables
from resources.event_notes import CHUNK
from resources.storage import Storage
from resources.versions import DATA

FEW = 20
"""Up to this many partitions are looked up one by one; for more, one listing of everything is cheaper."""


@dataclass(frozen=True)
class Version:
    """A version that was today's for a while.

    Attributes:
        version: The data version, the beginning of the table's hash.
        table: Storage key of the table.
        at: From when on, UTC.
        run: The run that made it.
        metadata: What its materialization told.
    """

    version: str
    table: str
    at: datetime
    run: str
    metadata: Mapping[str, Any]


def history(
    instance: DagsterInstance, storage: Storage, key: dg.AssetKey, partitions: Sequence[str]
) -> dict[str, list[Version]]:
    """The versions of each partition, oldest first; what was made again without a change counts once.

    Args:
        instance: The Dagster instance.
        storage: The detector's storage.
        key: Of an asset whose data version is the beginning of its table's hash.
        partitions: The videos that are asked about.
    """
    wanted, found = set(partitions), {partition: list[Version]() for partition in partitions}
    stems = _stems(storage, key.path[-1], partitions)
    only = list(partitions) if len(partitions) <= FEW else None
    cursor = None
    while True:
        page = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=key, asset_partitions=only), limit=CHUNK, cursor=cursor, ascending=True
        )
        for record in page.records:
            event = record.asset_materialization
            if event is None or event.partition not in wanted:
                continue
            version = (event.tags or {}).get(DATA, "")
            table = _beginning(stems[event.partition], version)
            if table and (not found[event.partition] or found[event.partition][-1].version != version):
                at = datetime.fromtimestamp(record.timestamp, timezone.utc)
                found[event.partition].append(Version(version, table, at, record.run_id, event.metadata))
        cursor = page.cursor
        if not page.has_more:
            return found


def table_of(storage: Storage, asset: str, partition: str | None, version: str) -> str | None:
    """The storage key of the table of a version, or of its beginning; None if there is none, or more than one."""
    return _beginning(_listed(storage, asset, partition), version)


def read(storage: Storage, asset: str, version: Version | None) -> pd.DataFrame:
    """The table of a version; an empty one for None."""
    return schemas.empty(asset) if version is None else tables.read_versions(storage, asset, [version.table])


def _beginning(stems: Mapping[str, str], version: str) -> str | None:
    found = [key for stem, key in stems.items() if version and stem.startswith(version)]
    return found[0] if len(found) == 1 else None


def _stems(storage: Storage, asset: str, partitions: Sequence[str]) -> dict[str, dict[str, str]]:
    if len(partitions) <= FEW:
        return {partition: _listed(storage, asset, partition) for partition in partitions}
    folders = {layout.table_folder(asset, partition): partition for partition in partitions}
    found: dict[str, dict[str, str]] = {partition: {} for partition in partitions}
    for item in storage.list(layout.table_folder(asset, None)):
        folder, _, name = item.key.rpartition("/")
        if folder in folders and name.endswith(".parquet"):
            found[folders[folder]][name.removesuffix(".parquet")] = item.key
    return found


def _listed(storage: Storage, asset: str, partition: str | None) -> dict[str, str]:
    names = {
        item.key: item.key.rpartition("/")[2] for item in storage.list_folder(layout.table_folder(asset, partition))
    }
    return {name.removesuffix(".parquet"): key for key, name in names.items() if name.endswith(".parquet")}


def pick(versions: Sequence[Version], said: str, what: str) -> Version | None:
    """The version that somebody means.

    Args:
        versions: Of one partition, oldest first.
        said: `~0` today's, `~1` the one before; the beginning of a version's hash; or a time in ISO 8601, UTC, such as
            `2026-11-01`: the version that was today's then.
        what: The partition, for messages.

    Returns:
        The version; None if there was none yet: by `~N` one before the first, by time before the first was made.

    Raises:
        InputError: No version begins so, or several do, or it is none of these three.
    """
    if re.fullmatch(r"~\d{1,6}", said):
        back = int(said[1:])
        return versions[-1 - back] if back < len(versions) else None
    if re.fullmatch(r"[0-9a-f]{4,64}", said):
        found = {one.version: one for one in versions if one.version.startswith(said[:16])}
        if len(found) == 1:
            return next(iter(found.values()))
        raise InputError(f"{what}: {_several(found) if found else 'no version'} begins with {said}; {_there(versions)}")
    try:
        moment = datetime.fromisoformat(said.replace("Z", "+00:00"))
    except ValueError:
        raise InputError(
            f"{said}: no version; write the beginning of its hash (4 digits or more), a time such as 2026-11-01, or ~1 "
            "for the one before today's"
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return next((one for one in reversed(versions) if one.at <= moment), None)


def _several(found: Iterable[str]) -> str:
    return f"more than one version ({', '.join(found)})"


def _there(versions: Sequence[Version]) -> str:
    there = ", ".join(one.version for one in versions[-10:])
    return f"there are {there}" if there else "there is none yet"

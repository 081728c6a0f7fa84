"""Data versions: written to and read from Dagster's event log, one by one for each video.

A run over many videos would record one data version, computed over all of them, for each. `materialized` therefore
follows such a result with one materialization a video that carries the video's own version and its own provenance;
Dagster takes the later event. Where a run is killed between the two, the first one says so by its code version, and
everybody takes the video for stale. What was read is what there was when the step began, whatever has come since.
`stale_videos` is the same rule as Dagster's, asked for thousands of videos in a few queries
instead of some for each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
import pandas as pd
from dagster import DagsterInstance

from resources import event_notes, tables
from resources.event_notes import SETTLED, Events, Log
from resources.storage import Storage

DATA = "dagster/data_version"
CODE = "dagster/code_version"
PROVIDED = "dagster/data_version_is_user_provided"
INPUT = "dagster/input_data_version/"
POINTER = "dagster/input_event_pointer/"
INPUTS = "detection/inputs"
"""Tag of an asset without partitions: a digest of the versions of every partition it read."""

HALF = "left half-way"
"""Code version of the first event of a run over many videos: it counts only until the video's own event follows."""


def combined(versions: Mapping[str, str]) -> str:
    """One version for many: a digest that changes when any of them does, or when one is added or removed."""
    text = "".join([f"{key}\0{version}\n" for key, version in sorted(versions.items())])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def materialized(
    context: dg.AssetExecutionContext,
    storage: Storage,
    table: pd.DataFrame,
    versions: Mapping[str, str],
    metadata: Mapping[str, Any],
    each: Mapping[str, Mapping[str, Any]] | None = None,
    check_results: Sequence[dg.AssetCheckResult] = (),
) -> Iterator[dg.MaterializeResult | dg.AssetMaterialization]:
    """The events of a partitioned asset: its table, and for each video its own version and metadata.

    Args:
        context: Of the asset.
        storage: The detector's storage.
        table: The rows of all videos of the run.
        versions: Data version by video; its keys are the run's partitions.
        metadata: Of the run as a whole.
        each: Metadata by video.
        check_results: Results of the asset's checks.
    """
    each = each or {}
    only = next(iter(versions)) if len(versions) == 1 else None
    yield dg.MaterializeResult(
        value=table,
        data_version=dg.DataVersion(versions[only] if only is not None else combined(versions)),
        metadata={**metadata, **(each.get(only, {}) if only is not None else {})},
        tags={CODE: HALF} if only is None else None,
        check_results=check_results,
    )
    if only is not None:
        return
    rows = table.groupby("video").size().to_dict()
    upstream = _provenance(context, list(versions)) if versions else {}
    code = context.assets_def.code_versions_by_key[context.asset_key] or ""
    lineage = tables.column_lineage(context.asset_key)
    # What was yielded is written by now.
    places = tables.places(storage, context.asset_key.path[-1], list(versions))
    for video, version in versions.items():
        tags = {DATA: version, PROVIDED: "true", CODE: code, **upstream.get(video, {})}
        told = {"dagster/row_count": int(rows.get(video, 0)), **lineage, **each.get(video, {})}
        told |= {"dagster/uri": places[video]} if video in places else {}
        yield dg.AssetMaterialization(context.asset_key, partition=video, tags=tags, metadata=told)


def _provenance(context: dg.AssetExecutionContext, videos: list[str]) -> dict[str, dict[str, str]]:
    """What each video was made of: the versions that were current when the step began, which Dagster has noted."""
    instance = context.instance
    (told,) = latest(instance, context.asset_key, videos[:1]).values()
    noted = told.tags or {}
    found: dict[str, dict[str, str]] = {video: {} for video in videos}
    for key in context.assets_def.asset_deps[context.asset_key]:
        name = key.to_user_string()
        last = event_notes.last(instance, key)
        if last is not None and last.partition is None:
            for tags in found.values():
                tags |= {tag: noted[tag] for tag in (INPUT + name, POINTER + name) if tag in noted}
            continue
        read, at = data_versions(instance, key, videos), event_notes.latest_ids(instance, key, videos)
        began = int(noted[POINTER + name]) if noted.get(POINTER + name, "").isdigit() else 0
        for video in [video for video, made in at.items() if video in found and made > began]:
            before = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[video], before_storage_id=began + 1)
            record = next(iter(instance.fetch_materializations(before, limit=1).records), None)
            event = record.asset_materialization if record else None
            # Never read: any version that it has now is another.
            read[video] = (event.tags or {}).get(DATA, "") if event else ""
            at[video] = record.storage_id if record else 0
        for video, version in read.items():
            found[video][INPUT + name] = _as_input(version)
            found[video][POINTER + name] = str(at[video])
    return found


def _as_input(version: str) -> str:
    # How Dagster itself records what was read of a partitioned asset: a digest over the partitions' versions.
    return hashlib.sha256(version.encode()).hexdigest()


def data_versions(instance: DagsterInstance, key: dg.AssetKey, videos: Sequence[str]) -> dict[str, str]:
    """Today's data version of each of these videos that has one, in one query."""
    found = instance.event_log_storage.get_latest_tags_by_partition(
        key, event_notes.MADE, [DATA], list(videos) if len(videos) <= event_notes.CHUNK else None
    )
    wanted = set(videos)
    return {video: tags[DATA] for video, tags in found.items() if video in wanted and DATA in tags}


def inputs_digest(instance: DagsterInstance, keys: Iterable[dg.AssetKey], videos: Sequence[str]) -> str:
    """A digest of the versions of every partition of some assets: what an asset without partitions has read."""
    return _inputs({key: data_versions(instance, key, videos) for key in keys})


def _inputs(read: Mapping[dg.AssetKey, Mapping[str, str]]) -> str:
    return combined(
        {f"{key.to_user_string()}\0{video}": version for key, of in read.items() for video, version in of.items()}
    )


def latest(
    instance: DagsterInstance, key: dg.AssetKey, videos: Sequence[str] | None = None
) -> dict[str, dg.AssetMaterialization]:
    """The last materialization of each partition that has one; of these videos, or of all."""
    found: dict[str, dg.AssetMaterialization] = {}
    for record in event_notes.records(instance, key, list(event_notes.latest_ids(instance, key, videos).values())):
        event = record.asset_materialization
        if event is not None and event.partition is not None:
            found[event.partition] = event
    return found if videos is None else {video: found[video] for video in videos if video in found}


def stale_videos(log: Log, assets: dg.AssetsDefinition, videos: Sequence[str]) -> dict[str, str]:
    """The partitions of an asset that are not what they would be if they were made now.

    Args:
        log: What Dagster's log says.
        assets: The definition of one partitioned asset.
        videos: The partitions that there are.

    Returns:
        For each stale partition, why: missing, new code or settings, or which upstream asset changed.
    """
    key, now = assets.key, assets.code_versions_by_key[assets.key] or ""
    deps = sorted(assets.asset_deps[key])
    state = log.state([key, *deps], now, list(videos))
    if log.recall(key.to_user_string(), state) == SETTLED:
        return {}
    known = log.latest(key)
    code = known.column(CODE)
    upstream: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
    for dep in deps:
        name, last = dep.to_user_string(), log.last(dep)
        if last is not None and last.partition is None:
            there = dict.fromkeys(videos, last.tag(DATA))
        else:
            there = {video: _as_input(data) for video, data in log.latest(dep).column(DATA).items()}
        upstream[name] = there, known.column(INPUT + name)
    nothing = _as_input("")
    stale: dict[str, str] = {}
    for video in videos:
        if video not in code:
            stale[video] = "missing"
        elif code[video] == HALF:
            stale[video] = "a run was killed before it said what it had made"
        elif code[video] != now:
            stale[video] = "new code or settings"
        else:
            for name, (there, read) in upstream.items():
                if read[video] != there.get(video, nothing):
                    stale[video] = f"{name.rsplit('/', 1)[-1]} changed"
                    break
    if not stale:
        log.note(key.to_user_string(), state, SETTLED)
    return stale


def _inputs_now(log: Log, key: dg.AssetKey, deps: Sequence[dg.AssetKey], videos: Sequence[str]) -> str:
    state = log.state(deps, list(videos))
    found = log.recall(key.to_user_string(), state)
    if found is None:
        found = _inputs({dep: _data(log.latest(dep), videos) for dep in deps})
        log.note(key.to_user_string(), state, found)
    return found


def _data(latest: Events, videos: Sequence[str]) -> dict[str, str]:
    there = set(videos)
    return {video: version for video, version in latest.column(DATA).items() if version and video in there}


def stale_asset(
    log: Log, assets: dg.AssetsDefinition, partitioned: Iterable[dg.AssetKey], videos: Sequence[str]
) -> str | None:
    """Why an asset without partitions is not what it would be if it were made now, or None if it is.

    Args:
        log: What Dagster's log says.
        assets: The definition of the asset.
        partitioned: Those of its dependencies that have partitions.
        videos: The partitions that there are.
    """
    key, made = assets.key, log.last(assets.key)
    if made is None:
        return "missing"
    if made.tag(CODE) != (assets.code_versions_by_key[key] or ""):
        return "new code or settings"
    partitioned = list(partitioned)
    if partitioned and made.tag(INPUTS) != _inputs_now(log, key, partitioned, videos):
        return "its videos, frames or annotations changed"
    for dep in assets.asset_deps[key] - set(partitioned):
        now = log.last(dep)
        # What was never made, as a tuning may be, has not changed.
        if now is not None and made.tag(INPUT + dep.to_user_string()) != now.tag(DATA):
            return f"{dep.path[-1]} changed"
    return None

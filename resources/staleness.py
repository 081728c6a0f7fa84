"""Which change made something stale: from what to what, since when, and by which run.

Whether it is stale is the rule of `versions`; here the event log is asked what was read then and what is there now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

import dagster as dg
from dagster import DagsterEventType, DagsterInstance

from resources import versions
from resources.versions import CHUNK, CODE, DATA, INPUT, POINTER

MADE = DagsterEventType.ASSET_MATERIALIZATION


@dataclass(frozen=True)
class Change:
    """What made a partition of an asset stale, or an asset without partitions.

    Attributes:
        partition: The video; None without partitions.
        why: As `versions` says it.
        change: From what to what.
        at: When it came; None if nobody noted that.
        run: The run that brought it, or "".
    """

    partition: str | None
    why: str
    change: str
    at: datetime | None = None
    run: str = ""


def of_videos(instance: DagsterInstance, assets: dg.AssetsDefinition, videos: Sequence[str]) -> list[Change]:
    """What made which partition of an asset stale, in the order of `videos`."""
    stale = versions.stale_videos(instance, assets, videos)
    if not stale:
        return []
    made = versions.latest(instance, assets.key, list(stale))
    found: list[Change] = []
    for why in sorted(set(stale.values())):
        those = [video for video, reason in stale.items() if reason == why]
        if why == "missing":
            found += [Change(video, why, "never made") for video in those]
        elif why == "new code or settings":
            now = assets.code_versions_by_key[assets.key] or ""
            found += [Change(video, why, _code(assets, (made[video].tags or {}).get(CODE, ""), now)) for video in those]
        else:
            key = next(key for key in assets.asset_deps[assets.key] if why == f"{key.path[-1]} changed")
            found += _upstream(instance, key, why, {video: made[video].tags or {} for video in those})
    order = {video: at for at, video in enumerate(videos)}
    return sorted(found, key=lambda change: order.get(change.partition or "", -1))


def _code(assets: dg.AssetsDefinition, then: str, now: str) -> str:
    """Whether it was the code that changed, or which sections of the detector's file may have."""
    sections = ", ".join(assets.metadata_by_key[assets.key].get("settings", []))
    (code, _, _), (fresh, _, _) = then.partition("-"), now.partition("-")
    what = "the code" if code != fresh or not sections else f"the settings ({sections})"
    return f"{what}: {then or 'unknown'} to {now}"


def _upstream(
    instance: DagsterInstance, key: dg.AssetKey, why: str, tags: Mapping[str, Mapping[str, str]]
) -> Iterator[Change]:
    name, stage = key.to_user_string(), key.path[-1]
    read = {video: of.get(POINTER + name, "") for video, of in tags.items()}
    ids = instance.event_log_storage.get_latest_storage_id_by_partition(
        key, MADE, set(tags) if len(tags) <= CHUNK else None
    )
    wanted = {int(pointer) for pointer in read.values() if pointer.isdigit()} | {
        ids[video] for video in tags if video in ids
    }
    records = _records(instance, key, sorted(wanted))
    for video in tags:
        now = records.get(ids.get(video, -1))
        then = records.get(int(read[video])) if read[video].isdigit() else None
        change = f"{stage}: {_version(then) or 'another version'} to {_version(now) or 'none'}"
        yield Change(video, why, change, _time(now), now.run_id if now else "")


def _records(instance: DagsterInstance, key: dg.AssetKey, ids: Sequence[int]) -> dict[int, dg.EventLogRecord]:
    found: dict[int, dg.EventLogRecord] = {}
    for first in range(0, len(ids), CHUNK):
        asked = dg.AssetRecordsFilter(asset_key=key, storage_ids=ids[first : first + CHUNK])
        found |= {one.storage_id: one for one in instance.fetch_materializations(asked, limit=CHUNK).records}
    return found


def _version(record: dg.EventLogRecord | None) -> str:
    event = record.asset_materialization if record else None
    return (event.tags or {}).get(DATA, "") if event else ""


def _time(record: dg.EventLogRecord | None) -> datetime | None:
    return datetime.fromtimestamp(record.timestamp, timezone.utc) if record else None


def of_asset(
    instance: DagsterInstance, assets: dg.AssetsDefinition, partitioned: Iterable[dg.AssetKey], videos: Sequence[str]
) -> list[Change]:
    """What made an asset without partitions stale: a change a video, where it was videos that changed.

    Args:
        instance: The Dagster instance.
        assets: The definition of the asset.
        partitioned: Those of its dependencies that have partitions.
        videos: The partitions that there are.
    """
    key, partitioned = assets.key, list(partitioned)
    why = versions.stale_asset(instance, assets, partitioned, videos)
    if why is None:
        return []
    last = next(iter(instance.fetch_materializations(key, limit=1).records), None)
    event = last.asset_materialization if last else None
    if last is None or event is None:
        return [Change(None, why, "never made")]
    tags = event.tags or {}
    if why == "new code or settings":
        return [Change(None, why, _code(assets, tags.get(CODE, ""), assets.code_versions_by_key[key] or ""))]
    dep = next((dep for dep in assets.asset_deps[key] if why == f"{dep.path[-1]} changed"), None)
    if dep is None:
        changes = [change for of in partitioned for change in _since(instance, of, why, last.storage_id, videos)]
        return changes or [Change(None, why, "videos came or went")]
    now = next(iter(instance.fetch_materializations(dep, limit=1).records), None)
    then = tags.get(INPUT + dep.to_user_string(), "none")
    change = f"{dep.path[-1]}: {then} to {_version(now) or 'none'}"
    return [Change(None, why, change, _time(now), now.run_id if now else "")]


def _since(instance: DagsterInstance, key: dg.AssetKey, why: str, made: int, videos: Sequence[str]) -> Iterator[Change]:
    """The partitions of a dependency whose version is another than it was at an event."""
    storage, stage = instance.event_log_storage, key.path[-1]
    then = storage.get_latest_tags_by_partition(key, MADE, [DATA], before_cursor=made)
    now = storage.get_latest_tags_by_partition(key, MADE, [DATA])
    there = set(videos)
    before = {video: tags.get(DATA, "") for video, tags in then.items()}
    after = {video: tags.get(DATA, "") for video, tags in now.items() if video in there}
    changed = [video for video in after if before.get(video) != after[video]]
    ids = storage.get_latest_storage_id_by_partition(key, MADE, set(changed) if len(changed) <= CHUNK else None)
    records = _records(instance, key, sorted(ids[video] for video in changed))
    for video in sorted(changed):
        record = records.get(ids[video])
        change = f"{stage} of {video}: {before.get(video, 'none')} to {after[video]}"
        yield Change(None, why, change, _time(record), record.run_id if record else "")
    # A video that went away stays in the log for ever: whether the asset knew it, only its digest could say.

"""Which change made something stale: from what to what, since when, and by which run.

Whether it is stale is the rule of `versions`; here the event log is asked what was read then and what is there now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import NamedTuple

import dagster as dg

from resources import event_notes
from resources.event_notes import Log, Noted
from resources.versions import CODE, DATA, INPUT, POINTER

IN_THE_LAKE = "changed in the lake"
"""Why a partition is stale whose file is another than the one that was taken in, which Dagster cannot know."""


class Change(NamedTuple):
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


def of_videos(log: Log, assets: dg.AssetsDefinition, stale: Mapping[str, str]) -> list[Change]:
    """What made partitions of an asset stale.

    Args:
        log: What Dagster's log says.
        assets: The definition of the asset.
        stale: Why, by partition, as of `versions.stale_videos`, or `IN_THE_LAKE`.

    Returns:
        A change a partition, in their order.
    """
    made = log.latest(assets.key) if stale else {}
    found: list[Change] = []
    for why in sorted(set(stale.values())):
        those = [video for video, reason in stale.items() if reason == why]
        dep = next((key for key in assets.asset_deps[assets.key] if why == f"{key.path[-1]} changed"), None)
        if dep is not None:
            found += _upstream(log, dep, why, {video: made[video] for video in those})
        elif why == "new code or settings":
            now = assets.code_versions_by_key[assets.key] or ""
            then = {video: made[video].tag(CODE) for video in those}
            told = {code: _code(assets, code, now) for code in set(then.values())}
            found += [Change(video, why, told[code]) for video, code in then.items()]
        else:
            lake = f"the files below {assets.key.path[-1].removeprefix('raw_')}/ are others than those taken in"
            what = {"missing": "never made", IN_THE_LAKE: lake}.get(why, why)
            found += [Change(video, why, what) for video in those]
    order = {video: at for at, video in enumerate(stale)}
    return sorted(found, key=lambda change: order.get(change.partition or "", -1))


def _code(assets: dg.AssetsDefinition, then: str, now: str) -> str:
    """Whether it was the code that changed, or which sections of the detector's file may have."""
    sections = ", ".join(assets.metadata_by_key[assets.key].get("settings", []))
    (code, _, _), (fresh, _, _) = then.partition("-"), now.partition("-")
    what = "the code" if code != fresh or not sections else f"the settings ({sections})"
    return f"{what}: {then or 'unknown'} to {now}"


def _upstream(log: Log, key: dg.AssetKey, why: str, made: Mapping[str, Noted]) -> Iterator[Change]:
    name, stage = key.to_user_string(), key.path[-1]
    now = log.latest(key)
    read = {video: of.tag(POINTER + name) for video, of in made.items()}
    then = {str(one.id): one for one in event_notes.read(log.instance, key, _numbers(read.values()))}
    for video in made:
        before, after = then.get(read[video]), now.get(video)
        change = f"{stage}: {_version(before) or 'another version'} to {_version(after) or 'none'}"
        yield Change(video, why, change, _time(after), after.run if after else "")


def _numbers(pointers: Iterable[str]) -> list[int]:
    return sorted({int(pointer) for pointer in pointers if pointer.isdigit()})


def _version(event: Noted | None) -> str:
    return event.tag(DATA) if event else ""


def _time(event: Noted | None) -> datetime | None:
    return datetime.fromtimestamp(event.at, timezone.utc) if event else None


def of_asset(
    log: Log,
    assets: dg.AssetsDefinition,
    partitioned: Iterable[dg.AssetKey],
    videos: Sequence[str],
    why: str | None,
) -> list[Change]:
    """What made an asset without partitions stale: a change a video, where it was videos that changed.

    Args:
        log: What Dagster's log says.
        assets: The definition of the asset.
        partitioned: Those of its dependencies that have partitions.
        videos: The partitions that there are.
        why: As `versions.stale_asset` says it; None if it is not stale.
    """
    key = assets.key
    if why is None:
        return []
    last = log.last(key)
    if last is None:
        return [Change(None, why, "never made")]
    if why == "new code or settings":
        return [Change(None, why, _code(assets, last.tag(CODE), assets.code_versions_by_key[key] or ""))]
    dep = next((dep for dep in assets.asset_deps[key] if why == f"{dep.path[-1]} changed"), None)
    if dep is None:
        changes = [change for of in partitioned for change in _since(log, of, why, last.id, videos)]
        return changes or [Change(None, why, "videos came or went")]
    now = log.last(dep)
    then = last.tag(INPUT + dep.to_user_string()) or "none"
    change = f"{dep.path[-1]}: {then} to {_version(now) or 'none'}"
    return [Change(None, why, change, _time(now), now.run if now else "")]


def _since(log: Log, key: dg.AssetKey, why: str, made: int, videos: Sequence[str]) -> Iterator[Change]:
    """The partitions of a dependency whose version is another than it was at an event."""
    stage, there = key.path[-1], set(videos)
    events = log.instance.event_log_storage
    then = events.get_latest_tags_by_partition(key, event_notes.MADE, [DATA], before_cursor=made)
    now = {video: one for video, one in log.latest(key).items() if video in there}
    before = {video: tags.get(DATA, "") for video, tags in then.items()}
    for video in sorted(video for video, one in now.items() if before.get(video) != _version(one)):
        one = now[video]
        yield Change(
            None, why, f"{stage} of {video}: {before.get(video, 'none')} to {_version(one)}", _time(one), one.run
        )
    # A video that went away stays in the log for ever: whether the asset knew it, only its digest could say.

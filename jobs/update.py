"""Bringing a detector up to date: what is new in the lake, what is stale, and the runs that mend it.

The runs are those of the same jobs that the UI and the sensors start, over the same instance.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import dagster as dg
from dagster import DagsterInstance

from detection_assets.domain import inbox, layout
from detection_assets.domain.layout import Stored
from jobs import jobs, openlineage, runs, sensors
from resources import lake, staleness, versions
from resources.event_notes import SETTLED, Log
from resources.storage import Storage
from resources.withdrawal import withdrawals

SETTLE_S = 2.0
"""A file that changed within so many seconds is looked at twice before it is taken in."""


@dataclass(frozen=True)
class Planned:
    """A run that would bring part of the graph up to date.

    Attributes:
        job: The job's name.
        stages: The assets to materialize.
        first: First partition, or None where there are no partitions.
        last: Last partition.
        count: How many partitions.
        why: Why, for people.
    """

    job: str
    stages: tuple[str, ...]
    first: str | None
    last: str | None
    count: int
    why: str


@dataclass(frozen=True)
class Seen:
    """What a look at the lake found.

    Attributes:
        videos: The videos that there are, in the order that Dagster keeps or will keep.
        added: Those that are new.
        removed: Those that are gone.
        refused: Paths that are left out for now, with the reason: no videos, or still being written.
        fingerprints: Of each video's file, whatever Dagster knows of it.
    """

    videos: Sequence[str]
    added: Sequence[str]
    removed: Sequence[str]
    refused: Mapping[str, str]
    fingerprints: Mapping[str, str]


def look(instance: DagsterInstance, detector: str, storage: Storage) -> Seen:
    """What the lake holds, beside the video partitions that there are; changes nothing."""
    found, refused = settled_sources(storage)
    now = {source.video: source.fingerprint for source in found}
    before = instance.get_dynamic_partitions(f"{detector}_videos")
    added = sorted(set(now) - set(before))
    # What is still being written is there: its partition stays, with what was taken in before.
    removed = [video for video in before if video not in now and video not in refused]
    gone = set(removed)
    return Seen([*(video for video in before if video not in gone), *added], added, removed, refused, now)


def sync_partitions(instance: DagsterInstance, detector: str, storage: Storage) -> Seen:
    """Makes the detector's video partitions those that the lake holds."""
    name = f"{detector}_videos"
    seen = look(instance, detector, storage)
    if seen.added:
        instance.add_dynamic_partitions(name, list(seen.added))
    for video in seen.removed:
        instance.delete_dynamic_partition(name, video)
    return seen


def settled_sources(storage: Storage) -> tuple[list[inbox.Source], dict[str, str]]:
    """The videos of the lake; when one is seen changing, only after a second look that finds it at rest."""
    found, refused = lake.list_sources(storage)
    root = storage.local_path(layout.VIDEOS)
    if root is None or not _touched_lately(root, found):
        return found, refused
    time.sleep(SETTLE_S)
    again, refused = lake.list_sources(storage)
    before = {source.video: source.fingerprint for source in found}
    moving = {source.video for source in again if before.get(source.video, source.fingerprint) != source.fingerprint}
    for video in moving:
        refused[video] = "it is still being written; run again when it is whole"
    return [source for source in again if source.video not in moving], refused


def _touched_lately(root: Path, found: Iterable[inbox.Source]) -> bool:
    now = time.time()
    for source in found:
        if now - source.written < SETTLE_S:
            return True
        # Images may be copied or moved in as old as they were: the folder's own time tells.
        with suppress(OSError):
            if source.kind == "images" and now - (root / source.video).stat().st_mtime < SETTLE_S:
                return True
    return False


def stale(
    instance: DagsterInstance,
    defs: dg.Definitions,
    detector: str,
    storage: Storage,
    seen: Seen,
    log: Log | None = None,
    listed: Listed | None = None,
) -> dict[str, dict[str | None, str]]:
    """What is not what it would be if it were made now, by what is known now.

    What follows from a stale stage is not among it before that is made again: it may come out as it was.

    Args:
        instance: The Dagster instance.
        defs: The detector's code location.
        detector: The detector's name.
        storage: Its lake.
        seen: What the lake holds.
        log: What the instance's log says, if it was asked already.
        listed: What else the lake holds, if it is being listed already.

    Returns:
        By stage, for each stale video why; the key of a stage without partitions is None.
    """
    assets, log = assets_of(defs, detector), log or Log(instance)
    listed = listed or Listed(storage)
    found: dict[str, dict[str | None, str]] = {}
    for stage in jobs.INGEST:
        found[stage] = {**versions.stale_videos(log, assets[stage], seen.videos)}
    for stage, videos in changed_files(storage, seen, log, listed).items():
        for video in videos:
            found[stage].setdefault(video, staleness.IN_THE_LAKE)
    found = {
        stage: {video: why for video, why in of.items() if video not in seen.refused} for stage, of in found.items()
    }
    ingested = set(jobs.keys(detector, jobs.INGEST))
    for stage in jobs.TRAIN + jobs.DEPLOY:
        partitioned = assets[stage].asset_deps[assets[stage].key] & ingested
        reason = versions.stale_asset(log, assets[stage], partitioned, seen.videos)
        found[stage] = {None: reason} if reason else {}
    return found


class Listed:
    """What is compared with the videos of a lake: listings of thousands of objects.

    Elsewhere than on this machine they are made side by side, meanwhile; here that would take longer, for it is not
    waiting that takes the time.
    """

    def __init__(self, storage: Storage) -> None:
        asked: list[Callable[[], Any]] = [partial(lake.annotation_listing, storage)]
        asked += [partial(lake.notes, storage, what) for what in ("videos", "annotations")]
        if storage.local_path("") is None:
            pool = ThreadPoolExecutor(len(asked))
            asked = [pool.submit(one).result for one in asked]
            pool.shutdown(wait=False)
        self._files, *self._notes = map(cache, asked)

    @property
    def files(self) -> list[Stored]:
        """The objects below `annotations/`."""
        return self._files()

    @property
    def notes(self) -> list[list[str]]:
        """The keys that say which videos were taken in, and which of their annotations."""
        return [one() for one in self._notes]


def changed_files(storage: Storage, seen: Seen, log: Log, listed: Listed) -> dict[str, list[str]]:
    """By stage, the videos whose files in the lake are not those that it last took in.

    Args:
        storage: The detector's lake.
        seen: What it holds.
        log: Where it is noted that none are.
        listed: What else it holds.
    """
    files, gone = inbox.fingerprint(listed.files), sorted(withdrawals.videos(storage))
    state = log.state((), storage.uri, list(seen.videos), dict(seen.fingerprints), files, listed.notes, gone)
    if log.recall(storage.uri, state) == SETTLED:
        return {}
    taken, known = map(lake.told_by, ("videos", "annotations"), listed.notes)
    speaks = lake.annotation_files(storage, seen.videos, seen.videos, listed.files, known)
    drawn = {video: inbox.fingerprint(of_video) for video, of_video in speaks.items()}
    found = {
        stage: [video for video in seen.videos if video in now and before.get(video) != now[video]]
        for stage, before, now in (("raw_videos", taken, seen.fingerprints), ("annotations", known, drawn))
    }
    if not any(found.values()):
        log.note(storage.uri, state, SETTLED)
    return found


def plan_ingest(found: Mapping[str, Mapping[str | None, str]], detector: str, seen: Seen, until: str) -> list[Planned]:
    """The runs that bring the partitioned stages up to date, each from the first stage that is stale.

    Args:
        found: What is stale.
        detector: The detector's name.
        seen: What the lake holds.
        until: The last stage that is wanted.
    """
    videos = seen.videos
    stages = [stage for stage in jobs.INGEST if jobs.STAGES.index(stage) <= jobs.STAGES.index(until)]
    first: dict[str, tuple[str, str]] = {}
    for stage in reversed(stages):
        first.update({video: (stage, reason) for video, reason in found[stage].items() if video is not None})
    planned = []
    for stage in stages:
        of_stage = {video: reason for video, (earliest, reason) in first.items() if earliest == stage}
        for start, end in sensors.ranges(of_stage, videos):
            inside = videos[videos.index(start) : videos.index(end) + 1]
            reasons = sorted({of_stage[video] for video in inside})
            following = tuple(stages[stages.index(stage) :])
            planned.append(Planned(f"{detector}_ingest", following, start, end, len(inside), ", ".join(reasons)))
    return planned


def plan_build(found: Mapping[str, Mapping[str | None, str]], detector: str, until: str) -> Planned | None:
    """The run that brings the stages without partitions up to date: from the first stale one on."""
    stages = (jobs.TRAIN + jobs.DEPLOY)[: max(0, jobs.STAGES.index(until) - len(jobs.INGEST) + 1)]
    for index, stage in enumerate(stages):
        if found[stage]:
            return Planned(f"{detector}_retrain", stages[index:], None, None, 0, f"{stage}: {found[stage][None]}")
    return None


def plan_deploy(detector: str, why: str) -> Planned:
    """The run that only deploys again."""
    return Planned(f"{detector}_deploy", ("deployed_endpoint",), None, None, 0, why)


def plan_tune(detector: str, why: str) -> Planned:
    """The run that tunes the training's settings."""
    return Planned(f"{detector}_tune", jobs.TUNE, None, None, 0, why)


def plan_label(detector: str, why: str) -> Planned:
    """The run that asks annotators for labels."""
    return Planned(f"{detector}_label", jobs.LABEL, None, None, 0, why)


def execute(
    instance: DagsterInstance,
    defs: dg.Definitions,
    detector: str,
    planned: Planned,
    config: Mapping[str, Mapping[str, object]] | None = None,
    labels: Mapping[str, str] | None = None,
) -> tuple[bool, str]:
    """Runs what was planned in this process, so that Ctrl-C stops it; returns success and the run's id.

    Args:
        instance: The Dagster instance.
        defs: The detector's code location.
        detector: The detector's name.
        planned: The run.
        config: Settings of this run, by stage.
        labels: Further tags of the run.
    """
    tags = {**runs.here(), **(labels or {})}
    if planned.first is not None and planned.last is not None:
        tags |= sensors.range_tags(planned.first, planned.last)
    with openlineage.telling_of(instance, defs, detector):
        result = defs.resolve_job_def(planned.job).execute_in_process(
            instance=instance,
            asset_selection=jobs.keys(detector, planned.stages),
            tags=tags,
            run_config={
                "loggers": {"progress": {}},
                "ops": {stage: {"config": dict(of)} for stage, of in (config or {}).items()},
            },
            raise_on_error=False,
        )
    return result.success, result.run_id


def assets_of(defs: dg.Definitions, detector: str) -> dict[str, dg.AssetsDefinition]:
    """The definitions of a detector's assets, by stage."""
    graph = defs.resolve_asset_graph()
    return {
        key.path[-1]: graph.get(key).assets_def for key in graph.materializable_asset_keys if key.path[0] == detector
    }

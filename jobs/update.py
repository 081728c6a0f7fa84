"""Bringing a detector up to date: what is new in the lake, what is stale, and the runs that mend it.

The runs are those of the same jobs that the UI and the sensors start, over the same instance.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
from dagster import DagsterInstance

from detection_assets.domain import inbox, layout
from jobs import jobs, openlineage, runs, sensors
from resources import lake, versions
from resources.storage import Storage

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
class Synced:
    """What a look at the lake changed: videos added and removed, and paths that cannot be videos, with the reason."""

    added: Sequence[str]
    removed: Sequence[str]
    refused: Mapping[str, str]


def sync_partitions(instance: DagsterInstance, detector: str, storage: Storage) -> Synced:
    """Makes the detector's video partitions those that the lake holds."""
    name = f"{detector}_videos"
    found, refused = settled_sources(storage)
    now = {source.video for source in found}
    before = instance.get_dynamic_partitions(name)
    added = sorted(now - set(before))
    removed = [video for video in before if video not in now]
    if added:
        instance.add_dynamic_partitions(name, added)
    for video in removed:
        instance.delete_dynamic_partition(name, video)
    return Synced(added, removed, refused)


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
        try:
            if now - (root / source.video).stat().st_mtime < SETTLE_S:
                return True
        except OSError:
            continue
    return False


def plan_ingest(
    instance: DagsterInstance, defs: dg.Definitions, detector: str, storage: Storage, until: str
) -> list[Planned]:
    """The runs that bring the partitioned stages up to date, each from the first stage that is stale."""
    videos = instance.get_dynamic_partitions(f"{detector}_videos")
    stages = [stage for stage in jobs.INGEST if jobs.STAGES.index(stage) <= jobs.STAGES.index(until)]
    assets = _assets(defs, detector)
    first: dict[str, tuple[str, str]] = {}
    for stage in reversed(stages):
        why = dict(versions.stale_videos(instance, assets[stage], videos))
        for video in _changed(storage, stage, videos):
            why.setdefault(video, "changed in the lake")
        first.update({video: (stage, reason) for video, reason in why.items()})
    planned = []
    for stage in stages:
        of_stage = {video: reason for video, (earliest, reason) in first.items() if earliest == stage}
        for start, end in sensors.ranges(of_stage, videos):
            inside = videos[videos.index(start) : videos.index(end) + 1]
            reasons = sorted({of_stage[video] for video in inside})
            following = tuple(stages[stages.index(stage) :])
            planned.append(Planned(f"{detector}_ingest", following, start, end, len(inside), ", ".join(reasons)))
    return planned


def _changed(storage: Storage, stage: str, videos: Sequence[str]) -> list[str]:
    """Videos whose files are not those that the stage last took in."""
    if stage == "raw_videos":
        known = lake.remembered(storage, "videos")
        now = {source.video: source.fingerprint for source in lake.list_sources(storage)[0]}
    elif stage == "annotations":
        known = lake.remembered(storage, "annotations")
        now = {
            video: inbox.fingerprint(files) for video, files in lake.annotation_files(storage, videos, videos).items()
        }
    else:
        return []
    return [video for video in videos if video in now and known.get(video) != now[video]]


def plan_build(instance: DagsterInstance, defs: dg.Definitions, detector: str, until: str) -> Planned | None:
    """The run that brings the stages without partitions up to date: from the first stale one on."""
    assets = _assets(defs, detector)
    videos = instance.get_dynamic_partitions(f"{detector}_videos")
    ingested = set(jobs.keys(detector, jobs.INGEST))
    stages = (jobs.TRAIN + jobs.DEPLOY)[: max(0, jobs.STAGES.index(until) - len(jobs.INGEST) + 1)]
    for index, stage in enumerate(stages):
        partitioned = assets[stage].asset_deps[assets[stage].key] & ingested
        why = versions.stale_asset(instance, assets[stage], partitioned, videos)
        if why:
            return Planned(f"{detector}_retrain", stages[index:], None, None, 0, f"{stage}: {why}")
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


def _assets(defs: dg.Definitions, detector: str) -> dict[str, dg.AssetsDefinition]:
    graph = defs.resolve_asset_graph()
    return {
        key.path[-1]: graph.get(key).assets_def for key in graph.materializable_asset_keys if key.path[0] == detector
    }

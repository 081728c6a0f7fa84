"""What is stale and since which change, and what a change would run: the questions that need the asset graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg
import pandas as pd

from detection_assets.detector import Detector
from detection_assets.domain.formats.parsed import collector_paused
from detection_assets.domain.lineage_answers import answer
from detection_assets.domain.problems import InputError
from jobs import jobs, update
from resources import estimates, staleness
from resources.event_notes import Log

if TYPE_CHECKING:
    from detection_assets.lineage import Lineage


@collector_paused()
def stale(of: Lineage) -> pd.DataFrame:
    """The answer `stale`."""
    instance, assets = of.instance, update.assets_of(of.project.definitions, of.name)
    log, listed = Log(instance), update.Listed(of.storage)
    seen = update.look(instance, of.name, of.storage)
    found = update.stale(instance, of.project.definitions, of.name, of.storage, seen, log, listed)
    ingested = set(jobs.keys(of.name, jobs.INGEST))
    rows: list[dict[str, Any]] = []
    above: dict[str, set[str]] = {}
    for stage in jobs.STAGES:
        asset = assets[stage]
        if stage in jobs.INGEST:
            changes = staleness.of_videos(log, asset, {str(video): why for video, why in found[stage].items()})
        else:
            partitioned = asset.asset_deps[asset.key] & ingested
            changes = staleness.of_asset(log, asset, partitioned, seen.videos, found[stage].get(None))
        for change in changes:
            told = {"why": change.why, "change": change.change, "since": change.at, "run": change.run}
            rows.append({"asset": stage, "partition": change.partition, **told, "direct": True})
        above[stage] = {change.partition or "" for change in changes}
        rows += _following(stage, asset, above)
    return answer("stale", rows)


def _following(stage: str, asset: dg.AssetsDefinition, above: dict[str, set[str]]) -> Iterator[dict[str, Any]]:
    """The rows of what is stale only because something upstream is, which is noted in `above`, too."""
    for dep in sorted(key.path[-1] for key in asset.asset_deps[asset.key]):
        those = above.get(dep, set())
        new = (those if stage in jobs.INGEST else {""} if those else set()) - above[stage]
        for video in sorted(new):
            told = {"asset": stage, "partition": video or None, "run": "", "direct": False}
            yield {**told, "why": f"{dep} is stale", "change": f"follows {dep}", "since": None}
        above[stage] |= new


def would_run(of: Lineage, video: str | None, annotation: str | None, setting: str | None) -> pd.DataFrame:
    """The answer `would_run`; arguments and errors as of `Lineage.would_run`."""
    if sum(said is not None for said in (video, annotation, setting)) != 1:
        raise InputError("name one change: a video, a video whose annotations change, or a setting")
    if setting is not None and setting not in Detector.model_fields:
        there = ", ".join(Detector.model_fields)
        raise InputError(f"{setting}: the detector's file has no such section; there are {there}")
    instance, assets = of.instance, update.assets_of(of.project.definitions, of.name)
    videos = instance.get_dynamic_partitions(f"{of.name}_videos")
    if annotation is not None and annotation not in videos:
        raise InputError(
            f"{of.name}: there is no video {annotation}; `detection status {of.name}` counts those there are"
        )
    places = {name: at for at, name in enumerate(videos)}
    begin = "raw_videos" if video is not None else "annotations" if annotation is not None else None
    rows: list[dict[str, Any]] = []
    running: set[str] = set()
    for stage in jobs.STAGES:
        asset = assets[stage]
        follows = sorted(running & {dep.path[-1] for dep in asset.asset_deps[asset.key]})
        if setting is not None and setting in asset.metadata_by_key[asset.key]["settings"]:
            reason = f"it reads the setting {setting}"
        elif stage == begin:
            reason = "a video comes or changes" if video is not None else "annotations change"
        elif follows:
            reason = f"{' and '.join(follows)} may change"
        else:
            continue
        running.add(stage)
        count = None if stage not in jobs.INGEST else 1 if setting is None else len(videos)
        one = estimates.of(instance, asset.key, places if count is not None else {})
        times = 1 if count is None else count
        row = {"asset": stage, "partitions": count, "why": reason, "runs": one.runs}
        rows.append({**row, "seconds": round(one.seconds * times, 2), "usd": round(one.usd * times, 4)})
    return answer("would_run", rows)

"""What happens when the lake changes.

A tick that finds nothing new costs one listing. Only when the listing differs from the last one is it compared with
what is known, and only what is new or changed is asked for: many new videos make few runs. A file is taken in when two
ticks in a row saw it alike, so one that is still being written waits.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import dagster as dg

from detection_assets.domain import layout
from jobs import jobs
from resources import lake
from resources.storage import Storage
from resources.tracking import Tracking

MOST_A_RUN = 200
"""Videos in one run at most: enough to make starting it cheap, few enough to lose little if it dies."""


@dataclass
class Cursor:
    """What a sensor keeps between two ticks; it does not grow with what is known.

    Attributes:
        listing: Digest of the listing that was last found to hold nothing new.
        waiting: Fingerprints of what was seen once and has to be seen alike again.
        asked: Fingerprints of what a run was asked for and is not known yet.
    """

    listing: str = ""
    waiting: dict[str, str] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def load(text: str | None) -> "Cursor":
        """Reads a cursor; an unreadable one starts anew, which costs a comparison and nothing else."""
        try:
            return Cursor(**json.loads(text)) if text else Cursor()
        except (ValueError, TypeError):
            return Cursor()

    def dump(self) -> str:
        """The cursor as text."""
        return json.dumps(self.__dict__, sort_keys=True)

    def settle(self, now: Mapping[str, str], known: Mapping[str, str]) -> list[str]:
        """Says what is ready to be taken in, and moves the cursor on.

        Args:
            now: Fingerprints as they are, by video.
            known: Fingerprints as they were taken in.

        Returns:
            The videos that changed, were seen alike twice and were not asked for yet.
        """
        changed = {video: fingerprint for video, fingerprint in now.items() if known.get(video) != fingerprint}
        self.asked = {video: asked for video, asked in self.asked.items() if changed.get(video) == asked}
        fresh = {video: fingerprint for video, fingerprint in changed.items() if video not in self.asked}
        ready = [video for video, fingerprint in fresh.items() if self.waiting.get(video) == fingerprint]
        self.waiting = {video: fingerprint for video, fingerprint in fresh.items() if video not in ready}
        self.asked |= {video: fresh[video] for video in ready}
        return ready


def ranges(wanted: Iterable[str], order: Sequence[str]) -> list[tuple[str, str]]:
    """Covers partitions with as few ranges as can be.

    Args:
        wanted: The partitions, all of them in `order`.
        order: All partitions, in the order that Dagster keeps.

    Returns:
        First and last partition of each range; a range holds wanted ones only, and at most `MOST_A_RUN`.
    """
    place = {partition: index for index, partition in enumerate(order)}
    found: list[tuple[int, int]] = []
    for index in sorted(place[partition] for partition in wanted):
        if found and index == found[-1][1] + 1 and index - found[-1][0] < MOST_A_RUN:
            found[-1] = (found[-1][0], index)
        else:
            found.append((index, index))
    return [(order[first], order[last]) for first, last in found]


def range_tags(first: str, last: str) -> dict[str, str]:
    """The tags that make a run be over a range of partitions."""
    return {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}


def sensors_of(detector: str, videos: dg.DynamicPartitionsDefinition) -> list[dg.SensorDefinition]:
    """The sensors of a detector: new videos, new annotations, and MLflow runs that a dead process left open."""
    name = videos.name
    assert name is not None, "the partitions of videos have a name"

    @dg.sensor(
        name=f"{detector}_new_videos",
        job_name=f"{detector}_ingest",
        minimum_interval_seconds=30,
        description="Takes in new and changed videos, and images of new folders, when they have stopped changing.",
    )
    def new_videos(context: dg.SensorEvaluationContext, storage: Storage) -> dg.SensorResult | dg.SkipReason:
        cursor = Cursor.load(context.cursor)
        # Taken before the listing that is compared: what comes between the two is looked at again, never missed.
        digest = storage.glance(layout.VIDEOS)
        if digest == cursor.listing:
            return dg.SkipReason("nothing new")
        sources, refused = layout.sources(storage.list(layout.VIDEOS))
        now = {source.video: source.fingerprint for source in sources}
        ready = cursor.settle(now, lake.remembered(storage, "videos"))
        cursor.listing = "" if cursor.waiting else digest
        for path, why in refused.items():
            context.log.warning(f"{path}: {why}")
        if not ready:
            context.update_cursor(cursor.dump())
            return dg.SkipReason(f"{len(cursor.waiting)} files are still changing" if cursor.waiting else "nothing new")
        order = context.instance.get_dynamic_partitions(name)
        known = set(order)
        added = [video for video in ready if video not in known]
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(tags=range_tags(first, last)) for first, last in ranges(ready, [*order, *added])
            ],
            dynamic_partitions_requests=[videos.build_add_request(added)] if added else [],
            cursor=cursor.dump(),
        )

    @dg.sensor(
        name=f"{detector}_new_annotations",
        job_name=f"{detector}_ingest",
        minimum_interval_seconds=30,
        description="Reads new and changed annotation files of videos whose frames are extracted.",
    )
    def new_annotations(context: dg.SensorEvaluationContext, storage: Storage) -> dg.SensorResult | dg.SkipReason:
        cursor = Cursor.load(context.cursor)
        order = context.instance.get_dynamic_partitions(name)
        digest = f"{storage.glance(layout.ANNOTATIONS)}-{len(order)}"
        if digest == cursor.listing:
            return dg.SkipReason("nothing new")
        # A video that no run has read annotations for yet is taken in with them; here only what came later counts.
        known = lake.remembered(storage, "annotations")
        files = layout.annotation_files(storage.list(layout.ANNOTATIONS), order)
        now = {video: layout.fingerprint(items) for video, items in files.items() if video in known}
        ready = cursor.settle(now, known)
        cursor.listing = "" if cursor.waiting or len(known) < len(order) else digest
        if not ready:
            context.update_cursor(cursor.dump())
            return dg.SkipReason(f"{len(cursor.waiting)} files are still changing" if cursor.waiting else "nothing new")
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(tags=range_tags(first, last), asset_selection=jobs.keys(detector, ("annotations",)))
                for first, last in ranges(ready, order)
            ],
            cursor=cursor.dump(),
        )

    @dg.run_failure_sensor(
        name=f"{detector}_close_mlflow_runs",
        description="Ends the MLflow run of a Dagster run that failed, even if its process was killed.",
        monitored_jobs=[],
    )
    def close_mlflow_runs(context: dg.RunFailureSensorContext, tracking: Tracking) -> None:
        if context.dagster_run.tags.get("detection/detector") == detector:
            tracking.close_left_open({"dagster_run_id": context.dagster_run.run_id})

    return [new_videos, new_annotations, close_mlflow_runs]

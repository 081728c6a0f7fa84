"""What happens when the lake changes.

A tick that finds nothing new costs one listing. Only when the listing differs from the last one is it compared with
what is known, and only what is new or changed is asked for: many new videos make few runs. A file is taken in when two
ticks in a row saw it alike, so one that is still being written waits.

Where somebody tells what came (`resources/arrivals`), a tick looks at what it was told of and at what waits, and at
nothing else; once an hour everything is listed, for what nobody told. A message is ended by the tick after the one that
took it: only then is it certain that the cursor, and so what the message said, was kept.
"""

import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import dagster as dg

from detection_assets.domain import inbox, layout
from detection_assets.domain.layout import Stored
from jobs import jobs
from resources import lake
from resources.arrivals.base import Arrivals
from resources.storage import Storage
from resources.tracking import Tracking

MOST_A_RUN = 200
"""Videos in one run at most: enough to make starting it cheap, few enough to lose little if it dies."""
LISTING_EVERY_S = 3600.0
"""Seconds after which everything is listed although somebody tells what came: so long a lost message goes unnoticed."""
MOST_MESSAGES = 500
"""Messages that a tick takes at most: their receipts stand in the cursor until the next one."""
MOST_LOOKS = 1000
"""Up to this many videos are looked up one by one; for more, listing everything is cheaper."""


@dataclass
class Cursor:
    """What a sensor keeps between two ticks; it does not grow with what is known.

    Attributes:
        listing: Digest of the listing that was last found to hold nothing new.
        waiting: Fingerprints of what was seen once and has to be seen alike again.
        asked: Fingerprints of what a run was asked for and is not known yet.
        taken: Receipts of the messages that the last tick took.
        listed: When everything was last listed where somebody tells what came, epoch seconds.
    """

    listing: str = ""
    waiting: dict[str, str] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)
    taken: list[str] = field(default_factory=list)
    listed: float = 0.0

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

    def listing_is_due(self, now: float) -> bool:
        """Whether everything has to be listed again; also after the clock was set back."""
        return not 0 <= now - self.listed < LISTING_EVERY_S

    def settle(
        self,
        now: Mapping[str, str],
        known: Mapping[str, str],
        *,
        looked_at: Collection[str] | None = None,
        whole: Collection[str] = (),
    ) -> list[str]:
        """Says what is ready to be taken in, and moves the cursor on.

        Args:
            now: Fingerprints as they are, by video.
            known: Fingerprints as they were taken in.
            looked_at: The videos that `now` is about, everything that waits among them; None for all there are.
            whole: Videos of which it is certain that nobody is still writing them.

        Returns:
            The videos that changed, are whole or were seen alike twice, and were not asked for yet.
        """
        changed = {video: fingerprint for video, fingerprint in now.items() if known.get(video) != fingerprint}
        self.asked = {
            video: asked
            for video, asked in self.asked.items()
            if changed.get(video) == asked or (looked_at is not None and video not in looked_at)
        }
        fresh = {video: fingerprint for video, fingerprint in changed.items() if video not in self.asked}
        ready = [video for video, seen in fresh.items() if video in whole or self.waiting.get(video) == seen]
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


def ready_of_all(context: dg.SensorEvaluationContext, storage: Storage, cursor: Cursor, *, whole: bool) -> list[str]:
    """The videos that are ready to be taken in, by a listing of everything.

    Args:
        context: Of the tick.
        storage: The detector's storage.
        cursor: It is moved on.
        whole: Whether files are there as a whole or not at all.
    """
    # Taken before the listing that is compared: what comes between the two is looked at again, never missed.
    digest = storage.glance(layout.VIDEOS)
    if digest == cursor.listing:
        return []
    sources, refused = lake.list_sources(storage)
    for path, why in refused.items():
        context.log.warning(f"{path}: {why}")
    ready = cursor.settle(
        {source.video: source.fingerprint for source in sources},
        lake.remembered(storage, "videos"),
        whole={source.video for source in sources if whole and source.kind == "video"},
    )
    cursor.listing = "" if cursor.waiting else digest
    return ready


def videos_told_of(context: dg.SensorEvaluationContext, arrivals: Arrivals, cursor: Cursor) -> set[str]:
    """Ends the messages that the last tick took, takes those that came since, and says which videos they are about."""
    arrivals.done(cursor.taken)
    notices = arrivals.take(MOST_MESSAGES)
    cursor.taken = [notice.receipt for notice in notices]
    for problem in (problem for notice in notices for problem in notice.problems):
        context.log.warning(f"{problem}; it is not looked at again")
    keys = {key for notice in notices for key in notice.keys}
    named: set[str] = set()
    for key in sorted(keys):
        # An image is a part of the video that its folder is; which that is says the key alone.
        sources, refused = inbox.sources([Stored(key, 1, "")])
        named |= {source.video for source in sources}
        for path, why in refused.items():
            context.log.warning(f"{path}: {why}")
    return named


def ready_of(context: dg.SensorEvaluationContext, storage: Storage, cursor: Cursor, videos: Sequence[str]) -> list[str]:
    """Those of some videos that are ready to be taken in, each looked up by itself.

    A file that somebody told of is there as a whole. A folder of images grows image by image, so it has to be seen
    alike twice.
    """
    found = {video: source for video, source in lake.look_up(storage, videos).items() if source}
    for video in set(videos) - found.keys():
        context.log.info(f"{video}: it is not there any more")
    return cursor.settle(
        {video: source.fingerprint for video, source in found.items()},
        lake.remembered(storage, "videos", list(found)),
        looked_at=videos,
        whole={video for video, source in found.items() if source.kind == "video"},
    )


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
    def new_videos(
        context: dg.SensorEvaluationContext, storage: Storage, arrivals: Arrivals
    ) -> dg.SensorResult | dg.SkipReason:
        cursor = Cursor.load(context.cursor)
        now = time.time()
        named: Collection[str] | None = None
        if arrivals.tells and not cursor.listing_is_due(now):
            named = videos_told_of(context, arrivals, cursor) | cursor.waiting.keys()
        if named is not None and len(named) <= MOST_LOOKS:
            ready = ready_of(context, storage, cursor, sorted(named))
        else:
            ready = ready_of_all(context, storage, cursor, whole=arrivals.tells)
            cursor.listed = now if arrivals.tells else 0.0
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
        files = lake.annotation_files(storage, order, order)
        now = {video: inbox.fingerprint(items) for video, items in files.items() if video in known}
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

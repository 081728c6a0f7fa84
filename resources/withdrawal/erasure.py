"""Erasing a withdrawn video's data, everywhere and in every version, and the tombstone that proves it.

What cannot be found any more once a part of it is gone is written down first, as a plan in the lake. Every step looks
for what is still there and can be done again, so whoever is killed half-way begins anew and completes. What names
things is made smaller before the things go. The tombstone comes last, after a search that finds nothing: nothing claims
to be erased that is not.

What is shared with other videos is not lost. A table is deleted, a smaller one is written under the hash of its own
content, and a note leads from the one to the other. A published version keeps its name, because that is what lineage
calls it, and says in its manifest what was taken out of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version as version_of_package
from typing import Any

import dagster as dg
import orjson

from detection_assets.domain import layout
from detection_assets.domain.problems import InputError
from detection_assets.domain.withdrawal import Tombstone, Withdrawal
from resources import label_batches, temporary
from resources.collectors import SETTING
from resources.compute.base import Compute
from resources.home import home
from resources.storage import Storage
from resources.withdrawal import descriptions, event_pictures, leftovers, old_versions, steps, traces, withdrawals
from resources.withdrawal.event_pictures import Sought
from resources.withdrawal.traces import Traces

Tell = Callable[[str], None]
PICTURES = "pictures in Dagster's event log"


@dataclass(frozen=True)
class Plan:
    """What is erased, as far as it could not be found again once a part of it is gone.

    Attributes:
        video: The video.
        kind: `video` or `images`.
        by: Who has it erased.
        began: When, in ISO 8601, UTC.
        counts: How much there was, by place.
        files: Annotation files that are its alone.
        shared_files: Those that are not.
        captures: As of `Traces`.
        requests: As of `Traces`.
        worst: As of `Traces`.
        batches: As of `Traces`.
        runs: Runs that made batch predictions of it.
        below: Other videos whose paths begin with its own.
        areas: Keys, and prefixes below which all is its own or was replaced, for what a store keeps of them.
    """

    video: str
    kind: str
    by: str
    began: str
    counts: Mapping[str, int]
    files: Sequence[str]
    shared_files: Sequence[str]
    captures: Sequence[str]
    requests: Sequence[tuple[str, str]]
    worst: Sequence[str]
    batches: Mapping[str, Sequence[str]]
    runs: Sequence[str]
    below: Sequence[str]
    areas: Sequence[str]

    @property
    def sought(self) -> Sought:
        """Whose pictures are to go from Dagster's event log."""
        requests = [(day, request) for day, request in self.requests]
        return Sought(self.video, self.worst, self.runs, requests, self.batches)


@dataclass(frozen=True)
class Eraser:
    """Whoever erases.

    Attributes:
        storage: The detector's storage.
        instance: The Dagster instance.
        compute: What runs programs, and may have left some of their files on this machine.
        detector: The detector's name.
        known: The videos that there are.
    """

    storage: Storage
    instance: dg.DagsterInstance
    compute: Compute
    detector: str
    known: Sequence[str]

    def plan(self, found: Traces, by: str) -> Plan:
        """The plan of an erasure, which is written down; an earlier one that was not carried out is gone on with."""
        key = layout.erasure(found.video)
        made = self._plan(found, by)
        if not self.storage.put_if_absent(key, orjson.dumps(asdict(made))):
            return self._merged(Plan(**orjson.loads(self.storage.get(key))), made)
        return made

    def _plan(self, found: Traces, by: str) -> Plan:
        runs = _runs(self.instance, self.detector, found.video)
        sought = Sought(found.video, found.worst, runs, found.requests, found.batches)
        pictures = event_pictures.count(self.instance, sought)
        own = [key for keys in found.own.values() for key in keys]
        return Plan(
            video=found.video,
            kind=found.kind,
            by=by,
            began=withdrawals.now(),
            counts={**found.found(), **({PICTURES: pictures} if pictures else {})},
            files=found.own.get("annotation files", ()),
            shared_files=found.shared_files,
            captures=found.captures,
            requests=found.requests,
            worst=found.worst,
            batches=found.batches,
            runs=runs,
            below=sorted(one for one in self._others(found.video) if one.startswith(f"{found.video}/")),
            areas=_outermost(
                {
                    *_folders(found),
                    *own,
                    *found.tables,
                    *found.published,
                    *found.reports,
                    *found.described,
                }
            ),
        )

    def _others(self, video: str) -> set[str]:
        return traces.beside(self.storage, video, self.known)

    def _merged(self, plan: Plan, now: Plan) -> Plan:
        """The plan that was there, with what has come to light since."""
        both = {
            name: sorted({*map(_plain, getattr(plan, name)), *map(_plain, getattr(now, name))})
            for name in ("files", "shared_files", "captures", "requests", "worst", "runs", "below", "areas")
        }
        changed: dict[str, Any] = {**both, "batches": {**now.batches, **plan.batches}}
        merged = replace(plan, **changed)
        self.storage.put(layout.erasure(plan.video), orjson.dumps(asdict(merged)))
        return merged

    def carry_out(self, plan: Plan, made: Withdrawal, tell: Tell) -> Tombstone:
        """Erases what there is, and proves it.

        Args:
            plan: From `plan`.
            made: The record of the withdrawal.
            tell: Takes progress, a line each.

        Raises:
            InputError: A store or a database refuses, or something was left; run again.
        """
        for what, step in self._steps(plan, tell):
            tell(what)
            step()
        tell("looking for what is left")
        there = self.left(traces.find(self.storage, plan.video, self.known), plan.sought)
        if there:
            told = ", ".join(f"{count} {what}" for what, count in there.items())
            raise InputError(f"{plan.video}: {told} came while it was being erased; run again")
        return self._bury(plan, made, self._old_versions(plan, tell))

    def left(self, found: Traces, sought: Sought | None = None) -> dict[str, int]:
        """How much there is of a video, by what it is; nothing once it is erased.

        Args:
            found: What was found of it in the lake.
            sought: Whose pictures are looked for in the event log, where more is known than `found` tells.
        """
        pictures = event_pictures.count(self.instance, sought or Sought(found.video))
        begun = sum(1 for _ in traces.begun(self.storage, found.video))
        there = {**found.found(), PICTURES: pictures, "files that killed runs left": begun}
        return {what: count for what, count in there.items() if count}

    def _steps(self, plan: Plan, tell: Tell) -> Iterator[tuple[str, Callable[[], None]]]:
        storage, video = self.storage, plan.video

        def of(*places: str) -> Callable[[], None]:
            def delete() -> None:
                found = traces.own_objects(storage, video, self._others(video))
                for place in places:
                    steps.own(storage, video, found.get(place, ()), tell)

            return delete

        def there(keys: Sequence[str]) -> list[str]:
            return [key for key in keys if storage.exists(key)]

        yield "tables that hold rows of it", lambda: steps.tables(storage, video, plan.captures, tell)
        yield "what is published with rows of it", lambda: steps.published(storage, video, plan.batches, tell)
        yield "what was captured of it", lambda: steps.captured(storage, video, plan.captures, plan.requests, tell)
        yield "what tells of it", lambda: descriptions.erase(storage, video, plan.files)
        yield "what is noted of batches of labels", lambda: steps.asked_about(storage, plan.batches)
        yield "its tables", of("tables", "notes of what is known")
        yield "its annotations", lambda: steps.own(storage, video, there(plan.files), tell)
        yield (
            "its predictions and frames",
            of("prediction files", "frame files", "looks at its frames", "files of jobs"),
        )
        yield "the video itself", of("video files")
        yield "pictures in Dagster's event log", lambda: _done(event_pictures.erase(self.instance, plan.sought))
        yield "what killed runs left on this machine", lambda: self._left_here(video)
        yield "pages that were looked at", lambda: leftovers.pages(home() / ".scratch" / "show", self.detector)

    def _left_here(self, video: str) -> None:
        self.compute.forget(video)
        temporary.clear()

    def _old_versions(self, plan: Plan, tell: Tell) -> str:
        tell("what the store keeps of deleted objects")
        roots = (layout.FRAMES, "predictions", "looks", layout.VIDEOS)
        elsewhere = tuple(f"{root}/{one}" for one in plan.below for root in roots)

        def keep(key: str) -> bool:
            return any(key == one or key.startswith(f"{one}/") for one in elsewhere)

        return old_versions.erase(self.storage, plan.areas, keep)[1]

    def _bury(self, plan: Plan, made: Withdrawal, old_versions_left: str) -> Tombstone:
        before = withdrawals.tombstone(self.storage, plan.video)
        counts = dict(plan.counts)
        for what, count in (before.counts if before else {}).items():
            counts[what] = counts.get(what, 0) + count
        stone = Tombstone(
            video=plan.video,
            withdrawn_by=made.by,
            withdrawn_at=made.at,
            erased_by=before.erased_by if before else plan.by,
            began=before.began if before else plan.began,
            ended=withdrawals.now(),
            sha256=made.sha256,
            frames_sha256=made.frames_sha256,
            counts=counts,
            left=[*self._left(plan), *([old_versions_left] if old_versions_left else [])],
            software=version_of_package("detection-assets"),
        )
        self.storage.put(layout.tombstone(plan.video), orjson.dumps(asdict(stone)))
        return stone

    def _left(self, plan: Plan) -> Iterator[str]:
        """What a person has to do."""
        for key in plan.shared_files:
            if self.storage.exists(key):
                yield f"{key}: it speaks for other videos, too; take out what it says of {plan.video}"
        for batch in plan.batches:
            handed = label_batches.state(self.storage, batch, "handed")
            if handed:
                where = handed.get("link") or handed.get("place") or handed.get("tool")
                yield f"batch {batch} was handed to {handed.get('tool')}: delete the video's pictures there ({where})"
        if where := os.environ.get(SETTING, "").strip():
            yield f"OpenLineage events ({where.partition('?')[0]}) name the video and its versions, and hold no picture"
        if told := event_pictures.left(self.instance):
            yield told


def _outermost(areas: Collection[str]) -> list[str]:
    """Areas without those in others: each is asked about by itself, and a frame's key lies in its video's folder."""

    def above(area: str) -> Iterator[str]:
        while area := area.rpartition("/")[0]:
            yield area

    return sorted(area for area in areas if not any(one in areas for one in above(area)))


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _done(_: object) -> None:
    return None


def _folders(found: Traces) -> Iterator[str]:
    """Where a store may keep something of the video that is not there any more, or was written anew."""
    video = found.video
    yield layout.video(video)
    yield f"{layout.FRAMES}/{video}"
    yield f"predictions/{video}"
    yield f"looks/{video}"
    # What the server kept beside captured pictures is written anew, and so is what was noted of batches.
    yield from {key.rpartition("/")[0] for key in found.captures}
    for batch in found.batches:
        yield f"{layout.LABELING}/{batch}"
        yield layout.label_work(batch, "")[:-1]
    for asset in traces.OF_A_VIDEO:
        yield layout.table_folder(asset, video)


def _runs(instance: dg.DagsterInstance, detector: str, video: str) -> list[str]:
    key = dg.AssetKey([detector, "batch_predictions"])
    wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[video])
    return sorted({record.run_id for record in instance.fetch_materializations(wanted, limit=1000).records})

"""Label Studio JSON: tasks with what people annotated on each, of pictures and of videos.

https://labelstud.io/guide/export.html describes the export, https://labelstud.io/guide/task_format.html the import.
Read are JSON and JSON-MIN exports, and what an export storage holds: one task or one annotation a file. Several people
may annotate one task; each one's boxes become rows of their own. Predictions are a model's and drafts are not
finished: neither is an annotation. Regions of a video have keyframes; between two of them a box moves in a straight
line, and after one that is not `enabled` it is gone.

In the tasks that we make, `data` says which frame it is (`frame`, `frame_index`, `pts_s`, `video`, `width`, `height`);
a region's `meta` holds what Label Studio has no place for. The tool keeps both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from detection_assets.domain.formats import label_studio_regions as regions
from detection_assets.domain.formats import label_studio_tasks as tasks
from detection_assets.domain.formats import label_studio_write
from detection_assets.domain.formats.cvat_stream import Track
from detection_assets.domain.formats.cvat_tracks import Covered, positions
from detection_assets.domain.formats.json_file import elements, number, parse, top_keys
from detection_assets.domain.formats.label_studio_video import track_of, upright
from detection_assets.domain.formats.parsed import (
    Parsed,
    ProblemLog,
    Unreadable,
    collector_paused,
    each_file,
    join,
    table,
    table_of,
    whole,
)
from detection_assets.domain.formats.shapes import TAKEN
from detection_assets.domain.formats.urls import names_of

HOLDS = label_studio_write.HOLDS
VIDEO_HOLDS = label_studio_write.VIDEO_HOLDS
save = label_studio_write.save
config = label_studio_write.config
task = label_studio_write.task
video_task = label_studio_write.video_task

MAX_TASK_BYTES = 8 * 2**20
"""One task: some fifty thousand keyframes of a video."""

MAX_ROWS = 5_000_000
"""Most boxes one video's task may spread out to."""

MAX_NAMELESS = 50_000
"""Tasks without a picture, and none with one, after which a file is no export of Label Studio."""

_REMEDY = "export it again as JSON"
_TOLD = {
    "predictions": ("tasks have predictions of a model, which nobody checked", "passed over"),
    "drafts": ("tasks have drafts, which somebody has not finished", "passed over; submit them"),
    "open": ("tasks have no annotation", "left out; nobody has looked at them"),
}


def is_mine(path: Path, text: str) -> bool:
    """Whether the head of a file is Label Studio's: a list of tasks, or one task or annotation."""
    if text.startswith("["):
        keys = top_keys(text[1:])
        listed = keys.get("annotations") == "[" or keys.get("completions") == "[" or keys.get("predictions") == "["
        return listed or "annotation_id" in keys or "annotator" in keys
    if '"data"' not in text and '"result"' not in text:
        return False
    keys = top_keys(text)
    single = keys.get("data") == "{" and (keys.get("annotations") == "[" or keys.get("predictions") == "[")
    return single or (keys.get("result") == "[" and ("completed_by" in keys or "task" in keys))


def load(paths: Sequence[Path], root: Path, wanted: Collection[int] | None = None) -> Parsed:
    """Reads Label Studio files.

    Args:
        paths: The JSON files.
        root: Folder that the `file` column is relative to.
        wanted: For videos, the numbers of the frames to give boxes for; None for all frames of the video.

    Returns:
        The boxes and problems. An annotation without regions is an empty frame, or an empty video where it says how
        long that is; one whose regions were all unusable is not. Rows of a video have a frame number, from 0, and a
        name only where several videos are in one file. The annotator is the one who completed the annotation,
        `reviewed` says that it is a ground truth. Turned boxes, polygons and ellipses are taken by the box around them
        and told, as is what was painted with a brush, which is dropped.
    """

    def read(path: Path, file: str, log: ProblemLog) -> pd.DataFrame:
        reader = _Reader(file, log, wanted)
        for i, element in enumerate(elements(path, _REMEDY, MAX_TASK_BYTES)):
            try:
                reader.task(i, parse(element, _REMEDY))
            except Unreadable as error:
                log.add("task", file, f"tasks[{i}]", error.what, f"dropped the task: {error.remedy}")
            reader.stop_if_useless()
        return reader.table()

    with collector_paused():
        tables, log = each_file(paths, root, read)
    return Parsed(join(tables), log.problems())


class _Reader:
    """Takes the tasks of a file one by one and keeps their rows."""

    def __init__(self, file: str, log: ProblemLog, wanted: Collection[int] | None) -> None:
        self._file, self._log, self._wanted = file, log, wanted
        self._rows: list[dict[str, Any]] = []
        self._addresses: list[str | None] = []
        self._videos: list[tuple[str | None, str | None, pd.DataFrame]] = []
        self._told: Counter[str] = Counter()
        self._tasks = self._nameless = 0

    def stop_if_useless(self) -> None:
        """Raises Unreadable where so many tasks, and no other, name no picture that it cannot be what it seemed."""
        if self._nameless > MAX_NAMELESS and not self._rows and not self._videos:
            raise Unreadable(f"none of its first {self._tasks:,} tasks has a picture", _REMEDY)

    def task(self, i: int, found: Any) -> None:
        """Takes one task."""
        self._tasks += 1
        place, data, annotations, upload = self._parts(i, found)
        if data is None:
            self._nameless += 1
            return
        for annotation in annotations:
            at = place
            if isinstance(annotation.get("id"), int):
                at = f"{place}, annotation {annotation['id']}"
            if annotation.get("was_cancelled") is True or annotation.get("skipped") is True:
                self._log.add("cancelled", self._file, at, "an annotator skipped the task", "left the annotation out")
                continue
            results = annotation.get("result")
            if not isinstance(results, list):
                self._log.add("result", self._file, at, "has no list of results", "dropped the annotation")
                continue
            found_regions, broken = regions.regions_of(results)
            if broken:
                self._log.add("result", self._file, at, f"{broken} results have no value", "dropped")
            default = {"annotator": tasks.person_of(annotation), "reviewed": annotation.get("ground_truth") is True}
            if tasks.is_video(data, found_regions):
                self._video(at, data, upload, found_regions, broken, default)
            else:
                self._picture(at, data, upload, found_regions, broken, default)

    def _parts(self, i: int, found: Any) -> tuple[str, dict[str, Any] | None, list[dict[str, Any]], str | None]:
        """A task's place, its data, its annotations and the file that was uploaded for it."""
        place = f"tasks[{i}]"
        if not isinstance(found, dict):
            self._log.add("task", self._file, place, "is no object", "dropped")
            return place, None, [], None
        task, annotations = found, found.get("annotations", found.get("completions"))
        if "data" not in found and isinstance(found.get("result"), list):
            # One annotation a file, with its task inside.
            task, annotations = found.get("task"), [found]
        elif "data" not in found and annotations is None and "predictions" not in found:
            task, annotations = tasks.from_min(found)
        if isinstance(task, dict) and isinstance(task.get("id"), int):
            place = f"task {task['id']}"
        data = task.get("data") if isinstance(task, dict) else None
        if not isinstance(data, dict) or not isinstance(annotations, list | None):
            self._log.add("task", self._file, place, "has no 'data', or no list of annotations", "dropped")
            return place, None, [], None
        known = [one for one in annotations or [] if isinstance(one, dict)]
        if len(known) < len(annotations or []):
            self._log.add("annotation", self._file, place, "has annotations that are no objects", "dropped them")
        for kind in ("predictions", "drafts"):
            self._told[kind] += bool(found.get(kind)) and isinstance(found[kind], list)
        self._told["open"] += not annotations
        upload = task.get("file_upload") if isinstance(task, dict) else None
        return place, data, known, upload if isinstance(upload, str) else None

    def _picture(
        self,
        at: str,
        data: Mapping[str, Any],
        upload: str | None,
        found: Sequence[regions.Region],
        broken: int,
        default: Mapping[str, Any],
    ) -> None:
        name, address = tasks.named(data, upload)
        if not name and not address:
            self._nameless += 1
            self._log.add("data", self._file, at, "'data' names no picture", "dropped the annotation")
            return
        size = tasks.size_in(found, data)
        common = {
            "frame_name": name,
            "frame_index": whole(data.get("frame_index")),
            "pts_s": number(data.get("pts_s")),
            "width": size[0] if size else None,
            "height": size[1] if size else None,
            "relative": size is None,
        }
        sound, before = not broken, len(self._rows)
        for region in found:
            place = f"{at}, region {region.name}"
            if region.shape is None:
                self._unplaced(region, place)
                continue
            fault = self._fault(region)
            corners = None if fault else regions.corners_of(region, size)
            if corners is None:
                sound = False
                self._log.add("region", self._file, place, fault or "has no usable place", "dropped")
                continue
            if corners[1]:
                self._log.add("shape", self._file, place, f"{corners[1]}, not a box", TAKEN)
            if len(region.labels) > 1:
                what = f"has {len(region.labels)} labels: {', '.join(region.labels)[:100]}"
                self._log.add("labels", self._file, place, what, "kept a box for each")
            said = self._said(region, region.shape.get("meta"), default, place)
            row = {**common, **said, **dict(zip(("x1", "y1", "x2", "y2"), corners[0], strict=True)), "place": place}
            self._rows += [{**row, "class": label} for label in region.labels]
            self._addresses += [address] * len(region.labels)
        if sound and len(self._rows) == before:
            self._rows.append({**common, **default, "relative": False, "place": at})
            self._addresses.append(address)

    def _unplaced(self, region: regions.Region, place: str) -> None:
        """Tells of answers about a whole picture, which is no box."""
        if region.answers:
            what = (
                f"answers '{next(iter(region.answers))}' for the whole picture or video, and only boxes say things here"
            )
            self._log.add("whole", self._file, place, what, "left out")

    def _fault(self, region: regions.Region) -> str:
        """Why a region with a shape gives no box; empty where it does."""
        shape = region.shape or {}
        if why := regions.why_no_box(region):
            return f"{why}, not a box"
        if not region.labels:
            return "has no label"
        if turn := number(shape.get("image_rotation")):
            return f"was drawn on a picture turned by {turn:g} degrees; turn it back in Label Studio"
        return "is on one of several pictures of a task" if whole(shape.get("item_index"), 1) else ""

    def _said(self, region: regions.Region, meta: object, default: Mapping[str, Any], place: str) -> dict[str, Any]:
        said, complete = regions.said_of(region, meta, default)
        if not complete:
            self._log.add("meta", self._file, place, "says what JSON text cannot hold", "left out")
        return said

    def _video(
        self,
        at: str,
        data: Mapping[str, Any],
        upload: str | None,
        found: Sequence[regions.Region],
        broken: int,
        default: Mapping[str, Any],
    ) -> None:
        size = tasks.size_in(found, data)
        tracks: list[Track] = []
        turns: list[list[tuple[int, float]]] = []
        sayings: list[dict[str, Any]] = []
        claimed: list[int | None] = [whole(data.get("frames"), 1)]
        sound = not broken
        for region in found:
            place = f"{at}, region {region.name}"
            if region.shape is None:
                self._unplaced(region, place)
                continue
            keyframes, bad = regions.keyframes_of(region)
            fault = self._fault(region) or ("" if keyframes else "has no usable keyframe")
            if bad or fault:
                sound = False
                what = fault or f"{bad} keyframes have no usable frame and place"
                self._log.add("region", self._file, place, what, "dropped")
            if fault:
                continue
            claimed.append(whole(region.value.get("framesCount"), 1))
            if any(one.degrees % 360 for one in keyframes):
                what = "a box that turns, not an upright one" + ("" if size else "; nobody says how large the video is")
                self._log.add("shape", self._file, place, what, TAKEN)
            for label in region.labels:
                tracks.append(track_of(region, label, keyframes, len(sayings)))
                turns.append([(one.frame, one.degrees) for one in keyframes])
            for one in keyframes:
                sayings.append(self._said(region, one.meta or (region.shape or {}).get("meta"), default, place))
        length = max((count for count in claimed if count), default=0)
        self._spread(at, data, upload, tracks, turns, sayings, length, sound, size, default)

    def _spread(
        self,
        at: str,
        data: Mapping[str, Any],
        upload: str | None,
        tracks: Sequence[Track],
        turns: Sequence[Sequence[tuple[int, float]]],
        sayings: Sequence[dict[str, Any]],
        length: int,
        sound: bool,
        size: tuple[int, int] | None,
        default: Mapping[str, Any],
    ) -> None:
        """The rows of a video: its boxes at the wanted frames, and the frames that have none."""
        length = max([length, *(turn[-1][0] + 1 for turn in turns)])
        if not length:
            self._log.add("video", self._file, at, "no region, and nobody says how long the video is", "left out")
            return
        if self._wanted is None and length > MAX_ROWS:
            self._log.add("video", self._file, at, f"claims {length:,} frames", "dropped; correct its framesCount")
            return
        frames = (
            np.arange(length, dtype=np.int64)
            if self._wanted is None
            else np.array(sorted({frame for frame in self._wanted if 0 <= frame < length}), dtype=np.int64)
        )
        found = positions(tracks, Covered(frames, length - 1, 0), MAX_ROWS)
        if found is None:
            self._log.add("video", self._file, at, f"spreads out to more than {MAX_ROWS:,} boxes", "dropped; split it")
            return
        corners = upright(found.corners, found.frames, found.owners, turns, size)
        names = [track.name for track in tracks]
        said = [sayings[code] for code in found.said.tolist()]
        n, name = len(found.frames), tasks.named(data, upload)
        common = {"width": size[0] if size else None, "height": size[1] if size else None, "file": self._file}
        columns = {key for one in sayings for key in one} - {"track", "keyframe"}
        boxes = {
            **common,
            **{key: [one.get(key) for one in said] for key in sorted(columns)},
            "frame_index": found.frames,
            "class": [tracks[owner].label for owner in found.owners],
            **{corner: corners[:, i] for i, corner in enumerate(("x1", "y1", "x2", "y2"))},
            "relative": size is None,
            "track": [one.get("track") or names[owner] for one, owner in zip(said, found.owners, strict=True)],
            "keyframe": found.drawn,
            "place": [f"{at}, region {names[o]}, frame {f}" for o, f in zip(found.owners, found.frames, strict=True)],
        }
        empty = np.setdiff1d(frames, found.frames).tolist() if sound else []
        nothing = {**common, **default, "frame_index": empty, "place": [f"{at}, frame {frame}" for frame in empty]}
        self._videos.append((*name, join([table(n, boxes), table(len(empty), nothing)])))

    def table(self) -> pd.DataFrame:
        """The rows of the file; tells what was passed over."""
        if not self._tasks:
            raise Unreadable("holds no tasks", _REMEDY)
        for kind, count in self._told.items():
            if count:
                what, done = _TOLD[kind]
                self._log.tell(self._file, "", f"{count} {what}", done)
        known = [address for address in self._addresses if address]
        names = names_of([*known, *(address for _, address, _ in self._videos if address)])
        for row, address in zip(self._rows, self._addresses, strict=True):
            row["frame_name"] = row["frame_name"] or names.get(address or "") or None
        # Where a file is of one video, it lies beside it; of several, each says which one it is.
        several = len({(name, address) for name, address, _ in self._videos}) > 1
        parts = [table_of(self._rows, self._file)]
        for name, address, part in self._videos:
            called = name or (names.get(address or "") if several else None)
            if called:
                part["frame_name"] = [f"{called}/{number:06d}" for number in part["frame_index"]]
            parts.append(part)
        return join(parts)

"""CVAT XML 1.1, for images and for video: https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/.

An *images* file lists `<image>` elements with their boxes. A *video* file lists `<track>` elements, whose boxes are
keyframes numbered as in the source video; between two keyframes a box moves in a straight line, and after the last one
it stays until the task ends, unless it is marked `outside`. Files are read as a stream: memory holds only the boxes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from detection_assets.domain.formats import cvat_write
from detection_assets.domain.formats.cvat_said import beside
from detection_assets.domain.formats.cvat_stream import Reader, Task, Track
from detection_assets.domain.formats.cvat_tracks import covered_frames, positions
from detection_assets.domain.formats.parsed import Parsed, ProblemLog, Unreadable, each_file, join, table
from detection_assets.domain.formats.xml import stream

MAX_ROWS = 5_000_000
"""Most boxes one file may spread out to. A short file can claim a track over a century of video."""

MAX_TASKS = 1000
"""Most tasks of one file. Each makes a table of its own, and a track can name a task in a dozen characters."""

HOLDS = cvat_write.HOLDS
VIDEO_HOLDS = cvat_write.VIDEO_HOLDS
save = cvat_write.save


def load(paths: Sequence[Path], root: Path, wanted: Collection[int] | None = None) -> Parsed:
    """Reads CVAT files of both kinds.

    Args:
        paths: The XML files.
        root: Folder that the `file` column is relative to.
        wanted: For video files, the numbers of the frames to give boxes for, as in the source video; None for all
            frames of the task. A wanted frame that the task's step left out gets interpolated boxes too, except just
            before a track begins or ends, where nobody can say: such frames are passed over, in one problem a file.

    Returns:
        The boxes and problems. Frames of the task, and images, without boxes are empty frames. Rows of a video have a
        frame number and no name; where one file holds several tasks, the name is `<the task's video>/<number>`. Turned
        boxes, polygons, masks and ellipses are taken by their extremes; points, lines, skeletons and cuboids are passed
        over. Turned boxes and the other shapes are told. Where a box does not say who drew it, the annotator is the
        task's assignee, else its reviewer; a task with a reviewer is `reviewed`. A frame of a video that is a keyframe
        says so, and between two of them holds what the first one says. `source` other than `manual`, `z_order` and
        `group_id` other than 0 are attributes.
    """

    def read(path: Path, file: str, log: ProblemLog) -> pd.DataFrame:
        reader = Reader(file, log)
        stream(path, reader)
        parts = [_images(reader, file)]
        tasks = reader.tasks_by_id()
        if len(tasks) > MAX_TASKS:
            raise Unreadable(f"tells of {len(tasks):,} tasks, more than {MAX_TASKS:,}", "export fewer of them at once")
        tracks: dict[str, list[Track]] = {}
        for track in reader.tracks:
            tracks.setdefault(track.task, []).append(track)
        for key, task in tasks.items():
            if task.is_video(key in tracks, bool(reader.images)):
                parts.append(_video(reader, key, task, tracks.get(key, []), len(tasks) > 1, wanted, file, log))
        if not reader.images and not reader.tracks and len(parts) == 1:
            raise Unreadable("holds neither <image> nor <track>", "export it as CVAT for images or CVAT for video")
        return join(parts)

    tables, log = each_file(paths, root, read)
    return Parsed(join(tables), log.problems())


def _images(reader: Reader, file: str) -> pd.DataFrame:
    tasks = reader.tasks_by_id()
    people = [tasks[image.task] for image in reader.images]
    said = reader.sayings.spread(np.array([box.said for box in reader.boxes], dtype=np.int64))
    filled = {box.image for box in reader.boxes}
    empty = [i for i, image in enumerate(reader.images) if i not in filled and image.sound]
    of_boxes = [box.image for box in reader.boxes]
    n = len(of_boxes)

    def common(rows: list[int]) -> dict[str, Any]:
        return {
            "frame_name": [reader.images[i].name for i in rows],
            "width": [reader.images[i].width for i in rows],
            "height": [reader.images[i].height for i in rows],
            "annotator": np.array([people[i].annotator for i in rows], dtype=object),
            "reviewed": np.array([people[i].reviewed for i in rows], dtype=bool),
            "file": file,
        }

    shared = common(of_boxes)
    boxes = {
        **shared,
        **said,
        "annotator": beside(said, "annotator", shared["annotator"]),
        "reviewed": beside(said, "reviewed", shared["reviewed"]),
        "class": [box.label for box in reader.boxes],
        **{name: [box.corners[i] for box in reader.boxes] for i, name in enumerate(("x1", "y1", "x2", "y2"))},
        "place": [box.place for box in reader.boxes],
    }
    nothing = {**common(empty), "place": [f"image {reader.images[i].name}" for i in empty]}
    return join([table(n, boxes), table(len(empty), nothing)])


def _video(
    reader: Reader,
    key: str,
    task: Task,
    tracks: Sequence[Track],
    several: bool,
    wanted: Collection[int] | None,
    file: str,
    log: ProblemLog,
) -> pd.DataFrame:
    covered = covered_frames(task, tracks, wanted, MAX_ROWS)
    if covered is None:
        what = f"the task claims more than {MAX_ROWS:,} frames"
        raise Unreadable(what, "correct its start_frame and stop_frame", "meta/task")
    if covered.uncertain:
        what = f"{covered.uncertain} frames lie between two that the task showed (step {task.step})"
        done = "passed over; take frames at the task's step"
        log.tell(file, "frame_filter", f"{what} as a track begins or ends", done, kind="uncertain frame")
    found = positions(tracks, covered, MAX_ROWS)
    if found is None:
        what = f"its tracks spread out to more than {MAX_ROWS:,} boxes"
        raise Unreadable(what, "split the task, or ask for fewer frames")
    common = {
        "width": task.width,
        "height": task.height,
        "annotator": task.annotator,
        "reviewed": task.reviewed,
        "file": file,
    }

    def named(numbers: Iterable[int]) -> list[str] | None:
        return [f"{task.video}/{number:06d}" for number in numbers] if several else None

    frames, owners, corners = found.frames, found.owners, found.corners
    said = reader.sayings.spread(found.said)
    labels = [track.label for track in tracks]
    names = [track.name for track in tracks]
    boxes = table(
        len(frames),
        {
            **common,
            **said,
            "annotator": beside(said, "annotator", np.full(len(frames), task.annotator, dtype=object)),
            "reviewed": beside(said, "reviewed", np.full(len(frames), task.reviewed)),
            "keyframe": found.drawn,
            "frame_name": named(frames),
            "frame_index": frames,
            "class": [labels[owner] for owner in owners],
            **{name: corners[:, i] for i, name in enumerate(("x1", "y1", "x2", "y2"))},
            "track": [names[owner] for owner in owners],
            "place": [f"track {names[owner]}, frame {frame}" for owner, frame in zip(owners, frames, strict=True)],
        },
    )
    filled = set(frames.tolist()) | reader.unsound.get(key, set())
    empty = [frame for frame in covered.frames.tolist() if frame not in filled]
    nothing = {
        **common,
        "frame_name": named(empty),
        "frame_index": empty,
        "place": [f"frame {frame}" for frame in empty],
    }
    return join([boxes, table(len(empty), nothing)]) if empty else boxes

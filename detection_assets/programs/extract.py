"""Extracts the wanted frames of videos and image folders, with exact timestamps.

Input `videos`: a folder. Parameters:
    videos: [{"video": key, "kind": "video"|"images", "path": relative to the input, "out": sub-folder of the output}]
    sampling: see `domain.sampling.Sampling`
    workers: processes; null for one a core

Output: for each video `<out>/frames.parquet`, one row a sampled frame, and the kept frames beside it as `000030.jpg`
(images: their own bytes under their own name). One bad video never loses the rest: it is reported and has no rows.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from detection_assets.domain.quality import NearDuplicates
from detection_assets.domain.sampling import Sampling
from detection_assets.domain.video_timeline import Timeline, VideoError, read_timeline
from detection_assets.programs.extract_frames import (
    NEAR_DUPLICATE,
    Outcome,
    Row,
    Task,
    drop,
    finish,
    write_whole,
)
from detection_assets.programs.extract_plan import plan
from detection_assets.programs.extract_pool import Done, Pool
from detection_assets.programs.job import Job, cores, main

BYTES_A_PROCESS = 2_000_000
"""So many bytes of video keep a process busy for longer than it takes to start."""

MIN_IMAGES = 200
"""A folder is shared among processes in pieces of at least so many images."""


@dataclass
class Video:
    """One video of the job, and what is known of it so far.

    Attributes:
        bytes: Size on disk, by which work is shared out.
        timeline: Of a video in parts.
        left: Tasks of it that are not finished.
        again: A part of it failed because it does not stand alone.
        results: What its finished tasks gave.
        outcome: What it came to as a whole.
        error: Why nothing of it can be used.
    """

    key: str
    kind: str
    path: Path
    out: Path
    out_name: str
    bytes: int = 0
    timeline: Timeline | None = None
    left: int = 0
    again: bool = False
    results: dict[int, Outcome] = field(default_factory=dict)
    outcome: Outcome | None = None
    error: str = ""


def run(job: Job) -> None:
    """Extracts frames; see the module's docstring.

    Raises:
        ValueError: The parameters are wrong; the message names which.
        DiskFullError: There is no room for the output.
    """
    sampling = Sampling.from_params(job.params.get("sampling") or {})
    videos = [_video(entry, job) for entry in job.params["videos"]]
    doubled = [out for out, count in Counter(video.out for video in videos).items() if count > 1]
    if doubled:
        raise ValueError(f"videos: two share the output folder {doubled[0].name!r}; give each its own")
    workers = int(job.params.get("workers") or 0) or cores()
    for video in videos:
        video.out.mkdir(parents=True, exist_ok=True)
    total = sum(video.bytes for video in videos) or 1
    finished = 0
    owners: dict[int, tuple[Video, int]] = {}

    def told(task: int, share: float) -> None:
        job.progress(finished, len(videos), f"videos; {owners[task][0].key} at {share:.0%}")

    # A file that crashes the decoder must not take the others along; alone, it may go the faster way. Pillow's warnings
    # are the whole process's, so images go apart, too.
    apart = len(videos) > 1 or any(video.kind == "images" for video in videos)
    with Pool(workers, apart, told) as pool:
        pool.warm(len(videos) if len(videos) > 1 else 1 + total // BYTES_A_PROCESS)
        # It is needed at the end only, and takes as long to load as all else.
        threading.Thread(target=importlib.import_module, args=("pyarrow.parquet",)).start()
        tasks: list[Task] = []
        # The largest first, so that no process is left alone with it at the end.
        for video in sorted(videos, key=lambda video: -video.bytes):
            share = video.bytes / total * workers * (1 if len(videos) == 1 else 2)
            for part, task in enumerate(_tasks(video, sampling, max(1, round(share)))):
                owners[len(tasks)] = (video, part)
                tasks.append(task)
        for video in videos:
            if video.error:
                _publish(job, video)
                finished += 1
        threads = max(1, workers // max(1, len(tasks)))
        for event in pool.run([replace(task, threads=threads) for task in tasks]):
            video, part = owners[event.task]
            video.left -= 1
            if isinstance(event, Done):
                video.results[part] = event.outcome
            elif event.as_a_whole:
                video.again = True
            else:
                video.error = video.error or event.why
            if video.left:
                continue
            if video.again and not video.error:
                # Its parts do not stand alone after all: once more, from beginning to end.
                video.again, video.left, video.results = False, 1, {}
                _clear(video.out)
                number = pool.add(Task(video.kind, video.path, video.out, sampling))
                owners[number] = (video, 0)
                continue
            _join(video, sampling)
            _publish(job, video)
            finished += 1
            job.progress(finished, len(videos), "videos")


def _video(entry: Mapping[str, Any], job: Job) -> Video:
    root = job.inputs["videos"]
    path, out = root / str(entry["path"]), job.output / str(entry["out"])
    for given, found, base in ((entry["path"], path, root), (entry["out"], out, job.output)):
        if os.path.isabs(str(given)) or not Path(os.path.normpath(found)).is_relative_to(os.path.normpath(base)):
            raise ValueError(f"videos: {given!r} leads out of {base}; give a path inside it")
    if entry["kind"] not in ("video", "images"):
        raise ValueError(f"videos: {entry['video']}: kind {entry['kind']!r} is unknown; use video or images")
    video = Video(str(entry["video"]), str(entry["kind"]), path, out, str(entry["out"]))
    try:
        if video.kind == "video":
            video.bytes = path.stat().st_size
        else:
            video.bytes = sum(one.stat().st_size for one in path.iterdir() if one.is_file())
    except OSError as error:
        video.error = f"cannot be read ({error.strerror}); add it again"
    return video


def _tasks(video: Video, sampling: Sampling, pieces: int) -> list[Task]:
    """Cuts a video's work into at most so many pieces that can be done at the same time."""
    if video.error:
        return []
    whole = Task(video.kind, video.path, video.out, sampling)
    tasks = [whole]
    try:
        if video.kind == "images":
            tasks = _image_tasks(whole, pieces)
            if not tasks:
                video.error = "there are no images in the folder (its sub-folders are not part of it); add some"
        elif pieces > 1 and sampling.method != "scene":
            timeline = read_timeline(video.path)
            parts = [] if timeline.doubt else plan(timeline, sampling, pieces)
            if len(parts) > 1:
                video.timeline = timeline
                tasks = [replace(whole, part=part, time_base=timeline.time_base, whole=False) for part in parts]
    except (VideoError, OSError) as error:
        video.error, tasks = str(error), []
    video.left = len(tasks)
    return tasks


def _image_tasks(whole: Task, pieces: int) -> list[Task]:
    from detection_assets.domain.video_images import image_names

    names = list(enumerate(image_names(whole.path)))
    size = max(MIN_IMAGES, -(-len(names) // max(pieces, 1)))
    chunks = [tuple(names[at : at + size]) for at in range(0, len(names), size)]
    return [replace(whole, names=chunk, whole=len(chunks) == 1) for chunk in chunks]


def _join(video: Video, sampling: Sampling) -> None:
    """Puts the parts of a video together, with the same result as if one process had done it all."""
    results = [video.results[part] for part in sorted(video.results)]
    video.results = {}
    if video.error:
        return
    if len(results) == 1 and not video.timeline:
        video.outcome = results[0]
        return
    seen = NearDuplicates(sampling.near_duplicate)
    rows: list[Row] = []
    for row in (row for result in results for row in result.rows):
        duplicate = not row.reason and seen.seen(int(row.phash, 16))
        rows.append(drop(row, NEAR_DUPLICATE, video.out) if duplicate else row)
    error = results[0].error if all(result.error for result in results) else ""
    outcome = Outcome(rows, sum(result.decoded for result in results), error)
    try:
        video.outcome = finish(outcome, video.timeline, sampling) if video.timeline else outcome
    except VideoError as error:
        video.error = str(error)
    video.timeline = None


def _publish(job: Job, video: Video) -> None:
    outcome = video.outcome
    rows = outcome.rows if outcome else []
    if not outcome:
        _clear(video.out)
    write_whole(video.out / "frames.parquet", table(video.key, rows))
    if not outcome:
        job.report({"kind": "video_failed", "video": video.key, "error": f"{video.path.name}: {video.error}"})
        return
    job.report(
        {
            "kind": "video",
            "video": video.key,
            "out": video.out_name,
            "seen": len(rows),
            "kept": sum(not row.reason for row in rows),
            "dropped": dict(Counter(row.reason.partition(":")[0] for row in rows if row.reason)),
            "frames_decoded": outcome.decoded,
            "error": f"{video.path.name}: {outcome.error}" if outcome.error else None,
        }
    )


def table(key: str, rows: list[Row]) -> bytes:
    """The table of extracted frames of one video, as a Parquet file.

    Args:
        key: The video's.
        rows: Its frames, in display order.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, tuple[pa.DataType, list[Any]]] = {
        "video": (pa.string(), [key] * len(rows)),
        "frame": (pa.string(), [_frame_id(key, row) for row in rows]),
        "index": (pa.int64(), [row.index for row in rows]),
        "pts_s": (pa.float64(), [row.pts_s for row in rows]),
        "file": (pa.string(), [row.file for row in rows]),
        "width": (pa.int64(), [row.width for row in rows]),
        "height": (pa.int64(), [row.height for row in rows]),
        "sha256": (pa.string(), [row.sha256 for row in rows]),
        "phash": (pa.string(), [row.phash for row in rows]),
        "sharpness": (pa.float64(), [row.sharpness for row in rows]),
        "brightness": (pa.float64(), [row.brightness for row in rows]),
        "kept": (pa.bool_(), [not row.reason for row in rows]),
        "reason": (pa.string(), [row.reason for row in rows]),
    }
    arrays = {name: pa.array(values, kind) for name, (kind, values) in columns.items()}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(arrays), sink)
    return sink.getvalue().to_pybytes()


def _frame_id(key: str, row: Row) -> str:
    return f"{key}#{row.name or f'{row.index:06d}'}"


def _clear(folder: Path) -> None:
    for file in folder.iterdir():
        if file.is_file():
            file.unlink()


if __name__ == "__main__":
    main(run, __doc__)

"""What a worker process does: turns a video, a part of one, or some images of a folder into frame files and rows.

Imported by every worker, so it must stay quick to import: no pandas, no torch, no Dagster.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av.error
import numpy as np
import simplejpeg
from av.video.reformatter import VideoReformatter

from detection_assets.domain.quality import NearDuplicates, Quality, luma_size, measure
from detection_assets.domain.sampling import Sampling, evenly
from detection_assets.domain.video_timeline import (
    Orientation,
    Timeline,
    VideoError,
    orientation,
    oriented,
    read_timeline,
)
from detection_assets.programs.extract_decode import (
    NotAsPromisedError,
    Shot,
    Tally,
    decode_all,
    decode_part,
    truncated,
)
from detection_assets.programs.extract_plan import Part, plan

BLURRED = "blurred"
NEAR_DUPLICATE = "near-duplicate"
CORRUPT = "corrupt: "

Progress = Callable[[float], None]
"""Is told the share of a task that is done, 0..1."""


class DiskFullError(OSError):
    """There is no room for the output. Nothing else can be written either, so the whole run stops."""


@dataclass(frozen=True, slots=True)
class Row:
    """One sampled frame, as in the table of extracted frames; `name` is the file name of a folder's image."""

    index: int
    pts_s: float
    file: str
    width: int
    height: int
    sha256: str
    phash: str
    sharpness: float
    brightness: float
    reason: str
    name: str = ""


@dataclass(frozen=True)
class Task:
    """Work for one process.

    Attributes:
        kind: `video` or `images`.
        path: The video or the folder.
        out: Folder for the frame files.
        sampling: The options.
        threads: Threads for a decoder that cannot be split.
        part: Of a video: the part to decode; None for all of it.
        time_base: Of a part: its video's seconds a tick.
        names: Of a folder: the images to read, each with its index.
        whole: The task is the whole of its video, so near-duplicates can be left out before they are written.
    """

    kind: str
    path: Path
    out: Path
    sampling: Sampling
    threads: int = 1
    part: Part | None = None
    time_base: Fraction = Fraction(1)
    names: tuple[tuple[int, str], ...] = ()
    whole: bool = True


@dataclass
class Outcome:
    """What became of a task.

    Attributes:
        rows: In display order.
        decoded: Frames that the decoder gave.
        error: Something wrong with the video that left usable frames; empty if nothing is.
    """

    rows: list[Row] = field(default_factory=list)
    decoded: int = 0
    error: str = ""


def work(task: Task, progress: Progress) -> Outcome:
    """Does a task.

    Args:
        task: What to do.
        progress: Is told how far it is.

    Raises:
        VideoError: Nothing of the video can be used.
        NotAsPromisedError: A part cannot be decoded on its own; the video has to be done as a whole.
        DiskFullError: The disk is full.
    """
    if task.kind == "images":
        return _images(task, progress)
    if task.part is not None:
        tally = Tally()
        shots = decode_part(task.path, task.part, task.time_base, task.threads, tally)
        rows = list(_told(_rows(shots, task), len(task.part.wanted), progress))
        return Outcome(rows, tally.decoded)
    timeline = read_timeline(task.path)
    outcome = _planned(task, timeline, progress)
    if outcome is None:
        outcome = _sequential(task, timeline, progress)
    return finish(outcome, timeline, task.sampling)


def finish(outcome: Outcome, timeline: Timeline, sampling: Sampling) -> Outcome:
    """Adds what a truncated video lacks, and says what is wrong with it as a whole.

    Args:
        outcome: Of all of the video.
        timeline: The video's.
        sampling: Its sampling.

    Raises:
        VideoError: Not one frame decodes.
    """
    if not outcome.decoded and not any(not row.reason.startswith(CORRUPT) for row in outcome.rows):
        why = outcome.rows[0].reason.removeprefix(CORRUPT) if outcome.rows else timeline.damage or "it has no frames"
        raise VideoError(f"not one frame can be decoded ({why}); export it again")
    last = outcome.rows[-1].index if outcome.rows else -1
    after = max(last, int(timeline.shown.sum()) - 1)
    lacking = [_corrupt(shot.index, shot.pts_s, shot.problem) for shot in truncated(timeline, sampling, after)]
    error = ""
    if timeline.missing_s:
        error = (
            f"truncated: it holds {timeline.span_s:.3f} s of the {timeline.declared_s:.3f} s that its header claims; "
            "what is there was used, copy it again for the rest"
        )
    elif timeline.damage:
        error = f"damaged: {timeline.damage}; what comes before was used"
    return replace(outcome, rows=outcome.rows + lacking, error=error)


def drop(row: Row, reason: str, out: Path) -> Row:
    """Turns a kept frame into a dropped one, and removes its file."""
    if row.file:
        (out / row.file).unlink(missing_ok=True)
    return replace(row, file="", sha256="", reason=reason)


def _planned(task: Task, timeline: Timeline, progress: Progress) -> Outcome | None:
    if timeline.doubt or task.sampling.method == "scene":
        return None
    tally, rows = Tally(), list[Row]()
    parts = plan(timeline, task.sampling)
    total = sum(len(part.wanted) for part in parts)
    try:
        shots = (
            shot for part in parts for shot in decode_part(task.path, part, timeline.time_base, task.threads, tally)
        )
        rows.extend(_told(_rows(shots, task), total, progress))
    except NotAsPromisedError:
        for row in rows:
            drop(row, "", task.out)
        return None
    return Outcome(rows, tally.decoded)


def _sequential(task: Task, timeline: Timeline, progress: Progress) -> Outcome:
    tally = Tally()
    total = max(timeline.span_s, 1e-9)
    rows: list[Row] = []
    start: float | None = None
    # Only scenes cannot be counted before they are seen, so they are thinned out after.
    for row in _rows(decode_all(task.path, timeline, task.sampling, task.threads, tally), task):
        rows.append(row)
        start = row.pts_s if start is None else start
        progress(min((row.pts_s - start) / total, 1.0))
    if task.sampling.method == "scene" and task.sampling.max_frames is not None:
        chosen = set(evenly(len(rows), task.sampling.max_frames))
        for place, row in enumerate(rows):
            if place not in chosen:
                drop(row, "", task.out)
        rows = [row for place, row in enumerate(rows) if place in chosen]
    return Outcome(rows, tally.decoded)


def _told(rows: Iterable[Row], total: int, progress: Progress) -> Iterator[Row]:
    for done, row in enumerate(rows, 1):
        yield row
        progress(done / max(total, 1))


def _rows(shots: Iterable[Shot], task: Task) -> Iterator[Row]:
    """Measures, judges and writes each wanted frame."""
    pictures, seen = _Pictures(), NearDuplicates(task.sampling.near_duplicate if task.whole else None)
    for shot in shots:
        if shot.frame is None or shot.problem:
            yield _failed(shot, shot.problem, pictures)
            continue
        try:
            turn = pictures.turn(shot.frame)
            luma = oriented(pictures.luma(shot.frame), turn)
        except (av.error.FFmpegError, ValueError) as error:
            yield _failed(shot, f"its pixels cannot be converted ({error})", pictures)
            continue
        quality = measure(luma)
        reason, file, digest = "", "", ""
        if quality.sharpness < task.sampling.min_sharpness:
            reason = BLURRED
        elif seen.seen(quality.phash):
            reason = NEAR_DUPLICATE
        else:
            pixels = np.ascontiguousarray(oriented(pictures.rgb(shot.frame), turn))
            data = simplejpeg.encode_jpeg(pixels, quality=task.sampling.jpeg_quality, colorsubsampling="420")
            file, digest = f"{shot.index:06d}.jpg", hashlib.sha256(data).hexdigest()
            write_whole(task.out / file, data)
        yield _row(shot.index, shot.pts_s, file, pictures.size(shot.frame), digest, quality, reason)


def _row(
    index: int, pts_s: float, file: str, size: tuple[int, int], sha256: str, found: Quality, reason: str, name: str = ""
) -> Row:
    figures = (found.phash_hex, found.sharpness, found.brightness)
    return Row(index, pts_s, file, *size, sha256, *figures, reason, name)


def _failed(shot: Shot, why: str, pictures: _Pictures) -> Row:
    width, height = pictures.size(shot.frame) if shot.frame is not None else (0, 0)
    return _corrupt(shot.index, shot.pts_s, why, width, height)


def _corrupt(index: int, pts_s: float, why: str, width: int = 0, height: int = 0, name: str = "") -> Row:
    return Row(index, pts_s, "", width, height, "", "", float("nan"), float("nan"), CORRUPT + why, name)


class _Pictures:
    """Converts frames; one converter for each purpose, so that neither is set up anew for each frame."""

    def __init__(self):
        self._luma = VideoReformatter()
        self._rgb = VideoReformatter()
        self._turns: dict[int, Orientation] = {}

    def turn(self, frame: Any) -> Orientation:
        """How the frame is to be turned; the stream's matrix is read again only when its rotation is a new one."""
        if frame.rotation not in self._turns:
            self._turns[frame.rotation] = orientation(frame)
        return self._turns[frame.rotation]

    def size(self, frame: Any) -> tuple[int, int]:
        """Width and height as displayed."""
        return (frame.height, frame.width) if self.turn(frame).transposed else (frame.width, frame.height)

    def luma(self, frame: Any) -> np.ndarray:
        size = luma_size(frame.width, frame.height)
        return self._luma.reformat(frame, *size, "gray8", interpolation="AREA", threads=1).to_ndarray()

    def rgb(self, frame: Any) -> np.ndarray:
        return self._rgb.reformat(frame, format="rgb24", threads=1).to_ndarray()


def _images(task: Task, progress: Progress) -> Outcome:
    from detection_assets.domain.video_images import PictureError, read_luma

    rows: list[Row] = []
    seen = NearDuplicates(task.sampling.near_duplicate if task.whole else None)
    decoded = 0
    for done, (index, name) in enumerate(task.names, 1):
        progress(done / len(task.names))
        try:
            data = (task.path / name).read_bytes()
            width, height, luma = read_luma(data)
        except (PictureError, OSError) as error:
            rows.append(_corrupt(index, float("nan"), str(error), name=name))
            continue
        decoded += 1
        quality = measure(luma)
        reason, file, digest = "", name, hashlib.sha256(data).hexdigest()
        if quality.sharpness < task.sampling.min_sharpness:
            reason = BLURRED
        elif seen.seen(quality.phash):
            reason = NEAR_DUPLICATE
        if reason:
            file = digest = ""
        else:
            write_whole(task.out / name, data)
        rows.append(_row(index, float("nan"), file, (width, height), digest, quality, reason, name))
    return Outcome(rows, decoded, "" if decoded else "not one of its images decodes; see the reasons in its table")


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file that is either complete or absent, whatever happens meanwhile.

    Args:
        path: The file; replaced if it exists.
        data: Its bytes.

    Raises:
        DiskFullError: There is no room; what was begun is removed.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # The first error is the one to tell.
            part.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                error.errno, f"the disk is full ({os.strerror(error.errno)}); free some space and run again", str(path)
            ) from error
        raise

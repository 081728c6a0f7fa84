"""What programs share that look at the frames of many videos: which there are, and going on after a kill."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detection_assets.domain.problems import InputError
from detection_assets.programs.job import Job


@dataclass(frozen=True)
class Video:
    """A video to look at: its key, the sub-folder of the output for it, and its frames' ids and files."""

    key: str
    out: str
    frames: Sequence[tuple[str, str]]


def videos_of(given: Any) -> list[Video]:
    """Reads the parameter `videos`.

    Args:
        given: A list of `video`, `out`, and `frames`: pairs of a frame's id and its file.

    Raises:
        InputError: It is something else, is empty, or two outs are alike or lead elsewhere.
    """
    try:
        videos = [
            Video(str(one["video"]), str(one["out"]), [(str(frame), str(file)) for frame, file in one["frames"]])
            for one in given
        ]
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"params.json: `videos` is not a list of video, out and frames ({error!r})") from error
    outs = [video.out for video in videos]
    if not videos or len(set(outs)) < len(outs) or any(Path(out).name != out or out.startswith(".") for out in outs):
        raise InputError("params.json: `videos` needs at least one video, each with a plain `out` of its own")
    return videos


def each(job: Job, videos: Sequence[Video], told: Any, look: Callable[[Video, Path, str, int, int], None]) -> None:
    """Looks at one video after the other; with a checkpoint folder, those that a killed run finished are taken over.

    Args:
        job: The program's.
        videos: What to look at.
        told: JSON-serialisable; a checkpoint that was made with anything else is not taken over.
        look: Called with a video, an empty folder to write to, the fingerprint that its `summary.json` must hold, the
            frames that were looked at before it, and those in all.
    """
    total, done = sum(len(video.frames) for video in videos), 0
    for video in videos:
        content = json.dumps([*told, video.key, list(video.frames)], sort_keys=True)
        fingerprint = hashlib.sha256(content.encode()).hexdigest()
        kept = job.checkpoint / video.out if job.checkpoint else None
        if kept is None or not _is_of(kept, fingerprint):
            target = kept or job.output / video.out
            part = target.with_name(f".{video.out}.part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            look(video, part, fingerprint, done, total)
            shutil.rmtree(target, ignore_errors=True)
            os.replace(part, target)
        done += len(video.frames)
        job.progress(done, total, "frames predicted")
        if kept is not None:
            shutil.copytree(kept, job.output / video.out, dirs_exist_ok=True)


def _is_of(folder: Path, fingerprint: str) -> bool:
    try:
        return json.loads((folder / "summary.json").read_text())["fingerprint"] == fingerprint
    except (OSError, ValueError, KeyError, TypeError):
        return False

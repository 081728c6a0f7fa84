"""A whole sample: which clips there are, filming them side by side, and writing what annotators and tests need."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from detection_assets.domain.problems import InputError
from detection_assets.samples.clip import Footage, Plan, film

CLASSES: dict[str, tuple[str, ...]] = {
    "fridge": ("apple", "banana", "cola", "water"),
    "surgical": ("scalpel", "forceps", "scissors", "tumour"),
}
"""Samples and their classes."""

PLACES = {"fridge": ("store", 12), "surgical": ("theatre", 12)}
CAMERAS = ("cam-1", "cam-2")
CLIPS = 24
SECONDS = 6.0
RATES = (16, 16, 16, 20)
"""Frames a second, clip after clip; each has a frame on every half second."""

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Clip:
    """One video of a sample.

    Attributes:
        video: Its key in the lake, `<group>/<camera>/<clip>.mp4`.
        group: Store or theatre: footage of one group looks alike, so it must not be split.
        form: Format of its annotations: `coco`, `yolo`, `pascal_voc` or `cvat`.
        annotations: The annotation files.
        fps: Nominal frames a second.
        variable: Whether the frame rate varies.
        frames: How many frames it has.
    """

    video: str
    group: str
    form: str
    annotations: tuple[Path, ...]
    fps: int
    variable: bool
    frames: int


@dataclass(frozen=True)
class Sample:
    """What `render` made.

    Attributes:
        name: `fridge` or `surgical`.
        folder: Holds `videos/`, `annotations/` and `truth/`.
        classes: The classes.
        clips: In the order of their keys' numbers.
        frames: Frames in all.
        boxes: Boxes in all frames that annotators would draw.
    """

    name: str
    folder: Path
    classes: tuple[str, ...]
    clips: tuple[Clip, ...]
    frames: int
    boxes: int

    @property
    def videos(self) -> Path:
        """The folder that holds the videos."""
        return self.folder / "videos"

    @property
    def annotations(self) -> Path:
        """The folder that holds what annotators hand over."""
        return self.folder / "annotations"


def render(name: str, out: Path, seed: int = 0, clips: int | None = None, progress: Progress | None = None) -> Sample:
    """Renders sample footage with annotations and exact truth.

    Writes `out/videos/<group>/<camera>/<clip>.mp4`; beside it, under `out/annotations/`, the clip's annotations in one
    of four formats; `out/truth/boxes.parquet` with every thing in sight in every frame (the annotations table's columns
    but the optional ones, and `index`, `pts_s`, `track` and `visible`, the share of the thing that is seen) and
    `out/truth/frames.parquet` (`video, frame, index, pts_s, width, height`). The same seed gives the same bytes of
    annotations and truth.

    Clips are filmed in worker processes that start afresh, so a script that calls this needs the usual
    `if __name__ == "__main__":`.

    Args:
        name: `fridge` or `surgical`.
        out: Folder to write to; made if missing. Files of the same names are replaced.
        seed: Same seed, same sample; 0 or more.
        clips: How many clips; 24 if None. The first twelve are of twelve different groups.
        progress: Called with (clips done, clips in all, what was done last) in this process.

    Returns:
        What was made.

    Raises:
        InputError: Unknown name, fewer than one clip, or a negative seed.
    """
    if name not in CLASSES:
        raise InputError(f"no sample is called '{name}'; there are: {', '.join(CLASSES)}")
    if clips is not None and clips < 1:
        raise InputError(f"clips is {clips}; a sample has at least one")
    if seed < 0:
        raise InputError(f"seed is {seed}; use 0 or more")
    from detection_assets.samples.handover import hand_over

    plans = [_plan(name, seed, number) for number in range(CLIPS if clips is None else clips)]
    footage: dict[int, Footage] = {}
    written: dict[int, list[Path]] = {}
    if progress:
        progress(0, len(plans), "starting")
    for done in _film_all(plans, out / "videos"):
        number = done.plan.number
        footage[number] = done
        written[number] = hand_over(done, CLASSES[name], out / "annotations")
        if progress:
            progress(len(footage), len(plans), done.plan.key)
    reels = [footage[number] for number in sorted(footage)]
    boxes = _write_truth(reels, out / "truth")
    return Sample(
        name,
        out,
        CLASSES[name],
        tuple(
            Clip(
                reel.plan.key,
                reel.plan.group,
                reel.plan.form,
                tuple(written[reel.plan.number]),
                reel.plan.fps,
                reel.plan.variable,
                len(reel.pts),
            )
            for reel in reels
        ),
        sum(len(reel.pts) for reel in reels),
        boxes,
    )


def _plan(name: str, seed: int, number: int) -> Plan:
    """Decides on a clip: groups in turn, then the next camera; formats so that each group meets several."""
    from detection_assets.samples.handover import FORMS

    word, places = PLACES[name]
    lap, place = divmod(number, places)
    return Plan(
        sample=name,
        seed=seed,
        number=number,
        place=place + 1,
        group=f"{word}-{place + 1:02d}",
        camera=CAMERAS[lap % len(CAMERAS)],
        stem=f"clip-{number + 1:03d}",
        fps=RATES[number % len(RATES)],
        variable=number % 8 == 1,
        seconds=SECONDS,
        form=FORMS[(number + lap) % len(FORMS)],
    )


def _film_all(plans: list[Plan], videos: Path) -> Iterator[Footage]:
    """Films clips one a process, and yields each as it is done."""
    workers = min(len(plans), os.cpu_count() or 1)
    # Fresh processes: forking one that already runs threads (Dagster's, numpy's) can hang.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    with pool:
        tasks = [pool.submit(film, plan, videos) for plan in plans]
        try:
            for task in as_completed(tasks):
                yield task.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _write_truth(reels: list[Footage], folder: Path) -> int:
    """Writes both truth tables and returns how many boxes annotators would draw."""
    from detection_assets.samples.handover import LEAST_VISIBLE

    boxes = pd.concat([_boxes(reel) for reel in reels], ignore_index=True)
    frames = pd.concat([_frames(reel) for reel in reels], ignore_index=True)
    folder.mkdir(parents=True, exist_ok=True)
    for table, file in ((boxes, "boxes.parquet"), (frames, "frames.parquet")):
        part = folder / f"{file}.part"
        table.to_parquet(part, index=False)
        part.replace(folder / file)
    return int((boxes["visible"] >= LEAST_VISIBLE).sum())


def _frames(reel: Footage) -> pd.DataFrame:
    key, index = reel.plan.key, np.arange(len(reel.pts))
    return pd.DataFrame(
        {
            "video": key,
            "frame": [f"{key}#{k:06d}" for k in index],
            "index": index,
            "pts_s": reel.pts,
            "width": reel.size[0],
            "height": reel.size[1],
        }
    )


def _boxes(reel: Footage) -> pd.DataFrame:
    key, rows = reel.plan.key, reel.rows
    index = rows[:, 0].astype(np.int64)
    roles = [reel.roles[int(number)] for number in rows[:, 1]]
    return pd.DataFrame(
        {
            "video": key,
            "frame": [f"{key}#{k:06d}" for k in index],
            "class": [role.label for role in roles],
            **{name: rows[:, 2 + k] for k, name in enumerate(("x1", "y1", "x2", "y2"))},
            "track": [role.track for role in roles],
            "source": "truth",
            "annotator": pd.Series([None] * len(rows), dtype="string"),
            "reviewed": True,
            "index": index,
            "pts_s": reel.pts[index],
            "visible": rows[:, 6],
        }
    )

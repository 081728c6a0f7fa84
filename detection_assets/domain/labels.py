"""What is asked of annotators: a batch of pictures, each with the reason for it and with boxes to begin with.

A batch is published in the lake before any tool hears of it, so whoever is killed half-way finds it and goes on. In a
tool each picture goes by one plain file name, which leads back to its frame whatever the tool does with folders.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from detection_assets.domain import file_names, layout

FRAMES = "frames.parquet"
"""The file of a published batch that has its pictures, columns `COLUMNS`."""
PROPOSALS = "proposals.parquet"
"""The file that has boxes to begin with, columns `PROPOSED`."""
PICTURES = "pictures"
"""The folder of a published batch that has pictures which would otherwise be deleted: those of captured requests."""

COLUMNS = ("name", "video", "frame", "index", "pts_s", "key", "width", "height", "source", "why", "rank")
"""Of `FRAMES`, a row a picture to be labelled.

`name` is what a tool calls it, unique in its batch. `video` and `frame` are what its boxes will be annotations of:
for a captured request, whose picture is no frame yet, a folder of images that is made when its labels come in
(`folder_of`). `key` is where the picture lies, `source` is `frame` or `request`, `why` says in words why it was chosen,
`rank` counts from 0, the most urgent first. `index` and `pts_s` are missing for images.
"""
PROPOSED = ("name", "class", "x1", "y1", "x2", "y2", "confidence")
"""Of `PROPOSALS`, a row a box that the model proposes, in pixels of the picture."""

_UNSAFE = re.compile(r"[^\w.-]+", re.ASCII)


@dataclass(frozen=True)
class Batch:
    """A published batch.

    Attributes:
        id: `lb-` and 12 hex digits of its content.
        frames: Its pictures, columns `COLUMNS`, by rank.
        proposals: Boxes to begin with, columns `PROPOSED`.
        model: The registered version that proposes, or "".
        classes: What is to be labelled.
    """

    id: str
    frames: pd.DataFrame
    proposals: pd.DataFrame
    model: str
    classes: tuple[str, ...]


def batch_id(frames: pd.DataFrame, classes: Iterable[str]) -> str:
    """The id of a batch: that of its pictures and classes, so that the same choice is the same batch."""
    digest = hashlib.sha256()
    for text in [*classes, "", *sorted(map(str, frames["frame"]))]:
        digest.update(f"{text}\n".encode())
    return f"lb-{digest.hexdigest()[:12]}"


def picture_name(video: str, frame: str, key: str) -> str:
    """What a tool calls a frame: its video's path in one word, then what tells it apart within the video.

    It is what `formats.frame_names` reads back, so a file that an annotator exports by hand finds its frames as well.

    Args:
        video: The video's key.
        frame: The frame's id, `<video>#<index>` or `<folder>#<file name>`.
        key: Where the picture lies; its ending is the name's.
    """
    stem = _UNSAFE.sub("_", video.rpartition(".")[0] or video).replace("/", "_")
    own = frame.rpartition("#")[2]
    ending = file_names.suffix(key)
    own = own if own.lower().endswith(ending) else f"{own}{ending}"
    return f"{stem}_{_UNSAFE.sub('_', own)}"[-180:]


def distinct(names: Iterable[str]) -> list[str]:
    """The names, with a number before those that would be taken for another, whatever the case of their letters."""
    taken: set[str] = set()
    found: list[str] = []
    for name in names:
        mine, number = name, 1
        while mine.casefold() in taken:
            number += 1
            mine = f"{number}-{name}"
        taken.add(mine.casefold())
        found.append(mine)
    return found


def folder_of(batch: str) -> str:
    """The video that captured pictures of a batch become when their labels come in: a folder of images, a group."""
    return f"captured-{batch}"


def annotations_key(batch: str, video: str) -> str:
    """Where the finished labels of a batch for one video lie: below its name, so that they speak for it alone."""
    return f"{layout.ANNOTATIONS}/{video}/requested-{batch}.json"


def by_video(names: Iterable[str], frames: pd.DataFrame) -> Mapping[str, pd.DataFrame]:
    """The rows of a batch's `frames` with these names, by video."""
    wanted = frames[frames["name"].isin(set(names))]
    return {str(video): rows for video, rows in wanted.groupby("video", sort=True)}

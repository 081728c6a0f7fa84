"""What annotators could be asked about, and what is labelled or asked for already.

Candidates are kept frames without annotations and captured requests whose picture is kept. What is in a batch is no
candidate while that is open, and not after if somebody skipped it there.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from detection_assets.domain import captures, labels, layout, selection
from detection_assets.live_labels import labelled_folders
from resources import label_batches
from resources.storage import Storage

CANDIDATES = (
    *("frame", "video", "key", "digest", "phash", "source", "name", "index", "pts_s", "width", "height"),
    *("day", "request_id"),
)
"""Columns of candidates. Of a request, `frame` is its picture's key, `video` is its day's, `name` what the server
called the picture; of a frame, `name` is missing, as are `day` and `request_id`."""
TYPES = {
    **dict.fromkeys(CANDIDATES, "object"),
    **dict.fromkeys(("index", "width", "height"), "Int64"),
    "pts_s": "float64",
}
"""The same for both sources, whatever of theirs is missing."""
REQUESTS = "captures"
IN_A_BATCH = ["name", "video", "frame", "key"]
KNOWN = 1000
"""Labelled and waiting pictures that candidates are held against, to be unlike them."""

_UNSAFE = re.compile(r"[^\w.-]+", re.ASCII)


@dataclass(frozen=True)
class Asked:
    """What is in batches: the rows of their `labels.FRAMES`, and which of the batches are open, in order.

    Attributes:
        frames: Pictures that are not to be asked about again; their `key` is where the batch has its picture.
        origins: Storage keys of the pictures before they were copied into a batch.
        open: Batches in which something is left to do, those that were never handed over among them.
    """

    frames: pd.DataFrame
    origins: frozenset[str]
    open: Sequence[str]


def asked(storage: Storage) -> Asked:
    """What is in batches."""
    parts: list[pd.DataFrame] = []
    origins: set[str] = set()
    left: list[str] = []
    for batch in label_batches.known(storage):
        found, keys = label_batches.read(storage, batch)
        far = label_batches.progress(storage, batch)
        if far.open:
            left.append(batch)
        # Of a batch that was given up, what nobody did may be asked about again.
        frames = found.frames[found.frames["name"].isin(far.finished)] if far.closed else found.frames
        origins.update(frames["key"].astype(str))
        parts.append(frames.assign(key=frames["name"].map(keys))[IN_A_BATCH].astype(object))
    frames = pd.concat([pd.DataFrame(columns=IN_A_BATCH, dtype=object), *parts], ignore_index=True)
    return Asked(frames, frozenset(origins), left)


def unlabelled_frames(frames: pd.DataFrame, annotations: pd.DataFrame, waiting: Asked) -> pd.DataFrame:
    """Kept frames that nobody has labelled or is asked about.

    Args:
        frames: The table `extracted_frames`.
        annotations: The table `annotations`.
        waiting: What is in batches.

    Returns:
        Columns `CANDIDATES`; the frames of a video in order of time.
    """
    free = frames["kept"] & ~frames["frame"].isin(annotations["frame"]) & ~frames["frame"].isin(waiting.frames["frame"])
    rows = frames[free].sort_values(["video", "index", "frame"], kind="stable")
    empty: Any = pd.Series([None] * len(rows), dtype=object, index=rows.index)
    table = rows.assign(digest=rows["sha256"], source="frame", name=empty, day=empty, request_id=empty)
    return table[list(CANDIDATES)].astype(TYPES).reset_index(drop=True)


def unlabelled_requests(storage: Storage, requests: pd.DataFrame, waiting: Asked) -> pd.DataFrame:
    """Captured requests whose picture is still kept, and which nobody has labelled or is asked about.

    Args:
        storage: The detector's storage.
        requests: Rows of `captured_requests`.
        waiting: What is in batches.

    Returns:
        Columns `CANDIDATES`, in order of time.
    """
    rows = requests[requests["image"].notna() & ~requests["image"].isin(list(waiting.origins))]
    there = {item.key for day in rows["day"].unique() for item in storage.list(layout.captures(str(day)))}
    rows = rows[rows["image"].isin(list(there))].drop_duplicates("image").sort_values("time", kind="stable")
    # A picture that somebody put in the lake by hand keeps its name; those that batches put there are in `waiting`.
    folders = labelled_folders(storage) if len(rows) else {}
    labelled = set().union(*(held for folder, held in folders.items() if not folder.startswith(labels.folder_of(""))))
    names = [captures.picture_name(row) for row in rows.itertuples()]
    rows = rows[np.array([name not in labelled for name in names], np.bool_)]
    columns: dict[str, Any] = {
        "frame": rows["image"],
        "video": f"{REQUESTS}/" + rows["day"],
        "key": rows["image"],
        "digest": rows["image"],
        "phash": None,
        "source": "request",
        "name": [_UNSAFE.sub("_", posixpath.basename(str(key))) for key in rows["image"]],
        "index": pd.Series(pd.NA, index=rows.index, dtype="Int64"),
        "pts_s": float("nan"),
        **{name: rows[name] for name in ("width", "height", "day", "request_id")},
    }
    return pd.DataFrame(columns, index=rows.index)[list(CANDIDATES)].astype(TYPES).reset_index(drop=True)


def known_pictures(frames: pd.DataFrame, annotations: pd.DataFrame, waiting: Asked) -> pd.DataFrame:
    """Pictures that candidates are to be unlike: labelled frames, evenly over videos, and what is asked about.

    Returns:
        `frame`, `video`, `key`, `digest`, at most `KNOWN` rows; what is asked about comes first.
    """
    requests = waiting.frames[~waiting.frames["frame"].isin(frames["frame"])]
    requests = requests.assign(digest=requests["key"])[["frame", "video", "key", "digest"]].head(KNOWN)
    named = frames["frame"].isin(annotations["frame"]) | frames["frame"].isin(waiting.frames["frame"])
    rows = frames[frames["kept"] & named].sort_values(["video", "index", "frame"], kind="stable")
    rows = selection.spread(rows, KNOWN - len(requests)).rename(columns={"sha256": "digest"})
    parts = [part for part in (requests, rows[["frame", "video", "key", "digest"]]) if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else requests

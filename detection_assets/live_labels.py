"""Labels of pictures that the endpoint was sent: how good the model is on what really comes in.

A captured picture that somebody puts in the lake keeps its name: `videos/<any folder>/<name>.jpg`, labelled like the
frames of any other folder of images. So a label finds the answer that was given, whatever folder the picture lies in.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from detection_assets.domain import captures, file_names, layout
from detection_assets.domain.metrics import Scores
from resources import tables
from resources.storage import Storage

RESAMPLES = 200
LEAST = 20
"""Labelled pictures under which a score says nothing."""


@dataclass(frozen=True, slots=True)
class LiveScore:
    """How well a version answered pictures that were labelled afterwards.

    Attributes:
        images: Labelled pictures.
        boxes: Labelled boxes on them.
        map50: AP50 of the answered boxes.
        low: Lower end of its 95 % bootstrap interval.
        high: Upper end.
    """

    images: int
    boxes: int
    map50: float
    low: float
    high: float


def labelled_folders(storage: Storage) -> dict[str, set[str]]:
    """The folders of images in the lake, each with its images' names without ending."""
    folders: dict[str, set[str]] = {}
    for item in storage.list(layout.VIDEOS):
        if file_names.suffix(item.key) in file_names.IMAGE_SUFFIXES and not file_names.is_transient(item.key):
            folder, _, name = item.key.removeprefix(layout.VIDEOS + "/").rpartition("/")
            folders.setdefault(folder, set()).add(posixpath.splitext(name)[0])
    return folders


def scores(storage: Storage, days: Sequence[str], classes: Sequence[str]) -> dict[str, LiveScore]:
    """Scores the answers to pictures that have labels by now.

    Args:
        storage: The detector's storage.
        days: The days whose requests are looked at; those without a table have none.
        classes: The detector's classes.

    Returns:
        By registered version; versions none of whose pictures are labelled are missing.
    """
    folders = labelled_folders(storage)
    if not folders:
        return {}
    requests = tables.read(storage, "captured_requests", list(days))
    requests = requests.assign(name=[captures.picture_name(row) for row in requests.itertuples()])
    names = set(requests["name"])
    labels = tables.read(storage, "annotations", [folder for folder, held in folders.items() if held & names])
    labels = labels.assign(name=[_name(str(frame)) for frame in labels["frame"]])
    # A picture that lies in two folders is labelled twice; one label is enough.
    labels = labels[labels["video"] == labels.groupby("name")["video"].transform("first")]
    requests = requests[requests["name"].isin(set(labels["name"]))]
    return {str(version): _score(part, labels, classes) for version, part in requests.groupby("version")}


def _name(frame: str) -> str:
    """A frame is `<folder>#<file>`; the file's name is the picture's."""
    return posixpath.splitext(frame.rpartition("#")[2])[0]


def _score(requests: pd.DataFrame, labels: pd.DataFrame, classes: Sequence[str]) -> LiveScore:
    requests = requests.drop_duplicates("name")
    truth = labels[labels["name"].isin(requests["name"]) & (labels["class"].isna() | labels["class"].isin(classes))]
    truth = truth.assign(frame=truth["name"])
    named = dict(zip(requests["request_id"], requests["name"], strict=True))
    found = captures.boxes(requests)
    found = found.assign(frame=found["frame"].map(named))[found["class"].isin(classes)]
    images = requests.assign(frame=requests["name"], video="requests", group="requests")
    table = Scores(truth, found, images, classes).table(RESAMPLES)
    overall = table[table["slice_kind"] == "all"].iloc[0]
    return LiveScore(
        len(images),
        int(overall["n_boxes"]),
        float(overall["ap50"]),
        float(overall["low"]),
        float(overall["high"]),
    )

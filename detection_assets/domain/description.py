"""What a picture looks like, roughly, and what is on it: the numbers by which pictures are compared to be unlike.

They are cheap and need no network, so that pictures can be compared before there is a model: the mean red, green and
blue and the mean strength of the edges of each of 4 x 4 fields, as in a thumbnail (Torralba, Fergus and Freeman, "80
Million Tiny Images", 2008, find scenes by such), and, once there is a model, how many boxes of each class it finds.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float32]

FIELDS = 4
"""Fields a side."""
SIDE = 64
"""Pixels a side of the thumbnail."""
STEEP = 64.0
"""An edge that counts 1: grey levels from one pixel of the thumbnail to the next."""
NAMES = [f"d{number:02}" for number in range(FIELDS * FIELDS * 4)]
"""The columns of a description."""
CONTENT = 0.5
"""What the counts of boxes weigh beside the looks: a box of one class of four more or less then counts as much as all
colours a sixth of their range apart."""


def describe(picture: NDArray[np.uint8]) -> Floats:
    """Describes a picture.

    Args:
        picture: Height x width x 3, RGB.

    Returns:
        64 float32, 0 to 1: for each field, row by row, mean red, green, blue and strength of edges.
    """
    import cv2

    small = np.asarray(cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA))
    down, across = np.gradient(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32))
    steep = np.minimum(np.hypot(down, across) / STEEP, 1.0)
    whole = np.concatenate([small.astype(np.float32) / 255, steep[..., None]], axis=2)
    side = SIDE // FIELDS
    return whole.reshape(FIELDS, side, FIELDS, side, 4).mean(axis=(1, 3)).astype(np.float32).ravel()


def features(pictures: pd.DataFrame, boxes: pd.DataFrame | None, classes: list[str]) -> Floats:
    """The numbers whose Euclidean distance says how unlike pictures are.

    Args:
        pictures: `frame` and the columns `NAMES`.
        boxes: `frame` and `class` of what is on them; None where nobody has looked.
        classes: The detector's; boxes of others are left out.

    Returns:
        A row a picture: the description, divided by the root of its length, so that a distance is a root mean square;
        and, if there are boxes, log(1 + count) of each class, likewise, weighted by `CONTENT`.
    """
    looks = pictures[NAMES].to_numpy(np.float32) / np.float32(np.sqrt(len(NAMES)))
    if boxes is None:
        return looks
    counts = np.zeros((len(pictures), len(classes)), np.float32)
    row = pd.Index(pictures["frame"]).get_indexer(pd.Index(boxes["frame"]))
    column = pd.Index(classes).get_indexer(pd.Index(boxes["class"]))
    there = (row >= 0) & (column >= 0)
    np.add.at(counts, (row[there], column[there]), 1)
    return np.hstack([looks, np.float32(CONTENT / np.sqrt(len(classes))) * np.log1p(counts)])

"""How much a detector could learn from a picture that nobody has labelled, told from what models find in it.

Each figure is between 0 (nothing) and 1:

- *unsure*: a box counts 1 at the threshold from which boxes are answered, falling evenly to 0 at confidence 0 and at 1:
  least confidence (Lewis and Gale, "A Sequential Algorithm for Training Text Classifiers", 1994), about the confidence
  at which the answer turns. A picture has the mean of its three most unsure boxes, those that it lacks counting 0: the
  mean over all would reward pictures with one box, the sum crowded ones, which cost the most to label (Brust, Käding
  and Denzler, "Active Learning for Deep Object Detection", 2019, compare sum, mean and maximum).
- *disagreement* of two looks at one picture: champion and challenger (query by committee: Seung, Opper and
  Sompolinsky, 1992), or the picture and its mirror image (Elezi and others, "Not All Labels Are Equal: Rationalizing
  the Labeling Costs for Training Object Detection", 2022; Yu and others, "Consistency-based Active Learning for Object
  Detection", 2022). Boxes of one class that overlap by at least half are partners, one to one. With
  p and q the confidences of partners and IoU their overlap, and a box without a partner having q = 0,
  `sum(max(p, q) - IoU min(p, q)) / max(1, sum(max(p, q)))`: the share of what is found that one look does not confirm,
  of place and confidence alike. What neither look gives half the threshold is noise and left out, and below one box's
  worth the sum itself counts.
- *rareness*: confidence times rarity of the class, of the box where that is largest. A class is rare from half of the
  average class's labelled boxes down: `max(0, 1 - boxes / (mean boxes a class / 2))`.
- *drifted*: `1 - p / q`, the share of production with such a value that the reference does not explain
  (`two_samples.unexplained`), of the drifted feature where that is largest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from detection_assets.domain import overlap

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PLAIN, MIRRORED, CHALLENGER = "plain", "mirrored", "challenger"
BOXES = ("frame", "view", "class", "confidence", "x1", "y1", "x2", "y2")
"""Columns of what models found: `view` is one of the three looks at a picture; all are in pixels of the picture."""
LOW = "low"
CORNERS = ["x1", "y1", "x2", "y2"]
MOST_UNSURE = 3
LEAST = 0.5
"""The least overlap of partners."""


def figures(
    boxes: pd.DataFrame,
    frames: pd.Index,
    threshold: float,
    labelled: Mapping[str, int],
    classes: Sequence[str],
    *,
    challenged: bool,
) -> pd.DataFrame:
    """What models' looks at some pictures tell of each.

    Args:
        boxes: What they found, columns `BOXES`.
        frames: The pictures, each once.
        threshold: The confidence from which boxes are answered.
        labelled: Labelled boxes by class.
        classes: The detector's.
        challenged: Whether a challenger looked, too: where none did, there is nothing that it did not find.

    Returns:
        A row a picture: `frame`; `low` (its most unsure boxes), `mirrored` and `challenger` (disagreements), `unsure`
        (the largest of the three) and `rare`, each 0 to 1.
    """
    plain, mirrored, other = (boxes[boxes["view"] == view] for view in (PLAIN, MIRRORED, CHALLENGER))
    found = pd.DataFrame({
        "frame": frames, LOW: uncertainty(plain, frames, threshold),
        MIRRORED: disagreement(plain, mirrored, frames, threshold / 2),
        CHALLENGER: disagreement(plain, other, frames, threshold / 2) if challenged else np.zeros(len(frames)),
    })  # fmt: skip
    rare = rareness(plain, frames, rarity(labelled, classes))
    return found.assign(unsure=found[[LOW, MIRRORED, CHALLENGER]].max(axis=1), rare=rare)


def unsure(confidence: Floats, threshold: float) -> Floats:
    """How unsure each box is.

    Args:
        confidence: 0 to 1.
        threshold: The confidence from which boxes are answered, 0 to 1.

    Returns:
        1 at the threshold, falling evenly to 0 at 0 and at 1.
    """
    low, high = max(threshold, 1e-9), max(1 - threshold, 1e-9)
    return np.clip(np.minimum(confidence / low, (1 - confidence) / high), 0.0, 1.0)


def uncertainty(boxes: pd.DataFrame, frames: pd.Index, threshold: float) -> Floats:
    """The mean of the three most unsure boxes of each picture.

    Args:
        boxes: One look's boxes: `frame`, `confidence`; those of other pictures are left out.
        frames: The pictures, each once.
        threshold: As of `unsure`.
    """
    place = frames.get_indexer(pd.Index(boxes["frame"]))
    of, value = place[place >= 0], unsure(boxes["confidence"].to_numpy(np.float64), threshold)[place >= 0]
    order = np.lexsort((-value, of))
    of, value = of[order], value[order]
    nth = np.arange(len(of)) - np.searchsorted(of, of)
    first = nth < MOST_UNSURE
    return np.bincount(of[first], value[first], len(frames)) / MOST_UNSURE


def disagreement(one: pd.DataFrame, other: pd.DataFrame, frames: pd.Index, least: float = 0.0) -> Floats:
    """How much two looks at each picture disagree.

    Args:
        one: A look's boxes: `frame`, `class`, `confidence` and corners.
        other: Another look's.
        frames: The pictures, each once; boxes of others are left out.
        least: A box that neither look gives so much confidence counts nothing.
    """
    one, other = (table[table["frame"].isin(frames)] for table in (one, other))
    partner, shared = partners(one, other)
    p, q = (table["confidence"].to_numpy(np.float64) for table in (one, other))
    met = partner >= 0
    theirs = np.zeros(len(p))
    theirs[met] = q[partner[met]]
    most = np.maximum(p, theirs)
    lost = most - shared * np.minimum(p, theirs)
    alone = np.ones(len(q), np.bool_)
    alone[partner[met]] = False
    at_one, at_other = (frames.get_indexer(pd.Index(table["frame"])) for table in (one, other))
    place = np.concatenate([at_one, at_other[alone]])
    most, lost = np.concatenate([most, q[alone]]), np.concatenate([lost, q[alone]])
    counts = most >= least
    place, most, lost = place[counts], most[counts], lost[counts]
    return np.bincount(place, lost, len(frames)) / np.maximum(1.0, np.bincount(place, most, len(frames)))


def partners(one: pd.DataFrame, other: pd.DataFrame) -> tuple[Ints, Floats]:
    """Pairs boxes of the same picture and class that overlap by at least half, one to one, as much as can be in all.

    Args:
        one: `frame`, `class` and corners.
        other: The same.

    Returns:
        For each box of `one` the position of its partner in `other`, -1 for none; and their overlap, 0 for none.
    """
    partner, shared = np.full(len(one), -1, np.int64), np.zeros(len(one))
    both = pd.concat([table[["frame", "class"]].astype(object) for table in (one, other)], ignore_index=True)
    codes = both.groupby(["frame", "class"], sort=False).ngroup().to_numpy(np.int64)
    mine, theirs = (table[CORNERS].to_numpy(np.float64) for table in (one, other))
    i, j, iou, _ = overlap.pairs(codes[: len(one)], mine, codes[len(one) :], theirs, LEAST)
    taken = overlap.choose(i, j, iou)
    partner[i[taken]], shared[i[taken]] = j[taken], iou[taken]
    return partner, shared


def rarity(labelled: Mapping[str, int], classes: Sequence[str]) -> dict[str, float]:
    """How rare each class is: 1 without any labelled box, 0 from half of the mean over the classes on.

    Args:
        labelled: Labelled boxes by class; classes that are missing have none.
        classes: The detector's.
    """
    half = sum(labelled.get(name, 0) for name in classes) / max(1, len(classes)) / 2
    # Nothing is rarer than the rest where nothing is labelled.
    return {name: max(0.0, 1 - labelled.get(name, 0) / half) if half else 0.0 for name in classes}


def rareness(boxes: pd.DataFrame, frames: pd.Index, rare: Mapping[str, float]) -> Floats:
    """Confidence times rarity, of the box of each picture where that is largest.

    Args:
        boxes: One look's boxes: `frame`, `class`, `confidence`.
        frames: The pictures, each once; boxes of others are left out.
        rare: From `rarity`; other classes are none.
    """
    value = boxes["class"].map(rare).fillna(0.0).to_numpy(np.float64) * boxes["confidence"].to_numpy(np.float64)
    return largest(frames.get_indexer(pd.Index(boxes["frame"])).astype(np.int64), value, len(frames))


def largest(place: Ints, value: Floats, count: int) -> Floats:
    """The largest value at each of `count` places, 0 where there is none; place -1 is left out."""
    found = np.zeros(count)
    np.maximum.at(found, place[place >= 0], value[place >= 0])
    return found

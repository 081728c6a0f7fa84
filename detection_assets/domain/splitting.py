"""Who teaches, who tunes, who judges: each image's split, so that a model is judged on places it never saw.

Frames of one video look alike, and so do videos of one camera, so what is split is the *group* (store, camera,
patient): all of it goes to train, val or test. Where there are too few groups for that, the split is by video, then by
image; it says so, and figures measured on it are marked optimistic.

**Stable.** A unit that has a split keeps it: pass the `History` of the last dataset, and new data only adds to it.
Without a history the split is a function of the whole data set, the shares and the seed alone: the same data give the
same split on any machine, but more data may give a different one. So a history that is lost cannot be rebuilt from
data that has grown since; every dataset snapshot holds the one it was made with.

There is one way for a known image to move: a data set that had to be split by video or by image gets enough groups at
last. Then each group that lay across splits goes wholly to train, where it cannot flatter a figure; where that would
leave nothing to tune or judge by, these groups are placed anew. A note says so.
The other way round never happens: what was once split by group is never divided, even if a split runs empty.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from detection_assets.domain import near_duplicates

SPLITS = ("train", "val", "test")
LEVELS = ("group", "video", "image")
COLUMN = {"group": "group", "video": "video", "image": "frame"}
FEW_GROUPS = 10
"""With fewer groups than this, a class that a split lacks is worth splitting by video; with more it is only noted."""
RARE = 0.01
"""A class on a smaller share of the images than this never decides how everything else is split."""
EXHAUSTIVE = 7
"""Up to so many free units every assignment is tried (3^7 = 2,187); above, the greedy rule is close enough."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class History:
    """What an earlier split decided.

    Attributes:
        by: The level it was made at: group, video or image.
        frames: Columns `frame`, `video`, `group` and `split`.
    """

    by: str
    frames: pd.DataFrame

    def splits(self, level: str) -> dict[str, str]:
        """For each unit of a level the split that all of its frames have, or an empty string if they differ."""
        column = self.frames[COLUMN[level]].astype(object)
        pairs = pd.DataFrame({"unit": column, "split": self.frames["split"].astype(object)}).drop_duplicates()
        doubled = pairs["unit"].duplicated(keep=False)
        known = dict(zip(pairs.loc[~doubled, "unit"], pairs.loc[~doubled, "split"], strict=True))
        return known | dict.fromkeys(pairs.loc[doubled, "unit"], "")


@dataclass(frozen=True)
class Split:
    """An assignment of images to splits.

    Attributes:
        assignments: `train`, `val` or `test` for each frame; indexed by frame, in order of the frames' ids.
        by: What was kept whole: `group`, `video` or `image`.
        notes: What a reader of the figures must know, a sentence each.
        optimistic: Whether figures will look better than on unseen places, because groups were divided.
    """

    assignments: pd.Series
    by: str
    notes: list[str] = field(default_factory=list)
    optimistic: bool = False


@dataclass(frozen=True)
class _Content:
    """What the images hold: for each labelled box the row of its image and the code of its class."""

    classes: list[str]
    image: Ints
    code: Ints

    def count(self, rows: Ints, n_rows: int, boxes: Ints | None = None) -> Floats:
        """Per row of a coarser table, how many images and how many boxes of each class fall in it.

        `rows` gives the row of each image, or -1 for none; `boxes` are the boxes to count, all of them if None.
        """
        width = 1 + len(self.classes)
        boxes = np.arange(len(self.image)) if boxes is None else boxes
        boxes = boxes[rows[self.image[boxes]] >= 0]
        cells = np.concatenate([rows[rows >= 0] * width, rows[self.image[boxes]] * width + 1 + self.code[boxes]])
        return np.bincount(cells, minlength=n_rows * width).reshape(n_rows, width).astype(np.float64)


@dataclass(frozen=True)
class _Attempt:
    by: str
    assigned: Ints
    units: int
    empty: list[str]
    lacking: list[tuple[str, str]]
    wanting: int
    moved: list[str]
    to: list[str]


def split(
    images: pd.DataFrame,
    boxes: pd.DataFrame,
    shares: Mapping[str, float],
    seed: int = 0,
    previous: History | Mapping[str, str] | None = None,
    near_duplicate: int | None = None,
) -> Split:
    """Assigns each image to train, val or test.

    Stratified: the images and each class's boxes come as near to the shares as whole units allow.

    Args:
        images: Columns `frame`, `video`, `group`, one row a frame; `phash` (hex) where near-duplicates are to stay
            together when the split is by image. Order does not matter.
        boxes: Columns `frame` and `class`; rows of no class, or of frames not in `images`, are left out.
        shares: The share of the images that each of train, val and test should have; they add up to 1.
        seed: Breaks ties.
        previous: What the last dataset decided. A plain mapping of group to split will do if it was made by group.
        near_duplicate: Most bits by which two hashes may differ for their images to stay together; None: no such rule.

    Returns:
        The split. With no images it is empty.

    Raises:
        ValueError: If a frame comes twice, lacks its video or group, or the shares do not add up to 1.
    """
    _check(images, shares)
    table = images.sort_values("frame", kind="stable", ignore_index=True)
    target = np.array([shares[name] for name in SPLITS])
    content = _content(table, boxes)
    past = _past(previous)
    finest = LEVELS.index(past[0]) if past else len(LEVELS) - 1
    attempts: list[_Attempt] = []
    for level in LEVELS[: finest + 1]:
        known, divided = _known(table, level, past)
        units, names = _units(table, level, near_duplicate)
        attempts.append(_attempt(level, units, names, np.where(divided, 0, known), divided, content, target, seed))
        if attempts[-1].empty and divided.any():
            attempts[-1] = _attempt(level, units, names, known, divided, content, target, seed)
        if _settles(attempts[-1]):
            break
    # The coarsest level among those that lack least: dividing more than needed only flatters the figures.
    best = min(attempts, key=lambda attempt: (len(attempt.empty), attempt.wanting, LEVELS.index(attempt.by)))
    frames = pd.Index(table["frame"].astype(object))
    assigned = pd.Series(np.array(SPLITS, dtype=object)[best.assigned], index=frames, name="split", dtype=object)
    return Split(assigned, best.by, _notes(best, table), optimistic=best.by != "group")


def straddling(images: pd.DataFrame, by: str) -> list[str]:
    """Units that lie in more than one split, of which there must be none.

    Args:
        images: Columns `split` and that of the level.
        by: The level at which the split was made: group, video or image.

    Returns:
        Their names, sorted.
    """
    seen: dict[str, str] = {}
    pairs = images[[COLUMN[by], "split"]].drop_duplicates()
    return sorted(
        {
            unit
            for unit, part in zip(pairs[COLUMN[by]], pairs["split"], strict=True)
            if seen.setdefault(unit, part) != part
        }
    )


def _check(images: pd.DataFrame, shares: Mapping[str, float]) -> None:
    if set(shares) != set(SPLITS) or min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"shares {dict(shares)}: expected train, val and test, each above 0, together 1")
    if images[list(COLUMN.values())].isna().to_numpy().any():
        raise ValueError("an image has no frame id, no video or no group")
    doubled = images["frame"].duplicated()
    if doubled.any():
        raise ValueError(f"frame {images.loc[doubled, 'frame'].to_list()[0]} comes twice")


def _content(table: pd.DataFrame, boxes: pd.DataFrame) -> _Content:
    frames, column = boxes["frame"].astype(object), boxes["class"].astype(object)
    image = pd.Index(table["frame"].astype(object)).get_indexer(pd.Index(frames))
    wanted = (image >= 0) & column.notna().to_numpy(np.bool_)
    code, names = pd.factorize(column[wanted], sort=True)
    return _Content([str(name) for name in names], image[wanted].astype(np.int64), code.astype(np.int64))


def _past(previous: History | Mapping[str, str] | None) -> tuple[str, History | Mapping[str, str]] | None:
    """The level of an earlier decision, and the decision, if anything was decided."""
    if isinstance(previous, History):
        return (previous.by, previous) if len(previous.frames) else None
    return ("group", previous) if previous else None


def _known(
    table: pd.DataFrame, level: str, past: tuple[str, History | Mapping[str, str]] | None
) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """For each image the split its unit is known to have (-1: none), and whether the unit lay across splits."""
    if past is None:
        return np.full(len(table), -1, dtype=np.int64), np.zeros(len(table), dtype=np.bool_)
    decided = past[1].splits(level) if isinstance(past[1], History) else past[1]
    code = {name: at for at, name in enumerate(SPLITS)} | {"": -1}
    found = [decided.get(unit) for unit in list(table[COLUMN[level]])]
    known = np.array([-1 if name is None else code[name] for name in found], dtype=np.int64)
    return known, np.array([name == "" for name in found], dtype=np.bool_)


def _units(table: pd.DataFrame, level: str, near_duplicate: int | None) -> tuple[Ints, list[str]]:
    """For each image the number of its unit, and the units' names in order of their numbers."""
    column = table[COLUMN[level]].to_numpy(dtype=object)
    if level == "image" and near_duplicate is not None and "phash" in table:
        first = near_duplicates.clusters(list(table["phash"]), near_duplicate)
        if len(np.unique(first)) >= len(SPLITS):  # Else everything looks alike and each image stands for itself.
            column = column[first]
    codes, names = pd.factorize(column, sort=True)
    return codes.astype(np.int64), [str(name) for name in names]


def _attempt(
    level: str,
    units: Ints,
    names: list[str],
    known: Ints,
    divided: npt.NDArray[np.bool_],
    content: _Content,
    target: Floats,
    seed: int,
) -> _Attempt:
    # A unit of look-alikes may hold images that were known apart: these stay, and new ones go with the first split.
    fixed = np.full(len(names), len(SPLITS), dtype=np.int64)
    np.minimum.at(fixed, units[known >= 0], known[known >= 0])
    fixed[fixed == len(SPLITS)] = -1
    held = content.count(np.where(known >= 0, known, fixed[units]), len(SPLITS))
    weights = content.count(units, len(names))
    free = np.flatnonzero(fixed < 0)
    fixed[free] = _assign(weights[free], held, target, [names[at] for at in free], seed)
    assigned = np.where(known >= 0, known, fixed[units])
    first = np.unique(content.image * (1 + len(content.classes)) + content.code, return_index=True)[1]
    images = content.count(assigned, len(SPLITS), boxes=first)
    filled = images[:, 0] > 0
    lacks = (images == 0) & filled[:, None]
    decides = images.sum(axis=0) >= max(len(SPLITS), RARE * len(units))
    return _Attempt(
        by=level,
        assigned=assigned,
        units=len(names),
        empty=[name for name, any_image in zip(SPLITS, filled, strict=True) if not any_image],
        lacking=[(content.classes[at - 1], SPLITS[where]) for at, where in np.argwhere(lacks.T)],
        wanting=int(lacks[:, decides].sum()),
        moved=sorted({names[unit] for unit in units[divided]}),
        to=[SPLITS[at] for at in np.unique(assigned[divided])],
    )


def _settles(attempt: _Attempt) -> bool:
    """Whether this level is good enough not to try a finer one."""
    if attempt.empty or attempt.units < len(SPLITS):
        return False
    return not attempt.wanting or attempt.units >= FEW_GROUPS


def _assign(weights: Floats, held: Floats, target: Floats, names: list[str], seed: int) -> Ints:
    """Places units so that every split has some of everything and the shares are met, the first before the second."""
    if not names:
        return np.zeros(0, dtype=np.int64)
    total = weights.sum(axis=0) + held.sum(axis=0)
    scale = np.where(total > 0, total, 1.0)
    # Shares of the whole, so that a class of ten boxes weighs as much as a class of ten thousand.
    weights, held = weights / scale, held / scale
    sizes = weights.sum(axis=1).round(9).tolist()
    digests = [hashlib.sha256(f"{seed}\0{name}".encode()).digest() for name in names]
    order = sorted(range(len(names)), key=lambda at: (-sizes[at], digests[at]))
    place = _try_all if len(order) <= EXHAUSTIVE else _greedy
    chosen = np.zeros(len(names), dtype=np.int64)
    chosen[order] = place(weights[order], held, target)
    return chosen


def _try_all(weights: Floats, held: Floats, target: Floats) -> Ints:
    options = np.array(list(itertools.product(range(len(target)), repeat=len(weights))), dtype=np.int64)
    sums = np.stack([held[at] + (options == at).astype(float) @ weights for at in range(len(target))], axis=1)
    missing = ((sums <= 0) & (sums.sum(axis=1, keepdims=True) > 0)).sum(axis=1)
    miss = (((sums - target[:, None]) ** 2) / target[:, None]).sum(axis=(1, 2)).round(9)
    return options[np.lexsort([miss, missing[:, 1:].sum(axis=1), missing[:, 0]])[0]]


def _greedy(weights: Floats, held: Floats, target: Floats) -> Ints:
    """Largest unit first, each to where it mends the shares most, unless it is among the last that can fill a gap."""
    held = held.copy()
    chosen = np.zeros(len(weights), dtype=np.int64)
    left = (weights > 0).sum(axis=0)
    for at, weight in enumerate(weights):
        has = weight > 0
        gaps = held <= 0
        fills = gaps & has & (left <= gaps.sum(axis=0))
        # Column 0 is "any image at all": an empty split goes before a class that is missing somewhere.
        gain = fills[:, 1:].sum(axis=1) + fills[:, 0] * len(weight)
        cost = ((2 * (held - target[:, None]) + weight) * weight / target[:, None]).sum(axis=1).round(9)
        choice = int(np.lexsort([cost, -gain])[0])
        chosen[at] = choice
        held[choice] += weight
        left = left - has
    return chosen


def _notes(attempt: _Attempt, table: pd.DataFrame) -> list[str]:
    notes: list[str] = []
    groups, videos = table["group"].nunique(), table["video"].nunique()
    if attempt.by != "group":
        count = f"{groups} group{'s' if groups != 1 else ''} and {videos} video{'s' if videos != 1 else ''}"
        notes.append(
            f"Split by {attempt.by}, because {count} cannot give each split a place of its own and every class: "
            "figures are optimistic. Add footage from other places (first folder of the path, or `videos.group`)."
        )
    notes.extend(f"{name} has no images: add a group, for known ones keep their split." for name in attempt.empty)
    notes.extend(
        f"Class {name} is absent from {where}: add footage of it from another place." for name, where in attempt.lacking
    )
    if attempt.moved:
        shown = ", ".join(attempt.moved[:10]) + (f" and {len(attempt.moved) - 10} more" if attempt.moved[10:] else "")
        notes.append(
            f"There are enough {attempt.by}s now to keep each whole. Those that lay across splits were placed anew, in "
            f"{' and '.join(attempt.to)}: {shown}. Figures of earlier datasets do not compare with this one's"
            + (", and an earlier model was taught some of what now judges it." if "test" in attempt.to else ".")
        )
    return notes

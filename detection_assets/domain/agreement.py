"""What several annotators of one frame agree on: which boxes are of one object, and how alike their work is.

Boxes of different annotators are of one object if they overlap enough, the best overlap first; of equal ones, those of
one class first, then by their place. An object has at most one box of each annotator, and a chain is one object: who
overlaps any of its boxes may join. Neither the order of rows nor that of annotators matters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from detection_assets.domain import overlap
from detection_assets.domain.overlap import Floats, Ints

NOTHING = ""
"""What an annotator drew where only the other one drew something."""
COUNTED = ["one", "other", "class_one", "class_other", "boxes", "iou"]
CORNERS = ["x1", "y1", "x2", "y2"]
_SAME_CLASS = 1e-6


@dataclass(frozen=True)
class Policy:
    """Whose word counts where several annotators looked at one frame.

    Attributes:
        name: `latest` (who spoke last), `union` (what anybody drew) or `consensus` (what enough of them drew).
        iou: The least overlap of two boxes of one object.
        min_annotators: How many must have drawn an object; None: more than half of those who looked at its frame.
    """

    name: str = "latest"
    iou: float = 0.5
    min_annotators: int | None = None


LATEST = Policy()


@dataclass(frozen=True)
class Objects:
    """What boxes of several annotators are of, an entry an object, ordered by frame, class and place.

    Attributes:
        member: Number of the object of each box.
        frame: Frame of each object.
        votes: How many annotators drew it.
        label: Its class: that of most; of equally many, the smallest number.
        tied: Whether as many gave it another class.
        corners: The median of each corner, n x 4.
        row: The box that stands for it: of its class, of the annotator with the smallest number.
    """

    member: Ints
    frame: Ints
    votes: Ints
    label: Ints
    tied: npt.NDArray[np.bool_]
    corners: Floats
    row: Ints


def objects(frame: Ints, voice: Ints, label: Ints, corners: Floats, iou: float) -> Objects:
    """Puts the boxes of several annotators together, by what they are of.

    Args:
        frame: A number for the frame of each box.
        voice: A number for its annotator.
        label: A number for its class.
        corners: n x 4, pixels, with an area.
        iou: The least overlap of two boxes of one object.
    """
    order = np.lexsort((voice, *corners.T[::-1], label, frame))
    of = np.empty(len(order), dtype=np.int64)
    of[order] = _grouped(frame[order], voice[order], label[order], corners[order], iou)
    table = pd.DataFrame({"object": of, "label": label, "voice": voice, "row": np.arange(len(of))})
    tally = table.groupby(["object", "label"]).size().rename("votes").reset_index()
    tally = tally.sort_values(["object", "votes", "label"], ascending=[True, False, True], ignore_index=True)
    first = ~tally["object"].duplicated().to_numpy()
    winner = tally.loc[first, "label"].to_numpy(np.int64)
    most = tally.loc[first, "votes"].to_numpy()
    tied = np.bincount(tally["object"], tally["votes"].to_numpy() == most[tally["object"]], len(most)) > 1
    stands = table[table["label"].to_numpy() == winner[of]].sort_values(["object", "voice", "row"])
    row = stands.drop_duplicates("object")["row"].to_numpy(np.int64)
    median = pd.DataFrame(corners).groupby(of).median().to_numpy(np.float64).reshape(-1, 4)
    return Objects(of, frame[row], np.bincount(of, minlength=len(row)), winner, tied, median, row)


def _grouped(frame: Ints, voice: Ints, label: Ints, corners: Floats, iou: float) -> Ints:
    """A number for the object of each box; the boxes come in order, and so do the objects, by their first box."""
    i, j, share, _ = overlap.pairs(frame, corners, frame, corners, iou)
    good = (i < j) & (voice[i] != voice[j])
    i, j, share = i[good], j[good], share[good]
    best = np.lexsort((j, i, -(share + _SAME_CLASS * (label[i] == label[j]))))
    parent = list(range(len(frame)))
    drawn_by = [1 << int(one) for one in voice]

    def root(at: int) -> int:
        while parent[at] != at:
            parent[at] = at = parent[parent[at]]
        return at

    for one, other in zip(i[best].tolist(), j[best].tolist(), strict=True):
        left, right = root(one), root(other)
        if left != right and not drawn_by[left] & drawn_by[right]:
            low, high = min(left, right), max(left, right)
            parent[high] = low
            drawn_by[low] |= drawn_by[high]
    roots = np.array([root(at) for at in range(len(parent))], dtype=np.int64)
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)


def compared(said: pd.DataFrame, iou: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Holds what annotators said of the same frames against each other, two by two.

    Args:
        said: Rows `frame, annotator, class, x1, y1, x2, y2`: a row a box, or one without class for a frame that the
            annotator found empty.
        iou: The least overlap of two boxes of one object.

    Returns:
        The counts, columns `COUNTED`, sorted: for each two annotators (in order of their names) and two classes the
        boxes that they drew of the same object and the sum of their IoU; `NOTHING` is the class where one of them drew
        no box; where neither did, the row counts the frames that both looked at. Counts of several videos may be
        added up. And the frames: `frame, one, other, f1, missed`, a row a frame and two annotators who differ on it,
        worst first: F1 of the boxes of the same class, and how many boxes have no partner of their class.
    """
    frames, names = pd.factorize(said["frame"], sort=True)
    voices, people = pd.factorize(said["annotator"], sort=True)
    labels, classes = pd.factorize(said["class"], sort=True)
    corners = said[CORNERS].to_numpy(np.float64)
    kinds = [*map(str, classes), NOTHING]
    parts: list[pd.DataFrame] = []
    differ: list[pd.DataFrame] = []
    looked = np.zeros((len(people), len(names)), dtype=bool)
    looked[voices, frames] = True
    for one in range(len(people)):
        for other in range(one + 1, len(people)):
            both = looked[one] & looked[other]
            if not both.any():
                continue
            a, b = (np.flatnonzero((voices == who) & (labels >= 0) & both[frames]) for who in (one, other))
            i, j, share, _ = overlap.pairs(frames[a], corners[a], frames[b], corners[b], iou)
            good = overlap.choose(i, j, share + _SAME_CLASS * (labels[a[i]] == labels[b[j]]))
            i, j, share = i[good], j[good], share[good]
            left, right = np.delete(a, i), np.delete(b, j)
            counted = pd.DataFrame(
                {
                    "class_one": np.concatenate([labels[a[i]], labels[left], np.full(len(right), -1)]),
                    "class_other": np.concatenate([labels[b[j]], np.full(len(left), -1), labels[right]]),
                    "iou": np.concatenate([share, np.zeros(len(left) + len(right))]),
                    "frame": np.concatenate([frames[a[i]], frames[left], frames[right]]),
                }
            )
            pair = {"one": str(people[one]), "other": str(people[other])}
            parts.append(_counts(counted, kinds, pair, int(both.sum())))
            differ.append(_frames(counted, names, pair))
    counts = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COUNTED)
    columns = ["frame", "one", "other", "f1", "missed"]
    worst = pd.concat(differ, ignore_index=True) if differ else pd.DataFrame(columns=columns)
    worst = worst.sort_values(["f1", "missed", "frame", "one", "other"], ascending=[True, False, True, True, True])
    return total([counts]), worst[columns].reset_index(drop=True)


def _counts(counted: pd.DataFrame, kinds: list[str], pair: dict[str, str], frames: int) -> pd.DataFrame:
    table = counted.groupby(["class_one", "class_other"])["iou"].agg(["size", "sum"]).reset_index()
    table = table.rename(columns={"size": "boxes", "sum": "iou"})
    for name in ("class_one", "class_other"):
        table[name] = [kinds[code] for code in table[name]]
    together = pd.DataFrame([{"class_one": NOTHING, "class_other": NOTHING, "boxes": frames, "iou": 0.0}])
    return (pd.concat([table, together], ignore_index=True) if len(table) else together).assign(**pair)[COUNTED]


def _frames(counted: pd.DataFrame, names: Any, pair: dict[str, str]) -> pd.DataFrame:
    same = ((counted["class_one"] == counted["class_other"]) & (counted["iou"] > 0)).astype(int)
    drawn = (counted["class_one"] >= 0).astype(int) + (counted["class_other"] >= 0)
    table = pd.DataFrame({"frame": counted["frame"], "same": 2 * same, "drawn": drawn}).groupby("frame").sum()
    table = table[table["same"] < table["drawn"]]
    share = table["same"] / table["drawn"]
    said = {"frame": names[table.index.to_numpy()], "f1": share.to_numpy(), "missed": (table["drawn"] - table["same"])}
    return pd.DataFrame({**said, **pair})


def total(counts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Counts of several videos added up, sorted."""
    filled = [one for one in counts if len(one)]
    if not filled:
        return pd.DataFrame(columns=COUNTED)
    return pd.concat(filled).groupby(COUNTED[:4])[COUNTED[4:]].sum().reset_index()


def table(counts: pd.DataFrame) -> pd.DataFrame:
    """How well each two annotators agree, over all classes (an empty class) and class by class.

    Args:
        counts: From `compared`, or `total`.

    Returns:
        Columns `one, other, class, frames, boxes_one, boxes_other, matched, same_class, mean_iou, f1, kappa`: `matched`
        are boxes of the same object, of a class those that one or the other gave it to; `same_class` those to which
        both gave it; `f1` is of those of the same class; `kappa` is Cohen's, of the classes that both gave to the
        matched boxes, beyond chance: NaN where chance alone would have them agree.
    """
    rows: list[dict[str, Any]] = []
    for (one, other), of_pair in counts.groupby(["one", "other"]):
        together = (of_pair["class_one"] == NOTHING) & (of_pair["class_other"] == NOTHING)
        frames, drawn = int(of_pair.loc[together, "boxes"].sum()), of_pair[~together]
        kinds = sorted({*drawn["class_one"], *drawn["class_other"]} - {NOTHING})
        rows.append({"one": one, "other": other, "class": "", "frames": frames, **_figures(drawn, None)})
        rows += [{"one": one, "other": other, "class": k, "frames": frames, **_figures(drawn, k)} for k in kinds]
    columns = ["one", "other", "class", "frames", "boxes_one", "boxes_other", "matched", "same_class"]
    return pd.DataFrame(rows, columns=[*columns, "mean_iou", "f1", "kappa"])


def _figures(drawn: pd.DataFrame, kind: str | None) -> dict[str, Any]:
    n = drawn["boxes"].to_numpy(np.float64)
    one, other = drawn["class_one"].to_numpy(object), drawn["class_other"].to_numpy(object)
    is_one, is_other = (who != NOTHING if kind is None else who == kind for who in (one, other))
    matched = (one != NOTHING) & (other != NOTHING)
    same = matched & (one == other) & is_one
    boxes_one, boxes_other = n[is_one].sum(), n[is_other].sum()
    met = matched & (is_one | is_other)
    iou = drawn["iou"].to_numpy(np.float64)[met].sum()
    return {
        "boxes_one": int(boxes_one),
        "boxes_other": int(boxes_other),
        "matched": int(n[met].sum()),
        "same_class": int(n[same].sum()),
        "mean_iou": iou / n[met].sum() if met.any() else float("nan"),
        "f1": 2 * n[same].sum() / (boxes_one + boxes_other) if boxes_one + boxes_other else 1.0,
        "kappa": _kappa(n[matched], is_one[matched], is_other[matched], one[matched], other[matched], kind),
    }


def _kappa(n: Floats, is_one: Any, is_other: Any, one: Any, other: Any, kind: str | None) -> float:
    whole = n.sum()
    if not whole:
        return float("nan")
    if kind is None:
        kinds = sorted({*one, *other})
        agreed = n[one == other].sum() / whole
        by_chance = sum(n[one == k].sum() * n[other == k].sum() for k in kinds) / whole**2
    else:
        agreed = n[is_one == is_other].sum() / whole
        a, b = n[is_one].sum() / whole, n[is_other].sum() / whole
        by_chance = a * b + (1 - a) * (1 - b)
    return float((agreed - by_chance) / (1 - by_chance)) if by_chance < 1 else float("nan")

"""What an annotator did between two versions of annotations: boxes added, removed, moved, re-classed, and by whom.

A box of the earlier version and one of the later are the same object by the first of these rules that holds:

1. All columns are equal: nothing changed.
2. Frame, class and corners are equal: something else that is said of the box changed.
3. Both have the same track on the same frame, once in each version, and are of one class or overlap by `SAME_OBJECT`.
4. They overlap by at least `SAME_OBJECT`. Of all ways to pair boxes of a frame, the one with the largest sum of IoU; of
   equal ones, that which keeps more classes, then the order of classes and corners decides.

What is left was removed, or added. Rows are put in an order of their own first, so that the order in which the tables
come changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from detection_assets.domain import overlap, schemas
from detection_assets.domain.matched_rows import SAME_PX

SAME_OBJECT = 0.25
"""Least IoU of two boxes of one object. A box that is shifted by 60 % of its width is at that limit."""

ADDED, REMOVED, MOVED, RECLASSED, CHANGED = "added", "removed", "moved", "re-classed", "changed"
MOVED_AND_RECLASSED = f"{MOVED} and {RECLASSED}"
EMPTIED, FILLED = "found empty", "no longer empty"

COLUMNS = ["frame", "change", "class_before", "class_after", "moved_px", "iou", "by", "fields"]
CORNERS = ["x1", "y1", "x2", "y2"]
SIDES = [f"{side}_{when}" for when in ("before", "after") for side in CORNERS]
ROWS = ["before", "after"]
"""Row of the earlier and of the later table; -1 where there is none."""

COUNTS = (
    *("added", "removed", "moved", "reclassed", "changed"),
    *("frames_annotated", "frames_forgotten", "frames_emptied", "frames_filled", "frames_crowded"),
)
_SAME_CLASS = 1e-6
"""What keeping its class is worth, in IoU: it decides between equals alone."""
_ALL = list(schemas.SCHEMAS["annotations"])
_OTHER = [name for name in _ALL if name not in ("video", "frame", "class", *CORNERS)]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Diff:
    """The differences of two versions.

    Attributes:
        changes: A row a box that differs, columns `COLUMNS`, `SIDES` and `ROWS`, ordered by frame: what changed
            (`added`, `removed`, `moved`, `re-classed`, both, or `changed`: anything else, named in `fields`), how far
            the farthest edge moved in pixels, the IoU of before and after, and by whom: who drew the later box; for one
            that was removed, who alone speaks for the frame now, if somebody does. The rows of frames that are known to
            be empty come as `found empty` and `no longer empty`, without a class.
        counts: Numbers by the names of `COUNTS`. A box that was moved and re-classed counts as both. A frame is
            annotated that nobody had looked at before, forgotten when nobody has any more, emptied or filled when the
            later version found nothing, or something, where the earlier had something, or nothing. On a crowded
            frame (`overlap.CROWD`), boxes that moved count as removed and added.
    """

    changes: pd.DataFrame
    counts: dict[str, int]

    def __bool__(self) -> bool:
        return len(self.changes) > 0

    @property
    def sentence(self) -> str:
        """The counts in words, with who did it; "no difference" if there is none."""
        return _sentence(self)

    def by_annotator(self) -> pd.DataFrame:
        """A row an annotator, a column a change; empty name: the files do not say who."""
        if self.changes.empty:
            return pd.DataFrame({"by": pd.Series(dtype=object)})
        table = pd.crosstab(self.changes["by"], self.changes["change"])
        return table.rename_axis(columns=None).reset_index()


def diff(before: pd.DataFrame, after: pd.DataFrame) -> Diff:
    """Compares two versions of `annotations`, of one video or of several.

    Args:
        before: The earlier table; columns as in `schemas`, those that are optional may lack.
        after: The later one.

    Returns:
        The differences; none if the rows are the same in whatever order.
    """
    early, late = schemas.conform("annotations", before), schemas.conform("annotations", after)
    codes = _Codes(early, late)
    left, right = np.arange(len(early)), np.arange(len(late))
    i, j = _alike(codes.key(_ALL, left, right))
    left, right = codes.in_order(np.delete(left, i)), codes.in_order(np.delete(right, j) + codes.n) - codes.n
    found: list[tuple[Ints, Ints]] = []
    crowded = 0
    for rule in (_unmoved, _same_track, _overlapping, _both_empty):
        i, j, skipped = rule(codes, left, right)
        crowded += skipped
        found.append((left[i], right[j]))
        left, right = np.delete(left, i), np.delete(right, j)
    one, other = (np.concatenate(part) for part in zip(*found, strict=True))
    one = np.concatenate([one, left, np.full(len(right), -1)])
    other = np.concatenate([other, np.full(len(left), -1), right])
    changes = _changes(codes, early, late, one, other)
    return Diff(changes, _counts(codes, changes, crowded))


class _Codes:
    """The cells of two tables as numbers, column by column: equal numbers are equal cells, -1 is nothing."""

    def __init__(self, early: pd.DataFrame, late: pd.DataFrame) -> None:
        self.n = len(early)
        self.columns: dict[str, Ints] = {}
        for name in _ALL:
            both = pd.concat([early[name], late[name]], ignore_index=True)
            self.columns[name] = pd.factorize(both, sort=name not in CORNERS)[0].astype(np.int64)
        self.corners = pd.concat([early[CORNERS], late[CORNERS]]).to_numpy(np.float64)
        self.is_box = self.columns["class"] >= 0

    def in_order(self, rows: Ints) -> Ints:
        """Rows, the late table's after the early one's, in an order that follows from their content."""
        frame, label, *other = (self.columns[name][rows] for name in ("frame", "class", *_OTHER))
        return rows[np.lexsort((*other, *self.corners[rows].T[::-1], label, frame))]

    def of(self, name: str, left: Ints, right: Ints) -> tuple[Ints, Ints]:
        """A column of some rows of the early table, and of some of the late one."""
        return self.columns[name][left], self.columns[name][right + self.n]

    def key(self, names: Sequence[str], left: Ints, right: Ints) -> tuple[Ints, Ints]:
        """A number for several columns together."""
        rows = np.concatenate([left, right + self.n])
        key = np.zeros(len(rows), dtype=np.int64)
        for name in names:
            codes = self.columns[name][rows] + 1
            top = int(codes.max(initial=0))
            if top and (codes != codes[0]).any():
                key = pd.factorize(key * (top + 1) + codes)[0].astype(np.int64)
        return key[: len(left)], key[len(left) :]


def _alike(keys: tuple[Ints, Ints], *, once: bool = False) -> tuple[Ints, Ints]:
    """Pairs of rows with equal keys, the first with the first, the second with the second; `once`: only sole ones."""
    numbered: list[Ints] = []
    for key in keys:
        order = np.argsort(key, kind="stable")
        ordered = key[order]
        first = np.searchsorted(ordered, ordered)
        again = np.empty(len(key), dtype=np.int64)
        again[order] = np.arange(len(key)) - first
        if once:
            many = np.searchsorted(ordered, ordered, "right") - first > 1
            again[order[many]] = -1
        numbered.append(again)
    good = [np.flatnonzero(again >= 0) for again in numbered]
    most = max((int(again.max(initial=0)) for again in numbered), default=0) + 1
    one, other = (key[rows] * most + again[rows] for key, again, rows in zip(keys, numbered, good, strict=True))
    _, i, j = np.intersect1d(one, other, assume_unique=True, return_indices=True)
    return good[0][i], good[1][j]


def _unmoved(codes: _Codes, left: Ints, right: Ints) -> tuple[Ints, Ints, int]:
    rows, others = np.flatnonzero(codes.is_box[left]), np.flatnonzero(codes.is_box[right + codes.n])
    i, j = _alike(codes.key(["frame", "class", *CORNERS], left[rows], right[others]))
    return rows[i], others[j], 0


def _same_track(codes: _Codes, left: Ints, right: Ints) -> tuple[Ints, Ints, int]:
    track, other_track = codes.of("track", left, right)
    rows = np.flatnonzero(codes.is_box[left] & (track >= 0))
    others = np.flatnonzero(codes.is_box[right + codes.n] & (other_track >= 0))
    i, j = _alike(codes.key(["frame", "track"], left[rows], right[others]), once=True)
    i, j = rows[i], others[j]
    label, other_label = codes.of("class", left[i], right[j])
    good = (label == other_label) | (
        overlap.iou(codes.corners[left[i]], codes.corners[right[j] + codes.n]) >= SAME_OBJECT
    )
    return i[good], j[good], 0


def _overlapping(codes: _Codes, left: Ints, right: Ints) -> tuple[Ints, Ints, int]:
    rows, others = np.flatnonzero(codes.is_box[left]), np.flatnonzero(codes.is_box[right + codes.n])
    frame, other_frame = codes.of("frame", left[rows], right[others])
    one, other = codes.corners[left[rows]], codes.corners[right[others] + codes.n]
    i, j, share, crowded = overlap.pairs(frame, one, other_frame, other, SAME_OBJECT)
    label, other_label = codes.of("class", left[rows], right[others])
    good = overlap.choose(i, j, share + _SAME_CLASS * (label[i] == other_label[j]))
    return rows[i[good]], others[j[good]], len(crowded)


def _both_empty(codes: _Codes, left: Ints, right: Ints) -> tuple[Ints, Ints, int]:
    rows, others = np.flatnonzero(~codes.is_box[left]), np.flatnonzero(~codes.is_box[right + codes.n])
    i, j = _alike(codes.key(["frame"], left[rows], right[others]))
    return rows[i], others[j], 0


def _changes(codes: _Codes, early: pd.DataFrame, late: pd.DataFrame, one: Ints, other: Ints) -> pd.DataFrame:
    """The table of changes; -1 in `one` is a row that was added, in `other` one that was removed."""
    n = codes.n
    corners = np.vstack([codes.corners, np.full((1, 4), np.nan)])
    was, now = corners[np.where(one < 0, -1, one)], corners[np.where(other < 0, -1, other + n)]
    both = (one >= 0) & (other >= 0)
    is_box = np.where(one >= 0, codes.is_box[np.maximum(one, 0)] if n else False, codes.is_box[other + n])
    boxes = both & is_box
    shift = np.full(len(one), np.nan)
    shift[boxes] = np.abs(now[boxes] - was[boxes]).max(axis=1)
    share = np.full(len(one), np.nan)
    share[boxes] = overlap.iou(was[boxes], now[boxes])
    fields = np.full(len(one), "", dtype=object)
    at = np.flatnonzero(both)
    reclassed = np.zeros(len(one), dtype=bool)
    label, other_label = codes.of("class", one[at], other[at])
    reclassed[at] = label != other_label
    for name in _OTHER:
        value, other_value = codes.of(name, one[at], other[at])
        rows = at[value != other_value]
        fields[rows] = [f"{said}, {name}" if said else name for said in fields[rows]]
    moved = boxes & (shift > SAME_PX)
    nudged = boxes & (shift > 0) & ~moved
    fields[nudged] = [f"{said}, corners" if said else "corners" for said in fields[nudged]]
    kinds = np.array([CHANGED, MOVED, RECLASSED, MOVED_AND_RECLASSED, REMOVED, FILLED, ADDED, EMPTIED], dtype=object)
    kind = np.where(both, moved + 2 * reclassed, np.where(other < 0, 4 + ~is_box, 6 + ~is_box))
    labels = [_text(table["class"], rows) for table, rows in ((early, one), (late, other))]
    frame_codes = np.where(one >= 0, codes.columns["frame"][np.maximum(one, 0)] if n else 0, 0)
    frame_codes = np.where(one < 0, codes.columns["frame"][other + n], frame_codes)
    table = pd.DataFrame(
        {
            "frame": np.where(one >= 0, _text(early["frame"], one), _text(late["frame"], other)),
            "change": kinds[kind],
            "class_before": labels[0],
            "class_after": labels[1],
            "moved_px": shift,
            "iou": share,
            "by": _by(codes, late, other, frame_codes),
            "fields": fields,
            **dict(zip(SIDES, [*was.T, *now.T], strict=True)),
            "before": one,
            "after": other,
        }
    )
    place = np.where(np.isnan(was), now, was)
    order = np.lexsort((np.arange(len(one)), kind, *place.T[::-1], one < 0, frame_codes))
    return table.iloc[order].reset_index(drop=True)


def _text(column: pd.Series, rows: Ints) -> np.ndarray:
    plain = column.astype(object)
    return np.array([*plain.where(plain.notna(), None), None], dtype=object)[rows]


def _by(codes: _Codes, late: pd.DataFrame, rows: Ints, frame: Ints) -> np.ndarray:
    """Who drew the later box; for a removed one, who alone speaks for its frame now."""
    named = _text(late["annotator"], rows)
    gone = np.flatnonzero(rows < 0)
    if len(gone):
        frames, people = codes.columns["frame"][codes.n :], codes.columns["annotator"][codes.n :]
        each = pd.DataFrame({"frame": frames, "by": people}).groupby("frame")["by"].agg(["min", "max"])
        alone = each.loc[each["min"] == each["max"], "max"]
        names = pd.Series(_text(late["annotator"], np.arange(len(late))), index=people)
        names = names[~names.index.duplicated()]
        code = alone.reindex(frame[gone]).fillna(-1).astype(np.int64).to_numpy()
        named[gone] = names.reindex(code).to_numpy(dtype=object)
    return np.array([name if isinstance(name, str) else "" for name in named], dtype=object)


def _counts(codes: _Codes, changes: pd.DataFrame, crowded: int) -> dict[str, int]:
    frame = codes.columns["frame"]
    size = int(frame.max(initial=-1)) + 1
    state = np.zeros((2, size), dtype=np.int64)  # 0: not looked at, 1: empty, 2: with boxes
    for at, rows in enumerate((slice(None, codes.n), slice(codes.n, None))):
        np.maximum.at(state[at], frame[rows], 1 + codes.is_box[rows])
    was, now = state
    kind = changes["change"].value_counts()
    both = int(kind.get(MOVED_AND_RECLASSED, 0))
    numbers = (
        *(kind.get(ADDED, 0), kind.get(REMOVED, 0), kind.get(MOVED, 0) + both, kind.get(RECLASSED, 0) + both),
        *(kind.get(CHANGED, 0), ((was == 0) & (now > 0)).sum(), ((was > 0) & (now == 0)).sum()),
        *(((was == 2) & (now == 1)).sum(), ((was == 1) & (now == 2)).sum(), crowded),
    )
    return {name: int(number) for name, number in zip(COUNTS, numbers, strict=True)}


_WORDS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("added", (ADDED,), "+{}"),
    ("removed", (REMOVED,), "-{}"),
    ("moved", (MOVED, MOVED_AND_RECLASSED), "{} moved"),
    ("reclassed", (RECLASSED, MOVED_AND_RECLASSED), "{} re-classed"),
    ("changed", (CHANGED,), "{} otherwise changed"),
)
_FRAMES = (
    ("frames_annotated", "newly annotated"),
    ("frames_forgotten", "no longer annotated"),
    ("frames_emptied", "emptied"),
    ("frames_filled", "no longer empty"),
)


def _sentence(of: Diff) -> str:
    parts: list[str] = []
    for name, kinds, words in _WORDS:
        if of.counts[name]:
            who: Any = of.changes.loc[of.changes["change"].isin(kinds), "by"].unique()
            named = sorted(str(person) for person in who if person)
            # Half of it being somebody's does not make all of it his.
            by = f" by {', '.join(named[:3])}{' ...' if len(named) > 3 else ''}" if len(named) == len(who) else ""
            parts.append(words.format(f"{of.counts[name]:,}") + by)
    if parts:
        number, _, rest = parts[0].partition(" ")
        boxes = "box" if number.lstrip("+-") == "1" else "boxes"
        parts[0] = f"{number} {boxes} {rest}".rstrip()
    for name, words in _FRAMES:
        if of.counts[name]:
            parts.append(f"{of.counts[name]:,} frame{'s' * (of.counts[name] > 1)} {words}")
    return ", ".join(parts) or "no difference"

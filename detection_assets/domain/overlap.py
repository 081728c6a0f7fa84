"""Which boxes of two sets are of the same thing: pairs on the same frame that overlap, and the best one-to-one choice.

By columns: a million boxes take seconds. Only where several boxes overlap several is an assignment solved.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

CHUNK = 2_000_000
"""Pairs that are looked at at once."""
CROWD = 25_000_000
"""Pairs of one frame beyond which it is too crowded to be looked at: 5,000 boxes in either set."""
DENSE = 4_000_000
"""Pairs of one heap of boxes up to which the best choice is found; in a larger one, the best pair is taken first."""


def iou(one: Floats, other: Floats) -> Floats:
    """Intersection over union of boxes, row by row; corners as n x 4, pixels. 0 where a box has no area."""
    (x1, y1, x2, y2), (left, top, right, bottom) = one.T, other.T
    width, height = np.minimum(x2, right) - np.maximum(x1, left), np.minimum(y2, bottom) - np.maximum(y1, top)
    shared = np.where((width > 0) & (height > 0), width * height, 0.0)
    union = (x2 - x1) * (y2 - y1) + (right - left) * (bottom - top) - shared
    return np.divide(shared, union, out=np.zeros(len(one)), where=union > 0)


def pairs(
    one_frame: Ints, one: Floats, other_frame: Ints, other: Floats, least: float
) -> tuple[Ints, Ints, Floats, Ints]:
    """Pairs of boxes of two sets that are on the same frame and overlap.

    Args:
        one_frame: A number for the frame of each box of the one set.
        one: Their corners, n x 4, pixels.
        other_frame: The same of the other set.
        other: Their corners, m x 4, pixels.
        least: The least IoU of a pair; must be above 0.

    Returns:
        Row in the one set, row in the other, IoU, ordered by the rows; and the frames that are too crowded (`CROWD`),
        of which no pair is given.
    """
    order = np.argsort(other_frame, kind="stable")
    sorted_frames = other_frame[order]
    begin = np.searchsorted(sorted_frames, one_frame, "left")
    count = np.searchsorted(sorted_frames, one_frame, "right") - begin
    frames, at = np.unique(one_frame, return_inverse=True)
    crowded = np.bincount(at, weights=count, minlength=len(frames)) > CROWD
    rows = np.flatnonzero((count > 0) & ~crowded[at])
    ends = np.cumsum(count[rows])
    found: list[tuple[Ints, Ints, Floats]] = []
    start, done = 0, 0
    while start < len(rows):
        stop = max(int(np.searchsorted(ends, done + CHUNK, "right")), start + 1)
        chunk = rows[start:stop]
        i = np.repeat(chunk, count[chunk])
        steps = np.arange(len(i)) - np.repeat(np.cumsum(count[chunk]) - count[chunk], count[chunk])
        j = order[begin[i] + steps]
        overlap = iou(one[i], other[j])
        kept = (overlap >= least) & (overlap > 0)
        found.append((i[kept], j[kept], overlap[kept]))
        start, done = stop, int(ends[stop - 1])
    if not found:
        nothing = np.empty(0, dtype=np.int64)
        return nothing, nothing, np.empty(0), frames[crowded]
    i, j, overlap = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.lexsort((j, i))
    return i[order], j[order], overlap[order], frames[crowded]


def choose(i: Ints, j: Ints, score: Floats) -> npt.NDArray[np.bool_]:
    """The one-to-one choice among pairs whose scores have the largest sum.

    Args:
        i: Row in the one set.
        j: Row in the other.
        score: How well the two fit, above 0.

    Returns:
        Which of the pairs are chosen. Of choices that are equally good, one is taken that depends on the order of
        pairs alone.
    """
    if not len(i):
        return np.zeros(0, dtype=bool)
    of_i, of_j = np.unique(i, return_inverse=True)[1], np.unique(j, return_inverse=True)[1]
    alone = (np.bincount(of_i)[of_i] == 1) & (np.bincount(of_j)[of_j] == 1)
    chosen = alone.copy()
    rest = np.flatnonzero(~alone)
    if len(rest):
        chosen[rest] = _among(of_i[rest], of_j[rest], score[rest])
    return chosen


def _among(i: Ints, j: Ints, score: Floats) -> npt.NDArray[np.bool_]:
    """As `choose`, heap by heap: a heap is what hangs together by overlaps."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = int(i.max()) + 1
    size = n + int(j.max()) + 1
    heap = connected_components(coo_array((np.ones(len(i)), (i, n + j)), shape=(size, size)), directed=False)[1][i]
    order = np.argsort(heap, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(heap[order]) != 0])
    chosen = np.zeros(len(i), dtype=bool)
    for rows in np.split(order, starts[1:]):
        left, right = i[rows], j[rows]
        if (left == left[0]).all() or (right == right[0]).all():
            chosen[rows[np.argmax(score[rows])]] = True
        else:
            chosen[rows] = _best(left, right, score[rows])
    return chosen


def _best(i: Ints, j: Ints, score: Floats) -> npt.NDArray[np.bool_]:
    from scipy.optimize import linear_sum_assignment

    rows, i = np.unique(i, return_inverse=True)
    columns, j = np.unique(j, return_inverse=True)
    chosen = np.zeros(len(i), dtype=bool)
    if len(rows) * len(columns) > DENSE:
        free_i, free_j = np.ones(len(rows), bool), np.ones(len(columns), bool)
        for at in np.argsort(-score, kind="stable").tolist():
            if free_i[i[at]] and free_j[j[at]]:
                chosen[at] = True
                free_i[i[at]] = free_j[j[at]] = False
        return chosen
    matrix = np.zeros((len(rows), len(columns)))
    matrix[i, j] = score
    best = np.full(len(rows), -1)
    at, to = linear_sum_assignment(matrix, maximize=True)
    best[at] = to
    return best[i] == j

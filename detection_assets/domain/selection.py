"""Which pictures annotators are asked about: a budgeted batch without near-duplicates, each picture for a reason.

The reasons take turns, so that each has its share of any first part of the batch: the next picture is the choice of the
reason that is furthest behind its share (the rule of Webster, with divisors 1, 3, 5, ...). A reason that has no picture
left passes its share on to the others, and to `diverse` when all have.

*unsure*, *drifted* and *rare* choose the picture with the largest `score * d / (d + m)`: d is the distance of its
features to the nearest picture that is labelled, waiting or chosen, m the median of d among the candidates at first.
So a picture much like one that is chosen is worth little whatever its score (informative and diverse at once, as in
Zhdanov, "Diverse mini-batch Active Learning", 2019), while beyond the usual distance the score decides, and no outlier
wins by being one.

*diverse* chooses the picture that brings the candidates nearest to what is labelled, waiting or chosen: the largest
sum over a sample of the candidates, evenly taken, of how much nearer each comes. That is facility location (Wei, Iyer
and Bilmes, "Submodularity in Data Subset Selection and Active Learning", 2015); the core-set's farthest-first rule
(Sener and Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", 2018) would ask for the
oddest pictures first. What a candidate could bring only falls while others are chosen, so only the most promising are
looked at again (Minoux' lazy greedy, 1978).

The choice is the same whatever the order of the candidates, and nothing in it is drawn by lot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from detection_assets.domain import near_duplicates

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

UNSURE, DRIFTED, RARE, DIVERSE = "unsure", "drifted", "rare", "diverse"
REASONS = (UNSURE, DRIFTED, RARE, DIVERSE)
CHOSEN = ("frame", "rank", "reason", "score", "distance", "stands_for")
"""Columns of a choice: `rank` from 0, `score` of the reason, `distance` of the features to the nearest picture that was
labelled, waiting or chosen before (NaN for none), `stands_for` the share of the candidates that have none nearer."""
SAMPLE = 256
"""Candidates that stand for all where it is asked how near the candidates are."""
AT_ONCE = 512
"""Rows of features that are held against all others at once."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a batch is to be like.

    Attributes:
        budget: The most pictures.
        shares: How much of it each reason has, by `REASONS`; reasons that are missing or 0 choose none, but `diverse`
            fills what is left.
        near_duplicate: Bits of 64 up to which pictures are alike and only one is chosen; None chooses both.
        most_per_video: The most of the budget that one video may have, 0 to 1, as long as others have pictures left.
    """

    budget: int
    shares: Mapping[str, float]
    near_duplicate: int | None = 6
    most_per_video: float = 0.2


def spread(candidates: pd.DataFrame, most: int) -> pd.DataFrame:
    """A part of the candidates, even over videos and, within each, over time.

    Args:
        candidates: `video`, and `frame`; the rows of a video in order of time.
        most: How many at most.

    Returns:
        Rows of the table in its order. Videos with few keep all, the others share the rest alike.
    """
    if len(candidates) <= most:
        return candidates
    codes, names = pd.factorize(candidates["video"], sort=True)
    counts = np.bincount(codes, minlength=len(names))
    order = np.argsort(codes, kind="stable")
    starts = np.cumsum(counts) - counts
    quota = _water(counts, most)
    taken = [
        order[start + (np.arange(few) * 2 + 1) * many // (2 * few)]
        for start, many, few in zip(starts.tolist(), counts.tolist(), quota.tolist(), strict=True)
        if few
    ]
    return candidates.iloc[np.sort(np.concatenate(taken))] if taken else candidates.iloc[:0]


def _water(counts: Ints, most: int) -> Ints:
    """The fairest parts of some counts that make `most` in all: each its own, or as much as the others."""
    order = np.argsort(counts, kind="stable")
    quota, left = np.zeros(len(counts), np.int64), most
    for at, place in enumerate(order.tolist()):
        quota[place] = min(int(counts[place]), left // (len(order) - at))
        left -= quota[place]
    return quota


def unlike(candidates: pd.DataFrame, known: Sequence[Any] | pd.Series, distance: int | None) -> NDArray[np.bool_]:
    """Which candidates are no near-duplicate of a picture that is labelled or waiting.

    Args:
        candidates: `frame`, unique, and `phash`; one without a hash is like nothing.
        known: The hashes of what is labelled or waiting.
        distance: Bits of 64 up to which two are alike; None: none are.
    """
    if distance is None or not len(known):
        return np.ones(len(candidates), np.bool_)
    mine = pd.DataFrame({"frame": candidates["frame"].astype(str), "phash": candidates["phash"], "split": "train"})
    # Equal hashes say the same; which frame they are of does not matter here.
    hashes = pd.unique(pd.Series(list(known), dtype=object).dropna())
    theirs = pd.DataFrame({"frame": [f"\0{at}" for at in range(len(hashes))], "phash": hashes, "split": "test"})
    found = near_duplicates.across(pd.concat([mine, theirs], ignore_index=True), distance)
    return ~candidates["frame"].isin(set(found["frame"])).to_numpy(np.bool_)


def choose(candidates: pd.DataFrame, features: Floats, known: Floats, wanted: Wanted) -> pd.DataFrame:
    """Chooses a batch.

    Args:
        candidates: `frame`, unique; `video`, or what else may not have more than its share; `phash`; and the scores
            `unsure`, `drifted` and `rare`, 0 to 1, where a reason without its column has no picture.
        features: N x D float32, a row a candidate.
        known: M x D float32, of pictures that are labelled or waiting.
        wanted: What the batch is to be like.

    Returns:
        A row a chosen picture, columns `CHOSEN`, by rank.
    """
    order = np.argsort(candidates["frame"].to_numpy(object), kind="stable")
    table, features = candidates.iloc[order].reset_index(drop=True), features[order].astype(np.float32, copy=False)
    batch = _Batch(table, features, known.astype(np.float32, copy=False), wanted)
    shares: dict[str, float] = {name: wanted.shares.get(name, 0.0) for name in REASONS}
    left = [name for name in REASONS if shares[name] > 0 and (name == DIVERSE or name in table)]
    had: dict[str, int] = dict.fromkeys(REASONS, 0)
    while len(batch.rows) < wanted.budget and batch.open():
        turn = min(left, key=lambda name: (had[name] + 0.5) / shares[name]) if left else DIVERSE
        if batch.take(turn):
            had[turn] += 1
        elif turn in left:
            left.remove(turn)
        else:
            break
    found = pd.DataFrame(batch.rows, columns=["at", *CHOSEN[1:]])
    return found.assign(frame=table["frame"].iloc[found["at"].astype(np.int64)].to_numpy())[list(CHOSEN)]


class _Batch:
    """A batch that is being chosen."""

    def __init__(self, table: pd.DataFrame, features: Floats, known: Floats, wanted: Wanted) -> None:
        self.rows: list[tuple[int, int, str, float, float, float]] = []
        self._wanted = wanted
        self._scores = {
            name: table[name].fillna(0.0).to_numpy(np.float64) for name in REASONS if name in table and name != DIVERSE
        }
        self._features, self._squares = features, np.einsum("ij,ij->i", features, features)
        self._near = self._nearest(features, known)
        finite = self._near[np.isfinite(self._near)]
        self._usual = max(float(np.median(finite)), 1e-6) if len(finite) else 1.0
        self._sample = np.unique(np.linspace(0, len(table) - 1, min(len(table), SAMPLE)).astype(np.int64))
        # With nothing to be near to, a candidate is as far away as the sample's extent.
        centre = features[self._sample].mean(axis=0) if len(table) else np.zeros(features.shape[1], np.float32)
        self._far = 2 * float(self._distances(self._sample, centre).max(initial=0.0)) + 1e-6
        self._bound = np.full(len(table), np.inf)
        self._hashes, self._hashed = near_duplicates.parse(table["phash"])
        self._video = pd.factorize(table["video"])[0]
        self._from = np.zeros(int(self._video.max(initial=-1)) + 1, np.int64)
        self._most = max(1, ceil(wanted.most_per_video * wanted.budget))
        self._free = np.ones(len(table), np.bool_)

    def open(self) -> bool:
        """Whether a picture is left; if all that are left are of videos that had their share, each may have more."""
        if not self._free.any():
            return False
        self._most = max(self._most, int(self._from[self._video[self._free]].min()) + 1)
        return True

    def take(self, reason: str) -> bool:
        """Chooses the best picture for a reason, if there is one."""
        at = np.flatnonzero(self._free & (self._from[self._video] < self._most))
        if reason == DIVERSE:
            best, score = self._most_central(at)
        else:
            scores = self._scores[reason]
            at = at[scores[at] > 0]
            if not len(at):
                return False
            near = np.minimum(self._near[at], self._far)
            best = int(at[np.argmax(scores[at] * near / (near + self._usual))])
            score = float(scores[best])
        before = float(self._near[best])
        away = self._distances(slice(None), self._features[best])
        nearer = away[self._sample] < self._near[self._sample]
        row = (best, len(self.rows), reason, score, before if np.isfinite(before) else np.nan, float(nearer.mean()))
        self.rows.append(row)
        self._near = np.minimum(self._near, away)
        self._from[self._video[best]] += 1
        self._free[best] = False
        if self._wanted.near_duplicate is not None and self._hashed[best]:
            bits = np.bitwise_count(self._hashes ^ self._hashes[best])
            self._free &= ~(self._hashed & (bits <= self._wanted.near_duplicate))
        return True

    def _most_central(self, at: Ints) -> tuple[int, float]:
        """The candidate that brings the sample nearest, and how much nearer as a share of how far it is."""
        near = np.minimum(self._near[self._sample], self._far)
        order = at[np.argsort(-self._bound[at], kind="stable")]
        best, most = int(order[0]), -1.0
        for first in range(0, len(order), AT_ONCE):
            part = order[first : first + AT_ONCE]
            if most >= 0 and self._bound[part[0]] < most:
                break
            gains = np.clip(near[:, None] - self._between(self._sample, part), 0, None).sum(axis=0)
            self._bound[part] = gains
            top = int(np.argmax(gains))
            if gains[top] > most:
                best, most = int(part[top]), float(gains[top])
        return best, most / max(float(near.sum()), 1e-9)

    def _between(self, one: Ints, other: Ints) -> Floats:
        squares = self._squares[one][:, None] + self._squares[other] - 2 * self._features[one] @ self._features[other].T
        return np.sqrt(np.clip(squares, 0, None))

    def _distances(self, rows: Any, point: Floats) -> Floats:
        squares = self._squares[rows] - 2 * (self._features[rows] @ point) + float(point @ point)
        return np.sqrt(np.clip(squares, 0, None))

    def _nearest(self, features: Floats, known: Floats) -> Floats:
        near = np.full(len(features), np.inf, np.float32)
        for first in range(0, len(known), AT_ONCE):
            part = known[first : first + AT_ONCE]
            for start in range(0, len(features), 16 * AT_ONCE):
                rows = slice(start, start + 16 * AT_ONCE)
                squares = np.einsum("ij,ij->i", part, part)[:, None] - 2 * part @ features[rows].T
                near[rows] = np.minimum(near[rows], squares.min(axis=0))
        return np.sqrt(np.clip(near + self._squares, 0, None))

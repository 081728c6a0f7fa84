"""Where truth and prediction disagree, box by box, and in which frames they do most.

The matching is that of the scores (`metrics`), run again over what it left over: a truth box that nothing found may
have been taken for another class or be boxed badly, and a prediction that found nothing may be a second box of one
thing. Each box is told once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from detection_assets.domain.bootstrap import Ints
from detection_assets.domain.metrics import Scores

TRUTH, PREDICTION = "truth", "prediction"
RIGHT, MISSED, CONFUSED, MISPLACED = "right", "missed", "confused", "misplaced"
INVENTED, DOUBLED = "invented", "doubled"
MISTAKES = (MISSED, CONFUSED, INVENTED, MISPLACED, DOUBLED)
"""The worst first. Truth boxes are missed, confused (found as another class) or misplaced (found with too little
overlap); predictions are invented (there is nothing) or doubled (their object was found already)."""

IOU = 0.5
"""Least overlap of a truth box and the prediction that found it."""
NEAR = 0.1
"""Least overlap of a truth box and a prediction of its class that was meant for it but is misplaced."""
WEIGHTS = {MISSED: 1.0, CONFUSED: 1.0, MISPLACED: 0.5, INVENTED: 1.0, DOUBLED: 0.5}
"""What a mistake adds to its frame's score; what only a prediction shows counts by its confidence, too."""
MOST_TOLD = 6
"""Kinds of mistakes of one frame that are put in words."""

_CORNERS = ["x1", "y1", "x2", "y2"]
JUDGED = ["frame", "side", "class", "confidence", *_CORNERS, "verdict", "other"]
_SAID = {
    RIGHT: "{} right",
    MISSED: "{} missed",
    CONFUSED: "{} taken for {other}",
    MISPLACED: "{} misplaced",
    INVENTED: "{} invented",
    DOUBLED: "{} found twice",
}


def judge(truth: pd.DataFrame, predictions: pd.DataFrame, frames: Sequence[str]) -> pd.DataFrame:
    """Says of each box whether the other side agrees.

    Args:
        truth: `frame, class, x1, y1, x2, y2`, a row a box; rows without a class (an empty frame) are passed over.
        predictions: The same with `confidence`; those that are not sure enough are left out beforehand.
        frames: The frames to judge; boxes of others are passed over.

    Returns:
        A row a box, columns as `JUDGED`: `side` is `truth` or `prediction`, `verdict` one of `MISTAKES` or `right`,
        `other` the class of the box that it was matched with; null if there is none.
    """
    sides = [_boxes(table, frames) for table in (truth.assign(confidence=np.nan), predictions)]
    there, found = sides
    of_truth, of_found = (np.full(len(side), -1, np.int64) for side in sides)
    verdict, said = np.full(len(there), MISSED, object), np.full(len(found), INVENTED, object)
    for word, iou, any_class in ((RIGHT, IOU, False), (CONFUSED, IOU, True), (MISPLACED, NEAR, False)):
        left, spare = np.flatnonzero(of_truth < 0), np.flatnonzero(of_found < 0)
        box, prediction = _matched(there.iloc[left], found.iloc[spare], iou, any_class)
        box, prediction = left[box], spare[prediction]
        of_truth[box], of_found[prediction] = prediction, box
        verdict[box], said[prediction] = word, word
    known, spare = np.flatnonzero(of_truth >= 0), np.flatnonzero(of_found < 0)
    box, prediction = _matched(there.iloc[known], found.iloc[spare], IOU, False)
    said[spare[prediction]], of_found[spare[prediction]] = DOUBLED, known[box]
    parts = [
        mine.assign(side=name, verdict=words, other=np.array([*theirs["class"], None], object)[partner])
        for name, mine, theirs, words, partner in (
            (TRUTH, there, found, verdict, of_truth),
            (PREDICTION, found, there, said, of_found),
        )
    ]
    return pd.concat(parts, ignore_index=True)[JUDGED]


def _boxes(table: pd.DataFrame, frames: Sequence[str]) -> pd.DataFrame:
    used = table.loc[table["class"].notna() & table["frame"].isin(frames)]
    used = used[["frame", "class", "confidence", *_CORNERS]].reset_index(drop=True)
    return used.astype({"frame": object, "class": object, **dict.fromkeys(["confidence", *_CORNERS], "float64")})


def _matched(truth: pd.DataFrame, predictions: pd.DataFrame, iou: float, any_class: bool) -> tuple[Ints, Ints]:
    """Rows of truth and of predictions that belong together."""
    both = pd.Index(truth["frame"].unique()).intersection(predictions["frame"].unique())
    if both.empty:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    at = [np.flatnonzero(table["frame"].isin(both)) for table in (truth, predictions)]
    truth, predictions = truth.iloc[at[0]], predictions.iloc[at[1]]
    if any_class:
        truth, predictions = truth.assign(**{"class": "any"}), predictions.assign(**{"class": "any"})
    # The matching does not look at the frames' sizes.
    images = pd.DataFrame({"frame": both, "width": 0, "height": 0})
    classes = sorted({*truth["class"], *predictions["class"]})
    partner = Scores(truth, predictions, images, classes, max_det=len(predictions)).pairs(iou)
    hit = partner >= 0
    return at[0][partner[hit]], at[1][hit]


def rank(judged: pd.DataFrame, frames: Sequence[str]) -> pd.DataFrame:
    """How much truth and prediction disagree in each frame; the worst first.

    A missed box and one taken for another class count 1, an invented one its confidence, a misplaced one a half, and a
    second box of one thing half its confidence. So a frame with more that is wrong comes before one with less, and of
    two the one in which the model was surer. Frames of equal scores keep their order.

    Args:
        judged: What `judge` returns, or a part of it.
        frames: The frames to rank, with or without boxes.

    Returns:
        `frame, score, right` and a count of each of `MISTAKES`, a row a frame.
    """
    told = judged.loc[_counted(judged)]
    weight = told["verdict"].map(WEIGHTS).fillna(0.0) * told["confidence"].where(told["side"] == PREDICTION, 1.0)
    index = pd.Index(frames, name="frame")
    counts = {
        word: told.loc[told["verdict"] == word].groupby("frame").size().reindex(index, fill_value=0)
        for word in (RIGHT, *MISTAKES)
    }
    score = weight.groupby(told["frame"]).sum().reindex(index, fill_value=0.0)
    table = pd.DataFrame({"score": score, **counts}).reset_index()
    return table.sort_values("score", ascending=False, kind="stable", ignore_index=True)


def _counted(judged: pd.DataFrame) -> Any:
    """A pair has two rows, of which the truth's counts."""
    return (judged["side"] == TRUTH) | judged["verdict"].isin([INVENTED, DOUBLED])


def concerning(judged: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """The boxes of some classes, and those that were taken for them or for which they were taken."""
    return judged.loc[judged["class"].isin(classes) | judged["other"].isin(classes)]


def in_words(of_frame: pd.DataFrame) -> str:
    """What is wrong in one frame, such as `2 bottle missed, 1 cola invented`.

    Args:
        of_frame: The rows of `judge` of one frame.
    """
    told = of_frame.loc[_counted(of_frame)]
    if told.empty:
        return "nothing there, nothing found"
    wrong = told.loc[told["verdict"] != RIGHT]
    if wrong.empty:
        return f"all {len(told)} right"
    other = wrong["other"].where(wrong["verdict"] == CONFUSED, "").fillna("")
    order = wrong["verdict"].map(MISTAKES.index)
    groups = wrong.groupby([order, wrong["class"], other]).size().items()
    parts = [f"{count} {_SAID[MISTAKES[at]].format(name, other=into)}" for (at, name, into), count in groups]
    left = len(parts) - MOST_TOLD
    return ", ".join(parts[:MOST_TOLD]) + (f" and {left} more kinds of mistakes" if left > 0 else "")


def a_few(ranked: pd.DataFrame, videos: Sequence[str], count: int) -> pd.DataFrame:
    """Some of the worst frames, the worst of each video before the second worst of any: neighbours look alike.

    Args:
        ranked: What `rank` returns.
        videos: The video of each of its rows.
        count: How many at most.

    Returns:
        Rows of `ranked` with a mistake, the worst first.
    """
    wrong = ranked.assign(video=list(videos)).loc[ranked["score"] > 0]
    place = wrong.groupby("video").cumcount()
    return wrong.loc[place.sort_values(kind="stable").index[:count].sort_values()].drop(columns="video")


def totals(ranked: pd.DataFrame) -> str:
    """All frames that were ranked in words, such as `310 right, 12 missed, 3 invented`."""
    counts = ranked[[RIGHT, *MISTAKES]].sum()
    return ", ".join(f"{counts[word]} {word}" for word in (RIGHT, *MISTAKES) if counts[word]) or "no boxes"


def counted(names: pd.Series) -> str:
    """Classes with their number, such as `3 cola, 1 water`."""
    return ", ".join(f"{count} {name}" for name, count in names.dropna().value_counts(sort=False).sort_index().items())

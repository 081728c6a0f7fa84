"""One set of boxes out of those of several annotators: all that anybody drew, or what enough of them drew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from detection_assets.domain import agreement
from detection_assets.domain.agreement import Policy
from detection_assets.domain.matched_rows import Rows, Teller
from detection_assets.domain.voices import Voices


def settle(
    boxes: Rows,
    drawn: Voices,
    heard: Voices,
    rows: Rows,
    ranks: np.ndarray,
    policy: Policy,
    teller: Teller,
    counts: dict[str, int],
) -> tuple[Rows, dict[str, np.ndarray], np.ndarray]:
    """Merges boxes of one object and leaves out what too few annotators drew.

    A merged box has the median of each corner and the class of most; where as many say otherwise, the class that the
    detector names first, and a problem tells it. What else is said of it is what the first of its annotators, by name,
    of those who gave it that class, says. Tracks of all but the first annotator who has some get his name before them,
    for two people number different objects alike.

    Args:
        boxes: Legal boxes on their frames.
        drawn: Their voices.
        heard: The voices of `rows`.
        rows: All rows of the frames, those included that say that there is nothing, or whose boxes are not legal.
        ranks: For each label the class's number in the detector's list.
        policy: `union` or `consensus`.
        teller: Tells what was left out.
        counts: Gets `merged` and `outvoted`.

    Returns:
        The boxes that are left; by column of the table, what goes in place of what the boxes' rows say; and the frames
        that fewer than `min_annotators` looked at, which are left out.
    """
    looked = pd.DataFrame({"frame": rows.frame, "voice": heard.code}).drop_duplicates().groupby("frame").size()
    found = agreement.objects(boxes.frame, drawn.code, ranks[boxes.label], boxes.corners, policy.iou)
    present = looked.reindex(found.frame).to_numpy(np.int64)
    unsure = np.empty(0, dtype=np.int64)
    agreed = np.ones(len(found.votes), dtype=bool)
    if policy.name == "consensus":
        needed = present // 2 + 1 if policy.min_annotators is None else np.full(len(present), policy.min_annotators)
        agreed = found.votes >= needed
        if policy.min_annotators is not None:
            unsure = looked.index[looked < policy.min_annotators].to_numpy(np.int64)
        _tell(boxes, found, agreed, present, needed, teller)
    counts["outvoted"] = int(found.votes[~agreed].sum())
    counts["merged"] = int((found.votes[agreed] - 1).sum())
    _tell_ties(boxes, found, agreed, teller)
    settled = boxes.take(found.row[agreed])
    settled.corners = found.corners[agreed]
    return settled, _said(found, agreed, drawn, settled, teller), unsure


def _said(
    found: agreement.Objects, agreed: np.ndarray, drawn: Voices, settled: Rows, teller: Teller
) -> dict[str, np.ndarray]:
    """Annotators, all of them by name, and tracks of the boxes that are left."""
    people, tracks = (teller.column(name) for name in ("annotator", "track"))
    own = people[settled.at]
    merged = np.flatnonzero(found.votes[agreed] > 1)
    if len(merged):
        joined = np.full(len(found.votes), "", dtype=object)
        for code in np.unique(drawn.code[drawn.named]):
            his = np.unique(found.member[drawn.named & (drawn.code == code)])
            joined[his] = joined[his] + np.where(joined[his] == "", "", ", ") + drawn.names[code]
        told = joined[agreed][merged]
        told[told == ""] = None
        own[merged] = told
    track, voice = tracks[settled.at], drawn.code[found.row[agreed]]
    has = np.array([one is not None for one in track], dtype=bool)
    others = np.flatnonzero(has & (voice != voice[has].min(initial=len(drawn.names))))
    track[others] = [f"{drawn.names[voice[i]]}/{track[i]}" for i in others]
    return {"annotator": own, "track": track}


def _tell(
    boxes: Rows, found: agreement.Objects, agreed: np.ndarray, present: np.ndarray, needed: np.ndarray, teller: Teller
) -> None:
    for at in np.flatnonzero(~agreed):
        i = found.row[at]
        file = teller.files[boxes.at[i]]
        if teller.log.room(file, "outvoted"):
            what = f"outvoted: drawn by {found.votes[at]} of {present[at]} annotators, {needed[at]} must"
            fix = "have the frame looked at once more"
            _about(teller, boxes, i, "outvoted", what, "dropped", fix=fix, number=int(found.votes[at]))


def _tell_ties(boxes: Rows, found: agreement.Objects, agreed: np.ndarray, teller: Teller) -> None:
    tied = np.flatnonzero(found.tied & agreed)
    if not len(tied):
        return
    labels = pd.Series([teller.labels[at] for at in boxes.at], dtype=object)
    among = labels.groupby(found.member).agg(lambda names: " or ".join(sorted(set(map(str, names)))))
    for at in tied:
        i = found.row[at]
        if teller.log.room(teller.files[boxes.at[i]], "class tie"):
            what = f"its annotators do not agree whether it is {among[at]}"
            done = f"kept as {labels[i]}, which the detector names first; decide which it is"
            _about(teller, boxes, i, "class tie", what, done)


def _about(teller: Teller, boxes: Rows, i: Any, kind: str, what: str, done: str, **more: Any) -> None:
    at = boxes.at[i]
    where = teller.places[at] or ""
    teller.log.tell(teller.files[at], where, what, done, kind=kind, **teller.about(boxes, i), **more)

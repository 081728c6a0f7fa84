"""Why each picture of a batch was chosen, in words with figures, for the annotator who gets it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from detection_assets.domain import informativeness, selection
from detection_assets.domain.informativeness import CHALLENGER, LOW, MIRRORED, PLAIN

FIGURES = (LOW, MIRRORED, CHALLENGER)
NAMED = 3
"""Boxes that are named at most."""
ABOUT = 0.5
"""From this on a box counts as one about the threshold."""


@dataclass(frozen=True)
class Known:
    """What the words tell of beside a picture's own boxes.

    Attributes:
        threshold: The confidence from which boxes are answered.
        labelled: Labelled boxes by class.
        classes: The detector's classes.
        champion: The version that serves, "" if none does.
        challenger: The version that it is held against, "" for none.
        drifted: For pictures that are like what drifted, which value of theirs is.
    """

    threshold: float
    labelled: Mapping[str, int]
    classes: Sequence[str]
    champion: str = ""
    challenger: str = ""
    drifted: Mapping[str, str] = field(default_factory=dict)


def words(chosen: pd.DataFrame, figures: pd.DataFrame, boxes: pd.DataFrame, known: Known) -> list[str]:
    """Says why each picture was chosen.

    Args:
        chosen: From `selection.choose`.
        figures: `FIGURES` of at least these pictures, by `frame`.
        boxes: What models found in at least these pictures, columns `informativeness.BOXES`.
        known: What else the words tell of.

    Returns:
        A line a picture, the reason before its colon, in the order of `chosen`.
    """
    found = dict(list(boxes[boxes["frame"].isin(chosen["frame"])].groupby("frame")))
    none = boxes.iloc[:0]
    of = figures.set_index("frame")[list(FIGURES)]
    said: list[str] = []
    for row in chosen.to_dict("records"):
        frame, reason = str(row["frame"]), row["reason"]
        mine = found.get(frame, none)
        if reason == selection.RARE:
            said.append(_rare(mine, known))
        elif reason == selection.DRIFTED:
            said.append(known.drifted[frame])
        elif reason == selection.UNSURE:
            said.append(_unsure(mine, str(of.loc[frame].idxmax()), float(row["score"]), known))
        else:
            said.append(_diverse(row["stands_for"], row["distance"], known))
    return [f"{reason}: {why}" for reason, why in zip(chosen["reason"], said, strict=True)]


def _unsure(boxes: pd.DataFrame, figure: str, score: float, known: Known) -> str:
    plain = boxes[boxes["view"] == PLAIN].sort_values("confidence", ascending=False)
    if figure == LOW:
        value = informativeness.unsure(plain["confidence"].to_numpy(np.float64), known.threshold)
        about = plain[value >= ABOUT] if (value >= ABOUT).any() else plain.iloc[[int(np.argmax(value))]]
        return f"{_listed(about)}, where answers begin at {known.threshold:g}; {_so_far(about, known)}"
    other = boxes[boxes["view"] == figure]
    here, there = "the picture", "its mirror image"
    if figure == CHALLENGER:
        here, there = f"version {known.champion}", f"version {known.challenger}"
    alone = (_alone(plain, other, known.threshold / 2), _alone(other, plain, known.threshold / 2))
    told = [f"{_listed(part)} in {who} alone" for part, who in zip(alone, (here, there), strict=True) if len(part)]
    named = pd.concat(alone) if any(map(len, alone)) else plain
    why = " and ".join(told) or f"{_listed(plain)} found again, but elsewhere or less surely"
    return f"{here} and {there} disagree by {score:.0%}: {why}; {_so_far(named, known)}"


def _alone(one: pd.DataFrame, other: pd.DataFrame, least: float) -> pd.DataFrame:
    """The boxes of a look that the other look does not have."""
    lost = one[informativeness.partners(one, other)[0] < 0].sort_values("confidence", ascending=False)
    return lost[lost["confidence"] >= least]


def _rare(boxes: pd.DataFrame, known: Known) -> str:
    plain = boxes[boxes["view"] == PLAIN]
    rare = informativeness.rarity(known.labelled, known.classes)
    value = plain["class"].map(rare).fillna(0.0) * plain["confidence"]
    name = plain["class"].iloc[int(np.argmax(value.to_numpy(np.float64)))]
    mean = sum(known.labelled.get(one, 0) for one in known.classes) / len(known.classes)
    mine = plain[plain["class"] == name].sort_values("confidence", ascending=False)
    return f"{_listed(mine)}; {_so_far(mine, known)}, {mean:.0f} of the average class"


def _diverse(stands_for: float, distance: float, known: Known) -> str:
    whom = "labelled, waiting or chosen" if np.isfinite(distance) else "chosen"
    told = f"of all pictures that are {whom}, it is the nearest to {stands_for:.0%} of those that could be asked about"
    return told if known.champion else f"no model serves yet, so only variety counts: {told}"


def _listed(boxes: pd.DataFrame) -> str:
    """Boxes by class with their confidences, the surest class first."""
    parts: list[str] = []
    for name, part in boxes.groupby("class", sort=False):
        sure = [f"{value:.2f}" for value in part["confidence"].head(NAMED)]
        values = sure[0] if len(sure) == 1 else f"{', '.join(sure[:-1])} and {sure[-1]}"
        more = " and less" if len(part) > len(sure) else ""
        parts.append(f"{len(part)} {'box' if len(part) == 1 else 'boxes'} of {name} at {values}{more}")
    return ", ".join(parts[:NAMED]) + (f" and {len(parts) - NAMED} more classes" if len(parts) > NAMED else "")


def _so_far(boxes: pd.DataFrame, known: Known) -> str:
    names = [str(name) for name in pd.unique(boxes["class"])][:NAMED]
    return ", ".join(f"{known.labelled.get(name, 0)} labelled of {name}" for name in names) + " so far"

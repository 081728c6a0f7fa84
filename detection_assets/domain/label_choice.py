"""From what was seen in pictures to the batch that annotators are asked about, with the reason for each in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from detection_assets.domain import informativeness, label_reasons, selection
from detection_assets.domain.description import features
from detection_assets.domain.selection import DIVERSE, Wanted


@dataclass(frozen=True)
class Ask:
    """What a choice is made by.

    Attributes:
        classes: The detector's classes.
        threshold: The confidence from which boxes are answered.
        wanted: What the batch is to be like; without a champion only variety counts.
        champion: The version that looked, "" if none did.
        challenger: The other version that looked, "" if none did.
        drifted: How much pictures are of a kind that drifted, 0 to 1, by frame; those that are missing are not.
        kinds: Of which kind, in words, by frame.
    """

    classes: Sequence[str]
    threshold: float
    wanted: Wanted
    champion: str = ""
    challenger: str = ""
    drifted: Mapping[str, float] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)


def choose(
    candidates: pd.DataFrame,
    pictures: pd.DataFrame,
    boxes: pd.DataFrame,
    known: pd.DataFrame,
    annotations: pd.DataFrame,
    ask: Ask,
) -> tuple[pd.DataFrame, int]:
    """Chooses a batch.

    Args:
        candidates: `frame`, unique, `video`, `phash` (missing where it is not known), and whatever else is to be kept.
        pictures: What the candidates look like, from the program `propose`; one that is missing could not be read.
        boxes: What models found in them, likewise.
        known: What labelled and waiting pictures look like, likewise.
        annotations: `frame` and `class` of the labelled boxes.
        ask: What the choice is made by.

    Returns:
        The chosen candidates with all their columns, by rank, and `rank`, `reason`, `score`, `why`; and how many could
        have been chosen.
    """
    classes, served = list(ask.classes), bool(ask.champion)
    labelled = {str(name): int(count) for name, count in annotations["class"].value_counts().items()}
    # Frames keep the hash that extraction took; of requests there is none before somebody looked.
    hashes = dict(zip(pictures["frame"], pictures["phash"], strict=True))
    table = candidates[candidates["frame"].isin(pictures["frame"])].reset_index(drop=True)
    table = table.assign(phash=table["phash"].where(table["phash"].notna(), table["frame"].map(hashes)))
    # Requests that wait in a batch may be like others, too.
    table = table[selection.unlike(table, known["phash"], ask.wanted.near_duplicate)].reset_index(drop=True)
    frames = pd.Index(table["frame"])
    figures = informativeness.figures(
        boxes, frames, ask.threshold, labelled, classes, challenged=bool(ask.challenger)
    ).assign(drifted=frames.map(ask.drifted).fillna(0.0).to_numpy(np.float64) if ask.drifted else 0.0)
    scored = table[["frame", "video", "phash"]].merge(figures, on="frame", validate="one_to_one")
    plain = boxes[(boxes["view"] == informativeness.PLAIN) & (boxes["confidence"] >= ask.threshold)]
    looks = pictures.set_index("frame").loc[table["frame"]].reset_index()
    chosen = selection.choose(
        scored,
        features(looks, plain if served else None, classes),
        features(known, annotations if served else None, classes),
        ask.wanted if served else replace(ask.wanted, shares={DIVERSE: 1.0}),
    )
    facts = label_reasons.Known(ask.threshold, labelled, classes, ask.champion, ask.challenger, ask.kinds)
    why = label_reasons.words(chosen, figures, boxes, facts)
    chosen = chosen[["frame", "rank", "reason", "score"]].assign(why=why)
    return table.merge(chosen, on="frame").sort_values("rank", ignore_index=True), len(table)

"""Which captured requests are like what drifted: where production has values that the reference does not explain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from detection_assets.domain import captures, drift
from detection_assets.domain.two_samples import Sample, unexplained
from detection_assets.drift_reference import reference
from resources.registry.base import Registry
from resources.storage import Storage

WEIGHT = {drift.DRIFT: 1.0, drift.WATCH: drift.WORTH_WATCHING}
"""What a feature's verdict makes of its share."""


def drifted(
    storage: Storage,
    registry: Registry,
    report: pd.DataFrame,
    requests: pd.DataFrame,
    least: float,
    log: Callable[[str], Any],
) -> tuple[dict[str, float], dict[str, str]]:
    """How much each request is of a kind that drifted.

    Args:
        storage: The detector's storage.
        registry: Knows the versions that answered.
        report: Rows of `drift_report` of the requests' days.
        requests: Rows of `captured_requests`; production is those drawn at random.
        least: The endpoint's least confidence.
        log: Told of what takes long.

    Returns:
        By picture (storage key): a score, 0 to 1, of those above 0; and in words, of which kind it is.
    """
    moved = report[report["verdict"].isin(list(WEIGHT)) & report["feature"].isin(drift.FEATURES)]
    versions = sorted(set(moved["version"]) & set(requests["version"]))
    known = {entry.version: entry for entry in registry.history()} if versions else {}
    score: dict[str, float] = {}
    words: dict[str, str] = {}
    for version in versions:
        mine = requests[requests["version"] == version].reset_index(drop=True)
        verdicts = moved[moved["version"] == version].groupby("feature")["verdict"].agg(lambda said: _worst(list(said)))
        base = reference(storage, known.get(version), version, least, log).samples
        every, drawn = _samples(mine, least), _samples(mine[mine["why"] == captures.SAMPLE], least)
        for feature, verdict in verdicts.items():
            name = str(feature)
            if name not in base or not len(base[name]) or not len(drawn[name]):
                continue
            share = unexplained(base[name], drawn[name], every[name].values)
            for at, value, part in zip(every[name].units, every[name].values, share * WEIGHT[verdict], strict=True):
                key = mine["image"].iloc[at]
                if isinstance(key, str) and part > score.get(key, 0.0):
                    score[key] = float(part)
                    words[key] = _said(name, value, part / WEIGHT[verdict], verdict, version)
    return score, words


def _samples(requests: pd.DataFrame, least: float) -> Mapping[str, Sample]:
    """Every feature of some requests; a unit is the position of the request in its whole table."""
    # An id is unique within its day alone.
    requests = requests.assign(request_id=requests["day"] + "/" + requests["request_id"])
    boxes = captures.boxes(requests)
    boxes = boxes[boxes["confidence"] >= least]
    table = requests.assign(frame=requests["request_id"], unit=requests.index.to_numpy(np.int64))
    return drift.image_samples(table, ordered=False) | drift.answer_samples(table, boxes, ordered=False)


def _worst(verdicts: Sequence[str]) -> str:
    return drift.DRIFT if drift.DRIFT in verdicts else drift.WATCH


def _said(feature: str, value: Any, share: float, verdict: str, version: str) -> str:
    shown = value if isinstance(value, str) else f"{value:.3g}"
    seen = "is not among" if share >= 1 else f"makes it {1 / (1 - share):.1f} times as frequent as in"
    return f"{drift.LABELS[feature]} {shown} {seen} what taught version {version} (verdict: {verdict})"

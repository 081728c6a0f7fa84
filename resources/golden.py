"""Golden frames: pictures of the test split with the boxes that the very model gave them when it was evaluated."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from detection_assets.domain import layout, rollout
from resources.endpoints.base import EndpointError, Endpoints
from resources.storage import Storage

GOLDEN = 8
"""Frames that a new slot must answer before it gets any traffic."""

Frames = Sequence[tuple[str, bytes, Sequence[Mapping[str, Any]]]]
"""Frame id, picture, boxes with `class`, `confidence`, `x1 y1 x2 y2` in pixels."""


def frames_of(storage: Storage, evaluation: str, dataset: str, confidence: float) -> Frames:
    """The golden frames of a model, those with the most boxes first.

    Args:
        storage: The detector's storage.
        evaluation: Version of the model's evaluation.
        dataset: Version of the dataset that it was evaluated on.
        confidence: Boxes at least so confident are expected.

    Returns:
        At most `GOLDEN` frames; none if nothing was published, or the model found nothing. A picture that is gone from
        the lake is left out.
    """
    made = storage.published(layout.evaluation(evaluation))
    data = storage.published(layout.dataset(dataset))
    if made is None or data is None:
        return []
    predictions = pd.read_parquet(io.BytesIO(storage.get(made.key("predictions.parquet"))))
    images = pd.read_parquet(io.BytesIO(storage.get(data.key("images.parquet"))), columns=["frame", "file"])
    files = dict(images.itertuples(index=False, name=None))
    sure = predictions[(predictions["model"] == "challenger") & (predictions["confidence"] >= confidence)]
    boxes = {str(frame): rows.to_dict("records") for frame, rows in sure.groupby("frame")}
    found: list[tuple[str, bytes, Sequence[Mapping[str, Any]]]] = []
    for frame in sorted(boxes, key=lambda frame: (-len(boxes[frame]), frame)):
        if len(found) == GOLDEN:
            break
        if frame in files:
            try:
                picture = storage.get(f"{layout.FRAMES}/{files[frame]}")
            except FileNotFoundError:
                continue
            found.append((frame, picture, boxes[frame]))
    return found


def ask(endpoints: Endpoints, slot: str | None, frames: Frames, limit_ms: float) -> rollout.Verdict:
    """Sends golden frames to a slot and judges its answers; a frame that it cannot answer fails it.

    Args:
        endpoints: The endpoint.
        slot: Its slot; None: whichever answers clients.
        frames: The golden frames.
        limit_ms: Milliseconds within which it has to answer; see `golden.judge`.
    """
    answers: list[rollout.Answer] = []
    for frame, picture, expected in frames:
        try:
            answer = endpoints.invoke(slot, picture)
            answers.append(rollout.compare(expected, answer["boxes"], float(answer["latency_ms"])))
        except EndpointError as error:
            seen = rollout.judge(answers)
            wanted = seen.expected + len(expected)
            why = f"{frame} was not answered: {error}"
            return rollout.Verdict(False, why, len(answers) + 1, wanted, seen.found, seen.p95_ms)
    return rollout.judge(answers, limit_ms)

"""Golden frames: whether a new deployment answers as the model did when it was evaluated.

A deployment proves itself on golden frames: frames of the test split with the boxes that the same model gave them
when it was evaluated. Whatever stands between the model and the answer (decoding, resizing, runtime, thresholds) is
tried with it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SAME_IOU = 0.9
"""Two boxes of one class that overlap at least so much are the same box."""
SAME_CONFIDENCE = 0.05
"""The same box may differ so much in confidence."""
ENOUGH = 0.98
"""Share of the expected boxes that must be found again: a box at the very threshold may fall on either side."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How one golden frame was answered: boxes expected, boxes found again, and the server's time."""

    expected: int
    found: int
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """Over all golden frames: whether the deployment passed, why, and the figures."""

    passed: bool
    why: str
    frames: int
    expected: int
    found: int
    p95_ms: float


def compare(expected: Sequence[Mapping[str, Any]], got: Sequence[Mapping[str, Any]], latency_ms: float) -> Answer:
    """Counts how many expected boxes an answer holds, each answered box standing for at most one.

    Args:
        expected: Boxes with `class`, `confidence`, `x1 y1 x2 y2` in pixels.
        got: The answer's boxes, likewise.
        latency_ms: The server's own time for the answer.
    """
    left = list(got)
    found = 0
    for box in expected:
        for other in left:
            close = abs(box["confidence"] - other["confidence"]) <= SAME_CONFIDENCE
            if box["class"] == other["class"] and close and iou(box, other) >= SAME_IOU:
                left.remove(other)
                found += 1
                break
    return Answer(len(expected), found, latency_ms)


def iou(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Intersection over union of two boxes given by `x1 y1 x2 y2`."""
    width = min(one["x2"], other["x2"]) - max(one["x1"], other["x1"])
    height = min(one["y2"], other["y2"]) - max(one["y1"], other["y1"])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    areas = sum((box["x2"] - box["x1"]) * (box["y2"] - box["y1"]) for box in (one, other))
    return shared / (areas - shared)


def judge(answers: Sequence[Answer], limit_ms: float = math.inf) -> Verdict:
    """Says whether the answers to the golden frames are good enough.

    Without golden frames there is nothing to hold against the deployment, but the verdict says so.

    Args:
        answers: One a frame.
        limit_ms: Milliseconds within which 95 of 100 requests are to be answered. A deployment that needs more for half
            of the golden frames is too slow for sure, and must not get traffic to show it; one that needs more for a
            few may have been disturbed, which is for the canary to tell.
    """
    expected = sum(answer.expected for answer in answers)
    found = sum(answer.found for answer in answers)
    times = sorted(answer.latency_ms for answer in answers)
    p95 = times[min(len(times) - 1, math.ceil(0.95 * len(times)) - 1)] if times else 0.0
    middle = statistics.median(times) if times else 0.0
    passed = found >= ENOUGH * expected and middle <= limit_ms
    if middle > limit_ms:
        why = f"half of {len(answers)} golden frames took {middle:.0f} ms and more; at most {limit_ms:.0f} ms may be"
    elif not answers:
        why = "no golden frames: the model found nothing on the test split"
    elif passed:
        why = f"{found} of {expected} boxes on {len(answers)} golden frames found again"
    else:
        why = f"only {found} of {expected} boxes on {len(answers)} golden frames found again; {ENOUGH:.0%} are needed"
    return Verdict(passed, why, len(answers), expected, found, p95)

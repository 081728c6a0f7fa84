"""Shapes that are no upright boxes: the box around each, which is what the table has room for."""

from __future__ import annotations

import math
from collections.abc import Sequence

Corners = tuple[float, float, float, float]

TAKEN = "taken by the box around it"
"""What is done about such a shape, as problems say it."""


def turned(corners: Corners, degrees: float) -> Corners:
    """The box around a box that is turned about its middle; the direction does not matter to it."""
    x1, y1, x2, y2 = corners
    if not math.isfinite(degrees) or degrees % 360 == 0:
        return corners
    cos, sin = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    cx, cy, w, h = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) / 2, (y2 - y1) / 2
    half_w, half_h = w * cos + h * sin, w * sin + h * cos
    return cx - half_w, cy - half_h, cx + half_w, cy + half_h


def is_turned(degrees: float) -> bool:
    """Whether a box turned so far is another box."""
    return math.isfinite(degrees) and degrees % 180 != 0


def around(xs: Sequence[float], ys: Sequence[float]) -> Corners:
    """The box around points.

    Raises:
        ValueError: There are no points.
    """
    return min(xs), min(ys), max(xs), max(ys)

"""Draws an answer on its picture, for people."""

from __future__ import annotations

import colorsys
import io

import numpy as np
from numpy.typing import NDArray

from detection_assets.serving.predictor import Detections

QUALITY = 90
GOLDEN_ANGLE = 0.618034
"""Share of the colour circle between the colours of two classes in a row: far apart, however many there are."""


def annotated(image: NDArray[np.uint8], found: Detections, classes: list[str]) -> bytes:
    """Draws boxes with class and confidence on a picture.

    Args:
        image: Height x width x 3, RGB, uint8; not changed.
        found: What was found, in pixels of the picture.
        classes: Class names, by class id.

    Returns:
        A JPEG of the picture's size.
    """
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    side = max(picture.size)
    line, font = max(1, round(side / 400)), ImageFont.load_default(max(10, round(side / 60)))
    # The least confident first, so that the most confident lie on top.
    rows = zip(found.boxes.tolist(), found.confidence.tolist(), found.class_id.tolist(), strict=True)
    for (x1, y1, x2, y2), confidence, class_id in reversed(list(rows)):
        colour = _colour(class_id)
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=line)
        text = f"{classes[class_id]} {confidence:.2f}"
        left, _, right, bottom = draw.textbbox((0, 0), text, font=font)
        at = (x1, max(0.0, y1 - bottom - line))
        draw.rectangle((at[0] + left, at[1], at[0] + right, at[1] + bottom), fill=colour)
        draw.text(at, text, fill="black", font=font)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def _colour(class_id: int) -> tuple[int, int, int]:
    """A light colour, the same for the same class in every picture."""
    red, green, blue = colorsys.hsv_to_rgb(class_id * GOLDEN_ANGLE % 1, 0.6, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)

"""What people are shown of a frame: its picture, small, the boxes on it, and a line of words.

`contact_sheet` draws these tiles as one picture, `contact_html` as a page. Truth is solid and predictions are dashed,
in the colours of their classes. A picture that cannot be shown is a tile that says so.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from detection_assets.domain.disagreements import (
    DOUBLED,
    INVENTED,
    MISPLACED,
    MISSED,
    PREDICTION,
    RIGHT,
    counted,
    in_words,
)

if TYPE_CHECKING:
    from PIL import Image

COLORS = {
    "🟥": "#dd2e44",
    "🟦": "#3b88f5",
    "🟩": "#3cb44b",
    "🟧": "#f58231",
    "🟪": "#aa66dd",
    "🟨": "#f5d033",
    "🟫": "#9a6324",
}
"""Box colours, by the sign that stands for them in a legend: the UI's markdown shows no colours of its own."""
UNKNOWN = "#666666"
"""Colour of a class that the detector does not have."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
ORIENTATION = 0x0112
"""EXIF tag that says how the camera was held."""
WIDTH = 480
"""Of a tile's picture, pixels: the width of a phone, sharp enough on a large screen, tens of kilobytes."""
MOST_LABELS, MOST_WRONG = 12, 40
"""Boxes of a frame up to which each right one is labelled, and mistakes up to which each is; beyond is no room."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A box to draw.

    Attributes:
        corners: x1 y1 x2 y2 in pixels of the frame as displayed.
        color: `#rrggbb`.
        dashed: Whether it is a prediction.
        right: Whether the other side agrees: there is nothing to see here.
        label: What to write at it; empty for nothing.
    """

    corners: tuple[float, float, float, float]
    color: str
    dashed: bool = False
    right: bool = False
    label: str = ""


@dataclass(frozen=True, slots=True)
class Tile:
    """A frame to show.

    Attributes:
        frame: Its id.
        size: Width and height in pixels as displayed, which `marks` are in.
        marks: The boxes.
        verdict: The line below it.
        time: Seconds from the video's beginning; NaN for an image.
        picture: The picture, small; None if it cannot be shown.
        problem: Why it cannot be shown.
    """

    frame: str
    size: tuple[float, float]
    marks: Sequence[Mark]
    verdict: str
    time: float = math.nan
    picture: Image.Image | None = None
    problem: str = ""

    @property
    def title(self) -> str:
        """The frame's id and time."""
        return f"{self.frame}  {clock(self.time)}".strip()


def clock(seconds: float) -> str:
    """A time in a video as people read it, such as `1:05.40`; empty if it is not known."""
    if not math.isfinite(seconds):
        return ""
    minutes, rest = divmod(round(max(seconds, 0.0) * 100), 6000)
    hours, minutes = divmod(minutes, 60)
    low = f"{rest // 100:02d}.{rest % 100:02d}"
    return f"{hours}:{minutes:02d}:{low}" if hours else f"{minutes}:{low}"


def color_of(name: str, classes: Sequence[str]) -> str:
    """A class's colour: the same wherever it is drawn."""
    return list(COLORS.values())[classes.index(name) % len(COLORS)] if name in classes else UNKNOWN


def marks(boxes: pd.DataFrame, classes: Sequence[str], dashed: bool = False) -> list[Mark]:
    """Boxes of one side alone.

    Args:
        boxes: `class, x1, y1, x2, y2`, and `confidence` where they are predictions; of one frame.
        classes: The class names, for the colours.
        dashed: Whether they are predictions.
    """
    labelled = len(boxes) <= MOST_LABELS
    return [
        Mark(_corners(row), color_of(row["class"], classes), dashed, False, _label(row, dashed) if labelled else "")
        for row in boxes.dropna(subset=["class"]).to_dict("records")
    ]


def compared(judged: pd.DataFrame, classes: Sequence[str]) -> list[Mark]:
    """Boxes of both sides: what is right first and thin, what is wrong above it, with its name.

    Args:
        judged: Rows of `disagreements.judge` of one frame.
        classes: The class names, for the colours.
    """
    labelled, wrong = len(judged) <= MOST_LABELS, int((judged["verdict"] != RIGHT).sum()) <= MOST_WRONG
    found: list[Mark] = []
    for row in judged.to_dict("records"):
        dashed, right = row["side"] == PREDICTION, row["verdict"] == RIGHT
        # Of a pair, what is wrong is written at the truth; of one that agrees, one label is enough.
        alone = row["verdict"] in (MISSED, INVENTED, DOUBLED)
        text = "" if (dashed or not labelled if right else not wrong) else _label(row, dashed)
        if text and (alone or (row["verdict"] == MISPLACED and not dashed)):
            text = f"{text} {row['verdict']}"
        found.append(Mark(_corners(row), color_of(row["class"], classes), dashed, right, text))
    return sorted(found, key=lambda mark: (not mark.right, mark.dashed))


def _corners(row: Mapping[Any, Any]) -> tuple[float, float, float, float]:
    return float(row["x1"]), float(row["y1"]), float(row["x2"]), float(row["y2"])


def _label(row: Mapping[Any, Any], sure: bool) -> str:
    return f"{row['class']} {row['confidence']:.2f}" if sure else str(row["class"])


def label_places(
    boxes: Sequence[Mark],
    scale: tuple[float, float],
    size: tuple[float, float],
    line: float,
    wide: Callable[[str], float],
) -> list[tuple[Mark, float, float, float]]:
    """Where labels go: of truth above the box, of a prediction below it, and further off where another one is.

    Args:
        boxes: With or without labels.
        scale: Pixels of the picture a pixel of the boxes, along x and y.
        size: Of the picture, in its pixels.
        line: Height of a label.
        wide: Width of a label's text.

    Returns:
        Of each box with a label the box, and the label's left edge, top and width.
    """
    placed: list[tuple[Mark, float, float, float]] = []
    for mark in boxes:
        if not mark.label:
            continue
        width = min(wide(mark.label), size[0])
        x = max(0.0, min(mark.corners[0] * scale[0], size[0] - width))
        away, nearest = (
            (line, mark.corners[3] * scale[1]) if mark.dashed else (-line, mark.corners[1] * scale[1] - line)
        )
        beside = [top for _, left, top, of in placed if left < x + width and x < left + of]
        tops = [max(0.0, min(nearest + step * away, size[1] - line)) for step in (0, 1, -1, 2, -2)]
        free = [top for top in tops if all(abs(top - other) >= line - 0.01 for other in beside)]
        placed.append((mark, x, (free or tops)[0], width))
    return placed


def laid_out(
    frames: pd.DataFrame, boxes: pd.DataFrame, classes: Sequence[str], *, both: bool, dashed: bool = False
) -> list[tuple[Tile, str]]:
    """What to show of each frame, without its picture, which is read when its turn comes.

    Args:
        frames: `frame, key, width, height`, and `pts_s` where it is known; a tile each, in this order.
        boxes: Rows of `disagreements.judge` if `both`, else of one side: `frame, class` and corners.
        classes: The class names, for the colours.
        both: Whether truth and prediction are compared.
        dashed: Whether boxes of one side are predictions.

    Returns:
        Tiles, and where the picture of each lies; empty if it has none any more.
    """
    of = dict(list(boxes[boxes["frame"].isin(frames["frame"])].groupby("frame", sort=False)))
    none = boxes.iloc[:0]
    found: list[tuple[Tile, str]] = []
    for row in frames.to_dict("records"):
        mine = of.get(row["frame"], none)
        lines = compared(mine, classes) if both else marks(mine, classes, dashed)
        key = row["key"] if isinstance(row["key"], str) else ""
        told = in_words(mine) if both else counted(mine["class"]) or "nothing there"
        size = _number(row["width"], 0.0), _number(row["height"], 0.0)
        found.append((Tile(str(row["frame"]), size, lines, told, _number(row.get("pts_s"), math.nan)), key))
    return found


def _number(value: Any, missing: float) -> float:
    return missing if value is None or pd.isna(value) else float(value)


def shown(tile: Tile, raw: bytes | None, width: int = WIDTH) -> Tile:
    """A tile with its picture, or with what is wrong with it.

    Args:
        tile: What to show.
        raw: The encoded picture; None if there is none.
        width: Of the picture, pixels at most.
    """
    if raw is None:
        return replace(tile, problem="the picture is missing")
    decoded = small(raw, width)
    if decoded is None:
        return replace(tile, problem="the picture cannot be read")
    picture, own = decoded
    return replace(tile, picture=picture, size=tile.size if min(tile.size) > 0 else own)


def small(raw: bytes, width: int = WIDTH) -> tuple[Image.Image, tuple[int, int]] | None:
    """Decodes a picture from anywhere, as displayed and no larger than needed.

    Args:
        raw: The encoded picture.
        width: It is scaled down to this width, never up; its height is at most twice that.

    Returns:
        The picture in RGB, and its own width and height as displayed; None if it cannot be decoded.
    """
    from PIL import Image, ImageOps

    try:
        image: Image.Image = Image.open(io.BytesIO(raw), formats=FORMATS)
        turned = image.getexif().get(ORIENTATION, 1) >= 5
        own = (image.height, image.width) if turned else (image.width, image.height)
        # Scaling while decoding: a JPEG of a large frame takes a fraction of its time and memory.
        image.thumbnail((2 * width, width) if turned else (width, 2 * width), reducing_gap=2.0)
        return ImageOps.exif_transpose(image).convert("RGB"), own
    except Exception:  # decoders meet damaged bytes with any kind of exception
        return None

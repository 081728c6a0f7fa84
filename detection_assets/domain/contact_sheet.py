"""Frames with their boxes as people see them: small, in a grid, truth solid and predictions dashed.

Here is what is shown and how it is drawn in pixels; `contact_html` makes a page of the same tiles. A picture that
cannot be shown is a grey tile that says so.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
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
MOST_LABELS = 12
"""Boxes of a frame up to which each right one is labelled, too; beyond that there is no room."""
GROUND, INK, QUIET, GREY = "#ffffff", "#1c2128", "#69707a", "#c9ced4"
DASH = (7, 5)
"""Pixels of a dash and of the gap after it."""
GAP = 10
HIGHEST = 32_000
"""Pixels that a sheet may be high: half of what a JPEG can be."""


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
    labelled = len(judged) <= MOST_LABELS
    found: list[Mark] = []
    for row in judged.to_dict("records"):
        dashed, right = row["side"] == PREDICTION, row["verdict"] == RIGHT
        # Of a pair, what is wrong is written at the truth; of one that agrees, one label is enough.
        alone = row["verdict"] in (MISSED, INVENTED, DOUBLED)
        text = "" if right and (dashed or not labelled) else _label(row, dashed)
        if alone or (row["verdict"] == MISPLACED and not dashed):
            text = f"{text} {row['verdict']}"
        found.append(Mark(_corners(row), color_of(row["class"], classes), dashed, right, text))
    return sorted(found, key=lambda mark: (not mark.right, mark.dashed))


def _corners(row: Mapping[Any, Any]) -> tuple[float, float, float, float]:
    return float(row["x1"]), float(row["y1"]), float(row["x2"]), float(row["y2"])


def _label(row: Mapping[Any, Any], sure: bool) -> str:
    return f"{row['class']} {row['confidence']:.2f}" if sure else str(row["class"])


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
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None


def draw(image: Image.Image, boxes: Iterable[Mark], scale: tuple[float, float], line: int = 2) -> None:
    """Draws boxes on a picture, in place.

    Args:
        image: RGB.
        boxes: What to draw, the last on top.
        scale: Pixels of the picture a pixel of the boxes, along x and y.
        line: Width of the lines of a box; one that is right gets half of it.
    """
    from PIL import ImageDraw

    pen, boxes = ImageDraw.Draw(image), list(boxes)
    for mark in boxes:
        x1, y1, x2, y2 = (round(value * factor) for value, factor in zip(mark.corners, scale * 2, strict=True))
        # The far corners are the first pixels outside.
        left, top = max(0, min(x1, image.width - 1)), max(0, min(y1, image.height - 1))
        right, bottom = max(left, min(x2, image.width) - 1), max(top, min(y2, image.height) - 1)
        _box(pen, (left, top, right, bottom), mark, max(1, line // 2) if mark.right else line)
    for mark in boxes:
        if mark.label:
            _write(pen, mark, scale, image.size)


def _box(pen: Any, corners: tuple[int, int, int, int], mark: Mark, line: int) -> None:
    if not mark.dashed:
        pen.rectangle(corners, outline=mark.color, width=line)
        return
    x1, y1, x2, y2 = corners
    on, off = DASH
    for at in range(x1, x2 + 1, on + off):
        end = min(at + on - 1, x2)
        pen.rectangle((at, y1, end, min(y1 + line - 1, y2)), fill=mark.color)
        pen.rectangle((at, max(y2 - line + 1, y1), end, y2), fill=mark.color)
    for at in range(y1, y2 + 1, on + off):
        end = min(at + on - 1, y2)
        pen.rectangle((x1, at, min(x1 + line - 1, x2), end), fill=mark.color)
        pen.rectangle((max(x2 - line + 1, x1), at, x2, end), fill=mark.color)


def _write(pen: Any, mark: Mark, scale: tuple[float, float], size: tuple[int, int]) -> None:
    """A label: of truth above the box, of a prediction below it, so that neither hides the other."""
    font = _font(13)
    text = plain(mark.label)
    wide, high = round(pen.textlength(text, font=font)) + 5, 16
    x = mark.corners[0] * scale[0]
    y = mark.corners[3] * scale[1] if mark.dashed else mark.corners[1] * scale[1] - high
    x, y = max(0.0, min(x, size[0] - wide)), max(0.0, min(y, size[1] - high))
    pen.rectangle((x, y, x + wide - 1, y + high - 1), fill=mark.color)
    pen.text((x + 2, y + 12), text, fill=ink(mark.color), font=font, anchor="ls")


def ink(color: str) -> str:
    """Black or white, whichever is read better on a colour."""
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#ffffff"


def plain(text: str) -> str:
    """Text in the alphabet that the built-in font has; a class name in another must not stop the drawing."""
    return "".join(char if char.isprintable() else " " for char in text).encode("latin-1", "replace").decode("latin-1")


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def sheet(
    tiles: Iterable[Tile],
    count: int,
    heading: str,
    classes: Sequence[str],
    *,
    both: bool = False,
    columns: int = 4,
    width: int = WIDTH,
    shape: float = 0.75,
) -> Image.Image:
    """Puts tiles in a grid, one after the other: only the sheet and one tile are held.

    Args:
        tiles: What to show.
        count: How many they are.
        heading: The line above.
        classes: The class names, for the legend.
        both: Whether there are predictions beside truth, to be told in the legend.
        columns: Tiles a row at least; more if there are so many that the sheet would be too high.
        width: Of a tile, pixels; taken less where there are very many.
        shape: Height over width of a tile's picture; one of another shape is put in the middle.

    Returns:
        The sheet, RGB.
    """
    from PIL import Image, ImageDraw

    columns = max(1, min(columns, count))
    high = round(width * min(max(shape, 0.3), 2.0))
    cell = high + 44
    while -(-count // columns) * (cell + GAP) > HIGHEST:
        columns += 1
    across = columns * (width + GAP) + GAP
    legend = _legend(classes, both, across - 2 * GAP)
    top = GAP + 24 + 22 * len(legend) + GAP
    made = Image.new("RGB", (across, top + -(-max(count, 1) // columns) * (cell + GAP)), GROUND)
    pen = ImageDraw.Draw(made)
    pen.text((GAP, GAP + 16), _cut(pen, plain(heading), 17, across - 2 * GAP), fill=INK, font=_font(17), anchor="ls")
    for row, line in enumerate(legend):
        _draw_legend(pen, line, GAP + 24 + 22 * row)
    for at, tile in zip(range(count), tiles, strict=False):
        x, y = GAP + at % columns * (width + GAP), top + at // columns * (cell + GAP)
        made.paste(_picture(tile, width, high), (x, y))
        title = _cut(pen, plain(tile.title), 13, width, tail=True)
        pen.text((x, y + high + 16), title, fill=QUIET, font=_font(13), anchor="ls")
        pen.text((x, y + high + 35), _cut(pen, plain(tile.verdict), 15, width), fill=INK, font=_font(15), anchor="ls")
    return made


def _picture(tile: Tile, width: int, high: int) -> Image.Image:
    """A tile's picture with its boxes, in the middle of its place."""
    from PIL import Image, ImageDraw

    place = Image.new("RGB", (width, high), GREY)
    if tile.picture is None:
        pen = ImageDraw.Draw(place)
        text = _cut(pen, plain(tile.problem), 15, width - 20)
        pen.text((width / 2, high / 2), text, fill=INK, font=_font(15), anchor="mm")
        return place
    factor = min(width / tile.picture.width, high / tile.picture.height)
    size = max(1, round(tile.picture.width * factor)), max(1, round(tile.picture.height * factor))
    image = tile.picture.resize(size)
    draw(image, tile.marks, (size[0] / tile.size[0], size[1] / tile.size[1]), line=3)
    place.paste(image, ((width - size[0]) // 2, (high - size[1]) // 2))
    return place


def _cut(pen: Any, text: str, size: int, room: float, tail: bool = False) -> str:
    """As much of a line as there is room for: its beginning, or its end, where frames tell themselves apart."""
    font = _font(size)
    text = text[:2000]
    if pen.textlength(text, font=font) <= room:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        shown = "..." + text[-middle:] if tail else text[:middle] + "..."
        low, high = (middle, high) if pen.textlength(shown, font=font) <= room else (low, middle - 1)
    return ("..." + text[len(text) - low :]) if tail else text[:low] + "..."


def _legend(classes: Sequence[str], both: bool, room: float) -> list[list[tuple[str, str, bool, float]]]:
    """Lines of the legend: text, colour, whether dashed, and where it begins."""
    from PIL import Image, ImageDraw

    pen, font = ImageDraw.Draw(Image.new("RGB", (1, 1))), _font(14)
    entries = [(plain(name), color_of(name, classes), False) for name in classes]
    if both:
        entries = [("truth", INK, False), ("prediction", INK, True), *entries]
    lines: list[list[tuple[str, str, bool, float]]] = [[]]
    at = 0.0
    for text, color, dashed in entries:
        text = _cut(pen, text, 14, min(room - 40, 300))
        wide = 38 + pen.textlength(text, font=font) + 14
        if at + wide > room and lines[-1]:
            lines.append([])
            at = 0.0
        lines[-1].append((text, color, dashed, at))
        at += wide
    return lines


def _draw_legend(pen: Any, line: Sequence[tuple[str, str, bool, float]], y: int) -> None:
    for text, color, dashed, at in line:
        x = GAP + round(at)
        _box(pen, (x, y + 3, x + 30, y + 16), Mark((0, 0, 0, 0), color, dashed), 3)
        pen.text((x + 36, y + 15), text, fill=INK, font=_font(14), anchor="ls")


def encoded(image: Image.Image, kind: str, quality: int = 80) -> bytes:
    """A picture as `JPEG` or `PNG`."""
    out = io.BytesIO()
    # A PNG of hundreds of photographs: little is gained by trying harder, for ten times the time.
    image.save(out, kind, quality=quality, compress_level=1)
    return out.getvalue()

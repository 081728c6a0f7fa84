"""Frames with their boxes in a grid, as one picture."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from detection_assets.domain.tiles import WIDTH, Mark, Tile, color_of, label_places

if TYPE_CHECKING:
    from PIL import Image

GROUND, INK, QUIET, GREY = "#ffffff", "#1c2128", "#69707a", "#c9ced4"
DASH = (7, 5)
"""Pixels of a dash and of the gap after it."""
GAP, LINE = 10, 19
"""Pixels between tiles, and from one line of text to the next."""
FEW, FEW_WIDTH = 6, 300
"""Tiles on a sheet that the UI keeps for good, and the width of each in pixels."""
MOST_PIXELS = 100_000_000
"""Of a sheet, about, at three bytes each; if there are so many tiles, they are smaller."""
HIGHEST = 32_000
"""Pixels that a sheet may be high: half of what a JPEG can be."""


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
    points = 13 if image.width > 2 * WIDTH // 3 else 10
    font = _font(points)
    places = label_places(
        boxes, scale, image.size, points + 3, lambda label: round(pen.textlength(plain(label), font=font)) + 5
    )
    for mark, x, y, wide in places:
        x, y = round(x), round(y)
        pen.rectangle((x, y, x + wide - 1, y + points + 2), fill=mark.color)
        pen.text((x + 2, y + points - 1), plain(mark.label), fill=ink(mark.color), font=font, anchor="ls")


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


def ink(color: str) -> str:
    """Black or white, whichever is read better on a colour."""
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#ffffff"


def plain(text: str) -> str:
    """Text in the alphabet that the built-in font has; a class name in another must not stop the drawing."""
    return "".join(char if char.isprintable() else " " for char in text).encode("latin-1", "replace").decode("latin-1")


@cache
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
        width: Of a tile, pixels; less if there are very many.
        shape: Height over width of a tile's picture (see `shape_of`); one of another shape is put in the middle.

    Returns:
        The sheet, RGB.
    """
    from PIL import Image, ImageDraw

    columns = max(1, min(columns, count))
    shape = min(max(shape, 0.3), 2.0)
    width = min(width, round(math.sqrt(MOST_PIXELS / max(count, 1) / (shape + 0.15))))
    high = round(width * shape)
    cell = high + 22 + 2 * LINE
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
        for row, line in enumerate(_two_lines(pen, plain(tile.verdict), 15, width)):
            pen.text((x, y + high + 35 + LINE * row), line, fill=INK, font=_font(15), anchor="ls")
    return made


def a_few(tiles: Iterable[Tile], count: int, heading: str, classes: Sequence[str], shape: float) -> bytes:
    """A sheet of truth against prediction that is small enough to be kept for good in an event: a JPEG.

    Args:
        tiles: At most `FEW`, their pictures `FEW_WIDTH` wide.
        count: How many they are.
        heading: As for `sheet`.
        classes: As for `sheet`.
        shape: As for `sheet`.
    """
    made = sheet(tiles, count, heading, classes, both=True, columns=3, width=FEW_WIDTH, shape=shape)
    return encoded(made, "JPEG", 60)


def shape_of(sizes: Iterable[tuple[float, float]]) -> float:
    """Height over width that suits most of some pictures, of which the sizes are known or (0, 0)."""
    shapes = sorted(high / wide for wide, high in sizes if wide > 0 and high > 0)
    return shapes[len(shapes) // 2] if shapes else 0.75


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


def _two_lines(pen: Any, text: str, size: int, room: float) -> list[str]:
    """A sentence on two lines, the second of which says where it was cut."""
    if pen.textlength(text[:2000], font=_font(size)) <= room:
        return [text]
    first = _cut(pen, text, size, room).removesuffix("...")
    at = first.rfind(" ")
    first = first[:at] if at > 0 else first
    return [first, _cut(pen, text[len(first) :].lstrip(), size, room)]


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

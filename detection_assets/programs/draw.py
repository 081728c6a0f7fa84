"""Pictures for people: frames with boxes, sheets of them, and small charts.

Dagster's metadata is stored for good, so everything here is small.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from detection_assets.domain.problems import InputError

Picture = npt.NDArray[np.uint8]

GREEN = (60, 180, 75)
COLORS = [
    (230, 25, 75), (67, 99, 216), (245, 130, 49), (145, 30, 180), (66, 212, 244), (240, 50, 230), (255, 225, 25),
    (0, 128, 128), (170, 110, 40), (128, 0, 0), (128, 128, 0), (0, 0, 117),
]  # fmt: skip
"""Of predictions, by class. None is green: green is the truth."""

AHEAD = 4
"""Pictures that are read before they are asked for."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")


def read_rgb(path: Path) -> Picture:
    """Reads a picture as a person sees it: turned by its EXIF orientation, in RGB.

    Args:
        path: A JPEG, PNG, WEBP, BMP or TIFF file.

    Returns:
        Height x width x 3, uint8.

    Raises:
        InputError: The file is missing, damaged or of another format.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=FORMATS) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:  # decoders meet damaged bytes with any kind of exception
        raise InputError(f"{path}: cannot be read as a picture ({error}); extract its video again") from error


def read_ahead(paths: Sequence[Path]) -> Iterator[Picture | InputError]:
    """Reads pictures in order, a few ahead, so that decoding and whatever is done with them overlap.

    Args:
        paths: As for `read_rgb`.

    Yields:
        Each picture, or why it cannot be read.
    """

    def read(path: Path) -> Picture | InputError:
        try:
            return read_rgb(path)
        except InputError as error:
            return error

    with ThreadPoolExecutor(1) as pool:
        left = iter(paths)
        ahead: list[Future[Picture | InputError]] = [pool.submit(read, path) for path in islice(left, AHEAD)]
        while ahead:
            picture = ahead.pop(0).result()
            ahead.extend(pool.submit(read, path) for path in islice(left, 1))
            yield picture


def color_of(name: str, classes: Sequence[str]) -> tuple[int, int, int]:
    """The colour of a class's predictions, RGB."""
    return COLORS[classes.index(name) % len(COLORS)] if name in classes else (127, 127, 127)


def draw_boxes(
    image: Picture,
    truth: pd.DataFrame | None,
    predictions: pd.DataFrame | None,
    classes: Sequence[str],
    *,
    width: int = 640,
    caption: str = "",
) -> Picture:
    """Draws truth in green and predictions in their classes' colours.

    Args:
        image: Height x width x 3, RGB; left as it is.
        truth: `class, x1, y1, x2, y2` in pixels of the image.
        predictions: The same with `confidence`.
        classes: All class names.
        width: The result is scaled down to this width, never up.
        caption: A line at the top.

    Returns:
        The drawing, RGB.
    """
    from PIL import Image, ImageDraw

    scale = min(1.0, width / image.shape[1])
    size = round(image.shape[1] * scale), max(1, round(image.shape[0] * scale))
    drawing = Image.fromarray(image).resize(size)
    pen = ImageDraw.Draw(drawing)
    for table, is_truth in ((truth, True), (predictions, False)):
        if table is None:
            continue
        for row in table.to_dict("records"):
            if not isinstance(row["class"], str):
                continue
            color = GREEN if is_truth else color_of(row["class"], classes)
            left, top, right, bottom = (float(row[name]) * scale for name in ("x1", "y1", "x2", "y2"))
            pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=color, width=2)
            # Labels of truth go below the box and those of predictions above it, so that neither hides the other.
            text = row["class"] if is_truth else f"{row['class']} {row['confidence']:.2f}"
            _label(pen, (left, bottom if is_truth else top - 12), text, color, size)
    if caption:
        _label(pen, (0, 0), caption, (0, 0, 0), size)
    return np.asarray(drawing)


def _label(pen: Any, at: tuple[float, float], text: str, color: tuple[int, int, int], size: tuple[int, int]) -> None:
    # The built-in font has no other alphabets; a class name in them must not stop the drawing.
    text = text.encode("latin-1", "replace").decode("latin-1")
    _, _, wide, high = pen.textbbox((0, 0), text)
    x, y = max(0.0, min(at[0], size[0] - wide - 2)), max(0.0, min(at[1], size[1] - high - 2))
    pen.rectangle((x, y, x + wide + 2, y + high + 1), fill=color)
    pen.text((x + 1, y), text, fill=(0, 0, 0) if sum(color) > 400 else (255, 255, 255))


def contact_sheet(pictures: Sequence[Picture], *, columns: int = 3, width: int = 960) -> Picture:
    """Puts pictures in a grid.

    Args:
        pictures: RGB, of any size; at least one.
        columns: Pictures a row.
        width: Most width of the sheet; pictures are never scaled up.

    Returns:
        The sheet, RGB; cells are as high as the highest picture.
    """
    from PIL import Image

    columns = min(columns, len(pictures))
    cell = min(width // columns, max(picture.shape[1] for picture in pictures))
    small = [Image.fromarray(p).resize((cell, max(1, round(p.shape[0] * cell / p.shape[1])))) for p in pictures]
    high = max(picture.height for picture in small)
    sheet = Image.new("RGB", (cell * columns, high * -(-len(small) // columns)), (255, 255, 255))
    for at, picture in enumerate(small):
        sheet.paste(picture, (at % columns * cell, at // columns * high))
    return np.asarray(sheet)


def save_jpeg(path: Path, image: Picture, quality: int = 80) -> None:
    """Writes an RGB picture as JPEG, making its folder."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, "JPEG", quality=quality)


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)  # without pyplot there is no display, no global state and half the import
    return figure


def line_charts(path: Path, charts: Sequence[tuple[str, str, Mapping[str, tuple[Any, Any]]]]) -> None:
    """Draws charts side by side.

    Args:
        path: The PNG to write.
        charts: Title, label of the x axis, and x and y of each named line.
    """
    figure = _figure(4.2 * len(charts), 3.2)
    for axes, (title, along, lines) in zip(figure.subplots(1, len(charts), squeeze=False)[0], charts, strict=True):
        for name, (x, y) in lines.items():
            axes.plot(x, y, label=_plain(name), linewidth=1.5, marker="." if len(x) < 3 else "")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(along)
        axes.grid(alpha=0.3)
        if lines:
            axes.legend(fontsize=7)
    _save(figure, path)


def matrix_chart(path: Path, matrix: pd.DataFrame, title: str) -> None:
    """Draws a confusion matrix: shade by share of the row, number by count (up to 20 classes).

    Args:
        path: The PNG to write.
        matrix: Counts; index true, columns predicted.
        title: Title.
    """
    counts = matrix.to_numpy(np.float64)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(9.0, 2.2 + 0.45 * len(matrix))
    figure = _figure(side + 0.4, side)
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    names = [_plain(str(name)) for name in matrix.index]
    small = 8 if len(names) <= 20 else 4
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=small)
    axes.set_yticks(range(len(names)), names, fontsize=small)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title, fontsize=9)
    if len(names) <= 21:
        for row, column in np.argwhere(counts > 0).tolist():
            color = "white" if share[row, column] > 0.5 else "black"
            text = f"{counts[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
    _save(figure, path)


def _plain(name: str) -> str:
    """A name that matplotlib shows as it is: no mathematics, nothing hidden."""
    return name.replace("$", r"\$").lstrip("_") or "?"


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # its font does not know every alphabet
        figure.savefig(path)

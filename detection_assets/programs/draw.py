"""Pictures that programs read, and small charts for people.

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

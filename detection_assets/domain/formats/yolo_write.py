"""Writes YOLO text labels: as fast as the file system takes the files, so no line is made by itself."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from detection_assets.domain.formats.parsed import collector_paused
from detection_assets.domain.formats.saving import Grouped, Saved, group, lost, one_stem_each, said
from detection_assets.domain.problems import InputError, Problem

HOLDS = ()
"""The columns of `saving.OPTIONAL` that are written, but for the one that is asked for as the sixth number."""

SIXTH = ("confidence", "track")
"""What the sixth number of a line can be."""

DECIMALS = 9
"""Of a fraction: a pixel of the largest picture is told apart from its neighbour a thousand times over."""

_AT_ONCE = 200_000
"""Boxes whose lines are made together; a hundred bytes each."""

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
_WHOLE = re.compile("0|[1-9][0-9]{0,14}")
_THREE = np.array([list(f"{i:03d}".encode()) for i in range(1000)], dtype=np.uint8)


def save(boxes: pd.DataFrame, classes: Sequence[str], out: Path, *, sixth: str | None = None) -> Saved:
    """Writes one label file a frame, and `data.yaml` with the names.

    Args:
        boxes: One row a box, in pixels, with the frame's `width` and `height`; see `saving.frames_to_save`.
        classes: Class names, numbered from 0 in this order.
        out: Folder for `data.yaml` and `labels/<stem of the frame>.txt`; it is made.
        sixth: `confidence` or `track`, to write it as a sixth number, which `data.yaml` then names; trainers take
            labels of five numbers only. A track must be a whole number; a box without one gets -1 or `nan`.

    Returns:
        The files written, `data.yaml` first, and what the format cannot hold.

    Raises:
        InputError: A class that is not in `classes`, two frames of one stem, or a frame with boxes but without size.
    """
    if sixth is not None and sixth not in SIXTH:
        raise InputError(f"YOLO's sixth number cannot be '{sixth}'; choose {' or '.join(SIXTH)}")
    grouped = group(boxes, classes)
    stems = one_stem_each(grouped.names)
    frames = grouped.frames()
    size = np.array([[w or 0, h or 0] for w, h in zip(grouped.width, grouped.height, strict=True)], dtype=np.float64)
    without = np.flatnonzero((size.reshape(-1, 2)[frames] <= 0).any(axis=1))
    if len(without):
        name = grouped.names[frames[without[0]]]
        raise InputError(f"frame '{name}' has no width and height, which YOLO's fractions need")
    holds = HOLDS if sixth is None else (sixth,)
    problems = lost(boxes, holds, out.name)
    last, more = (None, []) if sixth is None else _sixth(boxes, grouped, sixth, out.name)
    (out / "labels").mkdir(parents=True, exist_ok=True)
    names = io.StringIO()
    told: dict[str, Any] = {"names": dict(enumerate(classes)), **({} if sixth is None else {"sixth": sixth})}
    YAML(typ="safe", pure=True).dump(told, names)
    (out / "data.yaml").write_text(names.getvalue(), encoding="utf-8")
    with collector_paused():
        written = _write(grouped, size.reshape(-1, 2), stems, last, out / "labels")
    return Saved([out / "data.yaml", *written], [*problems, *more])


def _sixth(boxes: pd.DataFrame, grouped: Grouped, name: str, file: str) -> tuple[list[bytes], list[Problem]]:
    """The sixth number of each box, with the blank before it."""
    known = [says.get(name) for says in said(boxes, grouped.rows, (name,))]
    if name == "confidence":
        return [f" {float('nan') if value is None else value!r}".encode() for value in known], []
    texts = [None if value is None else str(value) for value in known]
    # Only what reads back as it was: `007` would become 7, and a float has no more than 15 digits for sure.
    good = [text is not None and _WHOLE.fullmatch(text) is not None for text in texts]
    bad = [text for text, fits in zip(texts, good, strict=True) if text is not None and not fits]
    what = f"{len(bad)} boxes have a track that is no whole number" + (f", the first is '{bad[0]}'" if bad else "")
    problems = [Problem(file, "track", what, "written as -1, which is no track")] if bad else []
    return [f" {text if fits else -1}".encode() for text, fits in zip(texts, good, strict=True)], problems


def _write(grouped: Grouped, size: np.ndarray, stems: list[str], last: list[bytes] | None, folder: Path) -> list[Path]:
    starts, frames = grouped.starts, grouped.frames()
    prefix, first = f"{folder}{os.sep}", 0
    paths = [folder / f"{stem}.txt" for stem in stems]
    while first < len(stems):
        # As many frames as have `_AT_ONCE` boxes, at least one.
        end = max(first + 1, int(np.searchsorted(starts, starts[first] + _AT_ONCE, side="right")) - 1)
        a, b = int(starts[first]), int(starts[end])
        text, ends = _lines(grouped.labels[a:b], _fractions(grouped.corners[a:b], size[frames[a:b]]))
        if last is None:
            cuts = np.append(0, ends)[starts[first : end + 1] - a].tolist()
        else:
            text, cuts = _with_last(text, ends, last[a:b], starts[first : end + 1] - a)
        view = memoryview(text)
        for stem, start, stop in zip(stems[first:end], cuts, cuts[1:], strict=False):
            # Without the file object that `open` makes: it costs a third of a small file.
            number = os.open(f"{prefix}{stem}.txt", _FLAGS, 0o666)
            try:
                while start < stop:
                    start += os.write(number, view[start:stop])
            finally:
                os.close(number)
        first = end
    return paths


def _fractions(corners: np.ndarray, size: np.ndarray) -> np.ndarray:
    low, high = corners[:, :2], corners[:, 2:]
    with np.errstate(all="ignore"):
        return np.concatenate([(low + high) / 2 / size, (high - low) / size], axis=1)


def _lines(labels: np.ndarray, fractions: np.ndarray) -> tuple[bytes, np.ndarray]:
    """All lines one after another, and where each ends.

    Every line is laid out as wide as the widest, as a row of bytes, and what it does not need is cut out.
    """
    if not len(labels):
        return b"", np.empty(0, dtype=np.int64)
    with np.errstate(invalid="ignore"):
        plain = ((fractions >= 0) & (fractions < 9)).all(axis=1)
    if not plain.all():
        lines = [
            f"{label} {x:.{DECIMALS}f} {y:.{DECIMALS}f} {w:.{DECIMALS}f} {h:.{DECIMALS}f}\n".encode()
            for label, (x, y, w, h) in zip(labels.tolist(), fractions.tolist(), strict=True)
        ]
        return b"".join(lines), np.cumsum([len(line) for line in lines])
    digits = len(str(int(labels.max())))
    width = digits + 4 * (DECIMALS + 3) + 1
    page = np.full((len(labels), width), ord("."), dtype=np.uint8)
    keep = np.ones((len(labels), width), dtype=bool)
    for i in range(digits):
        tens = 10 ** (digits - 1 - i)
        page[:, i] = labels // tens % 10 + ord("0")
        if tens > 1:
            keep[:, i] = labels >= tens
    parts = np.rint(fractions * 10**DECIMALS).astype(np.int64)
    for i in range(4):
        at = digits + i * (DECIMALS + 3)
        page[:, at] = ord(" ")
        rest = parts[:, i]
        for k in range(DECIMALS, 0, -3):
            rest, three = np.divmod(rest, 1000)
            page[:, at + k : at + k + 3] = _THREE[three]
        page[:, at + 1] = rest + ord("0")
        page[:, at + 2] = ord(".")
    page[:, -1] = ord("\n")
    return page[keep].tobytes(), np.cumsum(keep.sum(axis=1))


def _with_last(text: bytes, ends: np.ndarray, last: list[bytes], cuts: np.ndarray) -> tuple[bytes, list[int]]:
    lines = [line + more for line, more in zip(text.split(b"\n"), last, strict=False)]
    lengths = np.append(0, np.cumsum([len(line) + 1 for line in lines]))
    return b"".join(line + b"\n" for line in lines), lengths[cuts].tolist()

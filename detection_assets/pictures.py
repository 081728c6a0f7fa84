"""Small pictures for the metadata that people look at: frames, with boxes where there are some.

Dagster shows no images but renders markdown, so the pictures travel inside it; they are kept small because every
event is stored for good.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import repeat

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from detection_assets.domain import disagreements
from detection_assets.domain.card import escape
from detection_assets.domain.contact_sheet import FEW, FEW_WIDTH, a_few, draw, encoded, shape_of
from detection_assets.domain.tiles import COLORS, FORMATS, ORIENTATION, Tile, laid_out, marks, shown, small
from detection_assets.domain.tiles import WIDTH as TILE
from resources.storage import Storage

WIDTH = 200
CHUNK = 32
"""Pictures that are in memory at once, as they lie in the lake."""


def embed(jpeg: bytes, alt: str) -> str:
    """A picture as markdown that needs no file."""
    kind = "png" if jpeg.startswith(b"\x89PNG") else "jpeg"
    return f"![{escape(alt)}](data:image/{kind};base64,{base64.b64encode(jpeg).decode()})"


def thumbnails(
    storage: Storage,
    frames: pd.DataFrame,
    count: int = 6,
    boxes: pd.DataFrame | None = None,
    classes: Sequence[str] = (),
) -> str:
    """A few frames, evenly chosen, as one line of markdown.

    Args:
        storage: Where the frames are.
        frames: Table with `frame` and `key`.
        count: How many to show at most.
        boxes: Table with `frame`, `class` and corners in pixels, to draw; None draws nothing.
        classes: The class names, for the colours.

    Returns:
        Markdown; "nothing to show" if there are no frames.
    """
    if frames.empty:
        return "nothing to show"
    step = max(1, len(frames) // count)
    chosen = frames.iloc[::step].head(count)
    by_frame = dict(list(boxes.groupby("frame"))) if boxes is not None else {}
    data = storage.get_many(list(chosen["key"]))
    pictures: list[str] = []
    for frame, raw in zip(chosen["frame"], data, strict=True):
        small = None if raw is None else thumbnail(raw, by_frame.get(frame), classes)
        if small is not None:
            pictures.append(embed(small, str(frame)))
    return " ".join(pictures)


def thumbnail(raw: bytes, boxes: pd.DataFrame | None, classes: Sequence[str], width: int = WIDTH) -> bytes | None:
    """A picture made small, with boxes.

    Args:
        raw: The encoded picture.
        boxes: Table with `class` and corners in pixels of the picture, to draw; None draws nothing.
        classes: The class names, for the colours.
        width: Of the small picture, pixels.

    Returns:
        JPEG bytes; None if the picture cannot be decoded.
    """
    decoded = small(raw, width)
    if decoded is None:
        return None  # a picture from outside
    image, own = decoded
    image = image.resize((width, max(1, round(own[1] * width / own[0]))))
    if boxes is not None:
        lines = [replace(mark, label="") for mark in marks(boxes, classes)]
        draw(image, lines, (width / own[0], width / own[0]))
    return encoded(image, "JPEG", 70)


def tiles(storage: Storage, wanted: Sequence[tuple[Tile, str]], width: int = TILE) -> Iterator[Tile]:
    """Tiles with their pictures, read and decoded a few at a time.

    Args:
        storage: Where the pictures are.
        wanted: What to show, and the key of each picture.
        width: Of a picture, pixels at most.

    Yields:
        The tiles in their order; one whose picture is missing or damaged says so.
    """
    with ThreadPoolExecutor(2) as pool, ThreadPoolExecutor(1) as reading:
        chunks = [wanted[at : at + CHUNK] for at in range(0, len(wanted), CHUNK)]
        # The next ones are read while these are decoded.
        ahead = reading.submit(_read, storage, chunks[0]) if chunks else None
        for at, chunk in enumerate(chunks):
            assert ahead is not None
            data = ahead.result()
            if at + 1 < len(chunks):
                ahead = reading.submit(_read, storage, chunks[at + 1])
            yield from pool.map(shown, [tile for tile, _ in chunk], data, repeat(width))


def _read(storage: Storage, wanted: Sequence[tuple[Tile, str]]) -> list[bytes | None]:
    keys = [key for _, key in wanted]
    there = dict(zip(filter(None, keys), storage.get_many([*filter(None, keys)]), strict=True))
    return [there.get(key) for key in keys]


def worst(storage: Storage, frames: pd.DataFrame, judged: pd.DataFrame, classes: Sequence[str]) -> str:
    """Truth against prediction: how much they disagree, and a small sheet of where they do most.

    Args:
        storage: Where the pictures are.
        frames: Rows of `extracted_frames`: those that were judged.
        judged: What `disagreements.judge` says of their boxes.
        classes: The class names, for the colours.

    Returns:
        Markdown.
    """
    ranked = disagreements.rank(judged, frames["frame"].tolist())
    told = f"{disagreements.totals(ranked)} on {len(ranked)} annotated frames"
    videos = ranked[["frame"]].merge(frames, on="frame")["video"]
    few = disagreements.a_few(ranked, videos, FEW)[["frame"]].merge(frames, on="frame")
    if few.empty:
        return told
    wanted = laid_out(few, judged, classes, both=True)
    shape = shape_of(tile.size for tile, _ in wanted)
    sheet = a_few(tiles(storage, wanted, FEW_WIDTH), len(wanted), "Worst disagreements", classes, shape)
    return f"{told}\n\n{embed(sheet, 'worst disagreements')}"


def pixels(raw: bytes) -> NDArray[np.uint8] | None:
    """Decodes a picture as displayed.

    Args:
        raw: The encoded picture.

    Returns:
        H x W x 3 RGB, uint8; None if it cannot be decoded.
    """
    import simplejpeg
    from PIL import Image, ImageOps

    try:
        image: Image.Image = Image.open(io.BytesIO(raw), formats=FORMATS)
        if image.format == "JPEG" and image.mode == "RGB" and image.getexif().get(ORIENTATION, 1) == 1:
            return simplejpeg.decode_jpeg(raw, "RGB")  # the same pixels in three quarters of the time
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None


def legend(classes: Sequence[str]) -> str:
    """Which colour stands for which class, as markdown."""
    signs = list(COLORS)
    return " · ".join(f"{signs[index % len(signs)]} {name}" for index, name in enumerate(classes))


def published_pictures(storage: Storage, keys: Mapping[str, str]) -> dict[str, str]:
    """Pictures that a program made, as markdown by name; missing ones are left out."""
    data = storage.get_many(list(keys.values()))
    return {name: embed(raw, name) for name, raw in zip(keys, data, strict=True) if raw is not None}

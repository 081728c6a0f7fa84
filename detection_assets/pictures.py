"""Small pictures for the metadata that people look at: frames, with boxes where there are some.

Dagster shows no images but renders markdown, so the pictures travel inside it; they are kept small because every
event is stored for good.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from resources.storage import Storage

if TYPE_CHECKING:
    from PIL import Image

WIDTH = 200
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
ORIENTATION = 0x0112
"""EXIF tag that says how the camera was held."""
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


def color_of(name: str, classes: Sequence[str]) -> str:
    """A class's colour: the same wherever it is drawn."""
    return list(COLORS.values())[classes.index(name) % len(COLORS)] if name in classes else "#666666"


def embed(jpeg: bytes, alt: str) -> str:
    """A picture as markdown that needs no file."""
    kind = "png" if jpeg.startswith(b"\x89PNG") else "jpeg"
    return f"![{alt}](data:image/{kind};base64,{base64.b64encode(jpeg).decode()})"


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
    from PIL import Image, ImageDraw, ImageOps

    try:
        image: Image.Image = Image.open(io.BytesIO(raw), formats=FORMATS)
        if boxes is None:
            image.draft("RGB", (width * 2, width * 2))
        image = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None  # a picture from outside
    scale = width / image.width
    image = image.resize((width, max(1, round(image.height * scale))))
    if boxes is not None:
        draw = ImageDraw.Draw(image)
        for row in boxes.dropna(subset=["class"]).to_dict("records"):
            corners = [row["x1"] * scale, row["y1"] * scale, row["x2"] * scale, row["y2"] * scale]
            draw.rectangle(corners, outline=color_of(str(row["class"]), classes), width=2)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=70)
    return out.getvalue()


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

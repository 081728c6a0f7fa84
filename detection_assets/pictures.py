"""Small pictures for the metadata that people look at: frames, with boxes where there are some.

Dagster shows no images but renders markdown, so the pictures travel inside it; they are kept small because every
event is stored for good.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from resources.storage import Storage

if TYPE_CHECKING:
    from PIL import Image

WIDTH = 200
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
    pictures = [
        embed(_thumbnail(raw, by_frame.get(frame), classes), str(frame))
        for frame, raw in zip(chosen["frame"], data, strict=True)
        if raw is not None
    ]
    return " ".join(pictures)


def _thumbnail(raw: bytes, boxes: pd.DataFrame | None, classes: Sequence[str]) -> bytes:
    from PIL import Image, ImageDraw, ImageOps

    image: Image.Image = Image.open(io.BytesIO(raw), formats=["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
    if boxes is None:
        image.draft("RGB", (WIDTH * 2, WIDTH * 2))
    image = ImageOps.exif_transpose(image).convert("RGB")
    scale = WIDTH / image.width
    image = image.resize((WIDTH, max(1, round(image.height * scale))))
    if boxes is not None:
        draw = ImageDraw.Draw(image)
        for row in boxes.dropna(subset=["class"]).to_dict("records"):
            corners = [row["x1"] * scale, row["y1"] * scale, row["x2"] * scale, row["y2"] * scale]
            draw.rectangle(corners, outline=color_of(str(row["class"]), classes), width=2)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=70)
    return out.getvalue()


def legend(classes: Sequence[str]) -> str:
    """Which colour stands for which class, as markdown."""
    signs = list(COLORS)
    return " · ".join(f"{signs[index % len(signs)]} {name}" for index, name in enumerate(classes))


def published_pictures(storage: Storage, keys: Mapping[str, str]) -> dict[str, str]:
    """Pictures that a program made, as markdown by name; missing ones are left out."""
    data = storage.get_many(list(keys.values()))
    return {name: embed(raw, name) for name, raw in zip(keys, data, strict=True) if raw is not None}

"""The data set's card: what a person wants to see before trusting figures, as Markdown for the catalogue.

Names of classes, videos and groups come from strangers, so everything that goes into Markdown is escaped.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from detection_assets.domain.snapshot import Snapshot
from detection_assets.domain.splitting import SPLITS

SMALL, MEDIUM = 32**2, 96**2
"""Areas in square pixels below which COCO calls an object small, or medium."""
MOST_GROUPS = 50
"""Rows of the table of groups: a card is for reading."""


def escape(value: Any) -> str:
    """Makes a value safe inside Markdown text or a table's cell: no markup, no HTML, one line."""
    text = " ".join(str(value).split())
    text = html.escape(text, quote=False)
    return re.sub(r"([\\`*_\[\]|~#!])", r"\\\1", text)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; numbers are aligned to the right.

    Args:
        columns: The headings.
        rows: The cells, as many a row as there are headings. None and NaN are shown as a dash, floats with three
            significant digits.

    Returns:
        The table, or `*none*` if there are no rows.
    """
    cells = [list(row) for row in rows]
    if not cells:
        return "*none*"
    numeric = [all(isinstance(row[at], (int, float, np.number)) for row in cells) for at in range(len(columns))]
    lines = [
        "| " + " | ".join(escape(name) for name in columns) + " |",
        "| " + " | ".join("---:" if right else "---" for right in numeric) + " |",
        *("| " + " | ".join(_cell(value) for value in row) + " |" for row in cells),
    ]
    return "\n".join(lines)


def frame_table(frame: pd.DataFrame, most: int | None = None) -> str:
    """A pandas table in Markdown, without its index.

    Args:
        frame: The table.
        most: Rows to show at most; how many are left out is said below.
    """
    shown = frame if most is None else frame.head(most)
    text = table([str(name) for name in frame.columns], shown.itertuples(index=False, name=None))
    return text if len(shown) == len(frame) else f"{text}\n\n… and {len(frame) - len(shown):,} more."


def thumbnail(jpeg: bytes, text: str = "") -> str:
    """A small JPEG as Markdown that needs no other file.

    Args:
        jpeg: The encoded picture; tens of kilobytes at most, for it lands in the event log.
        text: What it shows.

    Raises:
        ValueError: If the bytes are not a JPEG.
    """
    if not jpeg.startswith(b"\xff\xd8\xff"):
        raise ValueError("a thumbnail must be a JPEG")
    return f"![{escape(text)}](data:image/jpeg;base64,{base64.b64encode(jpeg).decode()})"


def card(snapshot: Snapshot, thumbnails: Sequence[str] = ()) -> str:
    """The card of a data set.

    Args:
        snapshot: The data set.
        thumbnails: Pictures as Markdown, from `thumbnail`.

    Returns:
        Markdown: notes, counts per class, split and group, sizes of boxes, pictures.
    """
    meta = snapshot.meta
    parts = [f"## Dataset {snapshot.version}"]
    kept = {"group": "group", "video": "video", "image": "image (near-duplicates together)"}[meta["by"]]
    parts.append(
        f"{meta['images']:,} images with {meta['boxes']:,} boxes, from {meta['videos']:,} videos in {meta['groups']:,} "
        f"groups, split by {kept}."
    )
    if meta["optimistic"]:
        parts.append("**Optimistic:** groups are divided among the splits, so figures look better than on new places.")
    if meta["notes"]:
        parts.append("\n".join(f"- {escape(note)}" for note in meta["notes"]))
    if thumbnails:
        parts.append(" ".join(thumbnails))
    parts += ["### Splits", _splits(snapshot), "### Boxes of each class", _classes(snapshot)]
    parts += ["### Groups", _groups(snapshot), "### Sizes of boxes", _sizes(snapshot.boxes, meta["classes"])]
    return "\n\n".join(parts) + "\n"


def _splits(snapshot: Snapshot) -> str:
    meta, total = snapshot.meta, max(len(snapshot.images), 1)
    rows = [
        (
            name,
            meta["counts"][name]["images"],
            f"{meta['counts'][name]['images'] / total:.0%} of {meta['shares'][name]:.0%}",
            meta["counts"][name]["without_boxes"],
            sum(meta["counts"][name]["boxes"].values()),
        )
        for name in SPLITS
    ]
    return table(["split", "images", "share, of what was asked", "images without boxes", "boxes"], rows)


def _classes(snapshot: Snapshot) -> str:
    counts = {name: snapshot.meta["counts"][name]["boxes"] for name in SPLITS}
    rows = [
        (cls, *(counts[name][cls] for name in SPLITS), sum(counts[name][cls] for name in SPLITS))
        for cls in snapshot.meta["classes"]
    ]
    return table(["class", *SPLITS, "all"], rows)


def _groups(snapshot: Snapshot) -> str:
    images: Any = snapshot.images
    counts: Any = pd.crosstab(images["group"], images["split"]).reindex(columns=list(SPLITS), fill_value=0)
    owners: Any = snapshot.boxes["frame"]
    boxes = owners.map(images.set_index("frame")["group"]).value_counts()
    counts["boxes"] = boxes.reindex(counts.index, fill_value=0).astype("int64")
    counts = counts.sort_index().reset_index()
    counts.columns = ["group", *(f"images in {name}" for name in SPLITS), "boxes"]
    return frame_table(counts, MOST_GROUPS)


def _sizes(boxes: Any, classes: Sequence[str]) -> str:
    width, height = boxes["x2"] - boxes["x1"], boxes["y2"] - boxes["y1"]
    sized: Any = pd.DataFrame({"class": boxes["class"], "width": width, "height": height, "area": width * height})
    rows: list[Sequence[Any]] = []
    for name in [*classes, None]:
        of = sized if name is None else sized[sized["class"] == name]
        if len(of):
            area = of["area"].to_numpy(np.float64)
            small, large = int((area < SMALL).sum()), int((area >= MEDIUM).sum())
            side = np.quantile(np.sqrt(area), [0.05, 0.5, 0.95]).round().astype(int).tolist()
            middle = f"{of['width'].median():.0f} x {of['height'].median():.0f}"
            rows.append(("all" if name is None else name, small, len(of) - small - large, large, middle, *side))
    headings = ["class", "small (< 32² px)", "medium", "large (≥ 96² px)", "median width x height"]
    return table([*headings, "side at 5 %", "50 %", "95 %, px"], rows)


def _cell(value: Any) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{int(value):,}"
    if isinstance(value, (float, np.floating)):
        return f"{float(value):,.0f}" if abs(value) >= 1000 else f"{float(value):.3g}"
    return escape(value)

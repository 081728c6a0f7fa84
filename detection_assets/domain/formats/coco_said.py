"""What COCO annotations say beyond class and box: flags, tracks, scores, attributes, outlines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import orjson

from detection_assets.domain.formats.attributes import MEANT, sort_out, to_json
from detection_assets.domain.formats.parsed import ProblemLog
from detection_assets.domain.formats.shapes import TAKEN, is_turned, turned

_OWN = {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation", "attributes", "ignore"}
"""What COCO itself says of an annotation of detection, with `ignore` that comes from Pascal VOC by an old script."""

_REMEMBERED = 10_000
"""Distinct attributes whose meaning is kept."""


def shown(value: object) -> str:
    """A value as problems show it: not too much of it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _column(annotations: list[dict[str, Any]], key: str) -> Iterable[Any]:
    return [annotation.get(key) for annotation in annotations]


def outlines(
    annotations: list[dict[str, Any]],
    keys: set[str],
    corners: np.ndarray,
    places: list[str],
    file: str,
    log: ProblemLog,
) -> None:
    """Tells of outlines and masks that are more than their boxes."""
    if "segmentation" not in keys:
        return
    outlines = list(_column(annotations, "segmentation"))
    if not any(outlines):
        return
    for i, outline in enumerate(outlines):
        if outline and not _is_box(outline, corners[i].tolist()):
            what = "a mask" if isinstance(outline, dict) else "an outline"
            log.add("segmentation", file, places[i], f"{what}, not a box", TAKEN)


def _is_box(outline: Any, corners: Sequence[float]) -> bool:
    """Whether an outline only says again what the box says."""
    points = outline[0] if isinstance(outline, list) and len(outline) == 1 else None
    if not isinstance(points, list) or len(points) not in (8, 10):
        return False
    try:
        near = {(round(x), round(y)) for x, y in zip(points[::2], points[1::2], strict=True)}
        x1, y1, x2, y2 = map(round, corners)
    except (TypeError, ValueError, OverflowError):
        return False
    return near == {(x1, y1), (x2, y1), (x2, y2), (x1, y2)}


def said(
    annotations: list[dict[str, Any]],
    keys: set[str],
    corners: np.ndarray,
    places: list[str],
    file: str,
    log: ProblemLog,
) -> dict[str, list[Any]]:
    """Columns of what the annotations say beyond their boxes; turned boxes become the boxes around them."""
    said: dict[str, list[Any]] = {}
    if "attributes" in keys:
        said = _attributes(annotations, corners, places, file, log)
    for key, (name, read) in {**MEANT, "iscrowd": MEANT["crowd"]}.items():
        if key in keys:
            _merge(said, name, _column(annotations, key), read)
    unread = sorted(keys - _OWN - set(MEANT))
    if unread:
        what = f"annotations say '{unread[0]}'" + (f" and {len(unread) - 1} more such things" if unread[1:] else "")
        log.tell(file, "annotations", f"{what}, which are not among their attributes", "not read", kind="not read")
    return said


def _merge(said: dict[str, list[Any]], name: str, values: Iterable[Any], read: Callable[[object], Any]) -> None:
    """Puts what annotations say themselves before what their attributes say."""
    values = list(values)
    try:
        meant = {value: read(value) for value in set(values)}
        column = list(map(meant.__getitem__, values))
    except TypeError:  # what is no number and no text cannot be a key
        column = [read(value) for value in values]
    known = said.get(name)
    said[name] = column if known is None else [a if a is not None else b for a, b in zip(column, known, strict=True)]
    if name == "reviewed":
        said[name] = [value is True for value in said[name]]


def _attributes(
    annotations: list[dict[str, Any]], corners: np.ndarray, places: list[str], file: str, log: ProblemLog
) -> dict[str, list[Any]]:
    n = len(annotations)
    said: dict[str, list[Any]] = {}
    known: dict[bytes, tuple[dict[str, Any], str | None, float]] = {}
    for i, attributes in enumerate(_column(annotations, "attributes")):
        if not attributes:
            continue
        if not isinstance(attributes, dict):
            log.add("attributes", file, places[i], f"attributes {shown(attributes)} are no object", "left out")
            continue
        # Most boxes of a file say one of a few things.
        try:
            text = orjson.dumps(attributes)
        except TypeError:
            text = b""
        found = known.get(text) if text else None
        if found is None:
            more = dict(attributes)
            angle = more.pop("rotation", 0)
            degrees = float(angle) if isinstance(angle, int | float) and abs(angle) < 1e9 else 0.0
            columns, rest = sort_out(more)
            left = to_json(rest)
            if rest and left is None:
                log.add("attributes", file, places[i], "attributes that JSON text cannot hold", "left out")
            found = (columns, left, degrees)
            if text and len(known) < _REMEMBERED:
                known[text] = found
        for name, value in found[0].items():
            said.setdefault(name, [None] * n)[i] = value
        if found[1] is not None:
            said.setdefault("attributes", [None] * n)[i] = found[1]
        if is_turned(found[2]):
            x1, y1, x2, y2 = corners[i].tolist()
            corners[i] = turned((x1, y1, x2, y2), found[2])
            log.add("rotation", file, places[i], f"a box turned by {found[2]:g} degrees", TAKEN)
    if "reviewed" in said:
        said["reviewed"] = [value is True for value in said["reviewed"]]
    return said

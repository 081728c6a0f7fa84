"""COCO detection JSON: one file for many images; classes by the name of their category.

Both common shapes are read: with `info`, `licenses` and `attributes` as labelling tools write it, and the bare one with
long image ids. `bbox` is `[left, top, width, height]` in pixels from the frame's corner (0-based, continuous):
https://cocodataset.org/#format-data. A track is `track_id` of the annotation or of its `attributes` (CVAT's way); an
image's own `frame_index` is read if it is there.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Hashable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd

from detection_assets.domain.formats.parsed import (
    Parsed,
    ProblemLog,
    Unreadable,
    collector_paused,
    decode,
    each_file,
    frame_name,
    join,
    read_bytes,
    table,
    whole,
)
from detection_assets.domain.formats.saving import Saved, frames_to_save, lost

HOLDS = ("frame_index", "track")
"""The columns of `saving.OPTIONAL` that are written."""

MAX_BYTES = 2**30
"""Larger files are refused: parsed JSON takes several times its size in memory."""

_REMEDY = "export it again as COCO instances JSON"


def load(paths: Sequence[Path], root: Path, wanted: Collection[int] | None = None) -> Parsed:
    """Reads COCO files.

    Args:
        paths: The JSON files.
        root: Folder that the `file` column is relative to.
        wanted: Not used: COCO says nothing between its frames.

    Returns:
        The boxes and problems. An image without annotations is an empty frame; an image whose annotations were all
        unusable is not. Crowd regions are kept as ordinary boxes and noted once a file.
    """
    with collector_paused():
        tables, log = each_file(paths, root, _read)
    return Parsed(join(tables), log.problems())


def _read(path: Path, file: str, log: ProblemLog) -> pd.DataFrame:
    document = _document(path)
    if not isinstance(document, dict):
        raise Unreadable(f"holds a JSON {type(document).__name__}, not an object with 'images'", _REMEDY)
    if "images" not in document:
        raise Unreadable("has no 'images', so its boxes belong to no frame", _REMEDY, "images")
    images, position = _images(_items(document, "images", file, log), file, log)
    classes = _classes(_items(document, "categories", file, log), file, log)
    annotations = _items(document, "annotations", file, log)
    arrays = _arrays(annotations, position, classes)
    named: set[Hashable] = set()
    if arrays is None:
        usable = [_usable(a, _place(a, i), position, classes, file, log) for i, a in enumerate(annotations)]
        named = {_key(a.get("image_id")) for a in annotations}
        annotations = [a for a, use in zip(annotations, usable, strict=True) if use]
        arrays = _arrays(annotations, position, classes)
        if arrays is None:
            raise Unreadable("annotations of mixed shapes", _REMEDY, "annotations")
    rows, labels, corners = arrays
    filled = set(rows.tolist())
    corners[:, 2:] += corners[:, :2]
    crowds = sum(1 for a in annotations if a.get("iscrowd"))
    if crowds:
        log.tell(file, "iscrowd", f"{crowds} crowd regions", "kept as ordinary boxes")
    extras = [_extras(a) for a in annotations]
    places = [_place(a, i) for i, a in enumerate(annotations)]
    # The parsed JSON is by far the largest thing here; let go of it before the table is made.
    document.clear()
    annotations.clear()
    empty = np.array([row for key, row in position.items() if row not in filled and key not in named], dtype=np.int64)
    boxes = table(
        len(rows),
        {
            **_taken(images, rows),
            "class": labels,
            **{name: corners[:, i] for i, name in enumerate(("x1", "y1", "x2", "y2"))},
            "track": [extra[0] for extra in extras],
            "annotator": [extra[1] for extra in extras],
            "reviewed": np.array([extra[2] for extra in extras], dtype=bool),
            "file": file,
            "place": places,
        },
    )
    empty_places = [f"image {name}" for name in images["frame_name"].to_numpy()[empty]]
    return join([boxes, table(len(empty), {**_taken(images, empty), "file": file, "place": empty_places})])


def _document(path: Path) -> Any:
    data = read_bytes(path, MAX_BYTES)
    if not data.strip():
        raise Unreadable("is empty", _REMEDY)
    if data[:1] in (b"\xef", b"\xff", b"\xfe", b"\x00"):
        data = decode(data).encode("utf-8", "surrogatepass")
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        fault = error
    if b"NaN" in data or b"Infinity" in data:
        # Python's own json writes these although JSON has no such numbers; one such box must not lose the others.
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            pass
    what = f"not JSON, or cut off: {fault.msg}"
    raise Unreadable(what, _REMEDY, f"line {fault.lineno}, column {fault.colno}")


def _items(document: dict[str, Any], key: str, file: str, log: ProblemLog) -> list[dict[str, Any]]:
    value = document.get(key, [])
    if not isinstance(value, list):
        raise Unreadable(f"'{key}' is no list", _REMEDY, key)
    items = [item for item in value if isinstance(item, dict)]
    if len(items) < len(value):
        log.tell(file, key, f"{len(value) - len(items)} entries are no objects", "dropped")
    return items


def _key(value: object) -> Hashable:
    return value if isinstance(value, int | str | float) else None


def _images(items: list[dict[str, Any]], file: str, log: ProblemLog) -> tuple[pd.DataFrame, dict[Hashable, int]]:
    """The usable images, a row each, and the row of each image id."""
    rows: list[tuple[str, int | None, int | None, int | None]] = []
    position: dict[Hashable, int] = {}
    for i, image in enumerate(items):
        key, name = _key(image.get("id")), image.get("file_name")
        name = frame_name(name) if isinstance(name, str) else ""
        if key is None or not name:
            log.add("image", file, f"images[{i}]", "has no usable 'id' or 'file_name'", "dropped with its annotations")
        elif key in position:
            if rows[position[key]][0] != name:
                what = f"id {key} is both '{rows[position[key]][0]}' and '{name}'"
                log.add("image", file, f"images[{i}]", what, "kept the first; give each image its own id")
        else:
            position[key] = len(rows)
            size = (whole(image.get("width"), 1), whole(image.get("height"), 1))
            rows.append((name, whole(image.get("frame_index")), *size))
    names, indices, widths, heights = zip(*rows, strict=True) if rows else ((), (), (), ())
    columns = {"frame_name": names, "frame_index": indices, "width": widths, "height": heights}
    return table(len(rows), columns), position


def _taken(images: pd.DataFrame, rows: np.ndarray) -> dict[str, Any]:
    return {name: images[name].array.take(rows) for name in ("frame_name", "frame_index", "width", "height")}


def _classes(items: list[dict[str, Any]], file: str, log: ProblemLog) -> dict[Hashable, str]:
    classes: dict[Hashable, str] = {}
    for i, category in enumerate(items):
        key, name = _key(category.get("id")), category.get("name")
        if key is None or not isinstance(name, str) or not name.strip():
            log.add("category", file, f"categories[{i}]", "has no usable 'id' or 'name'", "dropped")
        elif classes.setdefault(key, name.strip()) != name.strip():
            what = f"id {key} is both '{classes[key]}' and '{name.strip()}'"
            log.add("category", file, f"categories[{i}]", what, "kept the first; give each category its own id")
    return classes


def _arrays(
    annotations: list[dict[str, Any]], position: dict[Hashable, int], classes: dict[Hashable, str]
) -> tuple[np.ndarray, list[str], np.ndarray] | None:
    """Image row, class and `bbox` (n x 4) of every annotation; None where one is not as it should be."""
    n = len(annotations)
    try:
        rows = np.fromiter((position[a["image_id"]] for a in annotations), dtype=np.int64, count=n)
        labels = [classes[a["category_id"]] for a in annotations]
        corners = np.array([a["bbox"] for a in annotations], dtype=np.float64) if n else np.empty((0, 4))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return (rows, labels, corners) if corners.shape == (n, 4) else None


def _usable(
    annotation: dict[str, Any],
    place: str,
    position: dict[Hashable, int],
    classes: dict[Hashable, str],
    file: str,
    log: ProblemLog,
) -> bool:
    _agree(annotation, "image_id", position)
    _agree(annotation, "category_id", classes)
    image, category, box = (annotation.get(key) for key in ("image_id", "category_id", "bbox"))
    if _key(image) not in position:
        log.add("image_id", file, place, f"image_id {_short(image)} is not among the images", "dropped")
    elif _key(category) not in classes:
        log.add("category_id", file, place, f"category_id {_short(category)} is not among the categories", "dropped")
    else:
        try:
            if isinstance(box, list) and np.array(box, dtype=np.float64).shape == (4,):
                return True
        except (TypeError, ValueError, OverflowError):
            pass
        log.add("bbox", file, place, f"bbox {_short(box)} is not four numbers", "dropped")
    return False


def _agree(annotation: dict[str, Any], field: str, known: Mapping[Hashable, object]) -> None:
    """Writes an id as the list it points to writes it: some tools quote ids in one place and not in the other."""
    key = annotation.get(field)
    if isinstance(key, int | str) and key not in known:
        other = whole(key) if isinstance(key, str) else str(key)
        if other in known:
            annotation[field] = other


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _place(annotation: dict[str, Any], position: int) -> str:
    key = annotation.get("id")
    return f"annotation {key}" if isinstance(key, int) else f"annotations[{position}]"


def _extras(annotation: dict[str, Any]) -> tuple[str | None, str | None, bool]:
    """Track, annotator and reviewed, of the annotation or its attributes."""
    more = annotation.get("attributes")
    both = {**more, **annotation} if more and isinstance(more, dict) else annotation
    track, annotator = both.get("track_id"), both.get("annotator")
    return (
        str(track) if isinstance(track, int | str) else None,
        annotator if isinstance(annotator, str) else None,
        both.get("reviewed") is True,
    )


def save(boxes: pd.DataFrame, classes: Sequence[str], out: Path) -> Saved:
    """Writes one COCO file.

    Args:
        boxes: One row a box, in pixels; see `saving.frames_to_save`.
        classes: Category names; their ids count from 1 in this order.
        out: The `.json` file; its folder is made.

    Returns:
        The file written, and what the format cannot hold.

    Raises:
        InputError: A class that is not in `classes`, or a frame with neither name nor number.
    """
    ids = {name: i for i, name in enumerate(classes, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    number = count(1)
    for i, frame in enumerate(frames_to_save(boxes, classes), 1):
        image = {"id": i, "file_name": frame.name, "width": frame.width, "height": frame.height}
        images.append(image if frame.index is None else {**image, "frame_index": frame.index})
        for box in frame.boxes:
            x1, y1, x2, y2 = box.corners
            width, height = x2 - x1, y2 - y1
            annotations.append(
                {
                    "id": next(number),
                    "image_id": i,
                    "category_id": ids[box.label],
                    "bbox": [x1, y1, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "segmentation": [],
                    **({} if box.track is None else {"track_id": box.track}),
                }
            )
    categories = [{"id": i, "name": name, "supercategory": ""} for name, i in ids.items()]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(orjson.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return Saved([out], lost(boxes, HOLDS, out.name))

"""COCO detection JSON: one file for many images; classes by the name of their category.

Both common shapes are read: with `info`, `licenses` and `attributes` as labelling tools write it, and the bare one with
long image ids. `bbox` is `[left, top, width, height]` in pixels from the frame's corner (0-based, continuous):
https://cocodataset.org/#format-data. What else is said of a box stands in the annotation (`iscrowd`, `score`,
`track_id`) or in its `attributes`, as CVAT and Datumaro write it; an image's own `frame_index`, `pts_s` and
`found_empty_by` (annotators who saw nothing in it, whatever others drew) are read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd

from detection_assets.domain.formats import coco_write
from detection_assets.domain.formats.coco_said import outlines, said, shown
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
from detection_assets.domain.formats.shapes import around

HOLDS = coco_write.HOLDS
save = coco_write.save

MAX_BYTES = 2**30
"""Larger files are refused: parsed JSON takes several times its size in memory."""

MAX_PTS = 1e9
"""Seconds; a time beyond is no time."""

_OF_IMAGES = ("frame_name", "frame_index", "pts_s", "width", "height")
_REMEDY = "export it again as COCO instances JSON"


def load(paths: Sequence[Path], root: Path, wanted: Collection[int] | None = None) -> Parsed:
    """Reads COCO files.

    Args:
        paths: The JSON files.
        root: Folder that the `file` column is relative to.
        wanted: Not used: COCO says nothing between its frames.

    Returns:
        The boxes and problems. An image without annotations is an empty frame; an image whose annotations were all
        unusable is not. Outlines, masks and turned boxes are taken by the box around them, and told.
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
    pictures = _items(document, "images", file, log)
    images, position = _images(pictures, file, log)
    seen = _seen_empty(pictures, position)
    del pictures
    classes = _classes(_items(document, "categories", file, log), file, log)
    annotations = _items(document, "annotations", file, log)
    # By now the parsed JSON is held by `annotations` alone, so that it can be let go of before the table is made.
    document.clear()
    boxes = _boxes(annotations, position, classes)
    named: set[Hashable] = set()
    if boxes is None:
        named = {_key(a.get("image_id")) for a in annotations}
        annotations = [a for i, a in enumerate(annotations) if _usable(a, _place(a, i), position, classes, file, log)]
        boxes = _boxes(annotations, position, classes)
        if boxes is None:
            raise Unreadable("annotations of mixed shapes", _REMEDY, "annotations")
    rows, labels, corners = boxes
    corners[:, 2:] += corners[:, :2]
    places = _places(annotations, file, log)
    keys = set(chain.from_iterable(annotations))
    outlines(annotations, keys, corners, places, file, log)
    more = said(annotations, keys, corners, places, file, log)
    annotations.clear()
    filled = np.zeros(len(images) + 1, dtype=bool)
    filled[rows] = True
    filled[[position[key] for key in named if key in position]] = True
    filled[[row for row, _ in seen]] = True
    empty = np.flatnonzero(~filled[:-1])
    names = images["frame_name"].to_numpy()
    # Who drew something speaks after those who saw nothing: where the last one counts, no box is lost by it.
    first, last = len(seen), len(empty)
    frames = np.concatenate([np.array([row for row, _ in seen], dtype=np.int64), rows, empty])
    corners = np.concatenate([np.full((first, 4), np.nan), corners, np.full((last, 4), np.nan)])
    if first:
        more = {"annotator": [None] * len(rows), **more}
    columns = {name: _filled(name, values, first, last) for name, values in more.items()}
    if first:
        columns["annotator"] = [*(who for _, who in seen), *columns["annotator"][first:]]
    return table(
        first + len(rows) + last,
        {
            **{name: images[name].array.take(frames) for name in images.columns},
            "class": [*[None] * first, *labels.tolist(), *[None] * last],
            **{name: corners[:, i] for i, name in enumerate(("x1", "y1", "x2", "y2"))},
            **columns,
            "file": file,
            "place": [
                *(f"image {names[row]}" for row, _ in seen),
                *places,
                *(f"image {name}" for name in names[empty]),
            ],
        },
    )


def _filled(name: str, values: list[Any], first: int, last: int) -> Any:
    """A column's values, with those of empty frames before and behind them."""
    nothing = False if name == "reviewed" else None
    return [*[nothing] * first, *values, *[nothing] * last] if first or last else values


def _seen_empty(items: list[dict[str, Any]], position: Mapping[Hashable, int]) -> list[tuple[int, str]]:
    """The images that somebody found empty, and who."""
    return [
        (position[key], who.strip())
        for image in items
        if isinstance(people := image.get("found_empty_by"), list) and (key := _key(image.get("id"))) in position
        for who in dict.fromkeys(one for one in people if isinstance(one, str) and one.strip())
    ]


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
    if set(map(type, value)) <= {dict}:
        return value
    items = [item for item in value if isinstance(item, dict)]
    if len(items) < len(value):
        log.tell(file, key, f"{len(value) - len(items)} entries are no objects", "dropped", kind="no object")
    return items


def _key(value: object) -> Hashable:
    return value if isinstance(value, int | str | float) else None


def _images(items: list[dict[str, Any]], file: str, log: ProblemLog) -> tuple[pd.DataFrame, dict[Hashable, int]]:
    """The usable images, a row each, and the row of each image id."""
    rows: list[tuple[str, int | None, float, int | None, int | None]] = []
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
            time = image.get("pts_s")
            pts = float(time) if isinstance(time, int | float) and abs(time) < MAX_PTS else math.nan
            rows.append((name, whole(image.get("frame_index")), pts, *size))
    columns: dict[str, Any] = {name: [row[i] for row in rows] for i, name in enumerate(_OF_IMAGES)}
    return table(len(rows), columns)[list(_OF_IMAGES)], position


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


def _boxes(
    annotations: list[dict[str, Any]], position: dict[Hashable, int], classes: dict[Hashable, str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Image row, class and `bbox` (n x 4) of every annotation; None where one is not as it should be.

    A pass over a million annotations costs a tenth of their parsing, so there are few, and none of them is Python.
    """
    n = len(annotations)
    names = list(dict.fromkeys(classes.values()))
    code = {name: i for i, name in enumerate(names)}
    codes = {key: code[name] for key, name in classes.items()}
    try:
        rows = np.fromiter(map(position.__getitem__, map(itemgetter("image_id"), annotations)), np.int64, n)
        labels = np.fromiter(map(codes.__getitem__, map(itemgetter("category_id"), annotations)), np.int64, n)
        boxes = list(map(itemgetter("bbox"), annotations))
        if not set(map(type, boxes)) <= {list} or not set(map(len, boxes)) <= {4}:
            return None
        corners = np.fromiter(chain.from_iterable(boxes), np.float64, 4 * n)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return rows, np.array([*names, None], dtype=object)[labels], corners.reshape(n, 4)


def _places(annotations: list[dict[str, Any]], file: str, log: ProblemLog) -> list[str]:
    """What problems call each annotation; tells of ids that several have."""
    try:
        keys = list(map(itemgetter("id"), annotations))
    except KeyError:
        keys = [annotation.get("id") for annotation in annotations]
    if not set(map(type, keys)) <= {int} or not keys:
        return [_place(annotation, i) for i, annotation in enumerate(annotations)]
    try:
        ids = np.array(keys, dtype=np.int64)
    except OverflowError:
        return [_place(annotation, i) for i, annotation in enumerate(annotations)]
    if not (ids[1:] > ids[:-1]).all():
        values, counts = np.unique(ids, return_counts=True)
        if (again := int((counts > 1).sum())) and (counts > 1).any():
            first = values[counts > 1][0]
            what = f"{again} ids are those of several annotations, the first is {first}"
            log.tell(file, f"annotation {first}", what, "kept all; give each annotation its own id", kind="doubled id")
    # All numbers at once as text, then cut: a third of the time that a million f-strings take.
    text = orjson.dumps(ids, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].decode()
    return ("annotation " + text.replace(",", "\nannotation ")).split("\n")


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
        log.add("image_id", file, place, f"image_id {shown(image)} is not among the images", "dropped")
    elif _key(category) not in classes:
        log.add("category_id", file, place, f"category_id {shown(category)} is not among the categories", "dropped")
    else:
        found = _four(box) if box else _extremes(annotation.get("segmentation"))
        if found is not None:
            annotation["bbox"] = found
            return True
        log.add("bbox", file, place, f"bbox {shown(box)} is not four numbers", "dropped")
    return False


def _four(box: object) -> list[float] | None:
    try:
        found = np.array(box, dtype=np.float64) if isinstance(box, list) else np.empty(0)
    except (TypeError, ValueError, OverflowError):
        return None
    return found.tolist() if found.shape == (4,) else None


def _extremes(outline: object) -> list[float] | None:
    """The `bbox` of an outline's polygons, for annotations that have no other."""
    try:
        points = [float(value) for polygon in outline for value in polygon] if isinstance(outline, list) else []
        x1, y1, x2, y2 = around(points[::2], points[1::2])
    except (TypeError, ValueError, OverflowError):
        return None
    return [x1, y1, x2 - x1, y2 - y1]


def _agree(annotation: dict[str, Any], field: str, known: Mapping[Hashable, object]) -> None:
    """Writes an id as the list it points to writes it: some tools quote ids in one place and not in the other."""
    key = annotation.get(field)
    if isinstance(key, int | str) and key not in known:
        other = whole(key) if isinstance(key, str) else str(key)
        if other in known:
            annotation[field] = other


def _place(annotation: dict[str, Any], position: int) -> str:
    key = annotation.get("id")
    return f"annotation {key}" if isinstance(key, int) else f"annotations[{position}]"

"""LabelMe JSON: one file a picture, a list of shapes with their points in pixels.

Keys that the tool does not know it keeps, in the file and in each shape (`otherData` in
https://github.com/wkentaro/labelme). So it loses nothing of what is written here beside its own keys: `track`,
`annotator`, `reviewed`, and what X-AnyLabeling has in its files of the same kind, `score` and `attributes`. The flags
of a box are LabelMe's own `flags` of a shape.

`group_id` says which shapes belong together. Of rectangles it is the track: the same object in several pictures, as
X-AnyLabeling uses it. Other shapes of one label and one `group_id` in a picture are parts of one object, as LabelMe's
own converters take them, and become one box. Points, lines and strips are no boxes. `imageData`, the picture itself, is
never looked into.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pandas as pd

from detection_assets.domain.formats.json_file import document, top_keys
from detection_assets.domain.formats.parsed import (
    FLAGS,
    Parsed,
    ProblemLog,
    Unreadable,
    collector_paused,
    each_file,
    frame_name,
    table,
    whole,
)
from detection_assets.domain.formats.saving import OPTIONAL, Saved, SavedBox, frames_to_save, lost, one_stem_each
from detection_assets.domain.problems import InputError

HOLDS = OPTIONAL
"""The columns of `saving.OPTIONAL` that are written."""

MAX_BYTES = 128 * 2**20
"""One picture's shapes, with the picture among them."""

MAX_SHAPES_BYTES = 4 * 2**20
"""The shapes alone."""

_REMEDY = "export it again as LabelMe JSON"
_PASSED = {"point", "points", "line", "linestrip", "lines"}
_COLUMNS = (
    *("frame_name", "frame_index", "pts_s", "width", "height", "class", "x1", "y1", "x2", "y2"),
    *("track", "annotator", "reviewed", "confidence", *FLAGS, "attributes", "file", "place"),
)
Corners = tuple[float, float, float, float]


def is_mine(path: Path, text: str) -> bool:
    """Whether the head of a file is LabelMe's: an object with a list `shapes`, or with an `imagePath`."""
    keys = top_keys(text)
    return keys.get("shapes") == "[" or keys.get("imagePath") == '"'


def load(paths: Sequence[Path], root: Path, wanted: Collection[int] | None = None) -> Parsed:
    """Reads LabelMe files.

    Args:
        paths: The JSON files.
        root: Folder that the `file` column is relative to.
        wanted: Not used: each file is one picture.

    Returns:
        The boxes and problems. The frame is called by `imagePath`, or by the file's own stem where that is missing. A
        file without shapes is an empty frame; one whose shapes were all unusable is not. Polygons, circles, masks and
        turned boxes are taken by their extremes, which a note says once a file. Flags of a shape that are none of
        `FLAGS`, and its description, are attributes.
    """
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}

    def read(path: Path, file: str, log: ProblemLog) -> None:
        _read(path, file, log, columns)

    with collector_paused():
        _, log = each_file(paths, root, read)
    return Parsed(table(len(columns["file"]), columns), log.problems())


def _read(path: Path, file: str, log: ProblemLog, columns: dict[str, list[Any]]) -> None:
    found = document(path, MAX_BYTES, _REMEDY, without="imageData", rest=MAX_SHAPES_BYTES)
    shapes = found.get("shapes") if isinstance(found, dict) else None
    if not isinstance(shapes, list):
        raise Unreadable("has no list of 'shapes'", _REMEDY, "shapes")
    name = found.get("imagePath")
    common = {
        "frame_name": (frame_name(name) if isinstance(name, str) else "") or path.stem,
        "frame_index": whole(found.get("frame_index")),
        "pts_s": _number(found.get("pts_s")),
        "width": whole(found.get("imageWidth"), 1),
        "height": whole(found.get("imageHeight"), 1),
        "file": file,
    }
    flags = found.get("flags")
    told = [key for key, value in flags.items() if value is True] if isinstance(flags, dict) else []
    if told:
        what = f"the picture has the flags {', '.join(told)[:200]}, and a picture has none here"
        log.tell(file, "flags", what, "left out; give them to the shapes", kind="flags")
    rows, sound = _rows(shapes, file, log)
    if not rows and sound:
        rows = [{"place": ""}]
    for row in rows:
        full = {"reviewed": False, **common, **row}
        for column, values in columns.items():
            values.append(full.get(column, math.nan if column in _NUMBERS else None))


_NUMBERS = {"x1", "y1", "x2", "y2", "confidence", "pts_s"}


def _rows(shapes: list[Any], file: str, log: ProblemLog) -> tuple[list[dict[str, Any]], bool]:
    """A row a box, and whether every shape that may be one was usable."""
    rows: list[dict[str, Any]] = []
    parts: dict[tuple[str, str], dict[str, Any]] = {}
    passed = extremes = 0
    sound = True
    for i, shape in enumerate(shapes):
        place = f"shapes[{i}]"
        kind = shape.get("shape_type") or "polygon" if isinstance(shape, dict) else None
        if isinstance(kind, str) and kind in _PASSED:
            passed += 1
            continue
        corners = _corners(kind, shape) if isinstance(kind, str) else None
        label = shape.get("label") if isinstance(shape, dict) else None
        if corners is None or not isinstance(label, str) or not label.strip():
            what = "has no usable points" if corners is None else "has no label"
            log.add("shape", file, place, what, "dropped")
            sound = False
            continue
        row: dict[str, Any] = {"class": label.strip(), "place": place, **_says(shape)}
        row.update(zip(("x1", "y1", "x2", "y2"), corners, strict=True))
        if kind != "rectangle":
            extremes += 1
            if row["track"] is not None:
                whole_object = parts.setdefault((row["class"], row["track"]), row)
                if whole_object is not row:
                    for corner, choose in (("x1", min), ("y1", min), ("x2", max), ("y2", max)):
                        whole_object[corner] = choose(whole_object[corner], row[corner])
                    continue
        rows.append(row)
    if passed:
        log.tell(file, "shapes", f"{passed} points and lines, which are no boxes", "passed over", kind="shape")
    if extremes:
        log.tell(file, "shapes", f"{extremes} shapes are no rectangles", "kept as the boxes around them", kind="shape")
    return rows, sound


def _corners(kind: str, shape: Mapping[str, Any]) -> Corners | None:
    try:
        points = [(float(x), float(y)) for x, y in shape["points"]]
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    if not points or any(isinstance(value, str | bool) for point in shape["points"] for value in point):
        return None
    if kind == "circle":
        if len(points) != 2:
            return None
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        return x - radius, y - radius, x + radius, y + radius
    xs, ys = zip(*points, strict=True)
    # A mask's points are its first and its last pixel, and the last belongs to it.
    more = 1 if kind == "mask" else 0
    return (min(xs), min(ys), max(xs) + more, max(ys) + more) if len(points) > 1 else None


def _says(shape: Mapping[str, Any]) -> dict[str, Any]:
    """What else a shape says, by the table's columns."""
    group, track = shape.get("group_id"), shape.get("track")
    if isinstance(track, str) and track:
        name: str | None = track
    else:
        name = str(group) if isinstance(group, int) and not isinstance(group, bool) else None
    given = shape.get("flags")
    flags = {key: value for key, value in given.items() if isinstance(value, bool)} if isinstance(given, dict) else {}
    more = {key: value for key, value in flags.items() if key not in FLAGS and value}
    if isinstance(shape.get("description"), str) and shape["description"].strip():
        more["description"] = shape["description"].strip()
    if isinstance(shape.get("attributes"), dict):
        more.update(shape["attributes"])
    found: dict[str, Any] = {flag: flags.get(flag) for flag in FLAGS}
    for flag in FLAGS:
        if isinstance(shape.get(flag), bool):
            found[flag] = shape[flag]
    annotator = shape.get("annotator")
    return {
        **found,
        "track": name,
        "annotator": annotator if isinstance(annotator, str) and annotator else None,
        "reviewed": shape.get("reviewed") is True,
        "confidence": _number(shape.get("score")),
        "attributes": _object(more),
    }


def _object(attributes: Mapping[str, Any]) -> str | None:
    if not attributes:
        return None
    try:
        return orjson.dumps(attributes, option=orjson.OPT_SORT_KEYS).decode()
    except (TypeError, ValueError, RecursionError):
        return None


def _number(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            pass
    return math.nan


def save(boxes: pd.DataFrame, classes: Sequence[str], out: Path) -> Saved:
    """Writes one LabelMe file a frame; it says what the frame is called, and LabelMe looks for it beside the file.

    Args:
        boxes: One row a box, in pixels; see `saving.frames_to_save`.
        classes: The classes that may occur.
        out: Folder for `<stem of the frame>.json`; it is made.

    Returns:
        The files written, and what the format cannot hold.

    Raises:
        InputError: A class that is not in `classes`, two frames of one stem, corners that are no numbers, or text that
            is no JSON.
    """
    frames = frames_to_save(boxes, classes)
    one_stem_each(frames)
    files: dict[Path, bytes] = {}
    for frame in frames:
        content = {
            "version": "5.5.0",
            "flags": {},
            "shapes": [_shape(box, frame.name) for box in frame.boxes],
            "imagePath": frame.name,
            "imageData": None,
            "imageHeight": frame.height,
            "imageWidth": frame.width,
            **({} if frame.index is None else {"frame_index": frame.index}),
            **({} if frame.pts_s is None else {"pts_s": frame.pts_s}),
        }
        try:
            files[out / f"{frame.stem}.json"] = orjson.dumps(content, option=orjson.OPT_INDENT_2)
        except (TypeError, ValueError) as error:
            raise InputError(f"frame '{frame.name}' has text that JSON cannot hold: {error}") from None
    out.mkdir(parents=True, exist_ok=True)
    for path, data in files.items():
        path.write_bytes(data)
    return Saved(list(files), lost(boxes, HOLDS, out.name))


def _shape(box: SavedBox, frame: str) -> dict[str, Any]:
    if not all(map(math.isfinite, box.corners)):
        raise InputError(f"frame '{frame}' has a box whose corners are no numbers: {box.corners}")
    x1, y1, x2, y2 = box.corners
    says = box.says
    shape: dict[str, Any] = {
        "label": box.label,
        "points": [[x1, y1], [x2, y2]],
        "group_id": None,
        "description": "",
        "shape_type": "rectangle",
        "flags": {flag: bool(says[flag]) for flag in FLAGS if flag in says},
        "mask": None,
    }
    if box.track is not None:
        number = whole(box.track)
        if number is not None and str(number) == box.track:
            shape["group_id"] = number
        else:
            shape["track"] = box.track
    if says.get("reviewed"):
        shape["reviewed"] = True
    if "annotator" in says:
        shape["annotator"] = str(says["annotator"])
    if "confidence" in says:
        shape["score"] = float(says["confidence"])
    if "attributes" in says:
        shape["attributes"] = orjson.loads(says["attributes"])
    return shape

"""Azure ML's labelling: a line of JSON a picture, and the MLTable that names the file of them.

https://learn.microsoft.com/azure/machine-learning/reference-automl-images-schema describes the lines: `image_url`,
`image_details` with the picture's size, and `label`, a list of boxes whose corners are fractions of the picture, or of
polygons. An `MLTable` is YAML that names the JSONL beside it; addresses elsewhere in it are not followed.

`frame`, `frame_index` and `pts_s` in a line of ours say which frame it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import orjson
import pandas as pd

from detection_assets.domain.formats import yaml_file
from detection_assets.domain.formats.attributes import flag
from detection_assets.domain.formats.json_file import lines, number, parse, top_keys
from detection_assets.domain.formats.parsed import (
    Parsed,
    ProblemLog,
    Unreadable,
    collector_paused,
    each_file,
    frame_name,
    join,
    relative_name,
    table_of,
    whole,
)
from detection_assets.domain.formats.saving import Saved, SavedFrame, frames_to_save, lost
from detection_assets.domain.formats.shapes import TAKEN, Corners, around
from detection_assets.domain.formats.urls import base_of, names_of
from detection_assets.domain.problems import InputError

HOLDS = ("frame_index", "pts_s", "confidence", "crowd")
"""The columns of `saving.OPTIONAL` that are written."""

TABLE = "MLTable"
"""What a file that names lines of JSON is called, always."""

MAX_TABLE_BYTES = 2**16
"""A list of files is far smaller."""

MAX_FILES = 1000
"""Most files that one MLTable names."""

_REMEDY = "export it again as an Azure ML dataset"
_XY = ("topX", "topY", "bottomX", "bottomY")


def is_mine(path: Path, text: str) -> bool:
    """Whether the head of a file is Azure ML's: a line with an `image_url`, or an MLTable."""
    return path.name == TABLE or ('"image_url"' in text and "image_url" in top_keys(text))


def load(paths: Sequence[Path], root: Path, wanted: Collection[int] | None = None) -> Parsed:
    """Reads JSONL files, and those that MLTables among the files name.

    Args:
        paths: The files. A JSONL that is also named by an MLTable is read once.
        root: Folder that the `file` column is relative to.
        wanted: Not used: each line is one picture.

    Returns:
        The boxes, as fractions of the frame (`relative`), and the problems. A line without labels is an empty frame.
        Polygons are taken by the box around them, and told.
    """
    seen = {path.resolve() for path in paths if path.name != TABLE}

    def read(path: Path, file: str, log: ProblemLog) -> pd.DataFrame | None:
        if path.name != TABLE:
            return _read(path, file, log)
        parts: list[pd.DataFrame] = []
        for named in _named_files(path, file, log):
            if named.resolve() in seen:
                continue
            seen.add(named.resolve())
            try:
                parts.append(_read(named, relative_name(named, root), log))
            except Unreadable as error:
                log.unreadable(relative_name(named, root), error)
        return join(parts)

    with collector_paused():
        tables, log = each_file(paths, root, read)
    return Parsed(join(tables), log.problems())


def _named_files(path: Path, file: str, log: ProblemLog) -> list[Path]:
    """The files that an MLTable names, all of them in its folder or below."""
    content = yaml_file.document(path, MAX_TABLE_BYTES, "keep 'paths' and 'transformations' only")
    named = content.get("paths") if isinstance(content, dict) else None
    if not isinstance(named, list):
        raise Unreadable("has no list of 'paths'", "write 'paths: [{file: ./name.jsonl}]'", "paths")
    folder = path.parent.resolve()
    found: list[Path] = []
    for i, one in enumerate(named[:MAX_FILES]):
        place = f"paths[{i}]"
        kind = next((kind for kind in ("file", "pattern", "folder") if isinstance(one, dict) and kind in one), None)
        text = one[kind] if kind else None
        if not isinstance(text, str) or not text.strip():
            log.add("path", file, place, "names no file, pattern or folder", "passed over")
            continue
        inside = PurePosixPath(text.strip().replace("\\", "/"))
        if "://" in text or "\0" in text or inside.is_absolute() or ".." in inside.parts or ":" in inside.parts[:1]:
            what = f"'{text[:200]}' is not in the MLTable's folder"
            log.add(
                "path", file, place, what, "passed over; put the file beside the MLTable and name it './name.jsonl'"
            )
            continue
        try:
            if kind == "file":
                these = [path.parent / inside]
            else:
                these = sorted(path.parent.glob(str(inside) if kind == "pattern" else f"{inside}/*.jsonl"))
            these = [one for one in these if one.is_file() and one.resolve().is_relative_to(folder)]
        except (OSError, ValueError, NotImplementedError):
            these = []
        if not these:
            what = f"'{text[:200]}' is not there"
            log.add("path", file, place, what, "passed over; put the file beside the MLTable")
        found += these
    if len(named) > MAX_FILES:
        log.tell(file, "paths", f"names {len(named)} files", f"took the first {MAX_FILES}")
    return found[:MAX_FILES]


def _read(path: Path, file: str, log: ProblemLog) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    addresses: list[str] = []
    for line, data in lines(path, _REMEDY):
        place = f"line {line}"
        try:
            found = parse(data, _REMEDY)
        except Unreadable as error:
            log.add("line", file, place, error.what, "dropped the line")
            continue
        address = found.get("image_url") if isinstance(found, dict) else None
        if not isinstance(address, str) or not address.strip():
            log.add("line", file, place, "has no 'image_url', so its boxes belong to no picture", "dropped")
            continue
        new = _rows(found, file, place, log)
        rows += new
        addresses += [address] * len(new)
    names = names_of(addresses)
    for row, address in zip(rows, addresses, strict=True):
        row["frame_name"] = row["frame_name"] or names[address] or None
    return table_of(rows, file)


def _rows(found: Mapping[str, Any], file: str, place: str, log: ProblemLog) -> list[dict[str, Any]]:
    about = found.get("image_details")
    details = about if isinstance(about, dict) else {}
    own = found.get("frame")
    common = {
        "frame_name": frame_name(own) if isinstance(own, str) else None,
        "frame_index": whole(found.get("frame_index")),
        "pts_s": number(found.get("pts_s")),
        "width": _pixels(details.get("width")),
        "height": _pixels(details.get("height")),
    }
    labels = found.get("label")
    labels = [labels] if isinstance(labels, dict) else labels
    if labels is None:
        log.add("label", file, place, "has no 'label'", "left out; nobody has looked at the picture")
        return []
    if not isinstance(labels, list):
        log.add("label", file, place, "'label' is no list of boxes", "dropped; export an object detection project")
        return []
    sure = found.get("label_confidence")
    sure = sure if isinstance(sure, list) else [sure] if len(labels) == 1 else []
    rows: list[dict[str, Any]] = []
    for i, box in enumerate(labels):
        at = f"{place}, label {i}"
        corners = _corners(box) if isinstance(box, dict) else None
        label = box.get("label") if isinstance(box, dict) else None
        if corners is None or not isinstance(label, str) or not label.strip():
            what = f"has no usable {', '.join(_XY)} or polygon" if corners is None else "has no 'label'"
            log.add("box", file, at, what, "dropped")
            continue
        if "topX" not in box:
            log.add("polygon", file, at, "a polygon, not a box", TAKEN)
        row = {**common, "class": label.strip(), **dict(zip(("x1", "y1", "x2", "y2"), corners, strict=True))}
        confidence = number(sure[i]) if i < len(sure) else None
        crowd = flag(box.get("isCrowd"))
        rows.append({**row, "relative": True, "confidence": confidence, "crowd": crowd, "place": at})
    return rows if rows or labels else [{**common, "place": place}]


def _pixels(value: object) -> int | None:
    """A side of a picture, which is also written as `400px`."""
    return whole(value.strip().removesuffix("px") if isinstance(value, str) else value, 1)


def _fraction(value: object) -> float | None:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return number(value)


def _corners(box: Mapping[str, Any]) -> Corners | None:
    if "topX" in box:
        places = [_fraction(box.get(name)) for name in _XY]
        if None in places:
            return None
        x1, y1, x2, y2 = (one for one in places if one is not None)
        return x1, y1, x2, y2
    try:
        points = [float(value) for polygon in box["polygon"] for value in polygon]
        return around(points[::2], points[1::2])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def save(
    boxes: pd.DataFrame,
    classes: Sequence[str],
    out: Path,
    *,
    urls: Mapping[str, str] | None = None,
    table: bool = True,
) -> Saved:
    """Writes `annotations.jsonl`, and the MLTable that names it.

    Args:
        boxes: One row a box, in pixels; see `saving.frames_to_save`.
        classes: The classes that may occur.
        out: The folder; it is made.
        urls: The `azureml://` address of each picture by its frame's name; the name itself where it is missing.
        table: Whether to write the MLTable.

    Returns:
        The files written, and what the format cannot hold. Azure ML says of every box whether it is a crowd: one of
        which the table says nothing is written as none.

    Raises:
        InputError: A class that is not in `classes`, a frame with neither name nor number, or a frame without size.
    """
    found = [_line(frame, (urls or {}).get(frame.name, "")) for frame in frames_to_save(boxes, classes)]
    target = out / "annotations.jsonl"
    out.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in found))
    files = [target]
    if table:
        files.append(out / TABLE)
        files[-1].write_text(_MLTABLE.format(file=target.name), encoding="utf-8")
    return Saved(files, lost(boxes, HOLDS, target.name))


_MLTABLE = """\
$schema: https://azuremlschemas.azureedge.net/latest/MLTable.schema.json
type: mltable
paths:
  - file: ./{file}
transformations:
  - read_json_lines:
      encoding: utf8
      invalid_lines: error
      include_path_column: false
  - convert_column_types:
      - columns: image_url
        column_type: stream_info
"""


def _line(frame: SavedFrame, url: str) -> dict[str, Any]:
    if not frame.width or not frame.height:
        raise InputError(f"frame '{frame.name}' has no width and height, which Azure ML's fractions need")
    labels: list[dict[str, Any]] = []
    for box in frame.boxes:
        x1, y1, x2, y2 = box.corners
        places = (x1 / frame.width, y1 / frame.height, x2 / frame.width, y2 / frame.height)
        crowd = int(bool(box.says.get("crowd")))
        labels.append({"label": box.label, **dict(zip(_XY, places, strict=True)), "isCrowd": crowd})
    suffix = base_of(frame.name).rpartition(".")[2].lower()
    details = {"format": suffix or "jpg", "width": frame.width, "height": frame.height}
    own = {"frame": frame.name if url else None, "frame_index": frame.index, "pts_s": frame.pts_s}
    found: dict[str, Any] = {
        "image_url": url or frame.name,
        "image_details": details,
        "label": labels,
        **{key: value for key, value in own.items() if value is not None},
    }
    if any("confidence" in box.says for box in frame.boxes):
        found["label_confidence"] = [box.says.get("confidence") for box in frame.boxes]
    return found

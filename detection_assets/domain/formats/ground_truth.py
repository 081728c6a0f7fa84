"""SageMaker Ground Truth: augmented manifests of object detection, and sequence files of video frames.

A manifest is a line of JSON a picture: `source-ref`, a label attribute with boxes in pixels, and beside it
`<attribute>-metadata` with the classes by number and how sure the workers were. Its output is the next job's input, so
a line may hold the labels of several jobs. Jobs on video frames write `SeqLabel.json`, a list of frames; its classes
have numbers that the job's output manifest tells. https://docs.aws.amazon.com/sagemaker/latest/dg/sms-data-output.html

Ground Truth passes on what else a line holds, so `frame`, `frame_index` and `pts_s` there say which frame it is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pandas as pd

from detection_assets.domain.formats.attributes import sort_out, to_json
from detection_assets.domain.formats.json_file import document, lines, number, parse, top_keys
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
from detection_assets.domain.formats.urls import names_of
from detection_assets.domain.problems import InputError

HOLDS = ("frame_index", "pts_s", "confidence")
"""The columns of `saving.OPTIONAL` that are written."""

MAX_SEQUENCE_BYTES = 8 * 2**20
"""One sequence of frames: some fifty thousand boxes."""

IMAGES = "groundtruth/object-detection"
VIDEOS = ("groundtruth/video-object-detection", "groundtruth/video-object-tracking")
_METADATA = "-metadata"
_SEQUENCES = ("tracking-annotations", "detection-annotations")
_REMEDY = "take the job's output.manifest again"
_OTHER_SHAPES = ("polygons", "polylines", "keypoints")


def is_mine(path: Path, text: str) -> bool:
    """Whether the head of a file is Ground Truth's: a manifest, or a sequence of labelled video frames."""
    if not any(f'"{name}"' in text for name in ("source-ref", *_SEQUENCES)):
        return False  # most JSON is of another format, and a data set may have a file a picture
    keys = top_keys(text)
    return "source-ref" in keys or any(keys.get(name) == "[" for name in _SEQUENCES)


def load(paths: Sequence[Path], root: Path, wanted: Collection[int] | None = None) -> Parsed:
    """Reads manifests and sequence files.

    Args:
        paths: The files. A manifest of a video job gives the classes of the sequence files below its folder.
        root: Folder that the `file` column is relative to; manifests are not looked for above it.
        wanted: Not used: sequences say nothing between their frames.

    Returns:
        The boxes and problems. Of several jobs' labels of a picture the last made are taken, and told. A line without
        boxes is an empty frame; one that says why it failed is none. Where no worker looked at a picture, the attribute
        `human-annotated` says `no`.
    """
    classes: dict[Path, list[_Map]] = {}

    def read(path: Path, file: str, log: ProblemLog) -> pd.DataFrame | None:
        with path.open("rb") as opened:
            head = opened.read(4096).decode("utf-8", "replace").lstrip("\ufeff \r\n\t")
        if any(name in top_keys(head) for name in _SEQUENCES):
            return _Sequence(file, log, lambda: _maps(path, root, classes, log)).read(path)
        return _manifest(path, file, log)

    def opened(path: Path, file: str, log: ProblemLog) -> pd.DataFrame | None:
        try:
            return read(path, file, log)
        except OSError as error:
            raise Unreadable(f"cannot be read: {error.strerror or error}", "check that it is readable") from None

    with collector_paused():
        tables, log = each_file(paths, root, opened)
    return Parsed(join(tables), log.problems())


def _manifest(path: Path, file: str, log: ProblemLog) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    addresses: list[str] = []
    videos = unlabelled = 0
    for line, found in _objects(path, file, log):
        place = f"line {line}"
        source = found.get("source-ref")
        if not isinstance(source, str) or not source.strip():
            log.add("source", file, place, "has no 'source-ref', so its boxes belong to no picture", "dropped")
            continue
        if any(_type(found, name) in VIDEOS for name in _attributes(found)):
            videos += 1  # its boxes are in a sequence file of their own
            continue
        name = _labels_of(found, file, place, log)
        if name is None:
            unlabelled += not any(_failure(found, one) for one in _attributes(found))
            continue
        new = _rows(found, name, file, place, log)
        rows += new
        addresses += [source] * len(new)
    if unlabelled:
        what = f"{unlabelled} lines have no labels of an object detection job"
        log.tell(file, "", what, "left out; nobody has looked at them")
    names = names_of(addresses)
    for row, address in zip(rows, addresses, strict=True):
        row["frame_name"] = row["frame_name"] or names[address] or None
    return table_of(rows, file)


def _objects(path: Path, file: str, log: ProblemLog) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines' objects with their numbers; a line that is none is told, and the others are read."""
    for line, data in lines(path, _REMEDY):
        try:
            found = parse(data, _REMEDY)
        except Unreadable as error:
            log.add("line", file, f"line {line}", error.what, "dropped the line")
            continue
        if isinstance(found, dict):
            yield line, found
        else:
            log.add("line", file, f"line {line}", "is no JSON object", "dropped the line")


def _attributes(found: Mapping[str, Any]) -> list[str]:
    """The label attributes of a line: what has metadata beside it."""
    return [
        key.removesuffix(_METADATA)
        for key, value in found.items()
        if key.endswith(_METADATA) and len(key) > len(_METADATA) and isinstance(value, dict)
    ]


def _type(found: Mapping[str, Any], name: str) -> str:
    return str(found[name + _METADATA].get("type", ""))


def _failure(found: Mapping[str, Any], name: str) -> str:
    return str(found[name + _METADATA].get("failure-reason") or "")


def _labels_of(found: Mapping[str, Any], file: str, place: str, log: ProblemLog) -> str | None:
    """The label attribute that speaks for a line; None where none does."""
    names = _attributes(found)
    for name in names:
        if reason := _failure(found, name):
            log.add("failure", file, place, f"'{name}' failed: {reason[:300]}", "left out; label the picture again")
    usable = [name for name in names if _type(found, name) == IMAGES and not _failure(found, name)]
    if not usable:
        return None
    # Dates in ISO 8601 sort as text; of two without or with the same date, the one further behind was added last.
    last = max(enumerate(usable), key=lambda one: (str(found[one[1] + _METADATA].get("creation-date", "")), one[0]))[1]
    if len(usable) > 1:
        others = ", ".join(f"'{name}'" for name in usable if name != last)[:200]
        what = f"has labels of {len(usable)} jobs: '{last}', made last, and {others}"
        log.add("jobs", file, place, what, f"took '{last}'")
    return last


def _rows(found: Mapping[str, Any], name: str, file: str, place: str, log: ProblemLog) -> list[dict[str, Any]]:
    labels, about = found.get(name), found[name + _METADATA]
    own = found.get("frame")
    common: dict[str, Any] = {
        "frame_name": frame_name(own) if isinstance(own, str) else None,
        "frame_index": whole(found.get("frame_index")),
        "pts_s": number(found.get("pts_s")),
    }
    if not isinstance(labels, dict) or not isinstance(labels.get("annotations"), list):
        log.add("labels", file, place, f"'{name}' has no list of 'annotations'", "dropped the line")
        return []
    sizes = labels.get("image_size")
    size = sizes[0] if isinstance(sizes, list) and sizes and isinstance(sizes[0], dict) else {}
    common |= {side: whole(size.get(side), 1) for side in ("width", "height")}
    by_machine = about.get("human-annotated") == "no"
    attributes = '{"human-annotated":"no"}' if by_machine else None
    known = _class_map(about)
    objects = about.get("objects")
    sure = objects if isinstance(objects, list) else []
    rows: list[dict[str, Any]] = []
    for i, box in enumerate(labels["annotations"]):
        at = f"{place}, '{name}', annotation {i}"
        corners = _corners(box)
        label = known.get(str(box.get("class_id"))) if isinstance(box, dict) else None
        if corners is None or label is None:
            what = "has no usable left, top, width and height" if corners is None else _no_class(box.get("class_id"))
            log.add("box", file, at, what, "dropped")
            continue
        confidence = number(sure[i].get("confidence")) if i < len(sure) and isinstance(sure[i], dict) else None
        row = {**common, "class": label, **corners, "confidence": confidence, "attributes": attributes, "place": at}
        rows.append(row)
    return rows if rows or labels["annotations"] else [{**common, "place": place}]


def _corners(box: object) -> dict[str, float] | None:
    places = [number(box.get(name)) for name in ("left", "top", "width", "height")] if isinstance(box, dict) else [None]
    if None in places:
        return None
    left, top, width, height = (one for one in places if one is not None)
    return {"x1": left, "y1": top, "x2": left + width, "y2": top + height}


def _class_map(about: Mapping[str, Any]) -> dict[str, str]:
    given = about.get("class-map")
    if not isinstance(given, dict):
        return {}
    return {key: name.strip() for key, name in given.items() if isinstance(name, str) and name.strip()}


def _no_class(number: object) -> str:
    return f"class {str(number)[:40]!r} is not in the class-map"


_Map = tuple[str, dict[str, str]]
"""Where a job says that a sequence file lies, and its classes by number."""


def _maps(path: Path, root: Path, known: dict[Path, list[_Map]], log: ProblemLog) -> dict[str, str]:
    """The classes of a sequence file, from a manifest in its folder or above it up to `root`.

    Of several lines, the one speaks that names the sequence file by most of the folders it lies in.
    """
    here, found = path.parent, list[_Map]()
    while not found:
        if here not in known:
            known[here] = list(_maps_in(here, root, log))
        found = known[here]
        if here == root or here == here.parent or root not in here.parents:
            break
        here = here.parent

    def alike(one: _Map) -> int:
        pairs = zip(reversed(one[0].split("/")), reversed(path.parts), strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), len(path.parts))

    return max(found, key=alike)[1] if found else {}


def _maps_in(folder: Path, root: Path, log: ProblemLog) -> Iterator[_Map]:
    try:
        # Where a job lies as it left it, its manifest is in a folder beside that of its annotations.
        manifests = [*sorted(folder.glob("*.manifest")), *sorted((folder / "manifests" / "output").glob("*.manifest"))]
    except OSError:
        return
    for path in manifests[:100]:
        try:
            for _, data in lines(path, _REMEDY):
                found = parse(data, _REMEDY)
                for name in _attributes(found) if isinstance(found, dict) else []:
                    if _type(found, name) in VIDEOS and isinstance(found.get(name), str):
                        yield found[name], _class_map(found[name + _METADATA])
        except Unreadable as error:
            log.unreadable(relative_name(path, root), error)


class _Sequence:
    """Reads a `SeqLabel.json`."""

    def __init__(self, file: str, log: ProblemLog, classes: Any) -> None:
        self._file, self._log, self._classes = file, log, classes
        self._known: dict[str, str] | None = None
        self._passed: Counter[str] = Counter()

    def read(self, path: Path) -> pd.DataFrame:
        found = document(path, MAX_SEQUENCE_BYTES, "take the job's SeqLabel.json again")
        frames = next((found[name] for name in _SEQUENCES if isinstance(found.get(name), list)), None)
        if frames is None:
            raise Unreadable(f"has no list of '{_SEQUENCES[0]}'", "take the job's SeqLabel.json again")
        rows: list[dict[str, Any]] = []
        for i, frame in enumerate(frames):
            boxes = frame.get("annotations", []) if isinstance(frame, dict) else None
            name = frame.get("frame") if isinstance(frame, dict) else None
            called = frame_name(name) if isinstance(name, str) else ""
            at = whole(frame.get("frame-no")) if isinstance(frame, dict) else None
            place = f"frame {called or at}"
            if not isinstance(boxes, list) or not (called or at is not None):
                self._log.add("frame", self._file, f"frames[{i}]", "has no name, or no list of annotations", "dropped")
                continue
            # A frame's number counts the pictures of the job, which are seldom all frames of the video.
            common = {"frame_name": called or None, "frame_index": None if called else at}
            new = [
                row
                for k, box in enumerate(boxes)
                if (row := self._row(box if isinstance(box, dict) else {}, f"{place}, annotation {k}"))
            ]
            others = [shape for shape in _OTHER_SHAPES if isinstance(frame.get(shape), list) and frame[shape]]
            self._passed.update({shape: len(frame[shape]) for shape in others})
            rows += [{**common, **row} for row in new]
            if not boxes and not others:
                rows.append({**common, "place": place})
        for shape, count in self._passed.items():
            self._log.tell(self._file, shape, f"{count} {shape}, which are no boxes", "passed over")
        return table_of(rows, self._file)

    def _row(self, box: dict[str, Any], place: str) -> dict[str, Any] | None:
        corners = _corners(box)
        if corners is None:
            self._log.add("box", self._file, place, "has no usable left, top, width and height", "dropped")
            return None
        label = self._class_of(box)
        if label is None:
            what = _no_class(box.get("class-id")) + " of a manifest here or above"
            self._log.add("class", self._file, place, what, "dropped; put the job's output.manifest beside the file")
            return None
        said, rest = sort_out(_object(box, "label-category-attributes"))
        track = box.get("object-id", box.get("object-name"))
        return {
            **said,
            "class": label,
            **corners,
            "track": str(track) if isinstance(track, str | int) and track != "" else said.get("track"),
            "confidence": number(box.get("confidence")) if "confidence" in box else said.get("confidence"),
            "attributes": to_json(rest),
            "place": place,
        }

    def _class_of(self, box: Mapping[str, Any]) -> str | None:
        known = self._known = self._classes() if self._known is None else self._known
        label = known.get(str(box.get("class-id")))
        name = box.get("object-name")
        if label is None and isinstance(name, str) and ":" in name:
            # An object is called by its class and a number: `Car:1`.
            label = name.rpartition(":")[0].strip() or None
        return label


def _object(box: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = box.get(key)
    return value if isinstance(value, dict) else {}


def save(
    boxes: pd.DataFrame,
    classes: Sequence[str],
    out: Path,
    *,
    attribute: str = "boxes",
    urls: Mapping[str, str] | None = None,
    job: str = "detection-assets",
    created: str = "1970-01-01T00:00:00.000000",
) -> Saved:
    """Writes an augmented manifest, which can be the input of an adjustment job.

    Args:
        boxes: One row a box, in pixels; see `saving.frames_to_save`.
        classes: The classes; their numbers count from 0 in this order.
        out: The `.manifest` file; its folder is made.
        attribute: The label attribute.
        urls: The `s3://` address of each picture by its frame's name; the name itself where it is missing, which Ground
            Truth does not take.
        job: The labelling job that the boxes are said to come from.
        created: When, in ISO 8601; the labels of a later job go before them.

    Returns:
        The file written, and what the format cannot hold.

    Raises:
        InputError: A class that is not in `classes`, a frame without name, number or size, or corners that are no
            numbers.
    """
    about = {
        "class-map": {str(i): name for i, name in enumerate(classes)},
        "type": IMAGES,
        "human-annotated": "yes",
        "creation-date": created,
        "job-name": f"labeling-job/{job}",
    }
    numbers = {name: i for i, name in enumerate(classes)}
    found = [_line(frame, numbers, (urls or {}).get(frame.name, ""), attribute, about) for frame in
             frames_to_save(boxes, classes)]  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in found))
    return Saved([out], lost(boxes, HOLDS, out.name))


def _line(
    frame: SavedFrame, numbers: Mapping[str, int], url: str, attribute: str, about: Mapping[str, Any]
) -> dict[str, Any]:
    if not frame.width or not frame.height:
        raise InputError(f"frame '{frame.name}' has no width and height, which Ground Truth needs")
    annotations: list[dict[str, Any]] = []
    for box in frame.boxes:
        if not all(map(math.isfinite, box.corners)):
            raise InputError(f"frame '{frame.name}' has a box whose corners are no numbers: {box.corners}")
        x1, y1, x2, y2 = box.corners
        place = {"left": x1, "top": y1, "width": x2 - x1, "height": y2 - y1}
        annotations.append({"class_id": numbers[box.label], **place})
    own = {"frame": frame.name if url else None, "frame_index": frame.index, "pts_s": frame.pts_s}
    sure = [{"confidence": box.says["confidence"]} if "confidence" in box.says else {} for box in frame.boxes]
    return {
        "source-ref": url or frame.name,
        **{key: value for key, value in own.items() if value is not None},
        attribute: {
            "image_size": [{"width": frame.width, "height": frame.height, "depth": 3}],
            "annotations": annotations,
        },
        attribute + _METADATA: {"objects": sure, **about},
    }

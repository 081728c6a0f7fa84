"""Writes Label Studio tasks that it imports, with annotations or with pre-annotations, and its labelling settings.

A client of a Label Studio server makes its project with `config` and its tasks with `task` and `video_task`; `save`
puts the same into a file. What Label Studio has no place for goes into a region's `meta`, which it keeps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import orjson
import pandas as pd

from detection_assets.domain.formats.attributes import NAMES
from detection_assets.domain.formats.parsed import FLAGS
from detection_assets.domain.formats.saving import (
    OPTIONAL,
    Saved,
    SavedBox,
    SavedFrame,
    check_classes,
    frames_to_save,
    lost,
    xml_text,
)
from detection_assets.domain.formats.shapes import Corners
from detection_assets.domain.formats.track_objects import marks, objects, unseen
from detection_assets.domain.problems import InputError, Problem

HOLDS = OPTIONAL
"""The columns of `saving.OPTIONAL` that are written of pictures."""

VIDEO_HOLDS = ("frame_index", "track", "annotator", "reviewed", "confidence", *FLAGS, "attributes")
"""Those that are written of a video."""

CONTROL, OBJECT = "label", "image"
"""What a picture's control and object are called in the settings; regions point to them by name."""

VIDEO_CONTROL, VIDEO_LABELS, VIDEO_OBJECT = "box", "label", "video"
"""The same of a video, whose labels are a control of their own."""

_IN_META = ("annotator", "reviewed", *FLAGS)


def config(classes: Sequence[str], video: bool = False, fps: float | None = None) -> str:
    """The settings of a labelling project: rectangles of the classes, on a picture or along a video.

    Args:
        classes: The labels.
        video: Whether the tasks are videos.
        fps: The video's frames a second. Label Studio counts frames by it and takes 24 otherwise, which puts boxes on
            wrong frames of a video of another rate.

    Returns:
        The XML, to be given as a project's `label_config`.

    Raises:
        InputError: A class that XML cannot hold.
    """
    view = ElementTree.Element("View")
    if video:
        labels = ElementTree.SubElement(view, "Labels", name=VIDEO_LABELS, toName=VIDEO_OBJECT)
        rate = {"framerate": f"{fps:.12g}"} if fps else {}
        ElementTree.SubElement(view, "Video", {"name": VIDEO_OBJECT, "value": "$video", **rate})
        ElementTree.SubElement(view, "VideoRectangle", name=VIDEO_CONTROL, toName=VIDEO_OBJECT)
    else:
        ElementTree.SubElement(view, "Image", name=OBJECT, value="$image", zoom="true")
        labels = ElementTree.SubElement(view, "RectangleLabels", name=CONTROL, toName=OBJECT)
    for name in classes:
        ElementTree.SubElement(labels, "Label", value=xml_text(name))
    return ElementTree.tostring(view, encoding="unicode")


def task(frame: SavedFrame, url: str = "", *, video: str = "", model_version: str | None = None) -> dict[str, Any]:
    """A task of one picture.

    Args:
        frame: The frame and its boxes, as `saving.frames_to_save` gives them.
        url: Where Label Studio finds the picture; the frame's name if empty.
        video: The key of the video that the frame is of; its export then says so.
        model_version: For pre-annotations: the model that made the boxes. They become a prediction, whose score is the
            mean of theirs. None for annotations.

    Returns:
        The task, to be imported. Read back, it is the same frame and, if it holds annotations, the same boxes.

    Raises:
        InputError: A frame with boxes has no width and height, or a box has corners that are no numbers.
    """
    data: dict[str, Any] = {OBJECT: url or frame.name, "frame": frame.name}
    known = {"video": video or None, "frame_index": frame.index, "pts_s": frame.pts_s}
    sizes = {"width": frame.width, "height": frame.height}
    data |= {key: value for key, value in (known | sizes).items() if value is not None}
    if frame.boxes and not (frame.width and frame.height):
        raise InputError(f"frame '{frame.name}' has no width and height, which Label Studio's per cents need")
    results = [_region(f"box{i}", box, frame) for i, box in enumerate(frame.boxes, 1)]
    scores = [float(box.says["confidence"]) for box in frame.boxes if "confidence" in box.says]
    reviewed = bool(frame.boxes) and all(box.says.get("reviewed") for box in frame.boxes)
    return {"data": data, **_answer(results, scores, reviewed, model_version)}


def _answer(results: list[Any], scores: list[float], reviewed: bool, model_version: str | None) -> dict[str, Any]:
    if model_version is None:
        return {"annotations": [{"result": results, "ground_truth": reviewed, "was_cancelled": False}]}
    prediction: dict[str, Any] = {"model_version": model_version, "result": results}
    if scores:
        prediction["score"] = sum(scores) / len(scores)
    return {"predictions": [prediction]}


def _region(name: str, box: SavedBox, frame: SavedFrame) -> dict[str, Any]:
    width, height = frame.width or 1, frame.height or 1
    found: dict[str, Any] = {
        "id": name,
        "type": "rectanglelabels",
        "from_name": CONTROL,
        "to_name": OBJECT,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {**_place(box.corners, width, height, frame.name), "rotation": 0, "rectanglelabels": [box.label]},
    }
    if "confidence" in box.says:
        found["score"] = float(box.says["confidence"])
    track = {} if box.track is None else {"track_id": box.track}
    return _with_meta(found, {**track, **_meta(box.says)})


def _place(corners: Corners, width: int, height: int, where: str) -> dict[str, float]:
    if not all(map(math.isfinite, corners)):
        raise InputError(f"{where} has a box whose corners are no numbers: {corners}")
    x1, y1, x2, y2 = corners
    across, down = 100 / width, 100 / height
    return {"x": x1 * across, "y": y1 * down, "width": (x2 - x1) * across, "height": (y2 - y1) * down}


def _meta(says: Mapping[str, Any], columns: Sequence[str] = _IN_META) -> dict[str, Any]:
    meta = {NAMES[name]: says[name] for name in columns if name in says and not (name == "reviewed" and not says[name])}
    if "attributes" in says:
        meta["attributes"] = json.loads(says["attributes"])
    return meta


def _with_meta(found: dict[str, Any], meta: dict[str, Any]) -> dict[str, Any]:
    return {**found, "meta": meta} if meta else found


def video_task(
    boxes: pd.DataFrame,
    url: str,
    *,
    video: str = "",
    frames: int | None = None,
    fps: float = 25.0,
    model_version: str | None = None,
) -> dict[str, Any]:
    """A task of one video, whose tracks are regions with keyframes.

    Args:
        boxes: The rows of one video, in pixels; every row needs `frame_index`. Rows of one `track` are one object, and
            a row without a track is an object of a single frame. Where there is a column `keyframe`, other rows are
            left to interpolation, except where a stretch begins or ends or where another thing is said of the box.
        url: Where Label Studio finds the video.
        video: The video's key; its export then says so.
        frames: How many frames the video has; up to the last row's if None.
        fps: Frames a second, as in `config`.
        model_version: As in `task`.

    Returns:
        The task, to be imported.

    Raises:
        InputError: A row without number, no width and height, a track of two classes or with two boxes in one frame.
    """
    if bool(boxes["frame_index"].isna().to_numpy().any()):
        raise InputError("Label Studio for video needs frame_index in every row")
    width, height = _sides(boxes)
    numbers = sorted(set(boxes["frame_index"].astype("int64").tolist()))
    length = max(frames or 0, numbers[-1] + 1 if numbers else 0)
    gaps = [b - a for a, b in pairwise(numbers)]
    step = math.gcd(*gaps) or 1
    data = {VIDEO_OBJECT: url, "video_key": video or None, "frames": length, "width": width, "height": height}
    results: list[dict[str, Any]] = []
    scores: list[float] = []
    every: list[bool] = []
    for one in objects(boxes):
        if not (width and height):
            raise InputError("the video has no width and height, which Label Studio's per cents need")
        metas = [_meta(says, _IN_VIDEO) | _score(says) for says in one.says]
        sequence: list[dict[str, Any]] = []
        for i, ends in marks(one, step, lambda i, before, metas=metas: metas[i] != metas[before]):
            frame = one.frames[i] + 1
            place = _place(one.corners[i], width, height, f"frame {one.frames[i]}")
            key = {"frame": frame, "enabled": not ends, "rotation": 0, "time": frame / fps, **place}
            sequence.append(_with_meta(key, metas[i]))
        value = {"framesCount": length, "duration": length / fps, "sequence": sequence, "labels": [one.label]}
        found: dict[str, Any] = {
            "id": one.name,
            "type": "videorectangle",
            "from_name": VIDEO_CONTROL,
            "to_name": VIDEO_OBJECT,
            "value": value,
        }
        sure = [float(says["confidence"]) for says in one.says if "confidence" in says]
        if sure and model_version is not None:
            found["score"] = sum(sure) / len(sure)
        scores += sure
        every += [bool(says.get("reviewed")) for says in one.says]
        results.append(found)
    known = {key: value for key, value in data.items() if value is not None}
    return {"data": known, **_answer(results, scores, bool(every) and all(every), model_version)}


_IN_VIDEO = tuple(name for name in _IN_META if name != "keyframe")


def _score(says: Mapping[str, Any]) -> dict[str, float]:
    return {"score": float(says["confidence"])} if "confidence" in says else {}


def _sides(boxes: pd.DataFrame) -> tuple[int | None, int | None]:
    known = [boxes[side].dropna() if side in boxes else [] for side in ("width", "height")]
    width, height = (int(max(one)) if len(one) else None for one in known)
    return width, height


def save(
    boxes: pd.DataFrame,
    classes: Sequence[str],
    out: Path,
    *,
    video: bool = False,
    model_version: str | None = None,
    urls: Mapping[str, str] | None = None,
    source: str = "",
    fps: float = 25.0,
) -> Saved:
    """Writes one file of tasks to import.

    Args:
        boxes: One row a box, in pixels; see `saving.frames_to_save`, and `video_task` for a video.
        classes: The classes that may occur.
        out: The `.json` file; its folder is made.
        video: Whether to write one task of a video with tracks, or a task for each picture.
        model_version: For pre-annotations: the model that made the boxes; None for annotations.
        urls: Where Label Studio finds a picture, by the frame's name; the name itself where it is missing.
        source: Where it finds the video.
        fps: The video's frames a second.

    Returns:
        The file written, and what the format cannot hold.

    Raises:
        InputError: A class that is not in `classes`, a frame with neither name nor number, boxes without a size, or
            what `video_task` refuses.
    """
    between: list[Problem] = []
    if video:
        check_classes(boxes, classes)
        tasks = [video_task(boxes, source or out.stem, fps=fps, model_version=model_version)]
        between = unseen(boxes, tasks[0]["data"]["frames"], out.name)
    else:
        frames = frames_to_save(boxes, classes)
        tasks = [task(frame, (urls or {}).get(frame.name, ""), model_version=model_version) for frame in frames]
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        content = orjson.dumps(tasks)
    except TypeError:  # whole numbers of more than 64 bits among the attributes
        content = json.dumps(tasks).encode()
    out.write_bytes(content)
    return Saved([out], [*between, *lost(boxes, VIDEO_HOLDS if video else HOLDS, out.name)])

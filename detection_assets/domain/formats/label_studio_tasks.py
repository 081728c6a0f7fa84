"""Tasks of Label Studio: whose picture or video they are of, how large it is, and who annotated it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detection_assets.domain.formats.label_studio_regions import Region
from detection_assets.domain.formats.parsed import frame_name, whole
from detection_assets.domain.formats.urls import base_of

_PICTURES = ("image", "img", "photo", "picture", "url")
_FILES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")
_VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
_OF_MIN = {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time"}


def from_min(found: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A task and its annotation from an entry of JSON-MIN, which has the controls' answers beside the data."""
    results: list[dict[str, Any]] = []
    data: dict[str, Any] = {}
    for key, value in found.items():
        if key in _OF_MIN:
            continue
        if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            results += [{"value": one, "from_name": key, **one} for one in value]
        else:
            data[key] = value
    annotation = {"id": found.get("annotation_id"), "completed_by": found.get("annotator"), "result": results}
    return {"id": found.get("id"), "data": data}, [annotation]


def person_of(annotation: Mapping[str, Any]) -> str | None:
    """Who completed an annotation: an e-mail address, a name or a number."""
    by = annotation.get("completed_by")
    if isinstance(by, dict):
        by = next((by[key] for key in ("email", "username", "id") if by.get(key)), None)
    return str(by).strip() or None if isinstance(by, str | int) and not isinstance(by, bool) else None


def size_of(about: Mapping[str, Any]) -> tuple[int, int] | None:
    """The width and height of the picture that a region, or a task's data, says."""
    width = whole(about.get("original_width", about.get("width")), 1)
    height = whole(about.get("original_height", about.get("height")), 1)
    return (width, height) if width and height else None


def size_in(found: Sequence[Region], data: Mapping[str, Any]) -> tuple[int, int] | None:
    """The width and height of a task's picture: as its first region that says so has it, else as its data says."""
    of_regions = (size for region in found if region.shape and (size := size_of(region.shape)))
    return next(of_regions, None) or size_of(data)


def is_video(data: Mapping[str, Any], found: Sequence[Region]) -> bool:
    """Whether a task is of a video and not of a picture."""
    shaped = [region for region in found if region.shape]
    if shaped:
        return any(region.kind == "videorectangle" for region in shaped)
    return not data.get("frame") and not any(data.get(key) for key in _PICTURES) and bool(data.get("video"))


def named(data: Mapping[str, Any], upload: str | None) -> tuple[str | None, str | None]:
    """The frame's or video's name as we gave it, else the address of the picture or video."""
    own, video = data.get("frame"), data.get("video")
    if isinstance(own, str) and (name := frame_name(own)):
        of_video = frame_name(video) if isinstance(video, str) else ""
        return (f"{of_video}/{name.rpartition('/')[2]}" if of_video else name), None
    if isinstance(key := data.get("video_key"), str) and (name := frame_name(key)):
        return name, None
    if upload and upload.lower().endswith((*_FILES, *_VIDEOS)):
        return None, f"/data/upload/{upload}"
    texts = [*((data.get(key)) for key in (*_PICTURES, "video")), *data.values()]
    given = [text for text in texts if isinstance(text, str) and text.strip()]
    likely = (text for text in given if base_of(text).lower().endswith((*_FILES, *_VIDEOS)))
    return None, next(likely, given[0] if given else None)

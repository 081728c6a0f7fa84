"""Regions of Label Studio: what one drawn thing is, where it is, and what is said of it.

A region's results share its `id`: its shape, often its label beside it, and what was answered about it (choices, texts,
numbers). Places are in per cent of the picture, and a shape is turned about its upper left corner, not its middle:
https://labelstud.io/guide/export.html#Label-Studio-JSON-format-of-annotated-tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from detection_assets.domain.formats.attributes import sort_out, to_json
from detection_assets.domain.formats.json_file import number
from detection_assets.domain.formats.parsed import whole
from detection_assets.domain.formats.shapes import Corners, around

_RECTANGLES = ("rectanglelabels", "rectangle")
_POLYGONS = ("polygonlabels", "polygon")
_ELLIPSES = ("ellipselabels", "ellipse")
_NO_BOXES = {
    **dict.fromkeys(("brushlabels", "brush", "magicwand", "bitmask", "bitmasklabels"), "painted with a brush"),
    **dict.fromkeys(("keypointlabels", "keypoint"), "a point"),
    **dict.fromkeys(("vectorlabels", "vector"), "a line"),
}
_VIDEO = ("videorectangle",)
_SHAPES = {*_RECTANGLES, *_POLYGONS, *_ELLIPSES, *_NO_BOXES, *_VIDEO}
_GEOMETRY = {"x", "y", "width", "height", "rotation", "points", "radiusX", "radiusY", "closed", "sequence"}

SPECIAL = ("attributes", "text")
"""Keys of a region's `meta` that are no columns: our attributes, and the note that an annotator wrote."""


@dataclass
class Region:
    """The results of one region.

    Attributes:
        name: Its id, or a place in the list.
        shape: The result that has the shape; None where there is none, as for what is said of the whole picture.
        kind: The shape's type.
        labels: The labels given.
        answers: What else was answered of it, by the name of the control.
    """

    name: str
    shape: Mapping[str, Any] | None = None
    kind: str = ""
    labels: list[str] = field(default_factory=list[str])
    answers: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def value(self) -> Mapping[str, Any]:
        """The shape's value."""
        return self.shape["value"] if self.shape else {}


def regions_of(results: Sequence[Any]) -> tuple[list[Region], int]:
    """Puts results together to regions, in the order of their first results; and counts what are no results."""
    found: dict[str, Region] = {}
    broken = 0
    for i, result in enumerate(results):
        kind = result.get("type") if isinstance(result, dict) else None
        if kind == "relation":
            continue
        value = result.get("value") if isinstance(result, dict) else None
        if not isinstance(value, dict):
            broken += 1
            continue
        kind = kind if isinstance(kind, str) else _kind_of(value)
        nameless = f"result[{i}]" if kind in _SHAPES else ""
        name = str(result["id"]) if isinstance(result.get("id"), str | int) else nameless
        region = found.setdefault(name, Region(name))
        if kind in _SHAPES and region.shape is None:
            region.shape, region.kind = result, kind
        labels = _labels(value)
        if labels:
            region.labels += [label for label in labels if label not in region.labels]
        elif kind not in _SHAPES and not kind.endswith("labels"):
            control = result.get("from_name")
            region.answers[control if isinstance(control, str) else kind] = _answer(kind, value)
    return list(found.values()), broken


def _kind_of(value: Mapping[str, Any]) -> str:
    """The type of a value that does not say it, as in JSON-MIN."""
    named = next((key for key in value if key in _SHAPES), "")
    if named:
        return named
    if "sequence" in value:
        return _VIDEO[0]
    return "rectangle" if "x" in value and "width" in value else "polygon" if "points" in value else ""


def _labels(value: Mapping[str, Any]) -> list[str]:
    for key, given in value.items():
        if key.endswith("labels") and isinstance(given, list):
            return [label.strip() for label in given if isinstance(label, str) and label.strip()]
    return []


def _answer(kind: str, value: Mapping[str, Any]) -> Any:
    """What was answered; a list of one is that one."""
    said = value.get(kind, {key: one for key, one in value.items() if key not in _GEOMETRY})
    return said[0] if isinstance(said, list) and len(said) == 1 else said


def why_no_box(region: Region) -> str:
    """What the region is where it is none of the shapes that have a box; empty where it is."""
    return _NO_BOXES.get(region.kind, "")


def corners_of(region: Region, size: tuple[int, int] | None) -> tuple[Corners, str] | None:
    """The box of a shape of a picture.

    Args:
        region: A region with a shape.
        size: The picture's width and height in pixels; None where nobody says, then the box is in fractions.

    Returns:
        The corners, and what the shape is if it is no upright box; None where the shape is not usable.
    """
    return _corners(region.kind, region.value, size)


def _corners(kind: str, value: Mapping[str, Any], size: tuple[int, int] | None) -> tuple[Corners, str] | None:
    across, down = (size[0] / 100, size[1] / 100) if size else (0.01, 0.01)
    note = ""
    if kind in _POLYGONS:
        try:
            xs, ys = zip(*((float(x), float(y)) for x, y in value["points"]), strict=True)
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        x1, y1, x2, y2 = around(xs, ys)
        found, note = (x1 * across, y1 * down, x2 * across, y2 * down), f"a polygon of {len(xs)} corners"
    elif kind in _ELLIPSES:
        places = _numbers(value, ("x", "y", "radiusX", "radiusY"))
        if places is None:
            return None
        x, y, a, b = places[0] * across, places[1] * down, places[2] * across, places[3] * down
        cos, sin = _cos_sin(_degrees(value))
        half_w, half_h = math.hypot(a * cos, b * sin), math.hypot(a * sin, b * cos)
        found, note = (x - half_w, y - half_h, x + half_w, y + half_h), "an ellipse"
    else:
        places = _numbers(value, ("x", "y", "width", "height"))
        if places is None:
            return None
        x, y, w, h = places
        degrees = _degrees(value)
        if degrees % 360:
            found = turned_in_degrees((x * across, y * down, w * across, h * down), degrees)
            note = f"a box turned by {degrees:g} degrees" if degrees % 90 else ""
        else:
            found = (x * across, y * down, (x + w) * across, (y + h) * down)
    # Per cents of pixels do not come back bit for bit; a billionth of a pixel is not seen.
    x1, y1, x2, y2 = (round(one, 9) for one in found) if size else found
    return (x1, y1, x2, y2), note


def turned_in_degrees(box: Corners, degrees: float) -> Corners:
    """The box around a box `x, y, width, height` that is turned clockwise about its upper left corner."""
    x, y, w, h = box
    cos, sin = _cos_sin(degrees)
    xs, ys = (0.0, w * cos, -h * sin, w * cos - h * sin), (0.0, w * sin, h * cos, w * sin + h * cos)
    return x + min(xs), y + min(ys), x + max(xs), y + max(ys)


def _degrees(value: Mapping[str, Any]) -> float:
    found = number(value.get("rotation"))
    return found if found is not None and math.isfinite(found) else 0.0


def _cos_sin(degrees: float) -> tuple[float, float]:
    right = {0.0: (1.0, 0.0), 90.0: (0.0, 1.0), 180.0: (-1.0, 0.0), 270.0: (0.0, -1.0)}.get(degrees % 360)
    return right or (math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))


def _numbers(value: Mapping[str, Any], names: Sequence[str]) -> list[float] | None:
    found = [number(value.get(name)) for name in names]
    return None if None in found else [one for one in found if one is not None]


@dataclass(frozen=True)
class Keyframe:
    """A place of a video's region: frame from 0, the box, its turn, whether it is still seen later, and its `meta`."""

    frame: int
    box: Corners
    degrees: float
    enabled: bool
    meta: object


def keyframes_of(region: Region) -> tuple[list[Keyframe], int]:
    """The keyframes of a video's region in the order of frames, and how many could not be used.

    `box` is `x, y, width, height` in per cent. Label Studio numbers frames from 1.
    """
    sequence = region.value.get("sequence")
    found: dict[int, Keyframe] = {}
    broken = 0
    for one in sequence if isinstance(sequence, list) else []:
        frame = whole(one.get("frame"), 1) if isinstance(one, dict) else None
        places = _numbers(one, ("x", "y", "width", "height")) if frame is not None else None
        if frame is None or places is None:
            broken += 1
            continue
        box = (places[0], places[1], places[2], places[3])
        enabled = one.get("enabled", True) is not False
        found[frame - 1] = Keyframe(frame - 1, box, _degrees(one), enabled, one.get("meta"))
    return [found[frame] for frame in sorted(found)], broken


def said_of(region: Region, meta: object, default: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """What is said of a box, by the table's columns, and whether all of it could be kept.

    Args:
        region: Its region; a score and answers hold for all of it.
        meta: The `meta` of the region, or of a keyframe.
        default: What holds where the box says nothing itself.
    """
    about = meta if isinstance(meta, dict) else {}
    said, rest = sort_out({**region.answers, **{key: one for key, one in about.items() if key not in SPECIAL}})
    score = number(region.shape.get("score")) if region.shape else None
    if score is not None and math.isfinite(score):
        said.setdefault("confidence", score)
    text = about.get("text")
    note = "\n".join(one for one in text if isinstance(one, str)) if isinstance(text, list) else text
    if isinstance(note, str) and note.strip():
        rest.setdefault("text", note)
    if isinstance(about.get("attributes"), dict):
        rest.update(about["attributes"])
    attributes = to_json(rest)
    if attributes is not None:
        said["attributes"] = attributes
    return {**default, **said}, attributes is not None or not rest

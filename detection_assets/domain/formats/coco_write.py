"""Writes COCO detection JSON, with what else is said of a box in `attributes`, as CVAT and Datumaro do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pandas as pd

from detection_assets.domain.formats.attributes import to_write
from detection_assets.domain.formats.parsed import FLAGS
from detection_assets.domain.formats.saving import OPTIONAL, Saved, group, lost, said
from detection_assets.domain.problems import Problem

HOLDS = OPTIONAL
"""The columns of `saving.OPTIONAL` that are written."""

_OF_BOXES = ("track", "annotator", "reviewed", "confidence", *FLAGS, "attributes")
_AS_ATTRIBUTES = ("annotator", "reviewed", "keyframe", "difficult", "truncated", "occluded")


def save(boxes: pd.DataFrame, classes: Sequence[str], out: Path) -> Saved:
    """Writes one COCO file.

    Args:
        boxes: One row a box, in pixels; see `saving.frames_to_save`.
        classes: Category names; their ids count from 1 in this order.
        out: The `.json` file; its folder is made.

    Returns:
        The file written, and what the format cannot hold. COCO says of every annotation whether it is a crowd: one of
        which the table says nothing is written as none. Who found an image empty stands in its `found_empty_by`, which
        is ours: without it, of two annotators the one who saw nothing would never have looked.

    Raises:
        InputError: A class that is not in `classes`, or a frame with neither name nor number.
    """
    grouped = group(boxes, classes)
    images: list[dict[str, Any]] = []
    sizes = zip(grouped.names, grouped.width, grouped.height, grouped.index, grouped.pts_s, strict=True)
    for i, (name, width, height, index, time) in enumerate(sizes, 1):
        image: dict[str, Any] = {"id": i, "file_name": name, "width": width, "height": height}
        if index is not None:
            image["frame_index"] = index
        if time is not None:
            image["pts_s"] = time
        if people := grouped.empty_for.get(i - 1):
            image["found_empty_by"] = people
        images.append(image)
    corners = grouped.corners.copy()
    corners[:, 2:] -= corners[:, :2]
    columns = zip(
        (grouped.frames() + 1).tolist(),
        (grouped.labels + 1).tolist(),
        corners.tolist(),
        (corners[:, 2] * corners[:, 3]).tolist(),
        strict=True,
    )
    annotations: list[dict[str, Any]] = [
        {"id": i, "image_id": image, "category_id": label, "bbox": box, "area": area, "iscrowd": 0, "segmentation": []}
        for i, (image, label, box, area) in enumerate(columns, 1)
    ]
    angles = 0
    for annotation, says in zip(annotations, said(boxes, grouped.rows, _OF_BOXES), strict=True):
        if says:
            angles += _say(annotation, says)
    ids = enumerate(classes, 1)
    categories = [{"id": i, "name": name, "supercategory": ""} for i, name in ids]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(orjson.dumps({"images": images, "annotations": annotations, "categories": categories}))
    problems = lost(boxes, HOLDS, out.name)
    if angles:
        what = f"{angles} boxes have an attribute 'rotation', which in COCO turns the box"
        problems.append(Problem(out.name, "attributes", what, "left out; rename it to keep it"))
    return Saved([out], problems)


def _say(annotation: dict[str, Any], says: dict[str, Any]) -> bool:
    """Writes what is said of a box; says whether an attribute had to be left out."""
    if "track" in says:
        annotation["track_id"] = str(says["track"])
    if "confidence" in says:
        annotation["score"] = float(says["confidence"])
    if says.get("crowd"):
        annotation["iscrowd"] = 1
    attributes = to_write(says, _AS_ATTRIBUTES)
    # To those who read COCO this is an angle by which the box is turned; ours are upright.
    angle = attributes.pop("rotation", None)
    if attributes:
        annotation["attributes"] = attributes
    return angle is not None

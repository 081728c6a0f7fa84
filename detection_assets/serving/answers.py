"""The shape of what the endpoint answers, and how detections become it."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from detection_assets.serving.scoring import Scored


class Box(BaseModel):
    """One object found."""

    model_config = ConfigDict(populate_by_name=True)

    class_name: str = Field(alias="class", description="Name of the class")
    class_id: int = Field(description="Position of the class in the model's list")
    confidence: float = Field(description="Between 0 and 1")
    x1: float = Field(description="Left edge in pixels of the picture as displayed (EXIF orientation applied)")
    y1: float = Field(description="Upper edge in pixels")
    x2: float = Field(description="Right edge in pixels, exclusive")
    y2: float = Field(description="Lower edge in pixels, exclusive")
    normalised: tuple[float, float, float, float] = Field(description="x1, y1, x2, y2 as shares of width and height")


class Picture(BaseModel):
    """What was found in one picture, most confident first."""

    width: int
    height: int
    boxes: list[Box]
    annotated: str | None = Field(
        None, description="The picture with its boxes drawn on it, a JPEG in base64; if it was asked for"
    )


class Unreadable(BaseModel):
    """A picture of a batch that could not be read."""

    error: str


class Served(BaseModel):
    """Who answered."""

    model_config = ConfigDict(protected_namespaces=())

    request_id: str
    detector: str
    slot: str
    model_version: str
    latency_ms: float = Field(description="From the request's arrival to this answer")


class Answer(Served, Picture):
    """The answer to one picture."""


class BatchAnswer(Served):
    """The answer to several pictures, in their order; a picture that cannot be read does not lose the others."""

    results: list[Picture | Unreadable]


class Error(BaseModel):
    """Why there are no boxes, and what to do."""

    error: str
    request_id: str


def picture(scored: Scored, classes: list[str]) -> dict[str, Any]:
    """Puts one picture's detections in the form of `Picture`.

    Pixels are rounded to a hundredth, shares and confidences to a millionth.
    """
    found = scored.detections
    boxes = found.boxes.astype(np.float64)
    shares = np.round(boxes / np.array([scored.width, scored.height] * 2, np.float64), 6).tolist()
    pixels, confidence = np.round(boxes, 2).tolist(), np.round(found.confidence.astype(np.float64), 6).tolist()
    return {
        "width": scored.width,
        "height": scored.height,
        "boxes": [
            {
                "class": classes[class_id],
                "class_id": class_id,
                "confidence": sure,
                "x1": x1,
                "y1": y1,
                "x2": x2,
                "y2": y2,
                "normalised": share,
            }
            for class_id, sure, (x1, y1, x2, y2), share in zip(
                found.class_id.tolist(), confidence, pixels, shares, strict=True
            )
        ],
    }

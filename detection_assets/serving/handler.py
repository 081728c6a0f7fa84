"""Answers requests without a server of ours around it: what `score.py` and `inference.py` have in common.

Bodies, pictures, network and answers are the server's own, so the boxes are, to the byte.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

from detection_assets.domain.problems import InputError
from detection_assets.serving import answers, images
from detection_assets.serving.bodies import Pictures, check_number, unwrap
from detection_assets.serving.bundle import find
from detection_assets.serving.predictor import Predictor
from detection_assets.serving.refusals import Refused
from detection_assets.serving.scoring import Limits, Scored

LIMITS = Limits()
"""What a request may ask; the queue and the times are the cloud's own."""


def read(body: bytes | str, content_type: str, limits: Limits = LIMITS) -> Pictures:
    """Takes the pictures out of a body.

    Raises:
        Refused: 400, 413, 415 or 422, with the reason and the remedy.
    """
    content = body.encode() if isinstance(body, str) else body
    if len(content) > limits.body_bytes:
        raise Refused(413, f"the body has more than {limits.body_bytes:,} bytes: send a smaller picture")
    return check_number(unwrap(content, content_type), limits.pictures)


class Handler:
    """One loaded model. Safe to call from several threads."""

    def __init__(self, place: Path, limits: Limits = LIMITS, **known: Any) -> None:
        """Loads the model in a folder and warms it up.

        Args:
            place: The folder that the cloud put it in, or its file; see `bundle.find`.
            limits: What a request may ask.
            **known: What is known of the model better than beside it; see `bundle.find`.

        Raises:
            InputError: There is no such model.
            ModelError: It does not work.
        """
        self.bundle, self.limits = find(place, **known), limits
        spec = self.bundle.spec
        self.predictor = Predictor(
            spec.model, confidence=spec.confidence, iou=spec.iou, max_det=spec.max_det, sha256=spec.sha256
        )
        images.warm_up()
        self.predictor.warm_up()

    def answer(self, given: Pictures, request_id: str = "") -> dict[str, Any]:
        """Finds objects; the answer has the form of `answers.Answer` or `answers.BatchAnswer`.

        Raises:
            Refused: 422 if no picture can be read.
            ModelError: The model failed.
        """
        began = time.perf_counter()
        names = ["the picture"] if len(given.encoded) == 1 else [f"picture {i}" for i in range(len(given.encoded))]
        pictures = [self.look(data, name, given.confidence) for data, name in zip(given.encoded, names, strict=True)]
        problems = [one["error"] for one in pictures if "error" in one]
        if len(problems) == len(pictures):
            raise Refused(422, "; ".join(problems))
        return {
            "request_id": request_id or uuid.uuid4().hex,
            "detector": self.bundle.detector,
            "slot": self.bundle.slot,
            "model_version": self.bundle.spec.version,
            "latency_ms": round((time.perf_counter() - began) * 1000, 3),
        } | ({"results": pictures} if given.batch else pictures[0])

    def look(self, data: bytes | str, name: str, confidence: float | None = None) -> dict[str, Any]:
        """Finds objects in one picture, or says why it cannot be read.

        Args:
            data: Its bytes; a reason in place of bytes is passed through.
            name: What to call it in an error.
            confidence: The caller's own threshold.

        Returns:
            In the form of `answers.Picture` or `answers.Unreadable`.

        Raises:
            ModelError: The model failed.
        """
        if isinstance(data, str):
            return {"error": data}
        try:
            image = images.decode(data, name=name, max_bytes=self.limits.body_bytes, max_pixels=self.limits.pixels)
        except InputError as error:
            return {"error": str(error)}
        scored = Scored(image.shape[1], image.shape[0], self.predictor.predict(image, confidence))
        return answers.picture(scored, self.predictor.classes)

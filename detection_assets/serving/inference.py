"""The entry script for SageMaker's inference toolkit: `SAGEMAKER_PROGRAM=detection_assets.serving.inference`.

Takes what `/invocations` of our server takes, but for forms: a picture's bytes, or JSON with base64.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
from sagemaker_inference.errors import BaseInferenceToolkitError

from detection_assets.serving.bodies import BYTES, Pictures
from detection_assets.serving.handler import Handler, read
from detection_assets.serving.refusals import Refused


def model_fn(model_dir: str) -> Handler:
    """Loads the one model in a folder."""
    return Handler(Path(model_dir))


def input_fn(body: bytes | str, content_type: str | None) -> Pictures:
    """Takes the pictures out of a body."""
    with _told():
        return read(body, content_type or BYTES)


def predict_fn(given: Pictures, model: Handler) -> dict[str, Any]:
    """Finds objects; the answer has the form of `answers.Answer` or `answers.BatchAnswer`."""
    with _told():
        return model.answer(given)


def output_fn(prediction: dict[str, Any], accept: str) -> tuple[str, str]:
    """Writes the answer, as JSON whatever is asked for: there is no other form."""
    return orjson.dumps(prediction).decode(), "application/json"


@contextmanager
def _told() -> Iterator[None]:
    """Gives a refusal its own status: the toolkit takes any other exception for a failure of the server."""
    try:
        yield
    except Refused as error:
        raise BaseInferenceToolkitError(error.status, str(error), str(error)) from error

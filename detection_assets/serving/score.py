"""The entry script for Azure ML's own inference server: `azmlinfsrv --entry_script score.py`.

Takes what `/score` of our server takes, but for forms: a picture's bytes, or JSON with base64. The model is the one in
`$AZUREML_MODEL_DIR`.
"""

from __future__ import annotations

import logging

import orjson
from azureml_inference_server_http.api.aml_request import AMLRequest, rawhttp
from azureml_inference_server_http.api.aml_response import AMLResponse

from detection_assets.serving.bodies import BYTES
from detection_assets.serving.bundle import usual_place
from detection_assets.serving.handler import Handler, read
from detection_assets.serving.refusals import Refused

logger = logging.getLogger("detection.score")
_loaded: list[Handler] = []


def init() -> None:
    """Loads the model; called once, before the first request."""
    _loaded[:] = [Handler(usual_place())]


@rawhttp
def run(raw: AMLRequest | str) -> AMLResponse | str:
    """Answers one request.

    Args:
        raw: The request itself; or its JSON, from a server that hands scripts no more than that.

    Returns:
        JSON in the form of `answers.Answer`, `answers.BatchAnswer` or `answers.Error`.
    """
    if isinstance(raw, str):
        return orjson.dumps(_answer(raw, "application/json", "")).decode()
    request_id = raw.headers.get("x-request-id", "")
    if raw.method != "POST":
        return _response({"error": f"{raw.method} finds nothing: POST a picture", "request_id": request_id}, 405)
    try:
        return _response(_answer(raw.get_data(), raw.headers.get("content-type", BYTES), request_id), 200)
    except Refused as error:
        return _response({"error": str(error), "request_id": request_id}, error.status)


def _answer(body: bytes | str, content_type: str, request_id: str) -> dict[str, object]:
    return _loaded[0].answer(read(body, content_type), request_id)


def _response(content: dict[str, object], status: int) -> AMLResponse:
    return AMLResponse(orjson.dumps(content), status, {"Content-Type": "application/json"})

"""What the OpenAPI document says about scoring beyond what the code itself tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from detection_assets.serving import answers

ENCODED = {"type": "string", "contentEncoding": "base64"}
FILE = {"type": "string", "format": "binary"}
CONFIDENCE = {"type": "number", "minimum": 0, "maximum": 1}

BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "image": ENCODED | {"description": "one picture"},
                    "images": {"type": "array", "minItems": 1, "items": ENCODED},
                    "confidence": CONFIDENCE | {"type": ["number", "null"]},
                },
                "oneOf": [{"required": ["image"]}, {"required": ["images"]}],
            }
        },
        "image/*": {"schema": FILE},
        "application/octet-stream": {"schema": FILE},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "additionalProperties": False,
                "properties": {"file": FILE, "confidence": CONFIDENCE},
            }
        },
    },
}

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": answers.Error, "description": description}
    for status, description in {
        400: "The body is empty or cannot be parsed",
        401: "The key is missing or wrong",
        404: "There is no such slot",
        406: "A picture was asked for, but there are several",
        408: "The body arrived too slowly",
        413: "The body or the batch is too large",
        415: "A content type that is not understood",
        422: "The picture or a value cannot be used",
        429: "Too many requests wait already; see Retry-After",
        500: "The model failed, and there was no other to answer",
        503: "No model is ready; see Retry-After",
        504: "Not answered in time",
    }.items()
}

ANSWERS: dict[int | str, dict[str, Any]] = ERRORS | {
    200: {"description": "What was found", "content": {"image/jpeg": {"schema": FILE}}}
}

KEYS: list[dict[str, list[str]]] = [{"X-API-Key": []}, {"Bearer": []}]
"""Either of the two opens what is secured."""


def with_keys(document: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """Makes a document say how a key is sent.

    FastAPI would say so by itself for keys that it takes out of the request, at the price of three dependencies to
    solve for each.
    """

    def told() -> dict[str, Any]:
        complete = document()
        complete.setdefault("components", {})["securitySchemes"] = {
            "X-API-Key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            "Bearer": {"type": "http", "scheme": "bearer"},
        }
        return complete

    return told

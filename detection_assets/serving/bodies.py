"""Reads pictures out of a request: raw bytes, JSON with base64, or a form. Nothing is read past the limits."""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from detection_assets.serving.deadline import within
from detection_assets.serving.refusals import Refused

JSON_HINT = 'send {"image": "<base64>"} or {"images": ["<base64>", ...]}, and optionally "confidence" between 0 and 1'
BYTES = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Pictures:
    """What a request asks to be scored.

    Attributes:
        encoded: The bytes of each picture; for one that could not even be unwrapped, the reason.
        confidence: The caller's own threshold, if there is one.
        batch: Whether the answer is a list, also for one picture.
    """

    encoded: list[bytes | str]
    confidence: float | None = None
    batch: bool = False


async def read_pictures(request: Request, *, max_bytes: int, max_pictures: int, timeout_s: float) -> Pictures:
    """Reads the body of a request and takes the pictures out of it.

    Args:
        request: The request, its body not yet read.
        max_bytes: Most bytes in the body.
        max_pictures: Most pictures in a request.
        timeout_s: Seconds within which the body must have arrived.

    Raises:
        Refused: 400, 408, 413, 415 or 422, with the reason and the remedy.
    """
    body = await _read(request, max_bytes, timeout_s)
    content_type = request.headers.get("content-type", BYTES)
    if media_type(content_type) == "multipart/form-data":
        pictures = await _from_form(request, body, max_pictures)
    else:
        pictures = unwrap(body, content_type)
    return check_number(pictures, max_pictures)


def unwrap(body: bytes, content_type: str = BYTES) -> Pictures:
    """Takes the pictures out of a body that is no form.

    Args:
        body: The whole body.
        content_type: Its content type, parameters included.

    Raises:
        Refused: 400, 415 or 422, with the reason and the remedy.
    """
    kind = media_type(content_type)
    if not body:
        raise Refused(400, f"the body is empty: send the picture's bytes, a multipart file, or JSON: {JSON_HINT}")
    if kind == "application/json":
        return _from_json(body)
    if kind.startswith("image/") or kind == BYTES:
        return Pictures([body])
    raise Refused(
        415, f"cannot read {kind[:80]!r}: send the picture's bytes as image/*, a multipart file, or JSON: {JSON_HINT}"
    )


def check_number(pictures: Pictures, max_pictures: int) -> Pictures:
    """Returns what it is given.

    Raises:
        Refused: 413 if there are more pictures than may be in a request.
    """
    if len(pictures.encoded) > max_pictures:
        raise Refused(
            413, f"{len(pictures.encoded)} pictures in a request, more than {max_pictures}: send fewer at once"
        )
    return pictures


def media_type(content_type: str) -> str:
    """The content type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


async def _read(request: Request, max_bytes: int, timeout_s: float) -> bytes:
    too_large = Refused(413, f"the body has more than {max_bytes:,} bytes: send a smaller picture, or fewer at once")
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared) > max_bytes:
        raise too_large
    chunks, total = [], 0
    try:
        async with within(timeout_s):
            async for chunk in request.stream():
                total += len(chunk)
                if total > max_bytes:
                    raise too_large
                chunks.append(chunk)
    except asyncio.TimeoutError:
        raise Refused(408, f"the body did not arrive within {timeout_s:g} seconds: send it again") from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _from_json(body: bytes) -> Pictures:
    try:
        raw: Any = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refused(400, f"the body is not JSON ({error}): {JSON_HINT}") from None
    if not isinstance(raw, Mapping):
        raise Refused(422, f"the body is a JSON {type(raw).__name__} where an object is needed: {JSON_HINT}")
    unknown = sorted(raw.keys() - {"image", "images", "confidence"})
    if unknown:
        raise Refused(422, f"unknown key {unknown[0][:80]!r}: {JSON_HINT}")
    if ("image" in raw) == ("images" in raw):
        raise Refused(422, f'exactly one of "image" and "images" is needed: {JSON_HINT}')
    confidence = None if raw.get("confidence") is None else check_confidence(raw["confidence"])
    if "image" in raw:
        return Pictures([_from_base64(raw["image"], '"image"')], confidence)
    images = raw["images"]
    if not isinstance(images, list) or not images:
        raise Refused(422, f'"images" must be a list with at least one picture: {JSON_HINT}')
    encoded: list[bytes | str] = []
    for index, image in enumerate(images):
        try:
            encoded.append(_from_base64(image, f'"images"[{index}]'))
        except Refused as error:  # one bad picture never loses the others
            encoded.append(str(error))
    return Pictures(encoded, confidence, batch=True)


def _from_base64(value: Any, name: str) -> bytes:
    if not isinstance(value, str):
        raise Refused(422, f"{name} is a JSON {type(value).__name__} where a base64 string is needed: {JSON_HINT}")
    if value.startswith("data:"):
        value = value.partition(",")[2]
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        pass
    try:  # encoders that break lines are common
        return base64.b64decode("".join(value.split()), validate=True)
    except ValueError as error:
        raise Refused(422, f"{name} is not base64 ({error}): encode the picture's bytes again") from None


async def _from_form(request: Request, body: bytes, max_pictures: int) -> Pictures:
    pending = [body]

    async def receive() -> Message:
        return {"type": "http.request", "body": pending.pop() if pending else b"", "more_body": False}

    try:
        form = await Request(request.scope, receive).form(max_files=max_pictures, max_fields=8, max_part_size=4096)
    except HTTPException as error:
        raise Refused(
            400, f"the form cannot be read ({error.detail}): send each picture as a file of the form"
        ) from None
    encoded: list[bytes | str] = []
    confidence = None
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                encoded.append(await value.read())
            elif name == "confidence":
                confidence = check_confidence(value)
            else:
                raise Refused(422, f"unknown field {name[:80]!r}: send pictures as files, and optionally confidence")
    finally:
        await form.close()
    if not encoded:
        raise Refused(422, "the form has no file: send each picture as a file of the form")
    return Pictures(encoded, confidence, batch=len(encoded) > 1)


def check_confidence(value: Any) -> float:
    """Takes a caller's threshold, a number or its text.

    Raises:
        Refused: 422 if it is not a number between 0 and 1.
    """
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number <= 1:
        raise Refused(422, f"confidence is {str(value)[:40]!r}; it must be a number between 0 and 1")
    return number

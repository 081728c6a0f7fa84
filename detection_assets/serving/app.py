"""The endpoint: one detector behind HTTP, on a stable address, whatever model serves behind it.

`python -m detection_assets.serving.app --state FILE` runs it; `create_app` is for other servers.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import logging
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import orjson
from fastapi import Depends, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from detection_assets.serving import answers
from detection_assets.serving.bodies import read_pictures
from detection_assets.serving.observe import Call, Metrics, Observed, log_to_stderr
from detection_assets.serving.predictor import ModelError
from detection_assets.serving.refusals import Refused
from detection_assets.serving.scoring import Limits, Scorer
from detection_assets.serving.slots import Slots

KEY_VARIABLE = "DETECTION_ENDPOINT_KEY"
KEY_HEADER = APIKeyHeader(name="X-API-Key", auto_error=False)
KEY_BEARER = HTTPBearer(auto_error=False)
PAGE = Path(__file__).parent / "page"
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "image": {"type": "string", "contentEncoding": "base64", "description": "one picture"},
                    "images": {
                        "type": "array",
                        "minItems": 1,
                        "items": {"type": "string", "contentEncoding": "base64"},
                    },
                    "confidence": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
                },
                "oneOf": [{"required": ["image"]}, {"required": ["images"]}],
            }
        },
        "image/*": {"schema": {"type": "string", "format": "binary"}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {
                    "file": {"type": "string", "format": "binary"},
                    "confidence": {"type": "number", "minimum": 0, "maximum": 1},
                },
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
        408: "The body arrived too slowly",
        413: "The body or the batch is too large",
        415: "A content type that is not understood",
        422: "The picture or a value cannot be used",
        429: "Too many requests wait already; see Retry-After",
        500: "The model failed",
        503: "No model is ready; see Retry-After",
        504: "Not answered in time",
    }.items()
}

logger = logging.getLogger("detection.app")


def create_app(slots: Slots, *, key: str, limits: Limits | None = None) -> FastAPI:
    """Builds the HTTP app around slots; the app starts and stops following their state file.

    Args:
        slots: The models; not yet started.
        key: What callers must send as `X-API-Key` or as a bearer token.
        limits: What the endpoint takes on.

    Returns:
        The app. `app.state.scorer` and `app.state.metrics` are what other routes for scoring would share.

    Raises:
        ValueError: The key is empty.
    """
    if not key:
        raise ValueError(f"an endpoint needs a key: set {KEY_VARIABLE} or pass --key-file")
    scorer, metrics, started = Scorer(limits or Limits()), Metrics(), time.time()
    metrics.in_flight.set_function(lambda: scorer.admitted)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        slots.start()
        yield
        slots.stop()
        scorer.close()

    app = FastAPI(
        title="Detection endpoint",
        description="Finds objects in pictures. Send a picture to `/score`; see who answers in `/status`.",
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.scorer, app.state.metrics = scorer, metrics
    app.add_middleware(Observed, metrics=metrics)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(ModelError, _model_failed)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _bad_value)
    keyed = [Depends(_key_check(key))]

    @app.post(
        "/score",
        dependencies=keyed,
        response_model=answers.Answer | answers.BatchAnswer,
        responses=ERRORS,
        openapi_extra={"requestBody": BODY},
        summary="Find objects in one picture or several",
    )
    async def score(
        request: Request,
        confidence: Annotated[float | None, Query(ge=0, le=1, description="Overrides the slot's threshold")] = None,
        x_detection_slot: Annotated[str | None, Header(description="Address one slot, whatever its traffic")] = None,
    ) -> Response:
        call: Call = request.state.call
        call.scoring = True
        chosen = slots.choose(x_detection_slot)
        call.slot = chosen.name
        with scorer.admit():
            given = await read_pictures(
                request,
                max_bytes=scorer.limits.body_bytes,
                max_pictures=scorer.limits.pictures,
                timeout_s=scorer.limits.body_timeout_s,
            )
            threshold = confidence if given.confidence is None else given.confidence
            results, timing = await scorer.score(chosen.predictor, given.encoded, threshold)
        problems = [one for one in results if isinstance(one, str)]
        if len(problems) == len(results):
            raise Refused(422, "; ".join(problems))
        pictures: list[dict[str, Any]] = []
        for one in results:
            if isinstance(one, str):
                pictures.append({"error": one})
                continue
            pictures.append(answers.picture(one, chosen.predictor.classes))
            metrics.count_boxes(chosen.name, chosen.predictor.classes, one.detections)
        call.fields = {
            "version": chosen.spec.version,
            "pictures": len(pictures),
            "boxes": sum(len(one.get("boxes", ())) for one in pictures),
            "decode_ms": round(timing.decode * 1000, 2),
            "predict_ms": round(timing.predict * 1000, 2),
        }
        answer = {
            "request_id": call.request_id,
            "detector": slots.detector,
            "slot": chosen.name,
            "model_version": chosen.spec.version,
            "latency_ms": round(call.seconds * 1000, 3),
        } | ({"results": pictures} if given.batch else pictures[0])
        return Response(orjson.dumps(answer), media_type="application/json")

    @app.get("/healthz", summary="The process is alive")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", responses={503: ERRORS[503]}, summary="A model with traffic is loaded and warm")
    async def readyz() -> dict[str, str]:
        if not slots.ready:
            raise Refused(503, "no slot with traffic is loaded yet; see GET /status", retry_after=1)
        return {"status": "ready"}

    @app.get("/metrics", response_class=Response, summary="Metrics in Prometheus' text format")
    async def metrics_text() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/status", dependencies=keyed, responses={401: ERRORS[401]}, summary="Slots, versions, traffic, errors")
    async def status() -> dict[str, Any]:
        queue = {"in_flight": scorer.admitted, "queue": scorer.limits.queue}
        return slots.status() | queue | {"uptime_s": round(time.time() - started, 1)}

    for path, file, kind in (
        ("/", "index.html", "html"),
        ("/page.css", "page.css", "css"),
        ("/page.js", "page.js", "javascript"),
    ):
        app.add_api_route(path, _page_part(PAGE / file, f"text/{kind}"), include_in_schema=False)
    return app


def _key_check(key: str) -> Any:
    digest = hashlib.sha256(key.encode()).digest()

    async def check(
        by_header: Annotated[str | None, Depends(KEY_HEADER)],
        by_bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(KEY_BEARER)],
    ) -> None:
        given = by_header or (by_bearer.credentials if by_bearer else "")
        # Digests of equal length, so that the time of comparing tells nothing, not even the key's length.
        if not hmac.compare_digest(hashlib.sha256(given.encode()).digest(), digest):
            what = "is wrong" if given else "is missing"
            raise Refused(401, f"the key {what}: send it as X-API-Key or as Authorization: Bearer")

    return check


def _page_part(file: Path, media_type: str) -> Any:
    content = file.read_bytes()

    async def part() -> Response:
        return Response(content, media_type=media_type, headers=PAGE_HEADERS)

    return part


def _error(request: Request, status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    call: Call = request.state.call
    call.fields = {"error": message}
    body = orjson.dumps({"error": message, "request_id": call.request_id})
    return Response(body, status, headers, media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _error(request, error.status, str(error), headers)


async def _model_failed(request: Request, error: Exception) -> Response:
    return _error(request, 500, str(error))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}; see /docs for what there is"
    return _error(request, error.status_code, message, dict(error.headers or {}))


async def _bad_value(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return _error(request, 422, f"{' '.join(str(part) for part in first['loc'])}: {first['msg']}; see /docs")


def main(arguments: list[str] | None = None) -> None:
    """Runs the endpoint until SIGTERM or SIGINT; requests in flight are still answered."""
    import uvicorn

    usual = Limits()
    parser = argparse.ArgumentParser(prog="detection_assets.serving.app", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="state file to follow")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind; loopback unless told otherwise")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--key-file", type=Path, help=f"file that holds the key; else the environment's {KEY_VARIABLE}")
    parser.add_argument("--threads", type=int, help="cores for a model; all if left out")
    parser.add_argument("--queue", type=int, default=usual.queue, help="requests that may wait")
    parser.add_argument("--max-body", type=int, default=usual.body_bytes, help="bytes")
    parser.add_argument("--max-pixels", type=int, default=usual.pixels)
    parser.add_argument("--timeout", type=float, default=usual.timeout_s, help="seconds from admission to answer")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    options = parser.parse_args(arguments)
    try:
        key = options.key_file.read_text().strip() if options.key_file else os.environ.get(KEY_VARIABLE, "")
    except OSError as error:
        parser.error(f"--key-file {options.key_file}: {error.strerror}")
    if not key:
        parser.error(f"an endpoint needs a key: set {KEY_VARIABLE} or pass --key-file with a file that is not empty")
    log_to_stderr(options.log_level)
    limits = Limits(
        body_bytes=options.max_body, pixels=options.max_pixels, queue=options.queue, timeout_s=options.timeout
    )
    app = create_app(Slots(options.state.absolute(), threads=options.threads), key=key, limits=limits)
    config = uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,  # longer than a load balancer's 60, so that it is never the server who hangs up first
        timeout_graceful_shutdown=int(options.timeout) + 1,
    )
    logger.info("starting", extra={"fields": {"url": f"http://{options.host}:{options.port}", "pid": os.getpid()}})
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main(sys.argv[1:])

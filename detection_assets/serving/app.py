"""The endpoint: one detector behind HTTP, on a stable address, whatever model serves behind it.

`python -m detection_assets.serving.app --state FILE` runs it and follows what a controller writes; with `--model PATH`
it serves one model, as a container of SageMaker or Azure ML. `create_app` is for other servers.
"""

from __future__ import annotations

import base64
import gc
import hashlib
import hmac
import logging
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import orjson
from fastapi import Depends, FastAPI, Header, Query, Request, Response
from starlette.background import BackgroundTask

from detection_assets.domain.rollout import TRIAL
from detection_assets.serving import answers
from detection_assets.serving.answering import SCORING, Answered, Desk
from detection_assets.serving.bodies import media_type
from detection_assets.serving.bundle import Bundle
from detection_assets.serving.document import ANSWERS, BODY, ERRORS, KEYS, with_keys
from detection_assets.serving.errors import HANDLERS, Gate
from detection_assets.serving.observe import Call, Metrics, Observed, Presence, log_to_stderr
from detection_assets.serving.options import KEY_VARIABLE, read_options
from detection_assets.serving.refusals import Refused
from detection_assets.serving.reports import Reports
from detection_assets.serving.scoring import Limits
from detection_assets.serving.slots import Slots

PAGE = Path(__file__).parent / "page"
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"
"""The one header of a caller's that SageMaker hands on."""
BATCH = "SAGEMAKER_BATCH"
"""What SageMaker sets to `true` where it asks about the pictures of a batch."""
logger = logging.getLogger("detection.app")


def create_app(slots: Slots, *, key: str | None, limits: Limits | None = None, bundle: Bundle | None = None) -> FastAPI:
    """Builds the HTTP app around slots; the app starts and stops following their state file.

    Args:
        slots: The models; not yet started.
        key: What callers must send as `X-API-Key` or as a bearer token; None where something in front of the endpoint
            knows its callers.
        limits: What the endpoint takes on.
        bundle: What the slots hold, where they follow no state file; if it names a desk, the app reports there.

    Returns:
        The app. `app.state.presence` tells whether requests are there.

    Raises:
        ValueError: The key is empty.
    """
    if key == "":
        raise ValueError(f"an endpoint needs a key: set {KEY_VARIABLE} or pass --key-file")
    metrics, presence, started = Metrics(), Presence(), time.time()
    desk = Desk(slots, limits or Limits(), metrics)
    metrics.in_flight.set_function(lambda: desk.in_flight)

    reports = Reports(bundle, slots, desk.elsewhere) if bundle is not None and bundle.desk else None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        slots.start()
        if reports is not None:
            reports.start()
        yield
        slots.stop()
        desk.close()
        if reports is not None:
            reports.close()

    app = FastAPI(
        title="Detection endpoint",
        description="Finds objects in pictures. Send a picture to `/score`; see who answers in `/status`.",
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.presence = presence
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
    check = _key_check(key) if key is not None else None
    keyed = [Depends(check)] if check is not None else []
    secured = {"security": KEYS} if keyed else {}

    async def score(
        request: Request,
        confidence: Annotated[float | None, Query(ge=0, le=1, description="Overrides the slot's threshold")] = None,
        annotated: Annotated[bool, Query(description="Adds the picture with its boxes, a JPEG in base64")] = False,
        x_detection_slot: Annotated[str | None, Header(description="Address one slot, whatever its traffic")] = None,
    ) -> Response:
        call: Call = request.state.call
        call.scoring = True
        as_picture = wants_picture(request.headers.get("accept", ""))
        addressed = x_detection_slot
        if addressed is None and request.headers.get(ATTRIBUTES) == TRIAL and slots.sharing:
            addressed = slots.sharing[0].name
        answered = await desk.answer(
            request, call, confidence=confidence, addressed=addressed, keep_pixels=annotated or as_picture
        )
        later = None
        if desk.notes(answered):
            later = BackgroundTask(_note, desk, answered, call, round(call.seconds * 1000, 3))
        if as_picture:
            return await _picture_alone(desk, answered, later)
        if annotated:
            for scored, picture in zip(answered.results, answered.pictures, strict=True):
                if not isinstance(scored, str):
                    drawn = await desk.scorer.annotate(scored, answered.loaded.predictor.classes)
                    picture["annotated"] = base64.b64encode(drawn).decode()
        answer = {
            "request_id": call.request_id,
            "detector": slots.detector,
            "slot": answered.loaded.name,
            "model_version": answered.loaded.spec.version,
            "latency_ms": round(call.seconds * 1000, 3),
        } | ({"results": answered.pictures} if answered.given.batch else answered.pictures[0])
        return Response(orjson.dumps(answer), media_type="application/json", background=later)

    async def score_plainly(request: Request) -> Response:
        if check is not None:
            await check(request)
        return await score(request)

    app.add_middleware(Gate, desk=desk, score=score_plainly)
    app.add_middleware(Observed, metrics=metrics, presence=presence)  # added last, so around all else
    for path, summary in (
        (SCORING[0], "Find objects in one picture or several"),
        (SCORING[1], "The same, where SageMaker asks for it"),
    ):
        app.add_api_route(
            path,
            score,
            methods=["POST"],
            dependencies=keyed,
            response_model=answers.Answer | answers.BatchAnswer,
            responses=ANSWERS,
            openapi_extra={"requestBody": BODY} | secured,
            summary=summary,
        )

    @app.get("/healthz", summary="The process is alive")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    async def readyz() -> dict[str, str]:
        if presence.leaving:
            raise Refused(503, "the server is about to end: ask another one", retry_after=1)
        if not slots.ready:
            raise Refused(503, "no slot with traffic is loaded yet; see GET /status", retry_after=1)
        return {"status": "ready"}

    for path, summary in (
        ("/readyz", "A model with traffic is loaded and warm"),
        ("/ping", "The same, where SageMaker asks for it"),
    ):
        app.add_api_route(path, readyz, methods=["GET"], responses={503: ERRORS[503]}, summary=summary)

    @app.get("/metrics", response_class=Response, summary="Metrics in Prometheus' text format")
    async def metrics_text() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get(
        "/status",
        dependencies=keyed,
        responses={401: ERRORS[401]},
        openapi_extra=secured,
        summary="Slots, versions, traffic, counters",
    )
    async def status() -> dict[str, Any]:
        return slots.status() | {
            "capture": desk.capture.status(slots.capture),
            "in_flight": desk.in_flight,
            "queue": desk.queue,
            "uptime_s": round(time.time() - started, 1),
        }

    for path, file, kind in (
        ("/", "index.html", "html"),
        ("/page.css", "page.css", "css"),
        ("/page.js", "page.js", "javascript"),
    ):
        app.add_api_route(path, _page_part(PAGE / file, f"text/{kind}"), include_in_schema=False)
    if keyed:
        app.openapi = with_keys(app.openapi)
    return app


async def _note(desk: Desk, answered: Answered, call: Call, latency_ms: float) -> None:
    desk.note(answered, call, latency_ms)


def wants_picture(accept: str) -> bool:
    """Whether a caller would rather have the annotated picture than JSON: the first type of the two it names."""
    for part in accept.split(","):
        kind = media_type(part)
        if kind in ("image/jpeg", "image/jpg", "image/*"):
            return True
        if kind in ("application/json", "application/*", "*/*"):
            return False
    return False


async def _picture_alone(desk: Desk, answered: Answered, later: BackgroundTask | None) -> Response:
    if answered.given.batch:
        raise Refused(406, "a JPEG can show one picture, not several: accept application/json, or send one picture")
    (scored,) = answered.results
    assert not isinstance(scored, str)  # then there would be no answer
    content = await desk.scorer.annotate(scored, answered.loaded.predictor.classes)
    served = {"X-Detection-Slot": answered.loaded.name, "X-Model-Version": answered.loaded.spec.version}
    boxes = {"X-Detection-Boxes": str(len(scored.detections))}
    return Response(content, media_type="image/jpeg", headers=served | boxes, background=later)


def _key_check(key: str) -> Any:
    digest = hashlib.sha256(key.encode()).digest()

    async def check(request: Request) -> None:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        given = request.headers.get("x-api-key") or (token.strip() if kind.lower() == "bearer" else "")
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


def _settle(slots: Slots) -> None:
    """Once a model answers, most of what is there stays: the collector need not go through it ever again."""
    while not slots.ready:
        time.sleep(0.1)
    gc.collect()
    gc.freeze()


def main(arguments: list[str] | None = None) -> None:
    """Runs the endpoint until SIGTERM or SIGINT; requests in flight are still answered."""
    import uvicorn

    from detection_assets.serving.drain import Server
    from detection_assets.serving.protocol import Protocol

    options, key, slots, bundle = read_options(sys.argv[1:] if arguments is None else arguments)
    log_to_stderr(options.log_level)
    limits = Limits(
        body_bytes=options.max_body,
        pixels=options.max_pixels,
        queue=options.queue,
        timeout_s=options.timeout,
        # A batch fails as a whole where one request does.
        refuses=os.environ.get(BATCH) != "true",
    )
    app = create_app(slots, key=key, limits=limits, bundle=bundle)
    config = uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        http=Protocol,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,  # longer than a load balancer's 60, so that it is never the server who hangs up first
        timeout_graceful_shutdown=int(options.timeout) + 1,
    )
    logger.info("starting", extra={"fields": {"url": f"http://{options.host}:{options.port}", "pid": os.getpid()}})
    threading.Thread(target=_settle, args=(slots,), name="settle", daemon=True).start()
    server = Server(config, app.state.presence)
    server.run()
    # Whoever was promised an answer has it. Python's own end would take the interpreter from under OpenVINO's threads,
    # and one that is still compiling for two pictures side by side would abort the process.
    logging.shutdown()
    os._exit(0 if server.started else 1)


if __name__ == "__main__":
    main()

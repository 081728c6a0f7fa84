"""What an endpoint tells about itself: one log line and one count a request, under an id that travels with it."""

from __future__ import annotations

import datetime
import logging
import re
import sys
import time
import uuid
from collections import Counter as Tally
from dataclasses import dataclass, field
from typing import Any

import anyio
import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from detection_assets.serving.predictor import Detections

CLIENT_GONE = 499
"""Status in the log of a request whose sender went away; nobody receives it."""

LAST_BODY_S = 2.0
"""Seconds for which a server that ends waits for the rest of a body that it refuses."""

PROBES = frozenset({"/healthz", "/readyz", "/ping", "/metrics"})
"""Asked every few seconds by machines: an answer that they expect is not logged."""

BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10, 30)

_REQUEST_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)

logger = logging.getLogger("detection.requests")


@dataclass(slots=True)
class Call:
    """What is known about a request while it is answered."""

    request_id: str
    started: float = field(default_factory=time.perf_counter)
    status: int = 0
    scoring: bool = False
    slot: str = ""
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Seconds since the request arrived."""
        return time.perf_counter() - self.started


class Presence:
    """Whether requests are there, and whether the server is about to leave.

    Attributes:
        leaving: The server ends: each answer tells its sender to come back on another connection.
        requests: Requests that are being answered.
        quiet_since: `time.monotonic` of the last request's arrival or end.
    """

    def __init__(self) -> None:
        self.leaving = False
        self.requests = 0
        self.quiet_since = time.monotonic()

    def arrived(self) -> None:
        """A request has come."""
        self.requests += 1
        self.quiet_since = time.monotonic()

    def answered(self) -> None:
        """A request has gone."""
        self.requests -= 1
        self.quiet_since = time.monotonic()

    def quiet(self, seconds: float) -> bool:
        """Whether nobody was here for so long."""
        return not self.requests and time.monotonic() - self.quiet_since >= seconds


class Metrics:
    """The endpoint's Prometheus metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "detection_requests", "Scoring requests answered", ["slot", "status"], registry=self.registry
        )
        self.latency = Histogram(
            "detection_request_seconds",
            "From arrival to answer, answered with boxes",
            ["slot"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.boxes = Counter("detection_boxes", "Boxes answered", ["slot", "class"], registry=self.registry)
        self.in_flight = Gauge(
            "detection_in_flight", "Scoring requests being answered or waiting", registry=self.registry
        )
        self.failures = Counter(
            "detection_model_failures", "Requests that a slot failed, also if another answered", ["slot"],
            registry=self.registry,
        )  # fmt: skip
        self.mirrored = Counter(
            "detection_mirrored", "Copies of requests that a shadow slot saw", ["slot", "outcome"],
            registry=self.registry,
        )  # fmt: skip
        self.captured = Counter(
            "detection_captured", "Pictures kept, by the reason why", ["why"], registry=self.registry
        )
        self.capture_lost = Counter(
            "detection_capture_lost", "Pictures not kept: no room to wait, or not to be written", ["cause"],
            registry=self.registry,
        )  # fmt: skip

    def count(self, call: Call) -> None:
        """Counts one scoring request."""
        self.requests.labels(call.slot or "none", str(call.status)).inc()
        if call.status < 400:
            self.latency.labels(call.slot).observe(call.seconds)

    def count_boxes(self, slot: str, classes: list[str], found: Detections) -> None:
        """Counts the boxes of one picture by class."""
        for class_id, number in Tally(found.class_id.tolist()).items():
            self.boxes.labels(slot, classes[class_id]).inc(number)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class Observed:
    """ASGI middleware: gives each request an id, turns surprises into a 500, logs and counts.

    An id that the caller sends as `X-Request-ID` is kept, if it is of harmless characters.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, presence: Presence) -> None:
        self.app, self.metrics, self.presence = app, metrics, presence

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on and watches the answer; see https://asgi.readthedocs.io."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        call = Call(_request_id(scope))
        scope.setdefault("state", {})["call"] = call

        arriving = True

        async def observed_receive() -> Message:
            nonlocal arriving
            message = await receive()
            arriving = message.get("more_body", False)
            return message

        async def observed_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                call.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = call.request_id
                if self.presence.leaving:
                    headers["Connection"] = "close"
                    # Hanging up on a body that nobody has read resets the connection, and the answer is lost with it.
                    with anyio.move_on_after(LAST_BODY_S):
                        while arriving:
                            await observed_receive()
            await send(message)

        self.presence.arrived()
        try:
            await self.app(scope, observed_receive, observed_send)
        except ClientDisconnect:
            call.status = CLIENT_GONE
        except Exception:
            logger.exception("unexpected error", extra={"fields": {"request_id": call.request_id}})
            if not call.status:
                body = {
                    "error": "unexpected error; the log has it under this request id",
                    "request_id": call.request_id,
                }
                await JSONResponse(body, 500)(scope, observed_receive, observed_send)
        finally:
            self.presence.answered()
            self._tell(call, scope)

    def _tell(self, call: Call, scope: Scope) -> None:
        if call.scoring:
            self.metrics.count(call)
        if call.status in (200, 503) and scope["path"] in PROBES:
            return
        fields = {
            "request_id": call.request_id,
            "method": scope["method"],
            "path": scope["path"],
            "status": call.status,
            "ms": round(call.seconds * 1000, 2),
        }
        if call.slot:
            fields["slot"] = call.slot
        logger.info("request", extra={"fields": fields | call.fields})


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(given := value.decode("latin-1")):
            return given
    return uuid.uuid4().hex


class JsonLines(logging.Formatter):
    """One JSON object a line, with the fields of the record."""

    def format(self, record: logging.LogRecord) -> str:
        """Formats a record; `extra={"fields": {...}}` becomes keys of its own."""
        line: dict[str, Any] = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc).isoformat(),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def log_to_stderr(level: str = "INFO") -> None:
    """Sends all logging of this process to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)

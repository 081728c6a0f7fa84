"""Keeps a sample of the requests, for whoever watches what comes in.

    <folder>/<YYYY-MM-DD>/<HH>/<part>.jsonl          a row a picture; a part appears whole
    <folder>/<YYYY-MM-DD>/<HH>/<request id>.jpg      the picture as it was sent

Days and hours are UTC. All of it happens in a thread beside the requests: it never slows one down or fails it. What
does not fit in the queue or cannot be written is lost, counted, and said once.
"""

from __future__ import annotations

import datetime
import logging
import random
import re
import time
import uuid
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from detection_assets.domain.image_statistics import statistics
from detection_assets.serving import images
from detection_assets.serving.background import Background
from detection_assets.serving.observe import Metrics
from detection_assets.serving.places import Folder, Place, place_at
from detection_assets.serving.state import CaptureSpec

WAITING = 256
"""Most pictures that wait to be kept."""
WAITING_BYTES = 64 * 2**20
PART_ROWS = 200
PART_S = 3.0
"""A part is written when it has so many rows, or so many seconds after its first."""
SWEEP_S = 3600.0
"""Between two looks for days that are past keeping."""
CLOSING_S = 10.0

_BOX = ("class", "confidence", "x1", "y1", "x2", "y2")
_UNSAFE = re.compile(r"[^\w-]", re.ASCII)

logger = logging.getLogger("detection.capture")


@dataclass(frozen=True, slots=True)
class Captured:
    """An answered picture that may be kept.

    Attributes:
        request_id: The request's id; of several pictures in a request with a number behind it.
        slot: Who answered.
        version: The model's version.
        latency_ms: From the request's arrival to its answer.
        encoded: The picture's bytes as sent.
        picture: What was answered, as in `answers.picture`.
        time: Epoch seconds of the answer.
    """

    request_id: str
    slot: str
    version: str
    latency_ms: float
    encoded: bytes
    picture: dict[str, Any]
    time: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class _Wanted:
    spec: CaptureSpec
    why: str
    captured: Captured


class Capture:
    """Samples answered requests and writes them."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.kept = self.dropped = self.failed = 0
        self.error: str | None = None
        self._rows: dict[str, list[tuple[str, bytes]]] = defaultdict(list)
        self._first = 0.0
        self._spec: CaptureSpec | None = None
        self._where: Path | str = ""
        self._there: Place = Folder(Path())
        self._swept = -SWEEP_S
        self._background = Background[_Wanted](
            "capture", self._keep, most=WAITING, most_bytes=WAITING_BYTES, idle=self._tidy, idle_s=PART_S / 2
        )

    def offer(self, spec: CaptureSpec, captured: Captured) -> None:
        """Keeps an answered picture if it is drawn, or if the model was not sure of a box. Takes microseconds.

        One that is drawn counts as a sample whatever was found in it: samples stand for all requests.
        """
        if random.random() < spec.rate:
            why = "sample"
        elif any(box["confidence"] < spec.below for box in captured.picture["boxes"]):
            why = "low confidence"
        else:
            return
        if not self._background.offer(_Wanted(spec, why, captured), len(captured.encoded)):
            self.dropped += 1
            self._metrics.capture_lost.labels("no room").inc()

    def status(self, spec: CaptureSpec | None) -> dict[str, Any] | None:
        """Which requests are kept where, and how that goes; None if they are not."""
        if spec is None:
            return None
        return asdict(spec) | {
            "folder": str(spec.folder),
            "captured": self.kept,
            "dropped": self.dropped,
            "failed": self.failed,
            "error": self.error,
        }

    def close(self) -> None:
        """Writes what was captured, and ends the thread."""
        self._background.close(CLOSING_S)

    def _keep(self, wanted: _Wanted) -> None:
        captured = wanted.captured
        moment = datetime.datetime.fromtimestamp(captured.time, datetime.timezone.utc)
        place, folder = self._place(wanted.spec), f"{moment:%Y-%m-%d}/{moment:%H}"
        # Decoded again: keeping the pixels of each request until it is known which are kept would cost them all.
        pixels = captured.picture["width"] * captured.picture["height"]
        measured = statistics(images.decode(captured.encoded, max_bytes=len(captured.encoded), max_pixels=pixels))
        image = None
        if wanted.spec.images:
            try:
                # Callers choose their ids, and may choose one twice.
                name = f"{folder}/{_picture_name(captured.request_id, captured.encoded)}"
                image = place.write_new(name, captured.encoded).rpartition("/")[2]
            except OSError as error:
                self._lost(1, error, wanted.spec)
                return
        row = {
            "time": moment.isoformat(timespec="milliseconds"),
            "request_id": captured.request_id,
            "slot": captured.slot,
            "version": captured.version,
            "status": 200,
            "latency_ms": captured.latency_ms,
            "why": wanted.why,
            "width": captured.picture["width"],
            "height": captured.picture["height"],
            **{name: round(value, 3) for name, value in measured.items()},
            "image": image,
            "boxes": [{name: box[name] for name in _BOX} for box in captured.picture["boxes"]],
        }
        self._first = self._first or time.monotonic()
        self._rows[folder].append((wanted.why, orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)))
        if sum(map(len, self._rows.values())) >= PART_ROWS or time.monotonic() - self._first >= PART_S:
            self._write_parts()

    def _place(self, spec: CaptureSpec) -> Place:
        """Where to write now; what was to go elsewhere is written there first."""
        if spec.folder != self._where:
            self._write_parts()
            self._where, self._there, self._swept = spec.folder, place_at(spec.folder), -SWEEP_S
        self._spec = spec
        return self._there

    def _tidy(self) -> None:
        if self._rows:
            self._write_parts()
        spec, now = self._spec, time.monotonic()
        if spec is not None and now - self._swept >= SWEEP_S:
            self._swept = now
            try:
                days = self._there.sweep(spec.keep_days)
            except OSError as error:
                self._complain(error, spec)
                return
            if days:
                logger.info("old captures removed", extra={"fields": {"folder": str(spec.folder), "days": days}})

    def _write_parts(self) -> None:
        parts, self._rows, self._first, spec = self._rows, defaultdict(list), 0.0, self._spec
        if spec is None:
            return
        for folder, rows in parts.items():
            name = f"{folder}/{datetime.datetime.now(datetime.timezone.utc):%H%M%S}-{uuid.uuid4().hex[:12]}.jsonl"
            try:
                self._there.write(name, b"".join(line for _, line in rows))
            except OSError as error:
                self._lost(len(rows), error, spec)
                continue
            if self.error:
                logger.info("requests are captured again", extra={"fields": {"folder": str(spec.folder)}})
            self.error = None
            self.kept += len(rows)
            for why, _ in rows:
                self._metrics.captured.labels(why).inc()

    def _lost(self, number: int, error: OSError, spec: CaptureSpec) -> None:
        self.failed += number
        self._metrics.capture_lost.labels("not written").inc(number)
        self._complain(error, spec)

    def _complain(self, error: OSError, spec: CaptureSpec) -> None:
        """Says once, not for each request, that capturing fails."""
        why = error.strerror or error
        message = f"{spec.folder}: requests cannot be kept ({why}): make room, or let the server write"
        if self.error is None:
            logger.error(message)
        self.error = message


def _picture_name(request_id: str, encoded: bytes) -> str:
    return f"{_UNSAFE.sub('_', request_id)}.{images.extension(encoded)}"

"""Keeps a sample of the requests, for whoever watches what comes in.

    <folder>/<YYYY-MM-DD>/<HH>/<part>.jsonl          a row a picture; a part appears whole
    <folder>/<YYYY-MM-DD>/<HH>/<request id>.jpg      the picture as it was sent

Days and hours are UTC. All of it happens in a thread beside the requests: it never slows one down or fails it. What
does not fit in the queue or cannot be written is lost, counted, and said once.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import random
import re
import shutil
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
        self._rows: dict[Path, list[tuple[str, bytes]]] = defaultdict(list)
        self._first = 0.0
        self._swept: dict[Path, float] = {}
        self._spec: CaptureSpec | None = None
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
        self._spec, captured = wanted.spec, wanted.captured
        moment = datetime.datetime.fromtimestamp(captured.time, datetime.timezone.utc)
        folder = wanted.spec.folder / f"{moment:%Y-%m-%d}" / f"{moment:%H}"
        # Decoded again: keeping the pixels of each request until it is known which are kept would cost them all.
        pixels = captured.picture["width"] * captured.picture["height"]
        measured = statistics(images.decode(captured.encoded, max_bytes=len(captured.encoded), max_pixels=pixels))
        image = None
        if wanted.spec.images:
            try:
                image = _write_picture(folder, captured.request_id, captured.encoded)
            except OSError as error:
                self._lost(1, error, folder)
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

    def _tidy(self) -> None:
        if self._rows:
            self._write_parts()
        spec, now = self._spec, time.monotonic()
        if spec is not None and now - self._swept.get(spec.folder, -SWEEP_S) >= SWEEP_S:
            self._swept[spec.folder] = now
            try:
                sweep(spec.folder, spec.keep_days)
            except OSError as error:
                self._complain(error, spec.folder)

    def _write_parts(self) -> None:
        parts, self._rows, self._first = self._rows, defaultdict(list), 0.0
        for folder, rows in parts.items():
            name = f"{datetime.datetime.now(datetime.timezone.utc):%H%M%S}-{uuid.uuid4().hex[:12]}.jsonl"
            try:
                _write_whole(folder / name, b"".join(line for _, line in rows))
            except OSError as error:
                self._lost(len(rows), error, folder)
                continue
            if self.error:
                logger.info("requests are captured again", extra={"fields": {"folder": str(folder)}})
            self.error = None
            self.kept += len(rows)
            for why, _ in rows:
                self._metrics.captured.labels(why).inc()

    def _lost(self, number: int, error: OSError, folder: Path) -> None:
        self.failed += number
        self._metrics.capture_lost.labels("not written").inc(number)
        self._complain(error, folder)

    def _complain(self, error: OSError, folder: Path) -> None:
        """Says once, not for each request, that capturing fails."""
        message = f"{folder}: requests cannot be kept ({error.strerror or error}): make room, or let the server write"
        if self.error is None:
            logger.error(message)
        self.error = message


def sweep(folder: Path, keep_days: int) -> list[str]:
    """Removes the days that are past keeping, and what an earlier sweep left.

    A day is renamed before it is removed, so that nobody reads half of it.

    Args:
        folder: The folder with a folder a day.
        keep_days: Whole days that are kept beside the present one.

    Returns:
        The days that were removed.

    Raises:
        OSError: One could not be removed.
    """
    oldest = datetime.datetime.now(datetime.timezone.utc).date() - datetime.timedelta(days=keep_days)
    removed: list[str] = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name.startswith(".removed-"):
            shutil.rmtree(path)
            continue
        try:
            day = datetime.date.fromisoformat(path.name)
        except ValueError:
            continue
        if day < oldest and path.is_dir():
            gone = path.with_name(f".removed-{path.name}-{uuid.uuid4().hex[:8]}")
            path.rename(gone)
            shutil.rmtree(gone)
            removed.append(path.name)
    if removed:
        logger.info("old captures removed", extra={"fields": {"folder": str(folder), "days": removed}})
    return removed


def _write_picture(folder: Path, request_id: str, encoded: bytes) -> str:
    """Writes a picture under a name of its own and returns the name."""
    stem, extension = _UNSAFE.sub("_", request_id), images.extension(encoded)
    name = f"{stem}.{extension}"
    if (folder / name).exists():  # callers choose their ids, and may choose one twice
        name = f"{stem}-{uuid.uuid4().hex[:8]}.{extension}"
    _write_whole(folder / name, encoded)
    return name


def _write_whole(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}")
    try:
        scratch.write_bytes(content)
        os.replace(scratch, path)
    except OSError:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise

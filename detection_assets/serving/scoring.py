"""The way of a picture through the endpoint: decoded, scored, each step bounded.

Decoding runs on a few threads, each model's network on its own, since a network uses all the cores by itself.
What waits between the two is the small input of the network, never a decoded photograph.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from detection_assets.domain.problems import InputError
from detection_assets.serving import drawing, images
from detection_assets.serving.deadline import within
from detection_assets.serving.predictor import Detections, ModelTimeout, Predictor, Prepared, available_cores
from detection_assets.serving.slots import Loaded

DECODERS = 4
"""Most pictures decoded at a time: each may take `Limits.pixels` times three bytes, twice."""

SMALL = 2**20
"""Bytes of a picture that may be decoded in a model's own thread: some milliseconds for what a camera sends."""

R = TypeVar("R")

MODEL_SHARE = 1 / 3
"""Of a request's time, what one model may take: a second one can still answer."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one endpoint takes on.

    Attributes:
        body_bytes: Most bytes in a request's body.
        pixels: Most pixels in a picture.
        pictures: Most pictures in a request.
        queue: Most requests with a model beside those that its network runs; the next is refused with 429.
            docs/decisions/0008-queue-and-batching.md says why so few.
        reading: Most requests whose bodies arrive at the same time: slow senders hold no model up.
        timeout_s: Seconds from admission to answer.
        body_timeout_s: Seconds within which a body must have arrived.
        refuses: Whether a request is refused of whose pictures none can be read; otherwise the answer says why.
    """

    body_bytes: int = images.MAX_BYTES
    pixels: int = images.MAX_PIXELS
    pictures: int = 16
    queue: int = 2
    reading: int = 32
    timeout_s: float = 30.0
    body_timeout_s: float = 10.0
    refuses: bool = True


@dataclass(frozen=True, slots=True)
class Scored:
    """One picture's answer.

    Attributes:
        width: Width of the picture in pixels, as displayed.
        height: Height of the picture in pixels, as displayed.
        detections: What was found.
        pixels: The picture itself, if it was asked for.
    """

    width: int
    height: int
    detections: Detections
    pixels: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds a request spent on decoding, and on waiting for the network and running it."""

    decode: float
    predict: float


@dataclass(frozen=True, slots=True)
class _Ready:
    """A picture that waits for the network."""

    prepared: Prepared
    pixels: NDArray[np.uint8] | None


class Scorer:
    """Scores pictures under limits; one for each endpoint, shared by its slots."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._decoders = ThreadPoolExecutor(min(DECODERS, available_cores()), thread_name_prefix="decode")

    async def score(
        self, loaded: Loaded, encoded: Sequence[bytes | str], confidence: float | None, *, keep_pixels: bool = False
    ) -> tuple[list[Scored | str], Timing]:
        """Decodes and scores pictures.

        Args:
            loaded: The model that answers.
            encoded: The bytes of each picture; a reason in place of bytes is passed through.
            confidence: The caller's own threshold.
            keep_pixels: Whether the decoded pictures are wanted, too.

        Returns:
            For each picture what was found or why it could not be read, and how long it took.

        Raises:
            ModelError: The model failed; `ModelTimeout` if it did not answer in its time.
        """
        started, predictor = time.perf_counter(), loaded.predictor
        limit = self.limits.timeout_s * MODEL_SHARE
        if len(encoded) == 1 and loaded.lane.requests == 1 and len(encoded[0]) <= SMALL:
            # Nobody else is there to be decoded for meanwhile: one change of threads instead of two.
            work = loaded.lane.run(self._at_once, predictor, encoded[0], confidence, limit, keep_pixels)
            scored, decoded = await _within(limit, work, predictor)
        else:
            loop = asyncio.get_running_loop()
            names = ["the picture"] if len(encoded) == 1 else [f"picture {i}" for i in range(len(encoded))]
            ready = await asyncio.gather(
                *(
                    loop.run_in_executor(self._decoders, self._prepare, predictor, data, name, keep_pixels)
                    for data, name in zip(encoded, names, strict=True)
                )
            )
            decoded = time.perf_counter()
            scored = await _within(limit, loaded.lane.run(_run_all, predictor, ready, confidence, limit), predictor)
        return scored, Timing(decoded - started, time.perf_counter() - decoded)

    async def annotate(self, scored: Scored, classes: list[str]) -> bytes:
        """Draws what was found on a picture whose pixels were kept; see `drawing.annotated`."""
        assert scored.pixels is not None
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._decoders, drawing.annotated, scored.pixels, scored.detections, classes)

    def close(self) -> None:
        """Ends the threads, once they have finished what they do."""
        self._decoders.shutdown(cancel_futures=True)

    def _at_once(
        self, predictor: Predictor, data: bytes | str, confidence: float | None, timeout_s: float, keep_pixels: bool
    ) -> tuple[list[Scored | str], float]:
        ready = self._prepare(predictor, data, "the picture", keep_pixels)
        decoded = time.perf_counter()
        return _run_all(predictor, [ready], confidence, timeout_s), decoded

    def _prepare(self, predictor: Predictor, data: bytes | str, name: str, keep_pixels: bool) -> _Ready | str:
        if isinstance(data, str):
            return data
        try:
            image = images.decode(data, name=name, max_bytes=self.limits.body_bytes, max_pixels=self.limits.pixels)
        except InputError as error:
            return str(error)
        return _Ready(predictor.prepare(image), image if keep_pixels else None)


async def _within(limit: float, work: Awaitable[R], predictor: Predictor) -> R:
    try:
        async with within(limit):
            return await work
    except asyncio.TimeoutError:
        raise ModelTimeout(f"{predictor.path.name}: no answer within {limit:g} seconds") from None


def _run_all(
    predictor: Predictor, ready: Sequence[_Ready | str], confidence: float | None, timeout_s: float
) -> list[Scored | str]:
    scored: list[Scored | str] = []
    for one in ready:
        if isinstance(one, str):
            scored.append(one)
            continue
        place = one.prepared.letterbox
        found = predictor.run(one.prepared, confidence, timeout_s)
        scored.append(Scored(place.width, place.height, found, one.pixels))
    return scored

"""The way of a picture through the endpoint: admitted, decoded, scored; each step bounded.

Decoding runs on a few threads, the network on one at a time, since it uses all the cores by itself. What waits between
the two is the small input of the network, never a decoded photograph.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import anyio

from detection_assets.domain.problems import InputError
from detection_assets.serving import images
from detection_assets.serving.predictor import Detections, Predictor, Prepared, available_cores
from detection_assets.serving.refusals import Refused

DECODERS = 4
"""Most pictures decoded at a time: each may take `Limits.pixels` times three bytes, twice."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one endpoint takes on.

    Attributes:
        body_bytes: Most bytes in a request's body.
        pixels: Most pixels in a picture.
        pictures: Most pictures in a request.
        queue: Most requests that wait while one is scored; the next is refused with 429.
        timeout_s: Seconds from admission to answer.
        body_timeout_s: Seconds within which a body must have arrived.
    """

    body_bytes: int = images.MAX_BYTES
    pixels: int = images.MAX_PIXELS
    pictures: int = 16
    queue: int = 16
    timeout_s: float = 30.0
    body_timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Scored:
    """One picture's answer.

    Attributes:
        width: Width of the picture in pixels, as displayed.
        height: Height of the picture in pixels, as displayed.
        detections: What was found.
    """

    width: int
    height: int
    detections: Detections


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds a request spent on decoding, and on waiting for the network and running it."""

    decode: float
    predict: float


class Scorer:
    """Scores pictures under limits; one for each endpoint, shared by its slots."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.admitted = 0
        self._decoders = ThreadPoolExecutor(min(DECODERS, available_cores()), thread_name_prefix="decode")
        self._network = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._seconds = 0.1

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Holds one place from a request's arrival, before its body is read, to its answer.

        Raises:
            Refused: 429 if every place is taken.
        """
        if self.admitted > self.limits.queue:
            wait = max(1, math.ceil(self._seconds * self.admitted))
            raise Refused(429, f"{self.admitted} requests are already waiting: try again later", retry_after=wait)
        self.admitted += 1
        started = time.perf_counter()
        try:
            yield
        finally:
            # A slow average, for Retry-After only: seconds one request adds to the queue.
            share = (time.perf_counter() - started) / self.admitted
            self._seconds += 0.1 * (share - self._seconds)
            self.admitted -= 1

    async def score(
        self, predictor: Predictor, encoded: Sequence[bytes | str], confidence: float | None
    ) -> tuple[list[Scored | str], Timing]:
        """Decodes and scores pictures.

        Args:
            predictor: The model that answers.
            encoded: The bytes of each picture; a reason in place of bytes is passed through.
            confidence: The caller's own threshold.

        Returns:
            For each picture what was found or why it could not be read, and how long it took.

        Raises:
            Refused: 504 if it took longer than the limit.
            ModelError: The model failed.
        """
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        try:
            with anyio.fail_after(self.limits.timeout_s):
                names = ["the picture"] if len(encoded) == 1 else [f"picture {i}" for i in range(len(encoded))]
                prepared = await asyncio.gather(
                    *(
                        loop.run_in_executor(self._decoders, self._prepare, predictor, data, name)
                        for data, name in zip(encoded, names, strict=True)
                    )
                )
                decoded = time.perf_counter()
                scored = await loop.run_in_executor(self._network, _run_all, predictor, prepared, confidence)
        except TimeoutError:
            limit = self.limits.timeout_s
            raise Refused(504, f"not answered within {limit:g} seconds: try again later", retry_after=1) from None
        return scored, Timing(decoded - started, time.perf_counter() - decoded)

    def close(self) -> None:
        """Ends the threads, once they have finished what they do."""
        self._decoders.shutdown(cancel_futures=True)
        self._network.shutdown(cancel_futures=True)

    def _prepare(self, predictor: Predictor, data: bytes | str, name: str) -> Prepared | str:
        if isinstance(data, str):
            return data
        try:
            image = images.decode(data, name=name, max_bytes=self.limits.body_bytes, max_pixels=self.limits.pixels)
        except InputError as error:
            return str(error)
        return predictor.prepare(image)


def _run_all(predictor: Predictor, prepared: Sequence[Prepared | str], confidence: float | None) -> list[Scored | str]:
    return [
        one
        if isinstance(one, str)
        else Scored(one.letterbox.width, one.letterbox.height, predictor.run(one, confidence))
        for one in prepared
    ]

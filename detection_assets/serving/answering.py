"""From a request to its boxes: who is asked, who answers if that fails, and what is noted down afterwards."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from detection_assets.serving import answers
from detection_assets.serving.bodies import Pictures, read_pictures
from detection_assets.serving.capture import Capture, Captured
from detection_assets.serving.deadline import within
from detection_assets.serving.elsewhere import Elsewhere
from detection_assets.serving.observe import Call, Metrics
from detection_assets.serving.predictor import ModelError, ModelTimeout
from detection_assets.serving.refusals import Refused
from detection_assets.serving.scoring import Limits, Scored, Scorer, Timing
from detection_assets.serving.shadow import Shadow
from detection_assets.serving.slots import Loaded, Slots

SCORING = ("/score", "/invocations")
"""Where pictures are posted."""

SLOWLY = 0.1
"""Weight of the latest request in the averages over the last ten or so."""

CROWD = 0.5
"""Share of refused requests from which on it is a crowd."""

logger = logging.getLogger("detection.answering")


@dataclass(frozen=True, slots=True)
class Answered:
    """A request that has its boxes.

    Attributes:
        loaded: The model that answered.
        given: What was asked.
        results: For each picture what was found, or why it could not be read.
        pictures: The same, in the form of the answer.
        timing: How long it took.
        threshold: The caller's own threshold, if there is one.
        addressed: Whether the caller named the slot.
    """

    loaded: Loaded
    given: Pictures
    results: list[Scored | str]
    pictures: list[dict[str, Any]]
    timing: Timing
    threshold: float | None
    addressed: bool


class Desk:
    """Takes the scoring requests of one endpoint."""

    def __init__(self, slots: Slots, limits: Limits, metrics: Metrics) -> None:
        self.slots, self.limits, self.metrics = slots, limits, metrics
        self.scorer, self.capture, self.shadow = Scorer(limits), Capture(metrics), Shadow(metrics)
        self.elsewhere = Elsewhere(metrics)
        self.in_flight = self._reading = 0
        self._seconds = 0.1
        self._refused = 0.0

    async def answer(
        self, request: Request, call: Call, *, confidence: float | None, addressed: str | None, keep_pixels: bool
    ) -> Answered:
        """Answers one request.

        A request whose drawn slot fails is answered by another one that shares the traffic; a caller who names a slot
        gets that one or nothing.

        Args:
            request: The request, its body not yet read.
            call: What is known about it; slot and fields are filled in.
            confidence: The threshold from the request's query.
            addressed: The slot that the caller named.
            keep_pixels: Whether the decoded pictures are wanted.

        Raises:
            Refused: There are no boxes; the message says why.
            ModelError: The model failed, and so did every other that could have answered.
        """
        drawn = self.slots.choose(addressed)
        call.slot = drawn.name
        askable = [drawn] if addressed else [drawn, *self.slots.others(drawn)]
        self._first_with_room(askable)
        self.in_flight += 1
        try:
            with self._reader():
                given = await read_pictures(
                    request,
                    max_bytes=self.limits.body_bytes,
                    max_pictures=self.limits.pictures,
                    timeout_s=self.limits.body_timeout_s,
                )
            threshold = confidence if given.confidence is None else given.confidence
            first = self._first_with_room(askable)
            self._refused -= SLOWLY * self._refused
            order = [first, *(one for one in askable if one is not first)]
            async with within(self.limits.timeout_s):
                return await self._ask(order, given, threshold, call, addressed is not None, keep_pixels)
        except asyncio.TimeoutError:
            limit = self.limits.timeout_s
            raise Refused(504, f"not answered within {limit:g} seconds: try again later", retry_after=1) from None
        finally:
            self.in_flight -= 1

    async def _ask(
        self,
        order: list[Loaded],
        given: Pictures,
        threshold: float | None,
        call: Call,
        addressed: bool,
        keep_pixels: bool,
    ) -> Answered:
        failed: dict[str, str] = {}
        last = ModelError("nobody was asked")
        for loaded in order:
            call.slot = loaded.name
            began = time.perf_counter()
            try:
                with loaded.lane.entered():
                    results, timing = await self.scorer.score(loaded, given.encoded, threshold, keep_pixels=keep_pixels)
            except ModelError as error:
                failed[loaded.name] = str(error)
                self._note_failure(loaded, error, addressed)
                last = error
                continue
            seconds = time.perf_counter() - began
            self._seconds += SLOWLY * (seconds - self._seconds)
            pictures = self._count(loaded, results, seconds, addressed)
            call.fields = {
                "version": loaded.spec.version,
                "pictures": len(pictures),
                "boxes": sum(len(one.get("boxes", ())) for one in pictures),
                "decode_ms": round(timing.decode * 1000, 2),
                "predict_ms": round(timing.predict * 1000, 2),
            } | ({"failed": failed} if failed else {})
            return Answered(loaded, given, results, pictures, timing, threshold, addressed)
        if isinstance(last, ModelTimeout):
            raise Refused(504, f"{last}: try again later", retry_after=1) from last
        raise last

    def notes(self, answered: Answered) -> bool:
        """Whether somebody keeps or compares such a request, so that `note` is to be called.

        Requests that name a slot are trials, not traffic: nobody learns from them.
        """
        return not answered.addressed and (
            self.slots.capture is not None or self.slots.shadowed or self.elsewhere.watching
        )

    def note(self, answered: Answered, call: Call, latency_ms: float) -> None:
        """Hands an answered request to those who keep or compare it; costs microseconds and never fails."""
        loaded = answered.loaded
        shadow, other = self.slots.shadow_of(loaded), self.elsewhere.drawn()
        capture = self.slots.capture
        several = len(answered.pictures) > 1
        for index, (encoded, picture) in enumerate(zip(answered.given.encoded, answered.pictures, strict=True)):
            if isinstance(encoded, str) or "boxes" not in picture:
                continue
            if shadow is not None:
                self.shadow.offer(shadow, encoded, picture, answered.threshold)
            if other is not None:
                self.elsewhere.offer(other, encoded, picture, answered.threshold)
            if capture is not None:
                self.capture.offer(
                    capture,
                    Captured(
                        request_id=f"{call.request_id}.{index}" if several else call.request_id,
                        slot=loaded.name,
                        version=loaded.spec.version,
                        latency_ms=latency_ms,
                        encoded=encoded,
                        picture=picture,
                    ),
                )

    def close(self) -> None:
        """Ends the threads; what was captured is written."""
        self.shadow.close()
        self.elsewhere.close()
        self.capture.close()
        self.scorer.close()

    @property
    def queue(self) -> int:
        """Requests that may wait for one model now: few, while most of those who come are refused anyway.

        A short rush is best kept waiting; a crowd that stays is not served faster by a longer queue, only later.
        """
        return self.limits.queue if self._refused < CROWD else min(1, self.limits.queue)

    def crowded(self) -> Refused | None:
        """The refusal of a request that names no slot, if no slot could take it whichever is drawn."""
        sharing = self.slots.sharing
        if sharing and not any(one.lane.has_room(self.queue) for one in sharing):
            return self._crowd(sharing[0].lane.requests)
        return None

    def _crowd(self, waiting: int) -> Refused:
        self._refused += SLOWLY * (1 - self._refused)
        retry_after = max(1, math.ceil(self._seconds))
        return Refused(429, f"{waiting} requests are already waiting: try again later", retry_after=retry_after)

    def _first_with_room(self, askable: list[Loaded]) -> Loaded:
        """The drawn slot; or, if it is full, the one with most traffic: a slow newcomer loses its requests to it.

        The other way round a newcomer would get more than its share, just when the endpoint is at its limit.

        Raises:
            Refused: 429 if there is no room.
        """
        queue = self.queue
        drawn, others = askable[0], askable[1:]
        if drawn.lane.has_room(queue):
            return drawn
        if others and self.slots.leads(others[0]) and others[0].lane.has_room(queue):
            return others[0]
        raise self._crowd(drawn.lane.requests)

    @contextmanager
    def _reader(self) -> Iterator[None]:
        if self._reading >= self.limits.reading:
            raise Refused(429, f"{self._reading} bodies are already arriving: try again later", retry_after=1)
        self._reading += 1
        try:
            yield
        finally:
            self._reading -= 1

    def _note_failure(self, loaded: Loaded, error: ModelError, addressed: bool) -> None:
        if addressed:
            loaded.tally.addressed += 1
        else:
            self.slots.failed(loaded, str(error))
        self.metrics.failures.labels(loaded.name).inc()
        fields = {"slot": loaded.name, "version": loaded.spec.version, "addressed": addressed}
        logger.warning(f"the model failed: {error}", extra={"fields": fields})

    def _count(
        self, loaded: Loaded, results: list[Scored | str], seconds: float, addressed: bool
    ) -> list[dict[str, Any]]:
        problems = [one for one in results if isinstance(one, str)]
        if len(problems) == len(results) and self.limits.refuses:
            raise Refused(422, "; ".join(problems))  # not the model's merit, nor its fault
        if addressed:
            loaded.tally.addressed += 1
        else:
            loaded.tally.answered(seconds)
        classes = loaded.predictor.classes
        pictures: list[dict[str, Any]] = []
        for one in results:
            if isinstance(one, str):
                pictures.append({"error": one})
                continue
            pictures.append(answers.picture(one, classes))
            self.metrics.count_boxes(loaded.name, classes, one.detections)
        return pictures

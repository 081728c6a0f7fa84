"""Shows copies of requests to a slot whose answers nobody sees, and counts how often it agrees.

What it cannot keep up with is dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detection_assets.domain.rollout import agree
from detection_assets.serving import answers, images
from detection_assets.serving.background import Background
from detection_assets.serving.observe import Metrics
from detection_assets.serving.predictor import ModelError
from detection_assets.serving.scoring import Scored
from detection_assets.serving.slots import Loaded

WAITING = 4
"""Most copies that wait."""
WAITING_BYTES = 64 * 2**20
TIMEOUT_S = 10.0
"""What the network may take for a copy."""

logger = logging.getLogger("detection.shadow")


@dataclass(frozen=True, slots=True)
class _Copy:
    loaded: Loaded
    encoded: bytes
    answered: Mapping[str, Any]
    threshold: float | None


class Shadow:
    """The thread in which shadow slots answer."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._background = Background[_Copy]("shadow", self._compare, most=WAITING, most_bytes=WAITING_BYTES)

    def offer(self, loaded: Loaded, encoded: bytes, answered: Mapping[str, Any], threshold: float | None) -> None:
        """Takes a copy of an answered picture.

        Args:
            loaded: The slot that is to see it.
            encoded: The picture's bytes, which were decoded before.
            answered: What was answered, as in `answers.picture`.
            threshold: The caller's own threshold, if there was one.
        """
        if not self._background.offer(_Copy(loaded, encoded, answered, threshold), len(encoded)):
            self._metrics.mirrored.labels(loaded.name, "dropped").inc()

    def close(self) -> None:
        """Ends the thread."""
        self._background.close(TIMEOUT_S)

    def _compare(self, copy: _Copy) -> None:
        loaded = copy.loaded
        predictor = loaded.predictor
        pixels = copy.answered["width"] * copy.answered["height"]
        image = images.decode(copy.encoded, max_bytes=len(copy.encoded), max_pixels=pixels)
        try:
            found = predictor.run(predictor.prepare(image), copy.threshold, TIMEOUT_S)
        except ModelError as error:
            loaded.tally.mirrored(agreed=False)
            self._metrics.mirrored.labels(loaded.name, "failed").inc()
            fields = {"slot": loaded.name, "version": loaded.spec.version}
            logger.warning(f"the shadow failed: {error}", extra={"fields": fields})
            return
        picture = answers.picture(Scored(image.shape[1], image.shape[0], found), predictor.classes)
        same = agree(copy.answered["boxes"], picture["boxes"])
        loaded.tally.mirrored(agreed=same)
        self._metrics.mirrored.labels(loaded.name, "agreed" if same else "disagreed").inc()

"""Shows copies of requests to a slot of this server, and counts how often it agrees."""

from __future__ import annotations

import logging

from detection_assets.domain.rollout import agree
from detection_assets.serving import answers, images
from detection_assets.serving.copies import TIMEOUT_S, Copies, Copy
from detection_assets.serving.observe import Metrics
from detection_assets.serving.predictor import ModelError
from detection_assets.serving.scoring import Scored
from detection_assets.serving.slots import Loaded

logger = logging.getLogger("detection.shadow")


class Shadow(Copies[Loaded]):
    """The thread in which shadow slots answer."""

    def __init__(self, metrics: Metrics) -> None:
        """Starts the thread."""
        super().__init__("shadow", metrics)

    def compare(self, copy: Copy[Loaded]) -> None:
        """Predicts with the slot's own predictor."""
        loaded = copy.slot
        predictor = loaded.predictor
        pixels = copy.answered["width"] * copy.answered["height"]
        image = images.decode(copy.encoded, max_bytes=len(copy.encoded), max_pixels=pixels)
        try:
            found = predictor.run(predictor.prepare(image), copy.threshold, TIMEOUT_S)
        except ModelError as error:
            loaded.tally.mirrored(agreed=False)
            self.count(loaded, "failed")
            fields = {"slot": loaded.name, "version": loaded.spec.version}
            logger.warning(f"the shadow failed: {error}", extra={"fields": fields})
            return
        picture = answers.picture(Scored(image.shape[1], image.shape[0], found), predictor.classes)
        same = agree(copy.answered["boxes"], picture["boxes"])
        loaded.tally.mirrored(agreed=same)
        self.count(loaded, "agreed" if same else "disagreed")

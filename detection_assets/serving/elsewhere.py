"""Shows copies of requests to a slot that other servers of the same endpoint hold, and compares the two answers.

What is asked there is marked as a trial, so that nobody takes it for traffic.
"""

from __future__ import annotations

import base64
import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from detection_assets.domain.rollout import agree
from detection_assets.serving.copies import Copies, Copy
from detection_assets.serving.observe import Metrics
from detection_assets.serving.state import parse_share
from detection_assets.serving.ways import Unanswered, Way, way_of

logger = logging.getLogger("detection.elsewhere")


@dataclass(frozen=True, slots=True)
class Other:
    """A slot that sees copies.

    Attributes:
        way: How it is asked.
        name: The slot's name.
        deployment: What the slot was given when this was ordered; its comparisons are counted under that name.
        share: Share of the requests that it sees, 0 to 1.
    """

    way: Way
    name: str
    deployment: str
    share: float


def parse_other(raw: Mapping[str, Any]) -> Other:
    """Reads which slot sees copies.

    Raises:
        KeyError: A field is missing.
        ValueError: The share is none.
    """
    share = parse_share(raw["share"], "shadow.share")
    return Other(way_of(raw), str(raw["slot"]), str(raw["deployment"]), share)


class Elsewhere(Copies[Other]):
    """The thread in which a slot of other servers is asked."""

    def __init__(self, metrics: Metrics) -> None:
        """Starts the thread; no slot sees copies yet."""
        super().__init__("elsewhere", metrics)
        self._other: Other | None = None
        self._counts: dict[str, dict[str, int]] = {}

    def point(self, other: Other | None) -> None:
        """Takes the slot that is to see copies from now on; None: no slot is."""
        self._other = other

    def drawn(self) -> Other | None:
        """Draws whether a request is copied, and names the slot that sees the copy."""
        other = self._other
        return other if other is not None and random.random() < other.share else None

    @property
    def watching(self) -> bool:
        """Whether a slot sees copies."""
        return self._other is not None

    def counts(self) -> dict[str, dict[str, int]]:
        """For each deployment that saw copies how often it was `compared`, and how often it `agreed`."""
        return {name: dict(count) for name, count in list(self._counts.items())}

    def compare(self, copy: Copy[Other]) -> None:
        """Asks the slot by way of the endpoint."""
        body, kind = copy.encoded, "application/octet-stream"
        if copy.threshold is not None:
            asked = {"image": base64.b64encode(copy.encoded).decode(), "confidence": copy.threshold}
            body, kind = orjson.dumps(asked), "application/json"
        try:
            same = agree(copy.answered["boxes"], orjson.loads(copy.slot.way.ask(copy.slot.name, body, kind))["boxes"])
        except Unanswered as error:
            # That it had no time for a copy says nothing about it; that it failed one does.
            if error.status < 500 or error.status in (503, 504):
                self.count(copy.slot, "dropped")
                return
            logger.warning(f"the shadow failed: {error}", extra={"fields": {"slot": copy.slot.name}})
            same = False
        count = self._counts.setdefault(copy.slot.deployment, {"compared": 0, "agreed": 0})
        count["agreed"] += same
        count["compared"] += 1
        self.count(copy.slot, "agreed" if same else "disagreed")

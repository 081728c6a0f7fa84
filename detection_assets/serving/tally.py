"""What one model did since it was loaded: counted here, judged by whoever asks `GET /status`."""

from __future__ import annotations

import bisect
import time
from collections import deque
from typing import Any

from detection_assets.domain.rollout import LATENCY_BOUNDS_MS

RECENT = 20
"""Requests that the breaker looks back on."""
TOO_MANY = 5
"""Failures among them at which it trips."""


class Tally:
    """Cumulative counters of one loaded model; they only grow, and begin anew with another model.

    The event loop counts requests, the shadow's thread counts comparisons: no counter has two writers.

    Attributes:
        since: Epoch seconds when counting began.
        requests: Requests of the traffic given to this model, failed ones included.
        errors: Those it failed.
        latency: Answers by bucket of `LATENCY_BOUNDS_MS`; the last bucket is for what is above.
        compared: Mirrored requests held against the answer that was returned.
        agreed: Those on which the two agreed.
        addressed: Requests that named this slot; they are counted nowhere else.
    """

    def __init__(self) -> None:
        self.since = time.time()
        self.requests = self.errors = self.compared = self.agreed = self.addressed = 0
        self.latency = [0] * (len(LATENCY_BOUNDS_MS) + 1)
        self._recent: deque[bool] = deque(maxlen=RECENT)

    def answered(self, seconds: float) -> None:
        """Counts a request that was answered, and the time from its body's arrival to its boxes."""
        self.requests += 1
        self.latency[bisect.bisect_left(LATENCY_BOUNDS_MS, seconds * 1000)] += 1
        self._recent.append(False)

    def failed(self) -> None:
        """Counts a request that the model failed."""
        self.requests += 1
        self.errors += 1
        self._recent.append(True)

    def mirrored(self, agreed: bool) -> None:
        """Counts a comparison; a copy that the model failed is one that does not agree."""
        self.agreed += agreed
        self.compared += 1

    @property
    def failing(self) -> bool:
        """Whether too many of the last requests failed."""
        return sum(self._recent) >= TOO_MANY

    def forgive(self) -> None:
        """Forgets the last requests for the breaker, not for the counters."""
        self._recent.clear()

    def dump(self, version: str) -> dict[str, Any]:
        """The counters as `domain.rollout.Health` reads them."""
        names = ("since", "requests", "errors", "compared", "agreed", "addressed")
        return {"version": version, "latency": list(self.latency)} | {name: getattr(self, name) for name in names}

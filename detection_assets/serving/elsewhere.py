"""Shows copies of requests to a slot that other servers hold, as variants of one SageMaker endpoint do.

What is asked there is marked as a trial, so that nobody takes it for traffic; the two answers are compared here.
"""

from __future__ import annotations

import base64
import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from detection_assets.domain.rollout import TRIAL, agree
from detection_assets.serving.background import Background
from detection_assets.serving.observe import Metrics

WAITING = 4
"""Most copies that wait."""
WAITING_BYTES = 64 * 2**20
TIMEOUT_S = 10.0
"""What the other slot may take for a copy."""

logger = logging.getLogger("detection.elsewhere")


@dataclass(frozen=True, slots=True)
class Other:
    """A slot that sees copies.

    Attributes:
        endpoint: The endpoint's name.
        slot: The slot's.
        deployment: What the slot was given when this was ordered; its comparisons are counted under that name.
        share: Share of the requests that it sees, 0 to 1.
    """

    endpoint: str
    slot: str
    deployment: str
    share: float


def parse_other(raw: Mapping[str, Any]) -> Other:
    """Reads which slot sees copies.

    Raises:
        KeyError: A field is missing.
        ValueError: The share is none.
    """
    share = float(raw["share"])
    if not 0 <= share <= 1:
        raise ValueError(f"shadow.share is {share}; it must be between 0 and 1")
    return Other(str(raw["endpoint"]), str(raw["slot"]), str(raw["deployment"]), share)


@dataclass(frozen=True, slots=True)
class _Copy:
    other: Other
    encoded: bytes
    answered: Mapping[str, Any]
    threshold: float | None


class Elsewhere:
    """The thread in which a slot of other servers is asked."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._other: Other | None = None
        self._client: Any = None
        self._counts: dict[str, dict[str, int]] = {}
        self._background = Background[_Copy]("elsewhere", self._compare, most=WAITING, most_bytes=WAITING_BYTES)

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

    def offer(self, other: Other, encoded: bytes, answered: Mapping[str, Any], threshold: float | None) -> None:
        """Takes a copy of an answered picture.

        Args:
            other: The slot that is to see it.
            encoded: The picture's bytes.
            answered: What was answered, as in `answers.picture`.
            threshold: The caller's own threshold, if there was one.
        """
        if not self._background.offer(_Copy(other, encoded, answered, threshold), len(encoded)):
            self._metrics.mirrored.labels(other.slot, "dropped").inc()

    def counts(self) -> dict[str, dict[str, int]]:
        """For each deployment that saw copies how often it was `compared`, and how often it `agreed`."""
        return {name: dict(count) for name, count in list(self._counts.items())}

    def close(self) -> None:
        """Ends the thread."""
        self._background.close(TIMEOUT_S)

    def _compare(self, copy: _Copy) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        body, kind = copy.encoded, "application/octet-stream"
        if copy.threshold is not None:
            asked = {"image": base64.b64encode(copy.encoded).decode(), "confidence": copy.threshold}
            body, kind = orjson.dumps(asked), "application/json"
        try:
            told = self._service().invoke_endpoint(
                EndpointName=copy.other.endpoint, TargetVariant=copy.other.slot, Body=body, ContentType=kind,
                Accept="application/json", CustomAttributes=TRIAL,
            )  # fmt: skip
            same = agree(copy.answered["boxes"], orjson.loads(told["Body"].read())["boxes"])
        except (ClientError, BotoCoreError) as error:
            # That it had no time for a copy says nothing about it; that it failed one does.
            status = getattr(error, "response", {}).get("OriginalStatusCode", 0)
            if status < 500 or status in (503, 504):
                self._metrics.mirrored.labels(copy.other.slot, "dropped").inc()
                return
            logger.warning(f"the shadow failed: {error}", extra={"fields": {"slot": copy.other.slot}})
            same = False
        count = self._counts.setdefault(copy.other.deployment, {"compared": 0, "agreed": 0})
        count["agreed"] += same
        count["compared"] += 1
        self._metrics.mirrored.labels(copy.other.slot, "agreed" if same else "disagreed").inc()

    def _service(self) -> Any:
        if self._client is None:
            from boto3.session import Session
            from botocore.config import Config

            patient = Config(retries={"max_attempts": 1}, connect_timeout=TIMEOUT_S, read_timeout=TIMEOUT_S)
            self._client = Session().client("sagemaker-runtime", config=patient)
        return self._client

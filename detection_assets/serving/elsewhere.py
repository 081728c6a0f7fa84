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
from detection_assets.serving.copies import TIMEOUT_S, Copies, Copy
from detection_assets.serving.observe import Metrics
from detection_assets.serving.state import parse_share

logger = logging.getLogger("detection.elsewhere")


@dataclass(frozen=True, slots=True)
class Other:
    """A slot that sees copies.

    Attributes:
        endpoint: The endpoint's name.
        name: The slot's.
        deployment: What the slot was given when this was ordered; its comparisons are counted under that name.
        share: Share of the requests that it sees, 0 to 1.
    """

    endpoint: str
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
    return Other(str(raw["endpoint"]), str(raw["slot"]), str(raw["deployment"]), share)


class Elsewhere(Copies[Other]):
    """The thread in which a slot of other servers is asked."""

    def __init__(self, metrics: Metrics) -> None:
        """Starts the thread; no slot sees copies yet."""
        super().__init__("elsewhere", metrics)
        self._other: Other | None = None
        self._client: Any = None
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
        """Asks SageMaker for the slot's variant."""
        from botocore.exceptions import BotoCoreError, ClientError

        body, kind = copy.encoded, "application/octet-stream"
        if copy.threshold is not None:
            asked = {"image": base64.b64encode(copy.encoded).decode(), "confidence": copy.threshold}
            body, kind = orjson.dumps(asked), "application/json"
        try:
            told = self._service().invoke_endpoint(
                EndpointName=copy.slot.endpoint, TargetVariant=copy.slot.name, Body=body, ContentType=kind,
                Accept="application/json", CustomAttributes=TRIAL,
            )  # fmt: skip
            same = agree(copy.answered["boxes"], orjson.loads(told["Body"].read())["boxes"])
        except (ClientError, BotoCoreError) as error:
            # That it had no time for a copy says nothing about it; that it failed one does.
            status = getattr(error, "response", {}).get("OriginalStatusCode", 0)
            if status < 500 or status in (503, 504):
                self.count(copy.slot, "dropped")
                return
            logger.warning(f"the shadow failed: {error}", extra={"fields": {"slot": copy.slot.name}})
            same = False
        count = self._counts.setdefault(copy.slot.deployment, {"compared": 0, "agreed": 0})
        count["agreed"] += same
        count["compared"] += 1
        self.count(copy.slot, "agreed" if same else "disagreed")

    def _service(self) -> Any:
        if self._client is None:
            from boto3.session import Session
            from botocore.config import Config

            patient = Config(retries={"max_attempts": 1}, connect_timeout=TIMEOUT_S, read_timeout=TIMEOUT_S)
            self._client = Session().client("sagemaker-runtime", config=patient)
        return self._client

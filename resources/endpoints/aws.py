"""An endpoint on Amazon SageMaker: its production variants are the slots, and their weights the traffic.

What a variant holds, and which share it has, SageMaker knows and is asked. What it has no word for lies on the desk
in the lake: what the servers of a variant load, what they are to do beside answering, and what they have counted.
"""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Optional

import dagster as dg
from pydantic import Field, PrivateAttr

from detection_assets.domain import layout
from detection_assets.domain.rollout import Health
from resources import amazon, amazon_account
from resources.amazon_hosting import ANSWERS, BUSY, Described, Hosting, Variant, shares, weights
from resources.endpoints.base import EndpointError, Endpoints, EndpointStatus, Slot
from resources.endpoints.desk import Desk
from resources.findings import Finding
from resources.storage import Storage

TAKEN_S = 600.0
"""Seconds that SageMaker has to set weights."""

Edit = Callable[[Described | None, Sequence[Variant]], Sequence[Variant] | None]
"""Given the endpoint and its variants as they are, says which are wanted; None for no change."""


class SageMakerEndpoints(Endpoints):
    """A SageMaker endpoint with a production variant a slot.

    Attributes:
        role: ARN of the role that the servers have.
        image: The image that serves, `<account>.dkr.ecr.<region>.amazonaws.com/<name>:<tag>`.
        instance: Instance type of each server.
        count: Instances of each variant, at least.
        most: Instances of a variant with traffic, at most; above `count` SageMaker adds and removes them by itself.
        per_minute: Requests a minute that one instance is to have, where it does.
        subnets: Subnets to run in; none for SageMaker's own network.
        security_groups: Security groups in these subnets.
        capture: What the servers keep of the requests: `rate`, `below`, `images`, `keep_days`; None: nothing.
        poll_s: Seconds between two looks at the endpoint.
        report_s: Seconds between two reports of a server; each costs a request to the lake.
    """

    storage: dg.ResourceDependency[Storage]
    role: str
    image: str
    instance: str = "ml.c5.xlarge"
    count: int = 1
    most: int = 1
    per_minute: int = 300
    subnets: list[str] = Field(default_factory=list)
    security_groups: list[str] = Field(default_factory=list)
    capture: Optional[dict[str, Any]] = None  # noqa: UP045 - Dagster reads the annotation
    poll_s: float = 3.0
    report_s: float = 5.0
    _desk: Desk | None = PrivateAttr(default=None)
    _hosting: Hosting | None = PrivateAttr(default=None)

    @property
    def name(self) -> str:
        """The endpoint's name."""
        return amazon.name_of(self.detector)[:44].rstrip("-")

    @property
    def desk(self) -> Desk:
        """The lake's part of the endpoint."""
        self._desk = self._desk or Desk(self.storage)
        return self._desk

    @property
    def hosting(self) -> Hosting:
        """SageMaker's part of the endpoint."""
        self._hosting = self._hosting or Hosting(
            *(self.name, self.role, self.image, self.instance, self.count, self.most, self.per_minute),
            *(self.subnets, self.security_groups, {"detection:detector": self.detector}, self.ready_s, self.poll_s),
        )
        return self._hosting

    @property
    def url(self) -> str:
        """Where the endpoint answers whoever signs as AWS wants it."""
        region = amazon.client("sagemaker").meta.region_name
        return f"https://runtime.sagemaker.{region}.amazonaws.com/endpoints/{self.name}/invocations"

    def how_to_ask(self) -> Sequence[str]:
        """A command of AWS's own, which signs what it sends."""
        return [
            f"aws sagemaker-runtime invoke-endpoint --endpoint-name {self.name} --content-type image/jpeg "
            "--body fileb://a.jpg answer.json"
        ]

    @property
    def ready_s(self) -> float:
        """New instances, the image and the model: minutes."""
        return 1800.0

    @property
    def look_s(self) -> float:
        """SageMaker counts how often it is asked."""
        return self.poll_s

    def check(self) -> Iterator[Finding]:
        """Looks at the image that serves, and whether there may be enough servers for two slots."""
        yield amazon_account.image("serving image", self.image, "DETECTION_AWS_SERVING_IMAGE")
        name, needed = f"{self.instance} for endpoint usage", self.count + max(self.count, self.most)
        yield amazon_account.Quotas().finding("quota of servers", name, needed, "DETECTION_AWS_ENDPOINT")

    # Looking ---------------------------------------------------------------------------------------------------------

    def status(self) -> EndpointStatus:
        """The endpoint as SageMaker describes it, with what it was asked for and does not have yet."""
        told, asked = self.hosting.described(), self.desk.asked()
        if told is None:
            return EndpointStatus(self.url, False, self._asleep(asked), asked.get("routed_at"))
        config, state, why = told["EndpointConfigName"], told["EndpointStatus"], str(told.get("FailureReason", ""))
        wanted = now = self.hosting.held(config)
        if asked.get("config", config) != config and (state in BUSY or why):
            wanted = self.hosting.held(asked["config"])
        traffic = shares(weights(told)) if asked.get("routed_at") else {}
        slots = []
        for name, deployment in wanted.items():
            if now.get(name) == deployment and state not in ("Creating", "Failed"):
                slots.append(self._slot(name, deployment, traffic, "ready"))
                continue
            error = self.desk.refusal(deployment) or ("" if state in BUSY else why)
            slots.append(self._slot(name, deployment, traffic, "failed" if error else "loading", error))
        return EndpointStatus(self.url, state in ANSWERS, slots, asked.get("routed_at"))

    def _asleep(self, asked: Mapping[str, Any]) -> list[Slot]:
        """The slots of an endpoint that was stopped."""
        if not asked.get("stopped"):
            return []
        variants = self.hosting.variants(asked["config"])
        traffic = shares({item["VariantName"]: item["InitialVariantWeight"] for item in variants})
        return [self._slot(item["VariantName"], item["ModelName"], traffic, "stopped") for item in variants]

    def _slot(self, name: str, deployment: str, traffic: Mapping[str, int], state: str, error: str = "") -> Slot:
        about = self.desk.about(deployment)
        return Slot(name, str(about["version"]), str(about["sha256"]), traffic.get(name, 0), state, error)

    def health(self, slot: str) -> Health | None:
        """What the servers of a slot have counted, and what others say of it that they have shown requests to."""
        held = self._held()
        others = [deployment for name, deployment in held.items() if name != slot]
        return self.desk.health(held[slot], others) if slot in held else None

    def _held(self) -> Mapping[str, str]:
        """Which deployment each slot holds now."""
        told = self.hosting.described()
        return self.hosting.held(told["EndpointConfigName"]) if told else {}

    # Changing --------------------------------------------------------------------------------------------------------

    def deploy(self, slot: str, onnx: str, sha256: str, version: str, settings: Mapping[str, Any]) -> None:
        """Puts what the servers load beside one another in the lake, and asks for a variant that loads it."""
        about = {"detector": self.detector, "version": version, "sha256": sha256, **settings, "slot": slot}
        self.desk.order(**self._usual)

        def with_slot(told: Described | None, variants: Sequence[Variant]) -> Sequence[Variant] | None:
            there = {item.name: item for item in self.status().slots} if told else {}
            if slot in there and there[slot].traffic:
                raise EndpointError(f"{self.detector}: slot {slot} has traffic; a new version goes to an idle slot")
            before = next((item for item in variants if item["VariantName"] == slot), None)
            if before is not None and there[slot].state == "ready":
                held = self.desk.about(before["ModelName"])
                if all(held.get(key) == value for key, value in about.items()):
                    return None
            deployment = f"{self.name}-{slot}-{uuid.uuid4().hex[:8]}"
            self.hosting.model(deployment, self.storage.uri_of(self.desk.place(deployment, onnx, about)))
            others = [item for item in variants if item["VariantName"] != slot]
            # Somebody has to have a weight: a first variant gets it, and counts as idle until it is routed to.
            weight = 0.0 if any(item["InitialVariantWeight"] for item in others) else 1.0
            return [*others, self.hosting.variant(slot, deployment, weight)]

        self._change(with_slot)

    def remove(self, slot: str) -> None:
        """Asks for the endpoint without a variant; without its last one there is no endpoint."""

        def without_slot(told: Described | None, variants: Sequence[Variant]) -> Sequence[Variant] | None:
            if told is None:
                return None
            if any(item.name == slot and item.traffic for item in self.status().slots):
                raise EndpointError(f"{self.detector}: slot {slot} has traffic; route it away first")
            left = [item for item in variants if item["VariantName"] != slot]
            if len(left) == len(variants):
                self.desk.note(config=told["EndpointConfigName"])  # what was asked for, and failed, is forgotten
                return None
            self.hosting.scale(slot, active=False)
            return left

        shadow = self.desk.orders().get("shadow")
        if shadow is not None and shadow["slot"] == slot:
            self.desk.order(shadow=None)
        self._change(without_slot)

    def _change(self, edit: Edit) -> None:
        """Asks for other variants; of two who do so at once the second does it on top of the first's."""
        while True:
            self.wake()
            told = self.hosting.settled()
            if told is not None and told["EndpointStatus"] != "InService":
                self.hosting.delete()  # it never worked, and cannot be changed
                continue
            wanted = edit(told, self.hosting.as_they_are(told) if told else [])
            if wanted is None:
                return
            if told is not None and not wanted:
                self.desk.asked_nothing()
                self.hosting.delete()
                return
            config = self.hosting.config(wanted)
            if not (self.hosting.update(config) if told else self.hosting.create(config)):
                continue
            if told is None:
                self.desk.asked_nothing()
            self.desk.note(config=config)
            self.hosting.tidy([config, *([told["EndpointConfigName"]] if told else [])], self.desk.forget)
            return

    def route(self, traffic: Mapping[str, int]) -> None:
        """Sets the variants' weights, and waits until SageMaker has; an endpoint that was stopped gets them later."""
        if sum(traffic.values()) != 100 or any(share < 0 for share in traffic.values()):
            raise EndpointError(f"{self.detector}: shares {dict(traffic)} do not sum to 100")
        ends = time.monotonic() + TAKEN_S
        while True:
            told, asked = self.hosting.settled(), self.desk.asked()
            asleep = {slot.name for slot in self._asleep(asked)} if told is None else set()
            unknown = traffic.keys() - weights(told).keys() - asleep
            if unknown:
                raise EndpointError(f"{self.detector}: no slot {', '.join(sorted(unknown))}")
            wanted = {name: traffic.get(name, 0) for name in sorted(weights(told).keys() | asleep)}
            if asleep:
                variants = self.hosting.variants(asked["config"])
                self._lay_down(
                    [{**item, "InitialVariantWeight": float(wanted[item["VariantName"]])} for item in variants]
                )
                return
            if shares(weights(told)) == wanted and asked.get("routed_at"):
                break
            if time.monotonic() > ends:
                raise EndpointError(f"{self.name}: SageMaker did not set the weights {wanted} within {TAKEN_S:.0f} s")
            self.hosting.weigh(wanted)
            self.desk.note(routed_at=time.time())
        for name, share in wanted.items():
            self.hosting.scale(name, active=share > 0)

    def mirror(self, slot: str | None, share: float) -> None:
        """Orders the servers to show requests to a slot."""
        if not 0 <= share <= 1:
            raise EndpointError(f"{self.detector}: a share of {share} of the requests cannot be mirrored; 0 to 1 can")
        shadow = None
        if slot is not None:
            held = self._held()
            if slot not in held:
                raise EndpointError(f"{self.detector}: no slot {slot} to mirror to")
            shadow = {"endpoint": self.name, "slot": slot, "deployment": held[slot], "share": share}
        self.desk.order(**self._usual, shadow=shadow)

    @property
    def _usual(self) -> dict[str, Any]:
        """What the servers are to do, whatever else they are to."""
        folder = {"folder": self.storage.uri_of(layout.CAPTURES)}
        return {"every_s": self.report_s, "capture": None if self.capture is None else {**self.capture, **folder}}

    # Stopping and waking, asking -------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Makes an endpoint that was stopped again, as it was; lets the servers know today's settings of capture."""
        if self.desk.orders():
            self.desk.order(**self._usual)
        asked = self.desk.asked()
        if not asked.get("stopped"):
            return
        self.hosting.create(asked["config"])
        self.desk.note(stopped=False)
        told = self.hosting.settled()
        if told is None or told["EndpointStatus"] != "InService":
            raise EndpointError(f"{self.name} did not come up: {(told or {}).get('FailureReason', 'it is gone')}")

    def stop(self) -> bool:
        """Deletes the endpoint, which costs no more then, and remembers how to make it again."""
        told = self.hosting.settled()
        if told is None:
            return False
        for name in weights(told):
            self.hosting.scale(name, active=False)
        self._lay_down(self.hosting.as_they_are(told))
        self.hosting.delete()
        return True

    def _lay_down(self, variants: Sequence[Variant]) -> None:
        """Remembers with which variants the endpoint is to be made again."""
        self.desk.note(config=self.hosting.config(variants), routed_at=time.time(), stopped=True)

    def invoke(self, slot: str | None, image: bytes) -> Mapping[str, Any]:
        """Sends one picture through SageMaker, to a variant or as any client does."""
        return self.hosting.invoke(slot, image)

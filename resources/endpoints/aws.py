"""An endpoint on Amazon SageMaker: its production variants are the slots, and their weights the traffic."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field, PrivateAttr

from resources import amazon, amazon_account
from resources.amazon_hosting import ANSWERS, BUSY, Hosting, Variant, shares, weights
from resources.endpoints.managed import Held, ManagedEndpoints, Seen
from resources.findings import Finding


class SageMakerEndpoints(ManagedEndpoints):
    """A SageMaker endpoint with a production variant a slot.

    Attributes:
        role: ARN of the role that the servers have.
        subnets: Subnets to run in; none for SageMaker's own network.
        security_groups: Security groups in these subnets.
    """

    role: str
    instance: str = "ml.c5.xlarge"
    subnets: list[str] = Field(default_factory=list)
    security_groups: list[str] = Field(default_factory=list)
    _hosting: Hosting | None = PrivateAttr(default=None)

    @property
    def name(self) -> str:
        """The endpoint's name."""
        return amazon.name_of(self.detector)[:44].rstrip("-")

    @property
    def hosting(self) -> Hosting:
        """SageMaker's part of the endpoint."""
        self._hosting = self._hosting or Hosting(
            *(self.name, self.role, self.image, self.instance, self.count, self.most, self.per_minute),
            *(self.subnets, self.security_groups, {"detection:detector": self.detector}),
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

    def check(self) -> Iterator[Finding]:
        """Looks at the image that serves, and whether there may be enough servers for two slots."""
        yield amazon_account.image("serving image", self.image, "DETECTION_AWS_SERVING_IMAGE")
        name, needed = f"{self.instance} for endpoint usage", self.count + max(self.count, self.most)
        yield amazon_account.Quotas().finding("quota of servers", name, needed, "DETECTION_AWS_ENDPOINT")

    def look(self) -> Seen | None:
        """The endpoint as SageMaker describes it, with what it was asked for and does not have yet."""
        told, asked = self.hosting.described(), self.desk.asked()
        if told is None:
            return None
        config, state, why = told["EndpointConfigName"], told["EndpointStatus"], str(told.get("FailureReason", ""))
        now, busy = self.hosting.held(config), state in BUSY
        wanted = now
        if asked.get("config", config) != config and (busy or why):
            # While it changes, what it was asked for; if it could not, also what it has still.
            wanted = {**({} if busy else now), **self.hosting.held(asked["config"])}
        variants = {item["VariantName"]: item for item in told.get("ProductionVariants", [])}
        share = shares(weights(told))
        slots = {}
        for name, deployment in wanted.items():
            there = now.get(name) == deployment and state not in ("Creating", "Failed")
            has = share.get(name, 0) if name in now else None
            count = variants.get(name, {}).get("CurrentInstanceCount") or self.count
            slots[name] = Held(deployment, has, there, "" if busy else why, count)
        return Seen(state in ANSWERS, busy, state not in BUSY and state != "InService", slots, why, told)

    def hold(self, slot: str, deployment: str, seen: Seen | None) -> bool:
        """Asks for a variant that loads it."""
        variants = self.hosting.as_they_are(seen.told) if seen else []
        self.hosting.model(deployment, self.storage.uri_of(self.desk.folder(deployment)))
        others = [item for item in variants if item["VariantName"] != slot]
        # Somebody has to have a weight: a first variant gets it, and counts as idle until it is routed to.
        weight = 0.0 if any(item["InitialVariantWeight"] for item in others) else 1.0
        return self._ask_for([*others, self.hosting.variant(slot, deployment, weight, self.count)], seen)

    def drop(self, slot: str, seen: Seen) -> bool:
        """Asks for the other variants."""
        variants = self.hosting.as_they_are(seen.told)
        left = [item for item in variants if item["VariantName"] != slot]
        if len(left) == len(variants):
            self.desk.note(config=seen.told["EndpointConfigName"])  # what was asked for, and failed, is forgotten
            return True
        return self._ask_for(left, seen)

    def _ask_for(self, variants: Sequence[Variant], seen: Seen | None) -> bool:
        config = self.hosting.config(variants)
        if not (self.hosting.update(config) if seen else self.hosting.create(config)):
            return False
        if seen is None:
            self.desk.asked_nothing()
        self.desk.note(config=config)
        before = [seen.told["EndpointConfigName"]] if seen else []
        self.hosting.tidy([config, *before], self.desk.forget)
        return True

    def share(self, wanted: Mapping[str, int], seen: Seen) -> bool:
        """Sets the variants' weights."""
        return self.hosting.weigh(wanted)

    def rise(self, slots: Mapping[str, Held]) -> None:
        """Makes the endpoint again."""
        if self.look() is not None:
            return
        routed = any(held.share for held in slots.values())
        config = self.hosting.config(
            self.hosting.variant(name, held.deployment, float(held.share or not routed), held.count)
            for name, held in slots.items()
        )
        if self.hosting.create(config):
            self.desk.note(config=config)

    def erase(self) -> None:
        """Deletes the endpoint."""
        self.hosting.delete()

    def scale(self, slot: str, *, active: bool) -> None:
        """Has Application Auto Scaling follow the requests of an instance."""
        self.hosting.scale(slot, active=active)

    def way_to(self) -> Mapping[str, Any]:
        """The endpoint's name: SageMaker knows the servers by their role."""
        return {"endpoint": self.name}

    def invoke(self, slot: str | None, image: bytes) -> Mapping[str, Any]:
        """Sends one picture through SageMaker, to a variant or as any client does."""
        return self.hosting.invoke(slot, image)

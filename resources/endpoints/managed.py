"""What endpoints of every cloud have in common: how slots change, stop and wake, though others change them as well.

What a slot holds, and which share it has, the service knows and is asked. What it has no word for lies on the desk in
the lake: what the servers of a slot load, what they are to do beside answering, and what they have counted.
"""

import time
import uuid
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

import dagster as dg
from pydantic import PrivateAttr

from detection_assets.domain import layout
from detection_assets.domain.rollout import Health
from resources.endpoints.base import EndpointError, Endpoints, EndpointStatus, Slot
from resources.endpoints.desk import Desk
from resources.storage import Storage

TAKEN_S = 600.0
"""Seconds that a service has to set the traffic."""


@dataclass(frozen=True)
class Held:
    """What a slot has, as the service tells.

    Attributes:
        deployment: The name of what lies on the desk for it.
        share: Share of the requests, per cent; None for a slot that was asked for and that the service does not have.
        ready: Whether it answers.
        error: Why it never will, as the service says; "" if it may.
        count: Its instances.
    """

    deployment: str
    share: int | None
    ready: bool
    error: str = ""
    count: int = 1


@dataclass(frozen=True)
class Seen:
    """An endpoint as its service tells of it.

    Attributes:
        alive: Whether it answers.
        busy: Whether it takes no change now.
        broken: Whether it never came up, and cannot be changed.
        slots: What its slots have, by name.
        why: What the service says has failed; "" if nothing.
        told: What the service said, for whoever speaks to it.
    """

    alive: bool
    busy: bool
    broken: bool
    slots: Mapping[str, Held]
    why: str = ""
    told: Any = field(default=None, compare=False)

    @property
    def there(self) -> dict[str, Held]:
        """The slots that the service has."""
        return {name: held for name, held in self.slots.items() if held.share is not None}


class ManagedEndpoints(Endpoints):
    """An endpoint that a service of a cloud runs.

    Attributes:
        image: The image that serves.
        instance: Instance type of each server.
        count: Instances of each slot, at least.
        most: Instances of a slot with traffic, at most; above `count` the service adds and removes them by itself.
        per_minute: Requests a minute that one instance is to have, where it does.
        capture: What the servers keep of the requests: `rate`, `below`, `images`, `keep_days`; None: nothing.
        poll_s: Seconds between two looks at the endpoint.
        report_s: Seconds between two reports of a server; each costs a request to the lake.
    """

    storage: dg.ResourceDependency[Storage]
    image: str
    instance: str
    count: int = 1
    most: int = 1
    per_minute: int = 300
    capture: Optional[dict[str, Any]] = None  # noqa: UP045 - Dagster reads the annotation
    poll_s: float = 3.0
    report_s: float = 5.0
    _desk: Desk | None = PrivateAttr(default=None)

    # What a backend supplies -----------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def name(self) -> str:
        """The endpoint's name; deployments are called after it."""

    @abstractmethod
    def look(self) -> Seen | None:
        """The endpoint as the service tells; None if there is none."""

    @abstractmethod
    def hold(self, slot: str, deployment: str, seen: Seen | None) -> bool:
        """Asks for a slot that holds what lies on the desk, with no traffic; the endpoint is made if missing.

        Args:
            slot: `blue` or `green`; if it is there, it is replaced.
            deployment: The name of what lies on the desk.
            seen: The endpoint as it was a moment ago.

        Returns:
            False if somebody else has changed the endpoint meanwhile; nothing was asked for then.
        """

    @abstractmethod
    def drop(self, slot: str, seen: Seen) -> bool:
        """Asks for the endpoint without a slot that is not its last; False as of `hold`."""

    @abstractmethod
    def share(self, wanted: Mapping[str, int], seen: Seen) -> bool:
        """Asks for other shares of the requests, per cent of each slot; False as of `hold`."""

    @abstractmethod
    def rise(self, slots: Mapping[str, Held]) -> None:
        """Makes an endpoint that was stopped again, as far as it is not there already."""

    @abstractmethod
    def erase(self) -> None:
        """Asks for the end of the endpoint with all its slots."""

    @abstractmethod
    def scale(self, slot: str, *, active: bool) -> None:
        """Lets the service add and remove instances of a slot with traffic, and of no other."""

    @abstractmethod
    def way_to(self) -> Mapping[str, Any]:
        """What a server has to be told to ask another slot."""

    # Looking ---------------------------------------------------------------------------------------------------------

    @property
    def desk(self) -> Desk:
        """The lake's part of the endpoint."""
        self._desk = self._desk or Desk(self.storage)
        return self._desk

    @property
    def ready_s(self) -> float:
        """New instances, the image and the model: minutes."""
        return 1800.0

    @property
    def look_s(self) -> float:
        """Services count how often they are asked."""
        return self.poll_s

    def status(self) -> EndpointStatus:
        """The endpoint as the service tells, with what the servers say of what they were to load."""
        seen, asked = self.look(), self.desk.asked()
        if seen is None:
            asleep = self._asleep(asked)
            slots = [self._slot(name, held, held.share or 0, "stopped") for name, held in asleep.items()]
            return EndpointStatus(self.url, False, slots, asked.get("routed_at"))
        slots = []
        for name, held in seen.slots.items():
            error = "" if held.ready else self.desk.refusal(held.deployment) or held.error
            state = "ready" if held.ready else "failed" if error else "loading"
            slots.append(self._slot(name, held, _traffic(held, asked), state, error))
        return EndpointStatus(self.url, seen.alive, slots, asked.get("routed_at"))

    def _slot(self, name: str, held: Held, traffic: int, state: str, error: str = "") -> Slot:
        about = self.desk.about(held.deployment)
        return Slot(name, str(about["version"]), str(about["sha256"]), traffic, state, error)

    def _asleep(self, asked: Mapping[str, Any]) -> dict[str, Held]:
        """The slots that an endpoint had when it was stopped."""
        laid = asked.get("asleep") or {}
        return {
            name: Held(str(about["deployment"]), int(about["share"]), ready=False, count=int(about["count"]))
            for name, about in laid.items()
        }

    def health(self, slot: str) -> Health | None:
        """What the servers of a slot have counted, and what others say of it that they have shown requests to."""
        held = self._held()
        others = [deployment for name, deployment in held.items() if name != slot]
        return self.desk.health(held[slot], others) if slot in held else None

    def _held(self) -> Mapping[str, str]:
        """Which deployment each slot holds now."""
        seen = self.look()
        return {name: held.deployment for name, held in seen.there.items()} if seen else {}

    def settled(self) -> Seen | None:
        """The endpoint when it takes changes again; None if there is none.

        Raises:
            EndpointError: It does not for longer than a slot may take to be ready.
        """
        ends = time.monotonic() + self.ready_s
        while (seen := self.look()) is not None and seen.busy:
            if time.monotonic() > ends:
                raise EndpointError(
                    f"{self.name} has been taking no change for {self.ready_s / 60:.0f} minutes; look at it in the "
                    "console of the cloud, and try again"
                )
            time.sleep(self.poll_s)
        return seen

    # Changing --------------------------------------------------------------------------------------------------------

    def deploy(self, slot: str, onnx: str, sha256: str, version: str, settings: Mapping[str, Any]) -> None:
        """Puts what the servers load beside one another in the lake, and asks for a slot that loads it."""
        about = {"detector": self.detector, "version": version, "sha256": sha256, **settings, "slot": slot}
        self.desk.order(**self._usual)
        while True:
            seen = self._changeable()
            held = seen.slots.get(slot) if seen else None
            if held is not None:
                if _traffic(held, self.desk.asked()):
                    raise EndpointError(f"{self.detector}: slot {slot} has traffic; a new version goes to an idle slot")
                before = self.desk.about(held.deployment) if held.ready else {}
                if before and all(before.get(key) == value for key, value in about.items()):
                    return
            deployment = f"{self.name}-{slot}-{uuid.uuid4().hex[:8]}"
            self.desk.place(deployment, onnx, about)
            if self.hold(slot, deployment, seen):
                return

    def remove(self, slot: str) -> None:
        """Asks for the endpoint without a slot; without its last one there is no endpoint."""
        shadow = self.desk.orders().get("shadow")
        if shadow is not None and shadow["slot"] == slot:
            self.desk.order(shadow=None)
        while True:
            seen = self._changeable()
            held = seen.slots.get(slot) if seen else None
            if seen is None or held is None:
                return
            if _traffic(held, self.desk.asked()):
                raise EndpointError(f"{self.detector}: slot {slot} has traffic; route it away first")
            self.scale(slot, active=False)
            if seen.there.keys() <= {slot}:
                self.desk.asked_nothing()
                self._end()
                return
            if self.drop(slot, seen):
                return

    def _changeable(self) -> Seen | None:
        """The endpoint when it takes changes; one that was stopped is woken, one that never came up is deleted."""
        self.wake()
        while (seen := self.settled()) is not None and seen.broken:
            self._end()
        return seen

    def _end(self) -> None:
        """Deletes the endpoint, and waits until it is gone."""
        while self.settled() is not None:
            self.erase()
            time.sleep(self.poll_s)

    def route(self, traffic: Mapping[str, int]) -> None:
        """Sets the slots' shares, and waits until the service has; an endpoint that was stopped gets them later."""
        if sum(traffic.values()) != 100 or any(share < 0 for share in traffic.values()):
            raise EndpointError(f"{self.detector}: shares {dict(traffic)} do not sum to 100")
        ends = time.monotonic() + TAKEN_S
        while True:
            seen, asked = self.settled(), self.desk.asked()
            slots = self._asleep(asked) if seen is None else seen.there
            unknown = traffic.keys() - slots.keys()
            if unknown:
                raise EndpointError(f"{self.detector}: no slot {', '.join(sorted(unknown))}")
            wanted = {name: traffic.get(name, 0) for name in sorted(slots)}
            if seen is None:
                self.desk.note(asleep=_laid(slots, wanted), routed_at=time.time())
                return
            if {name: held.share for name, held in slots.items()} == wanted and asked.get("routed_at"):
                break
            if time.monotonic() > ends:
                raise EndpointError(f"{self.name}: the service did not set the traffic {wanted} in {TAKEN_S:.0f} s")
            self.share(wanted, seen)
            self.desk.note(routed_at=time.time())
        for name, share in wanted.items():
            self.scale(name, active=share > 0)

    def mirror(self, slot: str | None, share: float) -> None:
        """Orders the servers to show requests to a slot."""
        if not 0 <= share <= 1:
            raise EndpointError(f"{self.detector}: a share of {share} of the requests cannot be mirrored; 0 to 1 can")
        shadow = None
        if slot is not None:
            held = self._held()
            if slot not in held:
                raise EndpointError(f"{self.detector}: no slot {slot} to mirror to")
            shadow = {**self.way_to(), "slot": slot, "deployment": held[slot], "share": share}
        self.desk.order(**self._usual, shadow=shadow)

    @property
    def _usual(self) -> dict[str, Any]:
        """What the servers are to do, whatever else they are to."""
        folder = {"folder": self.storage.uri_of(layout.CAPTURES)}
        return {"every_s": self.report_s, "capture": None if self.capture is None else {**self.capture, **folder}}

    # Stopping and waking ---------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Makes an endpoint that was stopped again, as it was; lets the servers know today's settings of capture."""
        if self.desk.orders():
            self.desk.order(**self._usual)
        asleep = self._asleep(self.desk.asked())
        if not asleep:
            return
        self.rise(asleep)
        seen = self.settled()
        if seen is None or seen.broken:
            raise EndpointError(f"{self.name} did not come up: {seen.why if seen else 'it is gone'}")
        # Only now: who is killed before finds it asleep, and goes on.
        self.desk.note(asleep=None)

    def stop(self) -> bool:
        """Deletes the endpoint, which costs no more then, and remembers how to make it again."""
        seen, asked = self.settled(), self.desk.asked()
        if seen is None:
            return False
        for name in seen.there:
            self.scale(name, active=False)
        if not seen.broken and not asked.get("asleep"):
            shares = {name: _traffic(held, asked) for name, held in seen.there.items()}
            self.desk.note(asleep=_laid(seen.there, shares))
        self._end()
        return True


def _traffic(held: Held, asked: Mapping[str, Any]) -> int:
    """A slot's share of the traffic: the first one may have a share because somebody has to, and counts as idle."""
    return held.share or 0 if asked.get("routed_at") else 0


def _laid(slots: Mapping[str, Held], shares: Mapping[str, int]) -> dict[str, Any]:
    return {
        name: {"deployment": held.deployment, "share": shares[name], "count": held.count}
        for name, held in slots.items()
    }

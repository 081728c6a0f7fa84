"""What an endpoint does for us, whoever runs it.

An endpoint has two slots. A new version goes to the idle one, which gets no traffic until it has proved itself; the
slot that serves is not touched before the end.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from detection_assets.domain.problems import Told
from detection_assets.domain.rollout import Health
from resources.findings import Finding

SLOTS = ("blue", "green")


class EndpointError(Told, RuntimeError):
    """The endpoint refused or did not answer; the message says what to do."""


@dataclass(frozen=True)
class Slot:
    """One deployment of an endpoint.

    Attributes:
        name: `blue` or `green`.
        version: The registered version it holds.
        sha256: Digest of the model it was told to load.
        traffic: Share of the requests, per cent.
        state: `loading`, `ready`, `failed`, `tripped` (it failed so often that it gets no more requests) or `stopped`.
        error: Why it failed, or "".
    """

    name: str
    version: str
    sha256: str
    traffic: int
    state: str
    error: str = ""


@dataclass(frozen=True)
class EndpointStatus:
    """An endpoint as it is now.

    Attributes:
        url: Where it answers.
        alive: Whether it does.
        slots: Its slots.
        routed_at: When its traffic was set last, epoch seconds; None where the platform does not say.
    """

    url: str
    alive: bool
    slots: Sequence[Slot]
    routed_at: float | None = None

    @property
    def serving(self) -> Slot | None:
        """The slot with the most traffic, if any has some."""
        best = max(self.slots, key=lambda slot: slot.traffic, default=None)
        return best if best and best.traffic > 0 else None


class Endpoints(dg.ConfigurableResource, ABC):
    """A detector's endpoint.

    Attributes:
        detector: The endpoint's name.
    """

    detector: str

    @property
    @abstractmethod
    def url(self) -> str:
        """Where the endpoint answers, or would."""

    @property
    def key_file(self) -> Path | None:
        """The file with the key that callers send; None where the platform knows its callers."""
        return None

    @abstractmethod
    def how_to_ask(self) -> Sequence[str]:
        """How to send it a picture, as lines for a person."""

    @property
    def ready_s(self) -> float:
        """Seconds that a slot has to load its model."""
        return 60.0

    @property
    def look_s(self) -> float:
        """Seconds between two looks at the endpoint."""
        return 0.1

    def check(self) -> Iterator[Finding]:
        """Looks whether there is what an endpoint needs."""
        yield from ()

    def idle_slot(self) -> str:
        """The slot that a new version goes to: the one that does not serve."""
        serving = self.status().serving
        return next(name for name in SLOTS if serving is None or name != serving.name)

    def wait_ready(self, slot: str, timeout_s: float) -> Slot:
        """Waits until a slot is ready.

        Raises:
            EndpointError: If it fails to load, or is not ready in time.
        """
        ends = time.monotonic() + timeout_s
        while True:
            found = next((item for item in self.status().slots if item.name == slot), None)
            if found and found.state == "ready":
                return found
            if found and found.state == "failed":
                raise EndpointError(
                    f"{self.detector}: slot {slot} failed to load version {found.version}: {found.error}"
                )
            if time.monotonic() > ends:
                state = found.state if found else "absent"
                raise EndpointError(f"{self.detector}: slot {slot} is {state} after {timeout_s:.0f} s")
            time.sleep(self.look_s)

    @abstractmethod
    def wake(self) -> None:
        """Lets an endpoint that ought to answer answer again, as it was; one that was never made stays so.

        Raises:
            EndpointError: If it does not come up.
        """

    @abstractmethod
    def stop(self) -> bool:
        """Ends what answers, until it is woken; returns whether anything did."""

    @abstractmethod
    def status(self) -> EndpointStatus:
        """The endpoint as it is now; an endpoint that was never made is not alive and has no slots."""

    @abstractmethod
    def deploy(self, slot: str, onnx: str, sha256: str, version: str, settings: Mapping[str, Any]) -> None:
        """Tells a slot to load a model, with no traffic; the endpoint is made if missing, mirroring stays as it is.

        Args:
            slot: `blue` or `green`.
            onnx: Storage key of the model.
            sha256: Its digest; the endpoint refuses a file with another one.
            version: The registered version.
            settings: `confidence`, `iou`, `max_det`.
        """

    @abstractmethod
    def invoke(self, slot: str | None, image: bytes) -> Mapping[str, Any]:
        """Sends one picture and returns the answer.

        Args:
            slot: The slot that is to answer, whatever its traffic; None: the one that the traffic's shares draw.
            image: The encoded picture.
        """

    @abstractmethod
    def route(self, traffic: Mapping[str, int]) -> None:
        """Sets the slots' shares of the traffic, per cent; they sum to 100."""

    @abstractmethod
    def mirror(self, slot: str | None, share: float) -> None:
        """Sends copies of the requests that other slots answer to a slot, whose answers are compared, not returned.

        Args:
            slot: The slot, which must be there; None: no requests are mirrored any more.
            share: Share of the requests, 0 to 1.
        """

    @abstractmethod
    def health(self, slot: str) -> Health | None:
        """The counters of a slot since its model was loaded; None if there is no such slot, or nobody counts."""

    @abstractmethod
    def remove(self, slot: str) -> None:
        """Removes a slot, which must have no traffic, and ends mirroring to it."""

"""Copies of requests, shown to a slot whose answers nobody sees: what is common to the ways of asking it.

What a slot cannot keep up with is dropped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from detection_assets.serving.background import Background
from detection_assets.serving.observe import Metrics

WAITING = 4
"""Most copies that wait."""
WAITING_BYTES = 64 * 2**20
TIMEOUT_S = 10.0
"""What the slot may take for a copy."""


class Named(Protocol):
    """A slot that sees copies."""

    @property
    def name(self) -> str:
        """The slot's name."""
        ...


SlotT = TypeVar("SlotT", bound=Named)


@dataclass(frozen=True, slots=True)
class Copy(Generic[SlotT]):
    """A picture that was answered.

    Attributes:
        slot: The slot that is to see it.
        encoded: The picture's bytes, which were decoded before.
        answered: What was answered, as in `answers.picture`.
        threshold: The caller's own threshold, if there was one.
    """

    slot: SlotT
    encoded: bytes
    answered: Mapping[str, Any]
    threshold: float | None


class Copies(ABC, Generic[SlotT]):
    """The thread in which slots of one kind see copies, and their answers are compared."""

    def __init__(self, thread: str, metrics: Metrics) -> None:
        """Starts the thread, under a name."""
        self._metrics = metrics
        self._background = Background[Copy[SlotT]](thread, self.compare, most=WAITING, most_bytes=WAITING_BYTES)

    def offer(self, slot: SlotT, encoded: bytes, answered: Mapping[str, Any], threshold: float | None) -> None:
        """Takes a copy of an answered picture; arguments as of `Copy`."""
        if not self._background.offer(Copy(slot, encoded, answered, threshold), len(encoded)):
            self.count(slot, "dropped")

    def count(self, slot: SlotT, outcome: str) -> None:
        """Counts what became of a copy: it `agreed`, `disagreed`, `failed` or was `dropped`."""
        self._metrics.mirrored.labels(slot.name, outcome).inc()

    def close(self) -> None:
        """Ends the thread."""
        self._background.close(TIMEOUT_S)

    @abstractmethod
    def compare(self, copy: Copy[SlotT]) -> None:
        """Asks the slot, and counts whether it agreed."""

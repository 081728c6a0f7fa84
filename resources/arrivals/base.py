"""Who tells what came into the lake, so that nobody has to list it to find out."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import dagster as dg

from detection_assets.domain.problems import Told
from resources.findings import Finding


class ArrivalsError(Told, OSError):
    """Whoever tells cannot be asked; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What one message says.

    Attributes:
        receipt: What to give to `done`.
        keys: Storage keys that something happened to. What they hold now, if anything, is for the lake to say.
        problems: What is of no use here, each in a line for the log.
    """

    receipt: str
    keys: Sequence[str] = ()
    problems: Sequence[str] = ()


class Arrivals(dg.ConfigurableResource, ABC):
    """Tells what came into one detector's part of the lake.

    A message stays where it is until `done` is told of it: whoever takes it and dies has lost nothing, and whoever
    takes it may be told the same again.
    """

    @property
    @abstractmethod
    def tells(self) -> bool:
        """Whether anybody tells; if not, only a listing shows what is new.

        Who tells does so of objects that are there as a whole, never of one that is still being written.
        """

    @abstractmethod
    def take(self, most: int) -> Sequence[Notice]:
        """Takes messages, and hides them for a while from whoever takes next.

        Args:
            most: How many at most.

        Raises:
            ArrivalsError: There is nobody to ask, or he refuses.
        """

    @abstractmethod
    def done(self, receipts: Sequence[str]) -> None:
        """Ends messages: what they said is kept elsewhere now. One that was ended before, or is too old, is no error.

        Raises:
            ArrivalsError: There is nobody to ask, or he refuses.
        """

    def check(self) -> Iterator[Finding]:
        """Looks whether there is somebody to ask."""
        yield from ()

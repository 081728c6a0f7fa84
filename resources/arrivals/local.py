"""A folder tells nobody what came into it."""

from collections.abc import Sequence

from resources.arrivals.base import Arrivals, Notice


class NobodyTells(Arrivals):
    """What is new is found by listing."""

    @property
    def tells(self) -> bool:
        """Nobody does."""
        return False

    def take(self, most: int) -> Sequence[Notice]:
        """Nothing is ever told."""
        return ()

    def done(self, receipts: Sequence[str]) -> None:
        """There is nothing to end."""

"""Which of a video's pictures are worth a look."""

from __future__ import annotations

from collections.abc import Container, Sequence

PREVIEWS = 3
"""Pictures of a video that are kept to look at."""


def worth_a_look(looked_at: Sequence[str], found: Container[str]) -> list[str]:
    """Chooses some pictures, evenly; only those in which something was found, if there are any.

    Args:
        looked_at: The pictures, in their order.
        found: Those of them in which something was found.

    Returns:
        At most `PREVIEWS` of them, in their order.
    """
    candidates = [one for one in looked_at if one in found] or list(looked_at)
    return candidates[:: max(1, len(candidates) // PREVIEWS)][:PREVIEWS]

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


def evenly(total: int, count: int) -> list[int]:
    """At most `count` of the numbers from 0 to `total` - 1, evenly chosen, the first and the last among them."""
    if total <= count:
        return list(range(total))
    return [round(at * (total - 1) / (count - 1)) for at in range(count)] if count > 1 else [total // 2][:count]


def over_videos(videos: Sequence[str], count: int) -> list[int]:
    """Chooses some frames of many videos, as many of each as there is room for, and evenly in each.

    Args:
        videos: The video of each frame; the frames of a video in their order.
        count: How many to choose at most.

    Returns:
        Positions in `videos`, in order.
    """
    of: dict[str, list[int]] = {}
    for at, video in enumerate(videos):
        of.setdefault(video, []).append(at)
    if len(of) > count:
        names = list(of)
        return sorted(of[names[at]][len(of[names[at]]) // 2] for at in evenly(len(names), count))
    chosen: list[int] = []
    # The shortest first: what they leave is for the longer ones.
    for left, positions in zip(range(len(of), 0, -1), sorted(of.values(), key=len), strict=True):
        share = (count - len(chosen)) // left
        chosen += [positions[at] for at in evenly(len(positions), share)]
    return sorted(chosen)

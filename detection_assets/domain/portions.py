"""Work divided into portions: so many of about the same size, or as many as have enough each."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping


def portions(sizes: Mapping[str, float], most: int) -> list[list[str]]:
    """Divides items into portions: the largest first, each into the portion that has least until then.

    The largest portion is at most 4/3 of what it could be at best (Graham, Bounds on Multiprocessing Timing Anomalies,
    1969). The same items give the same portions, whatever their order.

    Args:
        sizes: The items, each with its size, 0 or more, in any unit.
        most: How many portions there may be, 1 or more.

    Returns:
        The portions, none of them empty, each sorted by name.
    """
    heap: list[tuple[float, int, list[str]]] = [(0.0, number, []) for number in range(min(most, len(sizes)))]
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        size, number, items = heap[0]
        items.append(name)
        # What has no size is still an item: portions of nothing but such would otherwise all be one.
        heapq.heapreplace(heap, (size + max(sizes[name], 1e-9), number, items))
    return [sorted(items) for _, _, items in sorted(heap, key=lambda portion: portion[1])]


def with_enough(sizes: Mapping[str, int], enough: int) -> Iterator[list[str]]:
    """Puts items together, by name, until a portion has enough; only the last may have less.

    What is done already stays in its portion: the same items make the same portions, so that a killed one is found
    again.

    Args:
        sizes: The items, each with its size.
        enough: The size from which a portion is closed.
    """
    part: list[str] = []
    size = 0
    for name in sorted(sizes):
        part.append(name)
        size += sizes[name]
        if size >= enough:
            yield part
            part, size = [], 0
    if part:
        yield part

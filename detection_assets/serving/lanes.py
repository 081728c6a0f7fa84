"""A model's own lane: one thread for its network, and the requests that are with it.

Each slot has one, so that a model that is slow or stuck holds up its own requests and nobody else's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Lane:
    """One model's thread and its queue.

    The thread ends when nobody holds the lane any more.

    Attributes:
        requests: Requests that are decoded, wait or run; only the event loop changes it.
    """

    def __init__(self, name: str) -> None:
        self.requests = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"network-{name}")

    def has_room(self, queue: int) -> bool:
        """Whether one more may come in, when so many may wait beside the one that runs."""
        return self.requests <= queue

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Counts a request for as long as it is with this model."""
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[R]:
        """Runs a function in the lane's thread, after what is there already."""
        return asyncio.wrap_future(self._thread.submit(function, *args, **kwargs))

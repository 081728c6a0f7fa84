"""A model's own lane: the threads that wait for its network, and the requests that are with it.

Each slot has one, so that a model that is slow or stuck holds up its own requests and nobody else's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from detection_assets.serving.engines import AT_ONCE
from detection_assets.serving.predictor import Predictor

P = ParamSpec("P")
R = TypeVar("R")


class Lane:
    """One model's threads and its queue.

    The threads end when nobody holds the lane any more.

    Attributes:
        requests: Requests that are decoded, wait or run; only the event loop changes it.
    """

    def __init__(self, name: str, predictor: Predictor) -> None:
        self.requests, self._predictor = 0, predictor
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix=f"network-{name}")

    def has_room(self, queue: int) -> bool:
        """Whether one more may come in, when so many may wait beside those that the network answers."""
        return self.requests < queue + self._predictor.at_once

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Counts a request for as long as it is with this model."""
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[R]:
        """Runs a function in one of the lane's threads, after what is there already."""
        return asyncio.wrap_future(self._threads.submit(function, *args, **kwargs))

"""A thread beside the requests: it takes what fits in a bounded queue, at low priority, and drops the rest."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

NICENESS = 10
"""Priority of the thread where the system has one for each thread: it runs in what requests leave over."""

T = TypeVar("T")

logger = logging.getLogger("detection.background")


class Background(Generic[T]):
    """A bounded queue and the thread that works through it, which starts with the first item."""

    def __init__(
        self,
        name: str,
        work: Callable[[T], None],
        *,
        most: int,
        most_bytes: int,
        idle: Callable[[], None] | None = None,
        idle_s: float = 1.0,
    ) -> None:
        """Takes what to do; nothing runs yet.

        Args:
            name: The thread's name.
            work: Called with each item; what it raises is logged and forgotten.
            most: Most items that wait.
            most_bytes: Most bytes in all items that wait.
            idle: Called every `idle_s` seconds at most, and once at the end.
            idle_s: Seconds between two calls of `idle`.
        """
        self._name, self._work, self._idle, self._idle_s = name, work, idle, idle_s
        self._most, self._most_bytes = most, most_bytes
        self._items: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._closed = False
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None

    def offer(self, item: T, size: int) -> bool:
        """Puts an item of so many bytes in the queue; False if there is no room for it. Never blocks for long."""
        with self._change:
            if self._closed or len(self._items) >= self._most or self._bytes + size > self._most_bytes:
                return False
            self._items.append((item, size))
            self._bytes += size
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._change.notify()
        return True

    def close(self, patience_s: float) -> None:
        """Works off what waits, for so many seconds at most, and ends the thread."""
        with self._change:
            self._closed = True
            self._change.notify()
        if self._thread is not None:
            self._thread.join(patience_s)

    def _run(self) -> None:
        if sys.platform == "linux":  # elsewhere a niceness is the whole process's
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        looked = time.monotonic()
        while True:
            with self._change:
                if not self._items and not self._closed:
                    self._change.wait(max(0.0, looked + self._idle_s - time.monotonic()) if self._idle else None)
                item, size = self._items.popleft() if self._items else (None, 0)
                self._bytes -= size
                last = self._closed and not self._items
            if item is not None:
                self._try(lambda item=item: self._work(item))
            if self._idle and (last or time.monotonic() >= looked + self._idle_s):
                looked = time.monotonic()
                self._try(self._idle)
            if last:
                return

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception:  # whatever goes wrong beside the requests, they go on
            logger.exception(f"{self._name} failed")

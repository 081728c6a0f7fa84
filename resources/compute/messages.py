"""Dagster Pipes over the lake: what a program elsewhere tells, read from numbered parts under a name that stays.

Whoever asks for the same job after a crash reads all of it again, from the first part on.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
import orjson
from dagster import PipesContextInjector, PipesMessageReader
from dagster_pipes import PipesContextData, PipesParams

from resources.storage import Storage


class CarriedContext(PipesContextInjector):
    """The run's context goes with the job's order; nothing is written for it."""

    @contextmanager
    def inject_context(self, context_data: PipesContextData) -> Iterator[PipesParams]:
        """Gives no parameters; whoever writes the order takes the context from the session."""
        yield {}

    def no_messages_debug_text(self) -> str:
        """What to say when nothing comes."""
        return "The context went with the job's order."


class Parts:
    """The numbered parts below a prefix, in the order in which they come."""

    def __init__(self, storage: Storage, prefix: str) -> None:
        """Takes the lake, and where in it the parts are."""
        self._storage, self._prefix, self._next = storage, prefix, 1

    def fresh(self) -> Iterator[Any]:
        """The messages that have come since."""
        while True:
            try:
                part = self._storage.get(f"{self._prefix}/{self._next}.json")
            except FileNotFoundError:
                return
            self._next += 1
            yield from map(orjson.loads, part.splitlines())


class LakeMessages(PipesMessageReader):
    """Reads the numbered parts below a prefix as they come."""

    def __init__(self, storage: Storage, prefix: str, poll_s: float) -> None:
        """Takes the lake, where the parts are, and the seconds between two looks."""
        self._parts, self._where, self._poll_s = Parts(storage, prefix), storage.uri_of(prefix), poll_s

    @contextmanager
    def read_messages(self, handler: dg.PipesMessageHandler) -> Iterator[PipesParams]:
        """Reads in a thread until the session ends, and then what is there still."""
        over = threading.Event()

        def follow() -> None:
            while not over.wait(self._poll_s):
                try:
                    self._read(handler)
                except Exception as error:  # a store's trouble of a moment; what is there stays there
                    handler._context.log.warning(f"messages could not be read: {error}; trying again")  # pyright: ignore[reportPrivateUsage]

        thread = threading.Thread(target=follow, name="messages", daemon=True)
        thread.start()
        try:
            yield {}
        finally:
            over.set()
            thread.join()
            self._read(handler)

    def _read(self, handler: dg.PipesMessageHandler) -> None:
        for message in self._parts.fresh():
            handler.handle_message(message)

    def no_messages_debug_text(self) -> str:
        """What to say when nothing comes."""
        return f"Nothing lies at {self._where}: see the job's own log."

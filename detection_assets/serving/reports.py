"""What a server of a managed endpoint is told and tells, through the lake: its cloud has no other way to each server.

    <desk>/orders.json                          which requests to keep, and which to show to another slot
    <desk>/reports/<deployment>/<server>.json   how this server is, and what it has counted

Whoever watches adds up the reports of a deployment's servers, those that have ended included. The lake may be out of
reach for a while: serving goes on, and the next report says it all.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any

import orjson

from detection_assets.object_store import open_store
from detection_assets.serving.bundle import Bundle
from detection_assets.serving.elsewhere import Elsewhere, parse_other
from detection_assets.serving.slots import Slots
from detection_assets.serving.state import parse_capture

ORDERS = "orders.json"
EVERY_S = 5.0
"""Between two looks at the orders, and two reports at least, unless the orders say otherwise: each costs a request."""
ALIVE_S = 60.0
"""After so many seconds a server reports although nothing has changed."""

logger = logging.getLogger("detection.reports")


class Reports:
    """The thread that follows the orders and writes the reports."""

    def __init__(self, bundle: Bundle, slots: Slots, elsewhere: Elsewhere) -> None:
        """Takes where to report, what to report of, and who shows requests to another slot."""
        self._bundle, self._slots, self._elsewhere = bundle, slots, elsewhere
        self._name = f"reports/{bundle.deployment}/{uuid.uuid4().hex[:12]}.json"
        self._every_s = EVERY_S
        self._orders = b""
        self._told: Mapping[str, Any] = {}
        self._told_at = -ALIVE_S
        self._silent = False
        self._store: Any = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reports", daemon=True)

    def start(self) -> None:
        """Begins to follow and to report."""
        self._thread.start()

    def close(self) -> None:
        """Reports for the last time."""
        self._ended.set()
        self._thread.join(timeout=EVERY_S)

    def _run(self) -> None:
        while True:
            ended = self._ended.is_set()
            try:
                self._store = self._store or open_store(self._bundle.desk)
                if not ended:
                    self._look()
                self._tell(ended)
                self._silent = False
            except Exception as error:  # whatever the lake says, serving goes on
                if not self._silent:
                    logger.error(f"{self._bundle.desk}: {error}; serving goes on, and the next report says it all")
                self._silent = True
            if ended:
                return
            self._ended.wait(self._every_s)

    def _look(self) -> None:
        import obstore

        try:
            content = bytes(obstore.get(self._store, ORDERS).bytes())
        except FileNotFoundError:
            content = b""
        if content == self._orders:
            return
        self._orders = content
        try:
            told = orjson.loads(content or b"{}")
            every_s = min(ALIVE_S, max(0.05, float(told.get("every_s", EVERY_S))))
            capture = None if told.get("capture") is None else parse_capture(told["capture"])
            other = None if told.get("shadow") is None else parse_other(told["shadow"])
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            logger.error(f"{self._bundle.desk}/{ORDERS}: no orders ({error!r}); serving goes on as before")
            return
        self._every_s = every_s
        self._slots.keep(capture)
        # Nobody shows requests to himself: the orders are the same for all slots.
        self._elsewhere.point(None if other is None or other.deployment == self._bundle.deployment else other)
        logger.info("orders taken", extra={"fields": {"capture": capture is not None, "shadow": other and other.name}})

    def _tell(self, ended: bool) -> None:
        import obstore

        status = self._slots.status()
        slot = status["slots"].get(self._bundle.slot, {})
        statistics = status["statistics"].get(self._bundle.slot)
        told = {
            "slot": self._bundle.slot,
            "version": self._bundle.spec.version,
            "state": slot.get("state", "loading"),
            "error": slot.get("error"),
            "ended": ended,
            "statistics": statistics,
            "shown": self._elsewhere.counts(),
        }
        now = time.monotonic()
        if told == self._told and now - self._told_at < ALIVE_S:
            return
        obstore.put(self._store, self._name, orjson.dumps({**told, "at": time.time()}))
        self._told, self._told_at = told, now

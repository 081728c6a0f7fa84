"""How far a run is, for whoever watches it from the same process.

A Dagster logger like any other: it forwards what happens to a function instead of writing it.
"""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import dagster as dg

COUNT = re.compile(r"^\[(\d+)/(\d+)\] (.*)", re.DOTALL)


@dataclass(frozen=True)
class Told:
    """Something that happened in a run.

    Attributes:
        stage: The asset.
        kind: `start`, `progress`, `message`, `success` or `failure`.
        text: What to show.
        done: Units done, for `progress`.
        total: Units in all, for `progress`.
    """

    stage: str
    kind: str
    text: str = ""
    done: int = 0
    total: int = 0


_listeners: list[Callable[[Told], None]] = []


@contextmanager
def listening(to: Callable[[Told], None]) -> Iterator[None]:
    """Calls a function with everything that happens in runs of this process."""
    _listeners.append(to)
    try:
        yield
    finally:
        _listeners.remove(to)


class _Forward(logging.Handler):
    KINDS: ClassVar[dict[str, str]] = {"STEP_START": "start", "STEP_SUCCESS": "success", "STEP_FAILURE": "failure"}

    def emit(self, record: logging.LogRecord) -> None:
        meta = getattr(record, "dagster_meta", {})
        stage = str(meta.get("step_key") or "").rsplit("__", 1)[-1]
        event = meta.get("dagster_event")
        if event is not None:
            kind = self.KINDS.get(event.event_type_value)
            told = Told(stage, kind, str(meta.get("orig_message") or "")) if kind else None
        elif record.levelno < logging.INFO:
            told = None
        else:
            text = str(meta.get("orig_message") or record.getMessage())
            counted = COUNT.match(text)
            if counted:
                told = Told(stage, "progress", counted[3], int(counted[1]), int(counted[2]))
            else:
                told = Told(stage, "message", text)
        if told and stage:
            for listener in list(_listeners):
                listener(told)


@dg.logger({}, description="Forwards a run's events and messages to listeners in the same process.")
def progress_logger(context: dg.InitLoggerContext) -> logging.Logger:
    """The logger `progress` of every code location."""
    logger = logging.Logger("detection.progress", level=logging.DEBUG)
    logger.addHandler(_Forward())
    return logger

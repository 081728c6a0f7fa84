"""Telling somebody that something needs a look."""

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import dagster as dg

Severity = Literal["info", "warning", "error"]

WAITS_S = (0.0, 1.0, 3.0)
"""Seconds before each attempt: a hook that hiccups must not swallow the only alert of a day."""
TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Alert:
    """What to tell.

    Attributes:
        detector: Which detector it is about.
        title: In a line.
        text: What happened, and what to look at.
        severity: info, warning or error.
        link: Address of the evidence, or "".
    """

    detector: str
    title: str
    text: str
    severity: Severity = "warning"
    link: str = ""

    @property
    def headline(self) -> str:
        """One line, whatever is in it."""
        return " ".join(f"[{self.severity}] {self.detector}: {self.title}".split())


class Alerts(dg.ConfigurableResource, ABC):
    """Where alerts go."""

    def send(self, alert: Alert) -> None:
        """Tells somebody, if it can be done: a hook that fails is a warning in the log, and fails no run."""
        log = dg.get_dagster_logger()
        why = ""
        for wait in WAITS_S:
            time.sleep(wait)
            try:
                self.deliver(alert)
            except Exception as error:  # whatever a network or a stranger's server comes up with
                why = self.told(error)
                continue
            return
        log.warning(f"nobody was told of {alert.headline!r}: {why}; check DETECTION_ALERTS")

    def told(self, error: Exception) -> str:
        """What may be said of a failure; secrets do not belong in logs."""
        return f"{type(error).__name__}: {error}"

    @abstractmethod
    def deliver(self, alert: Alert) -> None:
        """Delivers an alert once; whatever it raises, the alert counts as not delivered."""

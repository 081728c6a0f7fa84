"""A study's trials and searches at a cloud's own tuner: what the tuner tells of them, and what the trials tell."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from detection_assets.domain import tuning
from detection_assets.domain.tuning import Parameter, Trial
from resources.compute.managed import Job
from resources.compute.messages import Parts

State = Literal["running", "complete", "pruned", "failed"]
STATES: Mapping[str, State] = {"done": "complete", "failed": "failed", "stopped": "pruned"}
"""How a trial has ended, by the phase of a job that a search has begun."""
TOO_LATE = "stopped at its limit of time"
CUT_OFF = "stopped together with its search, before it came to a verdict; another trial takes its place"


@dataclass(frozen=True)
class SearchState:
    """A search as its service sees it.

    Attributes:
        running: Whether it has not ended yet.
        stopped: Whether it was told to stop, by whomever.
        most: How many trials it begins at most.
        detail: The service's own word for what goes on.
        why: The reason of a failure.
        told: What else the backend wants to know of it later.
    """

    running: bool
    stopped: bool
    most: int
    detail: str
    why: str = ""
    told: Any = None


@dataclass
class Search:
    """A search of the service's tuner.

    Attributes:
        name: The service's name of it.
        number: From 1, in the order in which a study's were begun.
        state: How it was when the service last said so.
        pruned: Trials that the service has ended early; in a search that was stopped, others were cut off.
        good: Whether a trial of it is complete, so that another search can learn from it.
    """

    name: str
    number: int
    state: SearchState
    pruned: set[str] = field(default_factory=set)
    good: bool = False


@dataclass(frozen=True)
class Listed:
    """A trial as its service lists it.

    Attributes:
        name: Its job's.
        phase: As of a job.
        seconds: How long it ran.
        why: The reason of a failure.
        given: Its values as text, by setting, where the service tells them.
        figure: What it is judged by, where the service tells that, too.
    """

    name: str
    phase: Literal["running", "done", "failed", "stopped"]
    seconds: float = 0.0
    why: str = ""
    given: Mapping[str, str] | None = None
    figure: float | None = None


@dataclass
class Tried:
    """A trial and what is known of its job.

    Attributes:
        trial: As it is told.
        name: The job's.
        parts: What its program tells.
        checkpoint: Storage prefix of its checkpoint; nobody needs it once the trial has ended.
        of: The search that it is of, or else the job that it is itself.
        spent: Seconds of earlier attempts.
        objective: What the program's output was judged by.
        epochs: What it has reached after each.
        ended: Whether it has, and all that it told was read.
    """

    trial: Trial
    name: str
    parts: Parts
    checkpoint: str
    of: Search | Job
    spent: float = 0.0
    objective: float | None = None
    epochs: dict[int, float] = field(default_factory=dict)
    ended: bool = False

    def read(self, space: Mapping[str, Parameter], metric: str, log: Callable[[Any, str], object] | None) -> None:
        """Takes in what its program has told since.

        Args:
            space: What is searched.
            metric: The figure of each epoch that counts.
            log: Gets the level and the text of what the program has logged.
        """
        for message in self.parts.fresh():
            told = message.get("params") or {}
            if message["method"] == "log" and log:
                log(told["level"], f"trial {self.trial.number}: {told['message']}")
            report = told.get("payload") if message["method"] == "report_custom_message" else None
            kind = report.get("kind") if isinstance(report, Mapping) else None
            if report and kind == "objective":
                self.objective = float(report["value"])
            elif report and kind == "values":
                self.take_values(space, report["values"])
            elif report and kind == "epoch":
                figure = report["metrics"].get(metric)
                if figure is not None and math.isfinite(figure):
                    self.epochs[int(report["epoch"])] = float(figure)

    def recall(self, space: Mapping[str, Parameter], one: Listed) -> None:
        """Takes from the service, in fewer digits, what stood in messages that were deleted."""
        if one.figure is not None and one.given is not None and math.isfinite(one.figure):
            self.objective = one.figure
            self.take_values(space, one.given)

    def take_values(self, space: Mapping[str, Parameter], given: Mapping[str, str]) -> None:
        """Takes values that are told as text; those that are not told are left out."""
        values = {key: tuning.from_text(among, given[key]) for key, among in space.items() if key in given}
        self.trial = replace(self.trial, values=values)

"""The sweep jobs of a workspace: they draw values, begin jobs with them, and read what those log to their runs.

How values are drawn is the service's own business; here a search that learns looks about the best half of the time.
"""

from __future__ import annotations

import math
import random
import re
import statistics
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fakes.azureml_jobs import ENDED, FakeJob, moment, seconds
from fakes.azureml_refusals import Refused, not_found
from fakes.azureml_shapes import NAME, Answer, problems

if TYPE_CHECKING:
    from fakes.azureml import AzureML

MOST, MOST_PARALLEL = 1000, 100
"""Trials of a sweep in all, and side by side."""
PAGE = 10
"""Trials on a page of the list."""
KINDS = {
    **{"choice": 1, "randint": 1, "uniform": 2, "loguniform": 2, "normal": 2, "lognormal": 2},
    **{"quniform": 3, "qloguniform": 3, "qnormal": 3, "qlognormal": 3},
}
"""How many figures each distribution has."""
LEARNS = ("choice", "uniform", "quniform")
"""The distributions that a search which learns can do with."""


@dataclass
class FakeSweep:
    """A sweep job and the jobs that it has begun."""

    name: str
    asked: dict[str, Any]
    trials: list[FakeJob] = field(default_factory=list)
    status: str = "Running"
    error: dict[str, str] | None = None
    began: float = field(default_factory=time.time)
    ended: float | None = None
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def metric(self) -> str:
        return self.asked["objective"]["primaryMetric"]

    @property
    def sign(self) -> int:
        return 1 if self.asked["objective"]["goal"].lower() == "maximize" else -1

    @property
    def most(self) -> int:
        return (self.asked.get("limits") or {}).get("maxTotalTrials") or MOST

    @property
    def parallel(self) -> int:
        return (self.asked.get("limits") or {}).get("maxConcurrentTrials") or MOST_PARALLEL

    def running(self) -> list[FakeJob]:
        return [trial for trial in self.trials if trial.status not in ENDED]


class Sweeps:
    """The sweep jobs of a workspace, by name.

    Attributes:
        next: Values that the next trials get, where a test is about certain ones.
    """

    def __init__(self, service: AzureML) -> None:
        self._service = service
        self.all: dict[str, FakeSweep] = {}
        self.next: list[dict[str, Any]] = []
        self._threads: list[threading.Thread] = []

    # What is asked ---------------------------------------------------------------------------------------------------

    def put(self, name: str, body: Any) -> Answer:
        """Begins a sweep, or finds the one of the name if it is the same."""
        asked = body["properties"]
        goal = str((asked.get("objective") or {}).get("goal")).capitalize()  # the SDK writes it small
        found = problems(
            "JobBase", {**body, "properties": {**asked, "objective": {**asked.get("objective", {}), "goal": goal}}}
        )
        if found or not re.fullmatch(NAME, name):
            raise Refused(400, "UserError", f"The request is invalid: {'; '.join(found) or name}")
        there = self.all.get(name)
        if there is not None:
            if there.asked != asked:
                raise Refused(400, "UserError", f"A job with this name already exists: {name}")
            return 200, self.get(name), {}
        check(asked)
        self._service.jobs.check(self._trial(asked, dict.fromkeys(asked["searchSpace"], "")))
        sweep = self.all[name] = FakeSweep(name, asked)
        thread = threading.Thread(target=self._run, args=(sweep,), daemon=True)
        self._threads.append(thread)
        thread.start()
        return 201, self.get(name), {}

    def get(self, name: str) -> dict[str, Any]:
        """A sweep as it is."""
        sweep = self.all[name]
        done = self._good(sweep)
        best = max(done, key=lambda trial: sweep.sign * self._figures(sweep, trial)[-1], default=None)
        more = {"best_child_run_id": best.name, "score": str(self._figures(sweep, best)[-1])} if best else {}
        made = {"createdAt": "2026-01-01T00:00:00Z", "createdBy": "identity", "createdByType": "Application"}
        properties = {**sweep.asked, "status": sweep.status, "properties": more, "services": {}}
        about = {"name": name, "type": "Microsoft.MachineLearningServices/workspaces/jobs", "systemData": made}
        return {"id": f"/jobs/{name}", **about, "properties": properties}

    def cancel(self, name: str) -> Answer:
        """Cancels a sweep with its trials."""
        sweep = self.all[name]
        if sweep.status in ENDED:
            raise Refused(400, "UserError", f"Job {name} is in the terminal state {sweep.status}.")
        sweep.status = "CancelRequested"
        sweep.stopping.set()
        return 200, None, {}

    def details(self, name: str) -> dict[str, Any]:
        """What the run history has of a sweep."""
        sweep = self.all[name]
        return {
            **{"runId": name, "status": sweep.status, "target": sweep.asked["computeId"].rsplit("/", 1)[-1]},
            **{"logFiles": {}, "startTimeUtc": moment(sweep.began), "endTimeUtc": moment(sweep.ended)},
            "error": {"error": sweep.error} if sweep.error else None,
        }

    def children(self, query: Mapping[str, str], name: str) -> dict[str, Any]:
        """A page of the runs that a sweep has begun, the newest first."""
        if name not in self.all:
            raise not_found(f"runs/{name}")
        at = int(query.get("continuation", "0"))
        trials = self.all[name].trials[::-1]
        page = [
            {**self._service.jobs.details(trial.name), "parentRunId": name, "properties": {}, "tags": {}}
            for trial in trials[at : at + PAGE]
        ]
        address = f"{self._service.url}/history/v1.0{self._service.root}/runs/{name}/children"
        more = at + PAGE < len(trials)
        return {"value": page, "nextLink": f"{address}?continuation={at + PAGE}" if more else None}

    def end(self) -> None:
        """Ends all of them, with their threads."""
        for sweep in self.all.values():
            sweep.stopping.set()
        for thread in self._threads:
            thread.join(timeout=30)

    # What is done ----------------------------------------------------------------------------------------------------

    def _run(self, sweep: FakeSweep) -> None:
        while not sweep.stopping.is_set():
            running = sweep.running()
            if len(sweep.trials) == sweep.most and not running:
                break
            if len(sweep.trials) < sweep.most and len(running) < sweep.parallel:
                self._begin(sweep)
            elif sweep.asked.get("earlyTermination"):
                for trial in running:
                    if self._hopeless(sweep, trial):
                        self._cancel(trial)
            sweep.stopping.wait(0.1)
        for trial in sweep.running():
            self._cancel(trial)
        while sweep.running():
            time.sleep(0.05)
        sweep.ended = time.time()
        if sweep.stopping.is_set():
            sweep.status = "Canceled"
        elif any(trial.status != "Failed" for trial in sweep.trials):
            sweep.status = "Completed"
        else:
            sweep.error = {"code": "UserError", "message": "User errors were found in all of the child runs."}
            sweep.status = "Failed"

    def _cancel(self, trial: FakeJob) -> None:
        with suppress(Refused):  # it may have ended by itself meanwhile
            self._service.jobs.cancel(trial.name)

    def _begin(self, sweep: FakeSweep) -> None:
        number = len(sweep.trials)
        values = self.next.pop(0) if self.next else self._drawn(sweep, number)
        trial = self._service.jobs.begin(f"{sweep.name}_{number}", self._trial(sweep.asked, values))
        sweep.trials.append(trial)

    def _trial(self, asked: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
        """The job that tries some values."""
        trial, limit = dict(asked["trial"]), (asked.get("limits") or {}).get("trialTimeout")
        command = re.sub(
            r"\$\{\{\s*search_space\.(\w+)\s*\}\}", lambda found: str(values[found[1]]), str(trial.pop("command"))
        )
        given = {key: asked[key] for key in ("computeId", "experimentName", "identity", "inputs") if key in asked}
        # The service takes what is shorter than a minute for as many days.
        limits = {"jobLimitsType": "Command", "timeout": limit} if limit and (seconds(limit) or 0) >= 60 else None
        return {"jobType": "Command", **given, **trial, "command": command, "limits": limits}

    # Drawing and judging ---------------------------------------------------------------------------------------------

    def _figures(self, sweep: FakeSweep, trial: FakeJob) -> list[float]:
        return self._service.metrics.figures(trial.name, sweep.metric)

    def _good(self, sweep: FakeSweep) -> list[FakeJob]:
        return [trial for trial in sweep.trials if trial.status == "Completed" and self._figures(sweep, trial)]

    def _drawn(self, sweep: FakeSweep, number: int) -> dict[str, Any]:
        algorithm = sweep.asked["samplingAlgorithm"]
        learns = algorithm["samplingAlgorithmType"] == "Bayesian"
        draw = random.Random(f"{sweep.name if learns else algorithm.get('seed')}-{number}")
        space = sweep.asked["searchSpace"]
        good = self._good(sweep)
        if learns and len(good) > 2 and draw.random() < 0.5:
            best = max(good, key=lambda trial: sweep.sign * self._figures(sweep, trial)[-1])
            words = self._trial(sweep.asked, {key: f"<{key}>" for key in space})["command"]
            pattern = re.sub(r"<(\w+)>", r"(?P<\1>\\S+)", re.escape(words))
            found = re.fullmatch(pattern, best.asked["command"])
            assert found is not None
            return {key: _near(space[key], found[key], draw) for key in space}
        return {key: _value(expression, draw.random()) for key, expression in space.items()}

    def _hopeless(self, sweep: FakeSweep, trial: FakeJob) -> bool:
        """The median rule: its best is worse than the median of all others' averages up to the same interval."""
        policy, mine = sweep.asked["earlyTermination"], self._figures(sweep, trial)
        if not mine or len(mine) < policy["delayEvaluation"] or len(mine) % (policy["evaluationInterval"] or 1):
            return False
        others = [self._figures(sweep, one)[: len(mine)] for one in sweep.trials if one is not trial]
        averages = [sweep.sign * statistics.fmean(figures) for figures in others if figures]
        return bool(averages) and max(sweep.sign * figure for figure in mine) < statistics.median(averages)


def check(asked: Mapping[str, Any]) -> None:
    """What Azure ML holds against a sweep, beyond the shapes, and against any job."""
    space, algorithm = asked.get("searchSpace"), asked["samplingAlgorithm"]["samplingAlgorithmType"]
    if not space:
        raise Refused(400, "UserError", "The search space must have at least one hyperparameter")
    for name, expression in space.items():
        _check_expression(name, expression)
        if algorithm == "Bayesian" and expression[0] not in LEARNS:
            raise Refused(400, "UserError", f"Bayesian sampling does not support {expression[0]} of {name}")
        if algorithm == "Grid" and expression[0] != "choice":
            raise Refused(400, "UserError", f"Grid sampling does not support {expression[0]} of {name}")
    policy = (asked.get("earlyTermination") or {}).get("policyType")
    if policy and algorithm == "Bayesian":
        raise Refused(400, "UserError", "Bayesian sampling does not support early termination policies")
    if policy not in (None, "MedianStopping"):
        raise Refused(400, "UserError", f"{policy} is none of the policies that this stand-in has")
    if not asked["objective"].get("primaryMetric"):
        raise Refused(400, "UserError", "The primary metric is required")
    limits = asked.get("limits") or {}
    for name, most in (("maxTotalTrials", MOST), ("maxConcurrentTrials", MOST_PARALLEL)):
        if limits.get(name) is not None and not 1 <= limits[name] <= most:
            raise Refused(400, "UserError", f"{name} must be from 1 to {most}, it is {limits[name]}")
    for name in re.findall(r"\$\{\{\s*search_space\.(\w+)\s*\}\}", asked["trial"]["command"]):
        if name not in space:
            raise Refused(400, "UserError", f"${{{{search_space.{name}}}}} in the command is not in the search space")


def _check_expression(name: str, expression: Any) -> None:
    if not isinstance(expression, list) or len(expression) != 2 or KINDS.get(expression[0]) != len(expression[1]):
        raise Refused(400, "UserError", f"{name}: {expression!r} is no parameter expression")
    kind, figures = expression
    if kind == "choice":
        if not figures[0]:
            raise Refused(400, "UserError", f"{name}: a choice needs at least one value")
        return
    if not all(isinstance(figure, (int, float)) and math.isfinite(figure) for figure in figures):
        raise Refused(400, "UserError", f"{name}: {figures} must be numbers")
    if kind.endswith("uniform") and figures[0] >= figures[1]:
        raise Refused(400, "UserError", f"{name}: the minimum {figures[0]} must be less than the maximum {figures[1]}")
    if kind.startswith("q") and figures[2] <= 0:
        raise Refused(400, "UserError", f"{name}: q must be greater than 0")


def _value(expression: Any, chance: float) -> Any:
    kind, figures = expression
    if kind == "choice":
        return figures[0][int(chance * len(figures[0]))]
    assert kind in LEARNS, f"{kind} is not drawn here"
    value = figures[0] + chance * (figures[1] - figures[0])
    return float(round(value / figures[2]) * figures[2]) if kind == "quniform" else value


def _near(expression: Any, text: str, draw: random.Random) -> Any:
    """A value near another one."""
    kind, figures = expression
    if kind == "choice":
        return draw.choice([*figures[0], *[value for value in figures[0] if str(value) == text]])
    at = (float(text) - figures[0]) / (figures[1] - figures[0])
    return _value(expression, min(1.0, max(0.0, at + draw.gauss(0, 0.1))))

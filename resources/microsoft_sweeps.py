"""A study as sweep jobs of Azure ML, each trial a job that the service begins with values of its own.

Azure ML does not tell a search what another has learnt: what is still to be tried when a sweep job has ended is a new
one, that draws otherwise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from detection_assets.domain import tuning
from detection_assets.domain.tuning import Choice, Parameter, Whole
from resources import microsoft, microsoft_jobs
from resources.compute.base import Step
from resources.compute.managed import TAIL, JobState, Silent
from resources.compute.searches import ManagedStudy
from resources.compute.trials import Listed, SearchState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resources.compute.azure import AzureCompute
    from resources.compute.base import Study

METRIC = "objective"
"""Name of what a trial is judged by, in its MLflow run."""
SHORTEST_S = 60
"""The SDK makes a trial's limit of time so long at least: the service takes a shorter one for days."""


class AzureStudy(ManagedStudy):
    """A study that this process follows; arguments as of any."""

    _compute: AzureCompute
    named_by = "AZUREML_RUN_ID"
    metric = METRIC

    def search_state(self, name: str) -> SearchState | None:
        """The sweep job as Azure ML describes it."""
        try:
            with _asking(name):
                told = self._compute.ml.client.jobs.get(name)
                status = str(getattr(told.status, "value", told.status))
                why = self._compute.ml.run(name).get("error") if status == "Failed" else None
        except LookupError:
            return None
        stopped = status in ("CancelRequested", "Canceled")
        most = int(told.limits.max_total_trials)
        return SearchState(status not in microsoft_jobs.PHASES, stopped, most, status, microsoft_jobs.why(why, ""))

    def listed(self, name: str, ended: Collection[str]) -> Sequence[Listed]:
        """The trials of a sweep job, as the run history tells of them."""
        with _asking(name):
            runs = {str(run["runId"]): run for run in self._compute.ml.children(name)}
        found: dict[int, Listed] = {}
        for trial, run in runs.items():
            number = re.fullmatch(rf"{re.escape(name)}_(\d+)", trial)
            if number is not None and trial not in ended:
                found[int(number[1])] = Listed(
                    trial,
                    microsoft_jobs.phase(str(run.get("status"))),
                    microsoft_jobs.duration(run) or 0.0,
                    microsoft_jobs.why(run.get("error"), ""),
                )
        return [found[number] for number in sorted(found)]

    def last_words(self, name: str) -> Sequence[str]:
        """What the trial has printed: Azure ML tells no more than that the command has failed."""
        lines, _ = self._compute.printed(name)
        return lines[-TAIL:]

    def begin_search(self, name: str, step: Step, trials: int, order: str) -> None:
        """Creates a sweep job."""
        from azure.ai.ml.entities import CommandJob
        from azure.ai.ml.sweep import SweepJob

        study, compute = self._study, self._compute
        space = spaces(study.space)
        values = [word for key in space for word in ("--value", f"{key}=${{{{search_space.{key}}}}}")]
        asked = SweepJob(
            **compute.described(name, replace(step, version=study.version)),
            trial=CommandJob(**compute.launched(step, order, *values)),
            search_space=space,
            **search(study, trials, seed=study.seed + len(self._searches)),
        )
        compute.create(name, step, asked)

    def stop_search(self, name: str) -> None:
        """Asks Azure ML to cancel a sweep job with its trials."""
        self._compute.cancel_named(name)

    def search_page(self, name: str) -> str:
        """The sweep job's page in the studio."""
        return self._compute.ml.page(name)

    def trial_page(self, name: str) -> str:
        """The job's page in the studio."""
        return self._compute.ml.page(name)

    def trial_state(self, name: str) -> JobState | None:
        """The job as Azure ML describes it."""
        return self._compute.state(name)

    def too_late(self, state: JobState) -> bool:
        """Whether it has run for as long as it may: Azure ML says of that no more than that it was cancelled."""
        return state.phase == "stopped" and (state.seconds or 0.0) >= self._study.step.timeout_s

    def recalled(self, one: Listed) -> Listed:
        """A trial with what its MLflow run has, which the launcher has told it."""
        try:
            with _asking(one.name):
                told = self._compute.ml.mlflow_run(one.name)
        except LookupError:
            return one
        metrics = {metric["key"]: float(metric["value"]) for metric in told.get("metrics") or ()}
        given = {param["key"]: str(param["value"]) for param in told.get("params") or ()}
        return replace(one, given=given, figure=metrics.get(METRIC))


def search(study: Study, trials: int, *, seed: int) -> dict[str, Any]:
    """How Azure ML is to search.

    Args:
        study: What is searched, and how.
        trials: How many are to be tried.
        seed: Of the service's own drawing.
    """
    from azure.ai.ml.sweep import MedianStoppingPolicy, Objective, RandomSamplingAlgorithm, SweepJobLimits

    stopping = study.stopping
    # A search that learns cannot end trials early.
    stops = {
        "sampling_algorithm": RandomSamplingAlgorithm(seed=seed),
        "early_termination": MedianStoppingPolicy(
            delay_evaluation=stopping.after_steps if stopping else 0, evaluation_interval=1
        ),
    }
    return {
        "objective": Objective(goal="Maximize" if study.objective.maximize else "Minimize", primary_metric=METRIC),
        "limits": SweepJobLimits(
            max_total_trials=trials,
            max_concurrent_trials=min(study.parallel, trials),
            trial_timeout=max(SHORTEST_S, int(study.step.timeout_s)),
        ),
        **(stops if stopping else {"sampling_algorithm": "bayesian"}),
    }


def spaces(space: Mapping[str, Parameter]) -> dict[str, Any]:
    """A search space in Azure ML's words.

    A search that learns knows no logarithmic scale, so of such a parameter the logarithm is searched.
    """
    from azure.ai.ml.sweep import Choice as OneOf
    from azure.ai.ml.sweep import QUniform, Uniform

    found: dict[str, Any] = {}
    for key, among in space.items():
        if isinstance(among, Choice):
            found[key] = OneOf([tuning.as_text(value) for value in among.values])
        elif among.log:
            high = among.high + 1 if isinstance(among, Whole) else among.high
            found[tuning.LOGARITHM + key] = Uniform(math.log(among.low), math.log(high))
        else:
            found[key] = (
                QUniform(among.low, among.high, 1) if isinstance(among, Whole) else Uniform(among.low, among.high)
            )
    return found


@contextmanager
def _asking(name: str) -> Iterator[None]:
    """Lets Azure ML be asked about a job.

    Raises:
        LookupError: There is no such job.
        Silent: It does not say.
    """
    from azure.core.exceptions import AzureError, ResourceNotFoundError

    try:
        yield
    except ResourceNotFoundError as error:
        raise LookupError(name) from error
    except AzureError as error:
        raise Silent(f"{name}: Azure ML does not say how it is: {microsoft.refusal(error)}") from error

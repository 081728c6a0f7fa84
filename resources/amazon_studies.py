"""A study as tuning jobs of SageMaker, each trial a training job that the service begins with values of its own.

The service cannot be told what to try first, so the detector's own values are a training job like any other, before the
search begins. A search that has ended cannot be gone on with either: what is still to be tried is a tuning job that
starts from what the earlier ones have learnt. All names follow from the study, so whoever opens it finds them again.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import orjson
from dagster._core.pipes.context import build_external_execution_context_data

from detection_assets.domain import layout, tuning
from detection_assets.domain.tuning import Trial
from resources import amazon, amazon_jobs, amazon_tuning
from resources.amazon_tuning import Search
from resources.compute.base import FAILURES, StepFailed
from resources.compute.managed import ATTEMPTS, PATIENCE_S, STOP_S, Job, JobState, Silent, plain
from resources.compute.messages import Parts

if TYPE_CHECKING:
    import dagster as dg

    from resources.compute.aws import SageMakerCompute
    from resources.compute.base import Study

State = Literal["running", "complete", "pruned", "failed"]
TRAINED: Mapping[str, State] = {"Completed": "complete", "Failed": "failed", "Stopped": "pruned"}
"""How a trial has ended, by the status of a training job that its tuning job has begun."""
ALONE: Mapping[str, State] = {"done": "complete", "failed": "failed"}
"""The same of the one that we have begun."""
LATE = frozenset(["MaxRuntimeExceeded", "MaxWaitTimeExceeded"])
"""What SageMaker says of a training job that it has stopped for its limit of time."""
TOO_LATE = "stopped at its limit of time"
CUT_OFF = "stopped together with its search, before it came to a verdict; another trial takes its place"


@dataclass
class Tried:
    """A trial and what is known of its training job.

    Attributes:
        trial: As it is told.
        name: The training job's.
        parts: What its program tells.
        checkpoint: Storage prefix of its checkpoint; nobody needs it once the trial has ended.
        of: The tuning job that it is of, or else the job that it is itself.
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


class SageMakerStudy:
    """A study that this process follows.

    Args:
        compute: Whose jobs the trials are.
        context: Of the asset that waits.
        study: What is searched, and how.

    Raises:
        Silent: SageMaker does not say what there is of it.
    """

    def __init__(self, compute: SageMakerCompute, context: dg.AssetExecutionContext, study: Study) -> None:
        self._compute, self._storage, self._context, self._study = compute, compute.storage, context, study
        token = hashlib.sha256(f"{self._storage.uri}\0{study.name}".encode()).hexdigest()[:12]
        # A tuning job's name has 32 characters at most, and its number comes behind this.
        self._family = f"{plain(compute.detector)[:15].rstrip('-')}-{token}"
        self._folder = layout.job(study.name)
        self._tried: list[Tried] = []
        self._searches: list[Search] = []
        self._failures, self._cost, self._instance = 0, 0.0, ""
        self._seen, self._left_alone, self._opening = time.monotonic(), False, True
        if study.first:
            job, state, spent = self._first_job()
            if state is not None:
                self._add_first(job, spent)
        while (told := amazon_tuning.described(self._name(len(self._searches) + 1))) is not None:
            self._found(told)
        self._look()
        self._opening = False

    def trials(self) -> Sequence[Trial]:
        """Every trial as it was when SageMaker last said so."""
        return [tried.trial for tried in self._tried]

    def cost(self) -> tuple[str, float]:
        """The instances, and the price of the trials that have ended since the study was opened."""
        return self._instance, round(self._cost, 6)

    def advance(self) -> bool:
        """Looks at the trials, and begins what is to be begun now; returns whether all is done.

        Raises:
            StepFailed: Trial after trial failed, SageMaker refuses, or somebody has stopped or deleted a job.
        """
        try:
            self._look()
            done = self._go_on()
            self._seen = time.monotonic()
            return done
        except Silent as error:
            if time.monotonic() - self._seen > PATIENCE_S:
                self._left_alone = True  # the silence says nothing about the trials: the next run finds them
                raise
            self._context.log.warning(f"{error.description}; asking again")
            return False

    def _go_on(self) -> bool:
        missing = self._study.trials - sum(tried.trial.judged for tried in self._tried)
        going = [search for search in self._searches if search.running]
        if going:
            # One that was begun for more trials than are asked for now is not waited for.
            return missing <= 0 and any(len(self._trials_of(search)) < search.most for search in going)
        if not all(tried.ended for tried in self._tried):
            return False
        if missing > 0:
            self._begin(missing)
        return missing <= 0

    def close(self) -> None:
        """Stops what runs, and waits until it is stopped; the trials that have ended stay as they are."""
        if self._left_alone:
            return
        searches = [search for search in self._searches if search.running]
        jobs = [tried.of for tried in self._tried if isinstance(tried.of, Job) and not tried.ended]
        for search in searches:
            self._storage.put(self._pruned(search.number), orjson.dumps(sorted(search.pruned)))
            amazon_tuning.stop(search.name)
        for job in jobs:
            self._compute.stop(job)
        ends = time.monotonic() + STOP_S
        while any(map(_searches_on, searches)) or any(map(self._runs_on, jobs)):
            if time.monotonic() > ends:
                links = [search.link for search in searches] + [self._compute.link(job) for job in jobs]
                self._context.log.error(f"{self._study.name} does not stop: {', '.join(links)}")
                return
            time.sleep(self._compute.poll_s)

    def _runs_on(self, job: Job) -> bool:
        with suppress(Silent):
            state = self._compute.look(job)
            return state is not None and state.phase == "running"
        return True

    # Looking ---------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        for tried in self._tried:
            if isinstance(tried.of, Job) and not tried.ended:
                self._follow_first(tried, tried.of)
        for search in self._searches:
            if search.running or not all(tried.ended for tried in self._trials_of(search)):
                self._follow(search)
        if self._failures >= FAILURES:
            why = [tried.trial.why for tried in self._tried if tried.trial.state == "failed"][-1]
            raise StepFailed(f"{self._study.name}: {FAILURES} trials failed one after another, the last with:\n{why}")

    def _trials_of(self, search: Search) -> list[Tried]:
        return [tried for tried in self._tried if tried.of is search]

    def _follow_first(self, tried: Tried, job: Job) -> None:
        state = self._compute.look(job)
        if state is None or _may_go_on(state):
            raise StepFailed(f"{job.name} was stopped or deleted by somebody; run again to go on")
        why = f"{TOO_LATE}: {state.detail}" if state.detail in LATE else state.why
        how = "failed" if state.detail in LATE else ALONE.get(state.phase, "running")
        self._take(tried, how, tried.spent + (state.seconds or 0.0), why)

    def _follow(self, search: Search) -> None:
        told, was_stopped = amazon_tuning.described(search.name), search.stopped
        if told is None:
            raise StepFailed(f"{search.name} is gone: somebody deleted it; run again")
        search.told = told
        known = {tried.name: tried for tried in self._trials_of(search)}
        for one in amazon_tuning.listed(search.name):
            tried = known.get(one["TrainingJobName"]) or self._add(search, one)
            if not tried.ended:
                self._judge(search, tried, one)
        search.good = any(tried.trial.state == "complete" for tried in self._trials_of(search))
        if search.stopped and not was_stopped and not self._opening:
            raise StepFailed(f"{search.name} was stopped by somebody; run again to go on: {search.link}")
        if not (search.running or self._opening or self._trials_of(search)):
            raise StepFailed(f"{search.name} ended without a trial: {told.get('FailureReason', '')}\n{search.link}")

    def _judge(self, search: Search, tried: Tried, one: Mapping[str, Any]) -> None:
        state, why = TRAINED.get(one["TrainingJobStatus"], "running"), str(one.get("FailureReason", ""))
        if state == "pruned":
            if not search.stopped:
                search.pruned.add(tried.name)
            if tried.name not in search.pruned:
                state, why = "failed", CUT_OFF
            elif (job := self._compute.training(tried.name)) and job.detail in LATE:
                state, why = "failed", f"{TOO_LATE}: {job.detail}"
        times = [one[key] for key in ("TrainingStartTime", "TrainingEndTime") if key in one]
        seconds = (times[1] - times[0]).total_seconds() if len(times) == 2 else 0.0
        self._take(tried, state, seconds, why, one.get("FinalHyperParameterTuningJobObjectiveMetric"))

    def _take(
        self, tried: Tried, state: State, seconds: float, why: str, final: Mapping[str, Any] | None = None
    ) -> None:
        """Takes in how a trial is now. What its program tells is there before SageMaker says that it has ended."""
        self._read(tried)
        if state == "complete" and tried.objective is None and final:
            tried.objective = float(final["Value"])  # fewer digits, but its messages were deleted
        if state == "complete" and tried.objective is None:
            state, why = "failed", f"it told no {self._study.objective.key}"
        best = max if self._study.objective.maximize else min
        tried.trial = replace(
            tried.trial,
            state=state,
            value=tried.objective if state == "complete" else best(tried.epochs.values(), default=None),
            epochs=dict(tried.epochs),
            seconds=tried.spent if state == "running" else seconds,
            why=f"{why}\n{amazon_jobs.page('jobs', tried.name)}" if state == "failed" else "",
        )
        if state == "running":
            return
        tried.ended = True
        self._storage.delete(tried.checkpoint)
        if not self._opening:
            self._failures = 0 if tried.trial.judged else self._failures + (why != CUT_OFF)
            self._charge(tried)

    def _read(self, tried: Tried) -> None:
        for message in tried.parts.fresh():
            told = message.get("params") or {}
            if message["method"] == "log" and not self._opening:
                self._context.log.log(told["level"], f"trial {tried.trial.number}: {told['message']}")
            report = told.get("payload") if message["method"] == "report_custom_message" else None
            kind = report.get("kind") if isinstance(report, Mapping) else None
            if report and kind == "objective":
                tried.objective = float(report["value"])
            elif report and kind == "epoch":
                figure = report["metrics"].get(self._study.objective.metric)
                if figure is not None and math.isfinite(figure):
                    tried.epochs[int(report["epoch"])] = float(figure)

    def _charge(self, tried: Tried) -> None:
        """Adds up what the trials cost, and tells it of each."""
        number, state = tried.trial.number, self._compute.training(tried.name)
        if tried.trial.state == "failed":
            self._context.log.warning(f"trial {number} failed: {tried.trial.why}")
        if state is not None and state.seconds:
            cost = self._compute.price(self._compute.attempt(self._study.step_of({}), 1), state.seconds)
            self._cost, self._instance = self._cost + cost, state.instance
            page = amazon_jobs.page("jobs", tried.name)
            self._context.log.info(f"trial {number}: {state.seconds:.0f} s charged, {cost:.4f} USD: {page}")

    # Beginning -------------------------------------------------------------------------------------------------------

    def _begin(self, missing: int) -> None:
        """Begins the detector's own values, or else a search for as many trials as are missing."""
        if self._study.first and not any(isinstance(tried.of, Job) for tried in self._tried):
            job, _, spent = self._first_job()
            self._storage.put(job.order, orjson.dumps(self._order(job)))
            self._compute.submit(job)
            self._context.log.info(f"{job.name}: begun with the detector's own values: {self._compute.link(job)}")
            self._add_first(job, spent)
            return
        number = len(self._searches) + 1
        name, folder = self._name(number), layout.job(self._study.name, number)
        step = replace(self._study.step, objective=self._study.objective)
        order = {
            **self._order(Job(step, self._compute.detector, name, number)),
            "messages": self._storage.uri_of(f"{folder}/messages"),
            "receipt": self._storage.uri_of(f"{folder}/receipts"),
            "tuned": {
                "into": self._study.into,
                "space": tuning.described(self._study.space),
                "named_by": "TRAINING_JOB_NAME",
            },
        }
        self._storage.put(f"{folder}/order.json", orjson.dumps(order))
        request = amazon_tuning.request(
            name,
            self._study,
            missing,
            seed=self._study.seed + number - 1,
            order=self._storage.uri_of(f"{folder}/order.json"),
            image=self._compute.image,
            definition=self._compute.definition(step, self._folder, f"{self._folder}/checkpoints"),
        )
        learnt = amazon_tuning.learning_from(self._searches, self._compute.image)
        hint = f"or let fewer trials run side by side than the {self._study.parallel} of tuning.parallel"
        with amazon_jobs.creating(name, self._compute.instance(step), hint):
            amazon.client("sagemaker").create_hyper_parameter_tuning_job(
                **request, **learnt, Tags=self._compute.tags(self._study.name)
            )
        told = amazon_tuning.described(name)
        if told is not None:
            self._found(told)

    def _order(self, job: Job) -> dict[str, Any]:
        context = build_external_execution_context_data(self._context, {"step": job.step.name, "job": job.name})
        return self._compute.order_of(job, context)

    def _name(self, number: int) -> str:
        return f"{self._family}-{number}"

    def _found(self, told: Mapping[str, Any]) -> None:
        search = Search(told["HyperParameterTuningJobName"], len(self._searches) + 1, told)
        if search.stopped:
            with suppress(FileNotFoundError):
                search.pruned |= set(orjson.loads(self._storage.get(self._pruned(search.number))))
        self._searches.append(search)
        how = told["HyperParameterTuningJobStatus"]
        self._context.log.info(f"{search.name}: a tuning job for {search.most} trials, {how}: {search.link}")
        self._follow(search)

    def _pruned(self, number: int) -> str:
        """Storage key of what is known of a search when it is stopped: afterwards SageMaker does not tell."""
        return f"{layout.job(self._study.name, number)}/pruned.json"

    def _add(self, search: Search, one: Mapping[str, Any]) -> Tried:
        name, given = one["TrainingJobName"], one["TunedHyperParameters"]
        values = {key: tuning.from_text(among, given[key]) for key, among in self._study.space.items()}
        messages = Parts(self._storage, f"{layout.job(self._study.name, search.number)}/messages/{name}")
        trial = Trial(len(self._tried), "running", values)
        self._tried.append(Tried(trial, name, messages, f"{self._folder}/checkpoints/{name}", search))
        return self._tried[-1]

    def _add_first(self, job: Job, spent: float) -> None:
        trial = Trial(len(self._tried), "running", self._first_values(), seconds=spent)
        self._tried.append(Tried(trial, job.name, Parts(self._storage, job.messages), job.checkpoint, job, spent))

    def _first_values(self) -> dict[str, Any]:
        draw = random.Random(self._study.seed)
        drawn = {key: tuning.drawn(among, draw.random()) for key, among in self._study.space.items()}
        return {**drawn, **self._study.first}

    def _first_job(self) -> tuple[Job, JobState | None, float]:
        """The job of the detector's own values, how it is, and the seconds of those that were stopped before it."""
        step, spent = self._study.step_of(self._first_values()), 0.0
        for number in range(1, ATTEMPTS + 1):
            job = self._compute.attempt(step, number)
            state = self._compute.look(job)
            if state is None or not _may_go_on(state):
                return job, state, spent
            spent += state.seconds or 0.0
        raise StepFailed(f"{self._study.name}: its first trial was stopped {ATTEMPTS} times")


def _may_go_on(state: JobState) -> bool:
    """Whether a job was stopped on somebody's word, so that another goes on from its checkpoint."""
    return state.phase == "stopped" and state.detail not in LATE


def _searches_on(search: Search) -> bool:
    with suppress(Silent):
        told = amazon_tuning.described(search.name)
        return told is not None and replace(search, told=told).running
    return True

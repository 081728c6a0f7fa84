"""A study whose trials a cloud's own tuner begins, each a job with values that the tuner draws: what all tuners share.

Such a tuner cannot be told what to try first, so the detector's own values are a job like any other, before the search
begins. A search that has ended cannot be gone on with either: what is still to be tried is another search. All names
follow from the study, so whoever opens it finds its jobs again. A backend says how a search is begun, looked at and
stopped.
"""

from __future__ import annotations

import hashlib
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
from dagster._core.pipes.context import build_external_execution_context_data

from detection_assets.domain import layout, tuning
from detection_assets.domain.tuning import Trial
from resources.compute.base import FAILURES, Step, StepFailed
from resources.compute.managed import ATTEMPTS, PATIENCE_S, STOP_S, Job, JobState, Silent, plain
from resources.compute.messages import Parts
from resources.compute.trials import CUT_OFF, STATES, TOO_LATE, Listed, Search, SearchState, State, Tried

if TYPE_CHECKING:
    import dagster as dg

    from resources.compute.base import Study
    from resources.compute.managed import ManagedCompute


class ManagedStudy(ABC):
    """A study that this process follows.

    Args:
        compute: Whose jobs the trials are.
        context: Of the asset that waits.
        study: What is searched, and how.

    Raises:
        Silent: The service does not say what there is of it.
    """

    named_by: str
    """The environment variable that tells a trial its job's name."""
    metric: str | None = None
    """The metric of a trial's MLflow run that the tuner reads; None where it reads the log."""

    def __init__(self, compute: ManagedCompute, context: dg.AssetExecutionContext, study: Study) -> None:
        self._compute, self._storage, self._context, self._study = compute, compute.storage, context, study
        token = hashlib.sha256(f"{self._storage.uri}\0{study.name}".encode()).hexdigest()[:12]
        # A search's name has 32 characters at most, and its number comes behind this.
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
        while (state := self.search_state(self._name(len(self._searches) + 1))) is not None:
            self._found(state)
        self._look()
        self._opening = False

    def trials(self) -> Sequence[Trial]:
        """Every trial as it was when the service last said so."""
        return [tried.trial for tried in self._tried]

    def cost(self) -> tuple[str, float]:
        """The instances, and the price of the trials that have ended since the study was opened."""
        return self._instance, round(self._cost, 6)

    def advance(self) -> bool:
        """Looks at the trials, and begins what is to be begun now; returns whether all is done.

        Raises:
            StepFailed: Trial after trial failed, the service refuses, or somebody has stopped or deleted a job.
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
        going = [search for search in self._searches if search.state.running]
        if going:
            # One that was begun for more trials than are asked for now is not waited for.
            return missing <= 0 and any(len(self._trials_of(search)) < search.state.most for search in going)
        if not all(tried.ended for tried in self._tried):
            return False
        if missing > 0:
            self._begin(missing)
        return missing <= 0

    def close(self) -> None:
        """Stops what runs, and waits until it is stopped; the trials that have ended stay as they are."""
        if self._left_alone:
            return
        searches = [search for search in self._searches if search.state.running]
        jobs = [tried.of for tried in self._tried if isinstance(tried.of, Job) and not tried.ended]
        for search in searches:
            self._storage.put(self._pruned(search.number), orjson.dumps(sorted(search.pruned)))
            self.stop_search(search.name)
        for job in jobs:
            self._compute.stop(job)
        ends = time.monotonic() + STOP_S
        while any(map(self._searches_on, searches)) or any(map(self._runs_on, jobs)):
            if time.monotonic() > ends:
                links = [self.search_page(search.name) for search in searches] + [*map(self._compute.link, jobs)]
                self._context.log.error(f"{self._study.name} does not stop: {', '.join(links)}")
                return
            time.sleep(self._compute.poll_s)

    def _searches_on(self, search: Search) -> bool:
        with suppress(Silent):
            state = self.search_state(search.name)
            return state is not None and state.running
        return True

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
            if search.state.running or not all(tried.ended for tried in self._trials_of(search)):
                self._follow(search)
        if self._failures >= FAILURES:
            why = [tried.trial.why for tried in self._tried if tried.trial.state == "failed"][-1]
            raise StepFailed(f"{self._study.name}: {FAILURES} trials failed one after another, the last with:\n{why}")

    def _trials_of(self, search: Search) -> list[Tried]:
        return [tried for tried in self._tried if tried.of is search]

    def _follow_first(self, tried: Tried, job: Job) -> None:
        state = self._compute.look(job)
        if state is None or self._may_go_on(state):
            raise StepFailed(f"{job.name} was stopped or deleted by somebody; run again to go on")
        late = self.too_late(state)
        how = "failed" if late else STATES.get(state.phase, "running")
        why = f"{TOO_LATE}: {state.detail}" if late else state.why
        self._take(tried, how, tried.spent + (state.seconds or 0.0), why)

    def _may_go_on(self, state: JobState) -> bool:
        """Whether a job was stopped on somebody's word, so that another goes on from its checkpoint."""
        return state.phase == "stopped" and not self.too_late(state)

    def _follow(self, search: Search) -> None:
        was_stopped = search.state.stopped
        self._ask_again(search)
        known = {tried.name: tried for tried in self._trials_of(search)}
        for one in self.listed(search.name, {tried.name for tried in known.values() if tried.ended}):
            tried = known.get(one.name) or self._add(search, one)
            if not tried.ended:
                self._judge(search, tried, one)
        search.good = any(tried.trial.state == "complete" for tried in self._trials_of(search))
        page = self.search_page(search.name)
        if search.state.stopped and not was_stopped and not self._opening:
            raise StepFailed(f"{search.name} was stopped by somebody; run again to go on: {page}")
        if not (search.state.running or self._opening or self._trials_of(search)):
            raise StepFailed(f"{search.name} ended without a trial: {search.state.why}\n{page}")

    def _ask_again(self, search: Search) -> None:
        state = self.search_state(search.name)
        if state is None:
            raise StepFailed(f"{search.name} is gone: somebody deleted it; run again")
        search.state = state

    def _judge(self, search: Search, tried: Tried, one: Listed) -> None:
        state, why = STATES.get(one.phase, "running"), one.why
        if state == "pruned":
            if not search.state.stopped:
                self._ask_again(search)  # it may have been stopped between the two looks, and this trial with it
            if not search.state.stopped:
                search.pruned.add(tried.name)
            if tried.name not in search.pruned:
                state, why = "failed", CUT_OFF
            elif (job := self.trial_state(tried.name)) and self.too_late(job):
                state, why = "failed", f"{TOO_LATE}: {job.detail}"
        self._take(tried, state, one.seconds, why, one)

    def _take(self, tried: Tried, state: State, seconds: float, why: str, one: Listed | None = None) -> None:
        """Takes in how a trial is now. What its program tells is there before the service says that it has ended."""
        self._read(tried)
        if state == "complete" and tried.objective is None and one is not None:
            tried.recall(self._study.space, self.recalled(one))
        if state == "complete" and tried.objective is None:
            state, why = "failed", f"it told no {self._study.objective.key}"
        best = max if self._study.objective.maximize else min
        tried.trial = replace(
            tried.trial,
            state=state,
            value=tried.objective if state == "complete" else best(tried.epochs.values(), default=None),
            epochs=dict(tried.epochs),
            seconds=tried.spent if state == "running" else seconds,
            why=self._told(tried.name, why) if state == "failed" else "",
        )
        if state == "running":
            return
        tried.ended = True
        self._storage.delete(tried.checkpoint)
        if not self._opening:
            self._failures = 0 if tried.trial.judged else self._failures + (why != CUT_OFF)
            self._charge(tried)

    def _told(self, name: str, why: str) -> str:
        lines = [] if why == CUT_OFF else self.last_words(name)
        return "\n".join([*lines, f"({why})" if lines else why, self.trial_page(name)])

    def _read(self, tried: Tried) -> None:
        log = None if self._opening else self._context.log.log
        tried.read(self._study.space, self._study.objective.metric, log)

    def _charge(self, tried: Tried) -> None:
        """Adds up what the trials cost, and tells it of each."""
        number, state = tried.trial.number, self.trial_state(tried.name)
        if tried.trial.state == "failed":
            self._context.log.warning(f"trial {number} failed: {tried.trial.why}")
        if state is not None and state.seconds:
            cost = self._compute.price(self._compute.attempt(self._study.step_of({}), 1), state.seconds)
            self._cost, self._instance = self._cost + cost, state.instance
            page = self.trial_page(tried.name)
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
                "named_by": self.named_by,
                "metric": self.metric,
            },
        }
        if order.get("checkpoint"):
            order["checkpoint"] = self._storage.uri_of(f"{self._folder}/checkpoints")
        self._storage.put(f"{folder}/order.json", orjson.dumps(order))
        self.begin_search(name, step, missing, f"{folder}/order.json")
        state = self.search_state(name)
        if state is not None:
            self._found(state)

    def _order(self, job: Job) -> dict[str, Any]:
        context = build_external_execution_context_data(self._context, {"step": job.step.name, "job": job.name})
        return self._compute.order_of(job, context)

    def _name(self, number: int) -> str:
        return f"{self._family}-{number}"

    def _found(self, state: SearchState) -> None:
        number = len(self._searches) + 1
        search = Search(self._name(number), number, state)
        if state.stopped:
            with suppress(FileNotFoundError):
                search.pruned |= set(orjson.loads(self._storage.get(self._pruned(number))))
        self._searches.append(search)
        page = self.search_page(search.name)
        self._context.log.info(f"{search.name}: a search of {state.most} trials, {state.detail}: {page}")
        self._follow(search)

    def _pruned(self, number: int) -> str:
        """Storage key of what is known of a search when it is stopped: afterwards no service tells."""
        return f"{layout.job(self._study.name, number)}/pruned.json"

    def _add(self, search: Search, one: Listed) -> Tried:
        messages = Parts(self._storage, f"{layout.job(self._study.name, search.number)}/messages/{one.name}")
        trial = Trial(len(self._tried), "running", {})
        tried = Tried(trial, one.name, messages, f"{self._folder}/checkpoints/{one.name}", search)
        tried.take_values(self._study.space, one.given or {})
        self._tried.append(tried)
        return tried

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
            if state is None or not self._may_go_on(state):
                return job, state, spent
            spent += state.seconds or 0.0
        raise StepFailed(f"{self._study.name}: its first trial was stopped {ATTEMPTS} times")

    # What a service does ---------------------------------------------------------------------------------------------

    @abstractmethod
    def search_state(self, name: str) -> SearchState | None:
        """A search as it is now; None if there is none of the name.

        Raises:
            Silent: The service does not say.
        """

    @abstractmethod
    def listed(self, name: str, ended: Collection[str]) -> Sequence[Listed]:
        """The trials of a search in the order in which they were begun; those that are known to have ended may lack.

        Raises:
            Silent: The service does not say.
        """

    @abstractmethod
    def begin_search(self, name: str, step: Step, trials: int, order: str) -> None:
        """Begins a search; one of the name that is there already is as good.

        Args:
            name: The search's.
            step: What each trial runs.
            trials: How many are to be tried.
            order: Storage key of what each trial is to do.

        Raises:
            StepFailed: The service refuses; the message says what to ask for.
        """

    @abstractmethod
    def stop_search(self, name: str) -> None:
        """Asks the service to stop a search with its trials; one that has ended stays as it is."""

    @abstractmethod
    def search_page(self, name: str) -> str:
        """Address of a search's page."""

    @abstractmethod
    def trial_page(self, name: str) -> str:
        """Address of a trial's page."""

    @abstractmethod
    def trial_state(self, name: str) -> JobState | None:
        """A trial's job as it is now, whoever has begun it."""

    def last_words(self, name: str) -> Sequence[str]:
        """The last lines of a trial that failed, where they are not part of the reason that the service tells."""
        return ()

    @abstractmethod
    def too_late(self, state: JobState) -> bool:
        """Whether a job that has ended was stopped for its limit of time."""

    def recalled(self, one: Listed) -> Listed:
        """A trial with the values and the figure that the service has of it."""
        return one

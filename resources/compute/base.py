"""How a step is run, wherever it runs.

A step's version is made from all that decides its outcome, so it is also the name under which its outputs are
published: a step that was published before is not run again, and one that was killed is run again as if it had never
been started.
"""

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import dagster as dg
import orjson
from dagster._core.errors import DagsterExecutionInterruptedError

from detection_assets.domain import tuning
from detection_assets.domain.tuning import Parameter, Trial
from resources.abreast import abreast
from resources.findings import Finding
from resources.storage import Published, Storage

POLL_S = 0.1
"""Seconds between two looks at a running step, at first."""
POLL_MAX_S = 5.0
"""Seconds between two looks at a step that has been running for long."""
FAILURES = 3
"""A tuning ends when so many trials fail one after another: what is wrong is then not the values."""


@dataclass(frozen=True)
class Input:
    """A storage prefix that a program reads as a folder.

    Attributes:
        prefix: The prefix; "" is the detector's whole storage.
        keys: The keys below it that are needed, or None for all of them.
    """

    prefix: str
    keys: Sequence[str] | None = None


@dataclass(frozen=True)
class Objective:
    """What a trial is judged by.

    Attributes:
        metric: A figure that the program reports after each of its steps, in the report's `metrics`.
        file: The JSON file, below the program's output, that has the final figure.
        key: The key of the final figure in that file.
        maximize: Whether more is better.
    """

    metric: str
    file: str
    key: str = "objective"
    maximize: bool = True


@dataclass(frozen=True)
class Step:
    """A program with its inputs, outputs and parameters.

    Attributes:
        program: A module of `detection_assets.programs`.
        version: Decides where the outputs are published, so it must change with whatever changes the outcome.
        inputs: The program's named inputs.
        outputs: For each sub-folder of the program's output, the storage prefix to publish it at.
        params: The program's parameters, JSON-serialisable.
        hardware: `here`, `cpu` or `gpu`.
        timeout_s: After this many seconds the step is stopped and fails.
        notes: Kept in the manifest of each output.
        objective: What the step is judged by, where it is a trial of a study.
    """

    program: str
    version: str
    inputs: Mapping[str, Input]
    outputs: Mapping[str, str]
    params: Mapping[str, Any] = field(default_factory=dict)
    hardware: str = "here"
    timeout_s: float = 24 * 3600
    notes: Mapping[str, Any] = field(default_factory=dict)
    objective: Objective | None = None

    @property
    def name(self) -> str:
        """A deterministic name for the job: whoever runs the same step again finds it by this name."""
        return f"{self.program}-{self.version}"


def version_of(*parts: Any) -> str:
    """A step's version: 16 hex digits over JSON-serialisable parts."""
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


@dataclass(frozen=True)
class StepResult:
    """What came of a step.

    Attributes:
        outputs: What is published, by the output's name; an output that the program did not make is absent.
        reports: What the program reported while it ran; empty if nothing had to be run.
        reused: Whether everything had been published before.
        instance: What it ran on.
        seconds: Seconds of compute.
        cost_usd: Estimated cost.
    """

    outputs: Mapping[str, Published]
    reports: Sequence[Mapping[str, Any]]
    reused: bool
    instance: str
    seconds: float
    cost_usd: float


class StepFailed(dg.Failure):
    """A program failed; the description holds its last lines."""


class TookTooLong(StepFailed):
    """A step was stopped at its limit of time."""


@dataclass(frozen=True)
class MedianStop:
    """Ends a trial whose best figure so far is worse than the median of the others' at the same step.

    Attributes:
        after_trials: How many trials have to be complete before one is ended.
        after_steps: The first step, from 1, at which one may be ended.
    """

    after_trials: int = 3
    after_steps: int = 1


@dataclass(frozen=True)
class Study:
    """A search for the values with which a step does best.

    Attributes:
        version: Changes with whatever makes the trials of one study worthless for another: data, settings, space. How
            many trials and how long is not part of it, so that a study can be gone on with.
        step: What every trial runs; its version and outputs are not used.
        into: The parameter of the step's program that a trial's values are merged into.
        space: What is searched, by the name of the setting.
        objective: What a trial is judged by.
        trials: How many trials are to be judged in all, those of earlier calls counted.
        parallel: How many run side by side at most.
        timeout_s: After so many seconds no trial runs on; what was begun is gone on with by the next call, or, where
            the backend's tuner takes no trial back, others are tried in its place.
        stopping: When a trial is ended early; None for never.
        first: Values to try first, where the backend can be told; those left out are drawn.
        seed: Of the drawing.
    """

    version: str
    step: Step
    into: str
    space: Mapping[str, Parameter]
    objective: Objective
    trials: int
    parallel: int = 1
    timeout_s: float | None = None
    stopping: MedianStop | None = None
    first: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    @property
    def name(self) -> str:
        """A deterministic name: whoever tunes the same again finds the study by this name."""
        return f"tune-{self.version}"

    def step_of(self, values: Mapping[str, Any]) -> Step:
        """The step that tries some values. Its name follows from them, so a killed trial finds its checkpoint."""
        params = {**self.step.params, self.into: tuning.merged(self.step.params[self.into], values)}
        version = version_of(self.version, dict(values))
        return replace(self.step, version=version, params=params, outputs={}, objective=self.objective)


@dataclass(frozen=True)
class TuneResult:
    """What came of a study.

    Attributes:
        trials: Every trial there is, those of earlier calls, too.
        best: The best of those that are complete; None if none is.
        instance: What the trials ran on.
        seconds: Seconds of this call.
        cost_usd: Estimated cost of this call.
    """

    trials: Sequence[Trial]
    best: Trial | None
    instance: str
    seconds: float
    cost_usd: float


class Compute(dg.ConfigurableResource, ABC):
    """Runs steps. A backend supplies the primitives; submit, poll, time-out, cancel and publishing are written here.

    A handle is whatever the backend needs to find its job again; only the backend looks inside.
    """

    storage: dg.ResourceDependency[Storage]

    def run(
        self,
        context: dg.AssetExecutionContext,
        step: Step,
        on_report: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> StepResult:
        """Runs a step and publishes its outputs, unless they are published already.

        Args:
            context: Of the asset; the program's messages and logs go there.
            step: What to run.
            on_report: Called with each of the program's reports, while it runs.

        Raises:
            StepFailed: If the program failed or took too long; nothing is published then.
        """
        (result,) = self.run_all(context, [step], on_report)
        return result

    def run_all(
        self,
        context: dg.AssetExecutionContext,
        steps: Sequence[Step],
        on_report: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> list[StepResult]:
        """Runs steps of one hardware, as many side by side as it has places; arguments as of `run`.

        Returns:
            What came of each, in their order.

        Raises:
            StepFailed: One failed or took too long; those beside it were run to their ends and published before.
        """
        works = [self._running(context, step, on_report) for step in steps]
        results, failures = abreast(works, self.places(steps[0].hardware), StepFailed) if works else ([], [])
        if len(failures) > 1:
            told = "\n\n".join(str(failure.description) for failure in failures)
            raise StepFailed(f"{len(failures)} of {len(steps)} steps failed.\n\n{told}")
        if failures:
            raise failures[0]
        return results

    def _running(
        self,
        context: dg.AssetExecutionContext,
        step: Step,
        on_report: Callable[[Mapping[str, Any]], None] | None,
    ) -> Generator[float, None, StepResult]:
        """Runs one step; gives the seconds after which it is to be gone on with."""
        found = {name: self.storage.published(prefix) for name, prefix in step.outputs.items()}
        if all(found.values()):
            context.log.info(f"{step.name}: published already, nothing to run")
            outputs = {name: published for name, published in found.items() if published}
            cost = next((p.notes for p in outputs.values()), {})
            return StepResult(
                outputs,
                (),
                True,
                str(cost.get("instance", "")),
                float(cost.get("seconds", 0)),
                float(cost.get("cost_usd", 0)),
            )
        started = time.monotonic()
        reports: list[Mapping[str, Any]] = []
        with self.session(context, step) as session:

            def drain() -> None:
                for report in list(session.get_custom_messages())[len(reports) :]:
                    reports.append(report)
                    if on_report:
                        on_report(report)

            handle = self.start(context, step, session)
            try:
                wait = self.step_poll_s
                while not self.finished(handle):
                    drain()
                    if time.monotonic() - started > step.timeout_s:
                        raise TookTooLong(f"{step.name}: stopped after its limit of {step.timeout_s:.0f} s")
                    yield wait
                    wait = min(wait * 1.1, max(wait, POLL_MAX_S if time.monotonic() - started > 60 else 0.5))
            except (DagsterExecutionInterruptedError, KeyboardInterrupt, TookTooLong):
                context.log.warning(f"{step.name}: stopping")
                self.cancel(handle)
                raise
            error = self.error(handle)
        drain()
        if error:
            self.cleanup(handle, succeeded=False)
            raise StepFailed(f"{step.name} failed. Its last lines:\n{error}")
        seconds = time.monotonic() - started
        instance, cost_usd = self.cost(handle, seconds)
        notes = {
            **step.notes,
            "program": step.program,
            "version": step.version,
            "instance": instance,
            "seconds": round(seconds, 3),
            "cost_usd": cost_usd,
            "run_id": context.run.run_id,
        }
        outputs: dict[str, Published] = {}
        for name, prefix in step.outputs.items():
            published = self.deliver(handle, name, prefix, notes)
            if published:
                outputs[name] = published
        self.cleanup(handle, succeeded=True)
        return StepResult(outputs, reports, False, instance, seconds, cost_usd)

    def tune(
        self,
        context: dg.AssetExecutionContext,
        study: Study,
        on_trial: Callable[[Trial], None] | None = None,
    ) -> TuneResult:
        """Runs the trials of a study that are still to be run, and returns all of them.

        Ended early, by its limit of time, by an interrupt or by a kill, it keeps the trials that have ended; called
        again, it goes on.

        Args:
            context: Of the asset; the programs' messages and logs go there.
            study: What is searched, and how.
            on_trial: Called with each trial that is there at first, and whenever one begins, gets on or ends.

        Raises:
            StepFailed: If trial after trial failed, or somebody else is at the same study.
        """
        started = time.monotonic()
        known: dict[int, Trial] = {}

        def tell() -> None:
            for trial in self.trials(handle):
                if known.get(trial.number) != trial:
                    known[trial.number] = trial
                    if on_trial:
                        on_trial(trial)

        handle = self.open_study(context, study)
        try:
            tell()
            while not self.advance(handle):
                tell()
                if study.timeout_s is not None and time.monotonic() - started > study.timeout_s:
                    context.log.warning(f"{study.name}: stopping at its limit of {study.timeout_s:.0f} s")
                    break
                time.sleep(self.study_poll_s)
            tell()
        finally:
            self.close_study(handle)
        seconds = time.monotonic() - started
        instance, cost_usd = self.cost(handle, seconds)
        trials = [known[number] for number in sorted(known)]
        return TuneResult(trials, tuning.best(trials, maximize=study.objective.maximize), instance, seconds, cost_usd)

    def forget(self, video: str) -> None:
        """Deletes what steps that did not end left on this machine of their inputs and outputs, and of a video at all.

        Nothing may run meanwhile. What is left of other videos' steps can be begun again.
        """

    def places(self, hardware: str) -> int:
        """How many steps run side by side on some hardware."""
        return 1

    def check(self) -> Iterator[Finding]:
        """Looks whether steps can be run with the settings that there are."""
        yield from ()

    @property
    def step_poll_s(self) -> float:
        """Seconds between the first two looks at a step."""
        return POLL_S

    @property
    def study_poll_s(self) -> float:
        """Seconds between two looks at a study."""
        return POLL_MAX_S

    @abstractmethod
    def open_study(self, context: dg.AssetExecutionContext, study: Study) -> Any:
        """Begins a study, or finds the one of the same name; what a dead process left of it is gone on with."""

    @abstractmethod
    def advance(self, handle: Any) -> bool:
        """Does what is to be done now: begins trials, follows them, ends them; returns whether all have ended."""

    @abstractmethod
    def trials(self, handle: Any) -> Sequence[Trial]:
        """Every trial that has begun, as it is now."""

    @abstractmethod
    def close_study(self, handle: Any) -> None:
        """Stops what still runs, and keeps what has ended; the study can be opened again."""

    @abstractmethod
    def session(self, context: dg.AssetExecutionContext, step: Step) -> AbstractContextManager[Any]:
        """Opens the Pipes session over which the program's messages travel."""

    @abstractmethod
    def start(self, context: dg.AssetExecutionContext, step: Step, session: Any) -> Any:
        """Starts the program, or finds the job of the same name that is running already."""

    @abstractmethod
    def finished(self, handle: Any) -> bool:
        """Whether the program has ended, either way."""

    @abstractmethod
    def error(self, handle: Any) -> str | None:
        """The last lines of a program that failed; None if it succeeded."""

    @abstractmethod
    def cancel(self, handle: Any) -> None:
        """Stops the program, and returns when it is stopped."""

    @abstractmethod
    def deliver(self, handle: Any, output: str, prefix: str, notes: Mapping[str, Any]) -> Published | None:
        """Publishes one output at a prefix; None if the program made no such output."""

    @abstractmethod
    def cost(self, handle: Any, seconds: float) -> tuple[str, float]:
        """What it ran on, and what that is estimated to have cost in US dollars."""

    @abstractmethod
    def cleanup(self, handle: Any, *, succeeded: bool) -> None:
        """Removes what the step needed only while it ran; a failed step keeps its checkpoint."""

"""Steps as jobs of a cloud's own service: what all such services have in common.

A job's name follows from its step, so that a run that was killed finds its job again. What the job is to do, what it
tells and what it has made lie in the lake under that name until the step is published. A backend says how a job is
begun, looked at and stopped.
"""

import hashlib
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg
import orjson

from detection_assets.domain import layout
from detection_assets.domain.tuning import Trial
from resources.compute.base import Compute, Step, StepFailed, StepResult, Study, TuneResult
from resources.compute.local import PROGRAMS, LocalCompute
from resources.compute.messages import CarriedContext, LakeMessages
from resources.storage import Published, Storage

if TYPE_CHECKING:
    from resources.compute.searches import ManagedStudy

HERE = "here"
"""The word for hardware that means: beside the run, and no job."""
ATTEMPTS = 50
"""How often one step may have failed before somebody has to look at it."""
PATIENCE_S = 900.0
"""Seconds for which the service may not say how a job is; the job goes on meanwhile."""
RELAY_S = 2.0
"""Seconds after which, at most, what a program tells is in the lake."""
STOP_S = 600.0
"""Seconds that a service has to stop a job."""
TAIL = 40
"""Lines of a job's log that are told when it fails."""


class Silent(StepFailed):
    """The service does not say how a job is, which says nothing about the job."""


@dataclass(frozen=True)
class Job:
    """One attempt at a step, as a job of the service.

    Attributes:
        step: What it runs.
        detector: Whose step it is.
        token: Follows from the lake and the step; two lakes do not share a job.
        attempt: From 1.
    """

    step: Step
    detector: str
    token: str
    attempt: int

    @property
    def family(self) -> str:
        """What the names of all attempts begin with."""
        return f"{plain(self.detector)}-{plain(self.step.program)}-{self.token}"

    @property
    def name(self) -> str:
        """The service's name of it."""
        return f"{self.family}-{self.attempt}"

    @property
    def folder(self) -> str:
        """Storage prefix of its order, its messages and its receipt."""
        return layout.job(self.step.name, self.attempt)

    @property
    def checkpoint(self) -> str:
        """Storage prefix of what an interrupted attempt leaves for the next."""
        return layout.checkpoint(self.step.name)

    @property
    def output(self) -> str:
        """Name of the folders that its outputs go to, each below its prefix."""
        return f"{self.token[:12]}-{self.attempt}"

    @property
    def order(self) -> str:
        """Storage key of what it is to do."""
        return f"{self.folder}/order.json"

    @property
    def messages(self) -> str:
        """Storage prefix of what it tells."""
        return f"{self.folder}/messages"

    @property
    def receipt(self) -> str:
        """Storage key of what it has made."""
        return f"{self.folder}/receipt.json"


@dataclass(frozen=True)
class JobState:
    """A job as its service sees it.

    Attributes:
        phase: `running` from the request on, until it is `done`, `failed` or `stopped`.
        detail: The service's own word for what goes on.
        why: The reason of a failure.
        instance: What it runs on, several as `2 x name`.
        seconds: Seconds that are charged, once they are known.
    """

    phase: Literal["running", "done", "failed", "stopped"]
    detail: str = ""
    why: str = ""
    instance: str = ""
    seconds: float | None = None


@dataclass
class JobHandle:
    """A job that this process waits for.

    Attributes:
        job: The job.
        context: Of the asset that waits.
        state: How it was when the service last said so.
        seen: When that was, by the monotonic clock.
        cursor: How far its log was read.
        tail: The last lines of it.
    """

    job: Job
    context: dg.AssetExecutionContext
    state: JobState
    seen: float = field(default_factory=time.monotonic)
    cursor: Any = None
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL))


class ManagedJobs(dg.ConfigurableResource, ABC):
    """Jobs of a service that are found again by their names: looked for, followed, stopped, charged.

    Attributes:
        detector: The detector's name, part of each job's.
        poll_s: Seconds between two looks at a job; services count how often they are asked.
    """

    storage: dg.ResourceDependency[Storage]
    detector: str
    poll_s: float = 3.0

    def job_of(self, step: Step) -> Job:
        """The job that is to be waited for: one that runs or is done, or else the next attempt.

        Raises:
            StepFailed: So many attempts have failed that somebody has to look.
        """
        for attempt in range(1, ATTEMPTS + 1):
            job = self.attempt(step, attempt)
            state = self.look(job)
            if state is None or state.phase == "running":
                return job
            if state.phase == "done" and self.usable(job):
                return job
        raise StepFailed(f"{step.name} has failed {ATTEMPTS} times; see the jobs {self.attempt(step, 1).family}-*")

    def attempt(self, step: Step, number: int) -> Job:
        """An attempt at a step, from 1 on; whether there is such a job is another matter."""
        token = hashlib.sha256(f"{self.storage.uri}\0{step.name}".encode()).hexdigest()[:16]
        return Job(step, self.detector, token, number)

    def finished(self, handle: JobHandle) -> bool:
        """Whether the job has ended; tells what has changed, and the lines that it has logged since.

        Raises:
            StepFailed: The job is gone, or the service has been silent for too long; the job is not stopped for that.
        """
        before = handle.state
        try:
            state = self.look(handle.job)
        except Silent as error:
            if time.monotonic() - handle.seen > PATIENCE_S:
                raise
            handle.context.log.warning(f"{error.description}; asking again")
            return False
        handle.seen = time.monotonic()
        if state is None:
            raise StepFailed(f"{handle.job.name} is gone: somebody deleted it; run again")
        handle.state = state
        if state.detail != before.detail:
            handle.context.log.info(f"{handle.job.name}: {state.detail}")
        self._follow(handle)
        return state.phase != "running"

    def _follow(self, handle: JobHandle) -> None:
        lines, handle.cursor = self.log(handle.job, handle.cursor)
        for line in lines:
            handle.tail.append(line)
            sys.stderr.write(f"{line}\n")  # which Dagster captures into the step's compute log

    def error(self, handle: JobHandle) -> str | None:
        """Why the job failed, with the last lines of its log; None if it is done."""
        if handle.state.phase == "done":
            return None
        why = handle.state.why or f"the job was {handle.state.phase}: {handle.state.detail}"
        return "\n".join([*handle.tail, f"({why})", self.link(handle.job)])

    def cancel(self, handle: JobHandle) -> None:
        """Stops the job, and waits until the service says that it is stopped."""
        self.stop(handle.job)
        ends = time.monotonic() + STOP_S
        while (state := self.look(handle.job)) is not None and state.phase == "running":
            if time.monotonic() > ends:
                handle.context.log.error(f"{handle.job.name} does not stop: {self.link(handle.job)}")
                return
            time.sleep(self.poll_s)

    def cost(self, handle: JobHandle, seconds: float) -> tuple[str, float]:
        """The instances, and their price for the seconds that are charged."""
        charged = seconds if handle.state.seconds is None else handle.state.seconds
        return handle.state.instance, round(self.price(handle.job, charged), 6)

    @abstractmethod
    def usable(self, job: Job) -> bool:
        """Whether what a job that is done has made is there, and is what is wanted."""

    # What a service does ---------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def service(self) -> str:
        """The service's name, as people know it."""

    @abstractmethod
    def look(self, job: Job) -> JobState | None:
        """The job as it is now; None if there is none of this name.

        Raises:
            Silent: The service does not say.
        """

    @abstractmethod
    def stop(self, job: Job) -> None:
        """Asks the service to stop a job; one that has ended stays as it is."""

    @abstractmethod
    def log(self, job: Job, cursor: Any) -> tuple[Sequence[str], Any]:
        """The lines that a job has logged since, and where to go on; `cursor` is None at first."""

    @abstractmethod
    def link(self, job: Job) -> str:
        """Address of the job's page."""

    @abstractmethod
    def price(self, job: Job, seconds: float) -> float:
        """US dollars for the job's instances over so many seconds; 0 if nobody knows."""


class ManagedCompute(ManagedJobs, Compute):
    """Steps as jobs of a service; what is to run `here` runs beside the Dagster run.

    Attributes:
        jobs: How many jobs of one asset run side by side, where its work can be divided.
    """

    here: dg.ResourceDependency[LocalCompute]
    jobs: int = 1

    def run_all(
        self,
        context: dg.AssetExecutionContext,
        steps: Sequence[Step],
        on_report: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> list[StepResult]:
        """Runs steps as jobs, unless their hardware is `here`; otherwise as any compute."""
        here = all(step.hardware == HERE for step in steps)
        return (self.here if here else super()).run_all(context, steps, on_report)

    def forget(self, video: str) -> None:
        """What ran `here` is all that may have left something on this machine."""
        self.here.forget(video)

    def places(self, hardware: str) -> int:
        """Jobs side by side; beside the run, one after the other."""
        return 1 if hardware == HERE else self.jobs

    def tune(
        self,
        context: dg.AssetExecutionContext,
        study: Study,
        on_trial: Callable[[Trial], None] | None = None,
    ) -> TuneResult:
        """Runs a study's trials as jobs, unless their hardware is `here`; otherwise as any compute."""
        return (self.here if study.step.hardware == HERE else super()).tune(context, study, on_trial)

    # A study as the service's searches: `open_study` of a backend gives what follows it, resources/compute/searches.py

    def advance(self, handle: "ManagedStudy") -> bool:
        """Follows the trials, and begins jobs for those that are still to be run."""
        return handle.advance()

    def trials(self, handle: "ManagedStudy") -> Sequence[Trial]:
        """Every trial as it was when the service last said so."""
        return handle.trials()

    def close_study(self, handle: "ManagedStudy") -> None:
        """Stops what still runs, and waits until it is stopped."""
        handle.close()

    def cost(self, handle: "JobHandle | ManagedStudy", seconds: float) -> tuple[str, float]:
        """The instances, and their price for the seconds that are charged: of a job, or of a study's trials."""
        return super().cost(handle, seconds) if isinstance(handle, JobHandle) else handle.cost()

    @property
    def step_poll_s(self) -> float:
        """A service is not asked more often."""
        return self.poll_s

    @property
    def study_poll_s(self) -> float:
        """A service is not asked more often."""
        return self.poll_s

    # One step as a job -----------------------------------------------------------------------------------------------

    def session(self, context: dg.AssetExecutionContext, step: Step) -> AbstractContextManager[Any]:
        """Messages travel through the lake, under the name of the job that is to be waited for."""
        job = self.job_of(step)
        return dg.open_pipes_session(
            context=context,
            context_injector=CarriedContext(),
            message_reader=LakeMessages(self.storage, job.messages, self.poll_s),
            extras={"step": step.name, "job": job.name, "attempt": job.attempt},
        )

    def start(self, context: dg.AssetExecutionContext, step: Step, session: Any) -> JobHandle:
        """Begins the job that the session is for, or finds it where a run that is gone has begun it."""
        job = self.attempt(step, session.context_data["extras"]["attempt"])
        state = self.look(job)
        if state is None:
            self.storage.put(job.order, orjson.dumps(self.order_of(job, session.context_data)))
            context.log.info(f"{job.name}: begun as a job of {self.service}: {self.link(job)}")
            state = self.submit(job)
        else:
            context.log.info(f"{job.name}: found, {state.detail or state.phase}: {self.link(job)}")
        return JobHandle(job, context, state)

    def order_of(self, job: Job, context: Mapping[str, Any]) -> dict[str, Any]:
        """What `detection_assets.launcher` is to do."""
        step = job.step
        return {
            "module": f"{PROGRAMS}.{step.program}",
            "inputs": {name: name for name in step.inputs},
            "params": dict(step.params),
            "outputs": {name: self.storage.uri_of(f"{prefix}/{job.output}") for name, prefix in step.outputs.items()},
            "context": dict(context),
            "messages": self.storage.uri_of(job.messages),
            "receipt": self.storage.uri_of(job.receipt),
            "relay_s": min(self.poll_s, RELAY_S),
            "objective": step.objective and asdict(step.objective),
        }

    def deliver(self, handle: JobHandle, output: str, prefix: str, notes: Mapping[str, Any]) -> Published | None:
        """Publishes what the job put into a fresh folder, by putting its manifest."""
        try:
            made = orjson.loads(self.storage.get(handle.job.receipt))
        except FileNotFoundError:
            # Another run that waited for the same job has published all of it, and cleared up.
            return self.storage.published(prefix)
        if output not in made:
            return None
        return self.storage.publish_staged(prefix, handle.job.output, made[output], {**notes, "job": handle.job.name})

    def cleanup(self, handle: JobHandle, *, succeeded: bool) -> None:
        """Removes what lies in the lake under the job's name; of a failed one, nothing: the next goes on with it."""
        if succeeded:
            self.storage.delete(layout.job(handle.job.step.name))

    def usable(self, job: Job) -> bool:
        """Whether it has left a receipt: what is done and has none was published once, and deleted since."""
        return self.storage.exists(job.receipt)

    @abstractmethod
    def submit(self, job: Job) -> JobState:
        """Begins a job whose order lies in the lake; one that somebody else has just begun is as good.

        Raises:
            StepFailed: The service refuses; the message says what to ask for.
        """


def plain(text: str) -> str:
    """A name in letters, digits and single hyphens, short enough to leave room for what makes it unique."""
    words = "".join(letter if letter.isascii() and letter.isalnum() else " " for letter in text).split()
    return "-".join(words)[:20].rstrip("-") or "x"

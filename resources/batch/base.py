"""How a registered model is run over many pictures at once, wherever it runs.

A service's batch job hands pictures to the server that an endpoint has, one a request, and keeps its answers. They are
then made into what the program `predict` publishes, by that program, so a table does not tell where it comes from.
"""

import hashlib
import posixpath
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import dagster as dg
import orjson
from dagster._core.errors import DagsterExecutionInterruptedError

from detection_assets.domain import layout
from detection_assets.domain.previews import worth_a_look
from resources.compute.base import Compute, Input, Step, StepFailed, StepResult, TookTooLong, version_of
from resources.compute.managed import HERE, Job, JobHandle, JobState, ManagedJobs
from resources.findings import Finding
from resources.registry.base import ModelVersion

LONGEST = 20 * 2**20
"""Bytes of a picture that the server takes."""
TAKEN = "batch"
"""The note of a published output that says which job answered, on what, and what its share of that took."""


class Batch(dg.ConfigurableResource, ABC):
    """Runs the program `predict`, or what makes the same of the same pictures.

    Attributes:
        compute: Who runs steps; beside a service's jobs, what is to run `here`.
    """

    compute: dg.ResourceDependency[Compute]

    @abstractmethod
    def run(self, context: dg.AssetExecutionContext, steps: Sequence[Step], model: ModelVersion) -> list[StepResult]:
        """Runs a model over the pictures of some steps and publishes their outputs, unless they are published already.

        Args:
            context: Of the asset.
            steps: Of the program `predict`: input `frames`, with keys, and parameters `videos`, `settings`, `sha256`.
            model: The registered version, which is the one that the steps' input `model` names.

        Returns:
            What came of each step, in their order.

        Raises:
            StepFailed: Something failed or took too long; what is published then is whole.
        """

    def check(self) -> Iterator[Finding]:
        """Looks whether it can run with the settings that there are."""
        yield from ()


class ManagedBatch(ManagedJobs, Batch):
    """A batch job of a service for all pictures that are not predicted yet.

    A job's name follows from all steps that are asked for, those that are published already included: a run that was
    killed while it published finds its job, too.
    """

    def run(self, context: dg.AssetExecutionContext, steps: Sequence[Step], model: ModelVersion) -> list[StepResult]:
        """Runs one job for all of them; a step whose hardware is `here` is run beside the Dagster run."""
        waiting = self._waiting(steps)
        made = self._through_a_job(context, steps, waiting, model) if waiting else {}
        # What else there is was published before, or is to be run here.
        return [made.get(step.name) or _as_it_was(self.compute.run(context, step)) for step in steps]

    def _waiting(self, steps: Iterable[Step]) -> list[Step]:
        return [
            step
            for step in steps
            if step.hardware != HERE and not all(self.storage.published(prefix) for prefix in step.outputs.values())
        ]

    def _through_a_job(
        self, context: dg.AssetExecutionContext, steps: Sequence[Step], waiting: Sequence[Step], model: ModelVersion
    ) -> dict[str, StepResult]:
        started = time.monotonic()
        whole = replace(
            steps[0],
            version=version_of("batch", sorted(step.name for step in steps)),
            params={"waiting": [step.name for step in waiting]},
            timeout_s=max(step.timeout_s for step in steps),
        )
        job = self.job_of(whole)
        state = self.look(job)
        if state is None:
            self.storage.put(job.order, orjson.dumps(self._order(waiting)))
            state = self.begin(job, waiting[0], model)
            context.log.info(f"{job.name}: begun as a batch job of {self.service}: {self.link(job)}")
        else:
            context.log.info(f"{job.name}: found, {state.detail or state.phase}: {self.link(job)}")
        handle = JobHandle(job, context, state)
        self._wait(handle, started)
        error = self.error(handle)
        self._forget(handle)
        if error:
            raise StepFailed(f"{job.name} failed. Its last lines:\n{error}")
        # Another run may have waited for the same job, and published what it could.
        waiting = self._waiting(waiting)
        if waiting and not self.usable(job):
            raise StepFailed(f"{job.name} was begun before {waiting[0].name} was asked for; run again")
        made = self._published(handle, waiting, time.monotonic() - started)
        self.storage.delete(layout.job(whole.name))
        return made

    def _wait(self, handle: JobHandle, started: float) -> None:
        """Waits until the job has ended; whoever stops waiting stops it."""
        limit = handle.job.step.timeout_s
        try:
            while not self.finished(handle):
                if time.monotonic() - started > limit:
                    raise TookTooLong(f"{handle.job.name}: stopped after its limit of {limit:.0f} s")
                time.sleep(self.poll_s)
        except (DagsterExecutionInterruptedError, KeyboardInterrupt, TookTooLong):
            handle.context.log.warning(f"{handle.job.name}: stopping")
            self.cancel(handle)
            self._forget(handle)
            raise

    def _forget(self, handle: JobHandle) -> None:
        """Removes what the service was given for this attempt and for those before, whose runs may have been killed."""
        for number in range(1, handle.job.attempt + 1):
            try:
                self.forget(self.attempt(handle.job.step, number))
            except StepFailed as error:  # what is left costs nothing, and what was asked for is there
                handle.context.log.warning(str(error.description))

    # What is asked, and what comes of it -----------------------------------------------------------------------------

    def _order(self, waiting: Sequence[Step]) -> dict[str, Any]:
        """What the job is to look at; what is gone, empty or too long for a request is left out, for it fails the job.

        Raises:
            StepFailed: Nothing is left.
        """
        there: dict[str, int] = {}
        pictures, left_out = [], {}
        files = [file for step in waiting for file in _files(step)]
        for folder in sorted({posixpath.dirname(_key(file)) for file in files}):
            there |= {item.key: item.size for item in self.storage.list_folder(folder)}
        for file in files:
            size = there.get(_key(file))
            if size is None:
                left_out[file] = "it is gone; extract its video again"
            elif not 0 < size <= LONGEST:
                left_out[file] = f"it has {size:,} bytes, and the server takes 1 to {LONGEST:,}"
            else:
                pictures.append(file)
        if not pictures:
            file, why = next(iter(left_out.items()))
            raise StepFailed(f"{len(files)} pictures were to be predicted, and none can be. {file}: {why}")
        return {"steps": [step.name for step in waiting], "pictures": pictures, "left_out": left_out}

    def _ordered(self, job: Job) -> Mapping[str, Any]:
        return orjson.loads(self.storage.get(job.order))

    def usable(self, job: Job) -> bool:
        """Whether it was begun for all that is waited for, and its answers are not published and deleted."""
        try:
            return set(job.step.params["waiting"]) <= set(self._ordered(job)["steps"])
        except FileNotFoundError:
            return False

    def _published(self, handle: JobHandle, waiting: Sequence[Step], seconds: float) -> dict[str, StepResult]:
        """Publishes each step's outputs; each has a share in what the job took, by its pictures."""
        if not waiting:
            return {}
        job = handle.job
        order = self._ordered(job)
        sent = order["pictures"]
        keys = self.answers(job, sent)
        missing = [file for file in sent if file not in keys]
        if missing:
            raise StepFailed(
                f"{job.name} is done, and {len(missing)} of its {len(sent)} answers are not in the lake, the first of "
                f"{missing[0]}; delete {self.storage.uri_of(job.folder)} to have them asked again: {self.link(job)}"
            )
        instance, cost_usd = self.cost(handle, seconds)
        charged = seconds if handle.state.seconds is None else handle.state.seconds
        made: dict[str, StepResult] = {}
        for step in waiting:
            files = _files(step)
            answers: dict[str, Mapping[str, Any]] = {file: {"error": why} for file, why in order["left_out"].items()}
            answers.update(self.read({file: keys[file] for file in files if file in keys}))
            lines = [{**answers[file], "file": file} for file in files if file in answers]
            share = len(files) / (len(sent) + len(order["left_out"]))
            taken = {
                "job": job.name,
                "instance": instance,
                "seconds": round(charged * share, 3),
                "cost_usd": round(cost_usd * share, 6),
            }
            folder = f"{job.folder}/{step.version}"
            self.storage.put(f"{folder}/answers.jsonl", b"\n".join(map(orjson.dumps, lines)))
            gathered = replace(
                step,
                inputs={
                    "frames": Input(layout.FRAMES, _worth_a_look(step, answers)),
                    "answers": Input(folder, ["answers.jsonl"]),
                },
                hardware=HERE,
                notes={**step.notes, TAKEN: taken},
            )
            made[step.name] = _with(self.compute.run(handle.context, gathered), taken)
        return made

    def onnx_of(self, model: ModelVersion) -> bytes:
        """The registered model; a service would take long to find that it is another.

        Raises:
            StepFailed: What lies there has another digest.
        """
        onnx = self.storage.get(model.onnx)
        digest = hashlib.sha256(onnx).hexdigest()
        if digest != model.sha256:
            raise StepFailed(
                f"{model.onnx}: its sha256 is {digest}, not the expected {model.sha256}: the file was changed or "
                "damaged after it was registered; publish it again"
            )
        return onnx

    def about(self, step: Step, model: ModelVersion) -> dict[str, Any]:
        """What a server is told of a model: `serving.bundle.ABOUT`."""
        known = {"detector": self.detector, "version": model.version, "sha256": model.sha256}
        return {**known, **step.params["settings"]}

    # What a service does ---------------------------------------------------------------------------------------------

    @abstractmethod
    def begin(self, job: Job, step: Step, model: ModelVersion) -> JobState:
        """Begins a job over the pictures of its order; one that somebody else has just begun is as good.

        Args:
            job: The job; its order lies in the lake.
            step: One of the steps that it is for: they differ in nothing but their pictures.
            model: What is to look at the pictures.

        Raises:
            StepFailed: The service refuses; the message says what to ask for.
        """

    @abstractmethod
    def forget(self, job: Job) -> None:
        """Removes what was made for a job, which has ended or never begun, beside the job; nothing is as good."""

    @abstractmethod
    def answers(self, job: Job, files: Sequence[str]) -> Mapping[str, str]:
        """Storage key of the file with the answer to each of the pictures that the job was asked about."""

    def read(self, keys: Mapping[str, str]) -> Mapping[str, Mapping[str, Any]]:
        """The answers to some pictures, each in the form of `serving.answers.Answer`, from a file for each of them.

        Args:
            keys: Their storage keys, by picture, as `answers` found them.
        """
        told = zip(keys, self.storage.get_many(list(keys.values())), strict=True)
        return {file: orjson.loads(data) for file, data in told if data is not None}


def _files(step: Step) -> Sequence[str]:
    return list(step.inputs["frames"].keys or ())


def _key(file: str) -> str:
    return f"{layout.FRAMES}/{file}"


def _worth_a_look(step: Step, answers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """For each video some pictures: what the program has to draw on."""
    chosen: list[str] = []
    for video in step.params["videos"]:
        looked_at = [file for _, file in video["frames"] if "boxes" in answers.get(file, {})]
        chosen += worth_a_look(looked_at, {file for file in looked_at if answers[file]["boxes"]})
    return chosen


def _with(result: StepResult, taken: Mapping[str, Any]) -> StepResult:
    return replace(
        result,
        instance=str(taken["instance"]),
        seconds=float(taken["seconds"]),
        cost_usd=float(taken["cost_usd"]),
    )


def _as_it_was(result: StepResult) -> StepResult:
    """What was published before, with what the job took that made it."""
    taken = next((one.notes[TAKEN] for one in result.outputs.values() if TAKEN in one.notes), None)
    return _with(result, taken) if taken and result.reused else result

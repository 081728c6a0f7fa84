"""Steps as subprocesses of this machine."""

import fcntl
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import dagster as dg
import orjson

from detection_assets.domain.problems import ending
from detection_assets.domain.tuning import Trial
from resources.compute.base import FAILURES, POLL_S, Compute, Input, Step, StepFailed, Study
from resources.storage import Published
from resources.studies import StudyFile
from resources.withdrawal import leftovers

GRACE_S = 5.0
"""Seconds that a program has to end by itself when it is told to."""
PROGRAMS = "detection_assets.programs"
"""The package of the programs."""
SECRET = re.compile("^(AWS|AZURE|MLFLOW)_|PASSWORD|SECRET|TOKEN|CREDENTIAL|_KEY$|^DETECTION_ALERTS$")
"""Settings that programs are not given: they read folders and ask nobody, and much of them is other people's code."""


@dataclass
class LocalHandle:
    """A running subprocess, its folder, its last lines, and the lock that keeps a second run of the same step out."""

    process: subprocess.Popen[str]
    folder: Path
    tail: deque[str]
    pump: threading.Thread
    lock: IO[str]


@dataclass
class RunningTrial:
    """A trial whose program runs: the open session of its messages, and how many of them were looked at."""

    step: Step
    process: LocalHandle
    session: Any
    opened: ExitStack
    started: float
    seen: int = 0

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.started


@dataclass
class LocalStudy:
    """A study that this process is at: its file, what runs of it, and the lock that keeps a second process out."""

    context: dg.AssetExecutionContext
    study: Study
    file: StudyFile
    lock: IO[str]
    running: dict[int, RunningTrial] = field(default_factory=dict)
    failures: int = 0


class LocalCompute(Compute):
    """Runs programs as subprocesses; every word for hardware means this machine.

    Attributes:
        scratch: Folder for what is needed only while a step runs. On the lake's file system, publishing is a rename.
    """

    scratch: str

    def session(self, context: dg.AssetExecutionContext, step: Step) -> AbstractContextManager[Any]:
        """Messages travel through temporary files."""
        return dg.open_pipes_session(
            context=context,
            context_injector=dg.PipesTempFileContextInjector(),
            message_reader=dg.PipesTempFileMessageReader(),
            extras={"step": step.name},
        )

    def start(self, context: dg.AssetExecutionContext, step: Step, session: Any) -> LocalHandle:
        """Makes the inputs readable as folders and starts the program."""
        folder, lock = self._locked(step.name)
        shutil.rmtree(folder / "inputs", ignore_errors=True)
        shutil.rmtree(folder / "output", ignore_errors=True)
        (folder / "params.json").write_bytes(orjson.dumps(dict(step.params)))
        command = [sys.executable, "-m", f"{PROGRAMS}.{step.program}"]
        for name, needed in step.inputs.items():
            command += ["--input", f"{name}={self._input(needed, folder / 'inputs' / name)}"]
        command += ["--output", str(folder / "output"), "--params", str(folder / "params.json")]
        command += ["--checkpoint", str(folder / "checkpoint")]
        told = {**session.get_bootstrap_env_vars(), "DETECTION_PARENT_PID": str(os.getpid())}
        known = {name: value for name, value in os.environ.items() if not SECRET.search(name)}
        process = subprocess.Popen(
            command,
            env={**known, **told, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        tail: deque[str] = deque(maxlen=40)
        pump = threading.Thread(target=_pump, args=(process.stdout, tail), daemon=True)
        pump.start()
        return LocalHandle(process, folder, tail, pump, lock)

    def forget(self, video: str) -> None:
        """As of any compute; see `resources/leftovers.py`."""
        leftovers.forget(Path(self.scratch).absolute(), self.storage.local_path(""), video)

    def _locked(self, name: str) -> tuple[Path, IO[str]]:
        """The folder of a step or a study, and the lock that this process now has on it."""
        folder = Path(self.scratch).absolute() / name
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise StepFailed(f"{name} is running already, in another run; wait for it or stop that run") from None
        return folder, lock

    def _input(self, needed: Input, target: Path) -> Path:
        whole = self.storage.local_path(needed.prefix)
        if whole is not None and needed.keys is None:
            return whole
        target.mkdir(parents=True)
        prefix = f"{needed.prefix}/" if needed.prefix else ""
        if whole is None:
            keys = needed.keys
            if keys is None:
                keys = [item.key.removeprefix(prefix) for item in self.storage.list(needed.prefix)]
            self.storage.download({prefix + key: target / key for key in keys})
            return target
        made: set[Path] = set()
        for key in needed.keys or ():
            link = target / key
            if link.parent not in made:
                link.parent.mkdir(parents=True, exist_ok=True)
                made.add(link.parent)
            link.symlink_to(whole / key)
        return target

    def finished(self, handle: LocalHandle) -> bool:
        """Whether the process has ended."""
        return handle.process.poll() is not None

    def error(self, handle: LocalHandle) -> str | None:
        """The last lines that the program printed, if it did not end with exit code 0."""
        handle.pump.join(timeout=GRACE_S)
        code = handle.process.returncode
        return "".join(handle.tail) + f"({ending(code)})" if code else None

    def cancel(self, handle: LocalHandle) -> None:
        """Asks the whole process group to end, then makes it."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(handle.process.pid, number)
                handle.process.wait(timeout=GRACE_S)
                break
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        self.cleanup(handle, succeeded=False)

    def deliver(self, handle: LocalHandle, output: str, prefix: str, notes: Mapping[str, Any]) -> Published | None:
        """Publishes a sub-folder of the program's output."""
        folder = handle.folder / "output" / output
        return self.storage.publish(folder, prefix, notes) if folder.is_dir() else None

    def cost(self, handle: LocalHandle, seconds: float) -> tuple[str, float]:
        """This machine, for nothing."""
        return "here", 0.0

    def cleanup(self, handle: LocalHandle, *, succeeded: bool) -> None:
        """Removes the step's folder; a failed step keeps its checkpoint."""
        handle.pump.join(timeout=GRACE_S)
        if handle.process.stdout and not handle.pump.is_alive():
            handle.process.stdout.close()
        for folder in [handle.folder] if succeeded else [handle.folder / name for name in ("inputs", "output")]:
            shutil.rmtree(folder, ignore_errors=True)
        handle.lock.close()

    # Studies ----------------------------------------------------------------------------------------------------------

    @property
    def study_poll_s(self) -> float:
        """A process of this machine is looked at often."""
        return 3 * POLL_S

    def open_study(self, context: dg.AssetExecutionContext, study: Study) -> LocalStudy:
        """Opens the study's file in a folder of the scratch; it stays there, so that a study can be gone on with."""
        folder, lock = self._locked(study.name)
        return LocalStudy(context, study, StudyFile(folder / "study.db", study), lock)

    def trials(self, handle: LocalStudy) -> Sequence[Trial]:
        """Every trial in the study's file."""
        return handle.file.trials()

    def advance(self, handle: LocalStudy) -> bool:
        """Looks at the trials that run, and begins others while there is room."""
        for number in list(handle.running):
            self._follow(handle, number)
        while len(handle.running) < handle.study.parallel:
            judged = sum(trial.judged for trial in handle.file.trials())
            if judged + len(handle.running) >= handle.study.trials:
                break
            self._begin(handle)
        return not handle.running

    def _begin(self, handle: LocalStudy) -> None:
        trial = handle.file.begin()
        if trial.state != "running":
            return
        step = handle.study.step_of(trial.values)
        opened = ExitStack()
        started = time.monotonic()
        try:
            session = opened.enter_context(self.session(handle.context, step))
            process = self.start(handle.context, step, session)
        except BaseException:
            opened.close()
            handle.file.leave(trial.number, 0.0)
            raise
        handle.running[trial.number] = RunningTrial(step, process, session, opened, started)

    def _follow(self, handle: LocalStudy, number: int) -> None:
        going = handle.running[number]
        ended = self.finished(going.process)
        # What has ended here is not gone on with, so its folder goes, checkpoint and all, whichever way it ended.
        if ended:
            going.opened.close()  # what the program told last is read by now
        may_stop = self._take_in(handle, number)
        if ended:
            self._ended(handle, number)
        elif going.seconds > going.step.timeout_s:
            self._stop(handle, number)
            self.cleanup(going.process, succeeded=True)
            self._failed(handle, number, f"stopped after its limit of {going.step.timeout_s:.0f} s")
        elif may_stop and handle.file.hopeless(number):
            self._stop(handle, number)
            self.cleanup(going.process, succeeded=True)
            del handle.running[number]
            handle.file.end(number, "pruned", seconds=going.seconds)
            handle.failures = 0

    def _take_in(self, handle: LocalStudy, number: int) -> bool:
        """Keeps what the program has reported since; returns whether that is news and more of its steps are to come."""
        going = handle.running[number]
        reports = list(going.session.get_custom_messages())
        more = False
        for report in reports[going.seen :]:
            if report.get("kind") == "epoch":
                figure = report["metrics"].get(handle.study.objective.metric)
                if figure is not None and math.isfinite(figure):
                    handle.file.report(number, int(report["epoch"]), float(figure))
                    more = int(report["epoch"]) < int(report["epochs"])
        going.seen = len(reports)
        return more

    def _ended(self, handle: LocalStudy, number: int) -> None:
        going, objective = handle.running[number], handle.study.objective
        error = self.error(going.process)
        if error:
            self.cleanup(going.process, succeeded=True)
            self._failed(handle, number, error)
            return
        try:
            figures = orjson.loads((going.process.folder / "output" / objective.file).read_bytes())
            value = float(figures[objective.key])
        except (OSError, ValueError, KeyError, TypeError) as problem:
            value, error = math.nan, f"{objective.file} has no {objective.key}: {problem}"
        self.cleanup(going.process, succeeded=True)
        if not math.isfinite(value):
            self._failed(handle, number, error or f"its {objective.key} is {value}")
            return
        del handle.running[number]
        handle.file.end(number, "complete", value, going.seconds)
        handle.failures = 0

    def _failed(self, handle: LocalStudy, number: int, why: str) -> None:
        going = handle.running.pop(number)
        handle.file.end(number, "failed", seconds=going.seconds, why=why)
        handle.failures += 1
        handle.context.log.warning(f"trial {number} failed: {why}")
        if handle.failures >= FAILURES:
            raise StepFailed(f"{handle.study.name}: {FAILURES} trials failed one after another, the last with:\n{why}")

    def _stop(self, handle: LocalStudy, number: int) -> None:
        going = handle.running[number]
        self.cancel(going.process)
        going.opened.close()

    def close_study(self, handle: LocalStudy) -> None:
        """Stops the trials that run; each keeps its number, its values and its checkpoint for the next call."""
        try:
            for number, going in list(handle.running.items()):
                self._stop(handle, number)
                self._take_in(handle, number)
                del handle.running[number]
                handle.file.leave(number, going.seconds)
        finally:
            handle.file.close()
            handle.lock.close()


def _pump(stream: IO[str] | None, tail: deque[str]) -> None:
    # To our own stderr, which Dagster captures into the step's compute log.
    for line in stream or ():
        tail.append(line)
        sys.stderr.write(line)

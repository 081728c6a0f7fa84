"""Steps as subprocesses of this machine."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import dagster as dg
import orjson

from resources.compute.base import Compute, Input, Step, StepFailed
from resources.storage import Published

GRACE_S = 5.0
"""Seconds that a program has to end by itself when it is told to."""


@dataclass
class LocalHandle:
    """A running subprocess, its folder, its last lines, and the lock that keeps a second run of the same step out."""

    process: subprocess.Popen[str]
    folder: Path
    tail: deque[str]
    pump: threading.Thread
    lock: IO[str]


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

    def start(self, context: dg.AssetExecutionContext, step: Step, env: Mapping[str, str]) -> LocalHandle:
        """Makes the inputs readable as folders and starts the program."""
        folder = Path(self.scratch).absolute() / step.name
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise StepFailed(f"{step.name} is running already, in another run; wait for it or stop that run") from None
        shutil.rmtree(folder / "inputs", ignore_errors=True)
        shutil.rmtree(folder / "output", ignore_errors=True)
        (folder / "params.json").write_bytes(orjson.dumps(dict(step.params)))
        command = [sys.executable, "-m", f"detection_assets.programs.{step.program}"]
        for name, needed in step.inputs.items():
            command += ["--input", f"{name}={self._input(needed, folder / 'inputs' / name)}"]
        command += ["--output", str(folder / "output"), "--params", str(folder / "params.json")]
        command += ["--checkpoint", str(folder / "checkpoint")]
        process = subprocess.Popen(
            command,
            env={**os.environ, **env, "PYTHONUNBUFFERED": "1", "DETECTION_PARENT_PID": str(os.getpid())},
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
        if code == 0:
            return None
        ended = f"killed by signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return "".join(handle.tail) + f"({ended})"

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
        if succeeded:
            shutil.rmtree(handle.folder, ignore_errors=True)
        else:
            for name in ("inputs", "output"):
                shutil.rmtree(handle.folder / name, ignore_errors=True)
        handle.lock.close()


def _pump(stream: IO[str] | None, tail: deque[str]) -> None:
    # To our own stderr, which Dagster captures into the step's compute log.
    for line in stream or ():
        tail.append(line)
        sys.stderr.write(line)

"""How a program meets the world: named input folders, one output folder, parameters, progress and reports.

Started by a Dagster step, messages travel back over Dagster Pipes; started by hand, they are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detection_assets.domain.problems import InputError

PROGRESS_EVERY_S = 1.0
"""Progress is told at most this often: a message a frame would cost more than the frame."""


@dataclass
class Job:
    """One run of a program.

    Attributes:
        inputs: Folder (or file) of each named input. Read-only.
        output: Folder to write to. Each named output of the step is a sub-folder of it.
        params: The parameters, as parsed JSON.
        checkpoint: Folder that outlives a killed run of the same step, if the compute offers one.
    """

    inputs: Mapping[str, Path]
    output: Path
    params: Mapping[str, Any]
    checkpoint: Path | None = None
    pipes: Any = None
    _told: float = field(default=0.0, repr=False)

    def needs(self, *names: str) -> None:
        """Makes sure that inputs are given.

        Raises:
            InputError: One is missing.
        """
        for name in names:
            if name not in self.inputs:
                raise InputError(f"--input {name}=FOLDER is missing")

    def log(self, message: str) -> None:
        """Tells a line to whoever started the program."""
        if self.pipes is None:
            print(message, file=sys.stderr, flush=True)
        else:
            self.pipes.log.info(message)

    def progress(self, done: int, total: int, what: str) -> None:
        """Tells how far the work is, as `[done/total] what`; the last one is always told.

        Args:
            done: Units finished.
            total: Units in all.
            what: What the units are, and any figure worth seeing while it runs.
        """
        now = time.monotonic()
        if done < total and now - self._told < PROGRESS_EVERY_S:
            return
        self._told = now
        self.log(f"[{done}/{total}] {what}")

    def report(self, payload: Mapping[str, Any]) -> None:
        """Sends a JSON object to the asset that started the program, while the program runs.

        Args:
            payload: JSON-serialisable; by convention it has a `kind`.
        """
        if self.pipes is None:
            print(json.dumps(payload), file=sys.stderr, flush=True)
        else:
            self.pipes.report_custom_message(dict(payload))


def cores() -> int:
    """Cores that this process may use; Windows and macOS do not tell which, so there it is all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main(run: Callable[[Job], None], description: str | None) -> None:
    """Parses the command line, opens Dagster Pipes where a step started us, and runs the program.

    Args:
        run: The program.
        description: For `--help`, usually the module's docstring.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", action="append", default=[], metavar="NAME=PATH", help="a named input; repeatable")
    parser.add_argument("--output", required=True, type=Path, help="folder to write to; made if missing")
    parser.add_argument("--params", type=Path, help="JSON file of parameters")
    parser.add_argument("--checkpoint", type=Path, help="folder that outlives a killed run; made if missing")
    args = parser.parse_args()
    inputs: dict[str, Path] = {}
    for item in args.input:
        name, sep, path = item.partition("=")
        if not sep or not Path(path).exists():
            parser.error(f"--input {item}: expected NAME=PATH with an existing path")
        inputs[name] = Path(path)
    params = json.loads(args.params.read_text()) if args.params else {}
    args.output.mkdir(parents=True, exist_ok=True)
    if args.checkpoint:
        args.checkpoint.mkdir(parents=True, exist_ok=True)
    end_with_parent()
    with _pipes() as pipes:
        run(Job(inputs, args.output, params, args.checkpoint, pipes))


def end_in_good_order() -> None:
    """Lets SIGTERM end this process by way of the folders and files that it has open.

    It may be told twice, by a service that tells everything in a container and by what started it: the second word
    must not cut short what the first began.
    """

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)


def end_with_parent() -> None:
    """Ends this process soon after the one that started it, even if that one was killed outright.

    Otherwise a run that is killed and started again would have the old program working beside the new one.
    """
    parent = os.environ.get("DETECTION_PARENT_PID")
    if parent is None:
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(0.5)
        os._exit(113)

    threading.Thread(target=watch, daemon=True).start()


def _pipes() -> Any:
    if "DAGSTER_PIPES_CONTEXT" not in os.environ:
        return nullcontext()
    from dagster_pipes import open_dagster_pipes

    return open_dagster_pipes()

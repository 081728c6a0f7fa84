"""What a managed job's container starts: it runs one program and stands between it and the platform's lake.

The program sees folders, a file of parameters and local messages, as it does on a laptop. Its messages are copied into
the lake while it runs, so that whoever asks for the job, now or after a crash, reads all of them; its outputs are
copied when it has succeeded, each file once, to folders that no reader knows yet. What it is to do is a small document
in the lake, because a job's own environment and arguments are short. It works the same for every store that obstore
knows, so no cloud's library is needed in the image.

A trial of a study gets its values from the platform's tuner. What the program reaches is told where the tuner reads it:
in the log, or in the MLflow run that the platform has opened.

Of a job of several instances each runs the same order, and its program is told which one it is. The first speaks for
all: the others relay no messages and deliver nothing, but their log and their failure are the job's as well.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from detection_assets.checkpoints import KeptFolder
from detection_assets.domain import tuning
from detection_assets.domain.problems import InputError, ending
from detection_assets.domain.world import PORT, TORCH, World
from detection_assets.figures import Figures, reached
from detection_assets.object_store import open_store

PARALLEL = 32
"""Files on their way to the lake at once."""
TAIL = 40
"""The last lines of a program that are told when it fails."""
FAILURE_CHARS = 1024
"""What a platform shows of the reason of a failure."""
SETTING = "DETECTION_JOB_"
"""With an option's name behind it, where the option stands if the platform starts the image without arguments."""
STOPPED = 128 + signal.SIGTERM
"""Exit status of a job that was told to end."""


@dataclass(frozen=True)
class Order:
    """What a job is to do.

    Attributes:
        module: The program, as `python -m` takes it.
        inputs: The program's named inputs, each a path below the folder of inputs.
        params: Its parameters.
        outputs: For each sub-folder of its output, the URI that its files go below.
        context: What Dagster Pipes tells the program of the run.
        messages: URI below which its messages are kept, in numbered parts.
        receipt: URI that gets, after the outputs, their sizes by path.
        relay_s: Seconds between two looks at the messages.
        objective: What a trial is judged by: the `metric` of its reports, and `file` and `key` of the final figure.
        tuned: Of one whose values the platform's tuner gives: the parameter that they go `into`, the `space` that they
            are of, the environment variable that it is `named_by`, and the `metric` of its MLflow run that the tuner
            reads, if it does. Many trials have the same order, so messages, receipt and checkpoint are each below the
            trial's name.
        needed: For inputs of which the platform shows the program more than it is to see: the paths that it needs.
        checkpoint: URI that the checkpoint is kept below, where the platform keeps none itself.
        values: A trial's own, as text, by setting.
    """

    module: str
    inputs: Mapping[str, str]
    params: Mapping[str, Any]
    outputs: Mapping[str, str]
    context: Mapping[str, Any]
    messages: str
    receipt: str
    relay_s: float
    objective: Mapping[str, Any] | None = None
    tuned: Mapping[str, Any] | None = None
    needed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    checkpoint: str | None = None
    values: Mapping[str, str] = field(default_factory=dict)

    def of_trial(self, name: str, given: Mapping[str, str]) -> Order:
        """The order of one trial.

        Args:
            name: The trial's.
            given: As `tuning.taken` takes them.
        """
        assert self.tuned is not None
        into, values = self.tuned["into"], tuning.taken(tuning.space_of(self.tuned["space"]), given)
        return replace(
            self,
            params={**self.params, into: tuning.merged(self.params[into], values)},
            messages=f"{self.messages}/{name}",
            receipt=f"{self.receipt}/{name}",
            checkpoint=f"{self.checkpoint}/{name}" if self.checkpoint else None,
            values={key: tuning.as_text(value) for key, value in values.items()},
        )


class Relay:
    """Copies the messages of a program into numbered parts in the lake, while it runs.

    A job that the platform interrupted and started again goes on with the next number. That its program has closed
    its messages is told only at the very end: a reader stops listening then.
    """

    def __init__(self, source: Path, order: Order) -> None:
        """Takes the file that the program appends to, and where its messages are to go."""
        self._source, self._store, self._relay_s, self._read = source, open_store(order.messages), order.relay_s, 0
        self._metric = order.objective["metric"] if order.objective else None
        self._figures = Figures((order.tuned or {}).get("metric"))
        numbers = [int(Path(path).stem) for path in _names(self._store) if Path(path).stem.isdecimal()]
        self._next = max(numbers, default=0) + 1
        self._closing: list[str] = []
        if order.values:
            self._report({"kind": "values", "values": order.values})
            self._figures.begin(order.values)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(self._relay_s):
            try:
                self.copy()
            except Exception as error:  # the store's trouble of a moment is no reason to stop the program
                print(f"launcher: messages could not be copied: {error}; trying again", file=sys.stderr, flush=True)

    def copy(self) -> None:
        """Copies the whole lines that are new."""
        if not self._source.exists():
            return
        with self._source.open("rb") as lines:
            lines.seek(self._read)
            fresh = lines.read()
        fresh = fresh[: fresh.rfind(b"\n") + 1]
        told = [line for line in fresh.decode().splitlines() if line]
        closing = [line for line in told if json.loads(line).get("method") == "closed"]
        told = [line for line in told if line not in closing]
        if told:
            self._put(told)
        self._read += len(fresh)
        self._closing += closing
        for line in told if self._metric else ():
            report = json.loads(line).get("params", {}).get("payload")
            figure = report["metrics"].get(self._metric) if _is_epoch(report) else None
            if figure is not None and math.isfinite(figure):
                self._figures.tell(figure, int(report["epoch"]))

    def _report(self, payload: Mapping[str, Any]) -> None:
        told = {"method": "report_custom_message", "params": {"payload": payload}}
        self._put([json.dumps({"__dagster_pipes_version": "0.1", **told})])

    def _put(self, lines: Sequence[str]) -> None:
        import obstore

        obstore.put(self._store, f"{self._next}.json", "\n".join(lines).encode())
        self._next += 1

    def end(self) -> None:
        """Copies what is left."""
        self._ended.set()
        self._thread.join()
        self.copy()

    def judge(self, value: float) -> None:
        """Tells what a trial is judged by, behind all that the program has told itself."""
        self._report({"kind": "objective", "value": value})
        self._figures.tell(value)

    def close(self) -> None:
        """Tells that the program has closed its messages, if it has; it must not be started again then."""
        if self._closing:
            self._put(self._closing[-1:])


def run(
    order: Order,
    inputs: Mapping[str, Path],
    checkpoint: Path | None,
    failure: Path | None,
    world: World | None = None,
) -> int:
    """Runs the program, relays its messages and delivers its outputs.

    Args:
        order: What to do.
        inputs: The inputs' folders, by name.
        checkpoint: Folder that outlives an interruption, if the platform keeps one.
        failure: File that the platform shows as the reason of a failure.
        world: Which of the job's instances this is; None if it has one.

    Returns:
        The exit status: the program's, or 143 if the job was told to end.
    """
    from dagster_pipes import encode_param

    world = world or World()
    with tempfile.TemporaryDirectory(prefix="job-") as scratch:
        folder = Path(scratch)
        output, messages = folder / "output", folder / "messages"
        messages.touch()
        (folder / "context.json").write_text(json.dumps(order.context))
        (folder / "params.json").write_text(json.dumps(order.params))
        command = [sys.executable, "-m", order.module]
        for name, source in inputs.items():
            seen = links(source, order.needed[name], folder / "inputs" / name) if name in order.needed else source
            command += ["--input", f"{name}={seen}"]
        command += ["--output", str(output), "--params", str(folder / "params.json")]
        kept = None
        if order.checkpoint:
            checkpoint = folder / "checkpoint"
            checkpoint.mkdir()
            if world.leads:  # the others are given by the first what they go on from
                kept = KeptFolder(order.checkpoint, checkpoint, order.relay_s)
        command += ["--checkpoint", str(checkpoint)] if checkpoint else []
        # What the platform tells this process of itself is not the program's: neither its place nor its run.
        known = {key: value for key, value in os.environ.items() if key not in TORCH and not key.startswith("MLFLOW_")}
        env = {**known, **world.settings, "DETECTION_PARENT_PID": str(os.getpid()), "PYTHONUNBUFFERED": "1"}
        relay = None
        if world.leads:  # a program that is not given the way to tell prints
            env["DAGSTER_PIPES_CONTEXT"] = encode_param({"path": str(folder / "context.json")})
            env["DAGSTER_PIPES_MESSAGES"] = encode_param({"path": str(messages)})
            relay = Relay(messages, order)
        process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace",
        )  # fmt: skip
        told_to_end = threading.Event()

        def end(*_: object) -> None:
            told_to_end.set()
            process.terminate()

        signal.signal(signal.SIGTERM, end)
        tail: deque[str] = deque(maxlen=TAIL)
        _pump(process.stdout, tail)
        code = process.wait()
        if kept:
            kept.end()
        if relay:
            relay.end()
        if told_to_end.is_set():
            return STOPPED
        if relay:
            try:
                if code == 0 and order.objective:
                    relay.judge(reached(order.objective, output))
                if code == 0:
                    deliver(order, output)
            finally:
                relay.close()
    if code != 0:
        print(f"launcher: the program has failed: {ending(code)}", file=sys.stderr, flush=True)
        _tell(failure, "".join(tail) + f"({ending(code)})")
        return code if code > 0 else 128 - code
    return 0


def links(source: Path, needed: Sequence[str], folder: Path) -> Path:
    """Makes a folder that shows some files of another one, and copies none of them."""
    for path in needed:
        link = folder / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source / path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def deliver(order: Order, output: Path) -> None:
    """Copies the outputs that the program made into the lake, side by side, and then their sizes."""
    import obstore

    made: dict[str, dict[str, int]] = {}
    for name, uri in order.outputs.items():
        folder = output / name
        if not folder.is_dir():
            continue
        store = open_store(uri)
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        with ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(lambda item, store=store: obstore.put(store, item[0], item[1]), files.items()))
        made[name] = {key: path.stat().st_size for key, path in files.items()}
    where, _, last = order.receipt.rpartition("/")
    obstore.put(open_store(where), last, json.dumps(made).encode())


def order_at(uri: str) -> Order:
    """Reads what a job is to do."""
    import obstore

    where, _, name = uri.rpartition("/")
    return Order(**json.loads(bytes(obstore.get(open_store(where), name).bytes())))


def inputs_of(order: Order, together: Path | None, apart: Mapping[str, str]) -> dict[str, Path]:
    """Where each of the program's inputs lies.

    Args:
        order: What to do.
        together: The folder that they lie in, if the platform puts them into one.
        apart: The folders of those that it does not, by name.

    Raises:
        InputError: The platform gave no folder for one.
    """
    found = {
        name: Path(apart[name]) if name in apart else together and together / path
        for name, path in order.inputs.items()
    }
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise InputError(f"no folder was given for the input {missing[0]}: --inputs or --input {missing[0]}=FOLDER")
    return {name: path for name, path in found.items() if path is not None}


def _names(store: Any) -> list[str]:
    import obstore

    return [item["path"] for batch in obstore.list(store) for item in batch]


def _is_epoch(report: Any) -> bool:
    return isinstance(report, Mapping) and report.get("kind") == "epoch" and "metrics" in report


def _pump(stream: IO[str] | None, tail: deque[str]) -> None:
    for line in stream or ():
        tail.append(line)
        sys.stdout.write(line)
        sys.stdout.flush()


def _tell(failure: Path | None, why: str) -> None:
    if failure is not None:
        failure.parent.mkdir(parents=True, exist_ok=True)
        failure.write_text(why[-FAILURE_CHARS:])


def main(words: Sequence[str] | None = None) -> int:
    """Reads the command line, runs the job, and returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, kind, what in (
        ("order", str, "the URI of the document that says what to do"),
        ("inputs", Path, "folder of the inputs, where they lie in one"),
        ("checkpoint", Path, "folder that outlives an interruption"),
        ("failure", Path, "file that the platform shows as the reason of a failure"),
        ("values", Path, "JSON file of the values that the platform's tuner gives to a trial"),
        ("hosts", Path, "JSON file that says which instances the job has, and which this is; by default it has one"),
        ("port", int, f"where the first instance listens for the others; by default {PORT}"),
    ):
        given = os.environ.get(SETTING + option.upper())
        needed = given is None and option == "order"
        parser.add_argument(f"--{option}", type=kind, default=given, required=needed, help=what)
    parser.add_argument("--input", action="append", default=[], metavar="NAME=FOLDER", help="where one input lies")
    parser.add_argument("--value", action="append", default=[], metavar="NAME=TEXT", help="a value of a trial")
    parser.add_argument(
        "--ranks", action="store_true", help="which instance this is stands where torch's launcher says"
    )
    args = parser.parse_args(words)
    apart = dict(given.split("=", 1) for given in args.input)
    try:
        order, checkpoint = order_at(args.order), args.checkpoint
        if order.tuned:
            name = os.environ[order.tuned["named_by"]]
            given = json.loads(args.values.read_bytes()) if args.values else {}
            order = order.of_trial(name, {**given, **dict(value.split("=", 1) for value in args.value)})
            checkpoint = checkpoint / name if checkpoint else None
        world = World.among_hosts(args.hosts.read_bytes(), args.port or PORT) if args.hosts else World()
        world = World.among_ranks(os.environ, args.port) if args.ranks else world
        return run(order, inputs_of(order, args.inputs, apart), checkpoint, args.failure, world)
    except Exception as error:
        _tell(args.failure, f"{type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    sys.exit(main())

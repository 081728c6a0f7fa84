"""What a managed job's container starts: it runs one program and stands between it and the platform's lake.

The program sees folders, a file of parameters and local messages, as it does on a laptop. Its messages are copied into
the lake while it runs, so that whoever asks for the job, now or after a crash, reads all of them; its outputs are
copied when it has succeeded, each file once, to folders that no reader knows yet. What it is to do is a small document
in the lake, because a job's own environment and arguments are short. It works the same for every store that obstore
knows, so no cloud's library is needed in the image.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from detection_assets.domain.problems import ending
from detection_assets.object_store import open_store

PARALLEL = 32
"""Files on their way to the lake at once."""
TAIL = 40
"""The last lines of a program that are told when it fails."""
FAILURE_CHARS = 1024
"""What a platform shows of the reason of a failure."""
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
    """

    module: str
    inputs: Mapping[str, str]
    params: Mapping[str, Any]
    outputs: Mapping[str, str]
    context: Mapping[str, Any]
    messages: str
    receipt: str
    relay_s: float


class Relay:
    """Copies the messages of a program into numbered parts in the lake, while it runs.

    A job that the platform interrupted and started again goes on with the next number. That its program has closed
    its messages is told only at the very end: a reader stops listening then.
    """

    def __init__(self, source: Path, target: str, relay_s: float) -> None:
        """Takes the file that the program appends to, the URI of the parts, and the seconds between two of them."""
        self._source, self._store, self._relay_s, self._read = source, open_store(target), relay_s, 0
        numbers = [int(Path(path).stem) for path in _names(self._store) if Path(path).stem.isdecimal()]
        self._next = max(numbers, default=0) + 1
        self._closing: list[str] = []
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
        import obstore

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
            obstore.put(self._store, f"{self._next}.json", "\n".join(told).encode())
            self._next += 1
        self._read += len(fresh)
        self._closing += closing

    def end(self, *, closed: bool) -> None:
        """Copies what is left, and that the program has closed its messages if it is not to be started again."""
        import obstore

        self._ended.set()
        self._thread.join()
        self.copy()
        if closed and self._closing:
            obstore.put(self._store, f"{self._next}.json", self._closing[-1].encode())


def run(order: Order, inputs: Path, checkpoint: Path | None, failure: Path | None) -> int:
    """Runs the program, relays its messages and delivers its outputs.

    Args:
        order: What to do.
        inputs: Folder of the inputs.
        checkpoint: Folder that outlives an interruption, if the platform keeps one.
        failure: File that the platform shows as the reason of a failure.

    Returns:
        The exit status: the program's, or 143 if the job was told to end.
    """
    from dagster_pipes import encode_param

    with tempfile.TemporaryDirectory(prefix="job-") as scratch:
        folder = Path(scratch)
        output, messages = folder / "output", folder / "messages"
        messages.touch()
        (folder / "context.json").write_text(json.dumps(order.context))
        (folder / "params.json").write_text(json.dumps(order.params))
        command = [sys.executable, "-m", order.module]
        for name, path in order.inputs.items():
            command += ["--input", f"{name}={inputs / path}"]
        command += ["--output", str(output), "--params", str(folder / "params.json")]
        command += ["--checkpoint", str(checkpoint)] if checkpoint else []
        env = {
            **os.environ,
            "DAGSTER_PIPES_CONTEXT": encode_param({"path": str(folder / "context.json")}),
            "DAGSTER_PIPES_MESSAGES": encode_param({"path": str(messages)}),
            "DETECTION_PARENT_PID": str(os.getpid()),
            "PYTHONUNBUFFERED": "1",
        }
        relay = Relay(messages, order.messages, order.relay_s)
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
        if told_to_end.is_set():
            relay.end(closed=False)
            return STOPPED
        if code == 0:
            deliver(order, output)
        relay.end(closed=True)
    if code != 0:
        _tell(failure, "".join(tail) + f"({ending(code)})")
        return code if code > 0 else 128 - code
    return 0


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


def _names(store: Any) -> list[str]:
    import obstore

    return [item["path"] for batch in obstore.list(store) for item in batch]


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
    parser.add_argument("--order", required=True, metavar="URI", help="the document that says what to do")
    parser.add_argument("--inputs", required=True, type=Path, help="folder of the inputs")
    parser.add_argument("--checkpoint", type=Path, help="folder that outlives an interruption")
    parser.add_argument("--failure", type=Path, help="file that the platform shows as the reason of a failure")
    args = parser.parse_args(words)
    try:
        return run(order_at(args.order), args.inputs, args.checkpoint, args.failure)
    except Exception as error:
        _tell(args.failure, f"{type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    sys.exit(main())

"""Many callers at once: what the server keeps of the model's own rate, and how long those wait whom it lets in.

Run as a program it is the callers: `python -m benchmarks.serving_load PORT FILE SECONDS CLIENTS RATE TYPE` asks from so
many connections, at a fixed rate if there is one, and prints what they saw as JSON.
"""

from __future__ import annotations

import asyncio
import collections
import json
import math
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CLIENTS = 16
ROUNDS = 5
SECONDS = 4.0
TIMES = 10
CAPTURED = 60
KEY = "benchmark"


def throughput(model: Path, picture: bytes, *options: str) -> tuple[float, float]:
    """Milliseconds a picture at `CLIENTS` well-behaved callers, and of the model alone (network and suppression).

    By turns, the medians of `ROUNDS`: on a shared machine the rate of a second says little about the next.
    """
    from benchmarks.serving import serving
    from detection_assets.serving.images import decode
    from detection_assets.serving.predictor import Predictor

    predictor = Predictor(model)
    predictor.warm_up()
    prepared = predictor.prepare(decode(picture))
    ours: list[float] = []
    anchors: list[float] = []
    with serving(model, None, *options) as (port, _):
        for _ in range(ROUNDS):
            began, done = time.perf_counter(), 0
            while time.perf_counter() - began < SECONDS / 2:
                predictor.run(prepared)
                done += 1
            anchors.append((time.perf_counter() - began) / done * 1000)
            seen = ask(port, picture, seconds=SECONDS, clients=CLIENTS)
            ours.append(seen["seconds"] / len(seen["times"]) * 1000)
    return statistics.median(ours), statistics.median(anchors)


def overload(model: Path, picture: bytes, *options: str, seconds: float = SECONDS * 3) -> tuple[float, float]:
    """99th percentile in milliseconds of the answers with boxes at `TIMES` the capacity, and of one caller alone.

    Raises:
        RuntimeError: Something else than boxes or a refusal was answered.
    """
    from benchmarks.serving import serving

    with serving(model, None, *options) as (port, _):
        alone = ask(port, picture, seconds=seconds / 2, clients=1)
        rate = TIMES * len(alone["times"]) / alone["seconds"]
        crowd = ask(port, picture, seconds=seconds, clients=64, rate=rate)
        alone["times"] += ask(port, picture, seconds=seconds / 2, clients=1)["times"]
    others = set(crowd["codes"]) - {"200", "429", "503"}
    if others:
        raise RuntimeError(f"under load the endpoint answered {', '.join(sorted(others))}: {crowd['codes']}")
    return _p99(crowd["times"]), _p99(alone["times"])


def capture(model: Path, picture: bytes) -> tuple[float, float]:
    """Milliseconds a request with one in twenty captured, picture and all, and with nothing captured.

    One caller, in blocks by turns; a block ends when all that it captured is written.
    """
    from benchmarks.serving import serving

    with tempfile.TemporaryDirectory() as folder:
        on = {"capture": {"folder": folder, "rate": 0.05, "below": 0.4, "images": True, "keep_days": 1}}
        times: dict[bool, list[float]] = {True: [], False: []}
        with serving(model, on) as (port_on, _), serving(model) as (port_off, _):
            for turn in range(ROUNDS * 2):
                for kept in (True, False) if turn % 2 else (False, True):
                    port = port_on if kept else port_off
                    seen = ask(port, picture, seconds=SECONDS / 2, clients=1)
                    times[kept] += seen["times"]
        if not list(Path(folder).rglob("*.jsonl")):
            raise RuntimeError("nothing was captured")
    return statistics.fmean(times[True]), statistics.fmean(times[False])


def _p99(times: list[float]) -> float:
    return sorted(times)[math.ceil(0.99 * len(times)) - 1]


def ask(
    port: int, body: bytes, *, seconds: float, clients: int, rate: float = 0.0, kind: str = "image/jpeg"
) -> dict[str, Any]:
    """Lets callers ask in a process of their own.

    Args:
        port: The server's.
        body: What they send.
        seconds: How long.
        clients: Connections.
        rate: Requests a second over all of them, whatever the server does; if 0 each asks again once it is answered,
            and rests as long as Retry-After says when it is refused.
        kind: The body's content type.

    Returns:
        `codes`: how often each status was answered; `times`: milliseconds of each answer with boxes; `seconds`: from
        the first request to the last answer.
    """
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        command = [sys.executable, "-m", "benchmarks.serving_load"]
        arguments = [str(port), file.name, str(seconds), str(clients), str(rate), kind]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def _message(body: bytes, kind: str) -> bytes:
    head = f"POST /score HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {KEY}\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Caller:
    """One connection that is kept alive. What it costs is next to nothing, so that what is timed is the server."""

    def __init__(self, port: int, body: bytes, kind: str = "image/jpeg") -> None:
        self.request = _message(body, kind)
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __call__(self) -> None:
        """Asks once.

        Raises:
            RuntimeError: It was not answered with boxes.
        """
        self.connection.sendall(self.request)
        answer = b""
        while (ends := answer.find(b"\r\n\r\n")) < 0:
            answer += self._more()
        length = re.search(rb"content-length: *(\d+)", answer[:ends], re.IGNORECASE)
        whole = ends + 4 + int(length[1] if length else 0)
        while len(answer) < whole:
            answer += self._more()
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"the endpoint answered {answer.decode(errors='replace')}")

    def _more(self) -> bytes:
        if not (part := self.connection.recv(1 << 16)):
            raise RuntimeError("the endpoint hung up")
        return part


class Callers:
    """Connections that are kept alive, in one event loop."""

    def __init__(self, port: int, body: bytes, kind: str) -> None:
        self.port, self.request = port, _message(body, kind)
        self.codes: collections.Counter[str] = collections.Counter()
        self.times: list[float] = []

    async def connect(self) -> list[Any]:
        """Opens a connection: its reader and its writer."""
        return list(await asyncio.open_connection("127.0.0.1", self.port))

    async def one(self, connection: list[Any], asked: float | None = None) -> float:
        """Asks once, counts the answer, and returns the seconds that it asks to wait."""
        reader, writer = connection
        began = time.perf_counter() if asked is None else asked
        writer.write(self.request)
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode().lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        await reader.readexactly(int(headers["content-length"]))
        code = lines[0].split()[1]
        self.codes[code] += 1
        if code == "200":
            self.times.append((time.perf_counter() - began) * 1000)
        if headers.get("connection") == "close":
            writer.close()
            connection[:] = await self.connect()
        return float(headers.get("retry-after", 0))

    async def closed(self, seconds: float, clients: int) -> None:
        """Each caller asks again once it is answered."""

        async def caller() -> None:
            connection = await self.connect()
            while time.perf_counter() < ends:
                wait = await self.one(connection)
                await asyncio.sleep(min(wait, max(0.0, ends - time.perf_counter())))
            connection[1].close()

        ends = time.perf_counter() + seconds
        await asyncio.gather(*(caller() for _ in range(clients)))

    async def paced(self, seconds: float, clients: int, rate: float) -> None:
        """Callers ask when it is time, whatever the server does; the clock of a request starts when it was due."""
        free: asyncio.Queue[Any] = asyncio.Queue()
        for _ in range(clients):
            free.put_nowait(await self.connect())

        async def caller(connection: list[Any]) -> None:
            await self.one(connection)
            free.put_nowait(connection)

        began, asked = time.perf_counter(), 0
        tasks: set[asyncio.Task[None]] = set()
        while time.perf_counter() - began < seconds:
            due = began + asked / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            task = asyncio.create_task(caller(await free.get()))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            asked += 1
        await asyncio.gather(*tasks)


def main(port: int, body: Path, seconds: float, clients: int, rate: float, kind: str) -> None:
    """Asks, and prints what was seen."""
    callers, began = Callers(port, body.read_bytes(), kind), time.perf_counter()
    asyncio.run(callers.paced(seconds, clients, rate) if rate else callers.closed(seconds, clients))
    took = time.perf_counter() - began  # longer than asked for: who waits at the end is still answered, and counted
    print(json.dumps({"codes": callers.codes, "times": callers.times, "seconds": took}))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]), sys.argv[6])

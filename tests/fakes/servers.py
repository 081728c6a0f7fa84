"""Servers of stand-ins: each a process of the real server, asked as a cloud's front asks it."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from project import free_port

ROOT = Path(__file__).parents[2]


@dataclass
class Server:
    """One server."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path = Path(os.devnull)
    ready_path: str = "/ping"

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, timeout_s: float = 60
    ) -> Any:
        there = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            there.request(method, path, body, dict(headers or {}))
            answer = there.getresponse()
            return answer.status, answer.read(), answer.getheader("Content-Type", "")
        finally:
            there.close()

    @property
    def ready(self) -> bool:
        with suppress(OSError, http.client.HTTPException):
            return self.ask("GET", self.ready_path)[0] == 200
        return False

    @property
    def hopeless(self) -> bool:
        """Whether it will never be ready, as it says itself; a cloud does not ask, and waits to the end."""
        with suppress(OSError, http.client.HTTPException, ValueError, KeyError):
            slots = json.loads(self.ask("GET", "/status")[1])["slots"].values()
            return any(slot["state"] == "failed" for slot in slots)
        return False


def start(model: Path | None, log: Path, env: Mapping[str, str]) -> Server:
    """Starts our server as `serve` does in the image.

    Args:
        model: The folder of its model; None where the environment says it.
        log: The file that it prints into.
        env: Its environment.
    """
    port = free_port()
    where = [] if model is None else [str(model)]
    words = ["-m", "detection_assets.serving.app", "--model", *where, "--no-key", "--port", str(port)]
    return run(words, port, log, env)


def run(words: Sequence[str], port: int, log: Path, env: Mapping[str, str]) -> Server:
    """Starts a server that a Python program is."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, env=dict(env), stdout=out, stderr=subprocess.STDOUT
        )
    return Server(process, port, log)


def end(those: Sequence[Server]) -> None:
    """Ends servers, which answer what they have begun with."""
    for one in those:
        one.process.terminate()
    for one in those:
        with suppress(subprocess.TimeoutExpired):
            one.process.wait(timeout=20)
        one.process.kill()
        one.process.wait()

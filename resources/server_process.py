"""The server of one endpoint as a process of this machine: its key, its port, its life, and requests to it."""

import fcntl
import hashlib
import json
import os
import secrets
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resources.endpoints.base import EndpointError

START_S = 60.0
"""Seconds that the server has to start: on a busy machine its imports alone take some."""
LOCK_S = 15.0
"""Seconds that somebody else may be changing the endpoint's state before we give up."""
BUSY_S = 20.0
"""Seconds that a server that runs may not answer before it is started again: under load it answers late."""
PORTS = 5
"""Ports to try when somebody else was faster to bind the one that was free."""


@dataclass(frozen=True)
class Server:
    """A server process that follows a state file.

    Attributes:
        name: The detector's.
        folder: Where its state file, key, port, process id and log lie.
        host: Address to bind.
        port: Port to bind, or 0 for one that is chosen once and kept.
    """

    name: str
    folder: Path
    host: str
    port: int

    @property
    def state_file(self) -> Path:
        """What it follows."""
        return self.folder / "state.json"

    @property
    def url(self) -> str:
        """Where the endpoint answers."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{host}:{self.chosen_port()}"

    @property
    def key_file(self) -> Path:
        """The file with the API key; made on first use, readable by its owner alone."""
        path = self.folder / "key"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                return path
            with os.fdopen(handle, "w") as out:
                out.write(os.environ.get("DETECTION_ENDPOINT_KEY") or secrets.token_urlsafe(24))
        return path

    def chosen_port(self) -> int:
        """The port: the one that was set, or one that was free when it was first asked for."""
        if self.port:
            return self.port
        path = self.folder / "port"
        if path.exists():
            return int(path.read_text())
        # The same detector tends to get the same port on every machine, so that bookmarks survive.
        first = 8100 + int(hashlib.sha256(self.name.encode()).hexdigest(), 16) % 800
        for port in range(first, first + 100):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((self.host, port))
                except OSError:
                    continue
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text(str(port))
            return port
        raise EndpointError(f"{self.name}: no free port from {first} to {first + 99}; set endpoint.port")

    @contextmanager
    def locked(self, name: str, patience_s: float) -> Iterator[None]:
        """Keeps others out of a block.

        Args:
            name: The file that stands for it.
            patience_s: Seconds that somebody else may be in it.

        Raises:
            EndpointError: He is for longer.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / name
        ends = time.monotonic() + patience_s
        # The file is never removed: a lock on a removed file keeps nobody out. The kernel frees it if we are killed.
        with path.open("a") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > ends:
                        raise EndpointError(
                            f"{self.name}: another process has been changing the endpoint for {patience_s:.0f} s "
                            f"({path} is locked); try again, or end that process"
                        ) from None
                    time.sleep(0.02)
            yield

    # The process -----------------------------------------------------------------------------------------------------

    def pid(self) -> int | None:
        """The server's process id, if it runs."""
        try:
            pid = int((self.folder / "pid").read_text())
            os.kill(pid, 0)
        except (FileNotFoundError, ValueError, ProcessLookupError):
            return None
        try:
            # A recycled process id must not be taken for our server.
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return pid
        return pid if b"detection_assets.serving" in command and str(self.folder).encode() in command else None

    def command(self) -> list[str]:
        """The command line of the server."""
        return [
            *(sys.executable, "-m", "detection_assets.serving.app"),
            *("--state", str(self.state_file), "--key-file", str(self.key_file)),
            *("--host", self.host, "--port", str(self.chosen_port())),
        ]

    def ensure_running(self) -> None:
        """Starts the server unless it runs.

        Raises:
            EndpointError: If it does not come up; the message holds the end of its log.
        """
        if self.pid() is not None and self.healthy():
            return
        # Two who start it at once would leave a server that nobody knows.
        with self.locked("start.lock", START_S + LOCK_S):
            self._start()

    def _start(self) -> None:
        ends = time.monotonic() + BUSY_S
        while self.pid() is not None and time.monotonic() < ends:
            if self.healthy():
                return
            time.sleep(0.1)
        self.stop()
        log, tail = self.folder / "server.log", ""
        for _ in range(PORTS):
            began = log.stat().st_size if log.exists() else 0
            pid = self._spawn(log)
            ends = time.monotonic() + START_S
            while self._runs(pid) and time.monotonic() < ends:
                if self.healthy():
                    return
                time.sleep(0.1)
            with log.open("rb") as said:
                said.seek(began)
                tail = said.read()[-2000:].decode(errors="replace")
            if self.port or "address already in use" not in tail:
                break
            (self.folder / "port").unlink(missing_ok=True)  # somebody else was faster, or took it while we were down
        raise EndpointError(f"{self.name}: the server at {self.url} did not start. End of {log}:\n{tail}")

    def _spawn(self, log: Path) -> int:
        """Starts the server as a process that outlives us: it is spawned, not opened, for nobody here waits for it.

        It has a session of its own, because Dagster ends the process group of a run that is cancelled, and notes its
        own process id: were we killed before we could, nobody would know the server.
        """
        command = ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.folder / "pid"), *self.command()]
        return os.posix_spawn(
            command[0],
            command,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )

    def stop(self) -> bool:
        """Ends the server, letting requests in flight finish; returns whether it ran."""
        pid = self.pid()
        if pid is None:
            return False
        for number, patience in ((signal.SIGTERM, 15.0), (signal.SIGKILL, 5.0)):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                break
            ends = time.monotonic() + patience
            while time.monotonic() < ends and self._runs(pid):
                time.sleep(0.05)
            if not self._runs(pid):
                break
        (self.folder / "pid").unlink(missing_ok=True)
        return True

    @staticmethod
    def _runs(pid: int) -> bool:
        try:
            if os.waitpid(pid, os.WNOHANG)[0] == pid:
                return False
        except ChildProcessError:
            pass  # started by an earlier run
        try:
            os.kill(pid, 0)
            # Where nobody waits for orphans, one that has ended stays in the list.
            return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
        except ProcessLookupError:
            return False
        except OSError:
            return True  # a system that has no such list

    # Requests --------------------------------------------------------------------------------------------------------

    def healthy(self) -> bool:
        """Whether our server answers; another one on the same port does not know the key, or follows another file."""
        try:
            return self.call("GET", "/status", timeout_s=2).get("state_file") == str(self.state_file)
        except EndpointError:
            return False

    def call(
        self, method: str, path: str, body: bytes | None = None, slot: str | None = None, timeout_s: float = 30
    ) -> dict[str, Any]:
        """Asks the server, with its key.

        Args:
            method: Of HTTP.
            path: What is asked for.
            body: A picture, or nothing.
            slot: Who is to answer; None as for any client.
            timeout_s: Seconds that it has.

        Raises:
            EndpointError: It does not answer, or refuses.
        """
        headers = {"X-API-Key": self.key_file.read_text().strip(), "Content-Type": "application/octet-stream"}
        if slot:
            headers["X-Detection-Slot"] = slot
        request = urllib.request.Request(self.url + path, data=body, headers=headers, method=method)
        # A proxy of the environment has no business between us and our own server.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=timeout_s) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            detail = error.read().decode(errors="replace")[:500]
            raise EndpointError(f"{self.url}{path} answered {error.code}: {detail}") from error
        except (OSError, ValueError) as error:
            raise EndpointError(f"{self.url}{path} did not answer: {error}") from error

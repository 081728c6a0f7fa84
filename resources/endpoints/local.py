"""An endpoint as a server process of this machine, which outlives the run that started it.

The process watches a small state file that says which slots hold which model and who gets the traffic; whoever changes
the endpoint replaces that file.
"""

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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

import dagster as dg

from detection_assets.domain.rollout import Health
from resources.endpoints.base import EndpointError, Endpoints, EndpointStatus, Slot
from resources.storage import Storage

START_S = 60.0
"""Seconds that the server has to start: on a busy machine its imports alone take some."""
LOCK_S = 15.0
"""Seconds that somebody else may be changing the endpoint's state before we give up."""
BUSY_S = 20.0
"""Seconds that a server that runs may not answer before it is started again: under load it answers late."""
PORTS = 5
"""Ports to try when somebody else was faster to bind the one that was free."""
TAKEN_S = 10.0
"""Seconds that the server has to follow the state file."""
KEPT = ("confidence", "iou", "max_det")


class LocalEndpoints(Endpoints):
    """A server process with two slots.

    Attributes:
        folder: Where the endpoint keeps its state, its key, its log and its own copies of the models.
        host: Address to bind; loopback unless told otherwise.
        port: Port to bind, or 0 for one that is chosen once and kept.
        capture: What the server keeps of the requests: `folder` (absolute), `rate`, `below`, `images`, `keep_days`;
            None: nothing.
    """

    storage: dg.ResourceDependency[Storage]
    folder: str
    host: str = "127.0.0.1"
    port: int = 0
    capture: Optional[dict[str, Any]] = None  # noqa: UP045 - Dagster reads the annotation

    @property
    def home(self) -> Path:
        """The endpoint's own folder."""
        return Path(self.folder).absolute() / self.detector

    @property
    def key_file(self) -> Path:
        """The file with the API key; made on first use, readable by its owner alone."""
        path = self.home / "key"
        if not path.exists():
            self.home.mkdir(parents=True, exist_ok=True)
            try:
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                return path
            with os.fdopen(handle, "w") as out:
                out.write(os.environ.get("DETECTION_ENDPOINT_KEY") or secrets.token_urlsafe(24))
        return path

    @property
    def url(self) -> str:
        """Where the endpoint answers."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{host}:{self.chosen_port()}"

    def how_to_ask(self) -> Sequence[str]:
        """A page, and a command that can be pasted."""
        key = self.key_file.read_text().strip()
        return [
            f"a page to drop a picture on: {self.url}/#key={key}",
            f'curl -H "X-API-Key: $(cat {self.key_file})" -H "Content-Type: image/jpeg" --data-binary @a.jpg '
            f"{self.url}/score",
        ]

    def chosen_port(self) -> int:
        """The port: the one that was set, or one that was free when it was first asked for."""
        if self.port:
            return self.port
        path = self.home / "port"
        if path.exists():
            return int(path.read_text())
        # The same detector tends to get the same port on every machine, so that bookmarks survive.
        first = 8100 + int(hashlib.sha256(self.detector.encode()).hexdigest(), 16) % 800
        for port in range(first, first + 100):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((self.host, port))
                except OSError:
                    continue
            self.home.mkdir(parents=True, exist_ok=True)
            path.write_text(str(port))
            return port
        raise EndpointError(f"{self.detector}: no free port from {first} to {first + 99}; set endpoint.port")

    # The state file --------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What the endpoint was told to be."""
        try:
            return json.loads((self.home / "state.json").read_text())
        except FileNotFoundError:
            return {"detector": self.detector, "slots": {}, "traffic": {}}

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        """The state, to be changed; what it is at the end is written, unless an error comes out.

        Raises:
            EndpointError: If somebody else holds it for too long.
        """
        with self._locked("state.lock", LOCK_S):
            state = self.state()
            before = json.dumps(state)
            yield state
            if self.capture is not None:
                state["capture"] = dict(self.capture)
            else:
                state.pop("capture", None)
            if json.dumps(state) != before:
                scratch = self.home / f"state.{os.getpid()}.tmp"
                scratch.write_text(json.dumps(state, indent=2))
                os.replace(scratch, self.home / "state.json")

    @contextmanager
    def _locked(self, name: str, patience_s: float) -> Iterator[None]:
        self.home.mkdir(parents=True, exist_ok=True)
        path = self.home / name
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
                            f"{self.detector}: another process has been changing the endpoint for {patience_s:.0f} s "
                            f"({path} is locked); try again, or end that process"
                        ) from None
                    time.sleep(0.02)
            yield

    # The process -----------------------------------------------------------------------------------------------------

    def pid(self) -> int | None:
        """The server's process id, if it runs."""
        try:
            pid = int((self.home / "pid").read_text())
            os.kill(pid, 0)
        except (FileNotFoundError, ValueError, ProcessLookupError):
            return None
        try:
            # A recycled process id must not be taken for our server.
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return pid
        return pid if b"detection_assets.serving" in command and str(self.home).encode() in command else None

    def command(self) -> list[str]:
        """The command line of the server."""
        return [
            *(sys.executable, "-m", "detection_assets.serving.app"),
            *("--state", str(self.home / "state.json"), "--key-file", str(self.key_file)),
            *("--host", self.host, "--port", str(self.chosen_port())),
        ]

    def ensure_running(self) -> None:
        """Starts the server unless it runs.

        Raises:
            EndpointError: If it does not come up; the message holds the end of its log.
        """
        if self.pid() is not None and self._healthy():
            return
        # Two who start it at once would leave a server that nobody knows.
        with self._locked("start.lock", START_S + LOCK_S):
            self._start()

    def _start(self) -> None:
        ends = time.monotonic() + BUSY_S
        while self.pid() is not None and time.monotonic() < ends:
            if self._healthy():
                return
            time.sleep(0.1)
        self.stop()
        with self._changing():
            pass  # writes one if there is none
        log, tail = self.home / "server.log", ""
        for _ in range(PORTS):
            began = log.stat().st_size if log.exists() else 0
            pid = self._spawn(log)
            ends = time.monotonic() + START_S
            while self._runs(pid) and time.monotonic() < ends:
                if self._healthy():
                    return
                time.sleep(0.1)
            with log.open("rb") as said:
                said.seek(began)
                tail = said.read()[-2000:].decode(errors="replace")
            if self.port or "address already in use" not in tail:
                break
            (self.home / "port").unlink(missing_ok=True)  # somebody else was faster, or took it while we were down
        raise EndpointError(f"{self.detector}: the server at {self.url} did not start. End of {log}:\n{tail}")

    def _spawn(self, log: Path) -> int:
        """Starts the server as a process that outlives us: it is spawned, not opened, for nobody here waits for it.

        It has a session of its own, because Dagster ends the process group of a run that is cancelled, and notes its
        own process id: were we killed before we could, nobody would know the server.
        """
        command = ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.home / "pid"), *self.command()]
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
        (self.home / "pid").unlink(missing_ok=True)
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
        except ProcessLookupError:
            return False
        return True

    # Requests --------------------------------------------------------------------------------------------------------

    def _healthy(self) -> bool:
        """Whether our server answers; another one on the same port does not know the key, or follows another file."""
        try:
            return self._call("GET", "/status", timeout_s=2).get("state_file") == str(self.home / "state.json")
        except EndpointError:
            return False

    def _call(
        self, method: str, path: str, body: bytes | None = None, slot: str | None = None, timeout_s: float = 30
    ) -> dict[str, Any]:
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

    # What every endpoint does ----------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Starts the server if there is something to serve, and lets it know today's settings of capture."""
        state = self.state()
        if not state["slots"]:
            return
        with self._changing():
            pass
        self.ensure_running()

    def status(self) -> EndpointStatus:
        """The endpoint as the server says; as the state file says where no server runs."""
        state = self.state()
        routed_at = state.get("routed_at")
        if not state["slots"]:
            return EndpointStatus(self.url, self.pid() is not None and self._healthy(), [], routed_at)
        told: dict[str, Any] = {}
        alive = False
        if self.pid() is not None:
            try:
                told = self._call("GET", "/status", timeout_s=5)["slots"]
                alive = True
            except EndpointError:
                alive = False
        slots = []
        for name, wanted in state["slots"].items():
            seen = told.get(name, {})
            same = all(seen.get(key) == wanted[key] for key in ("sha256", "version", *KEPT) if key in wanted)
            slots.append(
                Slot(
                    name=name,
                    version=wanted["version"],
                    sha256=wanted["sha256"],
                    traffic=int(state["traffic"].get(name, 0)),
                    state=seen.get("state", "loading") if same else "loading" if alive else "stopped",
                    error=seen.get("error") or "",
                )
            )
        return EndpointStatus(self.url, alive, slots, routed_at)

    def health(self, slot: str) -> Health | None:
        """The server's counters of a slot."""
        wanted = self.state()["slots"].get(slot)
        if wanted is None or self.pid() is None:
            return None
        told = (self._call("GET", "/status", timeout_s=5).get("statistics") or {}).get(slot)
        # Just after a change the counters may still be of the model before.
        if told is None or str(told.get("version")) != wanted["version"]:
            return None
        try:
            return Health.of(told)
        except ValueError as error:
            raise EndpointError(f"{self.url}/status: {error}; the server is of another version, restart it") from error

    def deploy(self, slot: str, onnx: str, sha256: str, version: str, settings: Mapping[str, Any]) -> None:
        """Copies the model beside the server, so that it needs the lake no more, and tells the slot to load it."""
        model = self.home / "models" / f"{sha256[:16]}.onnx"
        if not model.exists():
            model.parent.mkdir(parents=True, exist_ok=True)
            scratch = model.with_suffix(f".{os.getpid()}.tmp")
            scratch.write_bytes(self.storage.get(onnx))
            os.replace(scratch, model)
        with self._changing() as state:
            if state["traffic"].get(slot):
                raise EndpointError(f"{self.detector}: slot {slot} has traffic; a new version goes to an idle slot")
            before = state["slots"].get(slot)
            state["slots"][slot] = {"model": str(model), "sha256": sha256, "version": version, **settings}
            self._forget(before, state)
        self.ensure_running()

    def invoke(self, slot: str | None, image: bytes) -> Mapping[str, Any]:
        """Sends one picture to a slot, or as any client does."""
        return self._call("POST", "/score", image, slot)

    def route(self, traffic: Mapping[str, int]) -> None:
        """Sets the slots' shares, and waits until the server has taken them; one that does not run takes them later."""
        if sum(traffic.values()) != 100 or any(share < 0 for share in traffic.values()):
            raise EndpointError(f"{self.detector}: shares {dict(traffic)} do not sum to 100")
        with self._changing() as state:
            unknown = set(traffic) - set(state["slots"])
            if unknown:
                raise EndpointError(f"{self.detector}: no slot {', '.join(sorted(unknown))}")
            if state["traffic"] != dict(traffic):
                state["traffic"] = dict(traffic)
                state["routed_at"] = time.time()
        ends = time.monotonic() + TAKEN_S
        while self.pid() is not None:
            told = self._call("GET", "/status")["traffic"]
            if all(told.get(name, 0) == share for name, share in traffic.items()):
                return
            if self.state()["traffic"] != dict(traffic):
                raise EndpointError(f"{self.detector}: somebody else set the traffic at the same time")
            if time.monotonic() > ends:
                raise EndpointError(
                    f"{self.detector}: the server did not take the traffic {dict(traffic)} within {TAKEN_S:.0f} s; "
                    f"see {self.home / 'server.log'}"
                )
            time.sleep(0.05)

    def mirror(self, slot: str | None, share: float) -> None:
        """Writes into the state which slot gets copies of the others' requests."""
        if not 0 <= share <= 1:
            raise EndpointError(f"{self.detector}: a share of {share} of the requests cannot be mirrored; 0 to 1 can")
        with self._changing() as state:
            if slot is None:
                state.pop("shadow", None)
            elif slot not in state["slots"]:
                raise EndpointError(f"{self.detector}: no slot {slot} to mirror to")
            else:
                state["shadow"] = {"slot": slot, "share": share}

    def remove(self, slot: str) -> None:
        """Removes a slot and its copy of the model."""
        with self._changing() as state:
            if state["traffic"].get(slot):
                raise EndpointError(f"{self.detector}: slot {slot} has traffic; route it away first")
            gone = state["slots"].pop(slot, None)
            state["traffic"].pop(slot, None)
            if state.get("shadow", {}).get("slot") == slot:
                del state["shadow"]
            self._forget(gone, state)

    @staticmethod
    def _forget(gone: Mapping[str, Any] | None, state: Mapping[str, Any]) -> None:
        """Deletes the copy of a model that no slot holds any more."""
        if gone and gone["model"] not in {item["model"] for item in state["slots"].values()}:
            Path(gone["model"]).unlink(missing_ok=True)

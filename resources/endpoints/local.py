"""An endpoint as a server process of this machine, which outlives the run that started it.

The process watches a small state file that says which slots hold which model and who gets the traffic; whoever changes
the endpoint replaces that file.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

import dagster as dg

from detection_assets.domain.rollout import Health
from resources.endpoints.base import EndpointError, Endpoints, EndpointStatus, Slot
from resources.server_process import LOCK_S, Server
from resources.storage import Storage

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
    def server(self) -> Server:
        """The process."""
        return Server(self.detector, self.home, self.host, self.port)

    @property
    def key_file(self) -> Path:
        """The file with the API key; made on first use, readable by its owner alone."""
        return self.server.key_file

    @property
    def url(self) -> str:
        """Where the endpoint answers."""
        return self.server.url

    def how_to_ask(self) -> Sequence[str]:
        """A page, and a command that can be pasted."""
        key = self.key_file.read_text().strip()
        return [
            f"a page to drop a picture on: {self.url}/#key={key}",
            f'curl -H "X-API-Key: $(cat {self.key_file})" -H "Content-Type: image/jpeg" --data-binary @a.jpg '
            f"{self.url}/score",
        ]

    # The state file --------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What the endpoint was told to be."""
        try:
            return json.loads(self.server.state_file.read_text())
        except FileNotFoundError:
            return {"detector": self.detector, "slots": {}, "traffic": {}}

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        """The state, to be changed; what it is at the end is written, unless an error comes out.

        Raises:
            EndpointError: If somebody else holds it for too long.
        """
        with self.server.locked("state.lock", LOCK_S):
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
                os.replace(scratch, self.server.state_file)

    # What every endpoint does ----------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Starts the server if there is something to serve, and lets it know today's settings of capture."""
        state = self.state()
        if not state["slots"]:
            return
        with self._changing():
            pass
        self.server.ensure_running()

    def status(self) -> EndpointStatus:
        """The endpoint as the server says; as the state file says where no server runs."""
        state = self.state()
        routed_at = state.get("routed_at")
        if not state["slots"]:
            return EndpointStatus(self.url, self.server.pid() is not None and self.server.healthy(), [], routed_at)
        told: dict[str, Any] = {}
        alive = False
        if self.server.pid() is not None:
            try:
                told = self.server.call("GET", "/status", timeout_s=5)["slots"]
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
        if wanted is None or self.server.pid() is None:
            return None
        told = (self.server.call("GET", "/status", timeout_s=5).get("statistics") or {}).get(slot)
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
        self.server.ensure_running()

    def stop(self) -> bool:
        """Ends the server, letting requests in flight finish; returns whether it ran."""
        return self.server.stop()

    def invoke(self, slot: str | None, image: bytes) -> Mapping[str, Any]:
        """Sends one picture to a slot, or as any client does."""
        return self.server.call("POST", "/score", image, slot)

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
        while self.server.pid() is not None:
            told = self.server.call("GET", "/status")["traffic"]
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

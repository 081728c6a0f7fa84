"""A real server in a process of its own, and models to put into it."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from project import free_port

KEY = "a-key-for-tests"
ROOT = Path(__file__).parents[2]


def spec(model: Path, version: str, /, **changes: object) -> dict[str, object]:
    """One slot of a state file."""
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    return {"model": str(model), "sha256": digest, "version": version, "confidence": 0.25, "iou": 0.7} | changes


def grey(level: int, width: int = 80, height: int = 60) -> bytes:
    """A JPEG of one grey level: the small detector of `bad_models` is as sure of its boxes as this is bright."""
    out = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), level, np.uint8)).save(out, "JPEG")
    return out.getvalue()


def poisoned(model: Path, out: Path) -> Path:
    """A copy of a model whose answers are not numbers."""
    import onnx
    from onnx import numpy_helper

    network = onnx.load(model)
    for tensor in network.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and list(tensor.dims) == [3]:  # the bias of a class branch
            tensor.CopyFrom(numpy_helper.from_array(np.full(3, np.nan, np.float32), tensor.name))
    onnx.save(network, out)
    return out


class Server:
    """An endpoint in a process of its own."""

    def __init__(self, folder: Path, *options: str, model: Path | str | None = None) -> None:
        """Starts it; it follows a state file in the folder, or serves one model; "" is where a cloud puts it."""
        self.state_file, self.log = folder / "state.json", folder / "log.jsonl"
        self.port = free_port()
        source = ["--state", str(self.state_file)] if model is None else ["--model", str(model)]
        command = [sys.executable, "-m", "detection_assets.serving.app", *source]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port), *options],
                stderr=log, cwd=ROOT, env={**os.environ, "DETECTION_ENDPOINT_KEY": KEY},
            )  # fmt: skip
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.url, headers={"X-API-Key": KEY}, timeout=30)

    def write(
        self, slots: dict[str, dict[str, object]], also: dict[str, object] | None = None, /, **traffic: float
    ) -> None:
        """Replaces the state file, as a controller does."""
        fresh = self.state_file.with_suffix(".new")
        fresh.write_text(json.dumps({"detector": "fridge", "slots": slots, "traffic": traffic, **(also or {})}))
        fresh.replace(self.state_file)

    def score(self, picture: bytes, slot: str | None = None, **more: object) -> httpx.Response:
        """Sends one picture."""
        headers = {"X-Detection-Slot": slot} if slot else {}
        return self.client.post("/score", content=picture, headers=headers, **more)

    def until_loaded(self, *slots: str) -> None:
        """Waits until these slots are ready."""
        self.until(
            lambda: all(self.status()["slots"].get(slot, {}).get("state") == "ready" for slot in slots),
            f"{', '.join(slots)} ready",
        )

    def until_serving(self, slots: dict[str, dict[str, object]]) -> None:
        """Waits until these slots, and no others, answer with these versions."""
        wanted = {name: one["version"] for name, one in slots.items()}
        self.until(lambda: self.serving == wanted, f"{wanted} answer", 90)  # a model that is slow is slow to warm

    @property
    def serving(self) -> dict[str, str | None]:
        """The version that each slot answers with."""
        return {name: (slot["serving"] or {}).get("version") for name, slot in self.status()["slots"].items()}

    def status(self) -> dict:
        return self.client.get("/status").json()

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 30) -> float:
        """Waits for a condition and returns how long it took."""
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if condition():
                    return time.monotonic() - started
            except httpx.TransportError:
                pass
            time.sleep(0.02)
        raise AssertionError(f"not within {seconds} s: {what}\n{self.log.read_text()[-3000:]}")

    def until_ready(self) -> None:
        self.until(lambda: self.client.get("/readyz").status_code == 200, "ready")

    def stop(self) -> int:
        """Ends the server gently and returns its exit status."""
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

"""Our server beside others in one run, as the callers of all see them.

LitServe and Azure ML's inference server around our own predictor, and the plain way, ultralytics on PyTorch behind a
score.py. All get the same JPEG of the network's own size as base64 in JSON, the one form that LitServe takes, too, from
callers in a process of their own, by turns.

`python -m benchmarks serving_peers`. LitServe is no dependency: a peer that is not installed is named and skipped.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SIZE = 640
ROUNDS = 4
SECONDS = 3.0
CLIENTS = 16
AHEAD = 1.0

LITSERVE = """
import base64, os, sys
import litserve
from detection_assets.serving import answers, images
from detection_assets.serving.predictor import Predictor
from detection_assets.serving.scoring import Scored

class Detector(litserve.LitAPI):
    def setup(self, device):
        self.predictor = Predictor(os.environ["MODEL"])
        self.predictor.warm_up()
    def decode_request(self, request):
        return base64.b64decode(request["image"], validate=True)
    def predict(self, body):
        image = images.decode(body)
        return Scored(image.shape[1], image.shape[0], self.predictor.predict(image))
    def encode_response(self, scored):
        return answers.picture(scored, self.predictor.classes)

if __name__ == "__main__":
    server = litserve.LitServer(Detector(api_path="/score"), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="error")
"""
AZURE = """
import sys
import azureml_inference_server_http.amlserver as amlserver
from azureml_inference_server_http import constants
constants.DEFAULT_HOST = amlserver.DEFAULT_HOST = "127.0.0.1"
sys.argv = ["azmlinfsrv", "--entry_script", sys.argv[2], "--port", sys.argv[1]]
amlserver.run()
"""
PLAIN = """
import base64, io, json, os
from azureml_inference_server_http.api.aml_request import rawhttp
from azureml_inference_server_http.api.aml_response import AMLResponse
from PIL import Image
from ultralytics import YOLO

def init():
    global model
    model = YOLO(os.environ["WEIGHTS"])
    model.predict(Image.new("RGB", (640, 640)), verbose=False)

@rawhttp
def run(request):
    image = Image.open(io.BytesIO(base64.b64decode(json.loads(request.get_data())["image"])))
    result = model.predict(image, imgsz=640, conf=0.25, iou=0.7, rect=False, verbose=False, device="cpu")[0]
    boxes = [
        {"class": result.names[int(kind)], "confidence": sure, "x1": x1, "y1": y1, "x2": x2, "y2": y2}
        for x1, y1, x2, y2, sure, kind in result.boxes.data.tolist()
    ]
    return AMLResponse(json.dumps({"boxes": boxes}), 200, {"Content-Type": "application/json"})
"""


def main() -> list[dict[str, Any]]:
    """Measures, and returns a row for each peer at one caller and at `CLIENTS`."""
    from benchmarks.serving import serving, untrained

    model = untrained(SIZE)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(model, folder / "best.onnx")
        for peer, start in _peers(folder, model).items():
            with serving(model) as (ours, _), start() as theirs:
                times: dict[tuple[int, int], list[float]] = {}
                for _ in range(ROUNDS):
                    for clients in (1, CLIENTS):
                        for port in (ours, theirs):
                            done, seconds = _answered(port, SECONDS, clients)
                            times.setdefault((port, clients), []).append(seconds / max(done, 1) * 1000)
            for clients in (1, CLIENTS):
                one, other = (statistics.median(times[port, clients]) for port in (ours, theirs))
                what = f"a picture at {clients} clients, {SIZE} px, against {peer} (ms)"
                rows.append({"name": what, "ours": one, "anchor": other, "ratio": one / other, "limit": AHEAD})
    return rows


def _peers(folder: Path, model: Path) -> dict[str, Callable[[], contextlib.AbstractContextManager[int]]]:
    """Those that are installed, and how to start each."""
    import detection_assets.serving

    score = Path(detection_assets.serving.__file__).with_name("score.py")
    plain = folder / "plain_score.py"
    plain.write_text(PLAIN)
    found: dict[str, Callable[[], contextlib.AbstractContextManager[int]]] = {}
    if importlib.util.find_spec("litserve"):
        found["LitServe"] = lambda: _process(folder, LITSERVE, MODEL=str(model))
    else:
        print("LitServe is not installed and is left out: uv pip install litserve")
    if importlib.util.find_spec("azureml_inference_server_http"):
        weights = str(model.with_suffix(".pt"))
        found["Azure ML's server"] = lambda: _process(folder, AZURE, str(score), AZUREML_MODEL_DIR=str(folder))
        found["ultralytics in Azure ML's server"] = lambda: _process(folder, AZURE, str(plain), WEIGHTS=weights)
    else:
        print("Azure ML's inference server is not installed and is left out: uv pip install '.[dev]'")
    return found


def _answered(port: int, seconds: float, clients: int) -> tuple[int, float]:
    """How many pictures were answered, and in how many seconds."""
    from benchmarks.serving import picture_of
    from benchmarks.serving_load import ask

    body = json.dumps({"image": base64.b64encode(picture_of((SIZE, SIZE))).decode()}).encode()
    seen = ask(port, body, seconds=seconds, clients=clients, kind="application/json")
    return len(seen["times"]), seen["seconds"]


@contextlib.contextmanager
def _process(folder: Path, program: str, *arguments: str, **variables: str) -> Iterator[int]:
    """Runs a server until the block is left; gives its port once it has answered a picture."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script, log = folder / "peer.py", folder / "log"
    script.write_text(program)
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, **variables, "PYTHONPATH": path, "YOLO_OFFLINE": "1", "YOLO_CONFIG_DIR": str(folder)}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, str(script), str(port), *arguments], stdout=out, stderr=out, env=environment, cwd=folder
        )
    try:
        ends, ready = time.monotonic() + 120, False
        while not ready:
            if process.poll() is not None or time.monotonic() > ends:
                raise RuntimeError(f"a peer did not become ready:\n{log.read_text()[-3000:]}")
            time.sleep(0.3)
            with contextlib.suppress(subprocess.CalledProcessError):  # nobody listens yet
                ready = _answered(port, 0.2, 1)[0] > 0
        yield port
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


if __name__ == "__main__":
    for row in main():
        print(row)

"""One scoring request against the bare model call, many at once, capture; OpenVINO against ONNX Runtime; readiness.

Run by hand: `python -m benchmarks.serving`. The models, YOLO11n with untrained weights, are exported once and kept in
the cache folder: what a network costs does not depend on what it learnt.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SIZES = (320, 640)
ROUNDS = 60
FORWARD_ROUNDS = 3
FORWARD_CALLS = 40
WARM_UP = 10
PHOTO = (1280, 720)
REQUEST_LIMIT = 1.05
RUNTIME_LIMIT = 1.00
START_LIMIT = 2.00
THROUGHPUT_LIMIT = 1.05
OVERLOAD_LIMIT = 3.00
CAPTURE_LIMIT = 1.03
KEY = "benchmark"
EXPORT = """
import sys
from pathlib import Path
from ultralytics import YOLO
size, out = int(sys.argv[1]), Path(sys.argv[2])
model = YOLO("yolo11n.yaml")
model.save(out.with_suffix(".pt"))
Path(YOLO(str(out.with_suffix(".pt"))).export(format="onnx", imgsz=size, dynamic=False)).replace(out)
"""
IMPORTS = "import fastapi, uvicorn, prometheus_client, PIL.Image, simplejpeg, cv2, openvino"


def main(rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """Measures, prints a table, and returns its rows.

    Args:
        rounds: Interleaved calls of each; medians count.
    """
    models = {size: untrained(size) for size in SIZES}
    rows: list[dict[str, Any]] = []
    for size, model in models.items():
        ours, anchor, start = _request(model, rounds)
        rows.append(_row(f"one request at {size} px, against decode and predict (ms)", ours, anchor, REQUEST_LIMIT))
    for size, model in models.items():
        ours, anchor = _runtimes(model)
        rows.append(_row(f"OpenVINO f32 at {size} px, against ONNX Runtime (ms)", ours, anchor, RUNTIME_LIMIT))
    from benchmarks import serving_load

    photo = picture_of((640, 640))
    ours, anchor = serving_load.throughput(models[640], photo)
    rows.append(_row("a picture at 16 clients, 640 px, against the model alone (ms)", ours, anchor, THROUGHPUT_LIMIT))
    ours, anchor = serving_load.overload(models[640], photo)
    rows.append(_row("p99 at 10 times capacity, 640 px, against one client (ms)", ours, anchor, OVERLOAD_LIMIT))
    ours, anchor = serving_load.capture(models[320], picture_of())
    rows.append(_row("one request at 320 px, capture on against off (ms)", ours, anchor, CAPTURE_LIMIT))
    imports = [_timed_imports() for _ in range(3)]
    rows.append(_row("from start to ready, against importing the libraries (ms)", start, min(imports), START_LIMIT))
    _print(rows)
    return rows


def _row(name: str, ours: float, anchor: float, limit: float) -> dict[str, Any]:
    return {"name": name, "ours": ours, "anchor": anchor, "ratio": ours / anchor, "limit": limit}


def _request(model: Path, rounds: int) -> tuple[float, float, float]:
    """Milliseconds of a request, of the bare call, and from the server's start to its readiness."""
    from benchmarks.serving_load import Caller
    from detection_assets.serving.images import decode
    from detection_assets.serving.predictor import Predictor

    photo = picture_of()
    predictor = Predictor(model)
    predictor.warm_up()
    with serving(model) as (port, start):
        request = Caller(port, photo)

        def bare() -> None:
            predictor.predict(decode(photo))

        times: dict[Any, list[float]] = {request: [], bare: []}
        for turn in range(WARM_UP + rounds):
            for call, seen in times.items():
                began = time.perf_counter()
                call()
                if turn >= WARM_UP:
                    seen.append(time.perf_counter() - began)
        request.connection.close()
    return statistics.median(times[request]) * 1000, statistics.median(times[bare]) * 1000, start


@contextlib.contextmanager
def serving(model: Path, also: dict[str, Any] | None = None, *options: str) -> Iterator[tuple[int, float]]:
    """A server process with one model and what else its state says; gives its port and milliseconds to readiness."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        digest = hashlib.sha256(model.read_bytes()).hexdigest()
        slot = {"model": str(model), "sha256": digest, "version": "1"}
        state = Path(folder) / "state.json"
        told = {"detector": "benchmark", "slots": {"blue": slot}, "traffic": {"blue": 1}, **(also or {})}
        state.write_text(json.dumps(told))
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        command = [
            sys.executable,
            "-m",
            "detection_assets.serving.app",
            "--state",
            str(state),
            "--port",
            str(port),
            *options,
        ]
        log = Path(folder) / "log"
        began = time.perf_counter()
        with log.open("wb") as out:
            process = subprocess.Popen(command, env={**os.environ, "DETECTION_ENDPOINT_KEY": KEY}, stderr=out)
        try:
            while not _ready(port):
                if process.poll() is not None or time.perf_counter() - began > 120:
                    raise RuntimeError(f"the server did not become ready:\n{log.read_text()}")
                time.sleep(0.02)
            yield port, (time.perf_counter() - began) * 1000
        finally:
            process.terminate()
            process.wait()


def _ready(port: int) -> bool:
    client = http.client.HTTPConnection("127.0.0.1", port)
    try:
        client.request("GET", "/readyz")
        return client.getresponse().status == 200
    except OSError:
        return False
    finally:
        client.close()


def _runtimes(model: Path) -> tuple[float, float]:
    """Milliseconds of the network alone in OpenVINO and in ONNX Runtime.

    A process each, by turns: a thread of ONNX Runtime that waits keeps its core busy, which would slow the other down.
    """
    times: dict[str, list[float]] = {"openvino": [], "onnxruntime": []}
    for _ in range(FORWARD_ROUNDS):
        for runtime, seen in times.items():
            command = [sys.executable, "-m", "benchmarks.serving", runtime, str(model)]
            seen.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    return statistics.median(times["openvino"]), statistics.median(times["onnxruntime"])


def forward(runtime: str, model: Path) -> float:
    """Milliseconds of the network alone, on all cores in float32: the median of `FORWARD_CALLS`."""
    import numpy as np

    from detection_assets.serving.predictor import available_cores

    if runtime == "openvino":
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
        settings["INFERENCE_NUM_THREADS"] = available_cores()
        compiled = openvino.Core().compile_model(str(model), "CPU", settings)
        shape, request = tuple(compiled.inputs[0].shape), compiled.create_infer_request()

        def run(image: Any) -> Any:
            return request.infer({0: image}, share_inputs=True, share_outputs=True)[0]
    else:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = available_cores()
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        shape, name = tuple(session.get_inputs()[0].shape), session.get_inputs()[0].name

        def run(image: Any) -> Any:
            return session.run(None, {name: image})[0]

    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    times: list[float] = []
    for turn in range(WARM_UP + FORWARD_CALLS):
        began = time.perf_counter()
        run(image)
        if turn >= WARM_UP:
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


def _timed_imports() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    return (time.perf_counter() - began) * 1000


def untrained(size: int) -> Path:
    cache = Path(os.environ.get("DETECTION_BENCH_CACHE", Path(tempfile.gettempdir()) / "detection-assets-bench"))
    cache.mkdir(parents=True, exist_ok=True)
    model = cache / f"yolo11n-{size}.onnx"
    if not model.exists():
        settings = cache / "ultralytics"
        settings.mkdir(exist_ok=True)
        environment = {**os.environ, "YOLO_OFFLINE": "1", "YOLO_CONFIG_DIR": str(settings)}
        command = [sys.executable, "-c", EXPORT, str(size), str(model)]
        subprocess.run(command, env=environment, cwd=cache, check=True, stdout=subprocess.DEVNULL)
    return model


def picture_of(size: tuple[int, int] = PHOTO) -> bytes:
    """A JPEG with gradients and noise, about as hard to decode as a photograph."""
    import numpy as np
    from PIL import Image

    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([x * 200 // width, y * 200 // height, (x + y) % 200], axis=-1)
    pixels = (smooth + np.random.default_rng(0).integers(0, 40, smooth.shape)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=85)
    return out.getvalue()


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "ours", "anchor", "ratio", "limit", title="Serving")
    for row in rows:
        mark = "" if row["ratio"] <= row["limit"] else " [red]over[/]"
        figures = (f"{row['ours']:.2f}", f"{row['anchor']:.2f}", f"{row['ratio']:.3f}{mark}", f"{row['limit']:.2f}")
        table.add_row(row["name"], *figures)
    Console().print(table)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(forward(sys.argv[1], Path(sys.argv[2])))
    else:
        main()

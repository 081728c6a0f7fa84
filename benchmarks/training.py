"""The training program against plain ultralytics by hand: the same images, settings and threads, both with an export.

Run it with `python -m benchmarks.training`. Each side is a process of its own, from its start to its end, in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

LIMIT = 1.05
CLASSES = ["disc", "square", "cross", "ring"]

BY_HAND = """
import json, os, sys
job = json.load(open(sys.argv[1]))
os.environ.update(YOLO_CONFIG_DIR=job["config"], YOLO_OFFLINE="true", YOLO_VERBOSE="false")
import torch
from ultralytics import YOLO, settings
settings.update({"mlflow": False})  # else it starts a store of its own, which plain training does not need
model = YOLO(job["settings"].pop("model"))
model.add_callback("on_train_start", lambda trainer: torch.set_num_threads(job["threads"]))
model.add_callback("on_val_start", lambda validator: torch.set_num_threads(job["threads"]))
model.train(data=job["data"], project=job["out"], name="run", **job["settings"])
model.export(format="onnx", imgsz=job["settings"]["imgsz"], opset=17, simplify=True, device="cpu")
"""


def draw(folder: Path, images: int, size: int, seed: int = 0) -> None:
    """Draws a dataset snapshot: noisy pictures with shapes of four classes."""
    from PIL import Image, ImageDraw

    rng = np.random.default_rng(seed)
    (folder / "frames").mkdir(parents=True)
    (folder / "dataset").mkdir()
    frames: list[dict[str, object]] = []
    boxes: list[dict[str, object]] = []
    for i in range(images):
        picture = Image.fromarray(rng.integers(80, 170, (size, size, 3)).astype(np.uint8))
        pen = ImageDraw.Draw(picture)
        group = f"g{i % 10}"
        frame = f"{group}/clip.mp4#{i:06d}"
        for _ in range(int(rng.integers(1, 5))):
            kind, radius = int(rng.integers(4)), int(rng.integers(size // 12, size // 6))
            x, y = rng.integers(radius, size - radius, 2).tolist()
            corners = (x - radius, y - radius, x + radius, y + radius)
            color = tuple(rng.integers(0, 256, 3).tolist())
            if kind == 0:
                pen.ellipse(corners, fill=color)
            elif kind == 1:
                pen.rectangle(corners, fill=color)
            elif kind == 2:
                pen.line(corners, fill=color, width=4)
                pen.line((corners[0], corners[3], corners[2], corners[1]), fill=color, width=4)
            else:
                pen.ellipse(corners, outline=color, width=4)
            where = dict(zip(("x1", "y1", "x2", "y2"), map(float, corners), strict=True))
            boxes.append({"frame": frame, "class": CLASSES[kind], **where, "track": None})
        picture.save(folder / "frames" / f"{i:06d}.jpg", quality=90)
        frames.append({
            "frame": frame, "video": f"{group}/clip.mp4", "group": group, "split": "val" if i % 10 == 9 else "train",
            "file": f"{i:06d}.jpg", "width": size, "height": size, "sha256": "",
        })  # fmt: skip
    pd.DataFrame(frames).to_parquet(folder / "dataset" / "images.parquet")
    pd.DataFrame(boxes).to_parquet(folder / "dataset" / "boxes.parquet")


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds of the clock and of the processors; the latter hold on a machine that others use too."""
    began, before = time.perf_counter(), os.times()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} ... failed:\n{done.stderr[-4000:]}")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - began, cpu


def main(images: int = 300, size: int = 160, epochs: int = 12, repeats: int = 3) -> list[dict[str, object]]:
    """Measures both sides.

    Returns:
        One row: `name, ours, anchor, ratio, limit` (median seconds), the same for the processors' time, and the mAP50
        that ours reached.
    """
    from detection_assets.programs.train_dataset import read_snapshot, write_layout

    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        draw(work / "data", images, size)
        training = {"imgsz": size, "epochs": epochs}
        (work / "params.json").write_text(json.dumps({"classes": CLASSES, "training": training}))
        tables = read_snapshot(work / "data" / "dataset")
        layout = write_layout(*tables, work / "data" / "frames", CLASSES, work / "by-hand")
        (work / "config").mkdir()
        (work / "by_hand.py").write_text(BY_HAND)
        mine: list[tuple[float, float]] = []
        theirs: list[tuple[float, float]] = []
        summary: dict[str, dict[str, object]] = {}
        for turn in range(repeats):
            out = work / f"ours-{turn}"
            mine.append(timed([
                sys.executable, "-m", "detection_assets.programs.train",
                "--input", f"dataset={work / 'data' / 'dataset'}",
                "--input", f"frames={work / 'data' / 'frames'}", "--output", str(out),
                "--checkpoint", str(work / f"checkpoint-{turn}"), "--params", str(work / "params.json"),
            ]))  # fmt: skip
            summary = json.loads((out / "weights" / "training.json").read_text())
            job = {
                "config": str(work / "config"), "data": str(layout.yaml), "out": str(work / f"theirs-{turn}"),
                "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
                "settings": summary["settings"],
            }  # fmt: skip
            (work / "job.json").write_text(json.dumps(job))
            theirs.append(timed([sys.executable, str(work / "by_hand.py"), str(work / "job.json")]))
        (fast, fast_cpu), (slow, slow_cpu) = (
            tuple(map(statistics.median, zip(*side, strict=True))) for side in (mine, theirs)
        )
        return [
            {
                "name": f"training of {images} images, {epochs} epochs at {size} px", "ours": fast, "anchor": slow,
                "ratio": fast / slow, "limit": LIMIT,
                "ours_cpu": fast_cpu, "anchor_cpu": slow_cpu, "ratio_cpu": fast_cpu / slow_cpu,
                "map50": summary["metrics"]["map50"],
            }
        ]  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    for row in main(given.images, given.size, given.epochs, given.repeats):
        print(json.dumps(row))

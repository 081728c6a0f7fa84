"""A million boxes on 100,000 images: COCO to our table, and the table to YOLO, beside bare parsing, writing and peers.

Reading stands beside `orjson.loads` of the file, writing beside a loop that writes the same bytes to as many files.
Ultralytics' converter makes YOLO of the COCO file as ours does; supervision and datumaro only read it, which flatters
them. Each measurement is a process of its own, by turns, so that none finds another's memory.

`python -m benchmarks formats`. The peers live in an environment of their own, which `make bench-peers` makes; one that
is not there is named and left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

IMAGES = 100_000
BOXES = 1_000_000
CLASSES = 80
READ_LIMIT = 1.5
WRITE_LIMIT = 1.2
AHEAD = 1.0
GIGABYTES = 2.0
PEERS = Path(__file__).parents[1] / ".scratch" / "bench-peers" / "bin" / "python"


def names() -> list[str]:
    return [f"class {i}" for i in range(CLASSES)]


def make(folder: Path, images: int, boxes: int) -> Path:
    """Writes the COCO file, where datumaro looks for one."""
    import numpy as np
    import orjson

    rng = np.random.default_rng(0)
    at = np.sort(rng.integers(1, images + 1, boxes)).tolist()
    size = rng.uniform(4, 300, (boxes, 2)).round(2)
    corner = (rng.random((boxes, 2)) * (np.array([1920, 1080]) - size)).round(2)
    places = np.hstack([corner, size]).tolist()
    areas = (size[:, 0] * size[:, 1]).round(2).tolist()
    kinds = rng.integers(1, CLASSES + 1, boxes).tolist()
    document = {
        "images": [
            {"id": i, "file_name": f"camera-{i % 20:02d}_{i:08d}.jpg", "width": 1920, "height": 1080}
            for i in range(1, images + 1)
        ],
        "categories": [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(names(), 1)],
        "annotations": [
            {"id": k, "image_id": i, "category_id": c, "bbox": b, "area": a, "iscrowd": 0, "segmentation": []}
            for k, (i, c, b, a) in enumerate(zip(at, kinds, places, areas, strict=True), 1)
        ],
    }
    path = folder / "annotations" / "instances_all.json"
    path.parent.mkdir(parents=True)
    (folder / "images" / "all").mkdir(parents=True)
    path.write_bytes(orjson.dumps(document))
    return path


def bare_read(file: Path, out: Path) -> int:
    import orjson

    return timed(lambda: len(orjson.loads(file.read_bytes())["annotations"]))


def our_read(file: Path, out: Path) -> int:
    from detection_assets.domain.formats import coco

    return timed(lambda: len(coco.load([file], file.parent).boxes))


def our_write(file: Path, out: Path) -> int:
    from detection_assets.domain.formats import coco, yolo

    boxes = coco.load([file], file.parent).boxes
    return timed(lambda: len(yolo.save(boxes, names(), out).files) - 1)


def bare_write(file: Path, out: Path) -> int:
    """Writes what `our_write` left in the folder `ready`."""
    ready = [(f"{out}/labels/{path.name}", path.read_bytes()) for path in sorted((file.parent / "ready").iterdir())]
    (out / "labels").mkdir(parents=True)

    def write() -> int:
        for path, data in ready:
            with open(path, "wb") as one:
                one.write(data)
        return len(ready)

    return timed(write)


def our_conversion(file: Path, out: Path) -> int:
    from detection_assets.domain.formats import coco, yolo

    return timed(lambda: len(yolo.save(coco.load([file], file.parent).boxes, names(), out).files) - 1)


def ultralytics(file: Path, out: Path) -> int:
    from ultralytics.data.converter import convert_coco

    timed(lambda: convert_coco(str(file.parent), str(out), cls91to80=False))
    return len(list(out.rglob("*.txt")))


def supervision(file: Path, out: Path) -> int:
    import supervision as sv

    return timed(
        lambda: sum(
            len(one)
            for one in sv.DetectionDataset.from_coco(
                str(file.parents[1] / "images" / "all"), str(file)
            ).annotations.values()
        )
    )


def datumaro(file: Path, out: Path) -> int:
    import datumaro as dm

    return timed(
        lambda: sum(len(item.annotations) for item in dm.Dataset.import_from(str(file.parents[1]), "coco_instances"))
    )


TASKS: dict[str, Callable[[Path, Path], int]] = {
    task.__name__: task
    for task in (bare_read, our_read, bare_write, our_write, our_conversion, ultralytics, supervision, datumaro)
}
SECONDS: list[float] = []


def timed(work: Callable[[], int]) -> int:
    """Runs the part of a task that counts; tells its seconds in `SECONDS`."""
    began = time.perf_counter()
    done = work()
    SECONDS.append(time.perf_counter() - began)
    return done


def measure(name: str, file: Path, out: Path, python: str = sys.executable) -> dict[str, Any]:
    """Runs a task in a process of its own; gives what it did, its seconds and its peak memory in GB."""
    # Each writes into a folder of its own, and what was written before is on the disk: or one task pays for what
    # another left to be written, or to be deleted.
    fresh = Path(tempfile.mkdtemp(dir=out)) / "made"
    os.sync()
    command = [python, str(Path(__file__)), "--task", name, "--file", str(file), "--out", str(fresh)]
    root = str(Path(__file__).parents[1])
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=_environment(root))
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-3000:]}")
    return {**json.loads(done.stdout.splitlines()[-1]), "out": fresh}


def _environment(root: str) -> dict[str, str]:
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "YOLO_OFFLINE": "1"}


def peers(python: Path) -> dict[str, str]:
    """The peers that are there, and the Python of each."""
    found = {"ultralytics": sys.executable} if importlib.util.find_spec("ultralytics") else {}
    for name in ("supervision", "datumaro"):
        asked = [str(python), "-c", f"import {name}"]
        if python.exists() and not subprocess.run(asked, capture_output=True).returncode:
            found[name] = str(python)
        else:
            print(f"{name} is not in {python} and is left out: make bench-peers")
    return found


def main(images: int = IMAGES, boxes: int = BOXES, rounds: int = 4, python: Path = PEERS) -> list[dict[str, Any]]:
    """Measures, and returns a row for each figure."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = make(folder / "coco", images, boxes)
        out = folder / "out"
        out.mkdir()
        kept = measure("our_write", file, out)  # its files are what the bare loop writes; a first run warms the disk
        shutil.move(kept["out"] / "labels", file.parent / "ready")
        if kept["done"] != images:
            raise RuntimeError(f"{kept['done']} label files were written for {images} images")
        told: dict[str, list[dict[str, Any]]] = {}
        there = peers(python)
        writers = ("our_conversion", "ultralytics") if "ultralytics" in there else ("our_conversion",)
        pairs = [("bare_read", "our_read"), ("bare_write", "our_write"), writers]
        for number in range(rounds):
            for pair in pairs:
                # Whoever writes after another finds the disk busier: each is first as often.
                for task in reversed(pair) if number % 2 else pair:
                    told.setdefault(task, []).append(measure(task, file, out))
        shutil.move(file.parent / "ready", folder / "ready")  # not among what peers find beside the file
        ahead = {task: told.get(task) or [measure(task, file, out, where)] for task, where in there.items()}
    seconds = {task: statistics.median(one["seconds"] for one in runs) for task, runs in told.items()}
    peak = max(one["peak_gb"] for one in (*told["our_read"], *told["our_write"], *told["our_conversion"]))
    size = f"{images:,} images, {boxes:,} boxes"
    rows = [
        _row(f"COCO of {size} to the table, against orjson (s)", seconds["our_read"], seconds["bare_read"], READ_LIMIT),
        _row(f"table of {size} to YOLO, against writing (s)", seconds["our_write"], seconds["bare_write"], WRITE_LIMIT),
        _row("peak memory of these, against 2 GB (GB)", peak, GIGABYTES, AHEAD),
    ]  # fmt: skip
    for task, runs in ahead.items():
        took, size_gb = statistics.median(one["seconds"] for one in runs), runs[0]["peak_gb"]
        whole = task == "ultralytics"
        what = "COCO to YOLO" if whole else "COCO read"
        mine = seconds["our_conversion" if whole else "our_read"]
        rows.append(_row(f"{what}, against {task} of {size_gb:.1f} GB (s)", mine, took, AHEAD))
    return rows


def _row(name: str, ours: float, anchor: float, limit: float) -> dict[str, Any]:
    return {"name": name, "ours": ours, "anchor": anchor, "ratio": ours / anchor, "limit": limit}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=TASKS)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--boxes", type=int, default=BOXES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=Path, default=PEERS, help="a Python that has supervision and datumaro")
    given = parser.parse_args()
    if given.task:
        did = TASKS[given.task](given.file, given.out)
        peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        print(json.dumps({"done": did, "seconds": SECONDS[-1], "peak_gb": peak_gb}))
    else:
        for row in main(given.images, given.boxes, given.rounds, given.peers):
            print(json.dumps(row))

"""The drift report of 10,000 captured pictures beside decoding them all.

Run it with `python -m benchmarks.drift`. Ours is the whole Dagster run: reading what the server kept, both tables, the
tests, the page with its pictures. The server measures a picture when it keeps it, so that the report need not; how it
does when it must (requests without figures, the first report of a dataset) is measured beside it. Both sides decode
with the same threads.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

LIMIT = 1.2
DAY = "2026-03-01"
DISTINCT = 200
"""Different pictures; the files beyond are links to them."""
FRAMES = 1000
CLASSES = ["apple", "banana", "cola", "water"]


def main(images: int = 10_000) -> list[dict[str, Any]]:
    """Measures.

    Args:
        images: Captured pictures of 640 x 480.

    Returns:
        Rows of `name, ours, anchor, ratio, limit`, in seconds.
    """
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        home = Path(scratch)
        _home(home)
        world = World(home, images)
        decoding = world.decode()
        first = world.report()  # measures the dataset's profile, too
        usual = world.report()
        world.capture(figures=False)
        bare = world.report()
    return [
        _row(f"drift report of {images} captured pictures", usual, decoding),
        _row("the same, the first of a dataset: its profile is measured", first, decoding),
        _row("the same of requests without figures: a sample is measured", bare, decoding),
    ]


def _row(name: str, ours: float, anchor: float) -> dict[str, Any]:
    return {"name": name, "ours": ours, "anchor": anchor, "ratio": ours / anchor, "limit": LIMIT}


def _home(home: Path) -> None:
    root = Path(__file__).parents[1]
    (home / "detectors").mkdir()
    (home / "detectors" / "shop.yaml").write_text(json.dumps({"name": "shop", "classes": CLASSES}))
    shutil.copyfile(root / "dagster.yaml", home / "dagster.yaml")
    os.environ |= {
        "DETECTION_HOME": str(home),
        "DETECTION_DETECTORS": str(home / "detectors"),
        "DAGSTER_HOME": str(home / ".dagster"),
    }


class World:
    """A registered model, its dataset, and captured requests, as the other stages leave them."""

    def __init__(self, home: Path, images: int) -> None:
        from detection_assets.domain import layout
        from resources.storage import Storage

        self.storage, self.images = Storage(root=str(home / "lake"), prefix="shop"), images
        rng = np.random.default_rng(0)
        self.source = home / "pictures"
        self.source.mkdir()
        for number in range(DISTINCT):
            (self.source / f"{number}.jpg").write_bytes(_picture(rng))
        self.captured = layout.captures(DAY)
        self.version = self._register()
        self.capture(figures=True)

    def _link(self, key: str, number: int) -> None:
        path = self.storage.local_path(key)
        assert path is not None
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(self.source / f"{number % DISTINCT}.jpg", path)

    def _register(self) -> str:
        import dagster as dg

        from detection_assets.domain import layout, snapshot
        from resources import profiles

        rows, boxes = [], []
        for number in range(FRAMES):
            video, split = f"store-{number % 20}/clip.mp4", "test" if number % 20 > 15 else "train"
            frame, file = f"{video}#{number}", f"{video}/v1/x/{number}.jpg"
            self._link(f"{layout.FRAMES}/{file}", number)
            rows.append([frame, video, video.split("/")[0], split, file, 640, 480, "", ""])
            boxes += [[frame, box["class"], box["x1"], box["y1"], box["x2"], box["y2"], None] for box in _boxes(number)]
        images = pd.DataFrame(rows, columns=snapshot.IMAGES)
        truth = pd.DataFrame(boxes, columns=snapshot.BOXES)
        dataset = snapshot.version(images, truth, CLASSES)
        found = [
            {"model": "challenger", "frame": frame, **box}
            for number, frame in enumerate(images["frame"])
            if images["split"][number] == "test"
            for box in _boxes(number)
        ]
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            snapshot.write(images, truth, {"version": dataset, "classes": CLASSES}, folder / "d")
            self.storage.publish(folder / "d", layout.dataset(dataset), {})
            (folder / "e").mkdir()
            pd.DataFrame(found).to_parquet(folder / "e" / "predictions.parquet")
            self.storage.publish(folder / "e", layout.evaluation("e1"), {})
        registry = profiles.resources_for("shop", None, host="127.0.0.1", port=0)["registry"]
        with dg.build_resources({"registry": registry}) as opened:
            tags = {"dataset_version": dataset, "evaluation_version": "e1"}
            return opened.registry.register("weights/w1/best.onnx", "file:///best.onnx", "0" * 64, tags, "").version

    def capture(self, *, figures: bool) -> None:
        """What the server leaves, with or without figures of the pictures."""
        from detection_assets.domain.image_statistics import NAMES, statistics
        from detection_assets.pictures import pixels

        self.storage.delete(self.captured)
        measured = [
            statistics(picture) if figures and picture is not None else dict.fromkeys(NAMES)
            for picture in (pixels((self.source / f"{number}.jpg").read_bytes()) for number in range(DISTINCT))
        ]
        lines: list[bytes] = []
        for number in range(self.images):
            at = (
                f"{DAY}T{number * 24 // self.images:02d}:{number // 60 % 60:02d}:{number % 60:02d}.{number % 1000:03d}Z"
            )
            hour = at[11:13]
            self._link(f"{self.captured}/{hour}/r{number}.jpg", number)
            row = {"time": at, "request_id": f"r{number}", "slot": "blue", "version": self.version, "status": 200}
            row |= {"latency_ms": 20.0 + number % 13, "why": "sample", "width": 640, "height": 480}
            row |= {**measured[number % DISTINCT], "image": f"r{number}.jpg", "boxes": _boxes(number)}
            lines.append(json.dumps(row).encode())
            if len(lines) == 200 or number == self.images - 1:
                self.storage.put(f"{self.captured}/{hour}/part-{number}.jsonl", b"\n".join(lines))
                lines = []

    def decode(self) -> float:
        """Decodes every captured picture."""
        from detection_assets.drift_reference import THREADS
        from detection_assets.pictures import pixels

        keys = [item.key for item in self.storage.list(self.captured) if item.key.endswith(".jpg")]
        assert len(keys) == self.images
        began = time.perf_counter()
        with ThreadPoolExecutor(THREADS) as pool:
            for first in range(0, len(keys), 64):
                for picture in pool.map(pixels, self.storage.get_many(keys[first : first + 64])):  # type: ignore[arg-type]
                    assert picture is not None
        return time.perf_counter() - began

    def report(self) -> float:
        """The run that the schedule starts."""
        from detection_assets import definitions, detector_file
        from resources import tables
        from resources.instance import open_instance

        with open_instance() as instance:
            job = definitions.build(detector_file.find("shop")).resolve_job_def("shop_monitor")
            began = time.perf_counter()
            assert job.execute_in_process(instance=instance, partition_key=DAY).success
            seconds = time.perf_counter() - began
        table = tables.read(self.storage, "drift_report", [DAY])
        assert len(table) == 12, "every feature is in the report"
        return seconds


def _picture(rng: np.random.Generator) -> bytes:
    """A picture with edges and texture, about as large as a camera's."""
    from PIL import Image

    rough = np.kron(rng.integers(0, 256, (24, 32, 3)), np.ones((20, 20, 1)))
    out = io.BytesIO()
    noisy = (rough + rng.normal(0, 12, rough.shape)).clip(0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(out, "JPEG", quality=85)
    return out.getvalue()


def _boxes(number: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(number)
    corners = rng.uniform(0, 300, (int(rng.integers(1, 6)), 2))
    return [
        {
            "class": CLASSES[int(rng.integers(4))], "confidence": float(rng.uniform(0.3, 1)),
            "x1": float(x), "y1": float(y), "x2": float(x + rng.uniform(20, 200)), "y2": float(y + 60),
        }
        for x, y in corners
    ]  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    for row in main(parser.parse_args().images):
        print(json.dumps(row))

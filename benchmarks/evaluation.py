"""COCO evaluation of 5,000 images and 250,000 detections: ours against pycocotools, from the same tables.

Run it with `python -m benchmarks.evaluation`. Both sides start from the two DataFrames and end at the twelve-odd
figures, so the building of inputs counts on both.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import time

import numpy as np
import pandas as pd

LIMIT = 0.02
BOX = ["x1", "y1", "x2", "y2"]
Tables = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]


def made_up(images: int, truths: int, found: int, classes: int, seed: int = 0) -> Tables:
    """Frames, truth, and predictions that scatter around it."""
    rng = np.random.default_rng(seed)
    names = np.array([f"store-{i % 50:02d}/clip.mp4#{i:06d}" for i in range(images)], object)
    frames = pd.DataFrame({"frame": names, "width": 640, "height": 640})
    frames["group"] = frames["frame"].str[:8]
    frames["video"] = frames["frame"].str[:17]
    labels = np.array([f"class {k}" for k in range(classes)], object)
    size = np.exp(rng.normal(4, 0.9, (truths, 2))).clip(4, 400)
    low = rng.uniform(0, 500, (truths, 2))
    at, of = rng.integers(0, images, truths), rng.integers(0, classes, truths)
    truth = pd.DataFrame(np.hstack([low, low + size]), columns=BOX).assign(frame=names[at], **{"class": labels[of]})
    source = rng.integers(0, truths, found)
    jitter = rng.normal(0, 0.08, (found, 4)) * np.hstack([size, size])[source]
    corners = truth[BOX].to_numpy()[source] + jitter
    corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 1)
    here = np.where(rng.random(found) < 0.6, at[source], rng.integers(0, images, found))
    kind = np.where(rng.random(found) < 0.7, of[source], rng.integers(0, classes, found))
    guess = pd.DataFrame(corners, columns=BOX).assign(frame=names[here], **{"class": labels[kind]})
    guess["confidence"] = rng.random(found)
    return frames, truth, guess


def ours(frames: pd.DataFrame, truth: pd.DataFrame, guess: pd.DataFrame, classes: list[str]) -> tuple[float, float]:
    from detection_assets.domain.metrics import Scores

    figures = Scores(truth, guess, frames, classes).overall()
    return figures["ap50"], figures["ap50_95"]


def anchor(frames: pd.DataFrame, truth: pd.DataFrame, guess: pd.DataFrame, classes: list[str]) -> tuple[float, float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    image = {name: i for i, name in enumerate(frames["frame"], 1)}
    label = {name: k for k, name in enumerate(classes, 1)}
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        rows = zip(truth["frame"], truth["class"], truth[BOX].to_numpy().tolist(), strict=True)
        gt.dataset = {
            "images": [{"id": i, "width": 640, "height": 640} for i in image.values()],
            "categories": [{"id": k, "name": name} for name, k in label.items()],
            "annotations": [
                {"id": i, "image_id": image[frame], "category_id": label[name], "iscrowd": 0,
                 "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
                for i, (frame, name, (x1, y1, x2, y2)) in enumerate(rows, 1)
            ],
        }  # fmt: skip
        gt.createIndex()
        corners = guess[BOX].to_numpy()
        columns = [guess["frame"].map(image), corners[:, :2], corners[:, 2:] - corners[:, :2], guess["confidence"]]
        found = gt.loadRes(np.column_stack([*columns, guess["class"].map(label)]))
        result = COCOeval(gt, found, "bbox")
        result.evaluate()
        result.accumulate()
        result.summarize()
    return float(result.stats[1]), float(result.stats[0])


def main(images: int = 5_000, truths: int = 35_000, found: int = 250_000, classes: int = 80, repeats: int = 3):
    """Measures both sides.

    Returns:
        One row: `name, ours, anchor, ratio, limit` in seconds, and the four figures.
    """
    tables = made_up(images, truths, found, classes)
    names = [f"class {k}" for k in range(classes)]
    ours(*made_up(50, 100, 100, 2), ["class 0", "class 1"])  # imports are not evaluation
    seconds: list[float] = []
    mine = (0.0, 0.0)
    for _ in range(repeats):
        began = time.perf_counter()
        mine = ours(*tables, names)
        seconds.append(time.perf_counter() - began)
    began = time.perf_counter()
    theirs = anchor(*tables, names)
    slow = time.perf_counter() - began
    fast = statistics.median(seconds)
    return [
        {
            "name": f"evaluation of {images} images, {found} detections", "ours": fast, "anchor": slow,
            "ratio": fast / slow, "limit": LIMIT, "ap50": mine[0], "anchor_ap50": theirs[0],
            "ap50_95": mine[1], "anchor_ap50_95": theirs[1],
            "equal": bool(np.allclose(mine, theirs, atol=5e-5)),
        }
    ]  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--found", type=int, default=250_000)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    for row in main(images=given.images, found=given.found, repeats=given.repeats):
        print(json.dumps(row))

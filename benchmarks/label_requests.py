"""Whether pictures that `label_requests` would choose teach more than pictures drawn by lot, at the same budget.

On the fridge sample: from a few labelled frames, in rounds, frames of a pool are chosen, labelled with the truth, and
a network is trained from scratch on all that is labelled; a fixed test set of other stores says how good it is. The
choice, the looks at pictures, the training and the scores are the product's own. Both sides begin with the same frames,
drawn by lot, and the same network.

Run it with `python -m benchmarks.label_requests`: 20 minutes to an hour of one core. It goes on where it was stopped,
and writes its figures as JSON and as a picture.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

CLASSES = ("apple", "banana", "cola", "water")
BUDGETS = (20, 40, 60, 80)
CHOSEN, DRAWN = "chosen", "drawn by lot"
CLIPS, RATE, SEED = 24, 4.0, 5
TEST, VAL = ("store-09", "store-10", "store-11", "store-12"), ("store-08",)
VAL_IMAGES, TEST_EVERY = 12, 2
THRESHOLD = 0.25
"""Both are the detector's defaults: the confidence from which boxes are answered, and what is scored."""
SCORED = {"confidence": 0.001, "iou": 0.7, "max_det": 300}


@dataclass(frozen=True)
class Footage:
    """Extracted frames (`frame, video, group, phash, file, width, height, index`), their true boxes, the folder."""

    frames: pd.DataFrame
    boxes: pd.DataFrame
    folder: Path

    def of(self, *groups: str) -> pd.DataFrame:
        """The frames of some stores."""
        return self.frames[self.frames["group"].isin(groups)].reset_index(drop=True)


def footage(work: Path) -> Footage:
    """Films the sample, extracts frames at `RATE` a second and gives each its true boxes; once."""
    from detection_assets.domain.sampling import Sampling
    from detection_assets.programs import extract
    from detection_assets.programs.job import Job
    from detection_assets.samples.handover import LEAST_VISIBLE
    from detection_assets.samples.sample import render

    sample, folder = work / "sample", work / "frames"
    if not (sample / "truth" / "boxes.parquet").exists():
        render("fridge", sample, SEED, CLIPS)
    videos = sorted(str(path.relative_to(sample / "videos")) for path in (sample / "videos").rglob("*.mp4"))
    outs = {video: video.replace("/", "-") for video in videos}
    if not folder.exists():
        part = work / "frames.part"
        part.mkdir(exist_ok=True)
        one = [{"video": video, "kind": "video", "path": video, "out": out} for video, out in outs.items()]
        sampling = {**_plain(Sampling()), "method": "rate", "rate": RATE, "near_duplicate": None}
        extract.run(Job({"videos": sample / "videos"}, part, {"videos": one, "sampling": sampling, "workers": 1}))
        part.rename(folder)
    parts = []
    for video, out in outs.items():
        rows = pd.read_parquet(folder / out / "frames.parquet")
        rows = rows[rows["kept"]]
        parts.append(rows.assign(file=out + "/" + rows["file"], group=video.split("/")[0]))
    frames = pd.concat(parts, ignore_index=True)
    truth = pd.read_parquet(sample / "truth" / "boxes.parquet")
    truth = truth[truth["visible"] >= LEAST_VISIBLE].drop(columns="frame")
    boxes = truth.merge(frames[["video", "index", "frame"]], on=["video", "index"])
    return Footage(frames, boxes[["frame", "class", "x1", "y1", "x2", "y2"]], folder)


def _plain(given: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(given)


def train(given: Footage, labelled: pd.DataFrame, seed: int, out: Path, epochs: int, size: int) -> Path:
    """Trains on some frames, as a process of its own; returns the folder with best.onnx."""
    if not (out / "weights" / "best.onnx").exists():
        data = out / "data"
        data.mkdir(parents=True, exist_ok=True)
        val = given.of(*VAL)
        val = val.iloc[np.linspace(0, len(val) - 1, VAL_IMAGES).astype(int)]
        images = pd.concat([labelled.assign(split="train"), val.assign(split="val")], ignore_index=True)
        images.to_parquet(data / "images.parquet")
        given.boxes[given.boxes["frame"].isin(images["frame"])].assign(track=None).to_parquet(data / "boxes.parquet")
        training = {"imgsz": size, "epochs": epochs, "patience": 0, "seed": seed}
        (out / "params.json").write_text(json.dumps({"classes": CLASSES, "training": training}))
        done = subprocess.run(
            [
                sys.executable, "-m", "detection_assets.programs.train", "--params", str(out / "params.json"),
                "--input", f"dataset={data}", "--input", f"frames={given.folder}",
                "--checkpoint", str(out / "checkpoint"), "--output", str(out),
            ],
            capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{out}: training failed:\n{done.stderr[-4000:]}")
    return out / "weights"


def score(given: Footage, weights: Path) -> dict[str, float]:
    """mAP50 and mAP50-95 on the test stores."""
    from detection_assets.domain.metrics import Scores
    from detection_assets.programs import predict
    from detection_assets.programs.job import Job

    test = given.of(*TEST).iloc[::TEST_EVERY]
    one = [{"video": "test", "out": "test", "frames": list(zip(test["frame"], test["file"], strict=True))}]
    out = weights.parent / "scored"
    inputs = {"frames": given.folder, "model": weights}
    predict.run(Job(inputs, out, {"videos": one, "settings": SCORED, "classes": list(CLASSES)}))
    found = pd.read_parquet(out / "test" / "predictions.parquet").dropna(subset=["class"])
    truth = given.boxes[given.boxes["frame"].isin(test["frame"])]
    overall = Scores(truth, found, test, CLASSES).overall()
    return {"map50": float(overall["ap50"]), "map50_95": float(overall["ap50_95"])}


def choose(given: Footage, pool: pd.DataFrame, labelled: pd.DataFrame, weights: Path, count: int) -> pd.DataFrame:
    """What `label_requests` would ask about next, each with its reason."""
    from detection_assets.detector_labeling import Labeling
    from detection_assets.domain.label_choice import Ask
    from detection_assets.domain.label_choice import choose as chosen_by
    from detection_assets.domain.selection import Wanted
    from detection_assets.programs import propose
    from detection_assets.programs.job import Job

    left, out = pool[~pool["frame"].isin(labelled["frame"])], weights.parent / "looked"
    for part, models, table in (("left", {"champion": weights}, left), ("known", {}, labelled)):
        one = [{"video": part, "out": part, "frames": list(zip(table["frame"], table["file"], strict=True))}]
        settings = {"confidence": 0.05, "iou": 0.7, "max_det": 300}
        propose.run(Job({"pictures": given.folder, **models}, out, {"videos": one, "settings": settings}))
    looked, boxes = (pd.read_parquet(out / "left" / f"{name}.parquet") for name in ("pictures", "boxes"))
    defaults = Labeling()
    wanted = Wanted(count, defaults.reasons.model_dump(), defaults.near_duplicate, defaults.most_per_video)
    known = pd.read_parquet(out / "known" / "pictures.parquet")
    truth = given.boxes[given.boxes["frame"].isin(labelled["frame"])]
    ask = Ask(CLASSES, THRESHOLD, wanted, champion="1")
    return chosen_by(left[["frame", "video", "phash"]], looked, boxes, known, truth, ask)[0]


def run(work: Path, seeds: Sequence[int], epochs: int, size: int) -> list[dict[str, Any]]:
    """Every round of both sides: `seed, side, labelled, map50, map50_95, boxes, videos, reasons`."""
    given = footage(work)
    groups = sorted(set(given.frames["group"]) - {*TEST, *VAL})
    pool, rows = given.of(*groups), []
    for seed in seeds:
        lot = np.random.default_rng(seed).permutation(len(pool))
        start = pool.iloc[np.sort(lot[: BUDGETS[0]])]
        for side in (CHOSEN, DRAWN):
            labelled, reasons = start, {}
            for number, budget in enumerate(BUDGETS):
                name = "start" if not number else f"{side.replace(' ', '-')}-{budget}"
                weights = train(given, labelled, seed, work / f"seed-{seed}" / name, epochs, size)
                boxes = given.boxes[given.boxes["frame"].isin(labelled["frame"])]
                rows.append({
                    "seed": seed, "side": side, "labelled": len(labelled), **score(given, weights),
                    "boxes": len(boxes), "videos": int(labelled["video"].nunique()), "reasons": reasons,
                })  # fmt: skip
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
                if budget == BUDGETS[-1]:
                    break
                after = BUDGETS[number + 1]
                if side == CHOSEN:
                    picked = choose(given, pool, labelled, weights, after - len(labelled))
                    reasons = {str(key): int(count) for key, count in picked["reason"].value_counts().items()}
                    labelled = pd.concat([labelled, pool[pool["frame"].isin(picked["frame"])]])
                else:
                    labelled = pool.iloc[np.sort(lot[:after])]
    return rows


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws both curves: the mean over the seeds, and a thin line for each of them."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    table = pd.DataFrame(list(rows))
    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    FigureCanvasSVG(figure)
    for axes, metric in zip(figure.subplots(1, 2), ("map50", "map50_95"), strict=True):
        for side, color in ((CHOSEN, "#3b88f5"), (DRAWN, "#888888")):
            mine = table[table["side"] == side]
            for _, one in mine.groupby("seed"):
                axes.plot(one["labelled"], one[metric], color=color, linewidth=0.6, alpha=0.6)
            mean = mine.groupby("labelled")[metric].mean()
            axes.plot(mean.index, mean, color=color, linewidth=2.2, marker="o", label=f"{side} (mean)")
        axes.set_title({"map50": "mAP50", "map50_95": "mAP50-95"}[metric] + " on the test stores", fontsize=10)
        axes.set_xlabel("labelled pictures")
        axes.set_xticks(BUDGETS)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main(
    work: Path = Path(".benchmark-labels"),
    out: Path = Path("docs/images/label-requests.json"),
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int = 40,
    size: int = 160,
) -> list[dict[str, object]]:
    """Measures both sides.

    Returns:
        A row a number of labelled pictures: `name, ours, anchor` (mean mAP50-95 over the seeds). More is better, so
        there is no limit.
    """
    rows = run(work, seeds, epochs, size)
    out.write_text(json.dumps({"epochs": epochs, "imgsz": size, "rounds": rows}, indent=1) + "\n")
    draw(rows, out.with_suffix(".svg"))
    mean = pd.DataFrame(rows).groupby(["labelled", "side"])["map50_95"].mean().unstack()
    return [
        {"name": f"mAP50-95 with {labelled} labelled", "ours": row[CHOSEN], "anchor": row[DRAWN]}
        for labelled, row in mean.iterrows()
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(".benchmark-labels"), help="a folder to work in, kept")
    parser.add_argument("--out", type=Path, default=Path("docs/images/label-requests.json"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--size", type=int, default=160)
    told = parser.parse_args()
    for line in main(told.work, told.out, told.seeds, told.epochs, told.size):
        print(json.dumps(line))

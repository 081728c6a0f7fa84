"""Trains a detector on a dataset snapshot, exports it to ONNX and proves that the export answers the same.

Inputs: `dataset` (images.parquet, boxes.parquet), `frames` (folder that the images' `file` is relative to), and
optionally `weights` (folder with base weights such as yolo11n.pt).
Parameters: `classes`, `training` (model, imgsz, epochs, batch, nbs, optimizer, lr0, patience, seed, extra), `device`,
`trial`.
Output `weights/`: best.pt, best.onnx, results.csv, training.json, curves.png.

With `trial` true it is one of many trainings that are compared: nothing is exported, and the output is `trial/` with
trial.json, whose `objective` is the mAP50-95 of the best weights on the validation images.

With a checkpoint folder, a killed run goes on from its last finished epoch.

All GPUs of this machine train, each its share of every batch, unless `device` names some (`0,1`). Of a job of several
instances each runs this program; the first one alone keeps checkpoints, tells, and makes the output.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from detection_assets.domain.metrics import json_safe
from detection_assets.domain.problems import InputError
from detection_assets.domain.world import World
from detection_assets.programs import libraries
from detection_assets.programs import train_together as together
from detection_assets.programs import train_ultralytics as ultralytics
from detection_assets.programs.draw import line_charts
from detection_assets.programs.job import Job, end_in_good_order, main
from detection_assets.programs.train_dataset import Layout, read_snapshot, write_layout

AGREEMENT_IMAGES = 16
BATCH_NEWS_EVERY_S = 10.0
KEPT = ("best.pt", "results.csv", "last.pt")
"""What a checkpoint holds. `last.pt` is written last: it says which epoch the others belong to."""


def run(job: Job) -> None:
    """Trains.

    Args:
        job: See the module.

    Raises:
        InputError: The dataset or a parameter cannot be used.
        RuntimeError: Training failed.
    """
    started = time.monotonic()
    classes = [str(name) for name in job.params.get("classes", [])]
    if not classes:
        raise InputError("params.json: `classes` is empty; name at least one class")
    job.needs("dataset", "frames")
    world = World.of(os.environ)
    end_in_good_order()
    images, boxes = read_snapshot(job.inputs["dataset"])
    with tempfile.TemporaryDirectory(prefix="train-") as scratch:
        layout = write_layout(images, boxes, job.inputs["frames"], classes, Path(scratch) / "data")
        _tell(job, layout)
        job.log("starting ultralytics")
        ultralytics.prepare(Path(scratch) / "config")
        base = job.inputs.get("weights")
        chosen = ultralytics.settings(job.params.get("training", {}), base)
        crew = together.crew(world, chosen, job.params.get("device"), job.log)
        checkpoint = _Checkpoint(job, _fingerprint(job, chosen), keeps=world.leads)
        trained = _train(job, chosen, layout, Path(scratch) / "run", checkpoint, crew)
        if trained is None:
            job.log("this instance has done its part; the first one goes on")
        elif job.params.get("trial"):
            _judge(job, layout, Path(scratch) / "run", trained, started)
        else:
            _finish(job, chosen, layout, Path(scratch) / "run", trained, crew, started)


def _tell(job: Job, layout: Layout) -> None:
    for problem in layout.problems[:20]:
        job.log(str(problem))
    if len(layout.problems) > 20:
        job.log(f"and {len(layout.problems) - 20} more pictures are missing")
    if layout.optimistic:
        job.log("the validation split has no boxes: the training images stand in for it, its metrics are optimistic")
    count = ", ".join(f"{split} {layout.images[split]} images {layout.boxes[split]} boxes" for split in layout.images)
    job.log(f"dataset: {count}")


def _fingerprint(job: Job, chosen: Mapping[str, Any]) -> str:
    """Changes when a checkpoint must not be gone on from: other data, classes or settings."""
    digest = hashlib.sha256(json.dumps([dict(chosen), job.params.get("classes")], sort_keys=True, default=str).encode())
    for name in ("images.parquet", "boxes.parquet"):
        digest.update((job.inputs["dataset"] / name).read_bytes())
    return digest.hexdigest()


class _Checkpoint:
    """The folder that outlives a killed run. Each file in it is whole or absent."""

    def __init__(self, job: Job, fingerprint: str, *, keeps: bool) -> None:
        # Platforms copy the folders of all instances to one place.
        self.folder = job.checkpoint if keeps else None
        if self.folder is None:
            return
        mark = self.folder / "fingerprint"
        if mark.exists() and mark.read_text() != fingerprint:
            job.log("the checkpoint belongs to other data or settings: starting afresh")
            for name in (*KEPT, "validation.json"):
                (self.folder / name).unlink(missing_ok=True)
        self._put(mark, fingerprint.encode())

    def _put(self, path: Path, content: bytes) -> None:
        part = path.with_name(f"{path.name}.part")
        part.write_bytes(content)
        os.replace(part, path)

    def save(self, run: Path) -> None:
        """Keeps what the trainer has just written in its folder."""
        if self.folder is None:
            return
        for name in KEPT:
            source = run / name if name == "results.csv" else run / "weights" / name
            kept = self.folder / name
            # Best weights are written only now and then, and are the larger part of the work.
            if source.exists() and not (
                name == "best.pt" and kept.exists() and kept.stat().st_mtime_ns >= source.stat().st_mtime_ns
            ):
                self._put(kept, source.read_bytes())

    def finish(self, run: Path, validation: ultralytics.Validation) -> None:
        """Keeps the final weights, so that a kill during export costs no training."""
        if self.folder is None:
            return
        self._put(self.folder / "best.pt", (run / "weights" / "best.pt").read_bytes())
        self._put(self.folder / "validation.json", json.dumps([validation.metrics, validation.per_class]).encode())

    def restore(self, run: Path) -> tuple[int, ultralytics.Validation | None]:
        """Puts back what was kept.

        Returns:
            How many epochs are done, and the figures at the end if training is done.
        """
        last = self.folder / "last.pt" if self.folder else None
        if self.folder is None or last is None or not last.exists():
            return 0, None
        epoch = ultralytics.epoch_of(last)
        if epoch is None or not (self.folder / "best.pt").exists():
            return 0, None
        (run / "weights").mkdir(parents=True)
        for name in ("best.pt", "last.pt"):
            shutil.copyfile(self.folder / name, run / "weights" / name)
        results = pd.read_csv(self.folder / "results.csv", skipinitialspace=True)
        # Epochs that were counted but whose weights were lost come again.
        results[results["epoch"] <= epoch + 1].to_csv(run / "results.csv", index=False)
        end = self.folder / "validation.json"
        return epoch + 1, ultralytics.Validation(*json.loads(end.read_text())) if end.exists() else None


def _train(
    job: Job, chosen: Mapping[str, Any], layout: Layout, run: Path, checkpoint: _Checkpoint, crew: together.Crew
) -> ultralytics.Validation | None:
    """Trains, or goes on; on an instance that is not the first there are no figures at the end."""
    done, validation = checkpoint.restore(run)
    epochs = int(chosen["epochs"])
    meeting = None
    if crew.size > 1:
        meeting = together.Meeting(crew)
        told = meeting.agree({"go": done < epochs and validation is None, **_task(job, chosen, layout, crew)})
        if not (told["go"] or crew.world.leads):
            return None
    if validation is not None:
        job.log(f"training was finished before, after {done} epochs")
        return validation
    if done >= epochs:
        job.log(f"all {done} epochs were finished before; validating")
        validation = ultralytics.validate_best(chosen, data=layout.yaml, run=run, device=crew.devices[0])
        checkpoint.finish(run, validation)
        return validation
    trial = bool(job.params.get("trial"))  # one of many: how far all of them are is not its to tell
    if done:
        job.log(f"resuming after epoch {done} of {epochs}")
        job.report({"kind": "resumed", "epoch": done, "epochs": epochs})
        if trial:
            _tell_again(job, run / "results.csv", done, epochs)
    patience = ultralytics.Patience(BATCH_NEWS_EVERY_S)

    def on_epoch(epoch: int, of: int, figures: dict[str, float]) -> None:
        patience.over()
        job.report({"kind": "epoch", "epoch": epoch, "epochs": of, "metrics": json_safe(figures)})
        map50 = figures.get("metrics/mAP50(B)", float("nan"))
        loss = sum(value for key, value in figures.items() if key.startswith("train/"))
        if trial:
            job.log(f"epoch {epoch} of {of}, mAP50 {map50:.3f}, loss {loss:.3f}")
        else:
            job.progress(epoch, of, f"epochs, mAP50 {map50:.3f}, loss {loss:.3f}")

    def on_batch(batch: int, batches: int, epoch: int, of: int) -> None:
        if not trial and patience.over():
            job.progress(batch, batches, f"batches of epoch {epoch} of {of}")

    hooks = ultralytics.Hooks(on_epoch, checkpoint.save, on_batch)
    resume = run / "weights" / "last.pt" if done else None
    if meeting is None:
        device = crew.devices[0]
        validation = ultralytics.fit(chosen, data=layout.yaml, run=run, device=device, resume=resume, hooks=hooks)
    else:
        job.log(f"{crew.size} processes train, {len(crew.devices)} of them here")
        together.fit(meeting, chosen, data=layout.yaml, run=run, resume=resume, hooks=hooks)
        if not crew.world.leads:
            return None
        validation = ultralytics.validate_best(chosen, data=layout.yaml, run=run, device=crew.devices[0])
    checkpoint.finish(run, validation)
    return validation


def _task(job: Job, chosen: Mapping[str, Any], layout: Layout, crew: together.Crew) -> dict[str, Any]:
    """What has to be alike on all instances: each has a copy of the data, and takes its share by number."""
    told = {**chosen, "model": Path(str(chosen["model"])).name}
    return {"settings and data": _fingerprint(job, told), "images": layout.images, "processes": len(crew.devices)}


def _tell_again(job: Job, results: Path, done: int, epochs: int) -> None:
    """Reports the epochs that were finished before: the last of them may have been told to a process that was dying."""
    table = pd.read_csv(results, skipinitialspace=True).drop(columns=["time"], errors="ignore")
    for row in table.to_dict("records"):
        epoch = int(row.pop("epoch"))
        if epoch <= done:
            figures = {str(key): float(value) for key, value in row.items()}
            job.report({"kind": "epoch", "epoch": epoch, "epochs": epochs, "metrics": json_safe(figures)})


def _judge(job: Job, layout: Layout, run: Path, trained: ultralytics.Validation, started: float) -> None:
    """Writes what a trial is judged by; the weights are not kept, for the training that follows makes them again."""
    results = pd.read_csv(run / "results.csv", skipinitialspace=True)
    summary = {
        "objective": trained.metrics["map50_95"],
        "metrics": trained.metrics,
        "epochs_run": len(results),
        "optimistic": layout.optimistic,
        "seconds": time.monotonic() - started,
    }
    out = job.output / "trial"
    out.mkdir(parents=True, exist_ok=True)
    (out / "trial.json").write_text(json.dumps(json_safe(summary), indent=1))
    job.report({"kind": "trained", **json_safe({key: summary[key] for key in ("metrics", "epochs_run")})})


def _finish(
    job: Job,
    chosen: Mapping[str, Any],
    layout: Layout,
    run: Path,
    trained: ultralytics.Validation,
    crew: together.Crew,
    started: float,
) -> None:
    from detection_assets.programs.train_agreement import agreement

    out = job.output / "weights"
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(run / "weights" / "best.pt", out / "best.pt")
    shutil.copyfile(run / "results.csv", out / "results.csv")
    job.log("exporting to ONNX")
    onnx = ultralytics.export(out / "best.pt", int(chosen["imgsz"]))
    job.log("comparing ONNX with PyTorch")
    step = max(1, len(layout.files) // AGREEMENT_IMAGES)
    agrees = agreement(out / "best.pt", onnx, layout.files[::step][:AGREEMENT_IMAGES], int(chosen["imgsz"]))
    results = pd.read_csv(out / "results.csv", skipinitialspace=True)
    losses = [column for column in results.columns if "loss" in column]
    fitness = results["metrics/mAP50-95(B)"]
    summary = {
        "metrics": trained.metrics,
        "per_class": trained.per_class,
        "epochs_run": len(results),
        "best_epoch": int(results["epoch"][fitness == fitness.max()].max()),
        "seconds": time.monotonic() - started,
        "loss_finite": bool(np.isfinite(results[losses].to_numpy(np.float64)).all()),
        "optimistic": layout.optimistic,
        "images": layout.images,
        "boxes": layout.boxes,
        "problems": [str(problem) for problem in layout.problems],
        "processes": crew.size,
        "instances": crew.world.instances,
        "settings": {**chosen, "model": Path(str(chosen["model"])).name},
        "agreement": agrees,
        "environment": libraries.loaded(),
        "base_sha256": _digest(str(chosen["model"])),
    }
    _curves(results, out / "curves.png")
    (out / "training.json").write_text(json.dumps(json_safe(summary), indent=1))
    job.report({"kind": "trained", **json_safe({key: summary[key] for key in ("metrics", "epochs_run", "agreement")})})
    job.log(f"trained: mAP50 {trained.metrics['map50']:.3f} on the validation images, {summary['epochs_run']} epochs")


def _digest(model: str) -> str:
    """Digest of the weights that training started from; "" where it started from none."""
    path = Path(model)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.suffix == ".pt" and path.is_file() else ""


def _curves(results: pd.DataFrame, path: Path) -> None:
    epochs = results["epoch"].to_numpy()

    def lines(*prefixes: str) -> dict[str, tuple[Any, Any]]:
        chosen = [column for column in results.columns if column.startswith(prefixes)]
        return {column.removesuffix("(B)"): (epochs, results[column].to_numpy()) for column in chosen}

    losses = {name: line for name, line in lines("train/", "val/").items() if "loss" in name}
    line_charts(path, [("losses", "epoch", losses), ("validation", "epoch", lines("metrics/"))])


if __name__ == "__main__":
    main(run, __doc__)

"""Scores a new model, and the one in service, on the same frozen frames with the code that serves.

Inputs: `dataset` (images.parquet, boxes.parquet), `frames`, `challenger` (folder with best.onnx) and optionally
`champion`, and `full` where the challenger is exported below float32: the same network in float32.
Parameters: `classes`, `split` (test), `evaluation` (confidence, iou, max_det, bootstrap, seed), `gates`.
Output `evaluation/`: metrics.parquet, predictions.parquet, summary.json, confusion.png, pr.png, and of
the frames in which truth and prediction disagree most worst.html, and a few of them as worst.jpg.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from detection_assets.domain import contact_html, contact_sheet, disagreements, gates, tiles
from detection_assets.domain.metrics import Scores, difference, json_safe
from detection_assets.domain.problems import InputError, Problem
from detection_assets.programs.draw import Picture, line_charts, matrix_chart, read_ahead, read_rgb
from detection_assets.programs.job import Job, main
from detection_assets.programs.train_dataset import read_snapshot

if TYPE_CHECKING:
    from detection_assets.serving.predictor import Detections, Predictor

DEFAULTS: dict[str, Any] = {"confidence": 0.001, "iou": 0.7, "max_det": 300, "bootstrap": 1000, "seed": 0}

SHOWN = 0.25
"""Confidence at which mistakes are counted and drawn, and speed is measured: what people usually serve at."""

WORST = 60
"""Frames on the page of the worst disagreements."""
COCO_MAX_DET = 100
LATENCY_ROUNDS = 50


def run(job: Job) -> None:
    """Evaluates.

    Args:
        job: See the module.

    Raises:
        InputError: A model, the dataset or a parameter cannot be used.
    """
    classes = [str(name) for name in job.params.get("classes", [])]
    settings = _settings(job.params.get("evaluation") or {})
    images, boxes = _split(job, classes)
    models = _models(job, classes, settings)
    latency = {name: _latency(job, name, model, images) for name, model in models.items()}
    predictions, problems = _predict(job, models, images, classes)
    images = images.loc[~images["frame"].isin([problem.place for problem in problems])].reset_index(drop=True)
    if images.empty:
        raise InputError(f"none of the frames can be read; the first: {problems[0]}")
    boxes = boxes.loc[boxes["frame"].isin(images["frame"])]
    job.log("scoring")
    most = int(boxes.groupby(["frame", "class"]).size().max()) if len(boxes) else 0
    max_det = COCO_MAX_DET if most <= COCO_MAX_DET else max(int(settings["max_det"]), COCO_MAX_DET)
    scores = {
        name: Scores(boxes, predictions.loc[predictions["model"] == name], images, classes, max_det) for name in models
    }
    resamples, seed = int(settings["bootstrap"]), int(settings["seed"])
    tables = [part.table(resamples, seed).assign(model=name) for name, part in scores.items()]
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, "model", table.pop("model"))
    gap = difference(scores["challenger"], scores["champion"], resamples, seed) if "champion" in scores else None
    figures: dict[str, dict[str, Any]] = {
        name: {**part.overall(), **latency[name], "size_mb": models[name].path.stat().st_size / 1e6,
               "sha256": models[name].sha256, "classes": models[name].classes}
        for name, part in scores.items()
    }  # fmt: skip
    verdicts = gates.judge(
        table,
        job.params.get("gates") or {},
        difference=gap,
        latency_ms=figures["challenger"]["latency_ms"],
        size_mb=figures["challenger"]["size_mb"],
    )
    out = job.output / "evaluation"
    out.mkdir(parents=True, exist_ok=True)
    table.to_parquet(out / "metrics.parquet", index=False)
    predictions.to_parquet(out / "predictions.parquet", index=False)
    job.log("drawing")
    worst = _pictures(job, scores["challenger"], boxes, images, classes, out)
    summary = {
        **figures,
        "difference": asdict(gap) if gap else None,
        "gates": [asdict(verdict) for verdict in verdicts],
        "passed": gates.passed(verdicts),
        "split": job.params.get("split", "test"),
        "images": len(images),
        "boxes": len(boxes),
        "resampled": scores["challenger"].units()[0],
        "optimistic": bool(images["shared_group"].any()),
        "max_det_scored": max_det,
        "settings": settings,
        "worst": worst,
        "problems": [str(problem) for problem in problems],
    }
    (out / "summary.json").write_text(json.dumps(json_safe(summary), indent=1))
    job.report({"kind": "evaluated", **json_safe({key: summary[key] for key in ("challenger", "gates", "passed")})})
    for verdict in verdicts:
        job.log(f"gate {verdict.gate}: {'passed' if verdict.passed else 'FAILED'}: {verdict.why}")


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in given.items():
        if key not in DEFAULTS:
            raise InputError(f"evaluation.{key}: unknown; there are {', '.join(DEFAULTS)}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
            raise InputError(f"evaluation.{key}: {value!r} is not a number of 0 or more")
    return {**DEFAULTS, **given}


def _split(job: Job, classes: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The frames of the split and their boxes; `shared_group` says whether a frame's group was trained on too."""
    if not classes:
        raise InputError("params.json: `classes` is empty; name at least one class")
    job.needs("dataset", "frames", "challenger")
    images, boxes = read_snapshot(job.inputs["dataset"])
    split = str(job.params.get("split", "test"))
    trained = images.loc[images["split"] == "train", "group"]
    images = images.loc[images["split"] == split].reset_index(drop=True)
    if images.empty:
        raise InputError(
            f"{job.inputs['dataset'] / 'images.parquet'}: no frame is in the split {split!r}; give it a larger share "
            "or add videos of another group"
        )
    images = images.assign(shared_group=images["group"].isin(trained))
    boxes = boxes.loc[boxes["class"].notna() & boxes["frame"].isin(images["frame"])].reset_index(drop=True)
    unknown = sorted(set(boxes["class"]) - set(classes))
    if unknown:
        raise InputError(
            f"boxes.parquet: class {', '.join(map(repr, unknown))} is not among the detector's classes "
            f"({', '.join(classes)}); build the dataset again"
        )
    return images, boxes


def _models(job: Job, classes: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Predictor]:
    from detection_assets.serving.predictor import Predictor

    models: dict[str, Predictor] = {}
    for name in ("challenger", "champion", gates.FULL):
        if name not in job.inputs:
            continue
        job.log(f"loading the {name}")
        folder = job.inputs[name]
        try:
            models[name] = Predictor(
                folder / "best.onnx" if folder.is_dir() else folder,
                confidence=float(settings["confidence"]),
                iou=float(settings["iou"]),
                max_det=int(settings["max_det"]),
            )
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"evaluation: {error}") from error
    missing = sorted(set(classes) - set(models["challenger"].classes))
    if missing:
        raise InputError(
            f"{models['challenger'].path}: the challenger does not know {', '.join(missing)}; train it on this dataset"
        )
    return models


def _latency(job: Job, name: str, model: Predictor, images: pd.DataFrame) -> dict[str, float]:
    """Milliseconds of one prediction, letterbox and suppression included, on frames of the split, one at a time."""
    pictures: list[Picture] = []
    for file in images["file"].astype(str).iloc[:: max(1, len(images) // LATENCY_ROUNDS)]:
        try:
            pictures.append(read_rgb(job.inputs["frames"] / file))
        except InputError:
            continue  # told where it is scored
        if len(pictures) == 8:  # enough variety, and bounded memory
            break
    if not pictures:
        return {"latency_ms": math.nan, "latency_p95_ms": math.nan}
    model.warm_up()
    seconds: list[float] = []
    for at in range(LATENCY_ROUNDS):
        began = time.perf_counter()
        model.predict(pictures[at % len(pictures)], SHOWN)
        seconds.append(time.perf_counter() - began)
    median, p95 = np.percentile(np.asarray(seconds) * 1e3, [50, 95]).tolist()
    job.log(f"the {name} takes {median:.1f} ms a picture (95 of 100 within {p95:.1f} ms)")
    return {"latency_ms": median, "latency_p95_ms": p95}


def _predict(
    job: Job, models: Mapping[str, Predictor], images: pd.DataFrame, classes: Sequence[str]
) -> tuple[pd.DataFrame, list[Problem]]:
    """Predictions of all models over all frames; a frame that cannot be read is a problem with its id as place."""
    found: list[tuple[str, str, list[str], Detections]] = []
    problems: list[Problem] = []
    frames, files = images["frame"].tolist(), images["file"].astype(str).tolist()
    paths = [job.inputs["frames"] / file for file in files]
    for at, picture in enumerate(read_ahead(paths)):
        if isinstance(picture, InputError):
            problems.append(Problem(files[at], frames[at], str(picture), "skipped"))
        else:
            for name, model in models.items():
                found.append((name, frames[at], model.classes, model.predict(picture)))
        job.progress(at + 1, len(frames), "frames predicted")
    for problem in problems[:20]:
        job.log(str(problem))
    counts = [len(each) for *_, each in found]
    names = [names[k] for _, _, names, each in found for k in each.class_id.tolist()]
    corners = np.concatenate([np.zeros((0, 4), np.float32), *(each.boxes for *_, each in found)]).astype(np.float64)
    sure = np.concatenate([np.zeros(0, np.float32), *(each.confidence for *_, each in found)]).astype(np.float64)
    columns: dict[str, Any] = {
        "model": np.repeat(np.array([name for name, *_ in found], object), counts),
        "frame": np.repeat(np.array([frame for _, frame, *_ in found], object), counts),
        "class": np.array(names, object),
        "confidence": sure,
    }
    predictions = pd.DataFrame({**columns, **dict(zip(("x1", "y1", "x2", "y2"), corners.T, strict=True))})
    # A champion may know classes that the detector has given up since.
    return predictions.loc[predictions["class"].isin(list(classes))].reset_index(drop=True), problems


def _pictures(
    job: Job, scores: Scores, boxes: pd.DataFrame, images: pd.DataFrame, classes: Sequence[str], out: Path
) -> list[dict[str, Any]]:
    """Draws the challenger's confusion matrix, its curves and its worst frames.

    Returns:
        The worst frames: score, counts, and what is wrong in words.
    """
    title = f"boxes of confidence {SHOWN:g} and more, IoU 0.50"
    matrix_chart(out / "confusion.png", scores.confusion(SHOWN), title)
    curves = {
        str(name): (part["recall"].to_numpy(), part["precision"].to_numpy())
        for name, part in scores.curves().groupby("class", sort=False)
    }
    line_charts(out / "pr.png", [("precision over recall, IoU 0.50", "recall", curves)])
    sure = scores.predictions.loc[scores.predictions["confidence"] >= SHOWN]
    judged = disagreements.judge(boxes, sure, images["frame"].tolist())
    ranked = disagreements.rank(judged, images["frame"].tolist())
    worst = ranked.loc[ranked["score"] > 0].head(WORST)
    if worst.empty:
        return []
    files = images.assign(key=images["file"])

    def laid_out(of: pd.DataFrame) -> list[tuple[tiles.Tile, str]]:
        return tiles.laid_out(of[["frame"]].merge(files, on="frame"), judged, classes, both=True)

    def with_pictures(wanted: Sequence[tuple[tiles.Tile, str]], width: int) -> Iterator[tiles.Tile]:
        for tile, file in wanted:
            yield tiles.shown(tile, (job.inputs["frames"] / file).read_bytes(), width)

    heading = f"Worst disagreements on the {job.params.get('split', 'test')} split"
    wanted = laid_out(worst)
    notes = [f"{len(wanted)} of {len(images)} frames, the worst first; {title}.", disagreements.totals(ranked)]
    with (out / "worst.html").open("w", encoding="utf-8", errors="replace") as page:
        shown = with_pictures(wanted, tiles.WIDTH)
        page.writelines(contact_html.page(shown, heading, notes, classes, both=True))
    videos = ranked[["frame"]].merge(images, on="frame")["video"]
    few = laid_out(disagreements.a_few(ranked, videos, contact_sheet.FEW))
    shown = with_pictures(few, contact_sheet.FEW_WIDTH)
    shape = contact_sheet.shape_of(tile.size for tile, _ in few)
    (out / "worst.jpg").write_bytes(contact_sheet.a_few(shown, len(few), heading, classes, shape))
    return [{**row, "told": tile.verdict} for row, (tile, _) in zip(worst.to_dict("records"), wanted, strict=True)]


if __name__ == "__main__":
    main(run, __doc__)

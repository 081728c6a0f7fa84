"""The detector's weights, and how they came about.

Version: the digest of `best.onnx`, which is what is served: in float32, or written again for fewer bits, which is a
step of its own. A training with the same data, settings and code is not run twice; one that was killed goes on from its
last epoch. What `tuned_hyperparameters` found best goes over what is in the detector's file, if there is such a table
and the file lets it.
"""

import hashlib
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd

from detection_assets.detector import Detector
from detection_assets.domain import card, layout, retraining, tuning
from detection_assets.pictures import published_pictures
from resources import tables
from resources.compute.base import Compute, Input, Step, StepResult, version_of
from resources.storage import Published, Storage
from resources.tracking import TrackedRun, Tracking

CODE = "1"
AGREE = 0.99
"""Share of boxes that ONNX and PyTorch must have in common: what is evaluated here is what was trained there."""


@dg.asset(
    dagster_type=tables.TABLE,
    code_version=CODE,
    kinds={"pytorch", "mlflow"},
    # Only to be told when it changes: there may be none, and that is no obstacle.
    deps=["tuned_hyperparameters"],
    metadata={"settings": ["training", "classes"]},
    check_specs=[
        dg.AssetCheckSpec(
            "onnx_agrees", asset="trained_weights", blocking=True, description="ONNX answers as PyTorch does."
        ),
        dg.AssetCheckSpec("loss_finite", asset="trained_weights", description="The losses stayed finite."),
    ],
)
def trained_weights(
    context: dg.AssetExecutionContext,
    detector: dg.ResourceParam[Detector],
    storage: Storage,
    compute: Compute,
    tracking: Tracking,
    detection_dataset: pd.DataFrame,
) -> dg.MaterializeResult:
    """One row: digests and places of `best.onnx` and `best.pt`, what taught them, figures, cost, MLflow run."""
    dataset = str(detection_dataset["dataset_version"].iloc[0])
    settings = detector.training.for_the_trainer()
    tuned = _tuned(storage) if detector.training.tuned else None
    if tuned is not None:
        settings = tuning.merged(settings, json.loads(tuned["params"]))
    version = version_of("train", CODE, dataset, detector.classes, settings)
    tags = {"detector": detector.name, "dataset_version": dataset, "weights_version": version}
    published_dataset = storage.published(layout.dataset(dataset))
    assert published_dataset is not None, f"{dataset} is in the table but not published"
    learned_from = detection_dataset[detection_dataset["split"] != "test"]
    step = Step(
        program="train",
        version=version,
        inputs={
            "dataset": Input(published_dataset.folder),
            "frames": Input(layout.FRAMES, [key.removeprefix(layout.FRAMES + "/") for key in learned_from["key"]]),
        },
        outputs={"weights": layout.weights(version)},
        params={"classes": list(detector.classes), "training": settings, "device": None},
        hardware=detector.training.hardware,
        notes={"dataset_version": dataset, **_by(tuned)},
    )
    export = detector.training.export
    cause = retraining.cause(context.run.tags)
    with tracking.run(context, tags) as tracked:
        live: list[int] = []

        def on_report(report: Mapping[str, Any]) -> None:
            if report.get("kind") == "epoch":
                live.append(int(report["epoch"]))
                tracked.log_metrics(report["metrics"], step=int(report["epoch"]))

        result = compute.run(context, step, on_report)
        weights = result.outputs["weights"]
        training = json.loads(storage.get(weights.key("training.json")))
        # How many share a training is not in its version: it stays what it is where there are more GPUs.
        processes = int(training.get("processes", 1))
        known = [] if live else tracking.find(tags)
        if known:
            run_id = known[0].info.run_id
        else:
            params = {**settings, **tags, **_by(tuned), **cause, "processes": processes}
            _log(storage, tracked, weights, training, params, epochs=not live)
            run_id = tracked.run_id
    reducing = _reducing(step, weights, export) if export != "f32" else None
    reduced = compute.run(context, reducing) if reducing else None
    served = reduced.outputs["weights"] if reduced else weights
    table = _table(storage, detector, weights, served, training, [result, *([reduced] if reduced else [])]).assign(
        weights_version=reducing.version if reducing else version, dataset_version=dataset, mlflow_run=run_id
    )
    curves = published_pictures(storage, {"curves": weights.key("curves.png")})
    per_class = pd.DataFrame(training["per_class"]).T.rename_axis("class").reset_index()
    row = table.iloc[0]
    return dg.MaterializeResult(
        value=table,
        data_version=dg.DataVersion(row["sha256"][:16]),
        metadata={
            "curves": dg.MetadataValue.md(" ".join(curves.values())),
            "per class": dg.MetadataValue.md(card.frame_table(per_class)),
            "tuned": dg.MetadataValue.md(_told(tuned)),
            "export": dg.MetadataValue.md(_export(storage, served) if reduced else "f32"),
            "map50 on val": float(row["map50"]),
            "epochs": int(row["epochs"]),
            "processes": processes,
            "dataset_version": dataset,
            **cause,
            "instance": result.instance,
            "seconds": float(row["seconds"]),
            "cost_usd": float(row["cost_usd"]),
            "reused": result.reused,
            "mlflow_run": run_id,
            "best.onnx": storage.uri_of(row["onnx"]),
            **({"mlflow": dg.MetadataValue.url(tracking.link(run_id))} if tracking.link(run_id) else {}),
        },
        check_results=[onnx_agrees(training["agreement"]), loss_finite(bool(training["loss_finite"]))],
    )


def _tuned(storage: Storage) -> dict[str, Any] | None:
    """The best trial of the last tuning, or None if there was none."""
    try:
        trials = tables.read(storage, "tuned_hyperparameters")
    except FileNotFoundError:
        return None
    best = trials[trials["best"]]
    return {str(key): value for key, value in best.iloc[0].items()} if len(best) else None


def _by(tuned: Mapping[str, Any] | None) -> dict[str, Any]:
    """Which trial of which tuning gave the values, for the records."""
    if tuned is None:
        return {}
    return {"tuning_version": tuned["tuning_version"], "tuning_trial": int(tuned["trial"])}


def _told(tuned: Mapping[str, Any] | None) -> str:
    if tuned is None:
        return "no: the settings are those of the detector's file"
    values = card.table(["setting", "value"], json.loads(tuned["params"]).items())
    return f"by trial {tuned['trial']} of {tuned['tuning_version']}, on {tuned['dataset_version']}\n\n{values}"


def _log(
    storage: Storage,
    tracked: TrackedRun,
    weights: Published,
    training: Mapping[str, Any],
    params: Mapping[str, Any],
    *,
    epochs: bool,
) -> None:
    """Writes to MLflow what was not written while the program ran."""
    tracked.log_params(params)
    if epochs:
        results = pd.read_csv(io.BytesIO(storage.get(weights.key("results.csv"))))
        for row in results.rename(columns=str.strip).to_dict("records"):
            tracked.log_metrics({str(key): value for key, value in row.items()}, step=int(row["epoch"]))
    tracked.log_metrics({f"final/{key}": value for key, value in training["metrics"].items()})
    for name, figures in training["per_class"].items():
        tracked.log_metrics({f"AP50/{name}": figures["ap50"], f"AP50-95/{name}": figures["ap50_95"]})
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("curves.png", "results.csv", "training.json"):
            path = Path(scratch) / name
            path.write_bytes(storage.get(weights.key(name)))
            tracked.log_file(path)


def _reducing(training: Step, weights: Published, export: str) -> Step:
    """The step that writes trained weights again for fewer bits."""
    version = version_of("quantize", CODE, training.version, export)
    return replace(
        training,
        program="quantize",
        version=version,
        inputs={**training.inputs, "weights": Input(weights.folder, ["best.onnx"])},
        outputs={"weights": layout.weights(version)},
        params={"export": export},
    )


def _export(storage: Storage, served: Published) -> str:
    told = json.loads(storage.get(served.key("quantized.json")))
    if told["calculates_in"] != told["export"]:
        return (
            f"{told['export']}, but the processor that this was tried on calculates in {told['calculates_in']}: "
            f"{told['latency_ms']:.1f} ms a picture beside {told['latency_ms_f32']:.1f} ms in f32"
        )
    return (
        f"{told['export']}: {told['latency_ms']:.1f} ms a picture beside {told['latency_ms_f32']:.1f} ms in f32, "
        f"{told['bytes'] / 1e6:.1f} MB beside {told['bytes_f32'] / 1e6:.1f} MB"
    )


def _table(
    storage: Storage,
    detector: Detector,
    weights: Published,
    served: Published,
    training: Mapping[str, Any],
    steps: Sequence[StepResult],
) -> pd.DataFrame:
    row = {
        "sha256": _digest(storage, served.key("best.onnx")),
        "sha256_pt": _digest(storage, weights.key("best.pt")),
        "onnx": served.key("best.onnx"),
        "pt": weights.key("best.pt"),
        "base_weights": detector.training.model,
        "code_version": CODE,
        "classes": json.dumps(list(detector.classes)),
        "imgsz": detector.training.imgsz,
        "epochs": training["epochs_run"],
        "map50": training["metrics"]["map50"],
        "map50_95": training["metrics"]["map50_95"],
        "bytes": served.files["best.onnx"],
        "export": detector.training.export,
        "onnx_f32": weights.key("best.onnx"),
        "seconds": sum(step.seconds for step in steps),
        "cost_usd": sum(step.cost_usd for step in steps),
    }
    return pd.DataFrame([row])


def _digest(storage: Storage, key: str) -> str:
    return hashlib.sha256(storage.get(key)).hexdigest()


def onnx_agrees(agreement: Mapping[str, Any]) -> dg.AssetCheckResult:
    """The exported network is the trained one, to within rounding."""
    return dg.AssetCheckResult(
        check_name="onnx_agrees",
        passed=float(agreement["matched_share"]) >= AGREE,
        metadata={key: value for key, value in agreement.items() if isinstance(value, int | float | str)},
    )


def loss_finite(finite: bool) -> dg.AssetCheckResult:
    """A loss that became NaN leaves weights that only look trained."""
    return dg.AssetCheckResult(check_name="loss_finite", passed=finite, severity=dg.AssetCheckSeverity.WARN)

"""The jobs of a detector: parts of the graph that make sense to run by themselves."""

from __future__ import annotations

import dagster as dg

from resources import revision

INGEST = ("raw_videos", "extracted_frames", "annotations")
TRAIN = ("detection_dataset", "trained_weights", "evaluation")
TUNE = ("tuned_hyperparameters",)
"""Made when somebody asks for it, and no part of bringing a detector up to date."""
DEPLOY = ("registered_model", "deployed_endpoint")
STAGES = INGEST + TRAIN + DEPLOY
"""Every stage that keeps a detector up to date, in the order the data flows."""

APPROVAL = ("approved_by", "approved_at", "approval_reason")
"""Who decided about a version, when and why: tags in the registry, columns of `registered_model`."""

PREDICT = ("batch_predictions",)
MONITOR = ("captured_requests", "drift_report")
"""What watches the endpoint: a day at a time, again and again while it lasts."""
LABEL = ("label_requests",)
"""Made when somebody has time to label."""

MAX_RUNTIME_S = 24 * 3600
"""A run whose machine died would stay in progress for ever; after this it counts as failed."""


def keys(detector: str, stages: tuple[str, ...]) -> list[dg.AssetKey]:
    """The asset keys of some stages of a detector."""
    return [dg.AssetKey([detector, stage]) for stage in stages]


def jobs_of(detector: str) -> list[dg.UnresolvedAssetJobDefinition]:
    """The jobs `ingest`, `tune`, `train`, `deploy`, `retrain`, `everything`, `predict`, `monitor`, `label`.

    Stages of one job run in one process: between small steps a process of its own would cost more than the step.
    """
    parts = {
        "ingest": (INGEST, "Take in videos and annotations: read, extract frames, read boxes."),
        "tune": (TUNE, "Try settings of the training; the next training takes the best. Run again, it goes on."),
        "train": (TRAIN, "Build the dataset, train, evaluate against the gates."),
        "deploy": (DEPLOY, "Register the model that passed and let the endpoint serve it."),
        "retrain": (TRAIN + DEPLOY, "Build the dataset, train, and serve the model if it passes the gates."),
        "everything": (STAGES, "From raw videos to the answering endpoint."),
        "predict": (PREDICT, "Let the model in service look at every kept frame of some videos."),
        "monitor": (MONITOR, "Read what the endpoint kept of a day's requests and say whether anything drifts."),
        "label": (LABEL, "Choose the pictures most worth labelling and hand them to the annotators' tool."),
    }
    return [
        dg.define_asset_job(
            f"{detector}_{name}",
            selection=dg.AssetSelection.assets(*keys(detector, stages)),
            description=description,
            executor_def=dg.in_process_executor,
            tags={"dagster/max_runtime": str(MAX_RUNTIME_S), "detection/detector": detector, **revision.tags()},
        )
        for name, (stages, description) in parts.items()
    ]

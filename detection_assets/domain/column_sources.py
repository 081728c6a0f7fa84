"""Where the columns of the tables come from: for each, the columns of earlier tables that its values are made from.

A column that is not listed is made where it stands: measured, drawn by people, or chosen by the stage itself. It is
shown in the catalogue, column by column, and told to catalogues outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_DRAWN = tuple(f"annotations.{column}" for column in ("frame", "class", "x1", "y1", "x2", "y2"))
_JUDGED = ("trained_weights.onnx", "detection_dataset.key", "detection_dataset.annotations", "detection_dataset.split")
_COMPARED = ("captured_requests.time", "captured_requests.version", "captured_requests.why", "captured_requests.answer")
_PREDICTED = ("extracted_frames.key", "deployed_endpoint.sha256")
_CHOSEN = (
    *("extracted_frames.key", "annotations.frame", "captured_requests.image", "captured_requests.answer"),
    "drift_report.verdict",
)


def _same(table: str, *columns: str) -> dict[str, tuple[str, ...]]:
    """Columns that are those of another table, of the same names."""
    return {column: (f"{table}.{column}",) for column in columns}


def _from(sources: Sequence[str], *columns: str) -> dict[str, tuple[str, ...]]:
    """Columns that are all made from the same others."""
    return {column: tuple(sources) for column in columns}


SOURCES: Mapping[str, Mapping[str, Sequence[str]]] = {
    "extracted_frames": {
        **_same("raw_videos", "video"),
        "frame": ("raw_videos.video",),
        **_from(("raw_videos.uri", "raw_videos.sha256"), "index", "pts_s", "key", "sha256", "phash"),
        **_from(("raw_videos.uri",), "width", "height", "sharpness", "brightness", "kept", "reason"),
    },
    "annotations": {
        **_same("extracted_frames", "video", "frame"),
        # Formats that tell shares of the picture are turned into its pixels.
        **_from(("extracted_frames.width", "extracted_frames.height"), "x1", "y1", "x2", "y2"),
    },
    "detection_dataset": {
        **_same("extracted_frames", "frame", "video", "key", "width", "height", "sha256"),
        "group": ("extracted_frames.video",),
        "split": ("extracted_frames.video", "extracted_frames.phash", "annotations.class"),
        "boxes": ("annotations.frame", "annotations.class"),
        "annotations": _DRAWN,
        "dataset_version": ("extracted_frames.video", "extracted_frames.sha256", *_DRAWN),
    },
    "tuned_hyperparameters": {
        **_same("detection_dataset", "dataset_version"),
        **_from(("detection_dataset.key", "detection_dataset.split"), "value", "best"),
    },
    "trained_weights": {
        **_same("detection_dataset", "dataset_version"),
        **_from(
            ("detection_dataset.dataset_version", "tuned_hyperparameters.params", "tuned_hyperparameters.best"),
            *("weights_version", "sha256", "sha256_pt", "onnx", "pt", "onnx_f32"),
        ),
        **_from(("detection_dataset.key", "detection_dataset.split"), "map50", "map50_95"),
    },
    "evaluation": {
        **_same("detection_dataset", "dataset_version"),
        **_same("trained_weights", "sha256"),
        "evaluation_version": ("detection_dataset.dataset_version", "trained_weights.sha256"),
        "dataset_table": ("detection_dataset.dataset_version",),
        "slice": ("detection_dataset.group", "detection_dataset.video"),
        **_from(_JUDGED, "ap50", "ap50_95", "recall", "low", "high"),
        **_from(("detection_dataset.split", "detection_dataset.boxes"), "n_images", "n_boxes"),
    },
    "registered_model": {
        **_same("trained_weights", "sha256", "onnx", "weights_version", "dataset_version"),
        **_same("evaluation", "evaluation_version"),
        "version": ("trained_weights.sha256", "evaluation.evaluation_version"),
        "map50": ("evaluation.ap50",),
    },
    "deployed_endpoint": _same("registered_model", "version", "sha256"),
    "batch_predictions": {
        **_same("extracted_frames", "video", "frame"),
        **_same("deployed_endpoint", "sha256"),
        "model_version": ("deployed_endpoint.version",),
        **_from(_PREDICTED, "class", "confidence", "x1", "y1", "x2", "y2"),
    },
    "captured_requests": {
        **_same("deployed_endpoint", "slot", "version"),
        "answer": ("deployed_endpoint.sha256",),
        "boxes": ("deployed_endpoint.sha256",),
    },
    "drift_report": {
        **_same("captured_requests", "day", "version"),
        "production_n": ("captured_requests.request_id", "captured_requests.why"),
        **_from(_COMPARED, "production_size", "production_mean", "production_median", "psi", "ks", "p", "verdict"),
    },
    "label_requests": {
        "video": ("extracted_frames.video", "captured_requests.day"),
        "frame": ("extracted_frames.frame", "captured_requests.request_id"),
        "key": ("extracted_frames.key", "captured_requests.image"),
        "model": ("deployed_endpoint.version",),
        "proposals": ("deployed_endpoint.sha256",),
        **_from(_CHOSEN, "rank", "reason", "why"),
    },
}


def of(table: str) -> dict[str, list[tuple[str, str]]]:
    """Where the columns of a table come from: by column, pairs of an earlier table and its column."""
    return {
        column: [(name, source) for name, _, source in (one.partition(".") for one in sources)]
        for column, sources in SOURCES.get(table, {}).items()
    }

"""The tables of the asset graph: each asset's columns, their types and what they mean.

The schema is checked whenever a table is written, and shown in the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its pandas dtype, what it holds, and whether a table may lack it, which then reads as nulls."""

    dtype: str
    meaning: str
    optional: bool = False


def columns(*, optional: bool = False, **columns: tuple[str, str]) -> dict[str, Column]:
    """A schema: dtype and meaning by column; a name that is a word of Python's is written with `_` behind it."""
    return {name.rstrip("_"): Column(*column, optional) for name, column in columns.items()}


_BOX = columns(
    x1=("float64", "Left edge, pixels from the left of the frame."),
    y1=("float64", "Top edge, pixels from the top of the frame."),
    x2=("float64", "Right edge, pixels; x2 - x1 is the width."),
    y2=("float64", "Bottom edge, pixels; y2 - y1 is the height."),
)

PARTITION_COLUMNS = ("video", "day")
"""What a partition can be; a table has at most one of these."""

SCHEMAS: dict[str, dict[str, Column]] = {
    "raw_videos": columns(
        video=("string", "The video's key: its path below `videos/`."),
        group=("string", "What must not be split: store, camera or patient."),
        kind=("string", "`video` for a file, `images` for a folder of images."),
        sha256=("string", "Digest of the content (of the images' names and contents, for a folder)."),
        bytes=("Int64", "Size of the content."),
        codec=("string", "Codec of the video stream, or the images' formats."),
        fps=("float64", "Average frames a second as the container says; NaN for images."),
        duration_s=("float64", "Duration in seconds as the container says; NaN for images."),
        width=("Int64", "Width in pixels, as displayed."),
        height=("Int64", "Height in pixels, as displayed."),
        frames_declared=("Int64", "Frames that the container's header claims."),
        frames_decodable=("Int64", "Frames whose data is really there."),
        uri=("string", "Where it lies."),
        problem=("string", "What is wrong with it; null if nothing is."),
    ),
    "extracted_frames": columns(
        video=("string", "The video's key."),
        frame=("string", "The frame's id: `<video>#<index>`, or `<folder>#<file name>`."),
        index=("Int64", "Position in display order, from 0."),
        pts_s=("float64", "Exact presentation time in seconds; NaN for images."),
        key=("string", "Storage key of the picture; null if dropped."),
        width=("Int64", "Width in pixels, as displayed."),
        height=("Int64", "Height in pixels, as displayed."),
        sha256=("string", "Digest of the picture's bytes; null if dropped."),
        phash=("string", "Perceptual hash, 64 bits in hex."),
        sharpness=("float64", "Variance of the Laplacian of the luma at a fixed size."),
        brightness=("float64", "Mean luma, 0 to 255."),
        kept=("bool", "Whether the frame was kept."),
        reason=("string", "Why it was dropped; empty if kept."),
    ),
    "annotations": {
        **columns(
            video=("string", "The video's key."),
            frame=("string", "The frame's id."),
            class_=("string", "The class; null on the one row of a frame that an annotator looked at and found empty."),
        ),
        **_BOX,
        **columns(
            track=("string", "The object's id along the video, where the format has one."),
            source=("string", "The annotation file, a storage key."),
            annotator=("string", "Who drew it, where the format says."),
            reviewed=("bool", "Whether a reviewer accepted it, where the format says."),
        ),
        **columns(
            optional=True,
            confidence=("float64", "How sure the annotator was, 0 to 1; NaN where the format does not say."),
            keyframe=("boolean", "False where it was interpolated between drawn ones; null if not told."),
            difficult=("boolean", "Whether it is hard to recognise; null if not told."),
            truncated=("boolean", "Whether the object goes on outside the box; null if not told."),
            occluded=("boolean", "Whether something hides a part of it; null if not told."),
            crowd=("boolean", "Whether the box holds a group of objects; null if not told."),
            attributes=("string", "What else the annotator said of it, a JSON object; null if nothing."),
        ),
    },
    "detection_dataset": {
        **columns(
            dataset_version=("string", "`ds-` and 12 hex digits of the content's hash."),
            frame=("string", "The frame's id."),
            video=("string", "The video's key."),
            group=("string", "The video's group."),
            split=("string", "train, val or test."),
            key=("string", "Storage key of the picture."),
            width=("Int64", "Width in pixels."),
            height=("Int64", "Height in pixels."),
            sha256=("string", "Digest of the picture's bytes."),
            boxes=("Int64", "How many boxes it has."),
        ),
        **columns(
            optional=True,
            annotations=("string", "Version of the video's annotations that the boxes are from."),
            labels=("string", "Digest of the boxes on it, by class and place: of two versions, it says what changed."),
        ),
    },
    "tuned_hyperparameters": columns(
        trial=("Int64", "The trial's number, from 0."),
        state=("string", "complete, pruned (ended early, behind the others), failed, or running (to be gone on with)."),
        value=("float64", "mAP50-95 on the validation split; of one that is not complete, its best epoch's."),
        epochs=("Int64", "Epochs that were run."),
        seconds=("float64", "Seconds of compute."),
        params=("string", "The values that were tried, by setting of the training, as JSON."),
        best=("bool", "Whether it is the one whose values the next training takes."),
        why=("string", "Why it failed; empty if it did not."),
        mlflow_run=("string", "The trial's MLflow run."),
        dataset_version=("string", "The dataset that was learned from."),
        tuning_version=("string", "Version of the tuning: data, settings, space and code."),
    ),
    "trained_weights": columns(
        weights_version=("string", "Version of the step that made best.onnx: data, settings and code."),
        sha256=("string", "Digest of best.onnx, which is what is served."),
        sha256_pt=("string", "Digest of best.pt."),
        onnx=("string", "Storage key of best.onnx."),
        pt=("string", "Storage key of best.pt."),
        base_weights=("string", "What the training started from."),
        dataset_version=("string", "The dataset that taught it."),
        code_version=("string", "Version of the training code and settings."),
        classes=("string", "The class names in order, as JSON."),
        imgsz=("Int64", "Side of the network's input, pixels."),
        epochs=("Int64", "Epochs that were run."),
        map50=("float64", "mAP50 on the validation split, as the trainer reports it."),
        map50_95=("float64", "mAP50-95 on the validation split, as the trainer reports it."),
        bytes=("Int64", "Size of best.onnx."),
        export=("string", "What best.onnx calculates in: f32, bf16 or int8."),
        onnx_f32=("string", "Storage key of the same network in f32; that of best.onnx if it is that already."),
        seconds=("float64", "Seconds of compute."),
        cost_usd=("float64", "Estimated cost of the compute; 0 on one's own machine."),
        mlflow_run=("string", "The MLflow run."),
    ),
    "evaluation": {
        **columns(
            evaluation_version=("string", "Version of the evaluation: data, models, settings and code."),
            dataset_version=("string", "The dataset whose frozen test split was used."),
            model=("string", "`challenger`, `champion`, or `full`: the challenger in float32."),
            sha256=("string", "Digest of the model."),
            slice_kind=("string", "all, class, size, group or video."),
            slice=("string", "Which class, size, group or video; `all` for the whole split."),
            class_=("string", "The class within a size or group; empty for all classes."),
            ap50=("float64", "Average precision at IoU 0.50 (mean over classes where there are several)."),
            ap50_95=("float64", "The same, averaged over IoU 0.50:0.05:0.95."),
            recall=("float64", "Best recall at IoU 0.50."),
            n_images=("Int64", "Images in the slice."),
            n_boxes=("Int64", "True boxes in the slice."),
            low=("float64", "Lower end of ap50's 95 % bootstrap interval."),
            high=("float64", "Upper end of ap50's 95 % bootstrap interval."),
        ),
        **columns(
            optional=True,
            dataset_table=("string", "Storage key of the dataset's table, which names the versions of annotations."),
        ),
    },
    "registered_model": columns(
        registry=("string", "Which registry."),
        name=("string", "The registered model's name."),
        version=("string", "The registry's version."),
        alias=("string", "Alias that points at it."),
        sha256=("string", "Digest of the ONNX as the registry holds it."),
        onnx=("string", "Storage key of the ONNX."),
        weights_version=("string", "The training it comes from."),
        dataset_version=("string", "The dataset that taught it."),
        evaluation_version=("string", "The evaluation that let it pass."),
        map50=("float64", "ap50 over the test split."),
        approval=("string", "pending, approved or rejected."),
        approved_by=("string", "Who approved it."),
        approved_at=("string", "When, in ISO 8601, UTC."),
        approval_reason=("string", "Why."),
    ),
    "deployed_endpoint": columns(
        endpoint=("string", "The endpoint."),
        slot=("string", "The deployment's slot."),
        version=("string", "The registered version it serves."),
        sha256=("string", "Digest of the model."),
        traffic=("Int64", "Share of the requests, per cent."),
        state=("string", "What the endpoint says of the slot."),
        url=("string", "Where it answers."),
        deployed_at=("string", "When, in ISO 8601, UTC."),
    ),
    "deployment_history": columns(
        slot=("string", "The slot."),
        version=("string", "The registered version it held."),
        share=("Int64", "Share of the requests, per cent."),
        from_=("string", "From when on, in ISO 8601, UTC."),
        until=("string", "Until when; null while it is so."),
        why=("string", "Why."),
        ended=("string", "Why it ended; empty while it is so."),
        who=("string", "Who caused it: who approved the version, or who decided by hand."),
        rollout=("string", "The rollout it belongs to."),
        run=("string", "The Dagster run; empty where there was none."),
    ),
    "captured_requests": columns(
        day=("string", "The day, UTC."),
        time=("datetime64[ms, UTC]", "When it was answered."),
        request_id=("string", "The request's id, as its caller was told."),
        slot=("string", "The slot that answered."),
        version=("string", "The registered version that answered."),
        status=("Int64", "The answer's HTTP status."),
        latency_ms=("float64", "Milliseconds that the server took."),
        why=("string", "Why it was kept: `sample` (drawn at random) or `low confidence`."),
        width=("Int64", "Width of the picture in pixels, as displayed."),
        height=("Int64", "Height in pixels."),
        brightness=("float64", "Mean luma, 0 to 255; NaN if it was not measured."),
        contrast=("float64", "Standard deviation of luma."),
        sharpness=("float64", "Variance of the Laplacian of the luma at a fixed size."),
        red=("float64", "Mean level of red, 0 to 255."),
        green=("float64", "Mean level of green."),
        blue=("float64", "Mean level of blue."),
        image=("string", "Storage key of the picture; null if it was not kept. Deleted after `keep_days`."),
        boxes=("Int64", "How many boxes the answer has."),
        answer=("string", "The boxes as JSON: class, confidence, x1 y1 x2 y2 in pixels of the picture as displayed."),
    ),
    "drift_report": columns(
        day=("string", "The day, UTC."),
        version=("string", "The registered version that answered."),
        dataset_version=("string", "The dataset that taught it: the reference."),
        feature=("string", "What was compared, such as brightness or class_mix; live_map50 is the score on labels."),
        reference_n=("Int64", "Values of the reference."),
        production_n=("Int64", "Values of production."),
        reference_size=("float64", "How many independent values those of the reference are worth."),
        production_size=("float64", "How many independent values those of production are worth."),
        reference_mean=("float64", "Mean of the reference; NaN for the class mix."),
        production_mean=("float64", "Mean of production."),
        reference_median=("float64", "Median of the reference."),
        production_median=("float64", "Median of production."),
        psi=("float64", "Population stability index over tenths of the reference."),
        psi_by_chance=("float64", "The index that chance alone gives at these sizes; the limit is above it."),
        ks=("float64", "Kolmogorov-Smirnov distance; NaN for the class mix."),
        p=("float64", "Chance of such a difference if nothing had changed, adjusted for all features of the report."),
        limit_psi=("float64", "The index, above chance, from which on it is drift."),
        limit_ks=("float64", "The distance from which on it is drift."),
        verdict=("string", "too few, stable, watch, drift or no reference."),
        why=("string", "The verdict in words."),
        report=("string", "Storage key of the report to read."),
    ),
    "label_requests": columns(
        batch=("string", "The batch, `lb-` and 12 hex digits."),
        rank=("Int64", "Place in the batch, from 0, the most urgent first."),
        name=("string", "What the picture is called in the tool."),
        video=("string", "The video that its labels will be annotations of."),
        frame=("string", "The frame that they will be of."),
        key=("string", "Storage key of the picture."),
        source=("string", "`frame`, or `request` for a picture that the endpoint was sent."),
        reason=("string", "unsure, drifted, rare or diverse."),
        why=("string", "Why it was chosen, in words with figures."),
        proposals=("Int64", "Boxes to begin with."),
        model=("string", "The registered version that proposes them; empty for none."),
        tool=("string", "Where the batch was handed to."),
        link=("string", "Where people work on it; empty if that is no address."),
    ),
    "batch_predictions": {
        **columns(
            video=("string", "The video's key."),
            frame=("string", "The frame's id."),
            class_=("string", "The class; null on the one row of a frame in which nothing was found."),
            confidence=("float64", "How sure the model is, 0 to 1."),
        ),
        **_BOX,
        **columns(
            model_version=("string", "The registered version that predicted."),
            sha256=("string", "Digest of the model."),
        ),
    },
}


def conform(asset: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Checks a table against its asset's schema and gives its columns the schema's order and types.

    Args:
        asset: The asset's name, without the detector's prefix.
        frame: The table.

    Returns:
        The same rows; the index is dropped.

    Raises:
        ValueError: If a column that is not optional is missing, one is unknown, or one cannot have its type.
    """
    return fit(f"table of {asset}", SCHEMAS[asset], frame)


def fit(what: str, schema: Mapping[str, Column], frame: pd.DataFrame) -> pd.DataFrame:
    """As `conform`, for any schema; `what` names the table in messages."""
    missing = [name for name, column in schema.items() if name not in frame.columns and not column.optional]
    unknown = [name for name in frame.columns if name not in schema]
    if missing or unknown:
        raise ValueError(f"{what}: missing columns {missing}, unknown columns {unknown}")
    fitted: dict[str, Any] = {}
    for name, column in schema.items():
        try:
            kind: Any = column.dtype
            values = frame[name] if name in frame else pd.Series([None] * len(frame))
            fitted[name] = values.reset_index(drop=True).astype(kind)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{what}: column {name} does not fit {column.dtype}: {error}") from error
    return pd.DataFrame(fitted)


def empty(asset: str) -> pd.DataFrame:
    """A table of an asset with no rows."""
    return pd.DataFrame({name: pd.Series(dtype=column.dtype) for name, column in SCHEMAS[asset].items()})


def describe(asset: str) -> Mapping[str, Column]:
    """The columns of an asset's table."""
    return SCHEMAS[asset]


def partition_column(asset: str) -> str:
    """The column that tells the partitions of an asset apart: the video, or the day.

    Raises:
        ValueError: If the asset's table has neither.
    """
    for name in PARTITION_COLUMNS:
        if name in SCHEMAS[asset]:
            return name
    raise ValueError(f"table of {asset}: no column {' or '.join(PARTITION_COLUMNS)} to tell its partitions apart")

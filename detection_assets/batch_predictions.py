"""What the model in service finds on every frame that was kept, video by video.

Partition: video. Version: the model, the endpoint's thresholds, the frames and the code; what is published already is
not predicted again. It runs the code that serves, so a frame gets the boxes that the endpoint would answer.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
import pandas as pd

from detection_assets.detector import Detector
from detection_assets.domain import card, disagreements, layout, schemas
from detection_assets.domain.portions import with_enough
from detection_assets.pictures import published_pictures, worst
from resources import costs, lake, tables, versions
from resources.batch.base import Batch
from resources.compute.base import Input, Step, version_of
from resources.registry.base import CHAMPION, ModelVersion, Registry
from resources.storage import Published, Storage

CODE = "1"
A_STEP = 2000
"""Frames in one step, about: minutes of work on two cores, and what a killed run may have to do again at most."""
PREVIEWS = 6


@dg.asset(
    dagster_type=tables.TABLE,
    partitions_def=lake.VIDEOS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    deps=["deployed_endpoint"],
    code_version=CODE,
    kinds={"python", "table"},
    metadata={"settings": ["endpoint.confidence", "endpoint.iou", "endpoint.max_det"]},
    check_specs=[
        dg.AssetCheckSpec(
            "every_kept_frame", asset="batch_predictions", description="The model ran over every kept frame."
        )
    ],
)
def batch_predictions(
    context: dg.AssetExecutionContext,
    detector: dg.ResourceParam[Detector],
    storage: Storage,
    batch: Batch,
    registry: Registry,
    extracted_frames: pd.DataFrame,
) -> Iterator[dg.MaterializeResult | dg.AssetMaterialization]:
    """A row a box that the model found, with its version; a frame without any has one row without a class."""
    model = registry.get(CHAMPION)
    if model is None:
        raise dg.Failure(
            f"no version of {detector.name} serves yet, so there is none to predict with; run "
            f"`detection run {detector.name}` first"
        )
    settings = detector.endpoint.model_dump(mode="json", include={"confidence", "iou", "max_det"})
    frames = extracted_frames[extracted_frames["kept"]]
    of = {str(video): rows for video, rows in frames.groupby("video")}
    made = {
        video: version_of(
            "predict", CODE, model.sha256, settings, sorted(zip(rows["frame"], rows["sha256"], strict=True))
        )
        for video, rows in of.items()
    }
    prefixes = {video: layout.predictions(video, version) for video, version in made.items()}
    parts = with_enough({video: len(rows) for video, rows in of.items()}, A_STEP)
    steps = [_step(part, of, prefixes, model, settings, detector) for part in parts]
    ran = batch.run(context, steps, model)
    published = {video: storage.published(prefix) for video, prefix in prefixes.items()}
    table = _read(storage, published, model)
    summaries = _summaries(storage, published)
    previews = {video: _previews(storage, item) for video, item in published.items() if item}
    # A video whose frames were all dropped has nothing to predict, and a version that says so.
    none = {video: "no-frames" for video in context.partition_keys if video not in made}
    yield from versions.materialized(
        context,
        storage,
        table,
        {**made, **none},
        metadata={
            "model": f"version {model.version}",
            "boxes by class": dg.MetadataValue.md(card.frame_table(by_class(table))),
            "preview": dg.MetadataValue.md(" ".join([*previews.values()][:PREVIEWS]) or "nothing to show"),
            **_against_truth(storage, frames, table, detector.classes),
            **costs.told(*ran),
        },
        each={
            str(video): {
                "frames": int(rows["frame"].nunique()),
                "boxes": int(rows["class"].notna().sum()),
                "preview": dg.MetadataValue.md(previews.get(str(video), "nothing to show")),
            }
            for video, rows in table.groupby("video")
        },
        check_results=[every_kept_frame(frames, table, summaries)],
    )


def _against_truth(
    storage: Storage, frames: pd.DataFrame, table: pd.DataFrame, classes: Sequence[str]
) -> Mapping[str, dg.MetadataValue]:
    """Where today's annotations say otherwise. Only to be looked at: no prediction depends on it, hence no edge."""
    truth = tables.read(storage, "annotations", [str(video) for video in frames["video"].unique()])
    seen = frames[frames["frame"].isin(truth["frame"]) & frames["frame"].isin(table["frame"])]
    if seen.empty:
        return {}
    judged = disagreements.judge(truth, table, seen["frame"].tolist())
    return {"truth against prediction": dg.MetadataValue.md(worst(storage, seen, judged, classes))}


def _step(
    part: Sequence[str],
    of: Mapping[str, pd.DataFrame],
    prefixes: Mapping[str, str],
    model: ModelVersion,
    settings: Mapping[str, Any],
    detector: Detector,
) -> Step:
    files = {video: [str(key).removeprefix(layout.FRAMES + "/") for key in of[video]["key"]] for video in part}
    folder, _, name = model.onnx.rpartition("/")
    return Step(
        program="predict",
        version=version_of([prefixes[video] for video in part]),
        inputs={
            "frames": Input(layout.FRAMES, [file for video in part for file in files[video]]),
            "model": Input(folder, [name]),
        },
        outputs={layout.slug(video): prefixes[video] for video in part},
        params={
            "videos": [
                {
                    "video": video,
                    "out": layout.slug(video),
                    "frames": list(zip(of[video]["frame"].tolist(), files[video], strict=True)),
                }
                for video in part
            ],
            "settings": dict(settings),
            "sha256": model.sha256,
            "classes": list(detector.classes),
        },
        hardware=detector.evaluation.hardware,
    )


def _read(storage: Storage, published: Mapping[str, Published | None], model: ModelVersion) -> pd.DataFrame:
    found = [(video, item) for video, item in published.items() if item is not None]
    parts = [
        pd.read_parquet(io.BytesIO(data)).assign(video=video)
        for (video, _), data in zip(
            found, storage.get_many([item.key("predictions.parquet") for _, item in found]), strict=True
        )
        if data is not None
    ]
    if not parts:
        return schemas.empty("batch_predictions")
    table = pd.concat(parts, ignore_index=True).assign(model_version=model.version, sha256=model.sha256)
    return schemas.conform("batch_predictions", table)


def _summaries(storage: Storage, published: Mapping[str, Published | None]) -> list[Mapping[str, Any]]:
    keys = [item.key("summary.json") for item in published.values() if item is not None]
    return [json.loads(data) for data in storage.get_many(keys) if data is not None]


def _previews(storage: Storage, item: Published) -> str:
    names = [name for name in item.files if name.startswith("preview/")]
    # Called by their video, so that they can be found in the event log again, should it be withdrawn.
    video = item.prefix.removeprefix("predictions/").rpartition("/")[0]
    return " ".join(published_pictures(storage, {f"{video}#{name}": item.key(name) for name in names}).values())


def by_class(table: pd.DataFrame) -> pd.DataFrame:
    """Boxes and mean confidence of each class."""
    found = table[table["class"].notna()].groupby("class", as_index=False)
    return found.agg(boxes=("class", "size"), confidence=("confidence", "mean")).sort_values("boxes", ascending=False)


def every_kept_frame(
    frames: pd.DataFrame, table: pd.DataFrame, summaries: Sequence[Mapping[str, Any]]
) -> dg.AssetCheckResult:
    """A frame that was kept and has no row was not looked at: its picture is gone or does not decode any more."""
    missing = frames[~frames["frame"].isin(table["frame"])]["frame"]
    problems = [str(problem) for summary in summaries for problem in summary["problems"]]
    return dg.AssetCheckResult(
        check_name="every_kept_frame",
        passed=missing.empty,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(frames) - len(missing)} of {len(frames)} kept frames",
        metadata={
            "missing": dg.MetadataValue.md(card.frame_table(missing.to_frame(), 20)),
            "problems": dg.MetadataValue.md("\n".join(f"- {card.escape(text)}" for text in problems[:20]) or "none"),
        },
    )

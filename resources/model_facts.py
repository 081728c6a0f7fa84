"""What a registered version was made of, gathered from where each part is kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import orjson
import pandas as pd
from dagster import DagsterInstance

from detection_assets.domain import layout, snapshot, splitting
from detection_assets.domain.lineage_changes import Made, flat
from resources import revision, tables, version_index
from resources.registry.base import ModelVersion
from resources.storage import Storage


def pair(storage: Storage, instance: DagsterInstance, earlier: ModelVersion, later: ModelVersion) -> tuple[Made, Made]:
    """Gathers it of two versions; what the lake does not know any more is left empty.

    Of their datasets only that is read in which they differ, where notes say what that is.

    Args:
        storage: The detector's storage.
        instance: Whose runs say which commit trained them.
        earlier: One version.
        later: The other.
    """
    has = [version_index.videos(storage, _dataset(model)) for model in (earlier, later)]
    videos = version_index.differing(*has)
    one, other = (
        _made(storage, instance, model, of, _images(storage, _dataset(model), videos))
        for model, of in zip((earlier, later), has, strict=True)
    )
    return one, other


def _dataset(model: ModelVersion) -> str:
    return model.tags.get("dataset_version") or "-"


def _images(storage: Storage, dataset: str, videos: Sequence[str] | None) -> pd.DataFrame:
    """The images of a dataset that are of some videos, or all of them: frame, video, split, labels."""
    columns = ["frame", "video", "split", "labels"]
    made = version_index.made(storage, "detection_dataset", dataset) if videos is None or len(videos) else None
    if made is None:
        return pd.DataFrame(columns=columns, dtype=object)
    where = [("video", "in", list(videos))] if videos is not None else []
    found = version_index.read(storage, made.table, columns, where, names=["video", "split"])
    if "labels" not in found:  # the table of a release that did not note them
        published = storage.published(layout.dataset(dataset))
        key = published.key("boxes.parquet") if published is not None else None
        boxes = version_index.read(storage, key, ["frame", "class", *snapshot.SIDES]) if key is not None else None
        labels = snapshot.labels(found["frame"].tolist(), boxes) if boxes is not None else ""
        found = found.assign(labels=labels)
    return found


def _boxes(storage: Storage, dataset: str) -> dict[str, int]:
    """How many boxes of each class a dataset has."""
    published = storage.published(layout.dataset(dataset))
    (data,) = storage.get_many([published.key("dataset.json")]) if published is not None else [None]
    counts: dict[str, int] = {}
    for split in orjson.loads(data).get("counts", {}).values() if data is not None else ():
        for name, count in split["boxes"].items():
            counts[name] = counts.get(name, 0) + count
    return counts


def _made(
    storage: Storage, instance: DagsterInstance, model: ModelVersion, has: pd.DataFrame, images: pd.DataFrame
) -> Made:
    tags = model.tags
    judged = version_index.made(storage, "evaluation", tags.get("evaluation_version") or "-")
    metrics = tables.read_versions(storage, "evaluation", [judged.table] if judged else [])
    weights = version_index.made(storage, "trained_weights", tags.get("weights_version") or "-")
    table = tables.read_versions(storage, "trained_weights", [weights.table] if weights else [])
    row: dict[str, Any] = json.loads(table.iloc[0].to_json()) if len(table) else {}
    training = _training(storage, row)
    run = instance.get_run_by_id(weights.run) if weights and weights.run else None
    environment = training.get("environment", {})
    code = {
        "commit": (run.tags.get(revision.TAG) if run else None) or "",
        "training code": str(row.get("code_version") or ""),
        "python": str(environment.get("python", "")),
        **{one["name"]: str(one["version"]) for one in environment.get("libraries", ())},
    }
    settings = {**flat(training.get("settings", {})), "export": row.get("export")}
    settings.pop("model", None)  # told as base weights
    return Made(
        model.version,
        images,
        {split: int(has[split].sum()) for split in splitting.SPLITS},
        _boxes(storage, _dataset(model)),
        metrics,
        model.sha256,
        {name: value for name, value in settings.items() if value is not None},
        str(row.get("base_weights") or tags.get("base_weights") or ""),
        {name: value for name, value in code.items() if value},
        tuple(json.loads(row["classes"])) if row.get("classes") else (),
    )


def _training(storage: Storage, row: dict[str, Any]) -> dict[str, Any]:
    if not row.get("pt"):
        return {}
    (data,) = storage.get_many([str(row["pt"]).rpartition("/")[0] + "/training.json"])
    return orjson.loads(data) if data is not None else {}

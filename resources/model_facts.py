"""What a registered version was made of, gathered from where each part is kept."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pandas as pd
from dagster import DagsterInstance

from detection_assets.domain import layout
from detection_assets.domain.lineage_changes import SIDES, Made, flat
from resources import revision, tables, version_index
from resources.registry.base import ModelVersion
from resources.storage import Storage


def made(storage: Storage, instance: DagsterInstance, model: ModelVersion) -> Made:
    """Gathers it; what the lake does not know any more is left empty.

    Args:
        storage: The detector's storage.
        instance: Whose runs say which commit trained it.
        model: The version.
    """
    tags = model.tags
    dataset = storage.published(layout.dataset(tags.get("dataset_version") or "-"))
    images, boxes = (
        version_index.read(storage, dataset.key(name), columns, names=texts)
        if dataset is not None
        else pd.DataFrame(columns=columns)
        for name, columns, texts in (
            ("images.parquet", ["frame", "video", "split"], ["video", "split"]),
            ("boxes.parquet", ["frame", "class", *SIDES], ["frame", "class"]),
        )
    )
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
        boxes,
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

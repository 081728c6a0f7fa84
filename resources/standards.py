"""What other tools read of our versions: Croissant of datasets, cards and bills of materials of models.

Each is put once, apart from what it is about, so that a version of before the standard can be described as well.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import orjson
import pandas as pd

from detection_assets.domain import bom, croissant, layout, model_card, snapshot
from detection_assets.domain.problems import InputError
from detection_assets.domain.provenance_card import Provenance
from resources import overrides, tables
from resources.registry.base import ModelVersion
from resources.storage import Published, Storage


def describe_dataset(
    storage: Storage,
    version: str,
    about: croissant.About,
    digests: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> str:
    """Puts a dataset's Croissant description, unless it has one.

    Args:
        storage: The detector's storage.
        version: The dataset.
        about: What people say of it; when it was published is found out here.
        digests: SHA-256 by video, as far as it is known.
        annotations: Version of the annotations by video, as far as it is known.

    Returns:
        The description's storage key.

    Raises:
        InputError: If there is no such dataset, or its files are broken.
    """
    key = layout.croissant(version)
    if storage.exists(key):
        return key
    published = storage.published(layout.dataset(version))
    if published is None:
        raise InputError(f"{storage.uri}: there is no dataset {version}, so it cannot be described")
    with storage.local_copy(published.folder) as folder:
        made = snapshot.read(folder)
    files = files_of(storage, published)
    made_from = croissant.sources(made, digests or {}, annotations or {})
    when = _published(storage, "detection_dataset", version, layout.dataset(version))
    described = croissant.describe(made, files, made_from, replace(about, published=when or None))
    storage.put_if_absent(key, orjson.dumps(described, option=orjson.OPT_INDENT_2))
    return key


def describe_model(storage: Storage, entry: ModelVersion, detector: str, said: Mapping[str, Any]) -> Published:
    """Publishes the card and the bill of materials of a registered version, unless it has them.

    Args:
        storage: The detector's storage.
        entry: The version.
        detector: The detector's name.
        said: What people say: description, owner, and the section `card` of the detector's file.

    Returns:
        What is published: `model_card.md` and `bom.json`.
    """
    place = layout.model_card(entry.name, entry.version, entry.sha256)
    known = storage.published(place)
    if known is not None:
        return known
    model = facts(storage, entry, detector, said)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "card"
        folder.mkdir()
        (folder / model_card.CARD).write_text(model_card.card(model), encoding="utf-8")
        (folder / model_card.BOM).write_bytes(orjson.dumps(bom.bom(model), option=orjson.OPT_INDENT_2))
        return storage.publish(folder, place, {"sha256": entry.sha256})


def facts(storage: Storage, entry: ModelVersion, detector: str, said: Mapping[str, Any]) -> model_card.Model:
    """What the lake still knows of a registered version; what is gone is left out."""
    kept = {"weights_version", "dataset_version", "evaluation_version", "base_weights", "export", "mlflow_run"}
    lineage = {name: value for name, value in sorted(entry.tags.items()) if name in kept and value}
    # A version that somebody registered by hand may lack any of them; what is called "-" is never published.
    of_weights, of_data, of_evaluation = (
        lineage.get(f"{what}_version", "-") for what in ("weights", "dataset", "evaluation")
    )
    weights = _trained(storage, of_weights, entry.sha256)
    dataset = storage.published(layout.dataset(of_data))
    judged = storage.published(layout.evaluation(of_evaluation))
    metrics = pd.read_parquet(io.BytesIO(_read(storage, judged, "metrics.parquet") or b"")) if _has(judged) else None
    override = overrides.read(storage, of_weights)
    training = str(weights["pt"]).rpartition("/")[0] + "/training.json" if weights else ""
    return model_card.Model(
        detector,
        entry.name,
        entry.version,
        entry.sha256,
        lineage,
        said=said,
        weights=weights,
        training=orjson.loads(storage.get(training)) if training and storage.exists(training) else {},
        dataset=orjson.loads(_read(storage, dataset, "dataset.json") or b"{}"),
        files={name: file.sha256 for name, file in files_of(storage, dataset).items()} if dataset else {},
        summary=orjson.loads(_read(storage, judged, "summary.json") or b"{}"),
        metrics=metrics if metrics is not None else pd.DataFrame(),
        evaluated=_published(storage, "evaluation", of_evaluation, layout.evaluation(of_evaluation)),
        override={"by": override.by, "reason": override.reason, "at": override.at} if override else {},
    )


def provenance(
    storage: Storage, entry: ModelVersion, detector: str, said: Mapping[str, Any], replaces: str = "", serving: str = ""
) -> Provenance:
    """Where a registered version comes from, for its card in the catalogue.

    Args:
        storage: The detector's storage.
        entry: The version.
        detector: The detector's name.
        said: What people say of it.
        replaces: The version that served before, or "".
        serving: What it has of the traffic, in words, or "".
    """
    published = storage.published(layout.dataset(entry.tags.get("dataset_version") or "-"))
    notes: Mapping[str, Any] = published.notes if published is not None else {}
    model = facts(storage, entry, detector, said)
    people, drawn = notes.get("annotators"), str(notes.get("annotations", ""))
    return Provenance(model, entry.tags, entry.approval, people, drawn, replaces, serving)


def _has(published: Published | None) -> bool:
    return published is not None and "metrics.parquet" in published.files


def _read(storage: Storage, published: Published | None, name: str) -> bytes | None:
    return storage.get(published.key(name)) if published is not None and name in published.files else None


def files_of(storage: Storage, published: Published) -> dict[str, croissant.File]:
    """The tables of a published dataset, as its descriptions name them."""
    found: dict[str, croissant.File] = {}
    for name in snapshot.TABLES:
        data = _read(storage, published, name)
        if data is not None:
            found[name] = croissant.File(published.key(name), hashlib.sha256(data).hexdigest(), len(data))
    return found


def noted(storage: Storage, asset: str, versions: Sequence[str]) -> dict[str, datetime]:
    """When versions were made, as it was noted then; those of before there were such notes are left out.

    What the store says of a manifest is when it was put there last: by whoever copied the lake, or erased a video.
    """
    data = storage.get_many([layout.first_table(asset, version) for version in versions])
    found = ((version, orjson.loads(one).get("written_at")) for version, one in zip(versions, data, strict=True) if one)
    return {version: datetime.fromisoformat(at) for version, at in found if at}


def _published(storage: Storage, asset: str, version: str, prefix: str) -> str:
    """When something was published; "" if it was not."""
    manifest = storage.find(f"{prefix}/{layout.MANIFEST}")
    if manifest is None:
        return ""
    at = noted(storage, asset, [version]).get(version) or datetime.fromtimestamp(manifest.written, timezone.utc)
    return at.isoformat(timespec="seconds")


def _trained(storage: Storage, weights_version: str, sha256: str) -> dict[str, Any]:
    """The row of `trained_weights` that tells of some weights, of today's or any earlier table; empty if none does."""
    keys = [
        item.key for item in storage.list(layout.table_folder("trained_weights", None)) if item.key.endswith(".parquet")
    ]
    if not keys:
        return {}
    table = tables.read_versions(storage, "trained_weights", sorted(keys))
    rows = table[(table["weights_version"] == weights_version) & (table["sha256"] == sha256)]
    return json.loads(rows.iloc[0].to_json()) if len(rows) else {}

"""Which datasets taught a model: its own, and those of the weights that its training started from."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from detection_assets.domain import layout
from resources.registry.base import ModelVersion
from resources.storage import Storage


@dataclass(frozen=True)
class Training:
    """A training, as a table of weights tells it.

    Attributes:
        sha256: Digest of the ONNX that came of it.
        sha256_pt: Digest of the weights that came of it.
        dataset: The dataset that taught it.
        pt: Storage key of the weights.
    """

    sha256: str
    sha256_pt: str
    dataset: str
    pt: str


def trainings(storage: Storage) -> list[Training]:
    """Every training that a table tells of, today's or an earlier one."""
    import pyarrow.parquet as pq

    columns = ["sha256", "sha256_pt", "dataset_version", "pt"]
    listing = storage.list(layout.table_folder("trained_weights", None))
    found: set[Training] = set()
    for data in storage.get_many([item.key for item in listing if item.key.endswith(".parquet")]):
        if data is not None:
            for row in pq.read_table(io.BytesIO(data), columns=columns).to_pylist():
                found.add(Training(*(str(row[name] or "") for name in columns)))
    return sorted(found, key=lambda one: one.pt)


def datasets(storage: Storage, model: ModelVersion, known: Iterable[Training]) -> set[str]:
    """The datasets that a registered version learned from.

    What the registry says may be missing, as of a version that somebody registered by hand; what the training started
    from may have been another training's weights, which learned from data of their own.

    Args:
        storage: The detector's storage.
        model: The version.
        known: From `trainings`.
    """
    known = list(known)
    found = {model.tags.get("dataset_version", "")}
    todo = [one for one in known if model.sha256 and one.sha256 == model.sha256]
    done: set[Training] = set()
    while todo:
        one = todo.pop()
        if one not in done:
            done.add(one)
            found.add(one.dataset)
            base = _base(storage, one)
            todo += [other for other in known if base and other.sha256_pt == base]
    return found - {""}


def _base(storage: Storage, training: Training) -> str:
    """Digest of the weights that a training started from; "" for none, and where nobody noted it."""
    (data,) = storage.get_many([f"{training.pt.rpartition('/')[0]}/training.json"]) if training.pt else (None,)
    told = orjson.loads(data) if data is not None else {}
    return str(told.get("base_sha256") or "")

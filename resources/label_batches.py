"""Batches of pictures to be labelled, as the lake has them: published whole, read by whoever hands them to a tool."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from pathlib import Path

import orjson
import pandas as pd

from detection_assets.domain import labels, layout
from detection_assets.domain.labels import Batch
from detection_assets.domain.problems import InputError
from resources.storage import Storage


def publish(storage: Storage, batch: Batch, keep: Mapping[str, str]) -> None:
    """Publishes a batch, unless it is published already.

    Args:
        storage: The detector's storage.
        batch: The batch.
        keep: Storage key of each picture, by its name, that is copied because it may be deleted where it lies.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "batch"
        folder.mkdir()
        storage.download({key: folder / labels.PICTURES / name for name, key in keep.items()})
        batch.frames.to_parquet(folder / labels.FRAMES, index=False)
        batch.proposals.to_parquet(folder / labels.PROPOSALS, index=False)
        notes = {"batch": batch.id, "model": batch.model, "classes": list(batch.classes)}
        storage.publish(folder, layout.label_request(batch.id), notes)


def read(storage: Storage, batch: str) -> tuple[Batch, dict[str, str]]:
    """A published batch, and the storage key of each of its pictures by name.

    Raises:
        InputError: There is no such batch.
    """
    made = storage.published(layout.label_request(batch))
    if made is None:
        raise InputError(f"there is no batch {batch}; `detection labels` lists those that there are")
    frames = pd.read_parquet(io.BytesIO(storage.get(made.key(labels.FRAMES))))
    proposals = pd.read_parquet(io.BytesIO(storage.get(made.key(labels.PROPOSALS))))
    kept = {name.removeprefix(f"{labels.PICTURES}/") for name in made.files if name.startswith(f"{labels.PICTURES}/")}
    keys = {
        name: made.key(f"{labels.PICTURES}/{name}") if name in kept else key
        for name, key in zip(frames["name"].astype(str), frames["key"].astype(str), strict=True)
    }
    return Batch(batch, frames, proposals, made.notes["model"], tuple(made.notes["classes"])), keys


def known(storage: Storage) -> list[str]:
    """The ids of the batches that are published, in order."""
    prefix = f"{layout.LABEL_REQUESTS}/"
    return sorted(
        item.key.removeprefix(prefix).partition("/")[0]
        for item in storage.list(layout.LABEL_REQUESTS)
        if item.key.count("/") == 2 and item.key.endswith(f"/{layout.MANIFEST}")
    )


def state(storage: Storage, batch: str, what: str) -> dict[str, object] | None:
    """What is noted of a batch under a heading: `handed` or `collected`; None if nothing is."""
    try:
        return orjson.loads(storage.get(layout.label_state(batch, what)))
    except FileNotFoundError:
        return None


def note(storage: Storage, batch: str, what: str, told: Mapping[str, object]) -> None:
    """Notes something of a batch; what was noted under the heading before is replaced."""
    storage.put(layout.label_state(batch, what), orjson.dumps(dict(told)))

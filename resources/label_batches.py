"""Batches of pictures to be labelled, as the lake has them: published whole, read by whoever hands them to a tool."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pandas as pd

from detection_assets.domain import labels, layout
from detection_assets.domain.labels import Batch
from detection_assets.domain.problems import InputError
from resources import temporary
from resources.storage import Storage

HANDED, COLLECTED, CLOSED = "handed", "collected", "closed"
"""What is noted of a batch: which tool has it and where, what of it is in, and that nobody looks for more."""
LOOK_DAYS = 30.0
"""So long after something was last brought in of a batch that is all in, corrections to it are still looked for."""


@dataclass(frozen=True)
class Progress:
    """How far a batch is.

    Attributes:
        batch: Its id.
        tool: Which tool has it; "" before it was handed over.
        place: What it is in the tool.
        link: Where people work on it.
        pictures: How many the tool has.
        asked: When it was handed over first, epoch seconds; 0 if it was not.
        stamp: The tool's stamp when it was last brought in.
        at: When something of it last came in, epoch seconds; 0 if nothing did.
        digests: For each picture that is in, by name, what changes when its labels do.
        closed: Why nobody looks for more; "" while somebody does.
    """

    batch: str
    tool: str = ""
    place: str = ""
    link: str = ""
    pictures: int = 0
    asked: float = 0.0
    stamp: str | None = None
    at: float = 0.0
    digests: Mapping[str, str] = field(default_factory=dict)
    closed: str = ""

    @property
    def finished(self) -> frozenset[str]:
        """Names of the pictures that are in, those that were skipped among them."""
        return frozenset(self.digests)

    @property
    def open(self) -> bool:
        """Whether something is left to do, and somebody looks for it."""
        return not self.closed and len(self.digests) < max(self.pictures, 1)

    def settled(self, now: float) -> bool:
        """Whether everything has been in for so long that corrections are not looked for any more."""
        return bool(self.tool) and not self.open and now - max(self.at, self.asked) > LOOK_DAYS * 86400


def publish(storage: Storage, batch: Batch, keep: Mapping[str, str]) -> None:
    """Publishes a batch, unless it is published already.

    Args:
        storage: The detector's storage.
        batch: The batch.
        keep: Storage key of each picture, by its name, that is copied because it may be deleted where it lies.
    """
    with temporary.folder() as scratch:
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


def state(storage: Storage, batch: str, what: str) -> dict[str, Any] | None:
    """What is noted of a batch under a heading: `HANDED`, `COLLECTED` or `CLOSED`; None if nothing is."""
    try:
        return orjson.loads(storage.get(layout.label_state(batch, what)))
    except FileNotFoundError:
        return None


def note(storage: Storage, batch: str, what: str, told: Mapping[str, object]) -> None:
    """Notes something of a batch; what was noted under the heading before is replaced."""
    storage.put(layout.label_state(batch, what), orjson.dumps(dict(told)))


def reopen(storage: Storage, batch: str) -> None:
    """Forgets that nobody looks for more of a batch."""
    storage.remove([layout.label_state(batch, CLOSED)])


def watched(storage: Storage) -> list[str]:
    """The batches that a tool has and of which somebody looks for more, in order; it costs one listing."""
    noted: dict[str, set[str]] = {}
    for item in storage.list(layout.LABELING):
        batch, _, what = item.key.removeprefix(f"{layout.LABELING}/").partition("/")
        noted.setdefault(batch, set()).add(what)
    return sorted(
        batch for batch, those in noted.items() if f"{HANDED}.json" in those and f"{CLOSED}.json" not in those
    )


def progress(storage: Storage, batch: str) -> Progress:
    """How far a batch is, as it is noted."""
    handed, collected, closed = (state(storage, batch, what) or {} for what in (HANDED, COLLECTED, CLOSED))
    return Progress(
        batch,
        handed.get("tool", ""),
        handed.get("place", ""),
        handed.get("link", ""),
        handed.get("pictures", 0),
        handed.get("at", 0.0),
        collected.get("stamp"),
        collected.get("at", 0.0),
        collected.get("digests", {}),
        closed.get("why", ""),
    )

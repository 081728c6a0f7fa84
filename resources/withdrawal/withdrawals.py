"""Which videos were withdrawn, what of the lake is theirs, and which models may not be deployed because of them.

The record of a withdrawal is written once and stays. From then on the video is no part of the graph, its content is not
taken in under another name, and no model that learned from it is deployed unless somebody answers for that by name.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import orjson

from detection_assets.domain import layout
from detection_assets.domain.problems import InputError
from detection_assets.domain.withdrawal import Override, Tombstone, Withdrawal
from resources.registry.base import ModelVersion
from resources.storage import Published, Storage
from resources.withdrawal import ancestry

if TYPE_CHECKING:
    import pandas as pd

ERASED = "erased"
"""The note in the manifest of what was published and then made smaller: the videos whose data was taken out."""


def now() -> str:
    """The time in ISO 8601, UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


# Which there are ------------------------------------------------------------------------------------------------------


def videos(storage: Storage) -> set[str]:
    """The videos that were withdrawn; one listing."""
    named = (layout.withdrawn_video(item.key) for item in storage.list_folder(layout.WITHDRAWN))
    return {video for video in named if video is not None}


def read(storage: Storage, video: str) -> Withdrawal | None:
    """The record of a video's withdrawal, or None."""
    return next(iter(read_all(storage, [video])), None)


def read_all(storage: Storage, of: Iterable[str] | None = None) -> list[Withdrawal]:
    """The records of some videos that were withdrawn, or of all, by name."""
    keys = [layout.withdrawn(video) for video in sorted(videos(storage) if of is None else of)]
    return [Withdrawal.load(orjson.loads(data)) for data in storage.get_many(keys) if data is not None]


def refused(storage: Storage, video: str) -> str:
    """Why a withdrawn video is not taken in, in words."""
    made = read(storage, video)
    return f"it was withdrawn by {made.by} on {made.at[:10]}: {made.reason}" if made else "it was withdrawn"


def mark(storage: Storage, made: Withdrawal, contents: Iterable[str], frames: Iterable[str] = ()) -> Withdrawal:
    """Writes a withdrawal down, unless the video is withdrawn already, and its content after it.

    Args:
        storage: The detector's storage.
        made: The record.
        contents: Digests of the files that are not to be taken in again.
        frames: Digests of the frames that were made of it, which are left out wherever somebody copied them to.

    Returns:
        The record that stands, which may be an earlier one.

    Raises:
        InputError: The name or the reason is missing.
    """
    if not made.by.strip() or not made.reason.strip():
        raise InputError("a withdrawal needs a name and a reason: they are kept for good")
    storage.put_if_absent(layout.withdrawn(made.video), orjson.dumps(made.dump()))
    for digest in contents:
        storage.put_if_absent(layout.withdrawn_digest(digest), made.video.encode())
    if marks := sorted(map(_mark, frames)):
        storage.put_if_absent(layout.withdrawn_frames(made.video), orjson.dumps({"video": made.video, "marks": marks}))
    found = read(storage, made.video)
    assert found is not None, "it was just written"
    return found


def _mark(sha256: str) -> str:
    """What a frame is known by: not its digest, so that of what was erased not even that is left anywhere."""
    return hashlib.sha256(sha256.encode()).hexdigest()[:32]


def contents(storage: Storage) -> set[str]:
    """The digests of all files that are not taken in again."""
    return {item.key.rpartition("/")[2] for item in storage.list(layout.withdrawn_digest("")[:-1])}


class Barred:
    """The content that is not taken in again: files of withdrawn videos, and frames that were made of them."""

    def __init__(self, storage: Storage) -> None:
        self._storage, self._files = storage, contents(storage)
        listed = [item.key for item in storage.list(layout.withdrawn_frames())]
        told = [orjson.loads(data) for data in storage.get_many(listed) if data is not None]
        self._frames = {mark: str(one["video"]) for one in told for mark in one["marks"]}

    def __contains__(self, sha256: str) -> bool:
        """Whether content of a digest is among it."""
        return sha256 in self._files or (bool(self._frames) and _mark(sha256) in self._frames)

    def video(self, sha256: str) -> str | None:
        """The withdrawn video that content of a digest is of, or None."""
        if sha256 in self._files:
            return self._storage.get(layout.withdrawn_digest(sha256)).decode()
        return self._frames.get(_mark(sha256))


def leave_out(storage: Storage, frames: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Frames without those of withdrawn videos, which a run may have read before it heard of that, and without copies.

    Returns:
        The others, and a sentence about copies of withdrawn pictures in other folders, if there are any.
    """
    import pandas as pd

    if not (gone := videos(storage)):
        return frames, []
    barred = Barred(storage)
    digests = frames["sha256"].fillna("").tolist()  # without one where a frame was dropped
    copies = pd.Series([one in barred for one in digests], frames.index, dtype=bool) & ~frames["video"].isin(gone)
    which = ", ".join(sorted(frames.loc[copies, "video"].unique())[:5])
    told = f"{int(copies.sum())} pictures of withdrawn videos were left out, which lie in other folders, too: {which}."
    return frames[~copies & ~frames["video"].isin(gone)], [told] if copies.any() else []


def tombstone(storage: Storage, video: str) -> Tombstone | None:
    """What proves that a video's data was erased, or None while it is not."""
    try:
        return Tombstone.load(orjson.loads(storage.get(layout.tombstone(video))))
    except FileNotFoundError:
        return None


def note(storage: Storage, key: str, video: str, left: str) -> None:
    """Leads from an object that is erased to why, and to the key of what is left of it; "" for nothing."""
    storage.put(layout.gone(key), orjson.dumps({"key": key, "video": video, "left": left}))


def begun(storage: Storage, video: str) -> bool:
    """Whether an erasure was begun and has not come to its end."""
    return storage.exists(layout.erasure(video)) and not storage.exists(layout.tombstone(video))


# What datasets hold ---------------------------------------------------------------------------------------------------


def videos_in(storage: Storage, made: Published) -> set[str]:
    """The videos that a published dataset holds, or held before some were erased from it."""
    import pyarrow.parquet as pq

    erased = {str(video) for video in made.notes.get(ERASED, ())}
    if "images.parquet" not in made.files:
        return erased
    data = storage.get(made.key("images.parquet"))
    schema = pq.read_schema(io.BytesIO(data))
    if "video" not in schema.names:
        return erased
    return erased | set(pq.read_table(io.BytesIO(data), columns=["video"]).column(0).unique().to_pylist())


def held(storage: Storage, dataset: str) -> list[Withdrawal]:
    """The withdrawn videos that a dataset holds, or held; by the records, and by the dataset itself."""
    records = read_all(storage)
    if not records:
        return []
    made = storage.published(layout.dataset(dataset)) if dataset else None
    inside = videos_in(storage, made) if made is not None else set()
    return [one for one in records if dataset in one.datasets or one.video in inside]


# Who may serve --------------------------------------------------------------------------------------------------------


def seen_by(storage: Storage, model: ModelVersion) -> list[Withdrawal]:
    """The withdrawn videos that taught a registered version, by way of what it started from, too."""
    if not videos(storage):
        return []
    taught = ancestry.datasets(storage, model, ancestry.trainings(storage))
    found = {one.video: one for dataset in sorted(taught) for one in held(storage, dataset)}
    return [found[video] for video in sorted(found)]


def overrides(storage: Storage, model: ModelVersion) -> Mapping[str, Override]:
    """Who answers for it that a registered version serves, by withdrawn video."""
    prefix = layout.withdrawn_override(model.version, model.sha256, "").rpartition("/")[0]
    return {one.video: one for one in _overrides(storage, prefix)}


def overridden(storage: Storage) -> list[dict[str, Any]]:
    """Every decision that a version may serve although it learned from a withdrawn video: rows of `overridden`."""
    made = _overrides(storage, layout.withdrawn_overrides())
    why = {one.video: one.why() for one in read_all(storage, {one.video for one in made})}
    return [
        {"what": "withdrawal", "of": one.video, "version": one.model, "said": why.get(one.video, "")}
        | {"by": one.by, "reason": one.reason, "at": one.at}
        for one in made
    ]


def _overrides(storage: Storage, prefix: str) -> list[Override]:
    found = storage.get_many([item.key for item in storage.list(prefix)])
    return [Override(**orjson.loads(data)) for data in found if data is not None]


def override(storage: Storage, model: ModelVersion, by: str, reason: str) -> Sequence[Override]:
    """Lets a version be deployed although it learned from videos that are withdrawn now.

    What is withdrawn later is not covered: that needs a decision of its own.

    Raises:
        InputError: The name or the reason is missing, or there is nothing to answer for.
    """
    if not by.strip() or not reason.strip():
        raise InputError("an override needs a name and a reason: they are kept with the model for good")
    seen = seen_by(storage, model)
    if not seen:
        raise InputError(f"{model.name} version {model.version} learned from no withdrawn video; nothing to override")
    known = overrides(storage, model)
    fresh = [
        Override(model.version, one.video, by.strip(), reason.strip(), now()) for one in seen if one.video not in known
    ]
    if not fresh:
        who = ", ".join(sorted({one.by for one in known.values()}))
        raise InputError(f"{model.name} version {model.version} may be deployed already, says {who}")
    for one in fresh:
        key = layout.withdrawn_override(model.version, model.sha256, one.video)
        storage.put_if_absent(key, orjson.dumps(asdict(one)))
    return fresh


def barred(storage: Storage, model: ModelVersion) -> list[Withdrawal]:
    """The withdrawn videos because of which a version may not be deployed: nobody answers for them."""
    seen = seen_by(storage, model)
    return [one for one in seen if one.video not in overrides(storage, model)] if seen else []


def refusal(storage: Storage, model: ModelVersion, detector: str) -> str | None:
    """Why a version may not be deployed, and what to do; None if no withdrawn video taught it, or somebody answers."""
    found = barred(storage, model)
    if not found:
        return None
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return (
        f"version {model.version} learned from a withdrawn video ({found[0].why()}{more}). Train one that did not: "
        f"`detection run {detector}`; or answer for this one: "
        f"`detection override {detector} --withdrawn {model.version} --by ... --reason ...`"
    )


def answered_for(storage: Storage, model: ModelVersion) -> str:
    """Who lets a version serve although it learned from withdrawn videos, in a line; "" if nobody had to."""
    found: dict[str, Any] = {f"{one.by}: {one.reason}": one for one in overrides(storage, model).values()}
    return f"learned from withdrawn videos, answered for by {'; '.join(found)}" if found else ""

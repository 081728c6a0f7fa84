"""What a served model was made with: the standard that production is held against.

Everything is read by version, from the registry's entry of the model that answered: the dataset that taught it and the
evaluation that let it pass, never whatever is the latest.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from detection_assets.domain import drift, layout
from detection_assets.domain.image_statistics import NAMES, statistics
from detection_assets.domain.metrics import Scores
from detection_assets.domain.two_samples import Sample
from detection_assets.pictures import pixels
from resources import temporary
from resources.compute.base import version_of
from resources.registry.base import ModelVersion
from resources.storage import Published, Storage

CODE = "1"
"""To be raised when a picture's figures change their meaning: profiles are then measured anew."""
MOST = 1000
"""Pictures of a dataset that are measured: enough for a distribution, and seconds of work."""
SEED = 0
AT_ONCE = 64
"""Pictures in memory at once."""
THREADS = 4


@dataclass(frozen=True)
class Reference:
    """What one registered version was made with.

    Attributes:
        version: The registered version.
        dataset_version: The dataset that taught it; "" if it is not known.
        samples: By feature; those that could not be had are missing.
        map50: Its AP50 on the test split, of boxes at least as confident as the endpoint's answers; NaN if unknown.
        test_images: Images of the test split.
        notes: What is missing, and why.
    """

    version: str
    dataset_version: str = ""
    samples: Mapping[str, Sample] = field(default_factory=dict)
    map50: float = float("nan")
    test_images: int = 0
    notes: tuple[str, ...] = ()


def reference(
    storage: Storage, model: ModelVersion | None, version: str, confidence: float, log: Callable[[str], Any]
) -> Reference:
    """The reference of a registered version.

    Args:
        storage: The detector's storage.
        model: Its entry in the registry; None if there is none.
        version: Its name, as the endpoint tells it.
        confidence: The endpoint's least confidence: less sure predictions of the evaluation are left out.
        log: Told of what takes long.
    """
    if model is None:
        return Reference(version, notes=(f"version {version} is not in the registry",))
    dataset = model.tags.get("dataset_version", "")
    made = storage.published(layout.dataset(dataset)) if dataset else None
    if made is None:
        return Reference(version, dataset, notes=(f"dataset {dataset or '?'} of version {version} is not published",))
    images = _parquet(storage, made, "images.parquet")
    pictures, notes = profile(storage, dataset, images, log)
    samples = drift.image_samples(pictures, ordered=False) if len(pictures) else {}
    judged = _evaluation(storage, model, confidence)
    if judged is None:
        notes.append(f"the evaluation of version {version} is not published")
        return Reference(version, dataset, samples, notes=tuple(notes))
    test = images[images["split"] == "test"].reset_index(drop=True)
    # A test split is a few videos: the frames of one speak together.
    test = test.assign(unit=pd.factorize(test["video"])[0])
    samples |= drift.answer_samples(test, judged, ordered=False)
    boxes = _parquet(storage, made, "boxes.parquet")
    classes = [str(name) for name in boxes["class"].dropna().unique()]
    boxes, judged = (table[table["frame"].isin(test["frame"])] for table in (boxes, judged))
    map50 = Scores(boxes, judged[judged["class"].isin(classes)], test, classes).overall()["ap50"]
    return Reference(version, dataset, samples, map50, len(test), tuple(notes))


def _parquet(storage: Storage, made: Published, name: str) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(storage.get(made.key(name))))


def _evaluation(storage: Storage, model: ModelVersion, confidence: float) -> pd.DataFrame | None:
    """What the model found on the test split when it was judged."""
    made = storage.published(layout.evaluation(model.tags.get("evaluation_version", "")))
    if made is None or "predictions.parquet" not in made.files:
        return None
    found = _parquet(storage, made, "predictions.parquet")
    return found[(found["model"] == "challenger") & (found["confidence"] >= confidence)].reset_index(drop=True)


def profile(
    storage: Storage, dataset: str, images: pd.DataFrame, log: Callable[[str], Any]
) -> tuple[pd.DataFrame, list[str]]:
    """What the pictures of a dataset look like; measured once and published.

    Args:
        storage: The detector's storage.
        dataset: The dataset's version.
        images: Its images: `frame`, `file` (below `frames/`).
        log: Told when the pictures have to be measured.

    Returns:
        A row a picture of a sample: `frame`, `width`, `height` and the figures of `image_statistics`; and notes.
    """
    prefix = layout.profile(dataset, version_of("profile", CODE, MOST, SEED))
    made = storage.published(prefix)
    if made is None:
        rows = images.sort_values("frame").reset_index(drop=True)
        if len(rows) > MOST:
            chosen = np.random.default_rng(SEED).choice(len(rows), MOST, replace=False)
            rows = rows.iloc[np.sort(chosen)]
        log(f"measuring {len(rows)} of {len(images)} pictures of {dataset}, once")
        keys = [f"{layout.FRAMES}/{file}" for file in rows["file"]]
        found = measured(storage, keys).assign(frame=rows["frame"].to_numpy())
        found = found[found["brightness"].notna()].reset_index(drop=True)
        if found.empty:
            return found, [f"no picture of {dataset} can be read any more"]
        notes = {"of": len(images), "measured": len(found), "unreadable": len(rows) - len(found)}
        with temporary.folder() as scratch:
            folder = Path(scratch) / "profile"
            folder.mkdir()
            found.to_parquet(folder / "images.parquet", index=False)
            made = storage.publish(folder, prefix, notes)
    lost = int(made.notes["unreadable"])
    return _parquet(storage, made, "images.parquet"), (
        [f"{lost} pictures of {dataset} could not be read and are not part of its profile"] if lost else []
    )


def measured(storage: Storage, keys: list[str]) -> pd.DataFrame:
    """Measures stored pictures, a few at a time.

    Args:
        storage: Where they are.
        keys: Their storage keys.

    Returns:
        A row a key, in order: `width`, `height` and the figures of `image_statistics`; NaN for a picture that is gone
        or does not decode.
    """

    def one(raw: bytes | None) -> dict[str, float]:
        picture = None if raw is None else pixels(raw)
        if picture is None:
            return {}
        return {**statistics(picture), "width": picture.shape[1], "height": picture.shape[0]}

    found: list[dict[str, float]] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for first in range(0, len(keys), AT_ONCE):
            found += pool.map(one, storage.get_many(keys[first : first + AT_ONCE]))
    return pd.DataFrame(found, columns=[*NAMES, "width", "height"], dtype="float64")

"""What models see in pictures that may be worth labelling, and what these look like: steps of the program `propose`.

What was seen is published by video, under the models, the settings and the pictures, and not looked at again.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
import pandas as pd

from detection_assets.domain import informativeness, layout
from detection_assets.domain.description import NAMES
from detection_assets.domain.portions import with_enough
from resources.compute.base import Compute, Input, Step, StepResult, version_of
from resources.registry.base import ModelVersion
from resources.storage import Published, Storage

CODE = "1"
A_STEP = 1000
"""Pictures in one step, about: a few minutes of two networks on two cores."""
NOISE = 0.05
"""Less confident boxes are not even written down."""


@dataclass(frozen=True)
class Looks:
    """What was seen.

    Attributes:
        pictures: A row a picture that could be read: `frame`, `width`, `height`, `phash`, and its description.
        boxes: What models found, columns `informativeness.BOXES`.
        problems: Pictures that could not be read, and why.
        ran: The steps.
    """

    pictures: pd.DataFrame
    boxes: pd.DataFrame
    problems: Sequence[str]
    ran: Sequence[StepResult]


def look(
    context: dg.AssetExecutionContext,
    storage: Storage,
    compute: Compute,
    pictures: pd.DataFrame,
    models: Mapping[str, ModelVersion],
    settings: Mapping[str, Any],
    hardware: str,
) -> Looks:
    """Lets models look at pictures, and describes these.

    Args:
        context: Of the asset.
        storage: The detector's storage.
        compute: Who runs the steps.
        pictures: `video`, `frame`, `key` (storage key), `digest` (changes when the picture does).
        models: `champion` and `challenger`, those that there are; with none the pictures are only described.
        settings: `iou` and `max_det` of the endpoint.
        hardware: Where to run.
    """
    told = {"confidence": NOISE, **settings} if models else {}
    digests = {name: model.sha256 for name, model in models.items()}
    of = {str(video): rows for video, rows in pictures.groupby("video", sort=True)}
    prefixes = {
        video: layout.looks(
            video,
            version_of("propose", CODE, digests, told, sorted(zip(rows["frame"], rows["digest"], strict=True))),
        )
        for video, rows in of.items()
    }
    parts = with_enough({video: len(rows) for video, rows in of.items()}, A_STEP)
    steps = [_step(part, of, prefixes, models, digests, told, hardware) for part in parts]
    ran = compute.run_all(context, steps)
    return _read(storage, list(prefixes.values()), ran)


def _step(
    part: Sequence[str],
    of: Mapping[str, pd.DataFrame],
    prefixes: Mapping[str, str],
    models: Mapping[str, ModelVersion],
    digests: Mapping[str, str],
    settings: Mapping[str, Any],
    hardware: str,
) -> Step:
    keys = [str(key) for video in part for key in of[video]["key"]]
    return Step(
        program="propose",
        version=version_of([prefixes[video] for video in part]),
        inputs={
            "pictures": Input("", keys),
            **{name: Input(*_placed(model.onnx)) for name, model in models.items()},
        },
        outputs={layout.slug(video): prefixes[video] for video in part},
        params={
            "videos": [
                {
                    "video": video,
                    "out": layout.slug(video),
                    "frames": list(zip(of[video]["frame"].astype(str), of[video]["key"].astype(str), strict=True)),
                }
                for video in part
            ],
            "settings": dict(settings),
            "sha256": dict(digests),
        },
        hardware=hardware,
    )


def _placed(onnx: str) -> tuple[str, list[str]]:
    folder, _, name = onnx.rpartition("/")
    return folder, [name]


def _read(storage: Storage, prefixes: Sequence[str], ran: Sequence[StepResult]) -> Looks:
    made = [found for found in map(storage.published, prefixes) if found is not None]
    pictures, boxes = (
        _table(storage, made, name, columns)
        for name, columns in (
            ("pictures.parquet", ["frame", "width", "height", "phash", *NAMES]),
            ("boxes.parquet", informativeness.BOXES),
        )
    )
    summaries = storage.get_many([one.key("summary.json") for one in made])
    problems = [str(text) for data in summaries if data is not None for text in json.loads(data)["problems"]]
    return Looks(pictures, boxes, problems, ran)


def _table(storage: Storage, made: Sequence[Published], name: str, columns: Sequence[str]) -> pd.DataFrame:
    parts = [
        pd.read_parquet(io.BytesIO(data))
        for data in storage.get_many([one.key(name) for one in made])
        if data is not None
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({column: [] for column in columns})

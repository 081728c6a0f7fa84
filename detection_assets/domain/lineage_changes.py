"""Why one version of a model scores otherwise than another: what differs between what they were made of.

What differs is told, not what it brought: data, labels, parameters, base weights and code usually change together, and
only a training with one of them changed says what that one did.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from detection_assets.domain.lineage_answers import answer


@dataclass(frozen=True)
class Made:
    """What a registered version was made of, as far as it is known.

    Attributes:
        version: The registered version.
        images: A row an image of its dataset: frame, video, split, labels (a digest of its boxes). Videos that both
            versions have alike may be left out.
        frames: How many images each split has.
        boxes: How many boxes of each class there are.
        metrics: The table of its evaluation.
        sha256: Digest of the model.
        settings: What it was trained with, by name, parts of parts as `a.b`.
        base: What the training started from.
        code: Commit, version of the training code, versions of libraries, by name.
        classes: The classes, in order.
    """

    version: str
    images: pd.DataFrame
    frames: Mapping[str, int]
    boxes: Mapping[str, int]
    metrics: pd.DataFrame
    sha256: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    base: str = ""
    code: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()


def why(earlier: Made, later: Made) -> pd.DataFrame:
    """The scores of two versions, and all that differs between what they were made of; what is alike has no row.

    Scores of each on its own test split come as `score`; where the later one's evaluation judged the earlier one, too,
    `score on the same frames` compares them as they should be: the difference is the models', not the frames'.
    """
    rows = [
        *_scores(earlier, later),
        *_data(earlier, later),
        *_labels(earlier, later),
        *_differing("parameters", earlier.settings, later.settings),
        *_differing("base weights", {"model": earlier.base}, {"model": later.base}),
        *_differing("code", earlier.code, later.code),
        *_differing("classes", {"classes": ", ".join(earlier.classes)}, {"classes": ", ".join(later.classes)}),
    ]
    return answer("why", rows)


def _row(subject: str, what: str, earlier: Any, later: Any) -> dict[str, Any]:
    told = [
        None if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
        for value in (earlier, later)
    ]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (earlier, later))
    change = float(later) - float(earlier) if numbers else None
    return {"subject": subject, "what": what, "earlier": told[0], "later": told[1], "change": change}


def _scores(earlier: Made, later: Made) -> Iterable[dict[str, Any]]:
    rival = later.metrics["sha256"] == earlier.sha256 if len(later.metrics) else []
    for subject, before in (
        ("score on the same frames", later.metrics[rival] if len(later.metrics) else later.metrics),
        (
            "score",
            earlier.metrics[earlier.metrics["model"] == "challenger"] if len(earlier.metrics) else earlier.metrics,
        ),
    ):
        if not len(before) or not len(later.metrics):
            continue
        after = later.metrics[later.metrics["model"] == "challenger"]
        one, other = _by_slice(before), _by_slice(after)
        for what in other.index.intersection(one.index):
            yield _row(subject, f"AP50, {what}", float(one[what]), float(other[what]))


def _by_slice(metrics: pd.DataFrame) -> pd.Series:
    chosen = metrics[metrics["slice_kind"].isin(["all", "class"])].sort_values("slice_kind")
    name = np.where(chosen["slice_kind"] == "all", "all classes", chosen["slice"])
    values = pd.Series(chosen["ap50"].to_numpy(np.float64), index=name)
    return values[~values.index.duplicated()]


def _data(earlier: Made, later: Made) -> Iterable[dict[str, Any]]:
    for split in ("train", "val", "test"):
        counts = [made.frames.get(split, 0) for made in (earlier, later)]
        if counts[0] != counts[1]:
            yield _row("data" if split != "test" else "judged on", f"frames in {split}", *counts)
    place, back = _places(earlier, later), _places(later, earlier)
    moved = later.images["split"].to_numpy(object)[place >= 0] != earlier.images["split"].to_numpy(object)[_met(place)]
    for what, images, chosen in (
        ("frames added", later.images, place < 0),
        ("frames removed", earlier.images, back < 0),
        ("frames of another split", later.images[place >= 0], moved),
    ):
        for (video, split), count in images[chosen].groupby(["video", "split"], observed=True).size().items():
            yield _row("data" if split != "test" else "judged on", f"{what}, {split}: {video}", None, int(count))


def _labels(earlier: Made, later: Made) -> Iterable[dict[str, Any]]:
    """Boxes by class in all, and the frames that both have with other boxes on them, by video."""
    for name in sorted({*earlier.boxes, *later.boxes}):
        before, after = (made.boxes.get(name, 0) for made in (earlier, later))
        if before != after:
            yield _row("data", f"boxes of {name}", before, after)
    place = _places(earlier, later)
    both = later.images[place >= 0]
    changed = both["labels"].to_numpy(object) != earlier.images["labels"].to_numpy(object)[_met(place)]
    for (video, split), count in both[changed].groupby(["video", "split"], observed=True).size().items():
        yield _row("labels", f"frames re-labelled, {split}: {video}", None, int(count))


def _places(among: Made, of: Made) -> np.ndarray:
    """Where each image of one version is among those of the other; -1 if it is not."""
    return pd.Index(among.images["frame"].astype(object)).get_indexer(pd.Index(of.images["frame"].astype(object)))


def _met(places: np.ndarray) -> np.ndarray:
    return places[places >= 0]


def _differing(subject: str, earlier: Mapping[str, Any], later: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    for name in sorted({*earlier, *later}):
        one, other = earlier.get(name), later.get(name)
        if one != other and (one or other):
            yield _row(subject, name, one, other)


def flat(settings: Mapping[str, Any], under: str = "") -> dict[str, Any]:
    """Settings by one name each: parts of parts as `a.b`."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{under}{name}.")
        else:
            found[f"{under}{name}"] = value
    return found

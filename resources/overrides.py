"""Who let weights pass whose gates failed: written once, with a name and a reason, never overwritten."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

import orjson

from detection_assets.domain import layout
from detection_assets.domain.problems import InputError
from resources.storage import Storage


@dataclass(frozen=True)
class Override:
    """A decision that failed gates do not stand in the way.

    Attributes:
        weights_version: The weights.
        by: Who decided it.
        reason: Why.
        at: When, in ISO 8601, UTC.
        failed: What the gates said that failed.
    """

    weights_version: str
    by: str
    reason: str
    at: str
    failed: tuple[str, ...] = ()


def failed_gates(storage: Storage, evaluation_version: str) -> list[str]:
    """What the gates of an evaluation say that failed.

    Raises:
        InputError: If there is no such evaluation.
    """
    made = storage.published(layout.evaluation(evaluation_version))
    if made is None:
        raise InputError(f"evaluation {evaluation_version} is not published")
    verdicts: Sequence[Mapping[str, Any]] = orjson.loads(storage.get(made.key("summary.json")))["gates"]
    return [str(verdict["why"]) for verdict in verdicts if not verdict["passed"]]


def write(storage: Storage, weights_version: str, by: str, reason: str, failed: Sequence[str]) -> Override:
    """Writes an override down.

    Raises:
        InputError: If the name or the reason is missing, no gate failed, or there is an override already.
    """
    if not by.strip() or not reason.strip():
        raise InputError("an override needs a name and a reason: they are kept with the model for good")
    if not failed:
        raise InputError(f"weights {weights_version}: no gate failed, so there is nothing to override")
    at = datetime.now(timezone.utc).isoformat(timespec="seconds")
    made = Override(weights_version, by.strip(), reason.strip(), at, tuple(failed))
    if not storage.put_if_absent(layout.override(weights_version), orjson.dumps(asdict(made))):
        known = read(storage, weights_version)
        raise InputError(f"weights {weights_version} are overridden already, by {known.by if known else 'somebody'}")
    return made


def read(storage: Storage, weights_version: str) -> Override | None:
    """The override of weights, or None."""
    try:
        told = orjson.loads(storage.get(layout.override(weights_version)))
    except FileNotFoundError:
        return None
    return _loaded(told)


def _loaded(told: Mapping[str, Any]) -> Override:
    return Override(told["weights_version"], told["by"], told["reason"], told["at"], tuple(told["failed"]))


def all_of(storage: Storage) -> list[Override]:
    """Every override that there is, the first first."""
    keys = sorted(item.key for item in storage.list_folder(layout.override("x").rpartition("/")[0]))
    made = [_loaded(orjson.loads(data)) for data in storage.get_many(keys) if data is not None]
    return sorted(made, key=lambda one: one.at)

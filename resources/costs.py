"""What steps cost, as it is written into Dagster's event log and read from there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dagster as dg
from dagster import DagsterInstance

from detection_assets.domain.cost import Cost
from resources.compute.base import StepResult

ASSETS = (
    *("extracted_frames", "tuned_hyperparameters", "trained_weights", "evaluation", "batch_predictions"),
    "label_requests",
)
"""The assets that run steps, in the order the data flows."""
CHUNK = 1000
"""Events fetched in one query."""


def told(*results: StepResult) -> dict[str, Any]:
    """The metadata of an asset that ran these steps; nothing if it ran none.

    What was published before cost nothing now: it is told as `reused`, with what it took then.
    """
    if not results:
        return {}
    fresh = [result for result in results if not result.reused]
    counted = fresh or results
    return {
        "instance": ", ".join(sorted({result.instance for result in counted} - {""})),
        "seconds": round(sum(result.seconds for result in counted), 3),
        "cost_usd": float(sum(result.cost_usd for result in counted)),
        "reused": not fresh,
    }


def since(instance: DagsterInstance, detector: Sequence[str], begun: float, until: float | None = None) -> list[Cost]:
    """What a detector's steps have cost since some time, or between two; what was reused cost nothing.

    Args:
        instance: The Dagster instance.
        detector: What the detector's asset keys begin with.
        begun: Seconds since 1970.
        until: Likewise; None: until now.
    """
    found: list[Cost] = []
    for asset in ASSETS:
        key = dg.AssetKey([*detector, asset])
        first = _first_of_runs(instance, key)
        for at in range(0, len(first), CHUNK):
            asked = dg.AssetRecordsFilter(
                asset_key=key, after_timestamp=begun, before_timestamp=until, storage_ids=first[at : at + CHUNK]
            )
            for record in instance.fetch_materializations(asked, limit=CHUNK).records:
                made = record.asset_materialization
                metadata: dict[str, Any] = {name: value.value for name, value in made.metadata.items()} if made else {}
                if "cost_usd" in metadata and not metadata.get("reused"):
                    told = str(metadata.get("instance", ""))
                    found.append(Cost(asset, told, metadata["seconds"], metadata["cost_usd"]))
    return found


def _first_of_runs(instance: DagsterInstance, key: dg.AssetKey) -> list[int]:
    """The first event of each run that made an asset, the newest first: it tells what the run cost as a whole.

    A run over many videos tells it once more for each of them, beside pictures; read through Dagster, these would take
    a second for every thousand videos. Dagster has no question for the first of each run, its table has.
    """
    from sqlalchemy import text

    storage: Any = instance.event_log_storage
    query = text(
        "SELECT MIN(id) FROM event_logs WHERE asset_key = :key AND dagster_event_type = 'ASSET_MATERIALIZATION' "
        "GROUP BY run_id"
    )
    with storage.index_connection() as connection:
        return sorted((row[0] for row in connection.execute(query, {"key": key.to_string()})), reverse=True)

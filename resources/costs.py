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
"""Events fetched in one query: a run over many videos writes one for each."""


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


def since(instance: DagsterInstance, detector: Sequence[str], begun: float) -> list[Cost]:
    """What a detector's steps have cost since some time; what was reused cost nothing and does not count.

    Args:
        instance: The Dagster instance.
        detector: What the detector's asset keys begin with.
        begun: Seconds since 1970.
    """
    found: dict[tuple[str, str], Cost] = {}
    for asset in ASSETS:
        asked = dg.AssetRecordsFilter(asset_key=dg.AssetKey([*detector, asset]), after_timestamp=begun)
        cursor, more = None, True
        while more:
            page = instance.fetch_materializations(asked, limit=CHUNK, cursor=cursor)
            cursor, more = page.cursor, page.has_more
            for record in page.records:
                made = record.asset_materialization
                metadata: dict[str, Any] = {name: value.value for name, value in made.metadata.items()} if made else {}
                if "cost_usd" in metadata and not metadata.get("reused"):
                    # A run over many videos tells each of them what it cost as a whole.
                    found[asset, record.run_id] = Cost(
                        asset, str(metadata.get("instance", "")), metadata["seconds"], metadata["cost_usd"]
                    )
    return list(found.values())

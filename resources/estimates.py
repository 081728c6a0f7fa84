"""What a stage takes and costs, by what its last runs took: Dagster's step times, and the costs that steps told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import dagster as dg
from dagster import DagsterInstance

LOOKED_AT = 200
"""Events of an asset that are looked through for its last runs."""
RUNS = 5
"""Runs that an estimate is the median of."""


@dataclass(frozen=True)
class Estimate:
    """What one partition of an asset takes, or an asset without partitions.

    Attributes:
        seconds: From the step's beginning to its end; NaN if it never ran.
        usd: Estimated cost.
        runs: How many runs this is the median of.
    """

    seconds: float
    usd: float
    runs: int


def of(instance: DagsterInstance, key: dg.AssetKey, places: Mapping[str, int]) -> Estimate:
    """The estimate for an asset; what ran as a step and was found to be there already does not count.

    Args:
        instance: The Dagster instance.
        key: The asset.
        places: Place of each partition in the order that ranges of runs go by; empty for an asset without partitions.
    """
    told: dict[str, Mapping[str, Any]] = {}
    for record in instance.fetch_materializations(key, limit=LOOKED_AT).records:
        event = record.asset_materialization
        if event is None or not record.run_id:
            continue
        metadata = {name: value.value for name, value in event.metadata.items()}
        # A run over many videos tells the cost as a whole, once for each of them.
        if record.run_id not in told or "cost_usd" in metadata:
            told[record.run_id] = metadata
    found: list[tuple[float, float]] = []
    wanted = [run_id for run_id, metadata in told.items() if not metadata.get("reused")]
    runs = {run.run_id: run for run in instance.get_runs(dg.RunsFilter(run_ids=wanted))} if wanted else {}
    for run_id, metadata in told.items():
        run = runs.get(run_id)
        if run is None or len(found) == RUNS:
            continue
        steps = [step for step in instance.get_run_step_stats(run_id) if step.step_key == key.path[-1]]
        if not steps or steps[0].start_time is None or steps[0].end_time is None:
            continue
        count = _partitions(run.tags, places)
        found.append(
            ((steps[0].end_time - steps[0].start_time) / count, float(metadata.get("cost_usd") or 0.0) / count)
        )
    if not found:
        return Estimate(float("nan"), 0.0, 0)
    return Estimate(median(seconds for seconds, _ in found), median(usd for _, usd in found), len(found))


def _partitions(tags: Mapping[str, str], places: Mapping[str, int]) -> int:
    first, last = (places.get(tags.get(f"dagster/asset_partition_range_{end}", "")) for end in ("start", "end"))
    return max(1, last - first + 1) if first is not None and last is not None else 1

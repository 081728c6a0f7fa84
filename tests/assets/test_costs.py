from __future__ import annotations

from typing import Any

import dagster as dg
import pytest
from dagster import DagsterInstance

from resources import costs
from resources.compute.base import StepResult


def ran(seconds: float, usd: float, instance: str = "ml.m5.xlarge", *, reused: bool = False) -> StepResult:
    return StepResult({}, (), reused, instance, seconds, usd)


CASES = {
    "none": ([], {}),
    "one": ([ran(2.0, 0.5)], {"instance": "ml.m5.xlarge", "seconds": 2.0, "cost_usd": 0.5, "reused": False}),
    "several": (
        [ran(2.0, 0.5), ran(3.0, 0.25, "ml.c5.large")],
        {"instance": "ml.c5.large, ml.m5.xlarge", "seconds": 5.0, "cost_usd": 0.75, "reused": False},
    ),
    "what was there already costs nothing again": (
        [ran(2.0, 0.5), ran(9.0, 9.0, "ml.c5.large", reused=True)],
        {"instance": "ml.m5.xlarge", "seconds": 2.0, "cost_usd": 0.5, "reused": False},
    ),
    "all of it was there already": (
        [ran(9.0, 9.0, reused=True)],
        {"instance": "ml.m5.xlarge", "seconds": 9.0, "cost_usd": 9.0, "reused": True},
    ),
}


@pytest.mark.parametrize(("results", "told"), CASES.values(), ids=CASES)
def test_an_asset_tells_what_its_steps_cost(results: list[StepResult], told: dict[str, object]) -> None:
    assert costs.told(*results) == told


def test_a_run_over_many_videos_counts_once_and_what_was_reused_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "CHUNK", 2)
    videos = dg.StaticPartitionsDefinition(["a.mp4", "b.mp4", "c.mp4"])
    result = ran(10.0, 0.02)

    @dg.asset(key_prefix="tiny", partitions_def=videos, backfill_policy=dg.BackfillPolicy.single_run())
    def extracted_frames() -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata=costs.told(result))

    @dg.asset(key_prefix="tiny")
    def evaluation() -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata=costs.told(ran(9.0, 9.0, reused=True)))

    first, last = videos.get_first_partition_key(), videos.get_last_partition_key()
    tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
    with DagsterInstance.ephemeral() as instance:
        for _ in range(2):
            assert dg.materialize([extracted_frames], instance=instance, tags=tags).success
        assert dg.materialize([evaluation], instance=instance).success
        assert len(instance.fetch_materializations(extracted_frames.key, limit=100).records) == 6
        read, fetch = [], DagsterInstance.fetch_materializations

        def counted(*asked: Any, **more: Any) -> Any:
            read.append(fetch(*asked, **more))
            return read[-1]

        monkeypatch.setattr(DagsterInstance, "fetch_materializations", counted)
        found = costs.since(instance, ["tiny"], 0.0)
        assert [(one.asset, one.seconds, one.usd) for one in found] == [("extracted_frames", 10.0, 0.02)] * 2
        assert sum(len(page.records) for page in read) == 3, "one event a run, however many videos it made"
        assert costs.since(instance, ["tiny"], 4e9) == []
        assert costs.since(instance, ["other"], 0.0) == []

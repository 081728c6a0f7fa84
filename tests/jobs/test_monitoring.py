from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterInstance
from project import write_detector

from detection_assets import definitions, detector_file
from jobs import jobs


@pytest.fixture(autouse=True)
def instance(tmp_path: Path) -> DagsterInstance:
    """Dagster resolves definitions with an instance at hand."""
    (tmp_path / "instance").mkdir()
    return DagsterInstance.local_temp(str(tmp_path / "instance"))


@pytest.mark.parametrize(
    ("at", "days"),
    [
        (datetime(2026, 3, 2, 0, 5, tzinfo=timezone.utc), ["2026-03-02", "2026-03-01"]),
        (datetime(2026, 3, 2, 1, 5, tzinfo=timezone.utc), ["2026-03-02"]),
        (datetime(2026, 3, 1, 23, 5, tzinfo=timezone.utc), ["2026-03-01"]),
    ],
)
def test_every_hour_today_is_monitored_and_once_the_end_of_yesterday(
    home: Path, instance: DagsterInstance, at: datetime, days: list[str]
) -> None:
    write_detector(home, "tiny")
    defs = definitions.build(detector_file.find("tiny"))
    schedule = defs.resolve_schedule_def("tiny_monitoring")
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
    context = dg.build_schedule_context(instance, scheduled_execution_time=at, repository_def=defs.get_repository_def())
    tick = schedule.evaluate_tick(context)
    assert [request.partition_key for request in tick.run_requests or ()] == days
    assert defs.resolve_job_def("tiny_monitor").partitions_def.has_partition_key(
        f"{datetime.now(timezone.utc):%Y-%m-%d}"
    )


def test_watching_is_no_part_of_bringing_a_detector_up_to_date(home: Path) -> None:
    write_detector(home, "tiny")
    defs = definitions.build(detector_file.find("tiny"))
    watching = {dg.AssetKey(["tiny", name]) for name in (*jobs.PREDICT, *jobs.MONITOR)}
    everything = defs.resolve_job_def("tiny_everything").asset_layer.executable_asset_keys
    assert not watching & set(everything)
    assert not set(jobs.STAGES) & {*jobs.PREDICT, *jobs.MONITOR}


def test_what_is_watched_changes_no_deployment(home: Path) -> None:
    path = write_detector(home, "tiny")
    before = definitions.build(detector_file.find("tiny")).resolve_asset_graph()
    path.write_text(path.read_text() + "monitoring: {capture: {rate: 1.0}, drift: {psi: 0.5}}\n")
    after = definitions.build(detector_file.find("tiny")).resolve_asset_graph()
    changed = {
        key.path[-1]
        for key in before.materializable_asset_keys
        if before.get(key).code_version != after.get(key).code_version
    }
    assert changed == {"drift_report"}

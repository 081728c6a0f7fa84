"""What the tests of rollouts share: a world in which a version serves, and what became of a run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import dagster as dg
from assets.deployment_world import NAME, World
from dagster import AssetKey, DagsterInstance

from detection_assets import definitions
from resources.instance import open_instance
from resources.rollouts import Rollouts

DETECTION = Path(sys.executable).with_name("detection")
SCRIPT = Path(__file__).parent / "deployment_world.py"


def last_event(asset: str) -> dg.AssetMaterialization:
    with open_instance() as instance:
        event = instance.get_latest_materialization_event(AssetKey([NAME, asset]))
        assert event is not None
        assert event.asset_materialization is not None
        return event.asset_materialization


def failure(instance: DagsterInstance) -> str:
    """What the last run's failed step says."""
    run = instance.get_runs(limit=1)[0]
    (record,) = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    return record.dagster_event.event_specific_data.error.message  # type: ignore[union-attr]


def environment() -> dict[str, str]:
    root = Path(__file__).parents[2]
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"}


def driver_of(world: World) -> Rollouts:
    plan = definitions.deployed_endpoint.plan_of(world.project.detector)
    return Rollouts(world.storage, world.registry, world.endpoints, plan)

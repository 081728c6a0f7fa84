"""What the tests of rollouts share: a world in which a version serves, and what became of a run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
from assets.deployment_world import NAME, World
from dagster import AssetKey, DagsterInstance

from detection_assets import definitions
from detection_assets.domain.rollout import Rollout
from resources.instance import open_instance
from resources.rollouts import Rollouts

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


def deploying(world: World, until: Callable[[Rollout], bool]) -> subprocess.Popen[bytes]:
    """A process that deploys, as soon as its rollout has come so far."""
    running = subprocess.Popen([sys.executable, "-W", "ignore", str(SCRIPT)], env=environment())
    ends = time.monotonic() + 120
    while time.monotonic() < ends:
        now = world.log.last()
        if now.rollout is not None and until(now.rollout):
            return running
        assert running.poll() is None, "it ended before it came so far"
        time.sleep(0.01)
    running.kill()
    raise AssertionError(f"not within two minutes; it came to {world.log.last()}")


def at_canary(world: World) -> subprocess.Popen[bytes]:
    """A process that deploys, as soon as half of the traffic goes to slot green."""
    running = deploying(world, lambda rollout: rollout.stage == "canary")
    ends = time.monotonic() + 30
    while world.served()[1].get("green") != 50:
        assert time.monotonic() < ends, "the canary gets nothing"
        time.sleep(0.05)
    return running


def environment() -> dict[str, str]:
    root = Path(__file__).parents[2]
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"}


def driver_of(world: World) -> Rollouts:
    plan = definitions.deployed_endpoint.plan_of(world.project.detector)
    return Rollouts(world.storage, world.registry, world.endpoints, plan)

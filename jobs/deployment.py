"""What happens to an endpoint between two deployments: decisions of people, and the upkeep.

A decision is a run of its own, so that the UI shows who decided what and why; the command line does the same things.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import pandas as pd

from detection_assets.domain import card, history
from detection_assets.domain.rollout import Plan
from jobs import jobs, runs
from resources import tables, versions
from resources.compute.base import version_of
from resources.deployments import Deployments
from resources.endpoints.base import Endpoints
from resources.registry.base import APPROVED, GATES, ModelVersion, Registry
from resources.rollouts import Rollouts, slots_table
from resources.storage import Storage
from resources.withdrawal import withdrawals

ATTEMPTS = 3
"""How often an approved version is tried that never came as far as a verdict."""
FOR = "detection/approval"
"""Tag of a run that an approval started: which version, approved when."""
DEPLOYING = ("deploy", "retrain", "everything")
"""The jobs that deploy."""


class Rollback(dg.Config):
    """Who goes back, and why."""

    by: str
    reason: str


class Approval(dg.Config):
    """Who decides about which version, how, and why."""

    version: str
    by: str
    reason: str
    reject: bool = False


# What a decision writes ----------------------------------------------------------------------------------------------


def endpoint_changed(instance: dg.DagsterInstance, detector: str, driver: Rollouts) -> dg.AssetMaterialization:
    """Writes the tables of the endpoint as it is now, and returns the event that says so."""
    periods = driver.log.write_table()
    table = slots_table(driver.endpoints, periods)
    tables.write(driver.storage, "deployed_endpoint", None, table, driver.run)
    serving = driver.endpoints.status().serving
    settings = dict(driver.settings_of(serving.version) or {}) if serving else {}
    version = version_of(serving.version if serving else "", serving.sha256 if serving else "", settings)
    return _again(
        instance,
        dg.AssetKey([detector, "deployed_endpoint"]),
        version,
        {
            "version": serving.version if serving else "none",
            "slots": dg.MetadataValue.md(card.frame_table(table.drop(columns=["sha256", "url"]))),
            "shares": dg.MetadataValue.md(history.markdown(periods, time.time())),
            "history": dg.MetadataValue.md(card.frame_table(history.shown(periods), 30)),
        },
    )


def approval_changed(
    instance: dg.DagsterInstance, detector: str, storage: Storage, decided: ModelVersion, run: str
) -> dg.AssetMaterialization | None:
    """Writes a decision into the table of the registered model; None if that is about another version by now."""
    try:
        table = tables.read(storage, "registered_model")
    except FileNotFoundError:
        return None
    if table.empty or str(table["version"].iloc[0]) != decided.version:
        return None
    said = {"approval": decided.approval, **{name: decided.tags.get(name, "") for name in jobs.APPROVAL}}
    tables.write(storage, "registered_model", None, table.assign(**said), run)
    state = said["approval"]
    shown = pd.DataFrame(sorted(said.items()), columns=["", "value"])
    return _again(
        instance,
        dg.AssetKey([detector, "registered_model"]),
        decided.version if state == APPROVED else f"{decided.version}-{state}",
        {"version": decided.version, "approval": state, "decision": dg.MetadataValue.md(card.frame_table(shown))},
    )


def _again(
    instance: dg.DagsterInstance, key: dg.AssetKey, version: str, metadata: Mapping[str, Any]
) -> dg.AssetMaterialization:
    """A new data version of an asset that was made from the same inputs by the same code."""
    event = instance.get_latest_materialization_event(key)
    before = event.asset_materialization.tags if event and event.asset_materialization else None
    tags = {**(before or {}), versions.DATA: version, versions.PROVIDED: "true"}
    return dg.AssetMaterialization(key, metadata=metadata, tags=tags)


# Jobs ----------------------------------------------------------------------------------------------------------------


def jobs_of(detector: str, plan: Plan) -> list[dg.JobDefinition]:
    """The jobs `rollback` and `approve` of a detector.

    Args:
        detector: The detector's name.
        plan: How its rollouts go.
    """

    @dg.op(name=f"{detector}_go_back", description="Routes back, or deploys the version that served before.")
    def go_back(
        context: dg.OpExecutionContext, config: Rollback, storage: Storage, registry: Registry, endpoints: Endpoints
    ) -> None:
        driver = Rollouts(storage, registry, endpoints, plan, context.run_id, lambda text: context.log.info(text))
        driver.roll_back(config.by, config.reason)
        context.log_event(endpoint_changed(context.instance, detector, driver))

    @dg.op(name=f"{detector}_decide", description="Lets a version be deployed, or keeps it from being so.")
    def decide(context: dg.OpExecutionContext, config: Approval, storage: Storage, registry: Registry) -> None:
        act = registry.reject if config.reject else registry.approve
        decided = act(config.version, config.by, config.reason)
        event = approval_changed(context.instance, detector, storage, decided, context.run_id)
        if event is not None:
            context.log_event(event)

    tags = {"dagster/max_runtime": str(jobs.MAX_RUNTIME_S), "detection/detector": detector}

    @dg.job(
        name=f"{detector}_rollback",
        description="Go back to the version that served before, by hand.",
        executor_def=dg.in_process_executor,
        tags=tags,
    )
    def rollback() -> None:
        go_back()

    @dg.job(
        name=f"{detector}_approve",
        description="Approve or reject a version that waits; a sensor then starts its rollout.",
        executor_def=dg.in_process_executor,
        tags=tags,
    )
    def approve() -> None:
        decide()

    return [rollback, approve]


# Sensors -------------------------------------------------------------------------------------------------------------


def waiting(known: Sequence[ModelVersion], serving: str, log: Deployments) -> ModelVersion | None:
    """The newest version that a person approved and that is newer than what serves, unless it was rolled back.

    Args:
        known: All versions, newest first.
        serving: The version that serves, or "".
        log: The endpoint's log.
    """
    names = [item.version for item in known]
    newer = known[: names.index(serving)] if serving in names else known
    return next(
        (
            item
            for item in newer
            if item.approval == APPROVED
            and item.tags.get("approved_by") not in (None, GATES)
            and log.rolled_back(item.version) is None
        ),
        None,
    )


def sensors_of(detector: str, plan: Plan) -> list[dg.SensorDefinition]:
    """The sensors of a detector's endpoint: what was approved is rolled out, what was left over is put in order.

    Args:
        detector: The detector's name.
        plan: How its rollouts go.
    """
    deploy = jobs.keys(detector, ("deployed_endpoint",))

    @dg.sensor(
        name=f"{detector}_approved_models",
        job_name=f"{detector}_deploy",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Rolls out a version that a person approved: by command, by job, or by the alias `approved`.",
    )
    def approved_models(
        context: dg.SensorEvaluationContext, storage: Storage, registry: Registry, endpoints: Endpoints
    ) -> dg.SensorResult | dg.SkipReason:
        by_alias = registry.adopt_aliases()
        log = Deployments(storage)
        serving = endpoints.status().serving
        found = waiting(registry.history(), serving.version if serving else "", log)
        told = [approval_changed(context.instance, detector, storage, item, "") for item in by_alias]
        events = [event for event in told if event is not None]
        if found is None:
            return dg.SensorResult(skip_reason="no approved version waits", asset_events=events)
        approval = f"{found.version} at {found.tags.get('approved_at', '')}"
        if refused := withdrawals.refusal(storage, found, detector):
            return dg.SensorResult(skip_reason=refused, asset_events=events)
        tried = context.instance.get_runs_count(dg.RunsFilter(tags={FOR: approval, "detection/detector": detector}))
        if tried >= ATTEMPTS:
            why = f"version {found.version} was tried {tried} times; approve it again to try once more"
            return dg.SensorResult(skip_reason=why, asset_events=events)
        if runs.under_way(context.instance, detector, DEPLOYING):
            return dg.SensorResult(skip_reason="a deployment is under way", asset_events=events)
        request = dg.RunRequest(tags={FOR: approval}, asset_selection=deploy)
        return dg.SensorResult(run_requests=[request], asset_events=events)

    @dg.sensor(
        name=f"{detector}_endpoint_upkeep",
        job_name=f"{detector}_deploy",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Unloads the old version when its time is over, and goes on with a rollout whose process died.",
    )
    def endpoint_upkeep(
        context: dg.SensorEvaluationContext, storage: Storage, registry: Registry, endpoints: Endpoints
    ) -> dg.SensorResult | dg.SkipReason:
        driver = Rollouts(storage, registry, endpoints, plan)
        before = driver.log.last().number
        if driver.log.open() is None:
            driver.retire_if_due()
            driver.log.observe(endpoints.status(), "changed by hand")
        elif driver.log.abandoned() and not runs.under_way(
            context.instance, detector, DEPLOYING, driver.log.last().run
        ):
            # The run that drove it may look as if it went on for ever: its process cannot say any more that it ended.
            runs.close_dead(context.instance, detector)
            return dg.SensorResult(run_requests=[dg.RunRequest(asset_selection=deploy)])
        if driver.log.last().number == before:
            return dg.SkipReason("nothing to do")
        return dg.SensorResult(asset_events=[endpoint_changed(context.instance, detector, driver)])

    return [approved_models, endpoint_upkeep]

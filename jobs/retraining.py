"""What starts a training by itself: newly labelled frames, drift, the clock.

Each trigger asks the same rule (`domain/retraining.py`), and each run that starts carries what triggered it and the
evidence as tags, which the training, the registry and the history repeat.
"""

import json
import time
from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster import DagsterInstance

from detection_assets.domain import retraining
from detection_assets.domain.retraining import EVIDENCE, TRIGGER, Decision, Limits, Spent
from jobs import runs
from resources import tables
from resources.storage import Storage

TRAINING = ("train", "retrain", "everything")
"""The jobs that train."""


def request(detector: str, trigger: str, evidence: str) -> dg.RunRequest:
    """The run that retrains."""
    return dg.RunRequest(job_name=f"{detector}_retrain", tags={TRIGGER: trigger, EVIDENCE: evidence})


def decide(instance: DagsterInstance, detector: str, why: str, limits: Limits) -> Decision:
    """Asks the one rule, with what the event log knows of earlier trainings."""
    now = time.time()
    under_way = runs.under_way(instance, detector, TRAINING)
    return retraining.decide(why, now, spent(instance, detector, now), limits, under_way=under_way)


def spent(instance: DagsterInstance, detector: str, now: float) -> list[Spent]:
    """The trainings of the last 30 days; one whose outcome was there already cost nothing and does not count."""
    since = now - retraining.WINDOW_S
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey([detector, "trained_weights"]), after_timestamp=since), limit=1000
    ).records
    found: list[Spent] = []
    for record in records:
        made = record.asset_materialization
        told = {name: value.value for name, value in made.metadata.items()} if made else {}
        if not told.get("reused"):
            found.append(Spent(record.timestamp, _number(told.get("seconds")), _number(told.get("cost_usd"))))
    return found


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def labelled_since(instance: DagsterInstance, storage: Storage, detector: str) -> tuple[int, str]:
    """How many frames were labelled since the dataset of the last training, and that dataset's version."""
    videos = list(instance.get_dynamic_partitions(f"{detector}_videos"))
    now = int(tables.read(storage, "annotations", videos)["frame"].nunique())
    weights = _latest(instance, detector, "trained_weights")
    if weights is None:
        return now, "no dataset yet"
    datasets = instance.fetch_materializations(
        dg.AssetRecordsFilter(
            asset_key=dg.AssetKey([detector, "detection_dataset"]), before_storage_id=weights.storage_id
        ),
        limit=1,
    ).records
    made = datasets[0].asset_materialization if datasets else None
    told = {name: value.value for name, value in made.metadata.items()} if made else {}
    return now - int(_number(told.get("labelled frames"))), str(told.get("version", "a dataset that is gone"))


def _latest(instance: DagsterInstance, detector: str, asset: str) -> dg.EventLogRecord | None:
    records = instance.fetch_materializations(dg.AssetKey([detector, asset]), limit=1).records
    return records[0] if records else None


def _cursor(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def sensors_of(detector: str, limits: Limits, new_frames: int | None, on_drift: bool) -> list[dg.SensorDefinition]:
    """The sensors that retrain.

    Args:
        detector: The detector's name.
        limits: Cooldown and ceilings, shared by all triggers.
        new_frames: Newly labelled frames that are worth a training, or None for no such sensor.
        on_drift: Whether drift starts a training.
    """

    @dg.sensor(
        name=f"{detector}_retrain_on_labels",
        job_name=f"{detector}_retrain",
        minimum_interval_seconds=60,
        description="Trains again when enough frames were labelled since the last training.",
    )
    def retrain_on_labels(context: dg.SensorEvaluationContext, storage: Storage) -> dg.SensorResult | dg.SkipReason:
        assert new_frames is not None
        read, weights = (_latest(context.instance, detector, asset) for asset in ("annotations", "trained_weights"))
        if read is None:
            return dg.SkipReason("nothing is annotated yet")
        if weights is None:
            return dg.SkipReason(f"no model yet: `detection run {detector}` trains the first one")
        # The tables are read only when labels came in or a training ended since they were read last.
        seen, cursor = [int(read.storage_id), int(weights.storage_id)], _cursor(context.cursor)
        if cursor.get("seen") != seen:
            new, since = labelled_since(context.instance, storage, detector)
            cursor |= {"seen": seen, "new": new, "since": since}
        new, since = int(cursor["new"]), str(cursor["since"])

        def wait(why: str) -> dg.SensorResult:
            return dg.SensorResult(skip_reason=why, cursor=json.dumps(cursor))

        if new < new_frames:
            return wait(f"{max(new, 0)} of {new_frames} newly labelled frames since {since}")
        if cursor.get("asked") == seen:
            return wait("asked for already; waiting for that training or for more labels")
        why = f"{new} newly labelled frames since {since}"
        decision = decide(context.instance, detector, why, limits)
        if not decision.go:
            return wait(decision.why)
        cursor["asked"] = seen
        return dg.SensorResult(run_requests=[request(detector, "labels", why)], cursor=json.dumps(cursor))

    @dg.sensor(
        name=f"{detector}_retrain_on_drift",
        job_name=f"{detector}_retrain",
        minimum_interval_seconds=60,
        description="Trains again when requests drifted from what the serving model learned, and something new is "
        "labelled.",
    )
    def retrain_on_drift(context: dg.SensorEvaluationContext, storage: Storage) -> dg.SensorResult | dg.SkipReason:
        report = _latest(context.instance, detector, "drift_report")
        if report is None or report.partition_key is None:
            return dg.SkipReason("no drift report yet")
        weights = _latest(context.instance, detector, "trained_weights")
        if weights is not None and weights.storage_id > report.storage_id:
            return dg.SkipReason("the last training is younger than the last drift report")
        cursor = _cursor(context.cursor)
        if cursor.get("asked") == report.storage_id:
            return dg.SkipReason("asked for already because of this report")
        drifted = drifted_features(storage, report.partition_key)
        if not drifted:
            return dg.SkipReason(f"no drift in the report of {report.partition_key}")
        told = ", ".join(f"{feature} ({figures})" for feature, figures in drifted.items())
        why = f"drift on {report.partition_key} in {told}"
        new, since = labelled_since(context.instance, storage, detector)
        if new <= 0:
            return dg.SkipReason(
                f"{why}, but nothing was labelled since {since}: a training would learn nothing new. Label some of the "
                "captured pictures first"
            )
        decision = decide(context.instance, detector, why, limits)
        if not decision.go:
            return dg.SkipReason(decision.why)
        evidence = f"{why}; {new} newly labelled frames; drift report of run {report.run_id}"
        return dg.SensorResult(
            run_requests=[request(detector, "drift", evidence)], cursor=json.dumps({"asked": report.storage_id})
        )

    wanted = [(retrain_on_labels, new_frames is not None), (retrain_on_drift, on_drift)]
    return [sensor for sensor, on in wanted if on]


def drifted_features(storage: Storage, day: str) -> Mapping[str, str]:
    """The features that drifted on a day, each with its figures."""
    report = tables.read(storage, "drift_report", [day])
    drifted = report[report["verdict"] == "drift"]
    return {
        str(row["feature"]): f"version {row['version']}, PSI {row['psi']:.2f}, KS {row['ks']:.2f}"
        for row in drifted.to_dict("records")
    }


def schedule_of(detector: str, cron: str, limits: Limits) -> dg.ScheduleDefinition:
    """Retraining on a schedule, under the same limits; off until somebody switches it on.

    Args:
        detector: The detector's name.
        cron: When, as a cron expression.
        limits: Cooldown and ceilings.
    """

    @dg.schedule(
        name=f"{detector}_retraining",
        job_name=f"{detector}_retrain",
        cron_schedule=cron,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Train again on what is in the lake; the gates decide whether it is served.",
    )
    def scheduled(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        decision = decide(context.instance, detector, f"the schedule {cron}", limits)
        return request(detector, "schedule", decision.why) if decision.go else dg.SkipReason(decision.why)

    return scheduled

"""The model behind an endpoint that answers.

Version: the registered version and the endpoint's settings. A new version goes to the idle slot, answers the golden
frames there, and only then gets the traffic; if anything fails the slot that served goes on serving, untouched.
"""

import io
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import dagster as dg
import pandas as pd

from detection_assets.detector import Detector
from detection_assets.domain import card, layout, rollout
from resources import tables
from resources.compute.base import version_of
from resources.endpoints.base import EndpointError, Endpoints
from resources.registry.base import CHAMPION, Registry
from resources.storage import Storage

READY_S = 60.0
GOLDEN = 8
"""Frames of the test split that a new slot must answer before it gets any traffic."""


@dg.asset(
    dagster_type=tables.TABLE,
    code_version="1",
    kinds={"python"},
    metadata={"settings": ["endpoint"]},
    check_specs=[
        dg.AssetCheckSpec(
            "golden_frames", asset="deployed_endpoint", blocking=True, description="Known frames get the known answers."
        ),
        dg.AssetCheckSpec("latency", asset="deployed_endpoint", description="It answers in time."),
    ],
)
def deployed_endpoint(
    context: dg.AssetExecutionContext,
    detector: dg.ResourceParam[Detector],
    storage: Storage,
    registry: Registry,
    endpoints: Endpoints,
    detection_dataset: pd.DataFrame,
    evaluation: pd.DataFrame,
    registered_model: pd.DataFrame,
) -> dg.MaterializeResult:
    """A row a slot: which version it holds, its share of the traffic, its state, and where it answers."""
    model = registered_model.iloc[0]
    settings = detector.endpoint.model_dump(mode="json", include={"confidence", "iou", "max_det"})
    golden = _golden(storage, str(model["evaluation_version"]), detection_dataset, settings["confidence"])
    slot = endpoints.idle_slot()
    context.log.info(f"[0/3] slot {slot}: loading version {model['version']}")
    answers: list[rollout.Answer] = []
    try:
        endpoints.deploy(slot, str(model["onnx"]), str(model["sha256"]), str(model["version"]), settings)
        endpoints.wait_ready(slot, READY_S)
        context.log.info(f"[1/3] slot {slot}: answering {len(golden)} golden frames")
        for picture, expected in golden:
            answer = endpoints.invoke(slot, picture)
            answers.append(rollout.compare(expected, answer["boxes"], float(answer["latency_ms"])))
        verdict = rollout.judge(answers)
        if verdict.passed:
            context.log.info(f"[2/3] slot {slot}: taking the traffic")
            before = endpoints.status().serving
            endpoints.route({slot: 100} if before is None else {slot: 100, before.name: 0})
            registry.point(CHAMPION, str(model["version"]))
            if before is not None:
                endpoints.remove(before.name)
        else:
            endpoints.remove(slot)
    except EndpointError:
        _take_back(context, endpoints, slot)
        raise
    status = endpoints.status()
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    table = pd.DataFrame(
        [
            {
                "endpoint": endpoints.detector,
                "slot": item.name,
                "version": item.version,
                "sha256": item.sha256,
                "traffic": item.traffic,
                "state": item.state,
                "url": status.url,
                "deployed_at": now,
            }
            for item in status.slots
        ],
        columns=["endpoint", "slot", "version", "sha256", "traffic", "state", "url", "deployed_at"],
    )
    context.log.info(f"[3/3] {status.url} answers with version {model['version']}")
    return dg.MaterializeResult(
        value=table,
        data_version=dg.DataVersion(version_of(str(model["version"]), str(model["sha256"]), settings)),
        metadata={
            "url": dg.MetadataValue.url(status.url),
            "slots": dg.MetadataValue.md(card.frame_table(table.drop(columns=["sha256", "url"]))),
            "version": str(model["version"]),
            "golden frames": len(golden),
        },
        check_results=[golden_frames(verdict), latency(verdict, detector.endpoint.p95_ms)],
    )


def _take_back(context: dg.AssetExecutionContext, endpoints: Endpoints, slot: str) -> None:
    """Leaves the endpoint as it was, as far as it still answers."""
    try:
        if endpoints.status().serving != slot:
            endpoints.remove(slot)
    except EndpointError as error:
        context.log.warning(f"slot {slot} could not be removed: {error}")


def _golden(
    storage: Storage, evaluation_version: str, dataset: pd.DataFrame, confidence: float
) -> Sequence[tuple[bytes, Sequence[Mapping[str, Any]]]]:
    """Test frames with the boxes that this very model gave them when it was evaluated, richest frames first."""
    made = storage.published(layout.evaluation(evaluation_version))
    if made is None:
        return []
    predictions = pd.read_parquet(io.BytesIO(storage.get(made.key("predictions.parquet"))))
    sure = predictions[(predictions["model"] == "challenger") & (predictions["confidence"] >= confidence)]
    richest = sure["frame"].value_counts().head(GOLDEN).index
    keys = dataset.set_index("frame")["key"]
    boxes = dict(list(sure.groupby("frame")))
    return [
        (storage.get(str(keys[frame])), boxes[frame].to_dict("records")) for frame in richest if frame in keys.index
    ]


def golden_frames(verdict: rollout.Verdict) -> dg.AssetCheckResult:
    """What the endpoint answers is what was evaluated."""
    return dg.AssetCheckResult(
        check_name="golden_frames",
        passed=verdict.passed,
        description=verdict.why,
        metadata={"frames": verdict.frames, "expected boxes": verdict.expected, "found again": verdict.found},
    )


def latency(verdict: rollout.Verdict, limit_ms: float) -> dg.AssetCheckResult:
    """The 95th percentile over the golden frames, as the server measures it."""
    return dg.AssetCheckResult(
        check_name="latency",
        passed=verdict.p95_ms <= limit_ms,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"p95_ms": verdict.p95_ms, "limit_ms": limit_ms},
    )

"""The model's entry in the registry: its lineage, its figures, and who approved it.

Version: the registry's own. Registering the same weights on the same evaluation again finds the same entry.
"""

from datetime import datetime, timezone

import dagster as dg
import pandas as pd

from detection_assets.detector import Detector
from detection_assets.domain import card
from resources import tables
from resources.registry.base import CHALLENGER, Registry
from resources.storage import Storage


@dg.asset(
    dagster_type=tables.TABLE,
    code_version="1",
    kinds={"mlflow"},
    metadata={"settings": []},
    check_specs=[
        dg.AssetCheckSpec(
            "digest", asset="registered_model", blocking=True, description="The registry holds what was trained."
        )
    ],
)
def registered_model(
    context: dg.AssetExecutionContext,
    detector: dg.ResourceParam[Detector],
    storage: Storage,
    registry: Registry,
    trained_weights: pd.DataFrame,
    evaluation: pd.DataFrame,
) -> dg.MaterializeResult:
    """One row: registry, name, version, alias, digest, the versions it comes from, and the approval."""
    weights = trained_weights.iloc[0]
    overall = evaluation[(evaluation["model"] == "challenger") & (evaluation["slice_kind"] == "all")].iloc[0]
    lineage = {
        "detector": detector.name,
        "dataset_version": str(weights["dataset_version"]),
        "weights_version": str(weights["weights_version"]),
        "base_weights": str(weights["base_weights"]),
        "evaluation_version": str(overall["evaluation_version"]),
        "map50": f"{overall['ap50']:.6f}",
        "map50_95": f"{overall['ap50_95']:.6f}",
        "mlflow_run": str(weights["mlflow_run"]),
    }
    entry = registry.register(
        str(weights["onnx"]),
        storage.uri_of(str(weights["onnx"])),
        str(weights["sha256"]),
        lineage,
        str(weights["mlflow_run"]),
    )
    approval = {
        "approved_by": entry.tags.get("approved_by") or "gates",
        "approved_at": entry.tags.get("approved_at") or datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "approval_reason": entry.tags.get("approval_reason") or "every gate passed",
    }
    registry.tag(entry.version, {**approval, "dagster_run_id": context.run.run_id})
    registry.point(CHALLENGER, entry.version)
    table = pd.DataFrame(
        [
            {
                "registry": type(registry).__name__,
                "name": entry.name,
                "version": entry.version,
                "alias": CHALLENGER,
                "sha256": entry.sha256,
                "onnx": entry.onnx,
                "weights_version": lineage["weights_version"],
                "dataset_version": lineage["dataset_version"],
                "evaluation_version": lineage["evaluation_version"],
                "map50": float(overall["ap50"]),
                **approval,
            }
        ]
    )
    shown = pd.DataFrame(sorted({**lineage, **approval}.items()), columns=["", "value"])
    return dg.MaterializeResult(
        value=table,
        data_version=dg.DataVersion(entry.version),
        metadata={
            "name": entry.name,
            "version": entry.version,
            "lineage": dg.MetadataValue.md(card.frame_table(shown)),
            **({"registry page": dg.MetadataValue.url(entry.link)} if entry.link else {}),
        },
        check_results=[digest(storage, entry.onnx, entry.sha256, str(weights["sha256"]))],
    )


def digest(storage: Storage, onnx: str, registered: str, trained: str) -> dg.AssetCheckResult:
    """The bytes that the registry points at are the bytes that were trained and evaluated."""
    import hashlib

    found = hashlib.sha256(storage.get(onnx)).hexdigest()
    return dg.AssetCheckResult(
        check_name="digest",
        passed=found == registered == trained,
        metadata={"in the registry": registered, "trained": trained, "found in storage": found},
    )

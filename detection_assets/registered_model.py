"""The model's entry in the registry: its lineage, its figures, and who approved it.

Version: the registry's own, and whether it is approved. Registering the same weights on the same evaluation again finds
the same entry.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial

import dagster as dg
import pandas as pd

from detection_assets.detector import Detector
from detection_assets.domain import card, model_card, provenance_card, retraining
from resources import answers, overrides, standards, tables
from resources.registry.base import (
    APPROVED,
    CHALLENGER,
    CHAMPION,
    GATES,
    PENDING,
    REGISTRY,
    ModelVersion,
    Registry,
)
from resources.storage import Storage


@dg.asset(
    dagster_type=tables.TABLE,
    code_version="1",
    kinds={"mlflow"},
    metadata={"settings": ["approval"]},
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
        "export": str(weights.get("export", "f32")),
        "evaluation_version": str(overall["evaluation_version"]),
        "map50": f"{overall['ap50']:.6f}",
        "map50_95": f"{overall['ap50_95']:.6f}",
        "mlflow_run": str(weights["mlflow_run"]),
    }
    failed = overrides.failed_gates(storage, lineage["evaluation_version"])
    override = overrides.read(storage, lineage["weights_version"]) if failed else None
    if failed and override is None:
        raise dg.Failure(
            f"weights {lineage['weights_version']} are not registered, for their gates failed: {'; '.join(failed)}. "
            f"Train better ones, or let somebody answer for these: `detection override {detector.name} --by ... "
            "--reason ...`",
            allow_retries=False,
        )
    entry = registry.register(
        str(weights["onnx"]),
        storage.uri_of(str(weights["onnx"])),
        str(weights["sha256"]),
        lineage,
        str(weights["mlflow_run"]),
    )
    approval = approved(entry, detector.approval == "manual", override)
    # The run that registers a version first is the one that trained it; a later one only finds it again.
    cause = {name: entry.tags.get(name, told) for name, told in retraining.cause(context.run.tags).items()}
    said = {name: value for name, value in {**approval, **cause}.items() if value}
    registry.tag(entry.version, {**said, "dagster_run_id": context.run.run_id})
    registry.point(CHALLENGER, entry.version)
    told = standards.describe_model(storage, entry, detector.name, detector.said)
    serving = registry.get(CHAMPION)
    before_it = serving.version if serving is not None and serving.version != entry.version else ""
    tagged = replace(entry, tags={**entry.tags, **said})
    provenance = standards.provenance(storage, tagged, detector.name, detector.said, before_it)
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
                **{name: approval[name] for name in ("approval", "approved_by", "approved_at", "approval_reason")},
            }
        ]
    )
    shown = pd.DataFrame(sorted({**lineage, **approval, **cause}.items()), columns=["", "value"])
    state = approval["approval"]
    return dg.MaterializeResult(
        value=table,
        data_version=dg.DataVersion(entry.version if state == APPROVED else f"{entry.version}-{state}"),
        metadata={
            "provenance": dg.MetadataValue.md(provenance_card.markdown(provenance)),
            "approval": state,
            **(
                {"to approve": f"detection approve {detector.name} {entry.version} --by ... --reason ..."}
                if state == PENDING
                else {}
            ),
            "name": entry.name,
            "version": entry.version,
            **answered(context, detector.name, storage, registry, tagged),
            "lineage": dg.MetadataValue.md(card.frame_table(shown)),
            "model card": dg.MetadataValue.md(storage.get(told.key(model_card.CARD)).decode().partition("\n---\n")[2]),
            "bill of materials": storage.uri_of(told.key(model_card.BOM)),
            **({"registry page": dg.MetadataValue.url(entry.link)} if entry.link else {}),
        },
        check_results=[digest(storage, entry.onnx, entry.sha256, str(weights["sha256"]))],
    )


def answered(
    context: dg.AssetExecutionContext, detector: str, storage: Storage, registry: Registry, model: ModelVersion
) -> Mapping[str, dg.MarkdownMetadataValue]:
    """What is asked of a version, answered as it is now, by the names that its page shows."""
    version, evaluation = model.version, model.tags.get("evaluation_version", "")

    def why() -> pd.DataFrame:
        earlier = answers.before(detector, list(registry.history()), version)
        return answers.why(storage, context.instance, earlier, model)

    told, instance = partial(answers.told, context, detector), context.instance
    return {
        "taught by": told("taught", lambda: answers.taught(storage, detector, model), version=version),
        "judged on": told("judged", lambda: answers.judged(storage, evaluation), evaluation=evaluation),
        "unlike the version before": told("why", why, version=version),
        "cost since the version before": told(
            "cost", lambda: answers.spent(instance, detector, version, now=True), version=version
        ),
    }


def approved(entry: ModelVersion, manual: bool, override: overrides.Override | None) -> Mapping[str, str]:
    """The tags that say whether a version may serve, who says so, when and why.

    What a person decided stays. What nobody decided yet waits for one if `manual`, else the gates decide it.

    Args:
        entry: The version with the tags that it has.
        manual: Whether a person has to approve.
        override: Who let it pass whose gates failed, if so.
    """
    kept = {"override_by": override.by, "override_reason": override.reason} if override else {}
    told = {name: entry.tags.get(name, "") for name in ("approved_by", "approved_at", "approval_reason")}
    if told["approved_by"]:
        return {"approval": entry.tags.get("approval", APPROVED), **told, **kept}
    if APPROVED in entry.aliases:
        by, reason = REGISTRY, f"the alias `{APPROVED}` was set"
    elif manual:
        return {"approval": PENDING, **told, **kept}
    elif override:
        by, reason = override.by, f"gates overridden: {override.reason}"
    else:
        by, reason = GATES, "every gate passed"
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"approval": APPROVED, "approved_by": by, "approved_at": now, "approval_reason": reason, **kept}


def digest(storage: Storage, onnx: str, registered: str, trained: str) -> dg.AssetCheckResult:
    """The bytes that the registry points at are the bytes that were trained and evaluated."""
    import hashlib

    found = hashlib.sha256(storage.get(onnx)).hexdigest()
    return dg.AssetCheckResult(
        check_name="digest",
        passed=found == registered == trained,
        metadata={"in the registry": registered, "trained": trained, "found in storage": found},
    )

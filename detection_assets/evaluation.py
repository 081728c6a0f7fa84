"""How good the weights are, on a test split that nothing learned from, beside the model that serves now.

Version: the hash of data, models, settings and code. The gates are checks here: what does not pass is not registered.
"""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import pandas as pd

from detection_assets.detector import Detector
from detection_assets.domain import card, layout, lineage, schemas
from detection_assets.pictures import published_pictures
from resources import answers, costs, overrides, tables
from resources.compute.base import Compute, Input, Step, version_of
from resources.registry.base import CHAMPION, Registry
from resources.storage import Storage

CODE = "1"
PAGE = "worst.html"
"""The frames in which truth and prediction disagree most, to look at."""


@dg.asset(
    dagster_type=tables.TABLE,
    code_version=CODE,
    kinds={"python", "table"},
    metadata={"settings": ["evaluation", "gates", "classes"]},
    check_specs=[
        dg.AssetCheckSpec("gates", asset="evaluation", blocking=True, description="Good enough to be served.")
    ],
)
def evaluation(
    context: dg.AssetExecutionContext,
    detector: dg.ResourceParam[Detector],
    storage: Storage,
    compute: Compute,
    registry: Registry,
    detection_dataset: pd.DataFrame,
    trained_weights: pd.DataFrame,
) -> dg.MaterializeResult:
    """A row a model and slice: AP50, AP50-95, recall, counts and a 95 % interval; challenger beside champion.

    A challenger that is exported below float32 is scored in float32, too, as the model `full`.
    """
    weights = trained_weights.iloc[0]
    dataset = str(detection_dataset["dataset_version"].iloc[0])
    published_dataset = storage.published(layout.dataset(dataset))
    assert published_dataset is not None, f"{dataset} is in the table but not published"
    champion = registry.get(CHAMPION)
    if champion and champion.sha256 == weights["sha256"]:
        champion = None  # nothing to compare: it serves already
    settings = {
        "evaluation": detector.evaluation.model_dump(mode="json", exclude={"hardware"}),
        "gates": detector.gates.model_dump(mode="json"),
    }
    rival = champion.sha256 if champion else None
    full = str(weights.get("onnx_f32") or weights["onnx"])  # tables of earlier releases have no such column
    version = version_of("evaluate", CODE, dataset, weights["sha256"], rival, settings, detector.classes)
    test = detection_dataset[detection_dataset["split"] == "test"]
    step = Step(
        program="evaluate",
        version=version,
        inputs={
            "dataset": Input(published_dataset.folder),
            "frames": Input(layout.FRAMES, [key.removeprefix(layout.FRAMES + "/") for key in test["key"]]),
            "challenger": _model(weights["onnx"]),
            **({"champion": _model(champion.onnx)} if champion else {}),
            **({"full": _model(full)} if full != weights["onnx"] else {}),
        },
        outputs={"evaluation": layout.evaluation(version)},
        params={"classes": list(detector.classes), "split": "test", **settings},
        hardware=detector.evaluation.hardware,
    )
    result = compute.run(context, step)
    made = result.outputs["evaluation"]
    table = pd.read_parquet(io.BytesIO(storage.get(made.key("metrics.parquet"))))
    digests = {"challenger": weights["sha256"], "champion": rival}
    table = table.assign(
        evaluation_version=version,
        dataset_version=dataset,
        sha256=table["model"].map(digests).astype("string"),
        dataset_table=tables.keep(storage, "detection_dataset", None, detection_dataset),
    ).reindex(columns=list(schemas.SCHEMAS["evaluation"]))
    summary = json.loads(storage.get(made.key("summary.json")))
    names = {"confusion": "confusion.png", "pr": "pr.png", "worst": "worst.jpg"}
    drawn = published_pictures(storage, {name: made.key(file) for name, file in names.items() if file in made.files})
    overall = table[(table["model"] == "challenger") & (table["slice_kind"] == "all")].iloc[0]
    return dg.MaterializeResult(
        value=table,
        data_version=dg.DataVersion(version),
        metadata={
            "map50": float(overall["ap50"]),
            "map50_95": float(overall["ap50_95"]),
            "95 % interval": f"{overall['low']:.3f} to {overall['high']:.3f}",
            "images": int(overall["n_images"]),
            "boxes": int(overall["n_boxes"]),
            "latency_ms": float(summary["challenger"]["latency_ms"]),
            "optimistic": bool(published_dataset.notes["optimistic"]),
            "by slice": dg.MetadataValue.md(card.frame_table(by_slice(table), 60)),
            "confusion and precision-recall": dg.MetadataValue.md(
                f"{drawn.get('confusion', '')} {drawn.get('pr', '')}".strip() or "nothing to draw"
            ),
            "worst frames": dg.MetadataValue.md(drawn.get("worst", "nothing to show")),
            "judged on": answers.told(
                context, detector.name, "judged", lambda: lineage.judged_by_video(test), evaluation=version
            ),
            "true boxes": dg.MetadataValue.md(
                f"`detection provenance {detector.name} {version}` lists them, also after the annotations have changed."
            ),
            "champion": f"version {champion.version}" if champion else "none",
            **costs.told(result),
            # Evaluations of earlier releases have no page.
            **(
                {"page of the worst frames": dg.MetadataValue.url(storage.uri_of(made.key(PAGE)))}
                if PAGE in made.files
                else {}
            ),
            "evaluation_version": version,
            "published at": storage.uri_of(made.folder),
        },
        check_results=[gates(summary["gates"], overrides.read(storage, str(weights["weights_version"])))],
    )


def _model(onnx: str) -> Input:
    folder, _, name = onnx.rpartition("/")
    return Input(folder, [name])


def by_slice(table: pd.DataFrame) -> pd.DataFrame:
    """The figures that a person reads first, rounded."""
    columns = ["model", "slice_kind", "slice", "ap50", "low", "high", "ap50_95", "recall", "n_images", "n_boxes"]
    order = {"all": 0, "class": 1, "size": 2, "group": 3, "video": 4}
    whole = table[(table["class"] == "") | (table["slice_kind"] == "class")]
    return whole.sort_values("slice_kind", key=lambda kinds: kinds.map(order), kind="stable")[columns].round(3)


def gates(verdicts: Sequence[Mapping[str, Any]], override: overrides.Override | None = None) -> dg.AssetCheckResult:
    """All of them, each with its figure, its limit and why; passed, too, where somebody answers for what failed."""
    failed = [str(verdict["why"]) for verdict in verdicts if not verdict["passed"]]
    shown = {"verdicts": dg.MetadataValue.md(card.frame_table(pd.DataFrame(list(verdicts))))}
    if not failed or override is None:
        return dg.AssetCheckResult(
            check_name="gates",
            passed=not failed,
            description="; ".join(failed) or "all gates passed",
            metadata=shown,
        )
    return dg.AssetCheckResult(
        check_name="gates",
        passed=True,
        description=f"overridden by {override.by}: {override.reason}. Failed: {'; '.join(failed)}",
        metadata={
            **shown,
            "overridden by": override.by,
            "reason": override.reason,
            "overridden at": override.at,
            "failed": "; ".join(failed),
        },
    )

"""A registered model's card: the questions of Mitchell et al., "Model Cards for Model Reporting", answered in Markdown.

The header is Hugging Face's, as far as its words fit. What only people know comes from the detector's file; where they
said nothing the card says that, and does not make something up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from detection_assets.domain.card import escape, frame_table, table

TRAINED_UNDER = "AGPL-3.0"
"""The licence that the makers of ultralytics claim for models that are trained with it."""
CARD, BOM = "model_card.md", "bom.json"
MOST_ROWS = 60
"""Rows of a table of figures: a card is for reading."""


@dataclass(frozen=True)
class Model:
    """What is known of a registered version.

    Attributes:
        detector: The detector's name.
        name: The registered model.
        version: The registry's version.
        sha256: Digest of the ONNX that is served.
        lineage: The registry's tags: versions of dataset, weights and evaluation, base weights, export.
        said: What people say, from the detector's file: description, owner, and its section `card`.
        weights: The row of `trained_weights`; empty if it is not known any more.
        training: What the training wrote down: settings, environment; empty likewise.
        dataset: `dataset.json` of the snapshot; empty likewise.
        files: Digest by file of the dataset's published tables.
        summary: The evaluation's `summary.json`; empty likewise.
        metrics: Its figures by model and slice.
        evaluated: When it was evaluated, in ISO 8601; "" if it is not known.
        override: Who answers for gates that failed: `by`, `reason`, `at`; empty if nobody has to.
    """

    detector: str
    name: str
    version: str
    sha256: str
    lineage: Mapping[str, str]
    said: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    dataset: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    metrics: pd.DataFrame = field(default_factory=pd.DataFrame)
    evaluated: str = ""
    override: Mapping[str, str] = field(default_factory=dict)

    @property
    def classes(self) -> list[str]:
        """The class names in the order of the network's outputs."""
        return [str(name) for name in json.loads(self.weights.get("classes") or "[]")]

    @property
    def base(self) -> str:
        """What the training started from: an architecture (`.yaml`) or weights (`.pt`)."""
        return str(self.lineage.get("base_weights", ""))

    def figures(self, *kinds: str) -> pd.DataFrame:
        """The served model's figures on slices of some kinds, over all classes of each."""
        if self.metrics.empty:
            return self.metrics
        of = self.metrics[(self.metrics["model"] == "challenger") & self.metrics["slice_kind"].isin(kinds)]
        whole = of[(of["class"].fillna("") == "") | (of["slice_kind"] == "class")]
        return whole.sort_values(["slice_kind", "slice"], kind="stable", ignore_index=True)


def card(model: Model) -> str:
    """The card as Markdown, with a YAML header; the same facts give the same text."""
    said, unsaid = model.said, f"*Nobody has said: `card` in detectors/{model.detector}.yaml.*"

    def told(key: str) -> str:
        return escape(said[key]) if said.get(key) else unsaid

    parts = [
        _header(model),
        f"# {escape(model.name)}, version {escape(model.version)}",
        escape(said.get("description") or f"Finds {', '.join(model.classes)} in pictures."),
        "## Model details",
        table(["", ""], _details(model)),
        "## Intended use",
        f"**For**: {told('intended_use')}\n\n**Out of scope**: {told('out_of_scope')}",
        "## Factors",
        _factors(model),
        "## Metrics",
        "AP50 is average precision at an overlap (IoU) of 0.50, AP50-95 its mean over 0.50 to 0.95, both over classes;"
        f" intervals hold 95 % and are bootstrapped over {escape(model.summary.get('resampled', 'images'))}s."
        + _speed(model),
        "## Evaluation data",
        _data(model, ("test",), "Judged on"),
        "## Training data",
        _data(model, ("train", "val"), "Learned from"),
        "## Quantitative analyses",
        "### As a whole and by class",
        _figures(model.figures("all", "class")),
        "### By size of the object, group and video",
        _figures(model.figures("size", "group", "video")),
        "### Gates",
        _gates(model),
        "## Ethical considerations",
        told("ethics"),
        "## Caveats and recommendations",
        _caveats(model, told("caveats")),
    ]
    return "\n\n".join(parts) + "\n"


def without(text: str, video: str) -> tuple[str, int]:
    """A card without the figures of a video, and how many rows of them there were."""
    its = f"| video | {escape(video)} |"
    lines = text.splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(its)]
    return "".join(kept), len(lines) - len(kept)


def _header(model: Model) -> str:
    """Hugging Face's metadata; JSON is YAML, so a value can hold whatever it likes."""
    overall = model.figures("all")
    values: dict[str, Any] = {
        "license": TRAINED_UNDER.lower(),
        "library_name": "onnx",
        "pipeline_tag": "object-detection",
        "tags": ["object-detection", "onnx", *model.classes],
        **({"base_model": model.base} if model.base.endswith(".pt") else {}),
    }
    if len(overall):
        row = overall.iloc[0]
        values["model-index"] = [
            {
                "name": model.name,
                "results": [
                    {
                        "task": {"type": "object-detection"},
                        "dataset": {
                            "name": f"{model.detector} {model.lineage.get('dataset_version', '')}",
                            "type": model.detector,
                            "split": "test",
                            "revision": model.lineage.get("dataset_version", ""),
                        },
                        "metrics": [
                            {"type": "map", "name": name, "value": round(float(row[column]), 6)}
                            for name, column in (("AP50", "ap50"), ("AP50-95", "ap50_95"))
                        ],
                    }
                ],
            }
        ]
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join(["---", *lines, "---"])


def _details(model: Model) -> list[tuple[str, str]]:
    weights, training = model.weights, model.training
    settings: Mapping[str, Any] = training.get("settings") or {}
    environment: Mapping[str, Any] = training.get("environment") or {}
    libraries = {one["name"]: one["version"] for one in environment.get("libraries", ())}
    trainers = [f"{name} {libraries[name]}" for name in libraries if name.startswith(("ultralytics", "torch"))]
    rows = [
        ("who answers for it", model.said.get("owner") or "nobody is named"),
        ("evaluated", model.evaluated),
        ("kind", f"object detector, {model.base}" if model.base else "object detector"),
        ("started from", _started(model.base)),
        ("classes", ", ".join(model.classes)),
        ("input", f"RGB, {weights['imgsz']} x {weights['imgsz']} pixels" if "imgsz" in weights else ""),
        ("calculates in", model.lineage.get("export", "")),
        ("SHA-256 of the ONNX", model.sha256),
        ("bytes", f"{int(weights['bytes']):,}" if "bytes" in weights else ""),
        ("epochs", str(training.get("epochs_run", ""))),
        ("settings", ", ".join(f"{key} {value}" for key, value in settings.items() if value not in (None, {}))),
        ("made with", ", ".join([*trainers, *([f"Python {environment['python']}"] if environment else [])])),
        ("dataset", model.lineage.get("dataset_version", "")),
        ("weights", model.lineage.get("weights_version", "")),
        ("evaluation", model.lineage.get("evaluation_version", "")),
        ("MLflow run", model.lineage.get("mlflow_run", "")),
        ("licence", f"{TRAINED_UNDER}, which ultralytics' makers claim for what is trained with it"),
        ("licence of the data", model.said.get("license") or "nobody has said"),
    ]
    return [(name, value) for name, value in rows if value]


def _started(base: str) -> str:
    if base.endswith(".pt"):
        return f"the weights {base}; what taught these is not known here"
    return "random weights" if base else ""


def _factors(model: Model) -> str:
    if not model.dataset:
        return "The dataset is not there any more."
    groups, videos = int(model.dataset["groups"]), int(model.dataset["videos"])
    return (
        f"The data is of {groups:,} groups (places, cameras or people that must not be split) and {videos:,} videos."
        " Figures are told by class, size of the object, group and video; what else may matter, as light or the kind of"
        " camera, is not written down with the data."
    )


def _speed(model: Model) -> str:
    latency = (model.summary.get("challenger") or {}).get("latency_ms")
    return f" Speed: {float(latency):.1f} ms a picture where it was evaluated." if latency is not None else ""


def _data(model: Model, splits: Sequence[str], what: str) -> str:
    meta = model.dataset
    if not meta:
        return "The dataset is not there any more."
    rows = [
        (name, meta["counts"][name]["images"], meta["counts"][name]["without_boxes"], *_boxes(meta, name))
        for name in splits
    ]
    by = {"group": "group", "video": "video", "image": "image"}[meta["by"]]
    return f"{what} {meta['version']}, whose splits are by {by}; near-duplicates are in one split alone.\n\n" + table(
        ["split", "images", "of them empty", *(f"boxes of {name}" for name in meta["classes"])], rows
    )


def _boxes(meta: Mapping[str, Any], split: str) -> list[int]:
    return [int(meta["counts"][split]["boxes"][name]) for name in meta["classes"]]


def _figures(of: pd.DataFrame) -> str:
    if of.empty:
        return "*none*"
    interval = [
        f"{low:.3f} to {high:.3f}" if pd.notna(low) and pd.notna(high) else None
        for low, high in zip(of["low"], of["high"], strict=True)
    ]
    shown = of[["slice_kind", "slice", "ap50"]].assign(interval=interval)
    shown = shown.join(of[["ap50_95", "recall", "n_images", "n_boxes"]])
    return frame_table(shown.round(3), MOST_ROWS)


def _gates(model: Model) -> str:
    verdicts: Sequence[Mapping[str, Any]] = model.summary.get("gates") or ()
    rows = [(one["gate"], "passed" if one["passed"] else "FAILED", one["why"]) for one in verdicts]
    text = table(["gate", "", "why"], rows)
    if model.override:
        by, reason, at = (escape(model.override[key]) for key in ("by", "reason", "at"))
        text += f"\n\n**Overridden** by {by}, {at}: {reason}"
    return text


def _caveats(model: Model, told: str) -> str:
    found = [told]
    if model.summary.get("optimistic") or model.dataset.get("optimistic"):
        found.append("**Optimistic**: groups are divided among the splits, so figures look better than on new places.")
    few = model.figures("class")
    if len(few):
        rare = [str(row["slice"]) for row in few.to_dict("records") if int(row["n_boxes"] or 0) < 20]
        if rare:
            found.append(f"Fewer than 20 test boxes, so hardly judged: {escape(', '.join(rare))}.")
    found.append("It was judged on the data above and says nothing of other places; `drift_report` watches for those.")
    return "\n\n".join(found)

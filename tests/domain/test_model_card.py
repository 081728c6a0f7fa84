from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from detection_assets.domain.bom import bom
from detection_assets.domain.model_card import Model, card

CLASSES = ["apple", "`<b>größe|2"]
COUNTS = {"images": 4, "without_boxes": 1, "boxes": dict.fromkeys(CLASSES, 3)}
LIBRARIES = [
    {"name": "numpy", "version": "2.4.6", "licence": "BSD-3-Clause AND 0BSD", "requires": []},
    {"name": "torch", "version": "2.9.0+cpu", "licence": "BSD", "requires": ["numpy"]},
    {"name": "ultralytics", "version": "8.4.1", "licence": "AGPL-3.0", "requires": ["numpy", "torch"]},
    {"name": "odd", "version": "1", "licence": "", "requires": ["not loaded"]},
]


def row(kind: str, slice_: str, ap50: float, **more: Any) -> dict[str, Any]:
    figures = {"ap50_95": ap50 / 2, "recall": ap50, "n_images": 9, "n_boxes": 30, "low": ap50 - 0.1, "high": ap50 + 0.1}
    return {"model": "challenger", "slice_kind": kind, "slice": slice_, "class": "", "ap50": ap50, **figures, **more}


METRICS = pd.DataFrame(
    [
        row("all", "all", 0.5),
        row("class", "apple", 0.6, **{"class": "apple"}),
        row("class", CLASSES[1], 0.4, n_boxes=3, low=None, high=None, **{"class": CLASSES[1]}),
        row("size", "small", 0.3),
        row("size", "small", 0.123, **{"class": "apple"}),
        row("all", "all", 0.987, model="champion"),
    ]
)
MODEL = Model(
    "shelf",
    "shelf",
    "3",
    "ab" * 32,
    {"dataset_version": "ds-0123456789ab", "weights_version": "w1", "base_weights": "yolo11n.pt", "export": "int8"},
    said={"owner": "team:vision", "license": "CC-BY-4.0", "ethics": "Nobody is hurt.\n# not a heading"},
    weights={"classes": json.dumps(CLASSES), "imgsz": 96, "bytes": 1234, "sha256_pt": "cd" * 32},
    training={"settings": {"epochs": 3}, "epochs_run": 2, "environment": {"python": "3.12.1", "libraries": LIBRARIES}},
    dataset={
        **{"version": "ds-0123456789ab", "classes": CLASSES, "images": 12, "boxes": 18, "videos": 3, "groups": 2},
        **{"by": "group", "optimistic": False, "counts": dict.fromkeys(("train", "val", "test"), COUNTS)},
    },
    files={"images.parquet": "ef" * 32},
    summary={"gates": [{"gate": "map50", "passed": False, "why": "0.5 < 0.6"}], "challenger": {"latency_ms": 7.5}},
    metrics=METRICS,
    evaluated="2026-01-02T03:04:05+00:00",
    override={"by": "Ada", "reason": "a | trial", "at": "2026-01-03"},
)
BARE = Model("shelf", "shelf", "1", "not a digest", {})


def test_the_card_answers_the_questions_of_model_reporting() -> None:
    text = card(MODEL)
    for heading in (
        *("Model details", "Intended use", "Factors", "Metrics", "Evaluation data", "Training data"),
        *("Quantitative analyses", "Ethical considerations", "Caveats and recommendations"),
    ):
        assert f"\n## {heading}\n" in text
    assert "| all | all | 0.5 | 0.400 to 0.600 |" in text
    assert "0.987" not in text, "that is the champion's"
    assert "0.123" not in text, "that is a class within a size"
    assert "**For**: *Nobody has said" in text
    assert "**Overridden** by Ada, 2026-01-03: a \\| trial" in text
    assert "hardly judged: \\`&lt;b&gt;größe\\|2" in text
    assert "\n# not a heading" not in text
    assert text == card(MODEL)


def test_its_header_is_metadata_of_hugging_face() -> None:
    header = yaml.safe_load(card(MODEL).split("---\n")[1])
    assert header["pipeline_tag"] == "object-detection"
    assert header["base_model"] == "yolo11n.pt"
    (result,) = header["model-index"][0]["results"]
    assert [(one["name"], one["value"]) for one in result["metrics"]] == [("AP50", 0.5), ("AP50-95", 0.25)]
    assert result["dataset"]["revision"] == "ds-0123456789ab"


@pytest.mark.parametrize("model", [MODEL, BARE], ids=["all is known", "nothing is known"])
@pytest.mark.parametrize("version", [SchemaVersion.V1_6, SchemaVersion.V1_7])
def test_the_bill_of_materials_is_what_cyclonedx_takes(model: Model, version: SchemaVersion) -> None:
    made = {**bom(model), "specVersion": version.to_version()}
    made["$schema"] = f"http://cyclonedx.org/schema/bom-{version.to_version()}.schema.json"
    assert JsonStrictValidator(version).validate_str(json.dumps(made)) is None
    assert card(model)


def test_the_bill_of_materials_says_what_went_in_by_digest_and_licence() -> None:
    made = bom(MODEL)
    subject = made["metadata"]["component"]
    assert subject["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    parts = {one["bom-ref"]: one for one in made["components"]}
    dataset = parts["dataset:ds-0123456789ab"]
    assert dataset["version"] == "ds-0123456789ab"
    assert dataset["components"][0]["hashes"][0]["content"] == "ef" * 32
    assert dataset["licenses"][0]["expression"] == "CC-BY-4.0"
    assert parts["base:yolo11n.pt"]["type"] == "machine-learning-model"
    licences = {ref: one.get("licenses") for ref, one in parts.items() if ref.startswith("pkg:")}
    assert licences["pkg:pypi/ultralytics@8.4.1"][0]["expression"] == "AGPL-3.0-only"
    assert licences["pkg:pypi/torch@2.9.0%2Bcpu"][0]["license"]["name"] == "BSD", "which of them it does not say"
    assert licences["pkg:pypi/odd@1"] is None
    depends = {one["ref"]: one.get("dependsOn") for one in made["dependencies"]}
    assert depends["pkg:pypi/ultralytics@8.4.1"] == ["pkg:pypi/numpy@2.4.6", "pkg:pypi/torch@2.9.0%2Bcpu"]
    assert set(depends[subject["bom-ref"]]) == set(parts)


def test_the_same_facts_give_the_same_number_and_other_facts_another() -> None:
    assert bom(MODEL) == bom(MODEL)
    assert bom(MODEL)["serialNumber"] != bom(replace(MODEL, sha256="cd" * 32))["serialNumber"]

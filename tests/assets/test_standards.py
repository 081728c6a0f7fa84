from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from detection_assets.domain import croissant, layout, snapshot, splitting
from detection_assets.domain.problems import InputError
from resources import standards, tables
from resources.registry.base import ModelVersion
from resources.storage import Storage

SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}
SAID = {"description": "Finds fruit.", "owner": "ada@example.org", "license": "CC0-1.0", "ethics": ""}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(root=str(tmp_path / "lake"), prefix="shelf")


def publish(storage: Storage, scratch: Path) -> str:
    """A dataset as it was published before there were descriptions."""
    frames = pd.DataFrame(
        [
            (f"s{at}/v.mp4", f"s{at}/v.mp4#0", f"s{at}", f"frames/s{at}/v.mp4/x1/a/0.jpg", 9, 9, f"{at:064x}", "", True)
            for at in range(6)
        ],
        columns=["video", "frame", "group", "key", "width", "height", "sha256", "phash", "kept"],
    )
    boxes = frames[["video", "frame"]].assign(**{"class": "apple", "x1": 0.0, "y1": 0.0, "x2": 5.0, "y2": 5.0})
    data = snapshot.labelled(frames, boxes, ["apple"])
    made = snapshot.build(data, splitting.split(data.images, data.boxes, SHARES), ["apple"], SHARES)
    snapshot.write(made.images, made.boxes, made.meta, scratch)
    storage.publish(scratch, layout.dataset(made.version), {})
    return made.version


def test_a_dataset_of_before_is_described_once_with_what_is_known(storage: Storage, tmp_path: Path) -> None:
    version = publish(storage, tmp_path / "ds")
    key = standards.describe_dataset(storage, version, croissant.About.of("shelf", SAID))
    described = json.loads(storage.get(key))
    assert described["version"] == version
    assert described["datePublished"][:4].isdigit()
    assert all("sha256" not in of for of in described["isBasedOn"])
    for of in described["distribution"][:2]:
        assert hashlib.sha256(storage.get(of["contentUrl"])).hexdigest() == of["sha256"]
    standards.describe_dataset(storage, version, croissant.About.of("shelf", {**SAID, "owner": "eve@example.org"}))
    assert json.loads(storage.get(key)) == described, "nothing that is published is overwritten"


def test_a_dataset_that_is_not_there_is_no_dataset(storage: Storage) -> None:
    with pytest.raises(InputError, match="there is no dataset ds-nowhere"):
        standards.describe_dataset(storage, "ds-nowhere", croissant.About("shelf"))


def test_a_model_is_described_with_what_the_lake_knows_of_it(storage: Storage, tmp_path: Path) -> None:
    version = publish(storage, tmp_path / "ds")
    storage.put("weights/w1/a/training.json", b'{"epochs_run": 2, "settings": {"epochs": 2}}')
    text = dict.fromkeys(("sha256_pt", "base_weights", "code_version", "export", "onnx_f32", "mlflow_run"), "x")
    numbers = dict.fromkeys(("map50", "map50_95", "seconds", "cost_usd"), 0.5)
    row = {**text, **numbers, "weights_version": "w1", "sha256": "ab" * 32, "onnx": "o", "pt": "weights/w1/a/best.pt"}
    row |= {"classes": '["apple"]', "imgsz": 96, "epochs": 2, "bytes": 7, "dataset_version": version}
    tables.write(storage, "trained_weights", None, pd.DataFrame([row]), "run 1")
    tables.write(storage, "trained_weights", None, pd.DataFrame([{**row, "weights_version": "w2"}]), "run 2")
    judged = tmp_path / "evaluation"
    judged.mkdir()
    (judged / "summary.json").write_text('{"gates": [], "resampled": "video"}')
    storage.publish(judged, layout.evaluation("e1"), {})
    lineage = {
        "dataset_version": version,
        "weights_version": "w1",
        "evaluation_version": "e1",
        "base_weights": "y.yaml",
    }
    made = standards.describe_model(storage, ModelVersion("shelf", "4", "ab" * 32, "o", (), lineage), "shelf", SAID)
    text = storage.get(made.key("model_card.md")).decode()
    assert "| epochs | 2 |" in text, "of earlier weights than today's"
    assert f"Learned from {version}" in text
    bill = storage.get(made.key("bom.json")).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None
    again = standards.describe_model(storage, ModelVersion("shelf", "4", "ab" * 32, "o", (), lineage), "shelf", {})
    assert again == made


def test_a_model_whose_parts_are_gone_has_a_card_all_the_same(storage: Storage) -> None:
    made = standards.describe_model(storage, ModelVersion("shelf", "1", "ab" * 32, "o"), "shelf", {})
    assert "not there any more" in storage.get(made.key("model_card.md")).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(storage.get(made.key("bom.json")).decode()) is None

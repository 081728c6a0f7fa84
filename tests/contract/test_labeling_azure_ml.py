"""What only labelling in the studio does: assets to make a project of, exports put anywhere, shares of a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from contract.test_labeling import APPLE, COLA, publish
from fakes import azureml, blob
from fakes.azureml_labeling import Project

from detection_assets.domain import formats
from detection_assets.domain.labels import Batch
from resources import label_batches
from resources.labeling.azure import AzureLabeling
from resources.labeling.base import LabelingError
from resources.storage import Storage


@pytest.fixture
def labeling(azure_settings: None, blob_lake: str, azureml_service: azureml.AzureML) -> AzureLabeling:
    return AzureLabeling(
        storage=Storage(root=blob_lake, prefix="tiny"),
        detector="tiny",
        subscription=azureml.SUBSCRIPTION,
        group=azureml.GROUP,
        workspace=azureml.WORKSPACE,
        datastore=azureml.DATASTORE,
    )


@pytest.fixture
def batch(labeling: AzureLabeling) -> Batch:
    return publish(labeling.storage)


def hand_over(labeling: AzureLabeling, batch: Batch) -> Any:
    return labeling.hand_over(batch, label_batches.read(labeling.storage, batch.id)[1])


def test_what_is_handed_over_says_what_to_click_and_is_importable(
    labeling: AzureLabeling, batch: Batch, azureml_service: azureml.AzureML, tmp_path: Path
) -> None:
    handed = hand_over(labeling, batch)
    below = f"label_work/{batch.id}/azure_ml"
    steps = labeling.storage.get(f"{below}/README.txt").decode()
    for word in (handed.place.partition(":")[0], batch.id, *batch.classes, f"{labeling.storage.uri}/{below}/export/"):
        assert word in steps
    (tmp_path / "proposals.json").write_bytes(labeling.storage.get(f"{below}/proposals.json"))
    boxes = formats.load([tmp_path / "proposals.json"], tmp_path).boxes
    assert set(boxes["frame_name"]) == set(batch.frames["name"])
    there = azureml_service.assets.there
    folder = there["data", "tiny-to-label-pictures", batch.id]["properties"]
    assert (folder["dataType"], folder["dataUri"].endswith(f"/{below}/pictures/")) == ("uri_folder", True)
    assert handed.link.startswith("https://ml.azure.com/data/tiny-to-label/")


def test_exports_that_are_put_into_the_lake_count_the_later_more(
    labeling: AzureLabeling, batch: Batch, azureml_service: azureml.AzureML, tmp_path: Path
) -> None:
    handed, names = hand_over(labeling, batch), batch.frames["name"].tolist()
    project, below = Project(azureml_service.assets, handed.place), f"label_work/{batch.id}/azure_ml/export"
    before = labeling.stamp(batch.id, handed.place)
    project.submit(names[0], [APPLE])
    project.submit(names[1], [])
    labeling.storage.put(f"{below}/1/labels.json", project.export("", 1))
    project.submit(names[0], [COLA])
    labeling.storage.put(f"{below}/2/labels.json", project.export("", 2))
    labeling.storage.put(f"{below}/notes.docx", b"none of ours")
    assert labeling.stamp(batch.id, handed.place) != before
    told = labeling.finished(batch, handed.place, tmp_path)
    assert [path.parent.name for path in told.files] == ["1", "2"]
    boxes = formats.load([told.files[-1]], tmp_path).boxes
    named = boxes.set_index(boxes["frame_name"].str.rpartition("/")[2])
    assert tuple(named.loc[names[0], ["x1", "y1", "x2", "y2"]]) == pytest.approx(COLA[1:])
    assert named.loc[names[1], "class"] is None, "it was looked at, and nothing is there"


def test_lines_with_an_mltable_are_read_as_well(labeling: AzureLabeling, batch: Batch, tmp_path: Path) -> None:
    handed, below = hand_over(labeling, batch), f"label_work/{batch.id}/azure_ml"
    for name in ("MLTable", "annotations.jsonl"):
        data = labeling.storage.get(f"{below}/prelabels/{name}")
        labeling.storage.put(f"{below}/export/table/{name}", data)
    told = labeling.finished(batch, handed.place, tmp_path)
    found = formats.load(list(told.files), tmp_path)
    assert not found.problems
    assert sorted(found.boxes["class"].dropna()) == ["apple", "apple", "cola & ice"]


@pytest.mark.parametrize(
    "text", ['{"images": [', "[]", '{"images": 7}', '{"images": [{"id": 1, "coco_url": "AmlDatastore://a"}]}']
)
def test_an_export_that_is_cut_off_loses_nothing_else(
    labeling: AzureLabeling, batch: Batch, azureml_service: azureml.AzureML, tmp_path: Path, text: str
) -> None:
    handed, below = hand_over(labeling, batch), f"label_work/{batch.id}/azure_ml/export"
    project = Project(azureml_service.assets, handed.place)
    project.submit(batch.frames["name"].iloc[0], [APPLE])
    labeling.storage.put(f"{below}/good.json", project.export("", 1))
    labeling.storage.put(f"{below}/bad.json", text.encode())
    found = formats.load(list(labeling.finished(batch, handed.place, tmp_path).files), tmp_path)
    assert found.boxes["class"].dropna().tolist() == ["apple"]


def test_a_coco_file_in_pixels_stays_one(
    labeling: AzureLabeling, batch: Batch, azureml_service: azureml.AzureML, tmp_path: Path
) -> None:
    handed, below = hand_over(labeling, batch), f"label_work/{batch.id}/azure_ml/export"
    project = Project(azureml_service.assets, handed.place)
    project.submit(batch.frames["name"].iloc[0], [APPLE])
    told = json.loads(project.export("", 1))
    told["annotations"][0]["bbox"] = [4.0, 6.0, 16.0, 24.0]
    labeling.storage.put(f"{below}/pixels.json", json.dumps(told).encode())
    found = formats.load(list(labeling.finished(batch, handed.place, tmp_path).files), tmp_path).boxes
    assert tuple(found[["x1", "y1", "x2", "y2"]].iloc[0]) == APPLE[1:]


def test_the_same_batch_of_another_lake_is_refused(labeling: AzureLabeling, batch: Batch, blob_lake: str) -> None:
    hand_over(labeling, batch)
    elsewhere = labeling.model_copy(update={"storage": Storage(root=f"{blob_lake}-2", prefix="tiny")})
    publish(elsewhere.storage)
    with pytest.raises(LabelingError, match=r"tiny-to-label-pictures:lb-.* is that of another lake.*archive it"):
        hand_over(elsewhere, batch)


def test_the_doctor_looks_where_exports_are_put(labeling: AzureLabeling) -> None:
    (by_hand,) = labeling.check()
    assert by_hand.state == "good"
    there = labeling.model_copy(update={"exports": f"az://{blob.CONTAINER}/Labeling/export"})
    assert [one.state for one in there.check()] == ["good"]
    nowhere = labeling.model_copy(update={"exports": "az://no-such-container/Labeling/export"})
    (bad,) = nowhere.check()
    assert (bad.state, "DETECTION_AZURE_LABELING_EXPORTS" in bad.remedy) == ("bad", True)

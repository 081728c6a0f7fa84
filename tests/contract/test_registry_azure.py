"""What only the Azure ML registry does: people decide by a tag, an alias is a tag, and datasets have an entry, too."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from contract.test_doctor import found
from fakes import azureml
from fakes.azureml_assets import PAGE
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from detection_assets.domain import layout, snapshot
from resources.registry.azure import ALIAS, APPROVAL, CHARS, AzureRegistry
from resources.registry.base import APPROVED, CHAMPION, PENDING, REJECTED, in_parts, whole
from resources.storage import LakeError, Published

PLATFORMS = ["azure"]
REASON = 'looks right, "very" right: 100 % über alles\n' + "x" * 2500
VERSION = "ds-0123456789ab"


@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z_0-9]{0,30}(\.[a-z]+)?", fullmatch=True), st.text(max_size=50), max_size=8
    ),
    st.integers(1, 20),
)
def test_tags_that_are_too_long_come_back_whole(tags: dict[str, str], most: int) -> None:
    parts = in_parts(tags, most)
    assert all(len(part) <= most for part in parts.values())
    assert whole(parts) == tags


def test_a_tag_that_somebody_has_named_like_a_part_stays() -> None:
    assert whole({"v1.2": "x", "long": "a", "long.1": "b", "long.3": "c"}) == {"v1.2": "x", "long": "ab", "long.3": "c"}


def register(platform: Any, digest: str = "aaa", **lineage: str) -> Any:
    key = f"weights/{digest}/best.onnx"
    platform.storage.put(key, digest.encode())
    uri = platform.storage.uri_of(key)
    return platform.registry.register(key, uri, digest, {"evaluation_version": "e1", **lineage}, "run-1")


@pytest.fixture
def ml(platform: Any) -> Any:
    return platform.registry.ml.client


@pytest.fixture
def studio(platform: Any, ml: Any) -> Callable[..., None]:
    """A person in the studio: changes tags of a version that waits."""
    made = register(platform)
    platform.registry.tag(made.version, {"approval": PENDING})

    def change(**tags: str) -> None:
        model = ml.models.get("tiny", made.version)
        model.tags = {**model.tags, **tags}
        ml.models.create_or_update(model)

    return change


@pytest.mark.parametrize("word", ["approved", " Approved"])
def test_an_approval_in_studio_is_written_down(platform: Any, studio: Any, word: str) -> None:
    assert [version.version for version in platform.registry.pending()] == ["1"]
    studio(approval=word)
    assert platform.registry.history()[0].approval == APPROVED
    assert [version.version for version in platform.registry.adopt_aliases()] == ["1"]
    assert platform.registry.history()[0].tags["approved_by"] == "registry"
    assert list(platform.registry.adopt_aliases()) == []


def test_a_rejection_in_studio_holds(platform: Any, studio: Any) -> None:
    studio(approval="rejected")
    assert platform.registry.history()[0].approval == REJECTED
    assert list(platform.registry.adopt_aliases()) == []


def test_a_word_that_decides_nothing_leaves_what_was_decided(platform: Any, studio: Any) -> None:
    studio(approval="perhaps")
    assert platform.registry.history()[0].approval == PENDING
    platform.registry.reject("1", "Bea", "it is not")
    studio(approval="approved")
    assert platform.registry.history()[0].approval == REJECTED, (
        "a tag does not undo what a person has given a reason for"
    )


def test_a_decision_by_command_is_seen_in_studio(platform: Any, studio: Any, ml: Any) -> None:
    assert platform.registry.approve("1", "Ada", REASON).tags["approval_reason"] == REASON.strip()
    model = ml.models.get("tiny", "1")
    assert model.tags[APPROVAL] == "approved"
    assert max(len(value) for value in model.tags.values()) == CHARS
    platform.registry.reject("1", "Bea", "no")
    model = ml.models.get("tiny", "1")
    assert model.tags[APPROVAL] == "rejected"
    assert whole(model.tags)["approval_reason"] == "no", "the longer reason left no rest"


def test_nobody_changes_what_a_version_is_made_from(platform: Any, studio: Any, ml: Any) -> None:
    from azure.core.exceptions import HttpResponseError

    studio(sha256="another", onnx="elsewhere")
    found = platform.registry.history()[0]
    assert (found.sha256, found.onnx, found.tags["mlflow_run"]) == ("aaa", "weights/aaa/best.onnx", "run-1")
    model = ml.models.get("tiny", "1")
    model.properties = {**model.properties, "sha256": "another"}
    with pytest.raises(HttpResponseError, match="properties cannot be changed"):
        ml.models.create_or_update(model)


def test_the_studio_finds_file_figures_and_page(platform: Any, ml: Any, tmp_path: Path) -> None:
    told = {"challenger": {"ap50": 0.51239876, "latency_ms": 7, "classes": ["a"], "passed": True, "worst": None}}
    folder = tmp_path / "evaluation"
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps(told))
    platform.storage.publish(folder, layout.evaluation("e2"), {})
    made = register(platform, evaluation_version="e2", empty="")
    model = ml.models.get("tiny", made.version)
    assert {name: model.properties.get(name) for name in ("ap50", "latency_ms", "classes", "passed", "worst")} == {
        **{"ap50": "0.512399", "latency_ms": "7"},
        **dict.fromkeys(("classes", "passed", "worst")),
    }
    assert model.path.endswith(f"/datastores/lake/paths/{place(platform, 'weights/aaa/best.onnx')}")
    assert made.link == f"https://ml.azure.com/model/tiny:1/details?wsid={azureml.ROOT}"
    assert register(platform, evaluation_version="e2", empty="").version == made.version


def place(platform: Any, key: str) -> str:
    return platform.storage.uri_of(key).removeprefix("az://lake/")


def test_of_two_that_have_an_alias_the_one_that_got_it_last_counts(platform: Any, monkeypatch: Any) -> None:
    registry, change = platform.registry, AzureRegistry._change
    first, second = register(platform, "aaa"), register(platform, "bbb")
    registry.point(CHAMPION, second.version)

    def dies(self: AzureRegistry, version: str, tags: Mapping[str, str], gone: Any) -> None:
        if gone:
            raise KeyboardInterrupt
        change(self, version, tags, gone)

    with monkeypatch.context() as patch:
        patch.setattr(AzureRegistry, "_change", dies)
        with pytest.raises(KeyboardInterrupt):
            registry.point(CHAMPION, first.version)
    holders = [model.version for model in registry.ml.client.models.list("tiny") if ALIAS + CHAMPION in model.tags]
    assert sorted(holders) == ["1", "2"]
    assert registry.get(CHAMPION).version == first.version
    assert [list(known.aliases) for known in registry.history()] == [[], [CHAMPION]]
    registry.point(CHAMPION, first.version)
    holders = [model.version for model in registry.ml.client.models.list("tiny") if ALIAS + CHAMPION in model.tags]
    assert holders == ["1"], "the next who points it puts it in order"


def test_an_alias_that_somebody_has_written_by_hand_moves_as_well(platform: Any, studio: Any) -> None:
    second = register(platform, "bbb")
    studio(**{f"{ALIAS}{CHAMPION}": "this one", f"{ALIAS}challenger": "2999-01-01"})
    assert platform.registry.get(CHAMPION).version == "1"
    for alias in (CHAMPION, "challenger"):
        platform.registry.point(alias, second.version)
        assert platform.registry.get(alias).version == second.version


def test_an_alias_that_points_there_already_is_not_written_again(
    platform: Any, studio: Any, azureml_service: azureml.AzureML
) -> None:
    platform.registry.point(CHAMPION, "1")
    asked = azureml_service.calls.count("PUT models")
    platform.registry.point(CHAMPION, "1")
    assert azureml_service.calls.count("PUT models") == asked


@pytest.mark.parametrize("other", [("bbb", "e1"), ("aaa", "e2")], ids=["weights", "evaluation"])
def test_two_that_register_at_once_get_a_version_each(
    platform: Any, azureml_service: azureml.AzureML, monkeypatch: Any, other: tuple[str, str]
) -> None:
    assets = azureml_service.assets
    container, meet = assets.container, threading.Barrier(2)
    register(platform, "000")

    def both_at_once(kind: str, name: str) -> Any:
        told = container(kind, name)
        if told["properties"]["nextVersion"] == "2":
            meet.wait(30)
        return told

    monkeypatch.setattr(assets, "container", both_at_once)
    with ThreadPoolExecutor(2) as pool:
        asked = [
            pool.submit(register, platform, digest, evaluation_version=made) for digest, made in (("aaa", "e1"), other)
        ]
        made = [one.result() for one in asked]
    assert sorted(one.version for one in made) == ["2", "3"]
    told = {one.version: (one.sha256, one.tags["evaluation_version"]) for one in platform.registry.history()}
    assert [told[one.version] for one in made] == [("aaa", "e1"), other]


def test_the_history_is_of_all_pages_by_number_and_of_archived_ones_too(platform: Any, ml: Any) -> None:
    from azure.ai.ml.entities import Model

    made = register(platform)
    known = ml.models.get("tiny", made.version)
    for version in ("2", "10", "3", "by-hand"):
        mine = known.properties if version != "3" else {}
        ml.models.create_or_update(Model(name="tiny", version=version, path=known.path, properties=mine))
    ml.models.archive("tiny", "10")
    assert PAGE < 5
    assert [known.version for known in platform.registry.history()] == ["10", "2", "1", "by-hand"], "3 is not ours"
    assert register(platform, "bbb").version == "11"


def test_what_somebody_has_archived_stays_so(platform: Any, ml: Any) -> None:
    for digest in ("aaa", "bbb"):
        platform.registry.point(CHAMPION, register(platform, digest).version)
    ml.models.archive("tiny", "2")
    platform.registry.tag("2", {"rollout": "retired"})
    platform.registry.point(CHAMPION, "1")
    assert [model.version for model in ml.models.list("tiny")] == ["1"]
    found = platform.registry.history()[0]
    assert (found.tags["rollout"], list(found.aliases), found.sha256) == ("retired", [], "bbb")


def test_what_no_workspace_takes_of_a_model_is_refused(platform: Any, ml: Any) -> None:
    from azure.ai.ml.entities import Model
    from azure.core.exceptions import HttpResponseError

    path = "azureml://datastores/lake/paths/nothing/there.onnx"
    for changes, why in (
        ({}, "does not exist in datastore lake"),
        ({"path": "azureml://datastores/none/paths/a"}, "Could not find datastore 'none'"),
        ({"version": "1 2"}, "is no name of a model"),
        ({"tags": {str(number): "" for number in range(51)}}, "51 tags, at most 50"),
        ({"properties": {"long": "x" * 1001}}, "too long: 100 and 1000 at most"),
    ):
        with pytest.raises(HttpResponseError, match=why):
            ml.models.create_or_update(Model(**{"name": "tiny", "version": "1", "path": path, **changes}))


def test_whoever_may_not_is_told_what_helps(platform: Any, azureml_service: azureml.AzureML, monkeypatch: Any) -> None:
    register(platform)
    assert found(platform.registry)["registry"].told == "AzureRegistry: 1 versions of tiny"
    monkeypatch.setattr(azureml_service, "denied", {"GET models"})
    (denied,) = platform.registry.check()
    assert (denied.state, denied.told) == ("bad", "AzureRegistry")
    assert denied.remedy.startswith("tiny: Azure ML refuses it: AuthorizationFailed")
    assert "AzureML Data Scientist" in denied.remedy
    monkeypatch.setattr(azureml_service, "denied", set())
    with pytest.raises(LakeError, match="DETECTION_AZURE_WORKSPACE"):
        platform.registry.model_copy(update={"workspace": "other"}).history()
    with pytest.raises(LakeError, match="models/tiny/versions/7 was not found"):
        platform.registry.tag("7", {"a": "b"})


# Data assets ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def tables() -> dict[str, pd.DataFrame]:
    return {
        "images": pd.DataFrame({"frame": ["a", "b"], "split": ["train", "test"]}),
        "boxes": pd.DataFrame({"frame": ["a"], "class": ["cola"], "x1": [1.5]}),
    }


@pytest.fixture
def dataset(platform: Any, tables: Mapping[str, pd.DataFrame], tmp_path: Path) -> Published:
    folder = tmp_path / "dataset"
    folder.mkdir()
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.parquet", index=False)
    tables["images"].to_parquet(folder / snapshot.HASHES)
    (folder / "dataset.json").write_text("{}")
    return platform.storage.publish(folder, layout.dataset(VERSION), {})


def test_a_dataset_is_a_folder_and_two_tables(
    platform: Any, ml: Any, dataset: Published, tables: Mapping[str, pd.DataFrame], tmp_path: Path
) -> None:
    from azure.ai.ml.entities._data.mltable_metadata import MLTableMetadata

    entries = platform.registry.keep_dataset(VERSION, dataset, {"images": "2"})
    assert [entry.name for entry in entries] == [f"tiny-{what}:{VERSION}" for what in ("dataset", "boxes", "images")]
    assert entries[0].link == f"https://ml.azure.com/data/tiny-dataset/{VERSION}/details?wsid={azureml.ROOT}"
    kept = ml.data.get("tiny-dataset", VERSION)
    assert (kept.type, kept.path, kept.tags) == ("uri_folder", entries[0].place, {"images": "2"})
    root = platform.registry.ml.place("lake", platform.storage.uri)
    assert kept.path == f"{root}/{dataset.folder}/"
    for name, table in tables.items():
        kept = ml.data.get(f"tiny-{name}", VERSION)
        assert kept.type == "mltable"
        text = platform.storage.get(f"{kept.path.removeprefix(f'{root}/')}MLTable")
        assert YAML(typ="safe").load(text) == {
            "$schema": "https://azuremlschemas.azureedge.net/latest/MLTable.schema.json",
            "type": "mltable",
            "paths": [{"file": f"{root}/{dataset.key(f'{name}.parquet')}"}],
            "transformations": [{"read_parquet": {"include_path_column": False}}],
        }
        (tmp_path / "MLTable").write_bytes(text)
        (read,) = MLTableMetadata.load(tmp_path / "MLTable").paths
        assert kept._referenced_uris == [read.value]
        data = platform.storage.get(read.value.removeprefix(f"{root}/"))
        pd.testing.assert_frame_equal(pd.read_parquet(io.BytesIO(data)), table)


def test_entering_a_dataset_again_finds_it_and_changes_nothing(
    platform: Any, dataset: Published, azureml_service: azureml.AzureML
) -> None:
    first = platform.registry.keep_dataset(VERSION, dataset, {"images": "2"})
    before = {item.key: item.tag for item in platform.storage.list("")}
    asked = azureml_service.calls.count("PUT data")
    assert platform.registry.keep_dataset(VERSION, dataset, {"images": "3"}) == first
    assert azureml_service.calls.count("PUT data") == asked
    assert {item.key: item.tag for item in platform.storage.list("")} == before


def test_who_dies_while_a_dataset_is_entered_completes_it_later(
    platform: Any, ml: Any, dataset: Published, monkeypatch: Any
) -> None:
    registry, entry = platform.registry, AzureRegistry._entry

    def dies(self: AzureRegistry, what: str, *more: Any) -> Any:
        if what == "images":
            raise KeyboardInterrupt
        return entry(self, what, *more)

    with monkeypatch.context() as patch:
        patch.setattr(AzureRegistry, "_entry", dies)
        with pytest.raises(KeyboardInterrupt):
            registry.keep_dataset(VERSION, dataset, {})
    assert len(registry.keep_dataset(VERSION, dataset, {})) == 3
    assert ml.data.get("tiny-images", VERSION).type == "mltable"


def test_an_entry_of_another_lake_is_left_and_said(platform: Any, ml: Any, dataset: Published) -> None:
    from azure.ai.ml.entities import Data

    there = "azureml://datastores/lake/paths/another/lake/"
    ml.data.create_or_update(Data(name="tiny-dataset", version=VERSION, path=there, type="uri_folder"))
    assert platform.registry.keep_dataset(VERSION, dataset, {})[0].place == there


def test_a_dataset_that_may_not_be_entered_says_what_helps(
    platform: Any, dataset: Published, azureml_service: azureml.AzureML, monkeypatch: Any
) -> None:
    monkeypatch.setattr(azureml_service, "denied", {"PUT data"})
    with pytest.raises(LakeError, match="AuthorizationFailed"):
        platform.registry.keep_dataset(VERSION, dataset, {})

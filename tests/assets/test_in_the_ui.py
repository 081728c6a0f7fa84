"""What Dagster's own catalogue is told of a detector's assets."""

from __future__ import annotations

import sys

import dagster as dg
import pandas as pd
import pytest

from detection_assets import definitions, detection_dataset, detector_file, raw_videos
from detection_assets.domain.lineage_questions import QUESTIONS


@pytest.fixture(scope="module")
def built() -> list[dg.AssetsDefinition]:
    return [item for item in definitions.build(detector_file.find("fridge")).assets or () if hasattr(item, "keys")]


def test_every_asset_is_described_owned_tagged_and_leads_to_its_code(built: list[dg.AssetsDefinition]) -> None:
    assert len(built) == len(definitions.STAGES)
    for asset in built:
        (spec,) = asset.specs
        name = spec.key.path[-1]
        about, _, rows = (spec.description or "").rpartition("\n\n")
        assert about.startswith(sys.modules[f"detection_assets.{name}"].__doc__.splitlines()[0])
        assert rows, f"{name}: nobody says what a row is"
        assert list(spec.owners) == ["team:retail-vision"]
        assert spec.tags["detection/detector"] == "fridge"
        assert spec.tags["detection/part"] in {"data", "model", "service", "monitoring"}
        assert spec.metadata["dagster/column_schema"].columns
        (code,) = spec.metadata["dagster/code_references"].code_references
        assert code.file_path.endswith(f"detection_assets/{name}.py")


def test_the_page_of_an_asset_offers_the_questions_about_it(built: list[dg.AssetsDefinition]) -> None:
    offered = {asset.key.path[-1]: asset.metadata_by_key[asset.key].get("questions") for asset in built}
    for question in QUESTIONS.values():
        assert question.assets, question.asked
        for name in question.assets:
            text = str(offered[name].value)
            assert f"**{question.title}**" in text
            for line, command in question.asking("fridge"):
                assert f"- `{command}`, or `{line}`\n" in f"{text}\n"
    assert offered["tuned_hyperparameters"] is None


@pytest.mark.parametrize(
    ("repository", "commit", "begins"),
    [
        ("https://github.com/team/lens.git", "abc-dirty", "https://github.com/team/lens/tree/abc/detection_assets/"),
        ("https://gitlab.example.org/team/lens", "abc", "https://gitlab.example.org/team/lens/-/tree/abc/detection_"),
        ("https://example.org/team/lens", "abc", None),
        ("https://github.com/team/lens", "", None),
        ("", "abc", None),
    ],
)
def test_code_is_linked_where_the_repository_is_known(repository: str, commit: str, begins: str | None) -> None:
    (asset,) = definitions.with_code([raw_videos.raw_videos], repository, commit)
    (spec,) = asset.specs
    (code,) = spec.metadata["dagster/code_references"].code_references
    if begins is None:
        assert isinstance(code, dg.LocalFileCodeReference)
    else:
        assert code.url.startswith(begins)
        assert "#L" in code.url


def test_a_dataset_notes_who_drew_its_boxes() -> None:
    drawn = pd.DataFrame({
        "frame": ["v#1", "v#1", "v#2", "v#3"],
        "class": ["apple", "cola", None, "apple"],
        "annotator": ["ada", None, "ada", "ben"],
    })  # fmt: skip
    assert detection_dataset.drawn_by(drawn, pd.DataFrame({"frame": ["v#1", "v#2"]})) == {"ada": 1, "": 1}

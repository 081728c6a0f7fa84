"""Which tool it is, by the environment alone, and what is refused before anything is asked of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from resources import labeling_tools
from resources.settings import SettingsError
from resources.storage import Storage

CVAT = {"DETECTION_LABELING": "cvat", "DETECTION_CVAT_URL": "http://localhost:8080"}
TEAM = "arn:aws:sagemaker:eu-central-1:123456789012:workteam/private-crowd/t"
AWS = {"DETECTION_LABELING": "ground_truth", "DETECTION_AWS_ROLE": "arn:aws:iam::123456789012:role/r"}
AZURE = {f"DETECTION_AZURE_{name}": "x" for name in ("SUBSCRIPTION", "RESOURCE_GROUP", "WORKSPACE", "DATASTORE")}


def chosen(monkeypatch: pytest.MonkeyPatch, lake: str, settings: dict[str, str]) -> labeling_tools.Labeling:
    for name in ("KEY", "USER", "PASSWORD", "URL"):
        monkeypatch.delenv(f"DETECTION_CVAT_{name}", raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return labeling_tools.chosen("tiny", Storage(root=lake, prefix="tiny"))


@pytest.mark.parametrize(
    ("lake", "settings", "told"),
    [
        (
            "lake",
            {"DETECTION_LABELING": "paper"},
            "set it to one of: folder, label_studio, cvat, ground_truth, azure_ml",
        ),
        ("lake", CVAT, "DETECTION_CVAT_USER is not set; set DETECTION_CVAT_KEY"),
        ("lake", {**CVAT, "DETECTION_CVAT_USER": "a"}, "DETECTION_CVAT_PASSWORD is not set"),
        ("lake", {"DETECTION_LABELING": "cvat", "DETECTION_CVAT_KEY": "k"}, "DETECTION_CVAT_URL is not set"),
        ("lake", {**AWS, "DETECTION_AWS_WORKTEAM": TEAM}, "the lake has to be at s3://..., and it is at lake"),
        ("s3://b/l", AWS, "DETECTION_AWS_WORKTEAM is not set"),
        ("s3://b/l", {"DETECTION_LABELING": "azure_ml", **AZURE}, "the lake has to be at az://"),
        ("az://c/l", {"DETECTION_LABELING": "azure_ml"}, "DETECTION_AZURE_SUBSCRIPTION is not set"),
    ],
)
def test_what_is_missing_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch, lake: str, settings: dict[str, str], told: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        chosen(monkeypatch, lake, settings)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("lake", "settings", "tool"),
    [
        ("lake", {}, "folder"),
        ("lake", {**CVAT, "DETECTION_CVAT_KEY": "secret-key"}, "cvat"),
        ("s3://b/l", {**AWS, "DETECTION_AWS_WORKTEAM": TEAM}, "ground_truth"),
        ("az://c/l", {"DETECTION_LABELING": "azure_ml", **AZURE}, "azure_ml"),
    ],
)
def test_each_tool_is_made_of_its_settings_and_shows_no_secret(
    home: Path, monkeypatch: pytest.MonkeyPatch, lake: str, settings: dict[str, str], tool: str
) -> None:
    made = chosen(monkeypatch, lake, settings)
    assert made.tool == tool
    assert "secret-key" not in repr(made)


def test_numbers_of_settings_are_held_to_what_the_tool_takes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="workers"):
        chosen(monkeypatch, "s3://b/l", {**AWS, "DETECTION_AWS_WORKTEAM": TEAM, "DETECTION_AWS_LABELING_WORKERS": "12"})

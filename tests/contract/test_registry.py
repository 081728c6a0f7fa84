from __future__ import annotations

from typing import Any

import pytest

from detection_assets.domain.problems import InputError
from resources.registry.base import APPROVED, CHALLENGER, CHAMPION, PENDING, ModelVersion

PLATFORMS = ["local", "aws", "azure"]
LINEAGE = {"dataset_version": "ds-0123456789ab", "evaluation_version": "e1", "detector": "tiny"}


def register(platform: Any, digest: str, **lineage: str) -> ModelVersion:
    key = f"weights/{digest}/best.onnx"
    return platform.registry.register(key, platform.storage.uri_of(key), digest, {**LINEAGE, **lineage}, "")


@pytest.fixture(autouse=True)
def _known_weights(platform: Any) -> None:
    for digest in ("aaa", "bbb"):
        platform.storage.put(f"weights/{digest}/best.onnx", digest.encode())


def test_a_registry_begins_empty(platform: Any) -> None:
    assert list(platform.registry.history()) == []
    assert platform.registry.get(CHAMPION) is None


def test_a_version_keeps_its_digest_its_place_and_its_lineage(platform: Any) -> None:
    made = register(platform, "aaa")
    found = platform.registry.history()[0]
    assert found.version == made.version
    assert (found.sha256, found.onnx) == ("aaa", "weights/aaa/best.onnx")
    assert found.tags.items() >= LINEAGE.items()


def test_the_same_weights_on_the_same_evaluation_are_one_version(platform: Any) -> None:
    assert register(platform, "aaa").version == register(platform, "aaa").version
    assert len(platform.registry.history()) == 1


def test_other_weights_or_another_evaluation_are_a_new_version(platform: Any) -> None:
    versions = {
        register(platform, "aaa").version,
        register(platform, "bbb").version,
        register(platform, "bbb", evaluation_version="e2").version,
    }
    assert len(versions) == 3
    assert [known.sha256 for known in platform.registry.history()] == ["bbb", "bbb", "aaa"], "newest first"


def test_an_alias_points_at_one_version_and_moves(platform: Any) -> None:
    first, second = register(platform, "aaa"), register(platform, "bbb")
    platform.registry.point(CHAMPION, first.version)
    platform.registry.point(CHALLENGER, second.version)
    assert platform.registry.get(CHAMPION).version == first.version
    platform.registry.point(CHAMPION, second.version)
    assert platform.registry.get(CHAMPION).version == second.version
    assert sorted(platform.registry.get(CHAMPION).aliases) == [CHALLENGER, CHAMPION]


def test_an_approval_is_kept_with_the_version(platform: Any) -> None:
    made = register(platform, "aaa")
    platform.registry.tag(made.version, {"approved_by": "Ada", "approval_reason": "looks right"})
    assert platform.registry.history()[0].tags["approved_by"] == "Ada"


def test_a_version_waits_until_a_person_decides(platform: Any) -> None:
    made = register(platform, "aaa")
    assert made.approval == PENDING, "a run that is killed before it tells lets nothing through"
    assert [known.version for known in platform.registry.pending()] == [made.version]
    decided = platform.registry.approve(made.version, " Ada ", "looks right")
    assert decided.approval == APPROVED
    assert (decided.tags["approved_by"], decided.tags["approval_reason"]) == ("Ada", "looks right")
    assert decided.tags["approved_at"].endswith("+00:00")
    assert list(platform.registry.pending()) == []
    assert platform.registry.reject(made.version, "Bea", "it is not").approval == "rejected"


@pytest.mark.parametrize(("by", "reason"), [("", "looks right"), ("Ada", " ")])
def test_a_decision_needs_a_name_and_a_reason(platform: Any, by: str, reason: str) -> None:
    made = register(platform, "aaa")
    platform.registry.tag(made.version, {"approval": PENDING})
    with pytest.raises(InputError, match="who decides, and why"):
        platform.registry.approve(made.version, by, reason)
    assert platform.registry.history()[0].approval == PENDING


def test_a_decision_about_no_version_names_those_there_are(platform: Any) -> None:
    register(platform, "aaa")
    with pytest.raises(InputError, match="there is no version 7; there are: 1"):
        platform.registry.approve("7", "Ada", "looks right")


def test_the_alias_approves_a_version_that_waits_and_no_other(platform: Any) -> None:
    first, second = register(platform, "aaa"), register(platform, "bbb")
    platform.registry.tag(first.version, {"approval": PENDING})
    platform.registry.tag(second.version, {"approval": "rejected"})
    platform.registry.point(APPROVED, first.version)
    assert {known.version: known.approval for known in platform.registry.history()} == {
        first.version: APPROVED,
        second.version: "rejected",
    }
    assert [known.version for known in platform.registry.adopt_aliases()] == [first.version]
    assert platform.registry.history()[1].tags["approval"] == APPROVED
    assert list(platform.registry.adopt_aliases()) == []
    platform.registry.point(APPROVED, second.version)
    assert platform.registry.history()[0].approval == "rejected", "an alias does not undo what a person decided"

from __future__ import annotations

from typing import Any

import pytest

from resources.registry.base import CHALLENGER, CHAMPION, ModelVersion

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

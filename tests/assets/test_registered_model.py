from __future__ import annotations

from pathlib import Path

import pytest

from detection_assets.domain.problems import InputError
from detection_assets.evaluation import gates
from detection_assets.registered_model import approved
from resources import overrides
from resources.overrides import Override
from resources.registry.base import ModelVersion
from resources.storage import Storage

OVERRIDE = Override("w1", "Ada", "only a demo", "2026-01-01T00:00:00+00:00", ("AP50 is 0.3, below 0.5",))
BY_ADA = {"approved_by": "Ada", "approved_at": "then", "approval_reason": "looks right"}
CASES = {
    # tags, aliases, manual, override -> approval, approved_by, reason
    "automatic": ({}, (), False, None, "approved", "gates", "every gate passed"),
    "manual": ({}, (), True, None, "pending", "", ""),
    "manual, again": ({"approval": "pending"}, (), True, None, "pending", "", ""),
    "no longer manual": ({"approval": "pending"}, (), False, None, "approved", "gates", "every gate passed"),
    "approved": ({"approval": "approved", **BY_ADA}, (), True, None, "approved", "Ada", "looks right"),
    "rejected": ({"approval": "rejected", **BY_ADA}, ("approved",), False, None, "rejected", "Ada", "looks right"),
    "by alias": (
        {"approval": "pending"}, ("approved",), True, None, "approved", "registry", "the alias `approved` was set",
    ),
    "from before there were approvals": (
        {"approved_by": "gates", "approved_at": "then", "approval_reason": "every gate passed"},
        (), True, None, "approved", "gates", "every gate passed",
    ),
    "overridden": ({}, (), False, OVERRIDE, "approved", "Ada", "gates overridden: only a demo"),
    "overridden, and somebody else decides": ({}, (), True, OVERRIDE, "pending", "", ""),
}  # fmt: skip


@pytest.mark.parametrize(
    ("tags", "aliases", "manual", "override", "approval", "by", "reason"), CASES.values(), ids=CASES
)
def test_who_decides(
    tags: dict, aliases: tuple, manual: bool, override: Override | None, approval: str, by: str, reason: str
) -> None:
    found = approved(ModelVersion("tiny", "1", "aaa", "key", aliases, tags), manual, override)
    assert (found["approval"], found["approved_by"], found["approval_reason"]) == (approval, by, reason)
    assert found.get("override_by", "") == ("Ada" if override else "")
    assert bool(found["approved_at"]) == bool(by)


GOOD = {"gate": "map50", "passed": True, "value": 0.6, "limit": 0.5, "why": "AP50 is 0.600, at least 0.5"}
FAILED = {"gate": "map50", "passed": False, "value": 0.3, "limit": 0.5, "why": "AP50 is 0.300, below 0.5"}


def test_a_failed_gate_passes_only_with_a_name_and_says_what_failed() -> None:
    assert gates([GOOD]).passed
    assert not gates([GOOD, FAILED]).passed
    found = gates([GOOD, FAILED], OVERRIDE)
    assert found.passed
    assert found.description == "overridden by Ada: only a demo. Failed: AP50 is 0.300, below 0.5"
    assert found.metadata["overridden by"].value == "Ada"
    assert gates([GOOD], OVERRIDE).description == "all gates passed", "there was nothing to override"


def test_an_override_is_written_once(tmp_path: Path) -> None:
    storage = Storage(root=str(tmp_path), prefix="tiny")
    for by, reason in (("", "why"), ("Ada", " ")):
        with pytest.raises(InputError, match="needs a name and a reason"):
            overrides.write(storage, "w1", by, reason, ["AP50"])
    with pytest.raises(InputError, match="nothing to override"):
        overrides.write(storage, "w1", "Ada", "why", [])
    assert overrides.read(storage, "w1") is None
    made = overrides.write(storage, "w1", "Ada", "why", ["AP50"])
    assert overrides.read(storage, "w1") == made
    with pytest.raises(InputError, match="overridden already, by Ada"):
        overrides.write(storage, "w1", "Bea", "why not", ["AP50"])
    assert overrides.read(storage, "w1") == made

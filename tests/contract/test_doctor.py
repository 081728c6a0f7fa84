"""Each resource says whether it can work, and what to do if not."""

from __future__ import annotations

from typing import Any

from resources.findings import Finding

PLATFORMS = ["local", "aws", "azure"]


def found(resource: Any) -> dict[str, Finding]:
    return {finding.what: finding for finding in resource.check()}


def test_what_can_work_is_good(platform: Any) -> None:
    assert found(platform.storage)["lake"].state == "good"
    assert found(platform.registry)["registry"].state == "good"
    assert not list(platform.storage.list("jobs")), "nothing is left behind"

"""The role of whoever runs Dagster on Azure: no less than is asked for, and hardly more."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import azureml, azureml_rights
from fakes.azureml_rights import WORKSPACE, right_for

from resources import microsoft


@pytest.mark.parametrize(
    ("method", "below", "right"),
    [
        ("GET", "", "read"),
        ("GET", "/computes/cpu", "computes/read"),
        ("PUT", "/environments/e/versions/1", "environments/versions/write"),
        ("GET", "/models/m/versions", "models/versions/read"),
        ("DELETE", "/onlineEndpoints/e/deployments/blue", "onlineEndpoints/deployments/delete"),
        ("PATCH", "/onlineEndpoints/e", "onlineEndpoints/write"),
        ("POST", "/jobs/j/cancel", "jobs/cancel/action"),
        ("POST", "/onlineEndpoints/e/deployments/blue/getLogs", "onlineEndpoints/deployments/getLogs/action"),
    ],
)
def test_a_request_asks_for_a_right(method: str, below: str, right: str) -> None:
    assert right_for(method, f"{azureml.ROOT}{below}", azureml.ROOT) == f"{WORKSPACE}/{right}"


def test_what_is_not_about_the_workspace_asks_for_none() -> None:
    for path in ("/msi", "/discovery", f"{azureml.ROOT}2/jobs/j", "/subscriptions/s/locations/l/operations/o"):
        assert right_for("GET", path, azureml.ROOT) is None
    told = right_for("GET", f"/history/v1.0{azureml.ROOT}/runs/j/details", azureml.ROOT)
    assert told == f"{WORKSPACE}/experiments/runs/read"


def test_what_the_role_allows_is_asked_for_or_has_its_reason(azureml_service: azureml.AzureML) -> None:
    """What can be asked for is what the stand-in answers, so a part of it that comes or goes is seen here."""
    answered = set(azureml_service.answered())
    assert len(answered) > 8
    unused = {right for right in azureml_rights.given() if right.lower() not in {one.lower() for one in answered}}
    without = [right for right in unused if not azureml_rights.given()[right]]
    assert without == [], "nobody asks for these: take them from infra/azure/template.bicep, or say there what for"
    stale = [right for right in azureml_rights.given() if right not in unused and azureml_rights.given()[right]]
    assert stale == [], "these are asked for after all, so they need no reason"


def test_what_the_role_does_not_allow_is_refused_by_its_name(
    azureml_service: azureml.AzureML, azure_settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(azureml_rights, "given", lambda: {f"{WORKSPACE}/read": ""})
    workspace = microsoft.Workspace(azureml.SUBSCRIPTION, azureml.GROUP, azureml.WORKSPACE)
    assert workspace.client.workspaces.get(azureml.WORKSPACE).name == azureml.WORKSPACE
    from azure.core.exceptions import HttpResponseError

    with pytest.raises(HttpResponseError, match=f"perform action '{WORKSPACE}/jobs/read'") as raised:
        workspace.client.jobs.get("j")
    told: Any = microsoft.explained(raised.value)
    assert "the role" in told[1]
    assert f"{WORKSPACE}/jobs/read" in azureml_service.rights

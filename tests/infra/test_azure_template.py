"""The Bicep template: it parses, its names are told apart, and it gives no more than it says.

Bicep's own compiler is in no package registry, so types and API versions are checked by nobody here.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from project import ROOT
from pycep import BicepParser

TEMPLATE = ROOT / "infra" / "azure" / "template.bicep"
BUILT_IN = {
    "blobContributor": "ba92f5b4-2d11-453d-a403-e96b0029c9fe",  # Storage Blob Data Contributor
    "acrPull": "7f951dda-4ed3-4680-a7ca-43fe172d538d",  # AcrPull
}
"""Roles that Azure has everywhere under these ids."""


@pytest.fixture(scope="module")
def template() -> Any:
    return BicepParser().parse(file_path=TEMPLATE)


def properties(template: Any, name: str) -> Any:
    return template["resources"][name]["config"]["properties"]


def of_kind(template: Any, kind: str) -> dict[str, Any]:
    return {name: one["config"] for name, one in template["resources"].items() if one["type"].endswith(f"/{kind}")}


def test_every_name_that_is_used_is_one_that_is_there(template: Any) -> None:
    known = {*template["resources"], *template["parameters"], *template["variables"], "cluster", "properties"}
    known |= {"environment"}  # which cloud it is deployed to
    used = set(re.findall(r'"operand_1": "(\w+)"', json.dumps([template["resources"], template["outputs"]])))
    used |= {one["config"]["parent"] for one in template["resources"].values() if "parent" in one["config"]}
    used |= set(re.findall(r"\$\{(\w+)", TEMPLATE.read_text()))
    assert used <= known


def test_every_parameter_is_explained_and_used(template: Any) -> None:
    text = TEMPLATE.read_text()
    for name, parameter in template["parameters"].items():
        assert any("description" in str(decorator) for decorator in parameter["decorators"]), name
        assert len(re.findall(rf"\b{name}\b", text)) > 1, name


def test_the_lake_is_closed_encrypted_on_its_way_and_remembers(template: Any) -> None:
    account = properties(template, "account")
    assert account["allowBlobPublicAccess"] is False
    assert account["supportsHttpsTrafficOnly"] is True
    assert account["minimumTlsVersion"] == "TLS1_2"
    assert properties(template, "lake")["publicAccess"] == "None"
    blobs = properties(template, "blobs")
    assert blobs["isVersioningEnabled"] is True
    assert blobs["deleteRetentionPolicy"]["enabled"] is True


def test_nobody_has_a_key_that_can_be_lost(template: Any) -> None:
    assert properties(template, "registry")["adminUserEnabled"] is False
    assert properties(template, "datastore")["credentials"] == {"credentialsType": "None"}
    assert properties(template, "workspace")["systemDatastoresAuthMode"] == "identity"
    text = TEMPLATE.read_text()
    assert "listKeys" not in text, "no key is ever an output"
    assert "connectionString" not in text


def test_rights_are_for_one_thing_and_from_a_known_role(template: Any) -> None:
    assignments = of_kind(template, "roleAssignments")
    assert {name: one["scope"] for name, one in assignments.items()} == {
        "jobsInTheLake": "lake",
        "jobsFetchImages": "registry",
        "dagsterInTheLake": "lake",
        "dagsterInTheWorkspace": "workspace",
    }
    for name, one in assignments.items():
        given = json.dumps(one["properties"]["roleDefinitionId"])
        assert any(role in given for role in (*BUILT_IN, "runner")), name
        # A name that is a function of whom, what and where can be deployed again, and is no other one's.
        assert "guid" in str(one["name"]), name
    text = TEMPLATE.read_text()
    for name, role in BUILT_IN.items():
        assert f"var {name} = '{role}'" in text


def test_the_runners_role_names_each_action(template: Any) -> None:
    (permission,) = properties(template, "runner")["permissions"]
    assert permission["dataActions"] == []
    workspace = "Microsoft.MachineLearningServices/workspaces/"
    assert all(action.startswith(workspace) for action in permission["actions"])
    assert not [action for action in permission["actions"] if "*" in action]
    assert len(set(permission["actions"])) == len(permission["actions"])
    assert not [action for action in permission["actions"] if action.endswith("/delete")]


def test_clusters_cost_nothing_without_work(template: Any) -> None:
    machines = template["resources"]["machines"]["config"]["config"]["properties"]["properties"]
    assert machines["scaleSettings"]["minNodeCount"] == 0
    assert machines["remoteLoginPortPublicAccess"] == "Disabled"


def test_its_outputs_are_settings(template: Any) -> None:
    settings = (ROOT / ".env.example").read_text() + (ROOT / "resources" / "profiles.py").read_text()
    names = [name for name in template["outputs"] if name != "REGISTRY"]
    assert len(names) > 5
    assert [name for name in names if name not in settings] == []

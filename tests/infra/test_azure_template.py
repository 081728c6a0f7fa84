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
    "blobReader": "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1",  # Storage Blob Data Reader
    "acrPull": "7f951dda-4ed3-4680-a7ca-43fe172d538d",  # AcrPull
    "identityOperator": "f1a07417-d97a-45cb-824c-7a7467783830",  # Managed Identity Operator
}
"""Roles that Azure has everywhere under these ids."""


@pytest.fixture(scope="module")
def template() -> Any:
    return BicepParser().parse(file_path=TEMPLATE)


def properties(template: Any, name: str) -> Any:
    return whole(template["resources"][name])["properties"]


def whole(resource: Any) -> Any:
    """What a resource is, also of one that is made under a condition alone."""
    return resource["config"]["config"] if "condition" in resource["config"] else resource["config"]


def of_kind(template: Any, kind: str) -> dict[str, Any]:
    return {name: whole(one) for name, one in template["resources"].items() if one["type"].endswith(f"/{kind}")}


def test_every_name_that_is_used_is_one_that_is_there(template: Any) -> None:
    known = {*template["resources"], *template["parameters"], *template["variables"], "cluster", "properties"}
    known |= {"environment"}  # which cloud it is deployed to
    used = set(re.findall(r'"operand_1": "(\w+)"', json.dumps([template["resources"], template["outputs"]])))
    used |= {whole(one)["parent"] for one in template["resources"].values() if "parent" in whole(one)}
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
    assert "listKeys(" not in text, "no key is ever an output"
    assert "connectionString" not in text


def test_rights_are_for_one_thing_and_from_a_known_role(template: Any) -> None:
    assignments = of_kind(template, "roleAssignments")
    assert {name: one.get("scope", "the group") for name, one in assignments.items()} == {
        "jobsInTheLake": "lake",
        "jobsFetchImages": "registry",
        "dagsterInTheLake": "lake",
        "dagsterInTheWorkspace": "workspace",
        "jobsReadTheAccount": "account",
        "dagsterInvokesBatch": "workspace",
        "serversInTheLake": "lake",
        "serversFetchImages": "registry",
        "serversInTheWorkspace": "workspace",
        "dagsterGivesTheIdentity": "servers",
        "dagsterScales": "the group",
    }
    for name, one in assignments.items():
        given = json.dumps(one["properties"]["roleDefinitionId"])
        assert any(role in given for role in (*BUILT_IN, "runner", "batchRunner", "asker", "scaler")), name
        # A name that is a function of whom, what and where can be deployed again, and is no other one's.
        assert "guid" in str(one["name"]), name
    text = TEMPLATE.read_text()
    for name, role in BUILT_IN.items():
        assert f"var {name} = '{role}'" in text


@pytest.mark.parametrize(
    ("role", "deletes"),
    [
        # An endpoint that is stopped, and what is left of it; nothing that was made from data.
        ("runner", ["onlineEndpoints/delete", "onlineEndpoints/deployments/delete", "models/versions/delete"]),
        ("batchRunner", ["batchEndpoints/deployments/delete"]),
    ],
    ids=["", "batch"],
)
def test_a_runners_role_names_each_action(template: Any, role: str, deletes: list[str]) -> None:
    (permission,) = properties(template, role)["permissions"]
    assert permission["dataActions"] == []
    workspace = "Microsoft.MachineLearningServices/workspaces/"
    assert all(action.startswith(workspace) for action in permission["actions"])
    assert not [action for action in permission["actions"] if "*" in action]
    assert len(set(permission["actions"])) == len(permission["actions"])
    ending = [action for action in permission["actions"] if action.endswith("/delete")]
    assert [action.removeprefix(workspace) for action in ending] == deletes


def test_what_lets_keys_be_seen_is_given_for_batch_endpoints_alone(template: Any) -> None:
    conditional = {name for name, one in template["resources"].items() if one["config"].get("condition") == "batch"}
    assert conditional == {"jobsReadTheAccount", "batchRunner", "dagsterInvokesBatch"}
    (permission,) = properties(template, "runner")["permissions"]
    seen = [action for action in permission["actions"] if "secret" in action.lower() or "keys" in action.lower()]
    assert [action.rpartition("workspaces/")[2] for action in seen] == ["onlineEndpoints/listkeys/action"]
    assert "param batch bool = false" in TEMPLATE.read_text()


def test_the_other_roles_are_for_one_thing(template: Any) -> None:
    for role, only in (("asker", "onlineEndpoints/listkeys/action"), ("scaler", "autoscaleSettings/")):
        (permission,) = properties(template, role)["permissions"]
        assert permission["dataActions"] == []
        assert all(only in action and "*" not in action for action in permission["actions"])


def test_clusters_cost_nothing_without_work(template: Any) -> None:
    machines = template["resources"]["machines"]["config"]["config"]["properties"]["properties"]
    assert machines["scaleSettings"]["minNodeCount"] == 0
    assert machines["remoteLoginPortPublicAccess"] == "Disabled"


def test_its_outputs_are_settings(template: Any) -> None:
    settings = (ROOT / ".env.example").read_text() + (ROOT / "resources" / "profiles.py").read_text()
    names = [name for name in template["outputs"] if name != "REGISTRY"]
    assert len(names) > 5
    assert [name for name in names if name not in settings] == []

"""Bicep templates, read by a parser of the language: Bicep's own compiler is in no package registry."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

from project import ROOT
from pycep import BicepParser

INFRA = ROOT / "infra" / "azure"
ROLES = {
    "acrPull": "7f951dda-4ed3-4680-a7ca-43fe172d538d",  # AcrPull
    "blobContributor": "ba92f5b4-2d11-453d-a403-e96b0029c9fe",  # Storage Blob Data Contributor
    "blobDelegator": "db58b8e5-c6ad-4a2a-8342-4190687cbf4a",  # Storage Blob Delegator
    "identityOperator": "f1a07417-d97a-45cb-824c-7a7467783830",  # Managed Identity Operator
    "queueProcessor": "8a0f0c08-91a1-4084-bc3d-661d67233fed",  # Storage Queue Data Message Processor
    "queueSender": "c6a89b2d-59bc-44d0-9896-0f6e12d7b80a",  # Storage Queue Data Message Sender
    "secretsUser": "4633458b-17de-408a-b874-0445c86b69e6",  # Key Vault Secrets User
}
"""Roles that Azure has everywhere under these ids, by what the templates call them."""


@functools.cache
def parsed(name: str) -> Any:
    """A template of `infra/azure`, by its name."""
    return BicepParser().parse(file_path=INFRA / f"{name}.bicep")


def text(name: str) -> str:
    """A template as it is written."""
    return Path(INFRA / f"{name}.bicep").read_text()


def config(name: str, resource: str) -> Any:
    """What a template says of a resource; of a conditional or repeated one, of each."""
    found = parsed(name)["resources"][resource]["config"]
    return found.get("config", found)


def properties(name: str, resource: str) -> Any:
    """A resource's properties."""
    return config(name, resource)["properties"]


def of_kind(name: str, kind: str) -> dict[str, Any]:
    """A template's resources of one kind, as `roleAssignments`."""
    found = parsed(name)["resources"]
    return {one: config(name, one) for one, about in found.items() if about["type"].endswith(f"/{kind}")}


def unknown(name: str) -> set[str]:
    """The names that a template's expressions use and that it does not have."""
    template = parsed(name)
    everything = [template["resources"], template["variables"], template["outputs"]]
    used = set(re.findall(r'"operand_1": "(\w+)"', json.dumps(everything)))
    for about in template["resources"].values():
        one = about["config"].get("config", about["config"])
        used |= {one[key] for key in ("parent", "scope") if key in one} | set(one.get("dependsOn", []))
    used |= set(re.findall(r"\$\{(\w+)", text(name))) - {"replace"}
    loops = set(re.findall(r"\bfor (\w+) in\b", text(name)))
    parts = {
        "environment",
        "subscription",
        "properties",
        "configuration",
        "ingress",
        "identity",
        "authentication",
        "suffixes",
    }
    return used - {*template["resources"], *template["parameters"], *template["variables"], *loops, *parts}


def rights(name: str) -> dict[str, tuple[str, str, str]]:
    """Of each role that a template gives: on what, which, and to whom."""
    return {
        one: (about.get("scope", "the resource group"), _role(about), _whom(about))
        for one, about in of_kind(name, "roleAssignments").items()
    }


def _role(about: Any) -> str:
    given = json.dumps(about["properties"]["roleDefinitionId"])
    (role,) = [one for one in (*ROLES, "runner", "starter") if f'"{one}"' in given]
    return role


def _whom(about: Any) -> str:
    whom = about["properties"]["principalId"]
    return whom if isinstance(whom, str) else whom["operator"]["operands"]["operand_1"]

"""Settings as the environment has them, for whoever makes resources of them."""

from __future__ import annotations

import os
from typing import Any

import dagster as dg


class SettingsError(ValueError):
    """Settings that do not fit together; the message says which to set and to what."""


def given(**settings: str) -> dict[str, Any]:
    """The settings that are set, by the name of the attribute that they are for; their types are the attribute's."""
    return {name: os.environ[variable] for name, variable in settings.items() if os.environ.get(variable)}


def needed(whom: str, name: str, what: str) -> Any:
    """A setting that has to be there, as a reference: what it says shows nowhere.

    Args:
        whom: Who needs it, as messages begin: `platform aws` for one.
        name: The variable.
        what: What it is to be set to, in words.

    Raises:
        SettingsError: It is not set.
    """
    if not os.environ.get(name):
        raise SettingsError(f"{whom}: {name} is not set; set it to {what}")
    return dg.EnvVar(name)


def azure_workspace(whom: str) -> dict[str, Any]:
    """Which Azure ML workspace, by the names of attributes; raises what `needed` does."""
    return {
        "subscription": needed(whom, "DETECTION_AZURE_SUBSCRIPTION", "the id of the subscription"),
        "group": needed(whom, "DETECTION_AZURE_RESOURCE_GROUP", "the resource group of the workspace"),
        "workspace": needed(whom, "DETECTION_AZURE_WORKSPACE", "the name of the Azure ML workspace"),
        "datastore": needed(whom, "DETECTION_AZURE_DATASTORE", "the workspace's datastore of the lake's container"),
    }

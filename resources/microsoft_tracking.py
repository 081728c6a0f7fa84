"""The MLflow of an Azure ML workspace, by MLflow's own interface and with tokens of Azure's.

Azure's plugin for MLflow (azureml-mlflow) is made for older ones than ours and holds them back, so it is not needed
here; who has installed it gets what it does.
"""

from __future__ import annotations

import functools
import os
import re
from typing import Any
from urllib.parse import urlsplit

from resources import microsoft
from resources.microsoft import Workspace
from resources.storage import LakeError

SCHEME = "azureml"
AUTH = "detection-azureml"
"""MLflow's name for `Tokens`, by which the environment asks for it."""
VERSION = "v2.0"
"""Of a workspace's interface, for MLflow from 2 on; its own URI names the one for MLflow 1, to be exchanged."""
NAMED = re.compile(r"/subscriptions/([^/]+)/resourceGroups/([^/]+)/providers/[^/]+/workspaces/([^/]+)/?$", re.I)
_servers: dict[str, Workspace] = {}
"""Whose tokens go where: to no other server MLflow speaks to from this process."""


def uri_of(subscription: str, group: str, name: str) -> str:
    """A tracking URI that means a workspace's MLflow, in whichever region it is."""
    return f"{SCHEME}://{Workspace(subscription, group, name).path}"


def is_azure(uri: str) -> bool:
    """Whether a tracking URI, or the place of a run's files, is one of Azure ML's."""
    return uri.startswith(f"{SCHEME}:")


def workspace_of(uri: str) -> Workspace:
    """The workspace that a tracking URI names.

    Raises:
        LakeError: It names none.
    """
    found = NAMED.search(uri)
    if found is None:
        raise LakeError(
            f"MLFLOW_TRACKING_URI is {uri}, which names no workspace of Azure ML; take what `az ml workspace show "
            "--query mlflow_tracking_uri` says, or leave it out for the workspace that runs the jobs"
        )
    return Workspace(*found.groups())


def address(uri: str) -> str:
    """What MLflow is told of a tracking URI of Azure ML's: an address that it knows how to ask, with tokens.

    Raises:
        LakeError: It names no workspace, or Azure ML does not say where the workspace's MLflow is.
    """
    found = _located(uri)
    if plugin():
        return found
    workspace = workspace_of(uri)
    server = f"https://{urlsplit(found).netloc}/mlflow/{VERSION}{workspace.path}"
    _servers[f"{server}/"] = workspace
    os.environ["MLFLOW_TRACKING_AUTH"] = AUTH
    return server


@functools.lru_cache(maxsize=8)
def _located(uri: str) -> str:
    from azure.core.exceptions import AzureError

    workspace = workspace_of(uri)
    if not uri.startswith(f"{SCHEME}:///"):
        return uri
    try:
        return str(workspace.client.workspaces.get(workspace.name).mlflow_tracking_uri)
    except AzureError as error:
        raise LakeError(f"{workspace.name}: where is its MLflow? {microsoft.refusal(error)}") from error


@functools.cache
def plugin() -> bool:
    """Whether Azure's own plugin for MLflow is installed: it keeps files with runs, too."""
    from importlib.metadata import entry_points

    return any(point.name == SCHEME for point in entry_points(group="mlflow.tracking_store"))


class Tokens:
    """MLflow's plugin that gives a request to a workspace's MLflow the token of whoever runs this."""

    def get_name(self) -> str:
        """What the environment calls it."""
        return AUTH

    def get_auth(self) -> Any:
        """What signs a request."""
        return _signed


def _signed(request: Any) -> Any:
    for server, workspace in _servers.items():
        if request.url.startswith(server):
            request.headers["Authorization"] = f"Bearer {workspace.token()}"
    return request

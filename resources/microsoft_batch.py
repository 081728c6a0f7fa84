"""The batch endpoint of a detector on Azure ML, and its deployments: one for each model, its thresholds and machines.

A deployment costs nothing while nobody asks, so it stays; the newest is the endpoint's default, for whoever else asks.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resources import microsoft
from resources.microsoft import Workspace

SCRIPT = ("score.py", "from detection_assets.serving.batch import init, run\n")
"""What is uploaded: what it imports is the image's, so script and package are of one version."""
LIST_S, TRIES = 1200, 3
"""Seconds that the script may take for one list of pictures, and how often it is tried again."""
BUSY_S, POLL_S = 900.0, 2.0
"""Seconds for which somebody else may be changing the endpoint, and between two tries meanwhile."""
KEPT = 10
"""Deployments that an endpoint has at most; Azure ML has room for 20."""


@dataclass(frozen=True)
class Wanted:
    """What a deployment is made of.

    Attributes:
        model: Name and version for the registry of models.
        path: Where the model's file lies, as the workspace calls it.
        image: The image that the script runs in.
        cluster: The cluster that runs it.
        count: Machines of a job.
        environment: What the script is told, by environment variable.
        tags: For people.
    """

    model: tuple[str, str]
    path: str
    image: str
    cluster: str
    count: int
    environment: Mapping[str, str]
    tags: Mapping[str, str]


def deploy(ml: Workspace, endpoint: str, name: str, wanted: Wanted) -> None:
    """Makes a deployment and, before it, its endpoint, unless they are there.

    Args:
        ml: The workspace.
        endpoint: The endpoint's name.
        name: The deployment's; it follows from what is wanted, so what is there is that.
        wanted: What it is made of.

    Raises:
        AzureError, MlException: Azure ML refuses.
    """
    from azure.ai.ml.entities import BatchEndpoint
    from azure.core.exceptions import ResourceNotFoundError

    client = ml.client
    made = microsoft.there(lambda: client.batch_deployments.get(name, endpoint))
    if made is not None and made.provisioning_state == "Succeeded":
        return
    try:
        there = client.batch_endpoints.get(endpoint)
        _tidy(client, endpoint, str(getattr(there.defaults, "deployment_name", "")))
    except ResourceNotFoundError:
        there = BatchEndpoint(name=endpoint, tags=dict(wanted.tags))
        _patiently(lambda: client.batch_endpoints.begin_create_or_update(there))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / SCRIPT[0]).write_text(SCRIPT[1])
        made = _made(client, endpoint, name, wanted, folder)
        _patiently(lambda: client.batch_deployments.begin_create_or_update(made))
    there.defaults = {"deployment_name": name}
    _patiently(lambda: client.batch_endpoints.begin_create_or_update(there))


def _patiently(begin: Callable[[], Any]) -> None:
    """Does something, which Azure ML refuses while another run does the same, or anything else to the endpoint."""
    from azure.core.exceptions import ResourceExistsError

    ends = time.monotonic() + BUSY_S
    while True:
        try:
            begin().result()
            return
        except ResourceExistsError:  # what it says of any conflict
            if time.monotonic() > ends:
                raise
        time.sleep(POLL_S)


def _made(client: Any, endpoint: str, name: str, wanted: Wanted, code: str) -> Any:
    from azure.ai.ml.entities import (
        BatchRetrySettings,
        CodeConfiguration,
        Environment,
        Model,
        ModelBatchDeployment,
        ModelBatchDeploymentSettings,
    )

    known, version = wanted.model
    tags = dict(wanted.tags)
    model = Model(name=known, version=version, type="custom_model", path=wanted.path, tags=tags)
    return ModelBatchDeployment(
        name=name,
        endpoint_name=endpoint,
        tags=tags,
        model=client.models.create_or_update(model).id,
        code_configuration=CodeConfiguration(code=code, scoring_script=SCRIPT[0]),
        environment=Environment(image=wanted.image),
        compute=wanted.cluster,
        settings=ModelBatchDeploymentSettings(
            mini_batch_size=1,
            instance_count=wanted.count,
            max_concurrency_per_instance=1,  # the network has the cores by itself
            output_action="append_row",
            output_file_name="lists.txt",
            error_threshold=0,  # a list fails when the model does, and then all of them do
            retry_settings=BatchRetrySettings(max_retries=TRIES, timeout=LIST_S),
            environment_variables=dict(wanted.environment),
        ),
    )


def _tidy(client: Any, endpoint: str, serving: str) -> None:
    """Deletes the oldest deployments but the default one, so that there is room for one more."""
    there = [one for one in client.batch_deployments.list(endpoint) if one.name != serving]
    there.sort(key=lambda one: str(getattr(one.creation_context, "created_at", "")))
    for one in there[: max(0, len(there) + 2 - KEPT)]:
        _patiently(lambda name=one.name: client.batch_deployments.begin_delete(name, endpoint))

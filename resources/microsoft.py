"""What everything that speaks to Azure ML has in common: the workspace, and what to do when something is refused."""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from detection_assets.object_store import CONNECTION, account_of

T = TypeVar("T")
SETTINGS = ("AZURE_", "AZUREML_", "ARM_", "MSI_")
"""What the settings begin with that decide whom Azure takes us for, and where it is."""
DENIED = ("AuthorizationFailed", "LinkedAuthorizationFailed", "Forbidden")
NOWHERE = ("ResourceNotFound", "ResourceGroupNotFound", "SubscriptionNotFound", "InvalidSubscriptionId")
"""What Azure says when there is no such workspace; of a thing in it that there is not it says something else."""
QUOTA = ("ClusterCoreQuotaReached", "ClusterMinNodesExceedCoreQuota", "QuotaExceeded", "OperationNotAllowed")
CAPACITY = ("AllocationFailed", "ZonalAllocationFailed", "OverconstrainedAllocationRequest", "SkuNotAvailable")
RETRIES = 4
"""How often a request is tried again; the SDK's own ten take minutes to say that there is no network."""
API = "api-version=2023-10-01"
"""The version of the interface of requests that are made by hand."""
STALE_S = 300
"""Seconds before its end from which on a token is not used any more."""
STORAGE_PATIENCE: Any = {"initial_backoff": 1, "increment_base": 2, "retry_total": 3, "connection_timeout": 10}
"""The same for a storage account: its SDK's own way takes longer than the minute that a sensor has."""
LOG_IN = "log in (az login), or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET in .env"

_tokens: dict[tuple[str, tuple[tuple[str, str], ...]], Any] = {}


@dataclass(frozen=True)
class Workspace:
    """A workspace of Azure ML.

    Attributes:
        subscription: The subscription's id.
        group: The resource group's name.
        name: The workspace's name.
    """

    subscription: str
    group: str
    name: str

    @property
    def path(self) -> str:
        """What Azure's resource manager calls it."""
        return (
            f"/subscriptions/{self.subscription}/resourceGroups/{self.group}"
            f"/providers/Microsoft.MachineLearningServices/workspaces/{self.name}"
        )

    @property
    def client(self) -> Any:
        """The SDK's client, as the environment says who asks; made once."""
        return _client(self, _environment())

    def token(self) -> str:
        """A token for Azure ML of whoever the environment says asks.

        Raises:
            AzureError: There is none to be had.
        """
        return _token(self, _environment())

    def run(self, name: str) -> Mapping[str, Any]:
        """What the run history tells of a job: when it began and ended, why it failed, and where its logs are.

        The SDK tells these to nobody but its own printing.

        Raises:
            AzureError: It is not told.
        """
        return self._told(f"{_history(self, _environment())}/history/v1.0{self.path}/runs/{name}/details")

    def children(self, name: str) -> list[Mapping[str, Any]]:
        """What the run history tells of each run that a job has begun; the SDK reads no further than the first page.

        Raises:
            AzureError: It is not told.
        """
        found: list[Mapping[str, Any]] = []
        url = f"{_history(self, _environment())}/history/v1.0{self.path}/runs/{name}/children"
        while url:
            told = self._told(url)
            found += told.get("value") or ()
            url = told.get("nextLink")
        return found

    def mlflow_run(self, name: str) -> Mapping[str, Any]:
        """The `metrics` and `params` of a job's MLflow run, each a list of keys and values.

        Raises:
            AzureError: They are not told.
        """
        where = str(self.client.workspaces.get(self.name).mlflow_tracking_uri).replace("azureml:", "https:", 1)
        return self._told(f"{where}/api/2.0/mlflow/runs/get?run_id={name}")["run"]["data"]

    def cluster(self, name: str) -> Mapping[str, Any]:
        """A compute cluster with its errors, which the SDK leaves out.

        Raises:
            LookupError: There is no cluster of the name.
            AzureError: It is not told.
        """
        told = there(lambda: self.get(f"computes/{name}"))
        if told is None:
            raise LookupError(name)
        return told["properties"].get("properties") or {}

    def get(self, below: str) -> Mapping[str, Any]:
        """Something of the workspace's with all that is told of it, of which the SDK leaves some out.

        Args:
            below: What it is called below the workspace, as `models/shelf/versions/1`.

        Raises:
            AzureError: It is not told, or there is none.
        """
        return self._told(f"{_manager(self.client)}{self.path}/{below}?{API}")

    def put(self, below: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Makes something of the workspace's as it is described, where the SDK would do more than that.

        Args:
            below: What it is called below the workspace, as `data/shelf/versions/1`.
            body: The request's.

        Raises:
            AzureError: It is refused.
        """
        return self._told(f"{_manager(self.client)}{self.path}/{below}?{API}", body)

    def enter(self, name: str, version: str, properties: Mapping[str, Any]) -> str:
        """Enters a version of a data asset, unless it is entered already; gives where it lies, as it is entered.

        Raises:
            AzureError: It is refused.
        """
        if (entered := there(lambda: self.client.data.get(name, version))) is not None:
            return str(entered.path)
        # By hand: the SDK reads an MLTable first, by ways of its own to the storage that may take minutes.
        told = self.put(f"data/{name}/versions/{version}", {"properties": dict(properties)})
        return str(told["properties"]["dataUri"])

    def _told(self, url: str, body: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        return self._answer("GET" if body is None else "PUT", url, body, (200, 201)).json()

    def _answer(self, method: str, url: str, body: Mapping[str, Any] | None, fine: Container[int]) -> Any:
        from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
        from azure.core.rest import HttpRequest

        answer = _asking(self, _environment()).send_request(HttpRequest(method, url, json=body))
        if answer.status_code not in fine:
            raise (ResourceNotFoundError if answer.status_code == 404 else HttpResponseError)(response=answer)
        return answer

    def address(self, below: str = "") -> str:
        """Where the resource manager answers about the workspace, or about something below it."""
        return f"{_manager(self.client)}{self.path}{below}"

    def ask(self, method: str, where: str, body: Any = None, *, missing: bool = False) -> Mapping[str, Any]:
        """Asks the resource manager for what the SDK has no word for; an empty answer for nothing.

        Args:
            method: As `GET`.
            where: An address, or what follows the resource manager's own.
            body: What is sent, if anything.
            missing: Whether it is well if there is no such thing.

        Raises:
            AzureError: It is refused.
        """
        url = where if where.startswith("https://") else f"{_manager(self.client)}{where}"
        answer = self._answer(method, url, body, {*range(400), *([404] if missing else [])})
        return answer.json() if answer.status_code != 404 and answer.content else {}

    def identity(self, resource: str) -> str:
        """The client id of a user-assigned identity.

        Raises:
            AzureError: It is not told.
        """
        found = self.ask("GET", f"{resource}?api-version=2023-01-31")
        return str(found["properties"]["clientId"])

    def page(self, name: str) -> str:
        """Address of a job's page in the studio."""
        return f"https://ml.azure.com/runs/{name}?wsid={self.path}"

    def page_of(self, asset: str) -> str:
        """Address of a model's or a data asset's page in the studio, by what it is called there, as `data/shelf/1`."""
        return f"https://ml.azure.com/{asset}/details?wsid={self.path}"

    def place(self, datastore: str, uri: str) -> str:
        """As `place`, by a name that means the same wherever it is read."""
        workspace = f"subscriptions/{self.subscription}/resourcegroups/{self.group}/workspaces/{self.name}"
        return place(datastore, uri).replace("azureml://", f"azureml://{workspace}/")


def place(datastore: str, uri: str) -> str:
    """What a workspace calls a file or folder of the lake.

    Args:
        datastore: Its name for the lake's container.
        uri: As `az://container/path`.
    """
    return f"azureml://datastores/{datastore}/paths/{uri.removeprefix('az://').partition('/')[2].strip('/')}"


def code_of(error: Any) -> str:
    """The service's word for an error of azure-core's; "" if it has none."""
    return str(getattr(getattr(error, "error", None), "code", None) or "")


def there(ask: Callable[[], T]) -> T | None:
    """What is answered, or None if there is no such thing in the workspace.

    Raises:
        AzureError: It is not told, or there is no such workspace.
    """
    from azure.core.exceptions import ResourceNotFoundError

    try:
        return ask()
    except ResourceNotFoundError as error:
        if code_of(error) in NOWHERE:
            raise
        return None


def explained(error: Any) -> tuple[str, str]:
    """What Azure says, and what is to be done about it; "" if nothing is known to help.

    Args:
        error: Of azure-core's, `AzureError`.
    """
    from azure.core.exceptions import ClientAuthenticationError, ServiceRequestError, ServiceResponseError

    code = code_of(error)
    said = str(getattr(getattr(error, "error", None), "message", None) or getattr(error, "message", error)).strip()
    told = f"{code}: {said}" if code else said
    if code in DENIED:
        return told, "give whom Dagster runs as the role AzureML Data Scientist on the workspace"
    if code in NOWHERE:
        settings = "DETECTION_AZURE_SUBSCRIPTION, DETECTION_AZURE_RESOURCE_GROUP and DETECTION_AZURE_WORKSPACE"
        return told, f"correct {settings}, or give whom Dagster runs as a role there"
    if isinstance(error, ClientAuthenticationError):
        return told.splitlines()[0], LOG_IN
    if isinstance(error, ServiceRequestError | ServiceResponseError):
        return told, "Azure does not answer; correct the network, and run again"
    return told, ""


def refusal(error: Any) -> str:
    """As `explained`, in one line."""
    told, remedy = explained(error)
    return f"{told} ({remedy})" if remedy else told


def help_for(code: str, size: str) -> str:
    """What is to be asked for when a cluster gets no machines; "" if that is not what Azure says.

    Args:
        code: Azure's word for the reason.
        size: The machines that the cluster is of.
    """
    if code in QUOTA:
        return f"ask for more cores of {size} at the studio's Quota, or set another cluster"
    if code in CAPACITY:
        return "wait, or set a cluster of other machines or of another region"
    return ""


def storage_queue(url: str) -> Any:
    """The SDK's client of a storage queue, opened as the lake's storage account is; made once.

    Raises:
        ValueError: It is no queue's URL, or `AZURE_STORAGE_CONNECTION_STRING` is none.
    """
    return _storage_queue(url, _environment())


def blob_service() -> Any:
    """The SDK's client of the lake's storage account, for what the lake's own client does not do; made once.

    Raises:
        ValueError: `AZURE_STORAGE_CONNECTION_STRING` is none.
    """
    return _blob_service(_environment())


def _environment() -> tuple[tuple[str, str], ...]:
    return tuple(sorted(item for item in os.environ.items() if item[0].startswith(SETTINGS)))


@functools.lru_cache(maxsize=8)
def _credential(_: tuple[tuple[str, str], ...]) -> Any:
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential()


@functools.lru_cache(maxsize=8)
def _storage_queue(url: str, environment: tuple[tuple[str, str], ...]) -> Any:
    from azure.storage.queue import QueueClient

    return QueueClient.from_queue_url(url, credential=_storage_credential(environment), **STORAGE_PATIENCE)


@functools.lru_cache(maxsize=8)
def _blob_service(environment: tuple[tuple[str, str], ...]) -> Any:
    from azure.storage.blob import BlobServiceClient

    given = dict(environment)
    said = account_of(given[CONNECTION]) if given.get(CONNECTION) else {}
    name = said.get("account_name") or given.get("AZURE_STORAGE_ACCOUNT_NAME", "")
    url = said.get("endpoint") or given.get("AZURE_STORAGE_ENDPOINT") or f"https://{name}.blob.core.windows.net"
    return BlobServiceClient(url, credential=_storage_credential(environment), **STORAGE_PATIENCE)


def _storage_credential(environment: tuple[tuple[str, str], ...]) -> Any:
    """As whom the lake's storage account is asked."""
    from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential

    given = dict(environment)
    # As for the lake: a connection string goes before all else.
    said = account_of(given[CONNECTION]) if given.get(CONNECTION) else {}
    given = {} if said else given
    name = said.get("account_name") or given.get("AZURE_STORAGE_ACCOUNT_NAME", "")
    key = said.get("account_key") or given.get("AZURE_STORAGE_ACCOUNT_KEY")
    signature = said.get("sas_key") or given.get("AZURE_STORAGE_SAS_TOKEN") or given.get("AZURE_STORAGE_SAS_KEY")
    if key:
        return AzureNamedKeyCredential(name, key)
    return AzureSasCredential(signature.lstrip("?")) if signature else _credential(environment)


@functools.lru_cache(maxsize=8)
def _client(workspace: Workspace, environment: tuple[tuple[str, str], ...]) -> Any:
    # It says of classes that nobody here uses that they may change.
    logging.getLogger("azure.ai.ml._utils._experimental").setLevel(logging.ERROR)
    from azure.ai.ml import MLClient
    from azure.ai.ml._utils import _azureml_polling

    made = MLClient(
        _credential(environment), workspace.subscription, workspace.group, workspace.name,
        enable_telemetry=False, show_progress=False, retry_total=RETRIES,
    )  # fmt: skip
    # It tells on standard error what it does, takes whatever there is not for a failure, and prints a dot at each look.
    logging.getLogger("azure.ai.ml.operations").setLevel(logging.WARNING)
    logging.getLogger("azure.ai.ml._telemetry").setLevel(logging.CRITICAL)
    setattr(_azureml_polling, "print", lambda *_, **__: None)  # noqa: B010 - it has no such name to assign to
    return made


def _manager(client: Any) -> str:
    # The SDK knows which of Azure's clouds it speaks to, and has no public word for it.
    return str(client._base_url).rstrip("/")


def _token(workspace: Workspace, environment: tuple[tuple[str, str], ...]) -> str:
    scope = f"{_manager(_client(workspace, environment))}/.default"
    # Of some ways to log in each question starts a program.
    kept = _tokens.get((scope, environment))
    if kept is None or kept.expires_on < time.time() + STALE_S:
        kept = _tokens[scope, environment] = _credential(environment).get_token(scope)
    return str(kept.token)


@functools.lru_cache(maxsize=8)
def _asking(workspace: Workspace, environment: tuple[tuple[str, str], ...]) -> Any:
    from azure.core import PipelineClient
    from azure.core.pipeline.policies import BearerTokenCredentialPolicy, RetryPolicy

    base = _manager(_client(workspace, environment))
    who = BearerTokenCredentialPolicy(_credential(environment), f"{base}/.default")
    return PipelineClient(base, policies=[RetryPolicy(retry_total=RETRIES), who])


@functools.lru_cache(maxsize=8)
def _history(workspace: Workspace, environment: tuple[tuple[str, str], ...]) -> str:
    from azure.core.rest import HttpRequest

    found = _client(workspace, environment).workspaces.get(workspace.name).discovery_url
    answer = _asking(workspace, environment).send_request(HttpRequest("GET", found))
    return str(answer.json()["api"]).rstrip("/")

"""Azure ML on this machine: a workspace that the unmodified SDK talks to, and that refuses what Azure ML does.

Requests are held against the models of the interface. Whoever asks has to have a token, which the identity endpoint of
the same server gives as Azure ML gives it to a job; so `azure-identity` and `azure-ai-ml` run as they are. Jobs run
their real commands (`azureml_jobs.py`); their folders lie in an Azurite.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from fakes import blob
from fakes.azureml_assets import Assets
from fakes.azureml_batch import BatchEndpoints
from fakes.azureml_codes import Codes
from fakes.azureml_endpoints import CLIENT, Endpoints
from fakes.azureml_jobs import Jobs
from fakes.azureml_metrics import Metrics
from fakes.azureml_mlflow import Mlflow
from fakes.azureml_refusals import Refused, not_found
from fakes.azureml_rights import allowed, right_for
from fakes.azureml_shapes import NAME, Answer, named
from fakes.azureml_sweeps import Sweeps
from fakes.certificates import Certificate

SUBSCRIPTION = "00000000-1111-2222-3333-444444444444"
GROUP, WORKSPACE, LOCATION = "detection", "detection-ml", "westeurope"
TENANT = "99999999-8888-7777-6666-555555555555"
DATASTORE = "lake"
IMAGE = "detection.azurecr.io/detection-programs:1"
BATCH_IMAGE = "detection.azurecr.io/detection-batch:1"
SERVING = "detection.azurecr.io/detection-serving:1"
CLOUD = "StandIn"
ML = "https://ml.azure.in.test"
"""What a token is for that asks an endpoint of this cloud's, and not its resource manager."""
ROOT = (
    f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.MachineLearningServices"
    f"/workspaces/{WORKSPACE}"
)


@dataclass
class Cluster:
    """A compute cluster.

    Attributes:
        size: Of its machines.
        low_priority: Whether they may be taken away.
        errors: Why it has no machines now, by code; jobs are queued meanwhile.
    """

    size: str
    low_priority: bool = False
    most: int = 2
    errors: dict[str, str] = field(default_factory=dict)


class AzureML:
    """The workspace, over an Azurite.

    Attributes:
        clusters: By name.
        assets: Versions of environments, data and models.
        jobs: What was asked to run.
        mlflow: Its MLflow.
        codes: What was uploaded to be run.
        batch: Batch endpoints.
        sweeps: What was asked to be searched; trials are jobs.
        metrics: What jobs have logged to their runs.
        endpoints: What answers requests.
        calls: What was asked for, as `PUT jobs`, in order.
        silent: How many questions about jobs to come are not answered.
        denied: What whoever asks has no right to, as `PUT jobs`.
        rights: The actions that were asked for, as a role names them; one that the role of `infra/azure/template.bicep`
            does not allow is refused.
    """

    def __init__(self, folder: Path, azurite: str, certificate: Certificate) -> None:
        """Takes a folder for the jobs, the address of the Azurite, and what to say who it is with."""
        self.folder, self.azurite, self.certificate = folder, azurite, certificate
        self.url, self.root = "", ROOT
        self.clusters = {
            "cpu": Cluster("Standard_DS3_v2"),
            "gpu": Cluster("Standard_NC4as_T4_v3"),
            "spot": Cluster("Standard_NC4as_T4_v3", low_priority=True),
        }
        self.datastores = {DATASTORE: blob.CONTAINER}
        self.assets = Assets(self)
        self.jobs = Jobs(self)
        self.mlflow = Mlflow(self)
        self.codes = Codes(self)
        self.batch = BatchEndpoints(self)
        self.sweeps = Sweeps(self)
        self.metrics = Metrics(self)
        self.endpoints = Endpoints(self)
        self.calls: list[str] = []
        self.denied: set[str] = set()
        self.rights: set[str] = set()
        self.silent = 0
        self.secret = secrets.token_hex(16)
        self._tokens: dict[str, str] = {}
        self._of_servers: set[str] = set()
        self._lock = threading.RLock()

    # Who asks --------------------------------------------------------------------------------------------------------

    def token(self, query: Mapping[str, str], headers: Mapping[str, str]) -> Answer:
        """A token of the identity, as the endpoint on a machine of Azure ML's gives it: unsigned, but well-formed."""
        serves = headers.get("secret") == self.endpoints.secret
        if headers.get("secret") != self.secret and not serves:
            raise Refused(401, "Unauthorized", "the secret is missing or wrong")
        if serves and query.get("clientid") != CLIENT:
            raise Refused(400, "BadRequest", "this machine has no identity but a user-assigned one, which is not named")
        if query.get("api-version") != "2017-09-01" or not query.get("resource"):
            raise Refused(400, "BadRequest", "api-version and resource are required")
        now, resource = int(time.time()), query["resource"].rstrip("/")
        claims = {
            **{"aud": resource, "iss": f"https://sts.windows.net/{TENANT}/", "tid": TENANT, "oid": "identity"},
            **{"sub": "identity", "iat": now - 10, "nbf": now - 10, "exp": now + 3600, "jti": secrets.token_hex(8)},
        }
        made = ".".join([_part({"alg": "RS256", "typ": "JWT"}), _part(claims), _encoded(b"unsigned")])
        self._tokens[made] = resource
        if serves:
            self._of_servers.add(made)
        return (
            200,
            {"access_token": made, "expires_on": str(now + 3600), "resource": resource, "token_type": "Bearer"},
            {},
        )

    def known(self, headers: Mapping[str, str], *, ml: bool = False) -> bool:
        """Looks who asks, the resource manager or an endpoint; whether it is a server of an endpoint."""
        given = headers.get("Authorization", "").removeprefix("Bearer ")
        if self._tokens.get(given) != (ML if ml else self.url):
            raise Refused(401, "InvalidAuthenticationToken", "The access token is invalid.")
        return given in self._of_servers

    # What is asked ---------------------------------------------------------------------------------------------------

    def answer(self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: Any) -> Answer:
        """Does what is asked, or raises `Refused`."""
        for verb, pattern, act in self._routes():
            found = re.fullmatch(pattern, path)
            if verb == method and found:
                self._may(method, path, headers)
                return act(query, headers, body, *found.groups())
        raise Refused(404, "InvalidResourceType", f"nothing answers {method} {path}")

    def _may(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        """Notes which right a request asks for, and refuses it if that is none of the role's."""
        right = right_for(method, path, self.root)
        if right is None:
            return
        with self._lock:
            self.rights.add(right)
        if not allowed(right):
            self.known(headers)
            raise Refused(
                403,
                "AuthorizationFailed",
                "The client 'identity' with object id 'identity' does not have authorization to perform action "
                f"'{right}' over scope '{path}'",
            )

    def answered(self) -> Iterator[str]:
        """The actions that whoever uses all of it asks for."""
        for verb, pattern, _ in self._routes():
            # A pattern's groups are names in a path; what else it has is a path as it is written.
            path = re.sub(r"\((?:[^()\\]|\\.)*\)", "x", pattern)
            right = right_for(verb, re.sub(r"\\(.)", r"\1", path), self.root)
            if right is not None:
                yield right

    def _routes(self) -> Iterator[tuple[str, str, Callable[..., Answer]]]:
        """Everything that is answered, by method and path."""
        yield "GET", "/metadata/endpoints", lambda *_: (200, self._cloud(), {})
        yield "GET", "/discovery", lambda *_: (200, {"api": self.url, "history": self.url}, {})
        yield "GET", "/msi", lambda query, headers, *_: self.token(query, headers)
        yield "GET", "/logs/([^/]+)/(.+)", lambda query, headers, _, *key: self.jobs.log(*key, query, headers)
        for verb, what, more, act in (
            ("GET", "workspace", "", lambda _: (200, self._workspace(), {})),
            ("GET", "computes", f"/({NAME})", lambda _, name: (200, self._compute(name), {})),
            ("GET", "datastores", f"/({NAME})", lambda _, name: (200, self._datastore(name), {})),
            *self.assets.rows(),
            *self.codes.rows(),
            *self.endpoints.rows(),
            *self.batch.rows(),
            ("PUT", "jobs", "/([^/]+)", lambda body, name: self._asked(body).put(name, body)),
            ("GET", "jobs", "/([^/]+)", lambda _, name: (200, self._with(name).get(name), {})),
            ("POST", "jobs", "/([^/]+)/cancel", lambda _, name: self._with(name).cancel(name)),
        ):
            below = f"/{what}{more}" if more else ""
            yield verb, re.escape(ROOT) + below, self._authorized(f"{verb} {what}", act)
        history = re.escape(f"/history/v1.0{ROOT}/runs/")
        details = self._authorized(
            "GET runs", lambda _, name: (200, self._with(name).details(name), {}), versioned=False
        )
        yield "GET", f"{history}([^/]+)/details", details
        children = self._authorized(
            "GET runs", lambda query, name: (200, self._with(name).children(query, name), {}), versioned=False
        )
        yield "GET", f"{history}([^/]+)/children", children
        yield from self.metrics.rows()
        for verb, pattern, act in self.mlflow.rows():
            yield verb, pattern, self._authorized(f"{verb} mlflow", act, versioned=False)
        yield from self.batch.routes()
        for verb, what, path, act in (*self.endpoints.others(), *self.batch.others()):
            yield verb, path, self._authorized(f"{verb} {what}", act)
        yield "GET", r"/subscriptions/.+/workspaces/([^/]+).*", self._nowhere

    def _asked(self, body: Any) -> Jobs | Sweeps:
        return self.sweeps if (body.get("properties") or {}).get("jobType") == "Sweep" else self.jobs

    def _with(self, name: str) -> Jobs | Sweeps:
        return self.sweeps if name in self.sweeps.all else self.jobs

    def _authorized(self, what: str, act: Callable[..., Answer], *, versioned: bool = True) -> Callable[..., Answer]:
        """Looks who asks, and whether they may, before anything is done."""
        method = what.split()[0]

        def check(query: Mapping[str, str], headers: Mapping[str, str], body: Any, *groups: str) -> Answer:
            serves = self.known(headers)
            with self._lock:
                self.calls.append(what)
                silent = what in ("GET jobs", "GET runs") and self.silent > 0
                self.silent -= silent
            # What a server has of its rights on the workspace is that it is told the key.
            if silent or what in self.denied or (serves and what != "POST onlineEndpoints"):
                raise Refused(
                    403,
                    "AuthorizationFailed",
                    "The client 'identity' with object id 'identity' does not have authorization to perform action "
                    f"'Microsoft.MachineLearningServices/workspaces/{what.split()[1]}/write' over scope '{ROOT}'",
                )
            if versioned and "api-version" not in query:
                raise Refused(400, "MissingApiVersionParameter", "The api-version query parameter is required.")
            return act(query if method == "GET" else body, *groups)

        return check

    def _nowhere(self, _: Any, headers: Mapping[str, str], __: Any, workspace: str) -> Answer:
        self.known(headers)
        raise Refused(
            404,
            "ResourceNotFound",
            f"The Resource 'Microsoft.MachineLearningServices/workspaces/{workspace}' under resource group '{GROUP}' "
            "was not found.",
        )

    # What there is ---------------------------------------------------------------------------------------------------

    def _cloud(self) -> list[dict[str, Any]]:
        return [
            {
                **{"name": CLOUD, "portal": "https://portal.stand.in.test", "resourceManager": self.url},
                **{"authentication": {"loginEndpoint": self.url}, "suffixes": {"storage": "stand.in.test"}},
            }
        ]

    def _workspace(self) -> dict[str, Any]:
        properties = {
            **{"discoveryUrl": f"{self.url}/discovery", "workspaceId": SUBSCRIPTION, "friendlyName": WORKSPACE},
            "mlFlowTrackingUri": self.mlflow.uri,
        }
        return {**named(ROOT), "location": LOCATION, "kind": "Default", "properties": properties}

    def _compute(self, name: str) -> dict[str, Any]:
        cluster = self.clusters.get(name)
        if cluster is None:
            raise not_found(f"computes/{name}")
        about = {
            "vmSize": cluster.size,
            "vmPriority": "LowPriority" if cluster.low_priority else "Dedicated",
            "scaleSettings": {
                **{"minNodeCount": 0, "maxNodeCount": cluster.most, "nodeIdleTimeBeforeScaleDown": "PT120S"},
            },
            "errors": [{"error": {"code": code, "message": why}} for code, why in cluster.errors.items()],
        }
        properties = {"computeType": "AmlCompute", "provisioningState": "Succeeded", "computeLocation": LOCATION}
        return {
            **named(f"{ROOT}/computes/{name}"),
            "location": LOCATION,
            "properties": {**properties, "properties": about},
        }

    def _datastore(self, name: str) -> dict[str, Any]:
        if name not in self.datastores:
            raise not_found(f"datastores/{name}")
        properties = {
            **{"datastoreType": "AzureBlob", "accountName": blob.ACCOUNT, "containerName": self.datastores[name]},
            **{"endpoint": "core.windows.net", "protocol": "https", "credentials": {"credentialsType": "None"}},
        }
        return {**named(f"{ROOT}/datastores/{name}"), "properties": properties}

    # The server ------------------------------------------------------------------------------------------------------

    @property
    def settings(self) -> dict[str, str]:
        """What a filled `.env` says of it, on a machine that has an identity; Blob storage is told of apart."""
        return {
            **self.certificate.environment,
            "ARM_CLOUD_METADATA_URL": f"{self.url}/metadata/endpoints",
            "AZUREML_CURRENT_CLOUD": CLOUD,
            "MSI_ENDPOINT": f"{self.url}/msi",
            "MSI_SECRET": self.secret,
            "DETECTION_AZURE_SUBSCRIPTION": SUBSCRIPTION,
            "DETECTION_AZURE_RESOURCE_GROUP": GROUP,
            "DETECTION_AZURE_WORKSPACE": WORKSPACE,
            "DETECTION_AZURE_DATASTORE": DATASTORE,
            "DETECTION_AZURE_PROGRAMS_IMAGE": IMAGE,
            "DETECTION_AZURE_CPU": "cpu",
            "DETECTION_AZURE_GPU": "gpu",
            "DETECTION_AZURE_BATCH": "cpu",
            "DETECTION_AZURE_BATCH_IMAGE": BATCH_IMAGE,
            "DETECTION_AZURE_SERVING_IMAGE": SERVING,
            "DETECTION_AZURE_ENDPOINT_IDENTITY": self.endpoints.identity,
        }

    @contextmanager
    def serve(self) -> Iterator[None]:
        """Answers on a port of this machine."""
        this = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 60

            def any_method(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                asked = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(asked.query).items()}
                try:
                    scored = re.fullmatch("/scoring/([^/]+)/score", asked.path)
                    if scored is not None:
                        status, told, more = this.endpoints.score(scored[1], content, self.headers)
                    else:
                        body = json.loads(content) if content else None
                        status, told, more = this.answer(self.command, unquote(asked.path), query, self.headers, body)
                except Refused as error:
                    status, more = error.status, {}
                    told = {"error": {"code": error.code, "message": str(error), "details": []}}
                except Exception as error:
                    status, more = 500, {}
                    told = {"error": {"code": "InternalServerError", "message": f"{self.path}: {error!r}"}}
                data = told if isinstance(told, bytes) else json.dumps(told).encode() if told is not None else b""
                self.send_response(status)
                for name, value in {
                    "Content-Type": "application/json",
                    **more,
                    "Content-Length": str(len(data)),
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = any_method

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.socket = self.certificate.context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            self.url = f"https://127.0.0.1:{server.server_address[1]}"
            yield
        finally:
            self.sweeps.end()
            self.jobs.end()
            self.mlflow.end()
            self.endpoints.clear()
            server.shutdown()
            server.server_close()


def _part(told: Mapping[str, Any]) -> str:
    return _encoded(json.dumps(told).encode())


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

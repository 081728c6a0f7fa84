"""The managed online endpoints of a workspace: each instance of a deployment is a process of the real server.

A deployment's model is copied from the lake, its server is asked where its environment says until it is ready or its
time is over, and requests are drawn by the endpoint's traffic, for whoever has its key.
"""

from __future__ import annotations

import http.client
import os
import random
import re
import secrets
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fakes import servers
from fakes.azureml_refusals import Refused, not_found
from fakes.azureml_shapes import NAME, Answer, held, named
from fakes.servers import Server
from project import free_port

if TYPE_CHECKING:
    from fakes.azureml import AzureML

STARTUP_S = 60.0
"""Seconds that a server has to be ready; Azure ML gives what the probes say."""
BODY_BYTES = 10 * 2**20
SERVERS = "servers"
CLIENT = "55555555-6666-7777-8888-999999999999"
"""Client id of the servers' identity."""
SIZES = {"Standard_F4s_v2": 4, "Standard_DS3_v2": 4, "Standard_NC24ads_A100_v4": 24}
"""Cores, by the sizes that the region has."""
DURATION = re.compile(r"PT(?:(\d+)M)?(?:([\d.]+)S)?")
AZURES_SERVER = Path(__file__).parents[1] / "serving" / "azure_server.py"


@dataclass
class FakeDeployment:
    """One deployment."""

    asked: dict[str, Any]
    state: str = "Creating"
    servers: list[Server] = field(default_factory=list)
    log: Path = Path(os.devnull)

    @property
    def count(self) -> int:
        return int(self.asked["sku"]["capacity"])


@dataclass
class FakeEndpoint:
    """One endpoint."""

    name: str
    asked: dict[str, Any]
    state: str = "Creating"
    traffic: dict[str, int] = field(default_factory=dict)
    deployments: dict[str, FakeDeployment] = field(default_factory=dict)
    keys: list[str] = field(default_factory=lambda: [secrets.token_hex(24), secrets.token_hex(24)])

    @property
    def busy(self) -> bool:
        ends = ("Succeeded", "Failed")
        return self.state not in ends or any(one.state not in ends for one in self.deployments.values())


class Endpoints:
    """The endpoints of a workspace, by name.

    Attributes:
        taken: Names that somebody else in the region has.
        cores: The quota, by size.
        scaling: Settings of Azure Monitor, by name.
        takes_s: Seconds that a change of an endpoint takes.
        environment: What each server is told besides.
    """

    def __init__(self, service: AzureML) -> None:
        """Takes the workspace that they are of."""
        self.service = service
        self.all: dict[str, FakeEndpoint] = {}
        self.taken: set[str] = set()
        self.cores = {"Standard_F4s_v2": 100, "Standard_DS3_v2": 100, "Standard_NC24ads_A100_v4": 0}
        self.scaling: dict[str, dict[str, Any]] = {}
        self.environment: dict[str, str] = {}
        self.takes_s = 0.1
        self.secret = secrets.token_hex(16)
        self.operations: dict[str, dict[str, Any]] = {}
        self._every: list[Server] = []
        self._lock = threading.RLock()

    def rows(self) -> Iterator[tuple[str, str, str, Callable[..., Answer]]]:
        """What is answered below the workspace: method, kind, what follows in the path, and by what."""
        kind, one = "onlineEndpoints", f"/({NAME})"
        deployment = f"{one}/deployments/({NAME})"
        yield "PUT", kind, one, lambda body, name: self.put(name, body)
        yield "GET", kind, one, lambda _, name: (200, self._told(self._there(name)), {})
        yield "DELETE", kind, one, lambda _, name: self.delete(name)
        yield "POST", kind, f"{one}/listKeys", lambda _, name: self.list_keys(name)
        yield "GET", kind, f"{one}/deployments", lambda _, name: (200, self.list(name), {})
        yield "PUT", kind, deployment, lambda body, name, slot: self.deploy(name, slot, body)
        yield "GET", kind, deployment, lambda _, *names: (200, self._deployment(*names), {})
        yield "DELETE", kind, deployment, lambda _, *names: self.undeploy(*names)
        yield "POST", kind, f"{deployment}/getLogs", lambda body, *names: self.log(*names, body)

    def others(self) -> Iterator[tuple[str, str, str, Callable[..., Answer]]]:
        """What is answered beside the workspace: method, what it is, its path, and by what."""
        group = self.service.root.split("/providers/")[0]
        subscription = group.split("/resourceGroups/")[0]
        there = f"{re.escape(subscription)}/providers/Microsoft.MachineLearningServices/locations/[a-z0-9]+"
        yield (
            "GET",
            "operations",
            f"{there}/mfeOperationsStatus/({NAME})",
            lambda _, key: (200, self.operations[key], {}),
        )
        yield "GET", "vmSizes", f"{there}/vmSizes", lambda _: (200, self.sizes(), {})
        monitor = f"{re.escape(group)}/providers/Microsoft.Insights/autoscaleSettings/({NAME})"
        yield "PUT", "autoscaleSettings", monitor, lambda body, name: self.autoscale(name, body)
        yield (
            "DELETE",
            "autoscaleSettings",
            monitor,
            lambda _, name: (200 if self.scaling.pop(name, 0) else 204, None, {}),
        )
        yield "GET", "identities", f"({re.escape(group)}/providers/Microsoft.ManagedIdentity/.+)", self.who

    @property
    def identity(self) -> str:
        """Resource id of the servers' identity."""
        group = self.service.root.split("/providers/")[0]
        return f"{group}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{SERVERS}"

    def who(self, _: Any, path: str) -> Answer:
        """An identity."""
        if path != self.identity:
            raise Refused(404, "ResourceNotFound", f"The Resource '{path}' was not found.")
        return 200, {**named(path), "properties": {"clientId": CLIENT, "principalId": CLIENT}}, {}

    def sizes(self) -> dict[str, Any]:
        """The sizes of machines that there are."""
        about = {"gpus": 0, "osVhdSizeMB": 1, "maxResourceVolumeMB": 1, "memoryGB": 8.0, "lowPriorityCapable": True}
        found = [{"name": name, "family": "standard", "vCPUs": cores, **about} for name, cores in SIZES.items()]
        return {"value": [{**one, "premiumIO": True, "supportedComputeTypes": ["AmlCompute"]} for one in found]}

    # Endpoints -------------------------------------------------------------------------------------------------------

    def put(self, name: str, body: Any) -> Answer:
        """Makes an endpoint, or changes it."""
        if not re.fullmatch(r"[a-zA-Z](?=.{2,31}$)[-a-zA-Z0-9]*[a-zA-Z0-9]", name):
            raise Refused(
                400, "BadArgument", f"{name!r} is no name of an endpoint: 3 to 32 letters, digits and hyphens"
            )
        held("OnlineEndpoint", body)
        identity, traffic = body.get("identity") or {}, body["properties"].get("traffic") or {}
        given = set(identity.get("userAssignedIdentities") or {})
        if identity.get("type") == "UserAssigned" and given != {self.identity}:
            raise Refused(400, "FailedIdentityOperation", f"There is no identity {sorted(given)}")
        if body["properties"].get("mirrorTraffic"):
            raise Refused(400, "BadArgument", "this stand-in mirrors nothing")
        with self._lock:
            if name in self.taken:
                raise Refused(409, "Conflict", f"There is already an endpoint of the name {name} in this region.")
            endpoint = self.all.get(name)
            fresh = endpoint is None
            if endpoint is None:
                endpoint = FakeEndpoint(name, body)
            elif endpoint.busy:
                raise Refused(409, "Conflict", f"An operation on the endpoint {name} is in progress.")
            self._check_traffic(endpoint, traffic)
            self.all[name] = endpoint
            endpoint.state = "Creating" if fresh else "Updating"

            def done() -> None:
                endpoint.asked, endpoint.traffic, endpoint.state = body, dict(traffic), "Succeeded"

            return 201 if fresh else 200, self._told(endpoint), self._later(done, self.takes_s)

    def _check_traffic(self, endpoint: FakeEndpoint, traffic: Mapping[str, int]) -> None:
        if sum(traffic.values()) not in (0, 100) or any(not 0 <= share <= 100 for share in traffic.values()):
            raise Refused(400, "BadArgument", f"The traffic {traffic} has to sum to 0 or to 100.")
        for name, share in traffic.items():
            if name not in endpoint.deployments:
                raise Refused(400, "BadArgument", f"The traffic names {name}, and there is no such deployment.")
            if share and endpoint.deployments[name].state != "Succeeded":
                state = endpoint.deployments[name].state
                raise Refused(400, "BadArgument", f"The deployment {name} is {state} and cannot have traffic.")

    def delete(self, name: str) -> Answer:
        """Deletes an endpoint with its deployments."""
        with self._lock:
            endpoint = self._free(name)
            endpoint.state = "Deleting"

            def gone() -> None:
                for one in endpoint.deployments.values():
                    servers.end(one.servers)
                del self.all[name]

            return 202, None, self._later(gone, self.takes_s)

    def list_keys(self, name: str) -> Answer:
        """The keys that callers send."""
        return 200, dict(zip(("primaryKey", "secondaryKey"), self._there(name).keys, strict=True)), {}

    def _there(self, name: str) -> FakeEndpoint:
        if name not in self.all:
            raise not_found(f"onlineEndpoints/{name}")
        return self.all[name]

    def _free(self, name: str) -> FakeEndpoint:
        endpoint = self._there(name)
        if endpoint.busy:
            raise Refused(409, "Conflict", f"An operation on the endpoint {name} is in progress.")
        return endpoint

    def _told(self, endpoint: FakeEndpoint) -> dict[str, Any]:
        properties = {
            **{"authMode": endpoint.asked["properties"]["authMode"], "properties": {}, "traffic": endpoint.traffic},
            **{"mirrorTraffic": {}, "provisioningState": endpoint.state, "publicNetworkAccess": "Enabled"},
            "scoringUri": f"{self.service.url}/scoring/{endpoint.name}/score",
        }
        about = self._about(f"onlineEndpoints/{endpoint.name}")
        return {**about, "identity": endpoint.asked.get("identity"), "kind": "Managed", "properties": properties}

    def _about(self, below: str) -> dict[str, Any]:
        told = named(f"{self.service.root}/{below}")
        moment = {**told["systemData"], "lastModifiedAt": "2026-01-01T00:00:00Z"}
        return {**told, "systemData": moment, "location": "westeurope", "tags": {}}

    # Deployments -----------------------------------------------------------------------------------------------------

    def deploy(self, name: str, slot: str, body: Any) -> Answer:
        """Makes a deployment, or gives it something else to run."""
        if not re.fullmatch(r"[a-zA-Z](?=.{2,31}$)[-a-zA-Z0-9]*[a-zA-Z0-9]", slot):
            raise Refused(400, "BadArgument", f"{slot!r} is no name of a deployment")
        held("OnlineDeployment", body)
        with self._lock:
            endpoint = self._free(name)
            self._check(body)
            before = endpoint.deployments.get(slot)
            if before is not None and before.asked["properties"]["instanceType"] != body["properties"]["instanceType"]:
                raise Refused(400, "BadArgument", "The instance type of a deployment cannot be changed.")
            made = endpoint.deployments[slot] = FakeDeployment(body, "Updating" if before else "Creating")
            key = uuid.uuid4().hex
            self.operations[key] = {"id": key, "status": "InProgress"}
            threading.Thread(target=self._bring_up, args=(endpoint, slot, made, before, key), daemon=True).start()
            return 200 if before else 201, self._deployment(name, slot), self._operation(key)

    def _check(self, body: Mapping[str, Any]) -> None:
        """What Azure ML holds against a deployment, beyond its shape."""
        asked, there = body["properties"], self.service.assets.there
        if asked.get("instanceType") not in SIZES:
            raise Refused(400, "BadArgument", f"The size {asked.get('instanceType')} is not supported in this region.")
        if (body.get("sku") or {}).get("capacity", 0) < 1:
            raise Refused(400, "BadArgument", "A deployment has at least one instance.")
        for kind, given in (("environments", asked.get("environmentId")), ("models", asked.get("model"))):
            found = re.search(rf"/{kind}/([^/]+)/versions/([^/]+)$", given or "")
            if found is None or (kind, *found.groups()) not in there:
                raise Refused(400, "BadArgument", f"{given!r} of the {kind} could not be found.")
        settings = asked.get("requestSettings") or {}
        if _seconds(settings.get("requestTimeout", "PT5S")) > 180:
            raise Refused(400, "BadArgument", "requestTimeout may be 180 seconds at most.")
        code = asked.get("codeConfiguration")
        if code and not self.service.codes.of(code["codeId"]):
            raise Refused(400, "BadArgument", f"The code {code['codeId']} could not be found.")
        if not code and not self._environment(asked).get("inferenceConfig"):
            raise Refused(400, "BadArgument", "An environment without routes needs a scoring script.")

    def _environment(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._version("environments", asked["environmentId"])

    def _version(self, kind: str, path: str) -> Mapping[str, Any]:
        name, version = path.rsplit("/", 3)[1::2]
        return self.service.assets.there[kind, name, version]["properties"]

    def uses(self, path: str) -> bool:
        """Whether a deployment has a model or an environment."""
        deployments = [one.asked["properties"] for each in self.all.values() for one in each.deployments.values()]
        return any(path in (asked.get("model"), asked.get("environmentId")) for asked in deployments)

    def list(self, name: str) -> dict[str, Any]:
        """The deployments of an endpoint."""
        return {"value": [self._deployment(name, slot) for slot in list(self._there(name).deployments)]}

    def undeploy(self, name: str, slot: str) -> Answer:
        """Deletes a deployment, which must have no traffic."""
        with self._lock:
            endpoint = self._free(name)
            if slot not in endpoint.deployments:
                return 204, None, {}
            if endpoint.traffic.get(slot):
                raise Refused(400, "BadArgument", f"The deployment {slot} has traffic; set that to 0 first.")
            deployment = endpoint.deployments[slot]
            deployment.state = "Deleting"

            def gone() -> None:
                servers.end(deployment.servers)
                del endpoint.deployments[slot]
                endpoint.traffic.pop(slot, None)

            return 202, None, self._later(gone, self.takes_s)

    def log(self, name: str, slot: str, body: Mapping[str, Any]) -> Answer:
        """The last lines that a deployment's server has printed."""
        self._deployment(name, slot)
        held("DeploymentLogsRequest", body)
        lines = self.all[name].deployments[slot].log.read_text(errors="replace").splitlines()
        return 200, {"content": "\n".join(lines[-int(body["tail"]) :])}, {}

    def _deployment(self, name: str, slot: str) -> dict[str, Any]:
        endpoint = self._there(name)
        if slot not in endpoint.deployments:
            raise not_found(f"onlineEndpoints/{name}/deployments/{slot}")
        one = endpoint.deployments[slot]
        properties = {
            **one.asked["properties"], "provisioningState": one.state, "scaleSettings": {"scaleType": "Default"},
        }  # fmt: skip
        properties["properties"] = properties.get("properties") or {}
        about = self._about(f"onlineEndpoints/{name}/deployments/{slot}")
        return {**about, "sku": one.asked["sku"], "properties": properties}

    # Servers ---------------------------------------------------------------------------------------------------------

    def _bring_up(
        self, endpoint: FakeEndpoint, slot: str, made: FakeDeployment, before: FakeDeployment | None, key: str
    ) -> None:
        code, why = "", ""
        try:
            size = made.asked["properties"]["instanceType"]
            if SIZES[size] * made.count > self.cores[size]:
                code, why = "OutOfQuota", f"Not enough quota available for {size} in SubscriptionId. Current usage: 0."
            else:
                code, why = self._started(made)
        except Exception as error:
            code, why = "InternalServerError", repr(error)
        with self._lock:
            if before is not None:
                servers.end(before.servers)
            made.state = "Failed" if code else "Succeeded"
            error = {"error": {"code": code, "message": why}} if code else {}
            self.operations[key] = {"id": key, "status": made.state, **error}

    def _started(self, made: FakeDeployment) -> tuple[str, str]:
        made.servers = [self._server(made) for _ in range(made.count)]
        ends = time.monotonic() + STARTUP_S
        for one in made.servers:
            while not one.ready:
                if one.process.poll() is not None or one.hopeless or time.monotonic() > ends:
                    servers.end(made.servers)
                    return (
                        "ResourceNotReady",
                        "User container has crashed or terminated, or its readiness probe failed.",
                    )
                time.sleep(0.1)
        return "", ""

    def _server(self, made: FakeDeployment) -> Server:
        asked, service = made.asked["properties"], self.service
        folder = service.folder / f"server-{uuid.uuid4().hex[:8]}"
        uri, name = self._version("models", asked["model"])["modelUri"], asked["model"].split("/")[-3]
        uri = re.sub(r"^azureml://subscriptions/.+?/datastores/", "azureml://datastores/", uri)
        models = folder / "azureml-models" / name / asked["model"].split("/")[-1]
        target = models / uri.rstrip("/").rsplit("/", 1)[-1]
        target.mkdir(parents=True, exist_ok=True)
        service.jobs.fetch(uri, target)
        given = {name: os.environ[name] for name in ("HOME", "OMP_NUM_THREADS", "PYTHONPATH") if name in os.environ}
        env = {
            **given,
            **service.certificate.environment,
            **(asked.get("environmentVariables") or {}),
            **{"AZUREML_MODEL_DIR": str(models), "MSI_ENDPOINT": f"{service.url}/msi", "MSI_SECRET": self.secret},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            **self.environment,
        }
        made.log = folder / "log"
        routes = self._environment(asked)["inferenceConfig"]
        port, code = free_port(), asked.get("codeConfiguration")
        if code:
            service.codes.download(service.codes.of(code["codeId"]), folder / "code")
            script = folder / "code" / code["scoringScript"]
            server = servers.run([str(AZURES_SERVER), str(port), str(script)], port, made.log, env)
        else:
            server = servers.start(None, made.log, env)
        server.ready_path = routes["readinessRoute"]["path"]
        self._every.append(server)
        return server

    def clear(self) -> None:
        """Ends everything, as if nothing had ever been."""
        with self._lock:
            for one in self._every:
                one.process.kill()
                one.process.wait()
            for kept in (self._every, self.all, self.scaling, self.operations, self.taken):
                kept.clear()

    # Azure Monitor ---------------------------------------------------------------------------------------------------

    def autoscale(self, name: str, body: Any) -> Answer:
        """Sets how a deployment grows."""
        properties = body["properties"]
        target = properties["targetResourceUri"].removeprefix(f"{self.service.root}/onlineEndpoints/").split("/")
        if len(target) != 3 or target[2] not in self._there(target[0]).deployments:
            raise Refused(400, "BadRequest", f"There is no resource {properties['targetResourceUri']}")
        for profile in properties["profiles"]:
            capacity = profile["capacity"]
            if not int(capacity["minimum"]) <= int(capacity["default"]) <= int(capacity["maximum"]):
                raise Refused(400, "BadRequest", f"The capacity {capacity} makes no sense")
            for rule in profile["rules"]:
                assert rule["metricTrigger"]["metricResourceUri"] == properties["targetResourceUri"]
                assert rule["scaleAction"]["direction"] in ("Increase", "Decrease")
        self.scaling[name] = body
        return 200, body, {}

    def unscale(self, name: str) -> Answer:
        """Lets a deployment grow no more."""
        return 200 if self.scaling.pop(name, None) else 204, None, {}

    # Requests --------------------------------------------------------------------------------------------------------

    def score(self, name: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Answers a request to an endpoint: status, body, headers."""
        given = {key.lower(): value for key, value in headers.items()}
        endpoint = self._there(name)
        if given.get("authorization", "").removeprefix("Bearer ") not in endpoint.keys:
            raise Refused(401, "Unauthorized", "Key or token is invalid.")
        if len(body) > BODY_BYTES:
            raise Refused(413, "PayloadTooLarge", f"The body has more than {BODY_BYTES} bytes.")
        slot = given.get("azureml-model-deployment")
        if slot is None:
            shares = {one: share for one, share in endpoint.traffic.items() if share}
            if not shares:
                raise Refused(404, "NotFound", f"No deployment of {name} has traffic.")
            (slot,) = random.choices(list(shares), list(shares.values()))
        deployment = endpoint.deployments.get(slot)
        if deployment is None or not deployment.servers:
            raise Refused(404, "NotFound", f"{name} has no deployment {slot} that answers.")
        asked = deployment.asked["properties"]
        own = ("authorization", "azureml-model-deployment", "host", "content-length", "connection")
        handed = {key: value for key, value in given.items() if key not in own}
        route = self._environment(asked)["inferenceConfig"]["scoringRoute"]["path"]
        limit = _seconds((asked.get("requestSettings") or {}).get("requestTimeout", "PT5S"))
        try:
            status, answer, kind = random.choice(deployment.servers).ask("POST", route, body, handed, limit)
        except TimeoutError:
            raise Refused(408, "RequestTimeout", f"{slot} did not answer within {limit:g} seconds.") from None
        except (OSError, http.client.HTTPException) as error:
            raise Refused(503, "ServiceUnavailable", f"{slot} does not answer: {error!r}") from error
        more = {"Content-Type": kind, "azureml-model-deployment": slot}
        if status != 200:
            return 424, answer, {**more, "ms-azureml-model-error-statuscode": str(status)}
        return 200, answer, more

    # What takes a while ----------------------------------------------------------------------------------------------

    def _later(self, work: Callable[[], None], seconds: float) -> dict[str, str]:
        key = uuid.uuid4().hex
        self.operations[key] = {"id": key, "status": "InProgress"}

        def run() -> None:
            time.sleep(seconds)
            with self._lock:
                work()
                self.operations[key] = {"id": key, "status": "Succeeded"}

        threading.Thread(target=run, daemon=True).start()
        return self._operation(key)

    def _operation(self, key: str) -> dict[str, str]:
        subscription = self.service.root.split("/resourceGroups/")[0]
        place = f"{subscription}/providers/Microsoft.MachineLearningServices/locations/westeurope/mfeOperationsStatus"
        url = f"{self.service.url}{place}/{key}?api-version=2023-10-01"
        return {"Azure-AsyncOperation": url, "Location": url}


def _seconds(duration: str) -> float:
    found = DURATION.fullmatch(duration)
    if found is None:
        raise Refused(400, "BadArgument", f"{duration!r} is no duration")
    return 60 * float(found[1] or 0) + float(found[2] or 0)

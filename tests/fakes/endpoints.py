"""SageMaker's endpoints on this machine: each instance of a variant is a process of the real server.

A model's folder is copied from the lake, its server is asked for `/ping` until it is ready or its time is over, and
requests are drawn by weight. What is wrong is refused or undone as the service does it.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from fakes import s3, servers
from fakes.agents import Agents
from fakes.servers import Server

STARTUP_S = 60.0
"""Seconds that a server has to be ready; SageMaker gives minutes."""
BODY_BYTES = 25 * 2**20


class Refused(Exception):
    """What SageMaker answers instead."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Fleet:
    """The instances of a configuration's variants, by name."""

    config: str
    instances: dict[str, list[Server]] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)


@dataclass
class FakeEndpoint:
    """An endpoint."""

    name: str
    status: str = "Creating"
    config: str = ""
    fleet: Fleet = field(default_factory=lambda: Fleet(""))
    weights: dict[str, float] = field(default_factory=dict)
    failure: str = ""
    began: float = field(default_factory=time.time)


class Endpoints:
    """Models, configurations and endpoints of one account.

    Attributes:
        replaces: Whether an update replaces all instances, as SageMaker does, or only those of variants that changed,
            which is quicker.
        takes_s: Seconds that setting weights takes.
    """

    def __init__(self, folder: Path, moto: str, image: str, role: str, instances: Mapping[str, int]) -> None:
        self.folder, self.image, self.role, self.quota = folder, image, role, instances
        self.models: dict[str, tuple[float, Mapping[str, Any]]] = {}
        self.configs: dict[str, tuple[float, Mapping[str, Any]]] = {}
        self.endpoints: dict[str, FakeEndpoint] = {}
        self.environment: dict[str, str] = {}
        self.replaces, self.takes_s = False, 0.1
        self._agents = Agents(moto)
        self._lock = threading.RLock()
        self._all: list[Server] = []

    OPERATIONS: ClassVar[Mapping[str, str]] = {
        **{f"{verb}{kind}": kind for kind in ("Model", "EndpointConfig") for verb in ("Create", "Describe", "Delete")},
        **{"ListModels": "Model", "ListEndpointConfigs": "EndpointConfig"},
        **{f"{verb}Endpoint": "Endpoint" for verb in ("Create", "Describe", "Delete", "Update")},
        "UpdateEndpointWeightsAndCapacities": "Endpoint",
    }

    def answer(self, operation: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Does what is asked, or raises `Refused`."""
        kind = self.OPERATIONS[operation]
        with self._lock:
            if kind == "Endpoint":
                return getattr(self, f"_{operation.removesuffix('Endpoint').lower()}")(asked)
            return self._kept(operation, kind, self.models if kind == "Model" else self.configs, asked)

    # Models and configurations ---------------------------------------------------------------------------------------

    def _kept(
        self, operation: str, kind: str, those: dict[str, tuple[float, Mapping[str, Any]]], asked: Mapping[str, Any]
    ) -> dict[str, Any]:
        word = "model" if kind == "Model" else "endpoint configuration"
        if operation.startswith("List"):
            found = [
                {f"{kind}Name": name, f"{kind}Arn": self.arn(kind, name), "CreationTime": made}
                for name, (made, _) in those.items()
                if asked.get("NameContains", "") in name
            ]
            return {f"{kind}s": found}
        name = asked[f"{kind}Name"]
        if operation.startswith("Create"):
            if name in those:
                raise Refused("ValidationException", f'Cannot create already existing {word} "{self.arn(kind, name)}".')
            (self._check_model if kind == "Model" else self._check_config)(asked)
            those[name] = (time.time(), asked)
            return {f"{kind}Arn": self.arn(kind, name)}
        if name not in those:
            raise Refused("ValidationException", f'Could not find {word} "{self.arn(kind, name)}".')
        if operation.startswith("Delete"):
            # The service lets one do it and loses sight of the endpoint: never what anybody wants.
            used = {part for one in self.endpoints.values() for part in (one.config, one.fleet.config)}
            models = {model for config in used & self.configs.keys() for model in self._models_of(config)}
            if name in used | models:
                raise Refused("ValidationException", f"{name} is in use")
            del those[name]
            return {}
        return {**those[name][1], f"{kind}Arn": self.arn(kind, name), "CreationTime": those[name][0]}

    def _check_model(self, asked: Mapping[str, Any]) -> None:
        if asked.get("ExecutionRoleArn") != self.role:
            raise Refused("ValidationException", f"Could not assume role {asked.get('ExecutionRoleArn')}.")
        image = asked["PrimaryContainer"].get("Image")
        if image != self.image:
            raise Refused("ValidationException", f"Requested image {image} not found.")

    def _check_config(self, asked: Mapping[str, Any]) -> None:
        variants = asked["ProductionVariants"]
        if len({item["VariantName"] for item in variants}) != len(variants):
            raise Refused("ValidationException", "Production variant names must be unique")
        if not sum(item.get("InitialVariantWeight", 1.0) for item in variants):
            raise Refused("ValidationException", "The sum of the weights must be above 0")
        for item in variants:
            if item["ModelName"] not in self.models:
                raise Refused("ValidationException", f'Could not find model "{self.arn("Model", item["ModelName"])}".')

    def _models_of(self, config: str) -> set[str]:
        return {item["ModelName"] for item in self.configs[config][1]["ProductionVariants"]}

    # Endpoints -------------------------------------------------------------------------------------------------------

    def _create(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        name, config = asked["EndpointName"], asked["EndpointConfigName"]
        if name in self.endpoints:
            raise Refused(
                "ValidationException", f'Cannot create already existing endpoint "{self.arn("Endpoint", name)}".'
            )
        self._affordable(config)
        endpoint = self.endpoints[name] = FakeEndpoint(name, config=config)
        self._later(lambda: self._bring_up(endpoint, config))
        return {"EndpointArn": self.arn("Endpoint", name)}

    def _update(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        endpoint = self._changeable(asked["EndpointName"])
        self._affordable(asked["EndpointConfigName"])
        endpoint.status, endpoint.failure = "Updating", ""
        self._later(lambda: self._bring_up(endpoint, asked["EndpointConfigName"]))
        return {"EndpointArn": self.arn("Endpoint", endpoint.name)}

    def _updateendpointweightsandcapacities(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        endpoint = self._changeable(asked["EndpointName"])
        wanted = {item["VariantName"]: item["DesiredWeight"] for item in asked["DesiredWeightsAndCapacities"]}
        for name in wanted:
            if name not in endpoint.weights:
                raise Refused("ValidationException", f"Could not find variant {name} in endpoint {endpoint.name}")
        if not sum({**endpoint.weights, **wanted}.values()):
            raise Refused("ValidationException", "The sum of the weights must be above 0")
        endpoint.status = "Updating"

        def set_weights() -> None:
            time.sleep(self.takes_s)
            with self._lock:
                endpoint.weights.update(wanted)
                endpoint.status = "InService"

        self._later(set_weights)
        return {"EndpointArn": self.arn("Endpoint", endpoint.name)}

    def _describe(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        endpoint = self._there(asked["EndpointName"])
        told: dict[str, Any] = {
            "EndpointName": endpoint.name,
            "EndpointArn": self.arn("Endpoint", endpoint.name),
            "EndpointConfigName": endpoint.config,
            "EndpointStatus": endpoint.status,
            "CreationTime": endpoint.began,
            "LastModifiedTime": time.time(),
        }
        if endpoint.weights:
            told["ProductionVariants"] = [
                {
                    "VariantName": name,
                    "CurrentWeight": weight,
                    "DesiredWeight": weight,
                    "CurrentInstanceCount": len(endpoint.fleet.instances[name]),
                    "DesiredInstanceCount": len(endpoint.fleet.instances[name]),
                }
                for name, weight in endpoint.weights.items()
            ]
        return told | ({"FailureReason": endpoint.failure} if endpoint.failure else {})

    def _delete(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        endpoint = self._there(asked["EndpointName"])
        if endpoint.status in ("Creating", "Updating"):
            raise Refused("ValidationException", f"Cannot update in-progress endpoint {endpoint.name}")
        del self.endpoints[endpoint.name]
        self._later(lambda: self._end(endpoint.fleet))
        return {}

    def _there(self, name: str) -> FakeEndpoint:
        if name not in self.endpoints:
            raise Refused("ValidationException", f'Could not find endpoint "{self.arn("Endpoint", name)}".')
        return self.endpoints[name]

    def _changeable(self, name: str) -> FakeEndpoint:
        endpoint = self._there(name)
        if endpoint.status != "InService":
            raise Refused("ValidationException", f'Cannot update in-progress endpoint "{self.arn("Endpoint", name)}".')
        return endpoint

    def _affordable(self, config: str) -> None:
        if config not in self.configs:
            where = self.arn("EndpointConfig", config)
            raise Refused("ValidationException", f'Could not find endpoint configuration "{where}".')
        for item in self.configs[config][1]["ProductionVariants"]:
            kind, count = item["InstanceType"], item["InitialInstanceCount"]
            if count > self.quota.get(kind, 0):
                raise Refused(
                    "ResourceLimitExceeded",
                    f"The account-level service limit '{kind} for endpoint usage' is {self.quota.get(kind, 0)} "
                    f"Instances, with current utilization of 0 Instances and a request delta of {count} Instances. "
                    "Please use AWS Service Quotas to request an increase for this quota.",
                )

    # Instances -------------------------------------------------------------------------------------------------------

    def _bring_up(self, endpoint: FakeEndpoint, config: str) -> None:
        """Starts what is new beside what is there, and takes its place only if all of it is ready."""
        variants = self.configs[config][1]["ProductionVariants"]
        before, fleet, fresh = endpoint.fleet, Fleet(config), []
        try:
            for item in variants:
                name, model = item["VariantName"], item["ModelName"]
                fleet.models[name] = model
                if not self.replaces and before.models.get(name) == model:
                    fleet.instances[name] = before.instances[name]
                    continue
                fleet.instances[name] = [self.start(model) for _ in range(item["InitialInstanceCount"])]
                fresh += [(name, one) for one in fleet.instances[name]]
            ends = time.monotonic() + STARTUP_S
            for name, one in fresh:
                while not one.ready:
                    if one.process.poll() is not None or one.hopeless or time.monotonic() > ends:
                        raise RuntimeError(
                            f"The primary container for production variant {name} did not pass the ping health check. "
                            "Please check CloudWatch logs for this endpoint."
                        )
                    time.sleep(0.1)
        except Exception as error:
            self._end(Fleet(config, {name: [one for other, one in fresh if other == name] for name, _ in fresh}))
            with self._lock:
                endpoint.failure = str(error)
                endpoint.status = "InService" if before.config else "Failed"
            return
        with self._lock:
            endpoint.fleet, endpoint.config, endpoint.status = fleet, config, "InService"
            endpoint.weights = {item["VariantName"]: item.get("InitialVariantWeight", 1.0) for item in variants}
        kept = {id(one) for those in fleet.instances.values() for one in those}
        self._end(
            Fleet("", {name: [o for o in those if id(o) not in kept] for name, those in before.instances.items()})
        )

    def start(self, model: str, **told: str) -> Server:
        """Starts a server with a model, which is told of where it runs by its environment."""
        container = self.models[model][1]["PrimaryContainer"]
        folder = self.folder / f"{model}-{uuid.uuid4().hex[:8]}"
        if "ModelDataUrl" in container:
            self._agents.unpack(container["ModelDataUrl"], folder / "model")
        else:
            self._agents.copy_in(folder / "model", container["ModelDataSource"]["S3DataSource"])
        environment = {**self.environment, **container.get("Environment", {}), **told}
        instance = servers.start(folder / "model", folder / "log", environment)
        self._all.append(instance)
        return instance

    def _end(self, fleet: Fleet) -> None:
        self.end([one for each in fleet.instances.values() for one in each])

    def end(self, those: Sequence[Server]) -> None:
        """Ends servers, which answer what they have begun with."""
        servers.end(those)

    def clear(self) -> None:
        """Ends everything, as if nothing had ever been."""
        with self._lock:
            for one in self._all:
                one.process.kill()
                one.process.wait()
            for kept in (self._all, self.endpoints, self.configs, self.models):
                kept.clear()

    # Requests --------------------------------------------------------------------------------------------------------

    def invoke(self, name: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes, dict[str, str]]:
        """Answers a request to an endpoint: status, body, headers."""
        given = {key.lower(): value for key, value in headers.items()}
        endpoint = self.endpoints.get(name)
        if endpoint is None or endpoint.status in ("Creating", "Failed"):
            return _error(400, "ValidationError", f"Endpoint {name} of account {s3.REGION} not found.")
        if len(body) > BODY_BYTES:
            return _error(413, "ValidationError", f"Request body is longer than {BODY_BYTES} bytes")
        variant = given.get("x-amzn-sagemaker-target-variant")
        if variant is None:
            names = list(endpoint.weights)
            (variant,) = random.choices(names, [endpoint.weights[one] for one in names])
        elif variant not in endpoint.weights:
            return _error(400, "ValidationError", f"Variant {variant} not found for Endpoint {name}")
        kept = {"Content-Type": given.get("content-type", ""), "Accept": given.get("accept", "*/*")}
        attributes = given.get("x-amzn-sagemaker-custom-attributes")
        if attributes is not None:
            kept["X-Amzn-SageMaker-Custom-Attributes"] = attributes
        instance = random.choice(endpoint.fleet.instances[variant])
        try:
            status, answer, kind = instance.ask("POST", "/invocations", body, kept)
        except (OSError, http.client.HTTPException) as error:
            status, answer, kind = 500, str(error).encode(), "text/plain"
        if status != 200:
            said = answer.decode(errors="replace")
            message = f'Received client error ({status}) from primary with message "{said}".'
            return _error(
                424, "ModelError", message, OriginalStatusCode=status, OriginalMessage=said, LogStreamArn="arn:aws:logs"
            )
        return 200, answer, {"Content-Type": kind, "x-Amzn-Invoked-Production-Variant": variant}

    def arn(self, kind: str, name: str) -> str:
        """The ARN of a model, a configuration or an endpoint."""
        word = {"Model": "model", "EndpointConfig": "endpoint-config", "Endpoint": "endpoint"}[kind]
        return f"arn:aws:sagemaker:{s3.REGION}:123456789012:{word}/{name.lower()}"

    def _later(self, work: Callable[[], None]) -> None:
        threading.Thread(target=work, daemon=True).start()


def _error(status: int, code: str, message: str, **more: Any) -> tuple[int, bytes, dict[str, str]]:
    told = {"Code": code, "Message": message, **more}
    return status, json.dumps(told).encode(), {"Content-Type": "application/json", "x-amzn-errortype": code}

"""One managed online endpoint of Azure ML, call by call: deployments, models, traffic, scaling.

What is refused comes out as `EndpointError`, with what to do about it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from detection_assets import object_store
from resources import microsoft
from resources.endpoints.base import EndpointError
from resources.microsoft_calls import by_requests, told

BUSY = frozenset(["Creating", "Updating", "Scaling", "Deleting"])
"""What Azure ML says of an endpoint or a deployment that takes no change now."""
SERVES = frozenset(["Succeeded", "Scaling"])
QUOTA = ("OutOfQuota", "QuotaExceeded", "OutOfCapacity", "Not enough quota", "SkuNotAvailable")
"""Words of a refusal for want of machines."""
CONTAINER = {
    "liveness_route": {"port": 8080, "path": "/healthz"},
    "readiness_route": {"port": 8080, "path": "/ping"},
    "scoring_route": {"port": 8080, "path": "/score"},
}
"""Where our server answers in its container."""
SCRIPT = {
    "liveness_route": {"port": 5001, "path": "/"},
    "readiness_route": {"port": 5001, "path": "/"},
    "scoring_route": {"port": 5001, "path": "/score"},
}
"""Where Azure ML's own server does, once it has run the entry script."""
ENTRY = "score.py"
LINES = 20
"""Last lines of a log that go into a reason."""
SCALING = "2022-10-01"
"""Version of Azure Monitor's interface."""


def name_of(workspace: microsoft.Workspace, detector: str) -> str:
    """The name of a detector's endpoint: nobody else's in the region, whatever another workspace calls its detectors.

    Endpoints' names have 3 to 32 letters, digits and hyphens.
    """
    digest = hashlib.sha256(f"{workspace.path}/{detector}".lower().encode()).hexdigest()[:6]
    plain = re.sub(r"[^a-z0-9]+", "-", f"detection-{detector}".lower())
    return f"{plain[:25].rstrip('-')}-{digest}"


@dataclass
class Hosting:
    """An endpoint of Azure ML's.

    Attributes:
        workspace: Where it is.
        name: The endpoint's name.
        identity: Resource id of the user-assigned identity that the servers have.
        environment: The image that serves.
        script: Whether Azure ML's own server runs our entry script in it, instead of our server.
        instance: Size of each server.
        count: Instances of each deployment, at least.
        most: Instances of a deployment with traffic, at most.
        per_minute: Requests a minute that one instance is to have, where `most` is above `count`.
        concurrent: Requests that one instance is given at a time.
        timeout_s: Seconds that a request may take.
        wait_s: Seconds that it may wait before it is given to an instance.
        insights: Whether what servers print goes to Application Insights.
        tags: Tags of all that is made.
    """

    workspace: microsoft.Workspace
    name: str
    identity: str
    environment: str
    script: bool
    instance: str
    count: int
    most: int
    per_minute: int
    concurrent: int
    timeout_s: float
    wait_s: float
    insights: bool
    tags: Mapping[str, str]
    _client_id: str = ""
    _address: str = ""
    _operations: dict[str, str] = field(default_factory=dict)
    _reasons: dict[str, str] = field(default_factory=dict)

    # Looking ---------------------------------------------------------------------------------------------------------

    def endpoint(self) -> Any | None:
        """The endpoint as it is; None if there is none."""
        with told("tell of the endpoint"):
            found = microsoft.there(lambda: self.workspace.client.online_endpoints.get(self.name))
        if found is not None:
            self._address = found.scoring_uri or self._address
        return found

    def deployments(self) -> Sequence[Any]:
        """The deployments as they are; none of an endpoint that has gone since it was looked at."""
        with told("tell of the deployments"):
            return microsoft.there(lambda: list(self.workspace.client.online_deployments.list(self.name))) or []

    @property
    def address(self) -> str:
        """Where it answers, or would."""
        if not self._address and self.endpoint() is None:
            with told("tell of the workspace"):
                location = self.workspace.client.workspaces.get(self.workspace.name).location
            return f"https://{self.name}.{location}.inference.ml.azure.com/score"
        return self._address

    def reason(self, slot: str, deployment: str) -> str:
        """Why a deployment has failed: what Azure ML says, and the last lines that its servers have printed."""
        from azure.core.exceptions import AzureError

        if deployment not in self._reasons:
            said = []
            try:
                if operation := self._operations.get(deployment):
                    error = self.workspace.ask("GET", operation).get("error") or {}
                    said.append(f"{error.get('code', '')}: {error.get('message', '')}".strip(": "))
                log = self.workspace.client.online_deployments.get_logs(slot, self.name, LINES)
                said.append("; ".join(line.strip() for line in log.splitlines()[-LINES:] if line.strip()))
            except AzureError as error:
                said.append(f"its log cannot be read: {microsoft.refusal(error)}")
            self._reasons[deployment] = self._helped(". ".join(filter(None, said)) or "Azure ML does not say why")
        return self._reasons[deployment]

    def _helped(self, said: str) -> str:
        if any(word in said for word in QUOTA):
            return (
                f"{said} (ask for more cores of {self.instance} for endpoints at the studio's Quota, or set "
                "DETECTION_AZURE_ENDPOINT to another size)"
            )
        return said

    # Changing --------------------------------------------------------------------------------------------------------

    def open(self, traffic: Mapping[str, int] | None = None) -> bool:
        """Makes the endpoint, or sets its traffic; False if somebody else changes it just now."""
        from azure.ai.ml.entities import IdentityConfiguration, ManagedIdentityConfiguration, ManagedOnlineEndpoint

        servers = [ManagedIdentityConfiguration(resource_id=self.identity)]
        wanted = ManagedOnlineEndpoint(
            name=self.name,
            auth_mode="key",
            identity=IdentityConfiguration(type="user_assigned", user_assigned_identities=servers),
            traffic=dict(traffic or {}),
            tags=dict(self.tags),
        )
        endpoints = self.workspace.client.online_endpoints
        if self._unless_overtaken("set the traffic" if traffic else "make the endpoint", endpoints, wanted) is not None:
            return True
        if self.endpoint() is None:
            raise EndpointError(
                f"Azure ML refuses to make the endpoint {self.name}: somebody else in this region has one of that "
                "name; delete it, or call the detector something else"
            )
        return False

    def deploy(self, slot: str, deployment: str, place: str, count: int) -> bool:
        """Makes a deployment that loads a folder of the lake; False if somebody else changes the endpoint just now.

        Args:
            slot: The deployment's name in Azure ML.
            deployment: The model's.
            place: The folder as the workspace calls it.
            count: Its instances.
        """
        from azure.ai.ml.entities import (
            CodeConfiguration,
            Environment,
            ManagedOnlineDeployment,
            Model,
            OnlineRequestSettings,
            ProbeSettings,
        )

        with told("register the model"):
            model = self.workspace.client.models.create_or_update(
                Model(name=deployment, version="1", path=place, type="custom_model", tags=dict(self.tags))
            )
        with TemporaryDirectory() as folder:
            if self.script:
                # The image has the module; Azure ML wants a file of its own that has the two functions.
                (Path(folder) / ENTRY).write_text(
                    "from detection_assets.serving.score import init, run  # noqa: F401\n"
                )
            wanted = ManagedOnlineDeployment(
                name=slot,
                endpoint_name=self.name,
                model=model.id,
                environment=Environment(image=self.environment, inference_config=SCRIPT if self.script else CONTAINER),
                code_configuration=CodeConfiguration(code=folder, scoring_script=ENTRY) if self.script else None,
                environment_variables={**object_store.account(), **self._who()},
                instance_type=self.instance,
                instance_count=count,
                app_insights_enabled=self.insights,
                request_settings=OnlineRequestSettings(
                    max_concurrent_requests_per_instance=self.concurrent,
                    request_timeout_ms=int(self.timeout_s * 1000),
                    max_queue_wait_ms=int(self.wait_s * 1000),
                ),
                liveness_probe=ProbeSettings(initial_delay=30, period=10, timeout=5, failure_threshold=6),
                readiness_probe=ProbeSettings(initial_delay=5, period=5, timeout=5, failure_threshold=60),
                tags=dict(self.tags),
            )
            begun = self._unless_overtaken("deploy", self.workspace.client.online_deployments, wanted)
        if begun is None:
            return False
        # The SDK has no public word for where it asks how that goes on, and its own answer is of this process alone.
        initial = getattr(begun.polling_method(), "_initial_response", None)
        headers = getattr(getattr(initial, "http_response", None), "headers", {})
        self._operations[deployment] = str(headers.get("Azure-AsyncOperation", ""))
        return True

    def _who(self) -> dict[str, str]:
        """By which identity the servers ask for tokens: of several that a container might have it has to be named."""
        if not self._client_id:
            with told("tell of the servers' identity"):
                self._client_id = self.workspace.identity(self.identity)
        return {"DEFAULT_IDENTITY_CLIENT_ID": self._client_id, "AZURE_CLIENT_ID": self._client_id}

    def remove(self, slot: str) -> bool:
        """Begins to delete a deployment; False if somebody else changes the endpoint just now."""
        deployments = self.workspace.client.online_deployments
        return self._begun("delete the deployment", lambda: deployments.begin_delete(slot, self.name)) is not None

    def delete(self) -> bool:
        """Begins to delete the endpoint; False if somebody else changes it just now."""
        endpoints = self.workspace.client.online_endpoints
        return self._begun("delete the endpoint", lambda: endpoints.begin_delete(self.name)) is not None

    def forget(self, deployment: str) -> None:
        """Deletes the model of a deployment that is gone."""
        with told("delete a model that nobody uses"):
            path = f"{self.workspace.path}/models/{deployment}/versions/1?{microsoft.API}"
            self.workspace.ask("DELETE", path, missing=True)

    def scale(self, slot: str, *, active: bool) -> None:
        """Has Azure Monitor add and remove instances of a deployment with traffic, and of no other."""
        if self.most <= self.count:
            return
        group = self.workspace.path.partition("/providers/")[0]
        path = f"{group}/providers/Microsoft.Insights/autoscaleSettings/{self.name}-{slot}?api-version={SCALING}"
        with told("set the endpoint's scaling"):
            if not active:
                self.workspace.ask("DELETE", path, missing=True)
                return
            location = self.workspace.client.workspaces.get(self.workspace.name).location
            target = f"{self.workspace.path}/onlineEndpoints/{self.name}/deployments/{slot}"
            properties = by_requests(target, self.count, self.most, self.per_minute)
            self.workspace.ask("PUT", path, {"location": location, "properties": properties})

    # What changes takes a while, and others change things as well ----------------------------------------------------

    def _unless_overtaken(self, what: str, operations: Any, wanted: Any) -> Any | None:
        return self._begun(what, lambda: operations.begin_create_or_update(wanted))

    def _begun(self, what: str, begin: Any) -> Any | None:
        """Begins what takes a while; None if somebody else's change is not over yet."""
        from azure.core.exceptions import HttpResponseError

        try:
            with told(what):
                try:
                    return begin()
                except HttpResponseError as error:
                    if error.status_code == 409:
                        return None
                    raise
        except EndpointError as error:
            raise EndpointError(self._helped(str(error))) from error

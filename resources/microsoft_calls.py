"""What is asked of an online endpoint of Azure ML beside its making: answers, keys, and a rule for its scaling."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from resources import microsoft
from resources.endpoints.base import EndpointError

NAMED = "azureml-model-deployment"
"""The header by which a caller names a deployment."""
STATUS = "ms-azureml-model-error-statuscode"
"""The header with the server's own status, where Azure ML makes 424 of it."""
ANSWER_S = 60.0


@dataclass
class Caller:
    """Who asks an endpoint as any client does, with its key.

    Attributes:
        workspace: Where it is.
        name: The endpoint's name.
    """

    workspace: microsoft.Workspace
    name: str
    _key: str = ""

    def invoke(self, address: str, slot: str | None, image: bytes) -> Mapping[str, Any]:
        """Sends one picture; what names a deployment names the slot to the server as well, which takes it for a trial.

        Raises:
            EndpointError: It was refused, with the server's own status.
        """
        named = {NAMED: slot, "X-Detection-Slot": slot} if slot else {}
        kinds = {"Content-Type": "application/octet-stream", "Accept": "application/json"}
        for fresh in (False, True):
            headers = {**kinds, **named, "Authorization": f"Bearer {self.key(fresh=fresh)}"}
            request = urllib.request.Request(address, data=image, headers=headers, method="POST")
            try:
                with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
                    return orjson.loads(answer.read())
            except urllib.error.HTTPError as error:
                said = error.read().decode(errors="replace")[:500]
                if error.code == 401 and not fresh:
                    continue  # somebody has made new keys
                status = error.headers.get(STATUS, error.code)
                raise EndpointError(f"{self.name} answered {status}: {said}") from error
            except OSError as error:
                raise EndpointError(f"{self.name} did not answer: {error}") from error
        raise AssertionError("the second time is the last")

    def key(self, *, fresh: bool = False) -> str:
        """The key that callers send."""
        if fresh or not self._key:
            with told("tell the endpoint's key"):
                self._key = str(self.workspace.client.online_endpoints.get_keys(self.name).primary_key)
        return self._key

    @property
    def keys(self) -> str:
        """Where whoever may is told the key."""
        return self.workspace.address(f"/onlineEndpoints/{self.name}/listKeys?{microsoft.API}")


def by_requests(target: str, least: int, most: int, per_minute: int) -> dict[str, Any]:
    """What Azure Monitor has to know to add and remove instances by their requests.

    Args:
        target: Resource id of the deployment.
        least: Its instances at least.
        most: Its instances at most.
        per_minute: Requests a minute that one instance is to have.
    """

    def rule(direction: str, operator: str, threshold: float) -> dict[str, Any]:
        # By the minute, over five: what a rush of seconds asks for would come when it is over.
        trigger = {
            **{"metricName": "RequestsPerMinute", "metricResourceUri": target, "dividePerInstance": True},
            **{"timeGrain": "PT1M", "timeWindow": "PT5M", "statistic": "Average", "timeAggregation": "Average"},
            **{"operator": operator, "threshold": threshold},
        }
        action = {"direction": direction, "type": "ChangeCount", "value": "1", "cooldown": "PT5M"}
        return {"metricTrigger": trigger, "scaleAction": action}

    profile = {
        "name": "requests",
        "capacity": {"minimum": str(least), "maximum": str(most), "default": str(least)},
        # Fewer only where one instance fewer can do it.
        "rules": [
            rule("Increase", "GreaterThan", float(per_minute)),
            rule("Decrease", "LessThan", per_minute / 2),
        ],
    }
    return {"enabled": True, "targetResourceUri": target, "profiles": [profile]}


@contextmanager
def told(what: str) -> Iterator[None]:
    """Makes an `EndpointError` of what Azure refuses.

    Args:
        what: What is tried.
    """
    from azure.ai.ml.exceptions import MlException
    from azure.core.exceptions import AzureError

    try:
        yield
    except (AzureError, MlException) as error:
        raise EndpointError(f"Azure ML refuses to {what}: {microsoft.refusal(error)}") from error

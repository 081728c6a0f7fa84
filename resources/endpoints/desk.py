"""What a managed endpoint's servers load, are told and tell, through the lake: the same for every cloud.

    endpoint/asked.json                            what the service was asked for last
    endpoint/orders.json                           which requests to keep, and which to show to another slot
    endpoint/models/<deployment>/                  the model, and `serving.json` with what is known about it
    endpoint/reports/<deployment>/<server>.json    what each server has counted, those that have ended included

The servers' side is `detection_assets.serving.reports`.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from detection_assets.domain import layout
from detection_assets.domain.rollout import NO_HEALTH, Health
from resources.endpoints.base import EndpointError
from resources.storage import Storage


@dataclass
class Desk:
    """The desk of one detector's endpoint.

    Attributes:
        storage: The detector's storage.
    """

    storage: Storage
    _abouts: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    # What is loaded --------------------------------------------------------------------------------------------------

    def place(self, deployment: str, onnx: str, about: Mapping[str, Any]) -> str:
        """Puts what the servers of a deployment load beside one another, and returns the folder's key.

        Args:
            deployment: The deployment's name, which nothing else has had.
            onnx: Storage key of the model.
            about: What `serving.json` is to say of it.
        """
        folder = self.folder(deployment)
        self.storage.put(f"{folder}/best.onnx", self.storage.get(onnx))
        told = {**about, "deployment": deployment, "desk": self.storage.uri_of(layout.ENDPOINT)}
        self.storage.put(f"{folder}/serving.json", orjson.dumps(told))
        return folder

    def folder(self, deployment: str) -> str:
        """Key of the folder with what the servers of a deployment load."""
        return layout.deployment(deployment)

    def about(self, deployment: str) -> Mapping[str, Any]:
        """What was said of a deployment when it was placed, which never changes.

        Raises:
            EndpointError: Nothing was, in this lake.
        """
        if deployment not in self._abouts:
            key = f"{layout.deployment(deployment)}/serving.json"
            try:
                self._abouts[deployment] = orjson.loads(self.storage.get(key))
            except FileNotFoundError:
                raise EndpointError(
                    f"the endpoint holds {deployment}, and {self.storage.uri_of(key)} is missing: it is of another "
                    "lake, or was made by hand; delete it, or correct DETECTION_LAKE"
                ) from None
        return self._abouts[deployment]

    def forget(self, deployment: str) -> None:
        """Deletes what a deployment that is gone has left."""
        self.storage.delete(layout.deployment(deployment))
        self.storage.delete(layout.reports(deployment))

    def left(self, kept: Iterable[str], older_s: float) -> list[str]:
        """The deployments that lie here for longer than some seconds although nobody has a use for them."""
        prefix, before = layout.deployment(""), time.time() - older_s
        found = {item.key.removeprefix(prefix).split("/")[0]: item.written for item in self.storage.list(prefix)}
        return [name for name, written in found.items() if name not in set(kept) and written < before]

    # What was asked for ----------------------------------------------------------------------------------------------

    def asked(self) -> dict[str, Any]:
        """What the service was asked for last; empty if it was not."""
        return self._read(layout.ENDPOINT_ASKED)

    def note(self, **changes: Any) -> None:
        """Writes down what the service is asked for."""
        self.storage.put(layout.ENDPOINT_ASKED, orjson.dumps({**self.asked(), **changes}))

    def asked_nothing(self) -> None:
        """There is no endpoint any more."""
        self.storage.delete(layout.ENDPOINT_ASKED)

    # What the servers are told, and tell -----------------------------------------------------------------------------

    def orders(self) -> dict[str, Any]:
        """What the servers are to do beside answering; empty if nobody ever ordered anything."""
        return self._read(layout.ENDPOINT_ORDERS)

    def order(self, **changes: Any) -> None:
        """Changes what the servers are to do."""
        before = self.orders()
        after = {"shadow": None, "capture": None, **before, **changes}
        if after != before:
            self.storage.put(layout.ENDPOINT_ORDERS, orjson.dumps(after))

    def refusal(self, deployment: str) -> str:
        """Why a server of a deployment did not load its model, as it says itself; "" if none says so."""
        return next((str(told["error"]) for told in self._reports(deployment) if told["state"] == "failed"), "")

    def health(self, deployment: str, others: Iterable[str]) -> Health | None:
        """What the servers of a deployment have counted; None before the first of them has loaded its model.

        Args:
            deployment: The deployment.
            others: Those whose servers may have shown requests to it.
        """
        counted = [Health.of(told["statistics"]) for told in self._reports(deployment) if told.get("statistics")]
        if not counted:
            return None
        total = NO_HEALTH
        for one in counted:
            total = total.plus(one)
        shown = [
            told["shown"][deployment]
            for other in others
            for told in self._reports(other)
            if deployment in told.get("shown", {})
        ]
        # Servers come and go; the counters began with the first.
        return replace(
            total,
            since=min(one.since for one in counted),
            compared=total.compared + sum(int(count["compared"]) for count in shown),
            agreed=total.agreed + sum(int(count["agreed"]) for count in shown),
        )

    def _reports(self, deployment: str) -> list[dict[str, Any]]:
        keys = [item.key for item in self.storage.list(layout.reports(deployment))]
        return [orjson.loads(data) for data in self.storage.get_many(keys) if data is not None]

    def _read(self, key: str) -> dict[str, Any]:
        try:
            return orjson.loads(self.storage.get(key))
        except FileNotFoundError:
            return {}

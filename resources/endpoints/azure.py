"""An endpoint on Azure ML: a managed online endpoint whose deployments are the slots, with shares of its traffic."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import PrivateAttr

from resources import microsoft
from resources.endpoints.base import EndpointError
from resources.endpoints.managed import Held, ManagedEndpoints, Seen
from resources.findings import Finding
from resources.microsoft_calls import Caller
from resources.microsoft_hosting import BUSY, SERVES, Hosting, name_of

OLD_S = 3600.0
"""Models that nobody uses are deleted after so many seconds; before, somebody may be about to."""
IDENTITY = "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"


class AzureEndpoints(ManagedEndpoints):
    """A managed online endpoint with a deployment a slot.

    Attributes:
        subscription: Id of the subscription.
        group: Name of the resource group.
        workspace: Name of the workspace.
        datastore: The workspace's name for the container that the lake is in.
        identity: Resource id of the user-assigned identity that the servers have.
        script: Whether Azure ML's own server runs our entry script, instead of our server; then nobody counts the
            requests, and none are kept or mirrored.
        concurrent: Requests that one instance is given at a time; our server refuses what is too much for it.
        timeout_s: Seconds that a request may take.
        wait_s: Seconds that a request may wait before it is given to an instance.
        insights: Whether what the servers print goes to the workspace's Application Insights.
    """

    subscription: str
    group: str
    workspace: str
    datastore: str
    identity: str
    instance: str = "Standard_F4s_v2"
    script: bool = False
    concurrent: int = 8
    timeout_s: float = 60.0
    wait_s: float = 5.0
    insights: bool = True
    _hosting: Hosting | None = PrivateAttr(default=None)
    _caller: Caller | None = PrivateAttr(default=None)

    @property
    def ml(self) -> microsoft.Workspace:
        """The workspace."""
        return microsoft.Workspace(self.subscription, self.group, self.workspace)

    @property
    def name(self) -> str:
        """The endpoint's name, which nobody else in the region has."""
        return name_of(self.ml, self.detector)

    @property
    def hosting(self) -> Hosting:
        """Azure ML's part of the endpoint."""
        self._hosting = self._hosting or Hosting(
            *(self.ml, self.name, self.identity, self.image, self.script),
            *(self.instance, self.count, self.most, self.per_minute),
            *(self.concurrent, self.timeout_s, self.wait_s, self.insights, {"detector": self.detector}),
        )
        return self._hosting

    @property
    def caller(self) -> Caller:
        """Who asks it as any client does."""
        self._caller = self._caller or Caller(self.ml, self.name)
        return self._caller

    @property
    def url(self) -> str:
        """Where the endpoint answers whoever has its key."""
        return self.hosting.address

    def how_to_ask(self) -> Sequence[str]:
        """A command of Azure's for the key, and the request."""
        return [
            f"KEY=$(az ml online-endpoint get-credentials --name {self.name} --workspace-name {self.workspace} "
            f"--resource-group {self.group} --query primaryKey --output tsv)",
            f'curl -H "Authorization: Bearer $KEY" -H "Content-Type: image/jpeg" --data-binary @a.jpg {self.url}',
        ]

    def check(self) -> Iterator[Finding]:
        """Looks at the servers' identity, and whether there are machines of the size."""
        from azure.core.exceptions import AzureError

        what, remedy = "identity of servers", "set DETECTION_AZURE_ENDPOINT_IDENTITY to the resource id of one"
        if IDENTITY not in self.identity:
            yield Finding(what, "bad", f"{self.identity} is no resource id of a user-assigned identity", remedy)
        else:
            try:
                yield Finding(what, "good", f"{self.identity.rpartition('/')[2]}: {self.ml.identity(self.identity)}")
            except AzureError as error:
                told, help_ = microsoft.explained(error)
                missing = microsoft.code_of(error) in microsoft.NOWHERE
                state = "bad" if missing else "unknown"
                yield Finding(what, state, told, remedy if missing else help_)
        yield self._size()

    def _size(self) -> Finding:
        from azure.core.exceptions import AzureError

        what, slots = "machines of servers", self.count + max(self.count, self.most)
        try:
            sizes = {str(one.name).lower(): one for one in self.ml.client.compute.list_sizes()}
        except AzureError as error:
            if microsoft.code_of(error) in microsoft.DENIED:
                told = "these credentials may not look at the region's machines"
                return Finding(what, "unknown", told, f"look for cores of {self.instance} at the studio's Quota")
            return Finding(what, "unknown", *microsoft.explained(error))
        found = sizes.get(self.instance.lower())
        if found is None:
            told = f"the workspace's region has no {self.instance}"
            return Finding(what, "bad", told, "correct DETECTION_AZURE_ENDPOINT")
        cores = slots * int(vars(found).get("vCPUs") or found.v_cp_us or 0)  # the SDK mixes its names up
        return Finding(what, "good", f"{self.instance}: {slots} while a version comes in, {cores} cores of the quota")

    # Looking ---------------------------------------------------------------------------------------------------------

    def look(self) -> Seen | None:
        """The endpoint and its deployments, as Azure ML tells of them."""
        found = self.hosting.endpoint()
        if found is None:
            return None
        state, slots = _word(found.provisioning_state), {}
        busy = state in BUSY
        for one in self.hosting.deployments():
            own, model = _word(one.provisioning_state), re.search(r"/models/([^/]+)/versions/", str(one.model))
            busy = busy or own in BUSY
            if own == "Deleting":
                continue
            deployment = model[1] if model else str(one.name)
            error = "" if own in BUSY or own in SERVES else self.hosting.reason(one.name, deployment)
            share = int((found.traffic or {}).get(one.name, 0))
            slots[one.name] = Held(deployment, share, own in SERVES, error, one.instance_count or self.count)
        alive = state != "Deleting" and any(held.ready for held in slots.values())
        failed = state not in BUSY and state != "Succeeded"
        why = f"the endpoint is {state}" if failed else ""
        return Seen(alive, busy, failed and not slots, {} if state == "Deleting" else slots, why)

    # Changing --------------------------------------------------------------------------------------------------------

    def hold(self, slot: str, deployment: str, seen: Seen | None) -> bool:
        """Asks for a deployment; one that is there is deleted first, as its size and a failure of it would stay."""
        if seen is None:
            if not self.hosting.open():
                return False
            self.desk.asked_nothing()
            seen = self.settled()
            if seen is None or seen.broken:
                raise EndpointError(f"{self.name} did not come up: {seen.why if seen else 'it is gone'}")
        if slot in seen.slots:
            if not self.hosting.remove(slot):
                return False
            self.settled()
        if not self.hosting.deploy(slot, deployment, self._place(deployment), self.count):
            return False
        kept = [deployment, *(held.deployment for held in seen.slots.values())]
        for name in self.desk.left(kept, OLD_S):
            self.hosting.forget(name)
            self.desk.forget(name)
        return True

    def _place(self, deployment: str) -> str:
        """What lies on the desk for a deployment, as the workspace calls it."""
        return f"{microsoft.place(self.datastore, self.storage.uri_of(self.desk.folder(deployment)))}/"

    def drop(self, slot: str, seen: Seen) -> bool:
        """Deletes the deployment."""
        return self.hosting.remove(slot)

    def share(self, wanted: Mapping[str, int], seen: Seen) -> bool:
        """Sets the endpoint's traffic."""
        return self.hosting.open(wanted)

    def rise(self, slots: Mapping[str, Held]) -> None:
        """Makes the endpoint again, and one deployment after the other; the traffic last, when they are ready."""
        for name, held in slots.items():
            seen = self.settled()
            while seen is None or name not in seen.slots or not seen.slots[name].ready:
                if seen is None:
                    self.hosting.open()
                elif name in seen.slots:
                    raise EndpointError(f"{self.name}: slot {name} did not come up: {seen.slots[name].error}")
                else:
                    self.hosting.deploy(name, held.deployment, self._place(held.deployment), held.count)
                seen = self.settled()
        shares = {name: held.share or 0 for name, held in slots.items()}
        if any(shares.values()):
            while not self.hosting.open(shares):
                self.settled()

    def erase(self) -> None:
        """Deletes the endpoint."""
        self.hosting.delete()

    def scale(self, slot: str, *, active: bool) -> None:
        """Has Azure Monitor follow the requests of an instance."""
        self.hosting.scale(slot, active=active)

    def way_to(self) -> Mapping[str, Any]:
        """Where the endpoint answers, and who tells its key to servers that have the right."""
        return {"url": self.url, "keys": self.caller.keys}

    def invoke(self, slot: str | None, image: bytes) -> Mapping[str, Any]:
        """Sends one picture through Azure ML, to a deployment or as any client does."""
        return self.caller.invoke(self.url, slot, image)


def _word(state: Any) -> str:
    """Azure ML's own word, of an enumeration that may not know it."""
    return str(getattr(state, "value", state))

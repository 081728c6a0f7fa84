"""Snapshots of code in the stand-in of a workspace: the SDK uploads them to where it is told, by a signed address."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fakes import blob
from fakes.azureml_refusals import not_found
from fakes.azureml_shapes import NAME, Answer, held, named

if TYPE_CHECKING:
    from fakes.azureml import AzureML


class Codes:
    """What is there, by its path below the workspace."""

    def __init__(self, service: AzureML) -> None:
        """Takes the workspace that they are of."""
        self.service = service
        self.there: dict[str, dict[str, Any]] = {}

    def rows(self) -> Iterator[tuple[str, str, str, Callable[..., Answer]]]:
        """What is answered: method, kind, what follows in the path, and by what."""
        one = f"/({NAME})/versions/({NAME})"
        yield "GET", "codes", f"/({NAME})/versions", lambda *_: (200, {"value": []}, {})
        yield "POST", "codes", f"{one}/startPendingUpload", lambda _, *key: (200, self.begin(*key), {})
        yield "PUT", "codes", one, lambda body, *key: self.put(body, *key)
        yield "GET", "codes", one, lambda _, *key: (200, self._found(*key), {})

    def begin(self, name: str, version: str) -> dict[str, Any]:
        """Where to upload."""
        from azure.storage.blob import generate_container_sas

        now = datetime.now(timezone.utc)
        signed = generate_container_sas(
            blob.ACCOUNT, blob.CONTAINER, blob.KEY, permission="racwl",
            start=now - timedelta(minutes=5), expiry=now + timedelta(hours=1),
        )  # fmt: skip
        place = f"{self.service.azurite}/{blob.ACCOUNT}/{blob.CONTAINER}"
        where = f"{place}/code-{name}-{version}-{uuid.uuid4().hex[:8]}"
        return {
            "pendingUploadId": name,
            "pendingUploadType": "TemporaryBlobReference",
            "blobReferenceForConsumption": {
                "blobUri": where, "storageAccountArmId": f"/{blob.ACCOUNT}",
                "credential": {"credentialType": "SAS", "sasUri": f"{place}?{signed}"},
            },
        }  # fmt: skip

    def put(self, body: Any, name: str, version: str) -> Answer:
        """Makes a snapshot of what was uploaded."""
        # The SDK sends a number among the texts, which the service takes.
        told = {name: str(value) for name, value in (body["properties"].get("properties") or {}).items()}
        held("CodeVersion", {**body, "properties": {**body["properties"], "properties": told}})
        path = f"{self.service.root}/codes/{name}/versions/{version}"
        self.there[path] = {**named(path), "properties": body["properties"]}
        return 201, self.there[path], {}

    def get(self, path: str) -> dict[str, Any] | None:
        """A snapshot; None if there is none."""
        return self.there.get(path)

    def _found(self, name: str, version: str) -> dict[str, Any]:
        found = self.get(f"{self.service.root}/codes/{name}/versions/{version}")
        if found is None:
            raise not_found(f"codes/{name}/versions/{version}")
        return found

    def fetch(self, path: str, folder: Path) -> Path:
        """Brings a snapshot to a folder."""
        where = self.there[path]["properties"]["codeUri"].partition(f"/{blob.CONTAINER}/")[2]
        self.service.jobs.mount(f"azureml://datastores/lake/paths/{where}", folder)
        return folder

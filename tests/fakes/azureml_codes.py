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
        self.containers: list[str] = []

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

        container, now = f"code-{uuid.uuid4().hex}", datetime.now(timezone.utc)
        blob.make_container(int(self.service.azurite.rpartition(":")[2]), container, self.service.certificate)
        signed = generate_container_sas(
            blob.ACCOUNT, container, blob.KEY, permission="racwl",
            start=now - timedelta(minutes=5), expiry=now + timedelta(hours=1),
        )  # fmt: skip
        self.containers.append(container)
        where = f"{self.service.azurite}/{blob.ACCOUNT}/{container}"
        return {
            "pendingUploadId": name,
            "pendingUploadType": "TemporaryBlobReference",
            "blobReferenceForConsumption": {
                "blobUri": where, "storageAccountArmId": f"/{blob.ACCOUNT}",
                "credential": {"credentialType": "SAS", "sasUri": f"{where}?{signed}"},
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
        """Brings a snapshot to a folder; returns where in it the code lies."""
        where = self.there[path]["properties"]["codeUri"]
        container = next(one for one in self.containers if one in where)
        self.service.jobs.bring(container, "", folder)
        below = folder / where.rsplit("/", 1)[-1]
        return below if below.is_dir() else folder

"""Code that is uploaded to the stand-in of an Azure ML workspace: each version into a container of its own."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fakes import blob
from fakes.azureml_refusals import Refused, not_found
from fakes.azureml_shapes import NAME, Answer, held, named


class Codes:
    """What is there, by name and version."""

    def __init__(self, service: Any) -> None:
        """Takes the workspace that it is of."""
        self.service = service
        self.there: dict[tuple[str, str], dict[str, Any]] = {}

    def rows(self) -> Iterator[tuple[str, str, str, Callable[..., Answer]]]:
        """What is answered: method, kind, what follows in the path, and by what."""
        one = f"/({NAME})/versions/({NAME})"
        yield "GET", "codes", f"/({NAME})/versions", lambda _, name: (200, self.list(name), {})
        yield "POST", "codes", f"{one}/startPendingUpload", lambda body, *key: (200, self.upload(body, *key), {})
        yield "PUT", "codes", one, lambda body, *key: self.put(body, *key)
        yield "GET", "codes", one, lambda _, *key: (200, self.get(*key), {})

    def list(self, name: str) -> dict[str, Any]:
        """The versions of a name, which says what is in them."""
        return {"value": [one for key, one in self.there.items() if key[0] == name], "nextLink": None}

    def upload(self, body: Any, name: str, version: str) -> dict[str, Any]:
        """Makes room for a version, and says how to get there for an hour."""
        from azure.storage.blob import ContainerSasPermissions, generate_container_sas

        held("PendingUploadRequestDto", body)
        container = f"code-{uuid.uuid4().hex}"
        port = urlsplit(self.service.azurite).port
        assert port is not None
        blob.make_container(port, container, self.service.certificate)
        signature = generate_container_sas(
            blob.ACCOUNT, container, account_key=blob.KEY, expiry=datetime.now(timezone.utc) + timedelta(hours=1),
            permission=ContainerSasPermissions(read=True, write=True, list=True, create=True, add=True),
        )  # fmt: skip
        uri = f"{self.service.azurite}/{blob.ACCOUNT}/{container}"
        return {
            "pendingUploadId": uuid.uuid4().hex,
            "pendingUploadType": "TemporaryBlobReference",
            "blobReferenceForConsumption": {
                "blobUri": uri,
                "storageAccountArmId": f"/subscriptions/x/storageAccounts/{blob.ACCOUNT}",
                "credential": {"credentialType": "SAS", "sasUri": f"{uri}?{signature}"},
            },
        }

    def put(self, body: Any, name: str, version: str) -> Answer:
        """Makes a version of what was uploaded."""
        # The SDK writes a number among the properties, and the service takes it for its text.
        notes = {key: str(value) for key, value in (body["properties"].get("properties") or {}).items()}
        held("CodeVersion", {**body, "properties": {**body["properties"], "properties": notes}})
        there = self.there.get((name, version))
        if there is not None and there["properties"]["codeUri"] != body["properties"]["codeUri"]:
            raise Refused(409, "UserError", f"A resource with the name {name} and version {version} already exists")
        path = f"{self.service.root}/codes/{name}/versions/{version}"
        self.there[name, version] = made = {**named(path), "properties": dict(body["properties"])}
        return 200 if there else 201, made, {}

    def get(self, name: str, version: str) -> dict[str, Any]:
        """A version."""
        if (name, version) not in self.there:
            raise not_found(f"codes/{name}/versions/{version}")
        return self.there[name, version]

    def of(self, path: str | None) -> dict[str, Any] | None:
        """The version that something else names by its path; None if there is none."""
        found = re.search(r"/codes/([^/]+)/versions/([^/]+)$", path or "")
        return self.there.get((found[1], found[2])) if found else None

    def names(self, code: dict[str, Any]) -> list[str]:
        """The files of a version."""
        import obstore

        return [item["path"] for batch in obstore.list(self._store(code)) for item in batch]

    def download(self, code: dict[str, Any], folder: Path) -> None:
        """Copies a version's files."""
        import obstore

        store = self._store(code)
        for name in self.names(code):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(bytes(obstore.get(store, name).bytes()))

    def _store(self, code: dict[str, Any]) -> Any:
        from obstore.store import AzureStore

        container, _, prefix = code["properties"]["codeUri"].split(f"/{blob.ACCOUNT}/", 1)[1].partition("/")
        return AzureStore(
            container, prefix=prefix or None, account_name=blob.ACCOUNT, account_key=blob.KEY,
            endpoint=f"{self.service.azurite}/{blob.ACCOUNT}", client_options={"allow_invalid_certificates": True},
        )  # fmt: skip

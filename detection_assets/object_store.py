"""How any part of the project opens a store of objects: the lake, or a place in it, by its URI alone."""

from __future__ import annotations

import json
import os
import urllib.parse
import urllib.request
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

PATIENCE: Any = {"timeout": "5min", "connect_timeout": "10s"}
"""How long one request may take: by default a range that comes at 2 MB/s would be given up."""
RETRIES: Any = {"max_retries": 10, "retry_timeout": timedelta(minutes=3)}
"""How often, and for how long, a request is tried again that was not answered: obstore's own figures."""
UNENCRYPTED = ("AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP")
"""Settings of obstore that allow a store without TLS, which is one of this machine."""
CONNECTION = "AZURE_STORAGE_CONNECTION_STRING"
"""The setting that Azure's other tools know and obstore does not."""
OF_THE_JOB = ("MSI_ENDPOINT", "MSI_SECRET")
"""What Azure ML tells a job with an identity: where to ask for its tokens, and a word that nobody else knows."""
CLIENT = "DEFAULT_IDENTITY_CLIENT_ID"
"""Which of several identities of its machine a job is to ask for."""
BEFORE = (
    *("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY", "AZURE_CLIENT_SECRET"),
    *("AZURE_USE_AZURE_CLI", "IDENTITY_ENDPOINT"),
)
"""What obstore finds itself, and what goes before a job's identity."""
BLOB = "https://storage.azure.com/"
"""What a token for Blob storage is for."""


def open_store(uri: str) -> Any:
    """Opens the store below a URI; credentials and region are what the environment says.

    Args:
        uri: `s3://bucket/prefix`, `az://container/prefix` or `file:///folder`.

    Raises:
        ValueError: It is no URI of a kind that is known, or `AZURE_STORAGE_CONNECTION_STRING` is none.
    """
    from obstore.store import from_url

    # What is given here takes the place of what obstore reads from the environment, so both have to be said.
    plain = any(os.environ.get(name, "").lower() in ("1", "true") for name in UNENCRYPTED)
    more: dict[str, Any] = _azure() if uri.startswith("az://") else {}
    options: Any = {**PATIENCE, "allow_http": plain or str(more.get("endpoint", "")).startswith("http://")}
    return from_url(uri, client_options=options, retry_config=RETRIES, **more)


def account_of(connection: str) -> dict[str, str]:
    """What a connection string says, in obstore's words: the account, its key or signature, and its address.

    Raises:
        ValueError: It names no account, or neither key nor signature.
    """
    parts = dict(part.split("=", 1) for part in connection.split(";") if "=" in part)
    account = parts.get("AccountName", "")
    address = parts.get("BlobEndpoint", "")
    if not address and parts.get("EndpointSuffix"):
        address = f"{parts.get('DefaultEndpointsProtocol', 'https')}://{account}.blob.{parts['EndpointSuffix']}"
    account = account or (urllib.parse.urlsplit(address).hostname or "").split(".")[0]
    found = {
        "account_name": account,
        "account_key": parts.get("AccountKey", ""),
        "sas_key": parts.get("SharedAccessSignature", "").lstrip("?"),
        "endpoint": address.rstrip("/"),
    }
    if not account or not (found["account_key"] or found["sas_key"]):
        raise ValueError(
            f"{CONNECTION} is no connection string of a storage account; copy it from the account's page, "
            "Security + networking, Access keys: DefaultEndpointsProtocol=https;AccountName=...;AccountKey=..."
        )
    return {name: value for name, value in found.items() if value}


def account() -> dict[str, str]:
    """What another machine has to be told to find the same storage account, by environment variable; no secret."""
    said = account_of(os.environ[CONNECTION]) if os.environ.get(CONNECTION) else {}
    given = {
        "AZURE_STORAGE_ACCOUNT_NAME": said.get("account_name") or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME", ""),
        "AZURE_STORAGE_ENDPOINT": said.get("endpoint") or os.environ.get("AZURE_STORAGE_ENDPOINT", ""),
    }
    return {name: value for name, value in given.items() if value}


def _azure() -> dict[str, Any]:
    """What obstore has to be told beside what it reads from the environment itself."""
    if os.environ.get(CONNECTION):
        return account_of(os.environ[CONNECTION])
    if all(os.environ.get(name) for name in OF_THE_JOB) and not any(os.environ.get(name) for name in BEFORE):
        return {"credential_provider": _identity}
    return {}


def _identity() -> dict[str, Any]:
    """A token for Blob storage, in obstore's words."""
    token, ends = identity_token(BLOB)
    return {"token": token, "expires_at": datetime.fromtimestamp(ends, timezone.utc)}


def identity_token(resource: str) -> tuple[str, int]:
    """A token of the identity that Azure ML has given to this job or server, and when it ends, epoch seconds.

    Args:
        resource: What it is for, as `https://storage.azure.com/`.

    Raises:
        KeyError: This is none of Azure ML's machines.
        OSError: It is not given.
    """
    where, secret = (os.environ[name] for name in OF_THE_JOB)
    asked = {"api-version": "2017-09-01", "resource": resource}
    client = os.environ.get(CLIENT)
    query = urllib.parse.urlencode({**asked, **({"clientid": client} if client else {})})
    request = urllib.request.Request(f"{where}?{query}", headers={"secret": secret})
    with urllib.request.urlopen(request, timeout=60) as answer:
        told: Mapping[str, Any] = json.load(answer)
    # Other services with this interface tell a date; Azure ML tells seconds since 1970.
    return str(told["access_token"]), int(told["expires_on"])

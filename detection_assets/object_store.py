"""How any part of the project opens a store of objects: the lake, or a place in it, by its URI alone."""

from __future__ import annotations

import os
from typing import Any

PATIENCE: Any = {"timeout": "5min", "connect_timeout": "10s"}
"""How long one request may take: by default a range that comes at 2 MB/s would be given up."""
UNENCRYPTED = ("AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP")
"""Settings of obstore that allow a store without TLS, which is one of this machine."""


def open_store(uri: str) -> Any:
    """Opens the store below a URI; credentials and region are what the environment says.

    Args:
        uri: `s3://bucket/prefix`, `az://container/prefix` or `file:///folder`.

    Raises:
        ValueError: It is no URI of a kind that is known.
    """
    from obstore.store import from_url

    # What is given here takes the place of what obstore reads from the environment, so both have to be said.
    plain = any(os.environ.get(name, "").lower() in ("1", "true") for name in UNENCRYPTED)
    options: Any = {**PATIENCE, "allow_http": plain}
    return from_url(uri, client_options=options)

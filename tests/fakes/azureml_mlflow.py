"""The MLflow of the stand-in of an Azure ML workspace: a real MLflow server, asked by whoever has a token.

Azure ML answers what MLflow's tracking asked in its second version; of what came later it knows nothing. Files of runs
lie where only its own plugin finds them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from fakes.azureml_shapes import Answer
from project import free_port

if TYPE_CHECKING:
    from fakes.azureml import AzureML

KNOWN = r"(api/2\.0/mlflow/(?:experiments|runs|metrics)/[a-z-]+)"
FILES = ("artifact_uri", "artifact_location")


class Mlflow:
    """The MLflow of a workspace.

    Attributes:
        url: The server that answers; "" for one of its own, which begins when it is first asked.
        empty: A database for that one with nothing in it: making one takes seconds.
        asked: How often it was asked.
    """

    def __init__(self, service: AzureML) -> None:
        """Takes the workspace that it is of."""
        self._service = service
        self.url = ""
        self.empty: Path | None = None
        self.asked = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    @property
    def uri(self) -> str:
        """What the workspace says of it: where MLflow 1 is answered, from which the others' way is known."""
        return f"{self._service.url.replace('https:', 'azureml:')}/mlflow/v1.0{self._service.root}"

    def rows(self) -> Iterator[tuple[str, str, Callable[..., Answer]]]:
        """What is answered: method, path, and by what."""
        for verb in ("GET", "POST"):
            path = f"/mlflow/v2\\.0{self._service.root.replace('.', r'[.]')}/{KNOWN}"
            yield verb, path, lambda body, path, verb=verb: self.ask(verb, path, body)

    def ask(self, verb: str, path: str, told: Mapping[str, Any]) -> Answer:
        """What the server says, with places of files as Azure ML has them."""
        with self._lock:
            self.asked += 1
            if not self.url:
                folder = self._service.folder / "mlflow"
                folder.mkdir(exist_ok=True)
                if self.empty:
                    shutil.copyfile(self.empty, folder / "mlflow.db")
                self.url, self._process = begun(folder)
        url, data = f"{self.url}/{path}", None
        if verb == "GET":
            url = f"{url}?{urlencode(told)}"
        else:
            data = json.dumps(told).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=verb)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, self._moved(json.load(answer)), {}
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error), {}

    def _moved(self, told: Any) -> Any:
        if isinstance(told, list):
            return [self._moved(part) for part in told]
        if not isinstance(told, dict):
            return told
        return {
            key: f"{self.uri}/experiments/files" if key in FILES and part else self._moved(part)
            for key, part in told.items()
        }

    def end(self) -> None:
        """Ends the server, if it was ever asked."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=30)


def begun(folder: Path) -> tuple[str, subprocess.Popen[bytes]]:
    """Begins an MLflow server whose runs and files lie in a folder; gives its address when it answers."""
    port = free_port()
    url, ends = f"http://127.0.0.1:{port}", time.monotonic() + 120
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [Path(sys.executable).with_name("mlflow"), "server", "--host", "127.0.0.1", "--port", str(port),
             "--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
             "--default-artifact-root", str(folder / "artifacts")],
            stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )  # fmt: skip
    while True:
        assert server.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < ends, (folder / "log").read_text()
        try:
            urllib.request.urlopen(f"{url}/health", timeout=2).close()
            return url, server
        except OSError:
            time.sleep(0.2)

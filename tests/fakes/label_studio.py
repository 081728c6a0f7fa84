"""A Label Studio server on this machine: the real one, from its own package in an environment of its own.

`make label-studio` makes that environment and a data folder with people in it; here a server starts on a copy.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from fakes import servers
from project import ROOT, free_port

PLACE = ROOT / ".scratch" / "label-studio"
PEOPLE = {
    "owner@example.org": "0123456789abcdef0123456789abcdef01234567",
    "ada@example.org": "1123456789abcdef0123456789abcdef01234567",
    "ben@example.org": "2123456789abcdef0123456789abcdef01234567",
}
"""Who has an account, with a key that opens nothing but a test's server on loopback."""
PASSWORD = "only-for-tests"
OWNER = "owner@example.org"
LINES = 40


def environment(data: Path, url: str = "") -> dict[str, str]:
    """What a server's process is told: where its data is, and that it reports to nobody."""
    quiet = ("COLLECT_ANALYTICS", "LATEST_VERSION_CHECK", "FEATURE_FLAGS_FROM_FILE_OFF", "DEBUG")
    own = {name: value for name, value in os.environ.items() if not name.startswith(("DETECTION_", "PYTHON"))}
    return {
        **own,
        **dict.fromkeys(quiet, "false"),
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "DJANGO_DB": "sqlite",
        "LABEL_STUDIO_BASE_DATA_DIR": str(data),
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": "/",
        "LABEL_STUDIO_HOST": url,
        "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
    }


@dataclass
class LabelStudio:
    """A server that runs.

    Attributes:
        url: Its address.
        log: What it prints.
    """

    url: str
    log: Path

    def ask(self, method: str, path: str, body: Any = None, who: str = OWNER) -> Any:
        """Does something in somebody's name, as their browser would."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Token {PEOPLE[who]}", "Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers, method=method)) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def download(self, path: str) -> bytes:
        """A picture, as the browser of somebody who is logged in gets it."""
        request = urllib.request.Request(urljoin(self.url, path))
        # Not what a redirect leads to: that is another server's, and signed.
        request.add_unredirected_header("Authorization", f"Token {PEOPLE[OWNER]}")
        with urllib.request.urlopen(request) as answer:
            return answer.read()

    def number(self, who: str) -> int:
        """What the server calls somebody."""
        return self.ask("GET", "/api/current-user/whoami", who=who)["id"]


@contextmanager
def serving(folder: Path, extra: Mapping[str, str] | None = None) -> Iterator[LabelStudio]:
    """Starts a server with people and no projects; ends it.

    Args:
        folder: An empty folder for its data.
        extra: More of its environment.
    """
    assert (PLACE / "seed").is_dir(), "there is no Label Studio to test with; `make label-studio` makes one"
    shutil.copytree(PLACE / "seed", folder / "data")
    port = free_port()
    url, log = f"http://127.0.0.1:{port}", folder / "server.log"
    words = [PLACE / "bin" / "label-studio", "start", "--no-browser", "--internal-host", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            words,
            cwd=folder,
            env={**environment(folder / "data", url), **(extra or {})},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    server = servers.Server(process, port, log, "/health")
    try:
        for _ in range(600):
            if server.ready:
                break
            assert process.poll() is None, "\n".join(log.read_text().splitlines()[-LINES:])
            time.sleep(0.2)
        yield LabelStudio(url, log)
    finally:
        server.process.kill()  # it takes no notice of anything gentler, and nobody needs its data
        server.process.wait()


def prepare() -> None:
    """Makes the data folder that servers begin with."""
    words = [PLACE / "bin" / "python", ROOT / "tests" / "label_studio" / "prepare.py", PLACE / "seed"]
    done = subprocess.run(
        [*words, json.dumps(PEOPLE), PASSWORD], env=environment(PLACE), capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit("\n".join((done.stdout + done.stderr).splitlines()[-LINES:]))


if __name__ == "__main__":
    prepare()

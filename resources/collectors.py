"""Where OpenLineage events go: a file, or a collector by HTTP."""

from __future__ import annotations

import fcntl
import http.client
import logging
import os
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from detection_assets.domain.problems import InputError

SETTING, KEY = "DETECTION_OPENLINEAGE", "DETECTION_OPENLINEAGE_KEY"
FORMS = "file:///path/events.jsonl or https://collector (the path /api/v1/lineage is added where there is none)"
PATH = "/api/v1/lineage"
HERE = {"localhost", "127.0.0.1", "::1"}
WAITS_S = (0.0, 1.0, 2.0)
"""Seconds before each attempt at an event; after the last the rest waits for the next tick."""
TIMEOUT_S = 5.0

log = logging.getLogger("detection.openlineage")


class NotTaken(Exception):
    """An event was not taken, and will not be until somebody mends the collector: the rest waits."""


class Target(Protocol):
    """Where events go."""

    def tell(self, event: bytes) -> None:
        """Tells one event.

        Raises:
            NotTaken: It was not taken; try again later.
        """
        ...

    def close(self) -> None:
        """Lets go of what it holds open."""
        ...


@dataclass(frozen=True)
class FileTarget:
    """Events as lines of JSON at a file's end.

    Attributes:
        path: The file; made if missing, its folder as well.
    """

    path: Path

    def tell(self, event: bytes) -> None:
        """Appends an event as a whole line; several processes may."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as out:
                fcntl.flock(out, fcntl.LOCK_EX)
                # What a full disk left of an earlier line must not spoil this one.
                whole = out.tell() == 0 or _last_byte(self.path) == b"\n"
                out.write(event + b"\n" if whole else b"\n" + event + b"\n")
        except OSError as error:
            raise NotTaken(f"{self.path}: {error.strerror}; free some space or correct {SETTING}") from None

    def close(self) -> None:
        """Nothing is held open between two events."""


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)


@dataclass
class HttpTarget:
    """Events by POST to a collector, one a request, over one connection while it lasts.

    Attributes:
        url: The collector's address.
        key: Sent as a bearer token; "" for none.
    """

    url: str
    key: str = field(default="", repr=False)
    _connection: Any = field(default=None, repr=False)

    def tell(self, event: bytes) -> None:
        """Posts an event, some times if need be.

        What the collector refuses as such is left out with a warning, or it would be the last that is ever told.
        """
        why = ""
        for wait in WAITS_S:
            time.sleep(wait)
            try:
                status, said = self._post(event)
            except (OSError, http.client.HTTPException) as error:
                why = f"{type(error).__name__}: {error}"
                self.close()
                continue
            if status < 300:
                return
            why = f"it answers {status} {said}"
            if status in (400, 413, 422):
                log.warning("%s: %s refuses an event, which is left out: %s", SETTING, self._host, why)
                return
            if status not in (408, 425, 429) and status < 500:
                break  # the address or the key is wrong, and stays so
        raise NotTaken(f"{self._host} did not take an event: {why}; check {SETTING} and {KEY}")

    @property
    def _host(self) -> str:
        return urlsplit(self.url).hostname or "the collector"

    def _post(self, event: bytes) -> tuple[int, str]:
        parts = urlsplit(self.url)
        if self._connection is None:
            at = (parts.hostname or "", parts.port)
            if parts.scheme == "https":
                context = ssl.create_default_context()
                self._connection = http.client.HTTPSConnection(*at, timeout=TIMEOUT_S, context=context)
            else:
                self._connection = http.client.HTTPConnection(*at, timeout=TIMEOUT_S)
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self.key}"} if self.key else {})}
        path = (parts.path if parts.path.strip("/") else PATH) + (f"?{parts.query}" if parts.query else "")
        self._connection.request("POST", path, event, headers)
        answer = self._connection.getresponse()
        said = answer.read(2000).decode(errors="replace")
        answer.read()
        if answer.will_close:
            self.close()
        return answer.status, " ".join(said.split())[:300]

    def close(self) -> None:
        """Ends the connection; another event opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def target() -> Target | None:
    """Where the settings say that events go; None if nowhere.

    Raises:
        InputError: If they name neither a file nor a collector; the message repeats no key.
    """
    setting, key = os.environ.get(SETTING, ""), os.environ.get(KEY, "")
    if not setting:
        return None
    try:
        parts = urlsplit(setting)
        port = parts.port  # reads it, and refuses what is no number
    except ValueError:
        raise InputError(f"{SETTING} is no address; set it to {FORMS}") from None
    if parts.scheme == "file" and parts.hostname in (None, "localhost") and parts.path.strip("/"):
        return FileTarget(Path(unquote(parts.path)))
    if parts.username or parts.password:
        raise InputError(f"{SETTING} holds a name or a password; put the key into {KEY}")
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise InputError(f"{SETTING} is neither a file nor a collector; set it to {FORMS}, or leave it empty")
    if key and parts.scheme == "http" and parts.hostname not in HERE:
        raise InputError(f"{SETTING} is http://, and {KEY} would travel for all to read; use https://")
    if any(not 32 < ord(char) < 127 for char in key):
        raise InputError(f"{KEY} holds blanks or characters that no header takes; copy it again")
    return HttpTarget(setting, key)

"""A Label Studio server, asked over HTTP: who we are, what is tried again, and what its refusals mean in words.

Plain requests, because what is needed of its API is small and its SDK brings a hundred packages of its own.
"""

from __future__ import annotations

import http.client
import json
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from resources.labeling.base import LabelingError, UnreachableError

LONGEST_WAIT_S = 30.0
PAGE = 100
"""Tasks of one page; more are not given."""

_FOR_THE_MOMENT = frozenset({429, 500, 502, 503, 504})
_KEY = "set DETECTION_LABEL_STUDIO_KEY to an access token of your account there (Account & Settings)"


class GoneError(LabelingError):
    """What was asked for is not there (any more)."""


class UnansweredError(LabelingError):
    """Something was sent, and nobody knows whether it was done."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    # The key would go along, to whomever.
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


@dataclass
class Server:
    """A server, and the key that opens it.

    Attributes:
        url: Its address, without a slash at the end.
        key: An access token: one that is sent as it is, or a personal one (a JWT), with which short-lived ones are had.
        attempts: How often what could not be answered for the moment is asked.
        timeout_s: Seconds that an answer may take.
        first_wait_s: Seconds before the second attempt; each further wait is twice as long.
    """

    url: str
    key: str = field(repr=False)
    attempts: int = 5
    timeout_s: float = 120.0
    first_wait_s: float = 0.5
    _short_lived: str = field(default="", repr=False)

    def get(self, path: str, **query: Any) -> Any:
        """Reads something, and tries again what could not be answered for the moment.

        Raises:
            GoneError: It is not there.
            LabelingError: The server refuses or does not answer.
        """
        return self._ask("GET", path, query=query)

    def send(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """Changes something.

        Raises:
            UnansweredError: The answer got lost; look whether it was done.
            GoneError: What it is about is not there.
            LabelingError: The server refuses or does not answer.
        """
        data = None if body is None else json.dumps(body).encode()
        return self._ask(method, path, data, "application/json", query)

    def upload(self, path: str, files: Mapping[str, bytes], **query: Any) -> Any:
        """Sends files, by name; raises what `send` does."""
        boundary = secrets.token_hex(16)
        parts: list[bytes] = []
        for number, (name, data) in enumerate(files.items()):
            head = f'Content-Disposition: form-data; name="file{number}"; filename="{name}"'
            parts += [
                f"--{boundary}\r\n{head}\r\nContent-Type: application/octet-stream\r\n\r\n".encode(),
                data,
                b"\r\n",
            ]
        parts.append(f"--{boundary}--\r\n".encode())
        return self._ask("POST", path, b"".join(parts), f"multipart/form-data; boundary={boundary}", query)

    def tasks(self, project: int, fields: str) -> Iterator[dict[str, Any]]:
        """The tasks of a project, by their numbers.

        Args:
            project: The project.
            fields: `task_only`, or `all` for annotations as well.
        """
        page, seen = 1, 0
        while True:
            found = self.get("/api/tasks/", project=project, page=page, page_size=PAGE, fields=fields)
            yield from found["tasks"]
            page, seen = page + 1, seen + len(found["tasks"])
            if not found["tasks"] or seen >= found["total"]:
                return

    def _ask(
        self, method: str, path: str, data: bytes | None = None, kind: str = "", query: Mapping[str, Any] | None = None
    ) -> Any:
        where = f"{path}?{urlencode(query)}" if query else path
        renewed = False
        for attempt in range(self.attempts):
            last = attempt == self.attempts - 1
            try:
                return self._once(method, where, data, kind, self._authorization())
            except urllib.error.HTTPError as error:
                with error:
                    told = _told(error)
                if error.code == 401 and self._short_lived and not renewed:
                    self._short_lived, renewed = "", True
                    continue
                if method != "GET" and error.code in (502, 504):
                    raise UnansweredError(
                        f"{self.url} did not answer to {method} {path}: {error.code} {told}"
                    ) from None
                # A server that says of itself that it is busy has done nothing.
                if last or error.code not in (_FOR_THE_MOMENT if method == "GET" else {429, 503}):
                    raise self._refusal(method, path, error.code, told) from None
                wait = _after(error.headers.get("Retry-After"))
            except (OSError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", error)
                refused = isinstance(reason, ConnectionRefusedError)
                if method != "GET" and not refused:
                    raise UnansweredError(f"{self.url} did not answer to {method} {path}: {_plain(reason)}") from None
                if last:
                    what = f"{self.url} does not answer: {_plain(reason)}"
                    raise UnreachableError(
                        f"{what}; start Label Studio, or correct DETECTION_LABEL_STUDIO_URL"
                    ) from None
                wait = None
            time.sleep(wait if wait is not None else min(LONGEST_WAIT_S, self.first_wait_s * 2**attempt))
        raise AssertionError

    def _once(self, method: str, where: str, data: bytes | None, kind: str, authorization: str) -> Any:
        headers = {"Accept": "application/json", **({"Authorization": authorization} if authorization else {})}
        if data is not None:
            headers["Content-Type"] = kind
        request = urllib.request.Request(f"{self.url}{where}", data, headers, method=method)
        with _OPENER.open(request, timeout=self.timeout_s) as answer:
            text = answer.read()
        if not text:
            return None
        try:
            return json.loads(text)
        except ValueError:
            what = "answers something that is no JSON, so it is no Label Studio, or a page before it asks for a login"
            raise LabelingError(f"{self.url} {what}; correct DETECTION_LABEL_STUDIO_URL") from None

    def _authorization(self) -> str:
        if self.key.count(".") != 2:
            return f"Token {self.key}"
        if not self._short_lived:
            body = json.dumps({"refresh": self.key}).encode()
            self._short_lived = self._once("POST", "/api/token/refresh/", body, "application/json", "")["access"]
        return f"Bearer {self._short_lived}"

    def _refusal(self, method: str, path: str, code: int, told: str) -> LabelingError:
        if code == 401:
            return LabelingError(f"{self.url} refuses the key ({told}); {_KEY}")
        if code == 403:
            return LabelingError(
                f"{self.url}: the key may not {method} {path} ({told}); give its user the right, or {_KEY}"
            )
        if code == 404:
            return GoneError(f"{self.url}{path} is not there ({told})")
        if 300 <= code < 400:
            return LabelingError(
                f"{self.url} sends elsewhere; set DETECTION_LABEL_STUDIO_URL to {told or 'its address'}"
            )
        return LabelingError(f"{self.url} refuses {method} {path}: {code} {told}")


def _told(error: urllib.error.HTTPError) -> str:
    """What a server says of its refusal, in a line."""
    if 300 <= error.code < 400:
        return str(error.headers.get("Location", "")).partition("/api/")[0]
    try:
        text = error.read(2**16).decode("utf-8", "replace")
        said = json.loads(text)
    except (OSError, ValueError, http.client.HTTPException):
        return str(error.reason)
    if isinstance(said, dict):
        wrong = said.get("validation_errors") or said.get("detail") or said
        said = wrong if isinstance(wrong, str) else json.dumps(wrong)
    return " ".join(str(said).split())[:500]


def _after(told: str | None) -> float | None:
    return min(LONGEST_WAIT_S, float(told)) if told and told.strip().isdigit() else None


def _plain(reason: object) -> str:
    return " ".join(str(reason).split())[:200] or type(reason).__name__


def chunks(names: Sequence[str], most: int) -> Iterator[Sequence[str]]:
    """Some of the names at a time."""
    for start in range(0, len(names), most):
        yield names[start : start + most]

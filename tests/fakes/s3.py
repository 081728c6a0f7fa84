"""S3 on this machine: a moto server in a process of its own, and a way to come between it and whoever asks."""

from __future__ import annotations

import http.client
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import ParseResult, urlparse

from project import free_port

BUCKET = "lake"
REGION = "eu-central-1"


def environment(url: str) -> dict[str, str]:
    """What points everything that speaks to AWS at a server of this machine."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": REGION,
    }


@contextmanager
def moto_server() -> Iterator[str]:
    """A moto server with one bucket; gives its address."""
    port = free_port()
    command = [sys.executable, "-m", "fakes.moto_server", "-H", "127.0.0.1", "-p", str(port)]
    nowhere = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=nowhere, stderr=nowhere)
    try:
        ends = time.monotonic() + 60
        while True:
            assert process.poll() is None, "moto ended"
            assert time.monotonic() < ends, "moto does not answer"
            try:
                make_bucket(port)
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def make_bucket(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    where = f"<CreateBucketConfiguration><LocationConstraint>{REGION}</LocationConstraint></CreateBucketConfiguration>"
    signed = f"AWS4-HMAC-SHA256 Credential=test/20260101/{REGION}/s3/aws4_request, SignedHeaders=host, Signature=0"
    connection.request("PUT", f"/{BUCKET}", where, {"Authorization": signed})
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    connection.close()


@dataclass(frozen=True)
class Asked:
    """A request on its way to S3: method, path with query, headers, body."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


Answer = tuple[int, bytes]


@dataclass
class Between:
    """Stands between S3 and whoever asks: sees each request, and may answer it in S3's place, before or after it acts.

    Attributes:
        before: Given a request, an answer that S3 never learns of; or None to let it pass.
        after: Given a request that S3 has answered, an answer in the place of S3's; or None for S3's own.
        seen: What was asked.
    """

    before: Callable[[Asked], Answer | None] = lambda _: None
    after: Callable[[Asked], Answer | None] = lambda _: None
    seen: list[Asked] = field(default_factory=list)

    @contextmanager
    def open(self, url: str) -> Iterator[str]:
        """Opens in front of a server; gives the address to ask instead."""
        target, this = urlparse(url), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def any_method(self) -> None:
                asked = Asked(
                    self.command, self.path, dict(self.headers),
                    self.rfile.read(int(self.headers.get("Content-Length", 0))),
                )  # fmt: skip
                this.seen.append(asked)
                given = this.before(asked)
                headers = [("Content-Type", "application/xml")]
                if given is None:
                    there = reach(target)
                    there.request(asked.method, asked.path, asked.body, dict(asked.headers))
                    answer = there.getresponse()
                    own = (answer.status, answer.read())
                    kept = ("etag", "last-modified", "content-range", "content-length", "content-type")
                    headers = [(name, value) for name, value in answer.getheaders() if name.lower() in kept]
                    there.close()
                    replaced = this.after(asked)
                    given, headers = (replaced, headers[:0]) if replaced else (own, headers)
                self.send_response(given[0])
                for name, value in headers:
                    if name.lower() != "content-length" or self.command == "HEAD":
                        self.send_header(name, value)
                if self.command != "HEAD":
                    self.send_header("Content-Length", str(len(given[1])))
                elif not headers:
                    self.send_header("Content-Length", "0")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(given[1])

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = any_method

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()


def reach(target: ParseResult) -> http.client.HTTPConnection:
    """A connection to a server of this machine, whoever has signed its certificate."""
    if target.scheme == "https":
        trusting = ssl._create_unverified_context()
        return http.client.HTTPSConnection(str(target.hostname), target.port, timeout=60, context=trusting)
    return http.client.HTTPConnection(str(target.hostname), target.port, timeout=60)


def refusal(status: int, code: str) -> Answer:
    """An error as S3 words it."""
    return status, f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()

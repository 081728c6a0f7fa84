"""Jobs of Container Apps on this machine: what Dagster's launcher asks for, and what Azure refuses of it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from fakes.azureml_refusals import Refused
from fakes.certificates import Certificate

JOBS = r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft.App/jobs/([^/]+)(/\w+)?"
VERBS = {"GET": "read", "PUT": "write", "DELETE": "delete"}


@dataclass
class Job:
    """A job.

    Attributes:
        asked: The request's body.
        looks: How often it has been looked at since it was asked for; it is made by the second time.
        executions: States, by name.
    """

    asked: dict[str, Any]
    looks: int = 0
    executions: dict[str, str] = field(default_factory=dict)


@dataclass
class ContainerApps:
    """The jobs of a resource group.

    Attributes:
        allowed: The actions that whoever asks may do.
        jobs: By name.
        rights: What was asked for.
    """

    allowed: set[str]
    jobs: dict[str, Job] = field(default_factory=dict)
    rights: set[str] = field(default_factory=set)

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """Does what is asked, or raises `Refused`."""
        found = re.fullmatch(JOBS, path)
        if found is None:
            raise Refused(404, "InvalidResourceType", f"nothing answers {method} {path}")
        name, what = found[1], (found[2] or "").strip("/")
        right = "/".join(filter(None, ["Microsoft.App/jobs", what, "action" if method == "POST" else VERBS[method]]))
        self.rights.add(right)
        if right not in self.allowed:
            raise Refused(403, "AuthorizationFailed", f"no authorization to perform action '{right}'")
        if method == "PUT":
            return 201, self._make(name, body)
        job = self.jobs.get(name)
        if job is None:
            raise Refused(404, "ResourceNotFound", f"job {name} was not found")
        if method == "DELETE":
            del self.jobs[name]
            return 204, None
        if what == "start":
            if job.looks < 2:
                raise Refused(409, "ContainerAppOperationInProgress", f"job {name} is being made")
            job.executions[f"{name}-{len(job.executions) + 1}"] = "Running"
            return 200, {"name": next(reversed(job.executions)), "id": path}
        if what == "stop":
            job.executions = dict.fromkeys(job.executions, "Stopped")
            return 200, {"value": []}
        if what == "executions":
            return 200, {"value": [self._execution(one, state) for one, state in job.executions.items()]}
        job.looks += 1
        return 200, self._told(name, job)

    def _make(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}[a-z0-9]", name):
            raise Refused(400, "ContainerAppInvalidName", f"{name} is no name of a job")
        configuration, identities = body["properties"]["configuration"], (body.get("identity") or {})
        known = set(identities.get("userAssignedIdentities") or {})
        secrets = {one["name"]: one for one in configuration.get("secrets") or ()}
        for one in secrets.values():
            if one.get("identity") not in known:
                raise Refused(400, "InvalidParameterValueInContainerTemplate", f"{one['name']}: no such identity")
            if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", one["name"]):
                raise Refused(400, "ContainerAppSecretInvalid", f"{one['name']} is no name of a secret")
        for container in body["properties"]["template"]["containers"]:
            for one in container.get("env") or ():
                if one.get("secretRef") is not None and one["secretRef"] not in secrets:
                    raise Refused(400, "ContainerAppSecretRefNotFound", f"{one['name']}: {one['secretRef']}")
        self.jobs[name] = Job(body)
        return self._told(name, self.jobs[name])

    def _told(self, name: str, job: Job) -> dict[str, Any]:
        state = "Succeeded" if job.looks > 1 else "InProgress"
        return {**job.asked, "name": name, "properties": {**job.asked["properties"], "provisioningState": state}}

    def _execution(self, name: str, state: str) -> dict[str, Any]:
        return {"name": name, "properties": {"status": state, "startTime": "2026-01-01T00:00:00Z"}}

    @contextmanager
    def serve(self, certificate: Certificate) -> Iterator[str]:
        """Answers on a port of this machine; gives its address."""
        this, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def any_method(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                try:
                    with lock:
                        status, told = this.answer(
                            self.command, urlsplit(self.path).path, json.loads(content) if content else None
                        )
                except Refused as error:
                    status, told = error.status, {"error": {"code": error.code, "message": str(error)}}
                data = json.dumps(told).encode() if told is not None else b""
                self.send_response(status)
                for name, value in {
                    "Content-Type": "application/json",
                    "Retry-After-Ms": "20",
                    "Content-Length": str(len(data)),
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_DELETE = any_method

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.socket = certificate.context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"https://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()

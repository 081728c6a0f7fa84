"""Batch endpoints of the stand-in: real jobs of a real scoring script, divided as Azure ML's batch driver divides them.

What the service does is in its documentation: a deployment has a registered model, code and an environment; a job has
one folder or file as its input, of which each file is an item; a mini-batch that fails is tried again, and then its
files count as failed; the rows that `run` gives are appended to one file. A job is a pipeline with one step, whose name
the service makes up.
"""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fakes.azureml_jobs import CannotStart, FakeJob
from fakes.azureml_refusals import Refused, not_found
from fakes.azureml_scoring import Driver
from fakes.azureml_shapes import Answer, held, named

NAMES = r"[a-zA-Z][a-zA-Z0-9\-]{1,30}[a-zA-Z0-9]"
MOST = 20
"""Deployments of an endpoint."""
LISTING = "/mferp/managementfrontend"
TYPES = ("UriFolder", "UriFile")


class FakeScoring(FakeJob):
    """The step of a batch job that does its work: its logs are the driver's, and one of each process."""

    def logs(self) -> dict[str, Path]:
        """Its log files by name."""
        return {str(path.relative_to(self.folder)): path for path in sorted(self.folder.glob("*logs/**/*.txt"))}


class BatchEndpoints:
    """The batch endpoints of a workspace, and what was asked of them.

    Attributes:
        endpoints: By name.
        deployments: By endpoint and name.
        asked: The jobs by name, each with the endpoint, the deployment and the request.
        pause: Seconds that each mini-batch takes longer.
        dying: How many mini-batches to come kill the process that they are handed to.
        lost: How many answers to requests for a job to come get lost on their way; the job is begun nevertheless.
    """

    def __init__(self, service: Any) -> None:
        """Takes the workspace that they are of."""
        self.service = service
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.deployments: dict[tuple[str, str], dict[str, Any]] = {}
        self.asked: dict[str, tuple[str, str, dict[str, Any]]] = {}
        self.pause, self.lost, self.dying = 0.0, 0, 0
        self._operations: dict[str, float] = {}
        self._busy: dict[str, float] = {}
        self._threads: list[threading.Thread] = []

    def clear(self) -> None:
        """Ends all jobs, and forgets everything."""
        for name in self.asked:
            self.service.jobs.all[name].stopping = True
        for thread in self._threads:
            thread.join(timeout=30)
        self.endpoints.clear()
        self.deployments.clear()
        self.asked.clear()
        self.pause, self.lost, self.dying = 0.0, 0, 0

    # What is asked ---------------------------------------------------------------------------------------------------

    def rows(self) -> Iterator[tuple[str, str, str, Callable[..., Answer]]]:
        """What the resource manager answers: method, kind, what follows in the path, and by what."""
        kind, one, below = "batchEndpoints", "/([^/]+)", "/([^/]+)/deployments"
        yield "GET", kind, one, lambda _, name: (200, self._endpoint(name), {})
        yield "PUT", kind, one, lambda body, name: self.put(body, name)
        yield "GET", kind, below, lambda _, name: (200, {"value": self._of(name), "nextLink": None}, {})
        yield "GET", kind, f"{below}{one}", lambda _, *key: (200, self._deployment(*key), {})
        yield "PUT", kind, f"{below}{one}", lambda body, *key: self.deploy(body, *key)
        yield "DELETE", kind, f"{below}{one}", lambda _, *key: self.remove(*key)

    def routes(self) -> Iterator[tuple[str, str, Callable[..., Answer]]]:
        """What is asked elsewhere, with a token for Azure ML: method, path and by what."""
        yield "POST", "/batch/([^/]+)/jobs", self._invoked
        listing = re.escape(f"{LISTING}{self.service.root}/batchEndpoints/")
        yield "GET", f"{listing}([^/]+)/jobs", self._listed

    def others(self) -> Iterator[tuple[str, str, str, Callable[..., Answer]]]:
        """What is answered beside the workspace: method, what it is, its path, and by what."""
        path = f"{re.escape(self._operations_at)}/([^/]+)"
        yield "GET", "operations", path, lambda _, name: (200, self._operation(name), {"Retry-After": "0.1"})

    @property
    def _operations_at(self) -> str:
        subscription = self.service.root.split("/resourceGroups/")[0]
        return f"{subscription}/providers/Microsoft.MachineLearningServices/locations/westeurope/mfeOperationResults"

    def put(self, body: Any, name: str) -> Answer:
        """Makes an endpoint, or changes it."""
        held("BatchEndpoint", body)
        _named(name, "endpoint")
        self._free(name)
        default = (body["properties"].get("defaults") or {}).get("deploymentName")
        if default is not None:
            self._deployment(name, default)
        if body["properties"]["authMode"].lower() != "aadtoken":
            raise Refused(400, "UserError", "Batch endpoints take AADToken alone.")
        path = f"{self.service.root}/batchEndpoints/{name}"
        more = {"scoringUri": f"{self.service.url}/batch/{name}/jobs", "provisioningState": "Succeeded"}
        there = name in self.endpoints
        self.endpoints[name] = {
            **named(path), "location": body["location"], "tags": body.get("tags") or {},
            "properties": {**body["properties"], **more},
        }  # fmt: skip
        return self._long(200 if there else 201, name, self.endpoints[name])

    def deploy(self, body: Any, endpoint: str, name: str) -> Answer:
        """Makes a deployment, or changes it."""
        held("BatchDeployment", body)
        _named(name, "deployment")
        self._endpoint(endpoint)
        self._free(endpoint)
        service, asked = self.service, body["properties"]
        if (endpoint, name) not in self.deployments and len(self._of(endpoint)) >= MOST:
            raise Refused(400, "UserError", f"The endpoint {endpoint} has {MOST} deployments already.")
        if asked.get("compute", "").rsplit("/", 1)[-1] not in service.clusters:
            raise Refused(400, "UserError", f"Unknown compute target {asked.get('compute')!r}.")
        self._asset("models", (asked.get("model") or {}).get("assetId"))
        self._asset("environments", asked.get("environmentId"))
        code = asked.get("codeConfiguration") or {}
        if code.get("scoringScript") not in service.codes.names(self._code(code.get("codeId"))):
            raise Refused(400, "UserError", f"The scoring script {code.get('scoringScript')!r} is not in the code.")
        path = f"{service.root}/batchEndpoints/{endpoint}/deployments/{name}"
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + len(self.deployments)))
        made = named(path)
        there = self.deployments.get((endpoint, name), made)
        self.deployments[endpoint, name] = {
            **made, "systemData": {**there["systemData"], "createdAt": moment},
            "location": body["location"], "tags": body.get("tags") or {},
            "properties": {**asked, "provisioningState": "Succeeded"},
        }  # fmt: skip
        return self._long(200 if there is not made else 201, endpoint, self.deployments[endpoint, name])

    def remove(self, endpoint: str, name: str) -> Answer:
        """Deletes a deployment, unless it is the default one."""
        self._deployment(endpoint, name)
        self._free(endpoint)
        if (self._endpoint(endpoint)["properties"].get("defaults") or {}).get("deploymentName") == name:
            raise Refused(409, "UserError", f"The deployment {name} is the default one and cannot be deleted.")
        del self.deployments[endpoint, name]
        return self._long(202, endpoint, None)

    def _of(self, endpoint: str) -> list[dict[str, Any]]:
        self._endpoint(endpoint)
        return [one for key, one in self.deployments.items() if key[0] == endpoint]

    def _endpoint(self, name: str) -> dict[str, Any]:
        if name not in self.endpoints:
            raise not_found(f"batchEndpoints/{name}")
        return self.endpoints[name]

    def _deployment(self, endpoint: str, name: str) -> dict[str, Any]:
        if (endpoint, name) not in self.deployments:
            raise not_found(f"batchEndpoints/{endpoint}/deployments/{name}")
        return self.deployments[endpoint, name]

    def _asset(self, kind: str, path: str | None) -> dict[str, Any]:
        found = re.search(rf"/{kind}/([^/]+)/versions/([^/]+)$", path or "")
        if found is None or (kind, *found.groups()) not in self.service.assets.there:
            raise Refused(400, "UserError", f"{path!r} is not among the {kind} of this workspace.")
        return self.service.assets.there[(kind, *found.groups())]

    def _parts(self, settings: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        """The code of a deployment, and where its model lies."""
        model = self._asset("models", settings["model"]["assetId"])
        return self._code(settings["codeConfiguration"]["codeId"]), model["properties"]["modelUri"]

    def _code(self, path: str | None) -> dict[str, Any]:
        found = re.search(r"/codes/([^/]+)/versions/([^/]+)$", path or "")
        if found is None:
            raise Refused(400, "UserError", f"{path!r} is no code.")
        return self.service.codes.get(*found.groups())

    def _free(self, endpoint: str) -> None:
        """Refuses a change while there is another."""
        if time.monotonic() < self._busy.get(endpoint, 0.0):
            raise Refused(409, "Conflict", f"The endpoint {endpoint} is being changed. Wait until that has ended.")

    def _long(self, status: int, endpoint: str, made: Any) -> Answer:
        """An answer that is true in a moment."""
        operation = uuid.uuid4().hex
        self._operations[operation] = self._busy[endpoint] = time.monotonic() + 0.1
        where = f"{self.service.url}{self._operations_at}/{operation}?api-version=2023-10-01"
        return status, made, {"Azure-AsyncOperation": where}

    def _operation(self, name: str) -> dict[str, Any]:
        return {"name": name, "status": "Succeeded" if time.monotonic() > self._operations[name] else "InProgress"}

    # Jobs ------------------------------------------------------------------------------------------------------------

    def _listed(self, _: Any, headers: Mapping[str, str], __: Any, endpoint: str) -> Answer:
        self.service.known(headers, ml=True)
        self._endpoint(endpoint)
        jobs = [
            {"id": f"/jobs/{name}", "name": name, "properties": {"status": self.service.jobs.all[name].status}}
            for name, (of, *_) in self.asked.items()
            if of == endpoint
        ]
        return 200, {"value": jobs, "nextLink": None}, {}

    def _invoked(self, _: Any, headers: Mapping[str, str], body: Any, endpoint: str) -> Answer:
        self.service.known(headers, ml=True)
        self.service.calls.append("POST batchEndpoints/jobs")
        where = self._endpoint(endpoint)
        wanted = headers.get("azureml-model-deployment")
        name = wanted or (where["properties"].get("defaults") or {}).get("deploymentName")
        if (endpoint, name) not in self.deployments:
            raise Refused(
                424,
                "UserError",
                "No valid deployments to route to. Please check that the endpoint has at least one deployment with "
                "positive weight values or use a deployment specific header to route.",
            )
        asked = body["properties"]
        given = list((asked.get("inputData") or {}).values())
        made = list((asked.get("outputData") or {}).values())
        if len(given) != 1 or len(made) > 1:
            raise Refused(400, "UserError", "A model deployment takes one data input and has one output.")
        for kind, one in [*(("jobInputType", one) for one in given), *(("jobOutputType", one) for one in made)]:
            if one.get(kind) not in TYPES:
                raise Refused(400, "UserError", f"{one.get(kind)} is none of the supported types {TYPES}")
            self.service.jobs.place(one["uri"])
        job = self._begin(endpoint, name, asked)
        if self.lost:
            self.lost -= 1
            raise Refused(500, "InternalServerError", "The answer got lost.")
        return 201, {"id": f"/jobs/{job}", "name": job, "type": "jobs", "properties": {"status": "Preparing"}}, {}

    def _begin(self, endpoint: str, deployment: str, asked: dict[str, Any]) -> str:
        name, jobs = f"batchjob-{uuid.uuid4()}", self.service.jobs
        settings = self._deployment(endpoint, deployment)["properties"]
        about = {
            "jobType": "Pipeline", "computeId": settings["compute"], "experimentName": endpoint, "jobs": {},
            "inputs": {key: {"jobInputType": _snake(one["jobInputType"]), "uri": one["uri"]}
                       for key, one in asked["inputData"].items()},
        }  # fmt: skip
        job = FakeJob(name, about, self.service.folder / name, status="Preparing")
        step = FakeScoring(str(uuid.uuid4()), about, self.service.folder / name / "step", parent=name)
        jobs.all |= {job.name: job, step.name: step}
        self.asked[name] = (endpoint, deployment, asked)
        thread = threading.Thread(target=self._run, args=(job, step, settings, asked), daemon=True)
        self._threads.append(thread)
        thread.start()
        return name

    def _run(self, job: FakeJob, step: FakeJob, settings: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
        why = ""
        try:
            job.status = "Running"
            while self.service.clusters[step.cluster].errors and not job.stopping:
                time.sleep(0.05)
            Driver(self.service, self._parts(settings), job, step, settings, asked).run()
        except CannotStart as error:
            why = str(error)
        except Exception as error:
            why = repr(error)
        for one in (step, job):
            one.ended, one.error = time.time(), {"code": "UserError", "message": why} if why else None
            one.status = "Canceled" if job.stopping else "Failed" if why else "Completed"


def _named(name: str, what: str) -> None:
    if not re.fullmatch(NAMES, name):
        raise Refused(
            400,
            "UserError",
            f"{name!r} is no name of a batch {what}: 3 to 32 letters, digits and hyphens, a letter first.",
        )


def _snake(kind: str) -> str:
    return {"UriFolder": "uri_folder", "UriFile": "uri_file"}[kind]

"""The command jobs of a workspace: each runs its real command, with its folders where Azure ML would mount them."""

from __future__ import annotations

import math
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fakes import blob
from fakes.azureml_refusals import Refused, not_found
from fakes.azureml_shapes import problems
from project import free_port

if TYPE_CHECKING:
    from fakes.azureml import AzureML

GRACE_S = 5.0
"""Seconds that a container has to end when it is told to."""
ENDED = ("Completed", "Failed", "Canceled")
LOG = "user_logs/std_log.txt"
MUTABLE = ("description", "tags", "displayName", "properties", "isArchived")
"""What of a job may be changed by asking for one of its name."""
LONG = "subscriptions/[^/]+/resource[gG]roups/[^/]+/workspaces/[^/]+/"
"""What an address of a datastore may say of its workspace."""
INSTALLED = Path(__file__).parents[2]


@dataclass
class FakeJob:
    """One job and its container.

    Attributes:
        asked: The request's properties.
        processes: One on each of its machines, for each process that is asked for.
        ending: What ends them.
        starts: How often its containers were started.
    """

    name: str
    asked: dict[str, Any]
    folder: Path
    status: str = "Queued"
    error: dict[str, str] | None = None
    started: float | None = None
    ended: float | None = None
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    ending: list[threading.Thread] = field(default_factory=list)
    starts: int = 0
    stopping: bool = False
    interrupting: bool = False
    parent: str | None = None
    signature: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def cluster(self) -> str:
        return self.asked["computeId"].rsplit("/", 1)[-1]

    @property
    def machines(self) -> int:
        return (self.asked.get("resources") or {}).get("instanceCount") or 1

    @property
    def world(self) -> int:
        """How many processes there are, on all machines."""
        return self.machines * ((self.asked.get("distribution") or {}).get("processCountPerInstance") or 1)

    @property
    def prints(self) -> list[str]:
        """What each process prints to."""
        several = bool(self.asked.get("distribution"))
        return [LOG.replace(".txt", f"_process_{rank}.txt") if several else LOG for rank in range(self.world)]

    def logs(self) -> dict[str, Path]:
        """Its log files by name."""
        return {log: self.folder / log for log in self.prints if (self.folder / log).exists()}


class CannotStart(Exception):
    """A job that fails before its command begins."""


class Jobs:
    """The jobs of a workspace, by name."""

    def __init__(self, service: AzureML) -> None:
        self._service = service
        self.all: dict[str, FakeJob] = {}
        self._threads: list[threading.Thread] = []
        self._lock = threading.RLock()

    # What is asked ---------------------------------------------------------------------------------------------------

    def put(self, name: str, body: Any) -> tuple[int, Any, dict[str, str]]:
        """Begins a job, or finds the one of the name if it is the same."""
        found = problems("JobBase", body)
        if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9\-_]{0,254}", name):
            found.append(f"{name!r} is no name of a job")
        if found:
            raise Refused(400, "UserError", f"The request is invalid: {'; '.join(found)}")
        asked = body["properties"]
        if asked["jobType"] != "Command":
            raise Refused(400, "UserError", f"{asked['jobType']} is none of the jobs that this stand-in runs")
        with self._lock:
            there = self.all.get(name)
            if there is not None:
                changed = [key for key in {*asked, *there.asked} - {*MUTABLE} if asked.get(key) != there.asked.get(key)]
                if changed:
                    raise Refused(
                        400,
                        "UserError",
                        "A job with this name already exists. If you are trying to create a new job, use a different "
                        f"name. If you are trying to update an existing job, the existing job's {changed[0]} cannot be "
                        "changed. Only description, tags, displayName, properties, and isArchived can be updated.",
                    )
                return 200, self.get(name), {}
            self.check(asked)
            self.begin(name, asked)
        return 201, self.get(name), {}

    def begin(self, name: str, asked: dict[str, Any]) -> FakeJob:
        """Begins a job that there is nothing against."""
        job = self.all[name] = FakeJob(name, asked, self._service.folder / name)
        thread = threading.Thread(target=self._run, args=(job,), daemon=True)
        self._threads.append(thread)
        thread.start()
        return job

    def check(self, asked: Mapping[str, Any]) -> None:
        """What Azure ML holds against a job, beyond its shape."""
        service = self._service
        if asked.get("computeId", "").rsplit("/", 1)[-1] not in service.clusters:
            raise Refused(400, "UserError", f"Unknown compute target {asked.get('computeId')!r}.")
        machines = (asked.get("resources") or {}).get("instanceCount") or 1
        most = service.clusters[asked["computeId"].rsplit("/", 1)[-1]].most
        if machines > most:
            raise Refused(400, "UserError", f"Requested {machines} nodes, and the cluster has {most} nodes at most.")
        kind = (asked.get("distribution") or {}).get("distributionType")
        if kind not in ((None, "PyTorch") if machines == 1 else ("PyTorch",)):
            raise Refused(400, "UserError", f"{kind} is none of the distributions that this stand-in has")
        environment = re.search(r"/environments/([^/]+)/versions/([^/]+)$", asked["environmentId"])
        if environment is None or ("environments", *environment.groups()) not in service.assets.there:
            raise Refused(400, "UserError", f"Environment {asked['environmentId']!r} could not be found.")
        for bindings, folders in ((asked.get("inputs"), "inputs"), (asked.get("outputs"), "outputs")):
            for name, about in (bindings or {}).items():
                if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name):
                    raise Refused(400, "UserError", f"{name!r} in {folders} is no name of an input or output")
                if about.get("uri"):
                    self.place(about["uri"])
        for kind, name in re.findall(r"\$\{\{\s*(\w+)\.(\w+)\s*\}\}", asked["command"]):
            if name not in (asked.get(kind) or {}):
                raise Refused(400, "UserError", f"${{{{{kind}.{name}}}}} in the command is not one of the {kind}")

    def get(self, name: str) -> dict[str, Any]:
        """A job as it is."""
        job = self._job(name)
        studio = f"https://ml.stand.in.test/runs/{name}?wsid={self._service.url}"
        services = {"Studio": {"jobServiceType": "Studio", "endpoint": studio}}
        path = f"/jobs/{name}"
        moment = {"createdAt": "2026-01-01T00:00:00Z", "createdBy": "identity", "createdByType": "Application"}
        return {
            **{"id": path, "name": name, "type": "Microsoft.MachineLearningServices/workspaces/jobs"},
            **{"systemData": moment, "properties": {**job.asked, "status": job.status, "services": services}},
        }

    def cancel(self, name: str) -> tuple[int, Any, dict[str, str]]:
        """Tells a job's container to end."""
        job = self._job(name)
        with self._lock:
            if job.status in ENDED:
                raise Refused(400, "UserError", f"Job {name} is in the terminal state {job.status}.")
            job.stopping, job.status = True, "CancelRequested"
        self._end(job)
        return 200, None, {}

    def children(self, _: Mapping[str, str], name: str) -> dict[str, Any]:
        """What the run history has of the jobs that a job is made of."""
        self._job(name)
        return {"value": [self.details(job.name) for job in self if job.parent == name]}

    def details(self, name: str) -> dict[str, Any]:
        """What the run history has of a job."""
        job = self._job(name)
        where = f"{self._service.url}/logs/{quote(name)}"
        logs = {file: f"{where}/{file}?sig={job.signature}" for file in job.logs()}
        return {
            **{"runId": name, "status": job.status, "target": job.cluster, "logFiles": logs},
            "startTimeUtc": moment(job.started),
            "endTimeUtc": moment(job.ended),
            "error": {"error": job.error} if job.error else None,
        }

    def log(
        self, name: str, file: str, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> tuple[int, Any, dict[str, str]]:
        """A file of a job's log, from a byte on, for whoever has its signed address."""
        job = self._job(name)
        if query.get("sig") != job.signature or file not in job.logs():
            raise Refused(403, "AuthenticationFailed", "Server failed to authenticate the request.")
        data, asked = job.logs()[file].read_bytes(), re.fullmatch(r"bytes=(\d+)-", headers.get("Range", ""))
        first = int(asked[1]) if asked else 0
        if asked and first >= len(data):
            raise Refused(416, "InvalidRange", "The range specified is invalid for the current size of the resource.")
        return 206 if asked else 200, data[first:], {"Content-Type": "text/plain"}

    def interrupt(self, name: str) -> None:
        """Takes the machine away; the job is begun again on another, with nothing of what it had."""
        job = self.all[name]
        assert self._service.clusters[job.cluster].low_priority, "only machines of low priority are taken away"
        job.interrupting = True
        self._end(job)

    def _job(self, name: str) -> FakeJob:
        if name not in self.all:
            raise not_found(f"jobs/{name}")
        return self.all[name]

    # A container -----------------------------------------------------------------------------------------------------

    def _run(self, job: FakeJob) -> None:
        try:
            while True:
                while self._service.clusters[job.cluster].errors and not job.stopping:
                    time.sleep(0.05)
                code = -1 if job.stopping else self._container(job)
                if not job.interrupting or job.stopping:
                    break
                job.interrupting, job.status = False, "Queued"
                time.sleep(0.3)
            if job.stopping:
                self._ended(job, "Canceled")
            elif code == 0:
                self._ended(job, "Completed")
            else:
                log = next((log for log, one in zip(job.prints, job.processes, strict=True) if one.poll() == code), LOG)
                why = f"Execution failed. User process 'bash' exited with status code {code}. Please check log file "
                self._ended(job, "Failed", "UserError", f"{why}'{log}' for error details.")
        except CannotStart as error:
            self._ended(job, "Failed", "UserError", str(error))
        except Exception as error:
            self._ended(job, "Failed", "SystemError", repr(error))

    def _ended(self, job: FakeJob, status: str, code: str = "", why: str = "") -> None:
        job.ended, job.error = time.time(), {"code": code, "message": why} if code else None
        job.status = status

    def _container(self, job: FakeJob) -> int:
        shutil.rmtree(job.folder, ignore_errors=True)
        mounts = job.folder / "cap" / "data-capability" / "wd"
        mounts.mkdir(parents=True)
        (job.folder / LOG).parent.mkdir()
        job.status = "Preparing"
        paths: dict[str, str] = {}
        for name, about in (job.asked.get("inputs") or {}).items():
            if about["jobInputType"] == "literal":
                paths[f"inputs.{name}"] = about["value"]
            else:
                paths[f"inputs.{name}"] = str(mounts / f"INPUT_{name}")
                self.fetch(about["uri"], mounts / f"INPUT_{name}")
        outputs: dict[Path, str] = {}
        for name, about in (job.asked.get("outputs") or {}).items():
            folder = mounts / name
            folder.mkdir()
            paths[f"outputs.{name}"] = str(folder)
            outputs[folder] = about.get("uri") or f"azureml://datastores/lake/paths/azureml/{job.name}/{name}/"
        command = re.sub(r"\$\{\{\s*([\w.]+)\s*\}\}", lambda found: paths[found[1]], job.asked["command"])
        if job.stopping:
            return -1
        code = self._process(job, command)
        if code == 0 and not job.stopping:
            job.status = "Finalizing"
            for folder, uri in outputs.items():
                self.upload(folder, uri)
        return code

    def _process(self, job: FakeJob, command: str) -> int:
        """Runs the command in all of the job's processes; returns the status of the one that failed first, or 0."""
        port, limit = free_port(), seconds((job.asked.get("limits") or {}).get("timeout"))
        job.processes = [self._start(job, command, rank, port) for rank in range(job.world)]
        job.status, job.started, job.starts = "Running", job.started or time.time(), job.starts + 1
        if job.stopping or job.interrupting:  # since it was last looked at, when there was nothing to end yet
            self._end(job)
        failed, ends = 0, time.monotonic() + (limit or math.inf)
        while any(process.poll() is None for process in job.processes):
            failed = failed or next((code for process in job.processes if (code := process.poll())), 0)
            if failed or time.monotonic() > ends:
                job.stopping = job.stopping or not failed
                self._end(job)
                for process in job.processes:
                    process.wait()
            time.sleep(0.02)
        while job.ending:
            job.ending.pop().join()
        return failed or next((code for process in job.processes if (code := process.returncode)), 0)

    def _start(self, job: FakeJob, command: str, rank: int, port: int) -> subprocess.Popen[bytes]:
        given = {key: os.environ[key] for key in ("HOME", "OMP_NUM_THREADS", "PYTHONPATH") if key in os.environ}
        identity = job.asked.get("identity") or {}
        each = job.world // job.machines
        env = {
            **given,
            **self._service.certificate.environment,
            **(job.asked.get("environmentVariables") or {}),
            **self._service.metrics.environment(job.name),
            # As on a machine of Azure ML's: a job without an identity of its own gets no tokens.
            **({"MSI_ENDPOINT": f"{self._service.url}/msi", "MSI_SECRET": self._service.secret}
               if identity.get("identityType") == "Managed" else {}),
            **({"WORLD_SIZE": str(job.world), "RANK": str(rank), "LOCAL_RANK": str(rank % each),
                "NODE_RANK": str(rank // each), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
               if job.asked.get("distribution") else {}),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "AZUREML_RUN_ID": job.name,
        }  # fmt: skip
        with (job.folder / job.prints[rank]).open("wb") as log:
            return subprocess.Popen(
                ["bash", "-c", command], cwd=INSTALLED, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip

    def _end(self, job: FakeJob) -> None:
        """As the service does it: a word first, and after a while an end."""

        def later(process: subprocess.Popen[bytes]) -> None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
                ends = time.monotonic() + GRACE_S
                # The shell goes at once; the program that it started has its time to end in good order.
                while time.monotonic() < ends:
                    process.poll()
                    os.killpg(process.pid, 0)
                    time.sleep(0.02)
                os.killpg(process.pid, signal.SIGKILL)

        for process in job.processes:
            if process.poll() is None:
                job.ending.append(threading.Thread(target=later, args=(process,), daemon=True))
                job.ending[-1].start()

    def place(self, uri: str) -> tuple[str, str]:
        """The container and the prefix that an address means."""
        found = re.fullmatch(rf"azureml://(?:{LONG})?datastores/([^/]+)/paths/(.*)", uri)
        if found is None:
            raise Refused(400, "UserError", f"{uri!r} is no address of a datastore")
        if found[1] not in self._service.datastores:
            raise Refused(400, "UserError", f"Could not find datastore {found[1]!r} in this workspace.")
        return self._service.datastores[found[1]], found[2].strip("/")

    def _store(self, uri: str) -> Any:
        from obstore.store import AzureStore

        container, prefix = self.place(uri)
        return AzureStore(
            container, prefix=prefix, account_name=blob.ACCOUNT, account_key=blob.KEY,
            endpoint=f"{self._service.azurite}/{blob.ACCOUNT}", client_options={"allow_invalid_certificates": True},
        )  # fmt: skip

    def fetch(self, uri: str, folder: Path) -> None:
        """Shows in a folder what lies at an address: the one file of the name, or all below it."""
        import obstore

        store, count = self._store(uri.rpartition("/")[0]), 0
        with suppress(FileNotFoundError):
            name = uri.rpartition("/")[2]
            if name:
                (folder / name).write_bytes(bytes(obstore.get(store, name).bytes()))
                return
        store = self._store(uri)
        for batch in obstore.list(store):
            for item in batch:
                count += 1
                target = folder / item["path"]
                target.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):  # deleted since it was listed
                    target.write_bytes(bytes(obstore.get(store, item["path"]).bytes()))
        if not count:
            raise CannotStart(f"Failed to mount {uri}: DataAccessError(NotFound): there is nothing at this path")

    def upload(self, folder: Path, uri: str) -> None:
        """Copies a folder's files to an address."""
        import obstore

        for path in folder.rglob("*"):
            if path.is_file():
                obstore.put(self._store(uri), path.relative_to(folder).as_posix(), path)

    def end(self) -> None:
        """Ends everything that runs."""
        for job in self.all.values():
            job.stopping = True
            self._end(job)
        for thread in self._threads:
            thread.join(timeout=30)

    def __iter__(self) -> Iterator[FakeJob]:
        return iter(list(self.all.values()))


def moment(seconds: float | None) -> str | None:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat() if seconds else None


def seconds(duration: str | None) -> float | None:
    """Seconds of a duration in ISO 8601; None for no limit."""
    if not duration:
        return None
    found = re.fullmatch(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:([\d.]+)S)?)?", duration)
    if found is None:
        raise Refused(400, "UserError", f"{duration!r} is no duration")
    days, hours, minutes, rest = (float(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest

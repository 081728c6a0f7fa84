"""SageMaker on this machine: jobs that run the real program in the container's layout, and refuse what SageMaker does.

Every request is held against botocore's model of the service. A job's inputs are copied from the lake, its container is
a process whose `/opt/ml` is a folder of ours, its log goes to CloudWatch, and its checkpoints go to the lake and come
back from there after an interruption. What S3, CloudWatch and IAM do is done by a moto server.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from fakes import s3
from fakes.agents import Agents
from fakes.endpoints import Endpoints, Refused
from fakes.ground_truth import TEAM, LabelingJobs
from fakes.hosts import Host, environment, hosts_of, run_all, told_to
from fakes.shapes import problems
from fakes.transform import TransformJobs
from fakes.tuning import TuningJobs

ACCOUNT = "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/detection-jobs"
IMAGE = f"{ACCOUNT}.dkr.ecr.{s3.REGION}.amazonaws.com/detection-programs:1"
SERVING_IMAGE = IMAGE.replace("programs", "serving")
INSTANCES = {"ml.m5.xlarge": 4, "ml.g5.xlarge": 2, "ml.c5.xlarge": 4}
"""What the account may have of each type; of others nothing."""
GRACE_S = 5.0
"""Seconds that a container has to end when it is told to; SageMaker gives 120."""
ROOT = Path(__file__).parents[2]
TRAIN = ROOT / "containers" / "train"
"""What the image has under the one word that a trial of a tuning job is started with."""
KINDS = {"TrainingJob": "TrainingJobs", "ProcessingJob": "ProcessingJobs"}


@dataclass
class FakeJob:
    """One job and its container.

    Attributes:
        kind: `TrainingJob` or `ProcessingJob`.
        asked: The request.
        starts: How often its containers were started.
        hosts: Its instances, since it was started last.
    """

    kind: str
    asked: Mapping[str, Any]
    folder: Path
    status: str = "InProgress"
    secondary: str = "Starting"
    failure: str = ""
    message: str = ""
    began: float = field(default_factory=time.time)
    started: float | None = None
    ended: float | None = None
    hosts: list[Host] = field(default_factory=list)
    starts: int = 0
    stopping: bool = False
    interrupting: bool = False
    late: bool = False
    log: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.asked[f"{self.kind}Name"]

    @property
    def type_and_count(self) -> tuple[str, int]:
        part = self.asked.get("ResourceConfig") or self.asked["ProcessingResources"]["ClusterConfig"]
        return part["InstanceType"], part["InstanceCount"]


class SageMaker:
    """The service, over a moto server.

    Attributes:
        jobs: Every job by its name.
        calls: The operations that were asked for, in order.
        no_capacity: Instance types that are not to be had just now.
        silent: How many questions to come are not answered.
        account: Whose models moto shows; another one has none yet.
    """

    def __init__(self, folder: Path, moto: str) -> None:
        """Takes a folder for the containers, and the address of the moto server."""
        import boto3
        from botocore.session import get_session

        self.folder, self.moto, self.url = folder, moto, ""
        self.jobs: dict[str, FakeJob] = {}
        self.calls: list[str] = []
        self.no_capacity: set[str] = set()
        self.account, self.silent = ACCOUNT, 0
        self._agents = Agents(moto)
        self._lock = threading.RLock()
        self._threads: list[threading.Thread] = []
        self.tuning = TuningJobs(self)
        self._model = get_session().get_service_model("sagemaker")
        self.environment = s3.environment(moto)
        self.endpoints = Endpoints(folder / "endpoints", moto, SERVING_IMAGE, ROLE, INSTANCES)
        self._logs = boto3.client(
            "logs", endpoint_url=moto, region_name=s3.REGION, aws_access_key_id="test", aws_secret_access_key="test"
        )
        for group in KINDS.values():
            with suppress(self._logs.exceptions.ResourceAlreadyExistsException):
                self._logs.create_log_group(logGroupName=f"/aws/sagemaker/{group}")
        self.labeling = LabelingJobs(self._agents, ROLE)
        self.transform = TransformJobs(self.endpoints, self._agents, self._logs, INSTANCES)

    # The service -----------------------------------------------------------------------------------------------------

    def answer(self, operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        """Does what is asked, or raises `Refused`."""
        model = self._model.operation_model(operation)
        found = list(problems(model.input_shape, asked, ""))
        if found:
            more = f"{len(found)} validation error{'s' if len(found) > 1 else ''} detected: {'; '.join(found)}"
            raise Refused("ValidationException", more)
        with self._lock:
            self.calls.append(operation)
            if operation.startswith("Describe") and self.silent > 0:
                self.silent -= 1
                raise Refused("AccessDeniedException", "User is not authorized to perform this operation")
        verb, _, kind = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", operation, count=1).partition(" ")
        if kind in KINDS:
            return getattr(self, verb.lower())(kind, asked)
        if operation in self.transform.OPERATIONS:
            return self.transform.answer(operation, asked)
        if operation in self.labeling.OPERATIONS:
            return self.labeling.answer(operation, asked)
        if operation == "DeleteModel" and self.transform.uses(asked["ModelName"]):
            raise Refused("ValidationException", f"{asked['ModelName']} is in use")
        if operation in self.endpoints.OPERATIONS:
            return self.endpoints.answer(operation, asked)
        if kind in self.tuning.kinds:
            return self.tuning.answer(operation, asked)
        return self._passed_on(operation, asked)

    def _passed_on(self, operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        """What moto has of the service."""
        there = http.client.HTTPConnection(urlparse(self.moto).netloc, timeout=60)
        scope = f"Credential=test/20260101/{s3.REGION}/sagemaker/aws4_request"
        headers = {
            "X-Amz-Target": f"SageMaker.{operation}",
            "Content-Type": "application/x-amz-json-1.1",
            "Authorization": f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0",
            "x-moto-account-id": self.account,
        }
        there.request("POST", "/", json.dumps(asked), headers)
        answer = there.getresponse()
        told = json.loads(answer.read() or b"{}")
        there.close()
        if answer.status != 200:
            raise Refused(told.get("__type", "InternalFailure"), told.get("message") or told.get("Message") or "")
        return told

    def create(self, kind: str, asked: dict[str, Any]) -> dict[str, Any]:
        """Begins a job."""
        name = asked[f"{kind}Name"]
        job = FakeJob(kind, asked, self.folder / name)
        with self._lock:
            if name in self.jobs:
                raise Refused(
                    "ResourceInUse",
                    f"{kind} names must be unique within an AWS account and region, and a {kind} with this name "
                    f"already exists ({self.arn(job)})",
                )
            if asked["RoleArn"] != ROLE:
                raise Refused(
                    "ValidationException",
                    f"Could not assume role {asked['RoleArn']}. Please ensure that the role exists and allows "
                    "principal 'sagemaker.amazonaws.com' to assume the role.",
                )
            image = (asked.get("AlgorithmSpecification") or {}).get("TrainingImage") or asked.get(
                "AppSpecification", {}
            ).get("ImageUri")
            if image != IMAGE:
                raise Refused("ValidationException", f"Cannot find image {image} in the repository")
            kind_of, count = job.type_and_count
            if count > INSTANCES.get(kind_of, 0):
                raise Refused(
                    "ResourceLimitExceeded",
                    f"The account-level service limit '{kind_of} for {kind} usage' is {INSTANCES.get(kind_of, 0)} "
                    f"Instances, with current utilization of 0 Instances and a request delta of {count} Instances. "
                    "Please use AWS Service Quotas to request an increase for this quota.",
                )
            if kind == "TrainingJob":
                check_training(asked)
            self.jobs[name] = job
        thread = threading.Thread(target=self._run, args=(job,), daemon=True)
        self._threads.append(thread)
        thread.start()
        return {f"{kind}Arn": self.arn(job)}

    def describe(self, kind: str, asked: dict[str, Any]) -> dict[str, Any]:
        """A job as it is."""
        job = self._job(kind, asked)
        told: dict[str, Any] = {
            **{key: value for key, value in job.asked.items() if key != "Tags"},
            f"{kind}Arn": self.arn(job),
            f"{kind}Status": job.status,
            "CreationTime": job.began,
            "LastModifiedTime": time.time(),
        }
        if job.failure:
            told["FailureReason"] = job.failure
        if kind == "TrainingJob":
            told["SecondaryStatus"] = job.secondary
            if job.ended and job.started:
                told["TrainingTimeInSeconds"] = told["BillableTimeInSeconds"] = max(1, round(job.ended - job.started))
                told["TrainingEndTime"] = job.ended
        else:
            told |= {"ExitMessage": job.message} if job.message else {}
            told |= {"ProcessingStartTime": job.started} if job.started else {}
            told |= {"ProcessingEndTime": job.ended} if job.ended else {}
        return told

    def stop(self, kind: str, asked: dict[str, Any]) -> dict[str, Any]:
        """Tells a job's container to end."""
        job = self._job(kind, asked)
        with self._lock:
            if job.status not in ("InProgress", "Stopping"):
                raise Refused(
                    "ValidationException",
                    f"The request was rejected because the {kind} is in status {job.status}",
                )
            job.stopping, job.status, job.secondary = True, "Stopping", "Stopping"
        self._end(job)
        return {}

    def interrupt(self, name: str) -> None:
        """Takes the spot instance away; the job goes on with another, from its checkpoint."""
        job = self.jobs[name]
        assert job.asked.get("EnableManagedSpotTraining"), "only spot instances are taken away"
        job.interrupting = True
        self._end(job)

    def arn(self, job: FakeJob) -> str:
        return (
            f"arn:aws:sagemaker:{s3.REGION}:{ACCOUNT}:{re.sub('(?<=[a-z])(?=[A-Z])', '-', job.kind).lower()}/{job.name}"
        )

    def _job(self, kind: str, asked: Mapping[str, Any]) -> FakeJob:
        job = self.jobs.get(asked[f"{kind}Name"])
        if job is None or job.kind != kind:
            if kind == "TrainingJob":
                raise Refused("ValidationException", "Requested resource not found.")
            raise Refused("ValidationException", f"Could not find requested job with name: {asked[f'{kind}Name']}")
        return job

    # A container -----------------------------------------------------------------------------------------------------

    def _run(self, job: FakeJob) -> None:
        try:
            while True:
                if job.type_and_count[0] in self.no_capacity:
                    raise RuntimeError(
                        "CapacityError: Unable to provision requested ML compute capacity due to "
                        "InsufficientInstanceCapacity error. Please retry using a different ML instance type or after "
                        "some time."
                    )
                decides = self._containers(job)
                if job.interrupting and not job.stopping:
                    job.secondary, job.interrupting = "Interrupted", False
                    time.sleep(0.5)
                    job.secondary = "Starting"
                    continue
                break
            said = decides.folder / "output" / ("failure" if job.kind == "TrainingJob" else "message")
            why = said.read_text()[:1024] if said.exists() else ""
            job.ended = time.time()
            if job.stopping:
                job.status = job.secondary = "Stopped"
            elif job.late:
                job.secondary = "MaxRuntimeExceeded"
                job.status = "Stopped"
            elif decides.code == 0:
                job.message = why
                job.status = job.secondary = "Completed"
            else:
                job.message = why
                job.failure = f"AlgorithmError: {why}, exit code: {decides.code}"
                job.status = job.secondary = "Failed"
        except Exception as error:
            job.ended = time.time()
            job.failure = str(error)
            job.status = job.secondary = "Stopped" if job.stopping else "Failed"

    def _containers(self, job: FakeJob) -> Host:
        """Runs the job's instances; gives the one that decides how it has ended."""
        job.starts += 1
        job.hosts = hosts_of(job.folder, job.type_and_count[1])
        told = environment(job.hosts, os.environ)
        return run_all(job.hosts, lambda host: self._container(job, host, told), lambda host: self._end_host(host))

    def _container(self, job: FakeJob, host: Host, about: Mapping[str, str]) -> int:
        shutil.rmtree(host.folder, ignore_errors=True)
        host.folder.mkdir(parents=True)
        job.secondary = "Downloading"
        for local, source in self._inputs(job, host):
            self._agents.copy_in(local, source)
        checkpoints = job.asked.get("CheckpointConfig")
        kept: dict[str, int] = {}
        if checkpoints:
            self._agents.sync_in(checkpoints["S3Uri"], self._inside(host, checkpoints["LocalPath"]), kept)
        self._inside(host, "/opt/ml/output").mkdir(parents=True, exist_ok=True)
        if job.stopping:
            return 1
        entry = job.asked.get("AlgorithmSpecification") or job.asked["AppSpecification"]
        words = [*entry.get("ContainerEntrypoint", [str(TRAIN)]), *entry.get("ContainerArguments", [])]
        told = dict(job.asked.get("Environment", {}))
        # A container has a /opt/ml of its own; a process of this machine is told of another folder.
        words = [str(self._inside(host, word)) if word.startswith("/opt/ml") else word for word in words]
        told = {
            name: str(self._inside(host, word)) if word.startswith("/opt/ml") else word for name, word in told.items()
        }
        if job.kind == "TrainingJob":
            given = self._inside(host, "/opt/ml/input/config/hyperparameters.json")
            given.parent.mkdir(parents=True)
            given.write_text(json.dumps(job.asked.get("HyperParameters", {})))
            told["TRAINING_JOB_NAME"] = job.name
            told_to(host, job.hosts, job.type_and_count[0])
        words[0] = sys.executable if words[0] == "python" else words[0]
        env = {
            **{key: os.environ[key] for key in ("PATH", "HOME", "OMP_NUM_THREADS", "PYTHONPATH") if key in os.environ},
            **self.environment,
            **told,
            **about,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "SAGEMAKER_BASE_DIR": str(host.folder),
        }
        job.secondary, job.started = "Training", job.started or time.time()
        host.process = subprocess.Popen(
            words,
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        if (
            job.stopping or job.interrupting or host.told_to_end
        ):  # since it was last looked at, when there was nothing to end yet
            self._end_host(host)
        over = threading.Event()

        def sync() -> None:
            while not over.wait(0.2):
                self._agents.sync_out(checkpoints["S3Uri"], self._inside(host, checkpoints["LocalPath"]), kept)

        syncing = threading.Thread(target=sync, daemon=True) if checkpoints else None
        if syncing:
            syncing.start()
        most = job.asked.get("StoppingCondition", {}).get("MaxRuntimeInSeconds", 86_400)
        limit = threading.Timer(most, self._too_late, (job,))
        limit.start()
        self._log(job, host)
        code = host.process.wait()
        limit.cancel()
        over.set()
        if syncing:
            syncing.join()
            self._agents.sync_out(checkpoints["S3Uri"], self._inside(host, checkpoints["LocalPath"]), kept)
        return code

    def _too_late(self, job: FakeJob) -> None:
        job.late = True
        self._end(job)

    def _end(self, job: FakeJob) -> None:
        for host in job.hosts:
            self._end_host(host)

    def _end_host(self, host: Host) -> None:
        """As the service does it: a word first, and after a while an end."""
        process, host.told_to_end = host.process, True
        if process is None or process.poll() is not None:
            return

        def later() -> None:
            with suppress(subprocess.TimeoutExpired, ProcessLookupError):
                process.terminate()
                process.wait(timeout=GRACE_S)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        threading.Thread(target=later, daemon=True).start()

    def _log(self, job: FakeJob, host: Host) -> None:
        group, stream = f"/aws/sagemaker/{KINDS[job.kind]}", f"{job.name}/{host.name}-{int(time.time() * 1000)}"
        self._logs.create_log_stream(logGroupName=group, logStreamName=stream)
        waiting: list[dict[str, Any]] = []
        sent = time.monotonic()

        def send() -> None:
            if waiting:
                self._logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=list(waiting))
                waiting.clear()

        assert host.process is not None
        assert host.process.stdout is not None
        with host.process.stdout as lines:
            for line in lines:
                job.log.append(line)
                if line.strip():
                    waiting.append({"timestamp": int(time.time() * 1000), "message": line.rstrip("\n")})
                if time.monotonic() - sent > 0.3:
                    send()
                    sent = time.monotonic()
        send()

    def _inside(self, host: Host, path: str) -> Path:
        return host.folder / Path(path).relative_to("/opt/ml")

    def _inputs(self, job: FakeJob, host: Host) -> Iterator[tuple[Path, Mapping[str, Any]]]:
        for item in job.asked.get("InputDataConfig", []):
            yield self._inside(host, f"/opt/ml/input/data/{item['ChannelName']}"), item["DataSource"]["S3DataSource"]
        for item in job.asked.get("ProcessingInputs", []):
            yield self._inside(host, item["S3Input"]["LocalPath"]), item["S3Input"]

    # The server ------------------------------------------------------------------------------------------------------

    @property
    def settings(self) -> Mapping[str, str]:
        """What a filled `.env` says of it; S3 and CloudWatch are told of apart."""
        return {
            "AWS_ENDPOINT_URL_SAGEMAKER": self.url,
            "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": self.url,
            "DETECTION_AWS_ROLE": ROLE,
            "DETECTION_AWS_PROGRAMS_IMAGE": IMAGE,
            "DETECTION_AWS_SERVING_IMAGE": SERVING_IMAGE,
            "DETECTION_AWS_WORKTEAM": TEAM,
        }

    @contextmanager
    def serve(self) -> Iterator[None]:
        """Answers on a port of this machine."""
        this = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                invoked = re.fullmatch(r"/endpoints/([^/]+)/invocations", self.path)
                if invoked:
                    this.calls.append("InvokeEndpoint")
                    self.say(*this.endpoints.invoke(invoked[1], content, dict(self.headers)))
                    return
                body = json.loads(content or b"{}")
                operation = self.headers.get("X-Amz-Target", "").rpartition(".")[2]
                try:
                    status, told = 200, this.answer(operation, body)
                except Refused as error:
                    status, told = 400, {"__type": error.code, "message": str(error)}
                except Exception as error:
                    status, told = 500, {"__type": "InternalFailure", "message": f"{operation}: {error!r}"}
                self.say(status, json.dumps(told).encode(), {"Content-Type": "application/x-amz-json-1.1"})

            def say(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            self.url = f"http://127.0.0.1:{server.server_address[1]}"
            self.endpoints.environment = {
                **{key: os.environ[key] for key in ("PATH", "HOME", "OMP_NUM_THREADS") if key in os.environ},
                **self.environment,
                **self.settings,
            }
            yield
        finally:
            self.transform.clear()
            self.endpoints.clear()
            self.tuning.end()
            for job in self.jobs.values():
                job.stopping = True
                self._end(job)
            for thread in self._threads:
                thread.join(timeout=30)
            server.shutdown()
            server.server_close()


def check_training(asked: Mapping[str, Any]) -> None:
    """What SageMaker holds against a training job, beyond the shapes."""
    for part in ("AlgorithmSpecification", "ResourceConfig", "StoppingCondition"):
        if part not in asked:
            raise Refused("ValidationException", f"{part} is required")
    limits = asked["StoppingCondition"]
    if asked.get("EnableManagedSpotTraining"):
        if "MaxWaitTimeInSeconds" not in limits:
            raise Refused(
                "ValidationException", "MaxWaitTimeInSeconds above 0 is required when EnableManagedSpotTraining is true"
            )
        if limits["MaxWaitTimeInSeconds"] < limits["MaxRuntimeInSeconds"]:
            raise Refused(
                "ValidationException",
                "Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to MaxRuntimeInSeconds",
            )
    elif "MaxWaitTimeInSeconds" in limits:
        raise Refused(
            "ValidationException", "MaxWaitTimeInSeconds can only be set when EnableManagedSpotTraining is true"
        )

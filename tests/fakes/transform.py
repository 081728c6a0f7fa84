"""SageMaker's transform jobs on this machine: real servers with the model, and a request to them for each object.

What the service does with a request that is not answered is in its documentation: it asks again three times, goes on
with the others, keeps their answers, and lets the job fail in the end. Of a job that was stopped it keeps none.
"""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

from fakes import s3
from fakes.agents import Agents
from fakes.endpoints import STARTUP_S, Endpoints, Refused
from fakes.servers import Server

GROUP = "/aws/sagemaker/TransformJobs"
MOST_MB = 100
"""MB that the requests to one instance may have together."""
USUAL_MB, USUAL_RETRIES = 6, 3


@dataclass
class FakeTransformJob:
    """A transform job.

    Attributes:
        asked: The request.
        told: The environment that its servers have beside the model's.
    """

    asked: Mapping[str, Any]
    status: str = "InProgress"
    failure: str = ""
    began: float = field(default_factory=time.time)
    started: float | None = None
    ended: float | None = None
    stopping: threading.Event = field(default_factory=threading.Event)
    lines: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.asked["TransformJobName"]

    @property
    def source(self) -> Mapping[str, Any]:
        return self.asked["TransformInput"]["DataSource"]["S3DataSource"]

    @property
    def running(self) -> bool:
        return self.status in ("InProgress", "Stopping")

    @property
    def at_once(self) -> int:
        return self.asked.get("MaxConcurrentTransforms") or 1

    @property
    def megabytes(self) -> int:
        return self.asked.get("MaxPayloadInMB", USUAL_MB)

    @property
    def told(self) -> dict[str, str]:
        strategy = {"SingleRecord": "SINGLE_RECORD"}.get(self.asked.get("BatchStrategy", ""), "MULTI_RECORD")
        return {
            "SAGEMAKER_BATCH": "true",
            "SAGEMAKER_MAX_PAYLOAD_IN_MB": str(self.megabytes),
            "SAGEMAKER_BATCH_STRATEGY": strategy,
            "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": str(self.at_once),
        }


class TransformJobs:
    """The transform jobs of one account.

    Attributes:
        jobs: Every job by its name.
        pause: Seconds that each request takes longer.
        most: Requests that any job has had open at the same time.
    """

    OPERATIONS: ClassVar[frozenset[str]] = frozenset(f"{verb}TransformJob" for verb in ("Create", "Describe", "Stop"))

    def __init__(self, endpoints: Endpoints, agents: Agents, logs: Any, quota: Mapping[str, int]) -> None:
        self.jobs: dict[str, FakeTransformJob] = {}
        self.pause, self.most, self._open = 0.0, 0, 0
        self._endpoints, self._agents, self._logs, self._quota = endpoints, agents, logs, quota
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        with suppress(logs.exceptions.ResourceAlreadyExistsException):
            logs.create_log_group(logGroupName=GROUP)

    def uses(self, model: str) -> bool:
        """Whether a running job has a model, which nobody wants to be deleted then."""
        return any(job.running and job.asked["ModelName"] == model for job in self.jobs.values())

    def answer(self, operation: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Does what is asked, or raises `Refused`."""
        name = asked["TransformJobName"]
        if operation == "CreateTransformJob":
            return self._create(name, asked)
        if name not in self.jobs:
            raise Refused("ResourceNotFound", f"Could not find requested job with name: {name}")
        job = self.jobs[name]
        if operation == "DescribeTransformJob":
            return self._describe(job)
        with self._lock:
            if not job.running:
                raise Refused(
                    "ValidationException",
                    f"The request was rejected because the transform job is in status {job.status}",
                )
            job.status = "Stopping"
        job.stopping.set()
        return {}

    def clear(self) -> None:
        """Ends all of them, and forgets them."""
        for job in self.jobs.values():
            job.stopping.set()
        for thread in self._threads:
            thread.join(timeout=30)
        self.jobs.clear()
        self.pause, self.most = 0.0, 0

    def _describe(self, job: FakeTransformJob) -> dict[str, Any]:
        return {
            **{key: value for key, value in job.asked.items() if key != "Tags"},
            "TransformJobArn": _arn("transform-job", job.name),
            "TransformJobStatus": job.status,
            "CreationTime": job.began,
            **({"FailureReason": job.failure} if job.failure else {}),
            **({"TransformStartTime": job.started} if job.started else {}),
            **({"TransformEndTime": job.ended} if job.ended else {}),
        }

    # Refusing --------------------------------------------------------------------------------------------------------

    def _create(self, name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        job = FakeTransformJob(asked)
        with self._lock:
            if name in self.jobs:
                raise Refused(
                    "ResourceInUse",
                    "Job name must be unique within an AWS account and region, and a job with this name already "
                    f"exists ({_arn('transform-job', name)})",
                )
            self._check(job)
            self.jobs[name] = job
        thread = threading.Thread(target=self._run, args=(job,), daemon=True)
        self._threads.append(thread)
        thread.start()
        return {"TransformJobArn": _arn("transform-job", name)}

    def _check(self, job: FakeTransformJob) -> None:
        asked = job.asked
        model = self._endpoints.models.get(asked["ModelName"])
        if model is None:
            raise Refused("ValidationException", f'Could not find model "{_arn("model", asked["ModelName"])}".')
        if "ModelDataSource" in model[1]["PrimaryContainer"]:
            raise Refused("ValidationException", "ModelDataSource cannot be used in conjunction with batch transform")
        if job.megabytes * job.at_once > MOST_MB:
            raise Refused(
                "ValidationException",
                f"MaxPayloadInMB {job.megabytes} times MaxConcurrentTransforms {job.at_once} exceeds {MOST_MB} MB",
            )
        if asked.get("BatchStrategy") == "MultiRecord" and asked["TransformInput"].get("SplitType", "None") == "None":
            raise Refused("ValidationException", "BatchStrategy MultiRecord needs a SplitType")
        resources = asked["TransformResources"]
        kind, count = resources["InstanceType"], resources["InstanceCount"]
        if count > self._quota.get(kind, 0):
            raise Refused(
                "ResourceLimitExceeded",
                f"The account-level service limit '{kind} for transform job usage' is {self._quota.get(kind, 0)} "
                f"Instances, with current utilization of 0 Instances and a request delta of {count} Instances. "
                "Please use AWS Service Quotas to request an increase for this quota.",
            )
        assert job.source["S3DataType"] == "ManifestFile", "what a prefix holds is not made here"
        with suppress(FileNotFoundError):
            if self._agents.manifest(job.source["S3Uri"]):
                return
        raise Refused(
            "ValidationException",
            f'No S3 objects found under S3 URL "{job.source["S3Uri"]}" given in input data source. Please ensure that '
            f"the bucket exists in the selected region ({s3.REGION}), that objects exist under that S3 prefix, and "
            f'that the role "{model[1]["ExecutionRoleArn"]}" has "s3:ListBucket" permissions on bucket "{s3.BUCKET}".',
        )

    # Running ---------------------------------------------------------------------------------------------------------

    def _run(self, job: FakeTransformJob) -> None:
        count = job.asked["TransformResources"]["InstanceCount"]
        fleet: list[Server] = []
        try:
            fleet += [self._endpoints.start(job.asked["ModelName"], **job.told) for _ in range(count)]
            self._await(job, fleet)
            job.started = time.time()
            answers = self._ask_all(job, fleet)
            if not job.stopping.is_set():
                for key, answer in answers.items():
                    if answer is not None:
                        self._agents.put(job.asked["TransformOutput"]["S3OutputPath"], f"{key}.out", answer)
                if None in answers.values():
                    job.failure = "AlgorithmError: See job logs for more information"
        except Exception as error:
            job.failure = str(error)
        finally:
            self._endpoints.end(fleet)
        for number, one in enumerate(fleet, 1):
            self._log(job, f"i-{number:016x}", one.log.read_text(errors="replace").splitlines())
        self._log(job, "i-0/data-log", job.lines)
        with self._lock:
            job.ended = time.time()
            if job.stopping.is_set():
                job.status, job.failure = "Stopped", ""
            else:
                job.status = "Failed" if job.failure else "Completed"

    def _await(self, job: FakeTransformJob, fleet: list[Server]) -> None:
        ends = time.monotonic() + STARTUP_S
        for one in fleet:
            while not one.ready and not job.stopping.is_set():
                # The service waits for half an hour.
                if one.process.poll() is not None or one.hopeless or time.monotonic() > ends:
                    raise RuntimeError("AlgorithmError: Algorithm did not respond to /ping; see job logs")
                time.sleep(0.05)

    def _ask_all(self, job: FakeTransformJob, fleet: list[Server]) -> dict[str, bytes | None]:
        """The answer to each object; None where there was none."""
        answers: dict[str, bytes | None] = {}

        def one(number: int, prefix: str, key: str) -> None:
            if not job.stopping.is_set():
                answers[key] = self._ask(job, fleet[number % len(fleet)], prefix, key)

        objects = self._agents.manifest(job.source["S3Uri"])
        with ThreadPoolExecutor(job.at_once * len(fleet)) as pool:
            list(pool.map(one, itertools.count(), *zip(*objects, strict=True)))
        return answers

    def _ask(self, job: FakeTransformJob, instance: Server, prefix: str, key: str) -> bytes | None:
        where = f"{prefix.removeprefix('s3://')}{key}"
        try:
            body = self._agents.get(prefix, key)
        except FileNotFoundError:
            job.lines.append(f"{where}: ClientError: 404")
            return None
        if len(body) > job.megabytes * 2**20:
            job.lines.append(f"{where}: ClientError: The payload is larger than MaxPayloadInMB={job.megabytes}")
            return None
        headers = {
            "Content-Type": job.asked["TransformInput"].get("ContentType", ""),
            "Accept": job.asked["TransformOutput"].get("Accept", "*/*"),
        }
        with self._lock:
            self._open += 1
            self.most = max(self.most, self._open)
        try:
            said = ""
            for _ in range(1 + job.asked.get("ModelClientConfig", {}).get("InvocationsMaxRetries", USUAL_RETRIES)):
                job.stopping.wait(self.pause)
                try:
                    status, answer, _ = instance.ask("POST", "/invocations", body, headers)
                except (OSError, http.client.HTTPException):
                    said = "Unable to get response from algorithm"
                    continue
                if status == 200:
                    return answer
                said = f"Bad HTTP status received from algorithm: {status}; Message: {answer.decode(errors='replace')}"
        finally:
            with self._lock:
                self._open -= 1
        job.lines.append(f"{where}: {said}")
        return None

    def _log(self, job: FakeTransformJob, stream: str, lines: list[str]) -> None:
        name = f"{job.name}/{stream}"
        self._logs.create_log_stream(logGroupName=GROUP, logStreamName=name)
        events = [{"timestamp": int(time.time() * 1000), "message": line} for line in lines if line.strip()]
        if events:
            self._logs.put_log_events(logGroupName=GROUP, logStreamName=name, logEvents=events[:5000])


def _arn(kind: str, name: str) -> str:
    return f"arn:aws:sagemaker:{s3.REGION}:123456789012:{kind}/{name}"

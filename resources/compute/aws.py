"""Steps as SageMaker jobs: training as Training jobs, everything else as Processing jobs."""

import functools
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
import orjson
from pydantic import Field

from detection_assets.domain.tuning import Trial
from resources import amazon
from resources.compute.base import Input, StepFailed, Study
from resources.compute.managed import Job, JobState, ManagedCompute, Silent
from resources.findings import Finding

ROOT = "/opt/ml"
"""Where SageMaker puts what a container is to see."""
TRAINING = frozenset(["train"])
"""Programs that run as Training jobs: they learn for long, may be interrupted, and go on from a checkpoint."""
LONGEST_S = 432_000
"""The longest that SageMaker lets a job of either kind run without being asked for more: five days."""
SPOT_WAIT = 2.0
"""How many times its own limit a spot job may take, waiting for instances included."""
PRICES: Mapping[str, float] = {
    **{"ml.t3.medium": 0.05, "ml.t3.large": 0.10, "ml.t3.xlarge": 0.20},
    **{"ml.m5.large": 0.115, "ml.m5.xlarge": 0.23, "ml.m5.2xlarge": 0.461, "ml.m5.4xlarge": 0.922},
    **{"ml.c5.xlarge": 0.204, "ml.c5.2xlarge": 0.408, "ml.c5.4xlarge": 0.816, "ml.c5.9xlarge": 1.836},
    **{"ml.g4dn.xlarge": 0.736, "ml.g4dn.2xlarge": 0.94, "ml.g4dn.12xlarge": 4.89},
    **{"ml.g5.xlarge": 1.408, "ml.g5.2xlarge": 1.515, "ml.g5.4xlarge": 2.03, "ml.g5.12xlarge": 7.09},
    **{"ml.p3.2xlarge": 3.825, "ml.p4d.24xlarge": 37.688},
}
"""US dollars an hour, on demand, in us-east-1: an estimate elsewhere, and an upper bound for spot."""
THERE = ("ResourceInUse",)
"""What SageMaker says when there is a job of the name."""
GONE = ("Requested resource not found", "Could not find requested job")
"""What SageMaker says of a Training and of a Processing job that there is not; the code is the one of a bad request."""
REMEDIES = {
    "role": "set DETECTION_AWS_ROLE to the output Role of infra/aws/template.yaml",
    "image": "push it, as docs/aws.md says, or correct DETECTION_AWS_PROGRAMS_IMAGE",
}
RUNNING = frozenset(["InProgress", "Stopping"])


class SageMakerCompute(ManagedCompute):
    """Jobs on Amazon SageMaker.

    Attributes:
        role: ARN of the role that the jobs have.
        image: The image of the programs, `<account>.dkr.ecr.<region>.amazonaws.com/<name>:<tag>`.
        cpu: Instance type for `cpu`.
        gpu: Instance type for `gpu`.
        count: Instances of a training job.
        volume_gb: Disk of each instance.
        spot: Whether training takes spare capacity: cheaper, interrupted at times, gone on with from a checkpoint.
        subnets: Subnets to run in; none for SageMaker's own network.
        security_groups: Security groups in these subnets.
    """

    role: str
    image: str
    cpu: str = "ml.m5.xlarge"
    gpu: str = "ml.g5.xlarge"
    count: int = 1
    volume_gb: int = 100
    spot: bool = True
    subnets: list[str] = Field(default_factory=list)
    security_groups: list[str] = Field(default_factory=list)

    @property
    def service(self) -> str:
        """Amazon SageMaker."""
        return "SageMaker"

    def check(self) -> Iterator[Finding]:
        """Looks at the credentials, the region, the role, the image and the quotas."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            who = amazon.client("sts").get_caller_identity()
        except ClientError as error:
            yield Finding("credentials", "bad", amazon.refusal(error), "log in, or put others into .env")
            return
        except BotoCoreError as error:  # no credentials, no region, no network
            remedy = "set AWS_REGION and AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, in .env"
            yield Finding("credentials", "bad", str(error), remedy)
            return
        yield Finding("credentials", "good", str(who["Arn"]))
        yield Finding("region", "good", str(amazon.client("sagemaker").meta.region_name))
        yield self._asked("role", self._role)
        yield self._asked("image", self._image)
        quotas = functools.cache(_quotas)  # pages of them, however few are looked at
        for kind, word, instance in (
            ("training", "gpu", self.gpu), ("training", "cpu", self.cpu), ("processing", "cpu", self.cpu)
        ):  # fmt: skip
            yield self._asked(
                f"quota of {word} for {kind}", functools.partial(_quota, quotas, f"{instance} for {kind} job usage")
            )

    def _asked(self, what: str, look: Callable[[], tuple[bool, str, str]]) -> Finding:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            good, told, remedy = look()
        except ClientError as error:
            code = amazon.code_of(error)
            if code in amazon.DENIED:
                return Finding(what, "unknown", "these credentials may not look", "look at it in the console")
            missing = code.startswith(("NoSuchEntity", "RepositoryNotFound", "ImageNotFound", "NoSuchResource"))
            return Finding(what, "bad" if missing else "unknown", amazon.refusal(error), REMEDIES.get(what, ""))
        except BotoCoreError as error:
            return Finding(what, "unknown", str(error))
        return Finding(what, "good" if good else "bad", told, "" if good else remedy)

    def _role(self) -> tuple[bool, str, str]:
        told = amazon.client("iam").get_role(RoleName=self.role.rpartition("/")[2])["Role"]
        trusts = "sagemaker.amazonaws.com" in str(told["AssumeRolePolicyDocument"])
        return trusts, self.role, "let sagemaker.amazonaws.com assume it, as infra/aws/template.yaml does"

    def _image(self) -> tuple[bool, str, str]:
        place, _, tag = self.image.partition(":")
        host, _, name = place.partition("/")
        if ".dkr.ecr." not in host or not tag:
            return False, self.image, "it is no <account>.dkr.ecr.<region>.amazonaws.com/<name>:<tag>; see docs/aws.md"
        amazon.client("ecr").describe_images(
            registryId=host.partition(".")[0], repositoryName=name, imageIds=[{"imageTag": tag}]
        )
        return True, self.image, ""

    # Looking ---------------------------------------------------------------------------------------------------------

    def look(self, job: Job) -> JobState | None:
        """The job as SageMaker describes it."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            if _trains(job):
                return self._training(amazon.client("sagemaker").describe_training_job(TrainingJobName=job.name))
            return self._processing(amazon.client("sagemaker").describe_processing_job(ProcessingJobName=job.name))
        except ClientError as error:
            if amazon.code_of(error) == "ResourceNotFound" or amazon.message_of(error).startswith(GONE):
                return None
            raise Silent(f"{job.name}: SageMaker does not say how it is: {amazon.refusal(error)}") from error
        except BotoCoreError as error:  # the network
            raise Silent(f"{job.name}: SageMaker does not say how it is: {error}") from error

    def _training(self, told: Mapping[str, Any]) -> JobState:
        resources = told.get("ResourceConfig", {})
        return JobState(
            _phase(told["TrainingJobStatus"]),
            str(told.get("SecondaryStatus", told["TrainingJobStatus"])),
            str(told.get("FailureReason", "")),
            _instances(resources.get("InstanceType"), resources.get("InstanceCount")),
            told.get("BillableTimeInSeconds", told.get("TrainingTimeInSeconds")),
        )

    def _processing(self, told: Mapping[str, Any]) -> JobState:
        resources = told.get("ProcessingResources", {}).get("ClusterConfig", {})
        began, ended = told.get("ProcessingStartTime"), told.get("ProcessingEndTime")
        return JobState(
            _phase(told["ProcessingJobStatus"]),
            str(told["ProcessingJobStatus"]),
            str(told.get("FailureReason") or told.get("ExitMessage", "")),
            _instances(resources.get("InstanceType"), resources.get("InstanceCount")),
            (ended - began).total_seconds() if began and ended else None,
        )

    def log(self, job: Job, cursor: Any) -> tuple[Sequence[str], Any]:
        """What CloudWatch has of the job's instances."""
        from botocore.exceptions import BotoCoreError, ClientError

        logs, group, cursor = amazon.client("logs"), _group(job), dict(cursor or {})
        lines: list[str] = []
        try:
            found = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{job.name}/")["logStreams"]
            for stream in sorted(item["logStreamName"] for item in found):
                where = {"nextToken": cursor[stream]} if stream in cursor else {}
                told = logs.get_log_events(logGroupName=group, logStreamName=stream, startFromHead=True, **where)
                lines += [event["message"] for event in told["events"]]
                cursor[stream] = told["nextForwardToken"]
        except (ClientError, BotoCoreError):
            return lines, cursor  # there is no log before the container starts, and later is soon enough
        return lines, cursor

    def link(self, job: Job) -> str:
        """The job's page in the console."""
        region = amazon.client("sagemaker").meta.region_name
        kind = "jobs" if _trains(job) else "processing-jobs"
        return f"https://{region}.console.aws.amazon.com/sagemaker/home?region={region}#/{kind}/{job.name}"

    def price(self, job: Job, seconds: float) -> float:
        """By the hour, for each instance."""
        return PRICES.get(self._type(job), 0.0) * self._count(job) * seconds / 3600

    # Beginning and ending --------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> JobState:
        """Creates the job."""
        from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

        sagemaker = amazon.client("sagemaker")
        try:
            if _trains(job):
                sagemaker.create_training_job(**self._training_job(job))
            else:
                sagemaker.create_processing_job(**self._processing_job(job))
        except ParamValidationError as error:
            raise StepFailed(f"{job.name}: a setting is not as SageMaker wants it: {error}") from error
        except ClientError as error:
            if amazon.code_of(error) not in THERE:
                why = amazon.refusal(error, self._type(job))
                raise StepFailed(f"{job.name}: SageMaker refuses it: {why}") from error
        except BotoCoreError as error:
            raise StepFailed(f"{job.name}: SageMaker was not reached: {error}; run again") from error
        return self.look(job) or JobState("running", "Starting")

    def stop(self, job: Job) -> None:
        """Asks SageMaker to stop it."""
        from botocore.exceptions import ClientError

        sagemaker = amazon.client("sagemaker")
        try:
            if _trains(job):
                sagemaker.stop_training_job(TrainingJobName=job.name)
            else:
                sagemaker.stop_processing_job(ProcessingJobName=job.name)
        except ClientError as error:
            # It says the same of a job that has ended and of one that never was.
            if amazon.code_of(error) not in ("ValidationException", "ResourceNotFound"):
                raise StepFailed(f"{job.name} could not be stopped: {amazon.refusal(error)}") from error

    def _type(self, job: Job) -> str:
        return self.gpu if job.step.hardware == "gpu" else self.cpu

    def _count(self, job: Job) -> int:
        return self.count if _trains(job) else 1

    def _arguments(self, job: Job, inputs: str) -> list[str]:
        return ["--order", self.storage.uri_of(job.order), "--inputs", inputs]

    def _source(self, job: Job, name: str, needed: Input) -> tuple[str, str]:
        """What SageMaker is to copy, and what kind of thing that is; named keys go into a manifest."""
        base = self.storage.uri_of(f"{needed.prefix}/" if needed.prefix else "")
        if needed.keys is None:
            return "S3Prefix", base
        key = f"{job.folder}/{name}.manifest"
        self.storage.put(key, orjson.dumps([{"prefix": base}, *needed.keys]))
        return "ManifestFile", self.storage.uri_of(key)

    def _processing_job(self, job: Job) -> dict[str, Any]:
        inputs = posixpath.join(ROOT, "processing", "input")
        sources = {name: self._source(job, name, needed) for name, needed in job.step.inputs.items()}
        return {
            "ProcessingJobName": job.name,
            "RoleArn": self.role,
            "AppSpecification": {
                "ImageUri": self.image,
                "ContainerEntrypoint": ["python", "-m", "detection_assets.launcher"],
                "ContainerArguments": [
                    *self._arguments(job, inputs), "--failure", posixpath.join(ROOT, "output", "message"),
                ],
            },
            "ProcessingInputs": [
                {
                    "InputName": name,
                    "S3Input": {
                        "S3Uri": uri,
                        "LocalPath": posixpath.join(inputs, name),
                        "S3DataType": kind,
                        "S3InputMode": "File",
                        "S3DataDistributionType": "FullyReplicated",
                    },
                }
                for name, (kind, uri) in sources.items()
            ],
            "ProcessingResources": {
                "ClusterConfig": {
                    "InstanceType": self._type(job), "InstanceCount": 1, "VolumeSizeInGB": self.volume_gb,
                }
            },
            "StoppingCondition": {"MaxRuntimeInSeconds": _limit(job)},
            **({"NetworkConfig": {"VpcConfig": self._network}} if self.subnets else {}),
            "Tags": self._tags(job),
        }  # fmt: skip

    def _training_job(self, job: Job) -> dict[str, Any]:
        inputs, checkpoints = posixpath.join(ROOT, "input", "data"), posixpath.join(ROOT, "checkpoints")
        sources = {name: self._source(job, name, needed) for name, needed in job.step.inputs.items()}
        limit = _limit(job)
        return {
            "TrainingJobName": job.name,
            "RoleArn": self.role,
            "AlgorithmSpecification": {
                "TrainingImage": self.image,
                "TrainingInputMode": "File",
                "ContainerEntrypoint": ["python", "-m", "detection_assets.launcher"],
                "ContainerArguments": [
                    *self._arguments(job, inputs), "--checkpoint", checkpoints,
                    "--failure", posixpath.join(ROOT, "output", "failure"),
                ],
            },
            "InputDataConfig": [
                {
                    "ChannelName": name,
                    "DataSource": {
                        "S3DataSource": {"S3DataType": kind, "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
                    },
                }
                for name, (kind, uri) in sources.items()
            ],
            "OutputDataConfig": {"S3OutputPath": self.storage.uri_of(f"{job.folder}/output")},
            "CheckpointConfig": {"S3Uri": self.storage.uri_of(job.checkpoint), "LocalPath": checkpoints},
            "ResourceConfig": {
                "InstanceType": self._type(job), "InstanceCount": self.count, "VolumeSizeInGB": self.volume_gb,
            },
            "EnableManagedSpotTraining": self.spot,
            "StoppingCondition": {
                "MaxRuntimeInSeconds": limit,
                **({"MaxWaitTimeInSeconds": int(limit * SPOT_WAIT)} if self.spot else {}),
            },
            **({"VpcConfig": self._network} if self.subnets else {}),
            "Tags": self._tags(job),
        }  # fmt: skip

    @property
    def _network(self) -> dict[str, Any]:
        return {"Subnets": self.subnets, "SecurityGroupIds": self.security_groups}

    def _tags(self, job: Job) -> list[dict[str, str]]:
        told = {"detection-assets/detector": self.detector, "detection-assets/step": job.step.name}
        return [{"Key": key, "Value": value} for key, value in told.items()]

    # Studies ---------------------------------------------------------------------------------------------------------

    def open_study(self, context: dg.AssetExecutionContext, study: Study) -> Any:
        """Not in this version."""
        raise StepFailed(f"{study.name}: a study runs beside the run in this version; set `training.hardware: here`")

    def advance(self, handle: Any) -> bool:
        """No study is open."""
        return True

    def trials(self, handle: Any) -> Sequence[Trial]:
        """No study is open."""
        return []

    def close_study(self, handle: Any) -> None:
        """No study is open."""


def _trains(job: Job) -> bool:
    return job.step.program in TRAINING


def _group(job: Job) -> str:
    return "/aws/sagemaker/TrainingJobs" if _trains(job) else "/aws/sagemaker/ProcessingJobs"


def _phase(status: str) -> Any:
    if status in RUNNING:
        return "running"
    return {"Completed": "done", "Stopped": "stopped"}.get(status, "failed")


def _instances(name: str | None, count: int | None) -> str:
    return f"{count} x {name}" if count and count > 1 else str(name or "")


def _limit(job: Job) -> int:
    return max(1, min(int(job.step.timeout_s), LONGEST_S))


def _quotas() -> Mapping[str, float]:
    """Every quota of SageMaker, by its name."""
    pages = amazon.client("service-quotas").get_paginator("list_service_quotas").paginate(ServiceCode="sagemaker")
    return {one["QuotaName"]: one["Value"] for page in pages for one in page["Quotas"]}


def _quota(quotas: Callable[[], Mapping[str, float]], name: str) -> tuple[bool, str, str]:
    most = quotas().get(name)
    if most is None:
        return False, f"{name}: nobody knows such an instance", "correct DETECTION_AWS_CPU or DETECTION_AWS_GPU"
    return most >= 1, f"{name}: {most:g}", f"ask for more at Service Quotas, Amazon SageMaker, {name}"

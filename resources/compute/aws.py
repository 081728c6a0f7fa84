"""Steps as SageMaker jobs: training as Training jobs, everything else as Processing jobs; studies as Tuning jobs."""

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
import orjson

from resources import amazon, amazon_account, amazon_jobs
from resources.amazon_jobs import CHANNELS, CHECKPOINTS, FAILURE, HOSTS, ROOT
from resources.amazon_studies import SageMakerStudy
from resources.compute.base import Input, Step, Study
from resources.compute.managed import Job, JobState, ManagedCompute
from resources.findings import Finding

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


class SageMakerCompute(amazon_jobs.OnSageMaker, ManagedCompute):
    """Jobs on Amazon SageMaker.

    Attributes:
        image: The image of the programs, `<account>.dkr.ecr.<region>.amazonaws.com/<name>:<tag>`.
        cpu: Instance type for `cpu`.
        gpu: Instance type for `gpu`.
        count: Instances of a training job, which train together; a trial of a study has one.
        volume_gb: Disk of each instance.
        spot: Whether training takes spare capacity: cheaper, interrupted at times, gone on with from a checkpoint.
    """

    image: str
    cpu: str = "ml.m5.xlarge"
    gpu: str = "ml.g5.xlarge"
    count: int = 1
    volume_gb: int = 100
    spot: bool = True

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
        yield amazon_account.role(self.role)
        yield amazon_account.image("image", self.image, "DETECTION_AWS_PROGRAMS_IMAGE")
        quotas = amazon_account.Quotas()
        training = "spot training" if self.spot else "training"  # each has a quota of its own
        for kind, word, instance, needed in (
            (training, "gpu", self.gpu, self.count),
            (training, "cpu", self.cpu, self.count),
            ("processing", "cpu", self.cpu, self.jobs),
        ):
            name = f"{instance} for {kind} job usage"
            yield quotas.finding(f"quota of {word} for {kind}", name, needed, f"DETECTION_AWS_{word.upper()}")

    # Looking ---------------------------------------------------------------------------------------------------------

    def look(self, job: Job) -> JobState | None:
        """The job as SageMaker describes it."""
        if _trains(job):
            return self.training(job.name)
        try:
            with amazon_jobs.asking(job.name):
                return self._processing(amazon.client("sagemaker").describe_processing_job(ProcessingJobName=job.name))
        except LookupError:
            return None

    def training(self, name: str) -> JobState | None:
        """A training job as SageMaker describes it, whoever has begun it.

        Raises:
            Silent: SageMaker does not say.
        """
        try:
            with amazon_jobs.asking(name):
                return self._training(amazon.client("sagemaker").describe_training_job(TrainingJobName=name))
        except LookupError:
            return None

    def _training(self, told: Mapping[str, Any]) -> JobState:
        resources = told.get("ResourceConfig", {})
        return JobState(
            amazon_jobs.phase(told["TrainingJobStatus"]),
            str(told.get("SecondaryStatus", told["TrainingJobStatus"])),
            str(told.get("FailureReason", "")),
            amazon_jobs.instances(resources.get("InstanceType"), resources.get("InstanceCount")),
            told.get("BillableTimeInSeconds", told.get("TrainingTimeInSeconds")),
        )

    def _processing(self, told: Mapping[str, Any]) -> JobState:
        resources = told.get("ProcessingResources", {}).get("ClusterConfig", {})
        began, ended = told.get("ProcessingStartTime"), told.get("ProcessingEndTime")
        return JobState(
            amazon_jobs.phase(told["ProcessingJobStatus"]),
            str(told["ProcessingJobStatus"]),
            str(told.get("FailureReason") or told.get("ExitMessage", "")),
            amazon_jobs.instances(resources.get("InstanceType"), resources.get("InstanceCount")),
            (ended - began).total_seconds() if began and ended else None,
        )

    def log(self, job: Job, cursor: Any) -> tuple[Sequence[str], Any]:
        """What CloudWatch has of the job's instances."""
        return amazon_jobs.logged(_group(job), job.name, cursor, several=self._count(job.step) > 1)

    def link(self, job: Job) -> str:
        """The job's page in the console."""
        return amazon_jobs.page("jobs" if _trains(job) else "processing-jobs", job.name)

    def price(self, job: Job, seconds: float) -> float:
        """By the hour, for each instance."""
        return PRICES.get(self.instance(job.step), 0.0) * self._count(job.step) * seconds / 3600

    # Beginning and ending --------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> JobState:
        """Creates the job."""
        sagemaker = amazon.client("sagemaker")
        with amazon_jobs.creating(job.name, self.instance(job.step)):
            if _trains(job):
                sagemaker.create_training_job(**self._training_job(job))
            else:
                sagemaker.create_processing_job(**self._processing_job(job))
        return self.look(job) or JobState("running", "Starting")

    def stop(self, job: Job) -> None:
        """Asks SageMaker to stop it."""
        sagemaker = amazon.client("sagemaker")
        with amazon_jobs.stopping(job.name):
            if _trains(job):
                sagemaker.stop_training_job(TrainingJobName=job.name)
            else:
                sagemaker.stop_processing_job(ProcessingJobName=job.name)

    def instance(self, step: Step) -> str:
        """The instance type that a step runs on."""
        return self.gpu if step.hardware == "gpu" else self.cpu

    def _count(self, step: Step) -> int:
        # Trials are compared with each other, and more of them at once bring more than more instances for each.
        return self.count if step.program in TRAINING and step.objective is None else 1

    def _arguments(self, job: Job, inputs: str) -> list[str]:
        return ["--order", self.storage.uri_of(job.order), "--inputs", inputs]

    def _source(self, folder: str, name: str, needed: Input) -> tuple[str, str]:
        """What SageMaker is to copy, and what kind of thing that is; named keys go into a manifest."""
        base = self.storage.uri_of(f"{needed.prefix}/" if needed.prefix else "")
        if needed.keys is None:
            return "S3Prefix", base
        key = f"{folder}/{name}.manifest"
        self.storage.put(key, orjson.dumps([{"prefix": base}, *needed.keys]))
        return "ManifestFile", self.storage.uri_of(key)

    def _processing_job(self, job: Job) -> dict[str, Any]:
        inputs = posixpath.join(ROOT, "processing", "input")
        sources = {name: self._source(job.folder, name, needed) for name, needed in job.step.inputs.items()}
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
                    "InstanceType": self.instance(job.step), "InstanceCount": 1, "VolumeSizeInGB": self.volume_gb,
                }
            },
            "StoppingCondition": {"MaxRuntimeInSeconds": _limit(job.step)},
            **({"NetworkConfig": {"VpcConfig": self._network}} if self.subnets else {}),
            "Tags": self.tags(job.step.name),
        }  # fmt: skip

    def _training_job(self, job: Job) -> dict[str, Any]:
        return {
            "TrainingJobName": job.name,
            "AlgorithmSpecification": {
                "TrainingImage": self.image,
                "TrainingInputMode": "File",
                "ContainerEntrypoint": ["python", "-m", "detection_assets.launcher"],
                "ContainerArguments": [
                    *self._arguments(job, CHANNELS), "--checkpoint", CHECKPOINTS, "--failure", FAILURE,
                    "--hosts", HOSTS,
                ],
            },
            **self.definition(job.step, job.folder, job.checkpoint),
            "Tags": self.tags(job.step.name),
        }  # fmt: skip

    def definition(self, step: Step, folder: str, checkpoint: str) -> dict[str, Any]:
        """What a step's training job and a tuner's definition of its trials have in common.

        Args:
            step: What is run.
            folder: Storage prefix for what the job needs.
            checkpoint: Storage prefix of what an interrupted job goes on from.
        """
        sources = {name: self._source(folder, name, needed) for name, needed in step.inputs.items()}
        limit = _limit(step)
        return {
            "RoleArn": self.role,
            "InputDataConfig": [
                {
                    "ChannelName": name,
                    "DataSource": {
                        "S3DataSource": {"S3DataType": kind, "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
                    },
                }
                for name, (kind, uri) in sources.items()
            ],
            "OutputDataConfig": {"S3OutputPath": self.storage.uri_of(f"{folder}/output")},
            "CheckpointConfig": {"S3Uri": self.storage.uri_of(checkpoint), "LocalPath": CHECKPOINTS},
            "ResourceConfig": {
                "InstanceType": self.instance(step),
                "InstanceCount": self._count(step),
                "VolumeSizeInGB": self.volume_gb,
            },
            "EnableManagedSpotTraining": self.spot,
            "StoppingCondition": {
                "MaxRuntimeInSeconds": limit,
                **({"MaxWaitTimeInSeconds": int(limit * SPOT_WAIT)} if self.spot else {}),
            },
            **({"VpcConfig": self._network} if self.subnets else {}),
        }  # fmt: skip

    @property
    def _network(self) -> dict[str, Any]:
        return {"Subnets": self.subnets, "SecurityGroupIds": self.security_groups}

    def tags(self, step: str) -> list[dict[str, str]]:
        """By what a job is found among those of others."""
        told = {"detection-assets/detector": self.detector, "detection-assets/step": step}
        return [{"Key": key, "Value": value} for key, value in told.items()]

    # Studies ---------------------------------------------------------------------------------------------------------

    def open_study(self, context: dg.AssetExecutionContext, study: Study) -> SageMakerStudy:
        """Finds the tuning jobs that were begun for the study, if there are any."""
        return SageMakerStudy(self, context, study)


def _trains(job: Job) -> bool:
    return job.step.program in TRAINING or job.step.objective is not None


def _group(job: Job) -> str:
    return "/aws/sagemaker/TrainingJobs" if _trains(job) else "/aws/sagemaker/ProcessingJobs"


def _limit(step: Step) -> int:
    return max(1, min(int(step.timeout_s), LONGEST_S))

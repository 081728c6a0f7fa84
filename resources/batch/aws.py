"""Batch prediction as SageMaker Batch Transform jobs.

A transform job takes no model that lies in the lake as a plain file, so the registered ONNX is packed for it, with the
thresholds beside it; the model that SageMaker makes of the package is deleted when the job has ended.
"""

import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from detection_assets.domain import layout
from resources import amazon, amazon_account, amazon_jobs
from resources.batch.base import LONGEST, ManagedBatch
from resources.compute.aws import PRICES
from resources.compute.base import Step, StepFailed
from resources.compute.managed import Job, JobState
from resources.findings import Finding
from resources.registry.base import ModelVersion

AT_ONCE = 3
"""Requests that an instance has at a time: as many as the server takes without refusing one, for it answers one or two
and lets two wait."""
MEGABYTES = 2 + LONGEST // 2**20
"""The longest request, and a little more: whether these are millions of bytes SageMaker does not say."""
GROUP = "/aws/sagemaker/TransformJobs"
SUFFIX = ".out"
"""What SageMaker adds to a picture's name for its answer."""


class SageMakerBatch(amazon_jobs.OnSageMaker, ManagedBatch):
    """Batch Transform on Amazon SageMaker.

    Attributes:
        image: The image that serves, `<account>.dkr.ecr.<region>.amazonaws.com/<name>:<tag>`.
        instance: Instance type.
        count: Instances of a job; each takes its part of the pictures.
    """

    image: str
    instance: str = "ml.c5.xlarge"
    count: int = 1

    def check(self) -> Iterator[Finding]:
        """Looks whether there may be enough instances."""
        name = f"{self.instance} for transform job usage"
        yield amazon_account.Quotas().finding("quota of batch instances", name, self.count, "DETECTION_AWS_BATCH")

    # Looking ---------------------------------------------------------------------------------------------------------

    def look(self, job: Job) -> JobState | None:
        """The job as SageMaker describes it."""
        try:
            with amazon_jobs.asking(job.name):
                told = amazon.client("sagemaker").describe_transform_job(TransformJobName=job.name)
        except LookupError:
            return None
        resources = told["TransformResources"]
        began, ended = told.get("TransformStartTime"), told.get("TransformEndTime")
        return JobState(
            amazon_jobs.phase(told["TransformJobStatus"]),
            str(told["TransformJobStatus"]),
            str(told.get("FailureReason", "")),
            amazon_jobs.instances(resources["InstanceType"], resources["InstanceCount"]),
            (ended - began).total_seconds() if began and ended else None,
        )

    def log(self, job: Job, cursor: Any) -> tuple[Sequence[str], Any]:
        """What CloudWatch has of the servers, and of the requests that failed."""
        return amazon_jobs.logged(GROUP, job.name, cursor)

    def link(self, job: Job) -> str:
        """The job's page in the console."""
        return amazon_jobs.page("transform-jobs", job.name)

    def price(self, job: Job, seconds: float) -> float:
        """By the hour, for each instance."""
        return PRICES.get(self.instance, 0.0) * self.count * seconds / 3600

    # Beginning and ending --------------------------------------------------------------------------------------------

    def begin(self, job: Job, step: Step, model: ModelVersion) -> JobState:
        """Packs the model and the list of pictures, and creates SageMaker's model and the job."""
        packed, manifest = f"{job.folder}/model.tar.gz", f"{job.folder}/pictures.manifest"
        self.storage.put(packed, _packed(self.onnx_of(model), self.about(step, model)))
        pictures = orjson.loads(self.storage.get(job.order))["pictures"]
        self.storage.put(manifest, orjson.dumps([{"prefix": self.storage.uri_of(f"{layout.FRAMES}/")}, *pictures]))
        sagemaker = amazon.client("sagemaker")
        network = {"Subnets": self.subnets, "SecurityGroupIds": self.security_groups}
        tags = {"detection-assets/detector": self.detector, "detection-assets/model": model.version}
        told = [{"Key": key, "Value": value} for key, value in tags.items()]
        with amazon_jobs.creating(model_of(job), self.instance):
            sagemaker.create_model(
                ModelName=model_of(job),
                PrimaryContainer={"Image": self.image, "ModelDataUrl": self.storage.uri_of(packed)},
                ExecutionRoleArn=self.role,
                Tags=told,
                **({"VpcConfig": network} if self.subnets else {}),
            )
        try:
            with amazon_jobs.creating(job.name, self.instance):
                sagemaker.create_transform_job(
                    TransformJobName=job.name,
                    ModelName=model_of(job),
                    MaxConcurrentTransforms=AT_ONCE,
                    MaxPayloadInMB=MEGABYTES,
                    BatchStrategy="SingleRecord",
                    TransformInput={
                        "DataSource": {
                            "S3DataSource": {"S3DataType": "ManifestFile", "S3Uri": self.storage.uri_of(manifest)}
                        },
                        "ContentType": "application/octet-stream",
                        "SplitType": "None",
                    },
                    TransformOutput={
                        "S3OutputPath": self.storage.uri_of(_answers(job)),
                        "Accept": "application/json",
                        "AssembleWith": "None",
                    },
                    TransformResources={"InstanceType": self.instance, "InstanceCount": self.count},
                    Tags=told,
                )
        except StepFailed:
            self.forget(job)
            raise
        return self.look(job) or JobState("running", "InProgress")

    def stop(self, job: Job) -> None:
        """Asks SageMaker to stop it; it keeps no answers of a job that was stopped."""
        with amazon_jobs.stopping(job.name):
            amazon.client("sagemaker").stop_transform_job(TransformJobName=job.name)

    def forget(self, job: Job) -> None:
        """Deletes SageMaker's model."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            amazon.client("sagemaker").delete_model(ModelName=model_of(job))
        except ClientError as error:
            if not amazon.message_of(error).startswith("Could not find model"):
                raise StepFailed(f"{model_of(job)} could not be deleted: {amazon.refusal(error)}") from error
        except BotoCoreError as error:
            raise StepFailed(f"{model_of(job)} could not be deleted: {error}") from error

    # Answers ---------------------------------------------------------------------------------------------------------

    def answers(self, job: Job, files: Sequence[str]) -> Mapping[str, str]:
        """Finds the answer that lies under each picture's name.

        SageMaker puts it below the output's prefix at the picture's path; how much of that path is not told in so many
        words, so whatever ends in the path below `frames/` is taken.
        """
        where, wanted = _answers(job), set(files)
        found: dict[str, str] = {}
        for item in self.storage.list(where):
            path = item.key.removeprefix(f"{where}/").removesuffix(SUFFIX)
            while path not in wanted and "/" in path:
                path = path.partition("/")[2]
            if path in wanted:
                found[path] = item.key
        return found


def model_of(job: Job) -> str:
    """The name of a job's model; of a detector's endpoint, which tidies up among its own, it is none."""
    return f"detection--{job.name}"


def _answers(job: Job) -> str:
    return f"{job.folder}/answers"


def _packed(onnx: bytes, about: Mapping[str, Any]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as archive:
        for name, data in (("best.onnx", onnx), ("serving.json", orjson.dumps(about))):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()

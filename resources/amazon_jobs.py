"""Asking SageMaker for jobs of whatever kind, about them, and to stop them; what it refuses comes with a remedy."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import Field

from resources import amazon
from resources.compute.base import StepFailed
from resources.compute.managed import ManagedJobs, Silent

ROOT = "/opt/ml"
"""Where SageMaker puts what a container is to see."""
CHANNELS, CHECKPOINTS, FAILURE = f"{ROOT}/input/data", f"{ROOT}/checkpoints", f"{ROOT}/output/failure"
"""Of a training job: its inputs, what outlives an interruption, and what SageMaker shows as the reason of a failure."""
VALUES = f"{ROOT}/input/config/hyperparameters.json"
"""What a tuner gives to a trial."""
HOSTS = f"{ROOT}/input/config/resourceconfig.json"
"""Which instances a training job has, and which this one is."""
THERE, EXISTS = ("ResourceInUse",), "Cannot create already existing"
"""What SageMaker says when there is a job of the name; and when there is a model, as of any bad request."""
RUNNING = frozenset(["InProgress", "Stopping"])
GONE = ("Requested resource not found", "Could not find requested job")
"""What SageMaker says of a Training and of a Processing job that there is not; the code is the one of a bad request."""


class OnSageMaker(ManagedJobs):
    """What jobs of all kinds are given on Amazon SageMaker.

    Attributes:
        role: ARN of the role that the jobs have.
        subnets: Subnets to run in; none for SageMaker's own network.
        security_groups: Security groups in these subnets.
    """

    role: str
    subnets: list[str] = Field(default_factory=list)
    security_groups: list[str] = Field(default_factory=list)

    @property
    def service(self) -> str:
        """Amazon SageMaker."""
        return "SageMaker"


@contextmanager
def creating(name: str, instance: str, more: str = "") -> Iterator[None]:
    """Lets a job be created; one of the name that is there already is as good.

    Args:
        name: The job's.
        instance: The instance type that is asked for.
        more: What else may help where there is not enough of it.

    Raises:
        StepFailed: SageMaker refuses, or was not reached.
    """
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

    try:
        yield
    except ParamValidationError as error:
        raise StepFailed(f"{name}: a setting is not as SageMaker wants it: {error}") from error
    except ClientError as error:
        code = amazon.code_of(error)
        if code not in THERE and not amazon.message_of(error).startswith(EXISTS):
            why = amazon.refusal(error, instance) + (f"; {more}" if more and code in amazon.QUOTA else "")
            raise StepFailed(f"{name}: SageMaker refuses it: {why}") from error
    except BotoCoreError as error:
        raise StepFailed(f"{name}: SageMaker was not reached: {error}; run again") from error


@contextmanager
def asking(name: str) -> Iterator[None]:
    """Lets SageMaker be asked about a job.

    Raises:
        LookupError: There is no such job.
        Silent: It does not say.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        if amazon.code_of(error) == "ResourceNotFound" or amazon.message_of(error).startswith(GONE):
            raise LookupError(name) from error
        raise Silent(f"{name}: SageMaker does not say how it is: {amazon.refusal(error)}") from error
    except BotoCoreError as error:  # the network
        raise Silent(f"{name}: SageMaker does not say how it is: {error}") from error


@contextmanager
def stopping(name: str) -> Iterator[None]:
    """Lets a job be stopped; one that has ended stays as it is.

    Raises:
        StepFailed: It may not be stopped.
    """
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        # It says the same of a job that has ended and of one that never was.
        if amazon.code_of(error) not in ("ValidationException", "ResourceNotFound"):
            raise StepFailed(f"{name} could not be stopped: {amazon.refusal(error)}") from error


def page(kind: str, name: str) -> str:
    """Address of a job's page in the console.

    Args:
        kind: The console's word: `jobs` for training, `processing-jobs`, `hyper-tuning-jobs`, `transform-jobs`.
        name: The job's.
    """
    region = amazon.client("sagemaker").meta.region_name
    return f"https://{region}.console.aws.amazon.com/sagemaker/home?region={region}#/{kind}/{name}"


def phase(status: str) -> Any:
    """SageMaker's word for how a job is, as `JobState` has it."""
    if status in RUNNING:
        return "running"
    return {"Completed": "done", "Stopped": "stopped"}.get(status, "failed")


def instances(name: str | None, count: int | None) -> str:
    """What a job runs on, several as `2 x name`."""
    return f"{count} x {name}" if count and count > 1 else str(name or "")


def logged(group: str, name: str, cursor: Any, *, several: bool = False) -> tuple[Sequence[str], Any]:
    """What CloudWatch has of a job's instances, and where to go on.

    Args:
        group: The log group.
        name: The job's.
        cursor: Where the last look ended; None at first.
        several: Whether there are several instances: then each line begins with the name of its own.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    logs, cursor = amazon.client("logs"), dict(cursor or {})
    lines: list[str] = []
    try:
        found = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{name}/")["logStreams"]
        for stream in sorted(item["logStreamName"] for item in found):
            where = {"nextToken": cursor[stream]} if stream in cursor else {}
            told = logs.get_log_events(logGroupName=group, logStreamName=stream, startFromHead=True, **where)
            host = stream.removeprefix(f"{name}/").rpartition("-")[0]
            lines += [f"{host}: {event['message']}" if several else event["message"] for event in told["events"]]
            cursor[stream] = told["nextForwardToken"]
    except (ClientError, BotoCoreError):
        return lines, cursor  # there is no log before the container starts, and later is soon enough
    return lines, cursor

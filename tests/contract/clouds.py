"""Two clouds' jobs and searches by one set of words, so that what is done with both is told once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from fakes import azureml, sagemaker

from detection_assets.domain.tuning import LOGARITHM, Choice, Parameter, as_text
from resources import amazon

PHASES = {
    **{"InProgress": "running", "Stopping": "running", "Completed": "done", "Failed": "failed", "Stopped": "stopped"},
    **{"Canceled": "stopped"},
}


@dataclass
class Only:
    """A platform of which a case wants no more than jobs of another kind."""

    compute: Any


def on(platform: str, request: pytest.FixtureRequest) -> OnSageMaker | OnAzureML:
    """What stands in for a platform's service, with nothing in it."""
    if platform == "aws":
        return OnSageMaker(request.getfixturevalue("sagemaker_service"))
    return OnAzureML(request.getfixturevalue("azureml_service"))


class OnSageMaker:
    """Training jobs, and tuning jobs that begin such."""

    instance, price, page = "ml.g5.xlarge", 1.408, "console.aws.amazon.com"
    instances, interface = "DETECTION_AWS_TRAINING_INSTANCES", "lo"

    def __init__(self, service: sagemaker.SageMaker) -> None:
        self.service = service
        service.jobs.clear()
        service.tuning.jobs.clear()
        service.tuning.next.clear()
        service.calls.clear()
        service.silent = 0

    def give(self, space: dict[str, Parameter], *values: dict[str, Any]) -> None:
        """Lets the service draw these next."""
        self.service.tuning.next = [{key: as_text(value) for key, value in one.items()} for one in values]

    @property
    def searches(self) -> dict[str, str]:
        """How each search is, by name."""
        return {name: PHASES[job.status] for name, job in self.service.tuning.jobs.items()}

    @property
    def jobs(self) -> list[Any]:
        """All jobs that run a program."""
        return list(self.service.jobs.values())

    @property
    def job(self) -> Any:
        """The only one."""
        (job,) = self.service.jobs.values()
        return job

    def phase(self, job: Any) -> str:
        return PHASES[job.status]

    @property
    def created(self) -> int:
        """How often a training was asked for."""
        return self.service.calls.count("CreateTrainingJob")

    def count(self, job: Any) -> int:
        """Instances that were asked for."""
        return job.asked["ResourceConfig"]["InstanceCount"]

    def processes(self, job: Any) -> list[Any]:
        return [host.process for host in job.hosts]

    def printed(self, compute: Any, job: Any) -> list[list[str]]:
        """What each instance has printed."""
        logs, group = amazon.client("logs"), "/aws/sagemaker/TrainingJobs"
        found = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{job.name}/")["logStreams"]
        told: dict[str, list[str]] = {}
        for name in sorted(stream["logStreamName"] for stream in found):
            events = logs.get_log_events(logGroupName=group, logStreamName=name, startFromHead=True)["events"]
            host = name.removeprefix(f"{job.name}/").rpartition("-")[0]
            told.setdefault(host, []).extend(event["message"] for event in events)
        return [told[host] for host in sorted(told)]

    def line(self, instance: int, text: str) -> str:
        """A line of an instance in the run's own log."""
        return f"algo-{instance + 1}: {text}"

    def trials(self, search: str) -> list[str]:
        return [PHASES[trial.status] for trial in self.service.tuning.jobs[search].trials]

    def most(self, search: str) -> int:
        return self.service.tuning.jobs[search].config["ResourceLimits"]["MaxNumberOfTrainingJobs"]

    @property
    def asked(self) -> int:
        """How often a search was asked for."""
        return self.service.calls.count("CreateHyperParameterTuningJob")

    def stop(self, search: str) -> None:
        self.service.tuning.answer("StopHyperParameterTuningJob", {"HyperParameterTuningJobName": search})

    def interrupt(self, job: Any) -> None:
        """Takes its machines away."""
        self.service.interrupt(job.name)

    def ran(self, job: Any) -> float:
        """Seconds that a job is charged for."""
        return max(1, round((job.ended or 0) - (job.started or 0)))


class OnAzureML:
    """Command jobs, and sweep jobs that begin such."""

    instance, price, page = "Standard_NC4as_T4_v3", 0.526, "https://ml.azure.com/runs/"
    instances, interface = "DETECTION_AZURE_TRAINING_INSTANCES", ""

    def __init__(self, service: azureml.AzureML) -> None:
        self.service = service
        service.jobs.all.clear()
        service.sweeps.all.clear()
        service.sweeps.next.clear()
        service.calls.clear()
        service.silent = 0

    def give(self, space: dict[str, Parameter], *values: dict[str, Any]) -> None:
        """Lets the service draw these next."""

        def drawn(key: str, value: Any) -> tuple[str, Any]:
            among = space[key]
            if isinstance(among, Choice):
                return key, as_text(value)
            return (LOGARITHM + key, math.log(value + 1e-9)) if among.log else (key, float(value))

        self.service.sweeps.next = [dict(drawn(*item) for item in one.items()) for one in values]

    @property
    def searches(self) -> dict[str, str]:
        """How each search is, by name."""
        return {name: PHASES.get(sweep.status, "running") for name, sweep in self.service.sweeps.all.items()}

    @property
    def jobs(self) -> list[Any]:
        """All jobs that run a program."""
        return list(self.service.jobs)

    @property
    def job(self) -> Any:
        """The only one."""
        (job,) = self.service.jobs
        return job

    def phase(self, job: Any) -> str:
        return PHASES.get(job.status, "running")

    @property
    def created(self) -> int:
        """How often a job was asked for."""
        return self.service.calls.count("PUT jobs")

    def count(self, job: Any) -> int:
        """Machines that were asked for."""
        return (job.asked.get("resources") or {}).get("instanceCount", 1)

    def processes(self, job: Any) -> list[Any]:
        return job.processes

    def printed(self, compute: Any, job: Any) -> list[list[str]]:
        """What each machine has printed."""
        return [(job.folder / log).read_text().splitlines() for log in job.prints]

    def line(self, instance: int, text: str) -> str:
        """A line of a machine in the run's own log."""
        return f"instance {instance}: {text}"

    def trials(self, search: str) -> Sequence[str]:
        return [PHASES.get(trial.status, "running") for trial in self.service.sweeps.all[search].trials]

    def most(self, search: str) -> int:
        return self.service.sweeps.all[search].most

    @property
    def asked(self) -> int:
        """How often a search was asked for; the detector's own values are no search."""
        return self.service.calls.count("PUT jobs") - sum("_" not in job.name for job in self.service.jobs)

    def stop(self, search: str) -> None:
        self.service.sweeps.cancel(search)

    def interrupt(self, job: Any) -> None:
        self.service.jobs.interrupt(job.name)

    def ran(self, job: Any) -> float:
        """Seconds that a job is charged for."""
        return (job.ended or 0) - (job.started or 0)

"""The tuners of two clouds by one set of words, so that what a study does with them is told once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fakes import azureml, sagemaker

from detection_assets.domain.tuning import LOGARITHM, Choice, Parameter, as_text

PHASES = {
    **{"InProgress": "running", "Stopping": "running", "Completed": "done", "Failed": "failed", "Stopped": "stopped"},
    **{"Canceled": "stopped"},
}


class OnSageMaker:
    """Tuning jobs and their training jobs."""

    instance, price, page = "ml.g5.xlarge", 1.408, "console.aws.amazon.com"

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
        """All jobs that run a trial."""
        return list(self.service.jobs.values())

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
        self.service.interrupt(job.name)

    def ran(self, job: Any) -> float:
        """Seconds that a job is charged for."""
        return max(1, round((job.ended or 0) - (job.started or 0)))


class OnAzureML:
    """Sweep jobs and the jobs that they begin."""

    instance, price, page = "Standard_NC4as_T4_v3", 0.526, "https://ml.azure.com/runs/"

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
        """All jobs that run a trial."""
        return list(self.service.jobs)

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

"""A study as tuning jobs of SageMaker, each trial a training job that the service begins with values of its own.

What is still to be tried when a tuning job has ended is another one, which starts from what the earlier ones learnt.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from resources import amazon, amazon_jobs, amazon_tuning
from resources.compute.base import Step
from resources.compute.managed import JobState
from resources.compute.searches import ManagedStudy
from resources.compute.trials import Listed, SearchState

if TYPE_CHECKING:
    from resources.compute.aws import SageMakerCompute

LATE = frozenset(["MaxRuntimeExceeded", "MaxWaitTimeExceeded"])
"""What SageMaker says of a training job that it has stopped for its limit of time."""


class SageMakerStudy(ManagedStudy):
    """A study that this process follows; arguments as of any."""

    _compute: SageMakerCompute
    named_by = "TRAINING_JOB_NAME"

    def search_state(self, name: str) -> SearchState | None:
        """The tuning job as SageMaker describes it."""
        told = amazon_tuning.described(name)
        if told is None:
            return None
        status = str(told["HyperParameterTuningJobStatus"])
        most = int(told["HyperParameterTuningJobConfig"]["ResourceLimits"]["MaxNumberOfTrainingJobs"])
        running, stopped = status in amazon_jobs.RUNNING, status in ("Stopping", "Stopped")
        return SearchState(running, stopped, most, status, str(told.get("FailureReason", "")), told)

    def listed(self, name: str, ended: Collection[str]) -> Sequence[Listed]:
        """The training jobs of a tuning job."""
        found: list[Listed] = []
        for one in amazon_tuning.listed(name):
            times = [one[key] for key in ("TrainingStartTime", "TrainingEndTime") if key in one]
            final = one.get("FinalHyperParameterTuningJobObjectiveMetric")
            found.append(
                Listed(
                    one["TrainingJobName"],
                    amazon_jobs.phase(one["TrainingJobStatus"]),
                    (times[1] - times[0]).total_seconds() if len(times) == 2 else 0.0,
                    str(one.get("FailureReason", "")),
                    one["TunedHyperParameters"],
                    float(final["Value"]) if final else None,
                )
            )
        return found

    def begin_search(self, name: str, step: Step, trials: int, order: str) -> None:
        """Creates a tuning job that starts from what the earlier ones have learnt."""
        study, compute = self._study, self._compute
        request = amazon_tuning.request(
            name,
            study,
            trials,
            seed=study.seed + len(self._searches),
            order=self._storage.uri_of(order),
            image=compute.image,
            definition=compute.definition(step, self._folder, f"{self._folder}/checkpoints"),
        )
        learnt = amazon_tuning.learning_from(self._searches, compute.image)
        hint = f"or let fewer trials run side by side than the {study.parallel} of tuning.parallel"
        with amazon_jobs.creating(name, compute.instance(step), hint):
            amazon.client("sagemaker").create_hyper_parameter_tuning_job(
                **request, **learnt, Tags=compute.tags(study.name)
            )

    def stop_search(self, name: str) -> None:
        """Asks SageMaker to stop a tuning job with its trials."""
        amazon_tuning.stop(name)

    def search_page(self, name: str) -> str:
        """The tuning job's page in the console."""
        return amazon_jobs.page("hyper-tuning-jobs", name)

    def trial_page(self, name: str) -> str:
        """The training job's page in the console."""
        return amazon_jobs.page("jobs", name)

    def trial_state(self, name: str) -> JobState | None:
        """The training job as SageMaker describes it."""
        return self._compute.training(name)

    def too_late(self, state: JobState) -> bool:
        """Whether SageMaker says so."""
        return state.detail in LATE

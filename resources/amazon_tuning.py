"""Tuning jobs of SageMaker: what is asked for and what is told, in the service's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detection_assets.domain import tuning
from detection_assets.domain.tuning import Choice, Parameter, Real
from resources import amazon, amazon_jobs
from resources.compute.base import Study
from resources.compute.trials import Search

METRIC = "objective"
"""SageMaker's name of what a trial is judged by."""
PARENTS = 5
"""How many earlier tuning jobs SageMaker lets a new one start from."""


def described(name: str) -> Mapping[str, Any] | None:
    """A tuning job as SageMaker describes it; None if there is none of the name.

    Raises:
        Silent: SageMaker does not say.
    """
    sagemaker = amazon.client("sagemaker")
    try:
        with amazon_jobs.asking(name):
            return sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    except LookupError:
        return None


def listed(name: str) -> list[Mapping[str, Any]]:
    """What SageMaker says of each trial of a tuning job, in the order in which they were begun.

    Raises:
        Silent: SageMaker does not say.
    """
    pages = amazon.client("sagemaker").get_paginator("list_training_jobs_for_hyper_parameter_tuning_job")
    with amazon_jobs.asking(name):
        found = [
            one for page in pages.paginate(HyperParameterTuningJobName=name) for one in page["TrainingJobSummaries"]
        ]
    return sorted(found, key=lambda one: (one["CreationTime"], one["TrainingJobName"]))


def stop(name: str) -> None:
    """Asks SageMaker to stop a tuning job with its trials; one that has ended stays as it is."""
    with amazon_jobs.stopping(name):
        amazon.client("sagemaker").stop_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)


def request(
    name: str, study: Study, trials: int, *, seed: int, order: str, image: str, definition: Mapping[str, Any]
) -> dict[str, Any]:
    """What SageMaker is asked for.

    Args:
        name: Of the tuning job.
        study: What is searched, and how.
        trials: How many are to be tried.
        seed: Of the service's own drawing.
        order: URI of what each trial is to do.
        image: The image of the programs.
        definition: What each trial's training job has in common with any other.
    """
    return {
        "HyperParameterTuningJobName": name,
        "HyperParameterTuningJobConfig": {
            "Strategy": "Bayesian",
            "HyperParameterTuningJobObjective": {
                "Type": "Maximize" if study.objective.maximize else "Minimize",
                "MetricName": METRIC,
            },
            "ResourceLimits": {
                "MaxNumberOfTrainingJobs": trials,
                "MaxParallelTrainingJobs": min(study.parallel, trials),
            },
            "ParameterRanges": ranges(study.space),
            "TrainingJobEarlyStoppingType": "Auto" if study.stopping else "Off",
            "RandomSeed": seed,
        },
        "TrainingJobDefinition": {
            "AlgorithmSpecification": {
                "TrainingImage": image,
                "TrainingInputMode": "File",
                "MetricDefinitions": [{"Name": METRIC, "Regex": tuning.OBJECTIVE_PATTERN}],
            },
            # The service starts the image with its own entrypoint and no arguments of ours.
            "Environment": {
                "DETECTION_JOB_ORDER": order,
                "DETECTION_JOB_INPUTS": amazon_jobs.CHANNELS,
                "DETECTION_JOB_CHECKPOINT": amazon_jobs.CHECKPOINTS,
                "DETECTION_JOB_FAILURE": amazon_jobs.FAILURE,
                "DETECTION_JOB_VALUES": amazon_jobs.VALUES,
            },
            **definition,
        },
    }


def learning_from(searches: Sequence[Search], image: str) -> dict[str, Any]:
    """The part of a request by which a search starts from what earlier ones have learnt; nothing, if they have not."""
    parents = [search for search in searches if search.good][-PARENTS:]
    if not parents:
        return {}
    definitions = [search.state.told["TrainingJobDefinition"] for search in parents]
    same = all(definition["AlgorithmSpecification"]["TrainingImage"] == image for definition in definitions)
    return {
        "WarmStartConfig": {
            "ParentHyperParameterTuningJobs": [{"HyperParameterTuningJobName": search.name} for search in parents],
            "WarmStartType": "IdenticalDataAndAlgorithm" if same else "TransferLearning",
        }
    }


def ranges(space: Mapping[str, Parameter]) -> dict[str, Any]:
    """A search space in SageMaker's words, which has all numbers as text."""
    found: dict[str, list[dict[str, Any]]] = {
        "ContinuousParameterRanges": [], "IntegerParameterRanges": [], "CategoricalParameterRanges": [],
    }  # fmt: skip
    for key, among in space.items():
        if isinstance(among, Choice):
            values = [tuning.as_text(value) for value in among.values]
            found["CategoricalParameterRanges"].append({"Name": key, "Values": values})
            continue
        kind = "ContinuousParameterRanges" if isinstance(among, Real) else "IntegerParameterRanges"
        found[kind].append(
            {
                "Name": key,
                "MinValue": tuning.as_text(among.low),
                "MaxValue": tuning.as_text(among.high),
                "ScalingType": "Logarithmic" if among.log else "Linear",
            }
        )
    return {kind: several for kind, several in found.items() if several}

"""SageMaker's tuning jobs: they draw values, begin training jobs with them, and read what those print.

How values are drawn is the service's own business; here it is a sequence that fills the ranges evenly.
"""

from __future__ import annotations

import hashlib
import math
import re
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fakes import s3, sagemaker

if TYPE_CHECKING:
    from fakes.sagemaker import FakeJob, SageMaker

MOST, MOST_PARALLEL, MOST_RANGES, MOST_PARENTS = 750, 100, 30, 5
"""What an account may have: training jobs of a tuning job, side by side; ranges; parents."""
GIVEN_UP = 5
"""After so many failures, and no success before, a tuning job fails."""
PAGE = 10
"""Training jobs on a page, unless more are asked for."""
KINDS = ("ContinuousParameterRanges", "IntegerParameterRanges", "CategoricalParameterRanges")


def refused(message: str, code: str = "ValidationException") -> Exception:
    return sagemaker.Refused(code, message)


@dataclass
class FakeTuningJob:
    """A tuning job and the training jobs that it has begun."""

    asked: Mapping[str, Any]
    trials: list[FakeJob] = field(default_factory=list)
    status: str = "InProgress"
    failure: str = ""
    began: float = field(default_factory=time.time)
    ended: float | None = None
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def name(self) -> str:
        return self.asked["HyperParameterTuningJobName"]

    @property
    def config(self) -> Mapping[str, Any]:
        return self.asked["HyperParameterTuningJobConfig"]

    @property
    def sign(self) -> int:
        return 1 if self.config["HyperParameterTuningJobObjective"]["Type"] == "Maximize" else -1

    @property
    def arn(self) -> str:
        return f"arn:aws:sagemaker:{s3.REGION}:{sagemaker.ACCOUNT}:hyper-parameter-tuning-job/{self.name}"

    def figures(self, trial: FakeJob) -> list[float]:
        """What a training job has printed of the objective."""
        name = self.config["HyperParameterTuningJobObjective"]["MetricName"]
        metrics = self.asked["TrainingJobDefinition"]["AlgorithmSpecification"]["MetricDefinitions"]
        (pattern,) = [metric["Regex"] for metric in metrics if metric["Name"] == name]
        return [float(found) for line in list(trial.log) for found in re.findall(pattern, line)]

    def running(self) -> list[FakeJob]:
        return [trial for trial in self.trials if trial.status in ("InProgress", "Stopping")]

    def good(self) -> list[FakeJob]:
        return [trial for trial in self.trials if trial.status == "Completed" and self.figures(trial)]


class TuningJobs:
    """The part of the service that tunes.

    Attributes:
        jobs: Every tuning job by its name.
        next: Values that the next training jobs get, where a test is about certain ones.
    """

    kinds = ("HyperParameterTuningJob", "TrainingJobsForHyperParameterTuningJob")

    def __init__(self, service: SageMaker) -> None:
        self.jobs: dict[str, FakeTuningJob] = {}
        self.next: list[dict[str, str]] = []
        self._service = service
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def answer(self, operation: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Does what is asked, or raises `Refused`."""
        if operation == "CreateHyperParameterTuningJob":
            return self._create(asked)
        job = self.jobs.get(asked["HyperParameterTuningJobName"])
        if job is None:
            name = asked["HyperParameterTuningJobName"]
            raise refused(
                f"Amazon SageMaker can't find a tuning job called {name}. Type another name.", "ResourceNotFound"
            )
        if operation == "DescribeHyperParameterTuningJob":
            return self._describe(job)
        if operation == "ListTrainingJobsForHyperParameterTuningJob":
            return self._list(job, asked)
        assert operation == "StopHyperParameterTuningJob", operation
        if job.status not in ("InProgress", "Stopping"):
            raise refused(f"The request was rejected because the HyperParameterTuningJob is in status {job.status}")
        job.status = "Stopping"
        job.stopping.set()
        return {}

    def end(self) -> None:
        """Ends all of them, with their threads."""
        for job in self.jobs.values():
            job.stopping.set()
        for thread in self._threads:
            thread.join(timeout=30)

    # What is refused -------------------------------------------------------------------------------------------------

    def _create(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        with self._lock:
            name = asked["HyperParameterTuningJobName"]
            if name in self.jobs:
                raise refused(
                    "Hyper-parameter tuning job names must be unique within an AWS account and region, and a tuning "
                    f"job with this name already exists ({self.jobs[name].arn})",
                    "ResourceInUse",
                )
            check(asked)
            for parent in (asked.get("WarmStartConfig") or {}).get("ParentHyperParameterTuningJobs", []):
                self._check_parent(asked, parent["HyperParameterTuningJobName"])
            job = self.jobs[name] = FakeTuningJob(asked)
        thread = threading.Thread(target=self._run, args=(job,), daemon=True)
        self._threads.append(thread)
        thread.start()
        return {"HyperParameterTuningJobArn": job.arn}

    def _check_parent(self, asked: Mapping[str, Any], name: str) -> None:
        parent = self.jobs.get(name)
        if parent is None:
            raise refused(f"Parent tuning job {name} does not exist")
        if parent.status in ("InProgress", "Stopping"):
            raise refused(f"Parent tuning job {name} must be in a terminal state, it is {parent.status}")
        mine, its = asked["HyperParameterTuningJobConfig"], parent.config
        if mine["HyperParameterTuningJobObjective"] != its["HyperParameterTuningJobObjective"]:
            raise refused(f"The objective metric must be the same as the one of parent tuning job {name}")
        kinds = [{one["Name"]: kind for kind, one in ranges_of(config)} for config in (mine, its)]
        if kinds[0] != kinds[1]:
            raise refused(
                f"The hyperparameters must be the same as those of parent tuning job {name}, in number and type"
            )
        if asked["WarmStartConfig"]["WarmStartType"] == "IdenticalDataAndAlgorithm":
            for part in ("InputDataConfig", "AlgorithmSpecification"):
                if asked["TrainingJobDefinition"].get(part) != parent.asked["TrainingJobDefinition"].get(part):
                    raise refused(f"{part} must be identical to the one of parent tuning job {name}")

    # What is done ----------------------------------------------------------------------------------------------------

    def _run(self, job: FakeTuningJob) -> None:
        limits = job.config["ResourceLimits"]
        while not job.stopping.is_set():
            running, failed = job.running(), [trial for trial in job.trials if trial.status == "Failed"]
            if len(failed) >= GIVEN_UP and not job.good():
                break
            if len(job.trials) == limits["MaxNumberOfTrainingJobs"] and not running:
                break
            if len(job.trials) < limits["MaxNumberOfTrainingJobs"] and len(running) < limits["MaxParallelTrainingJobs"]:
                try:
                    self._begin(job)
                except sagemaker.Refused as error:
                    job.failure = str(error)
                    break
            elif job.config.get("TrainingJobEarlyStoppingType") == "Auto":
                for trial in running:
                    if hopeless(job, trial):
                        self._stop(trial)
            job.stopping.wait(0.1)
        for trial in job.running():
            self._stop(trial)
        while job.running():
            time.sleep(0.05)
        job.ended = time.time()
        if not job.good() and not job.stopping.is_set():
            job.failure = job.failure or (
                f"No training job succeeded after {len(job.trials)} attempts. Please take a look at the training job "
                "failures to get more details."
            )
        job.status = "Stopped" if job.stopping.is_set() else "Failed" if job.failure else "Completed"

    def _stop(self, trial: FakeJob) -> None:
        if trial.status == "InProgress":
            with suppress(sagemaker.Refused):  # it may have ended by itself meanwhile
                self._service.stop("TrainingJob", {"TrainingJobName": trial.name})

    def _begin(self, job: FakeTuningJob) -> None:
        number = len(job.trials) + 1
        name = f"{job.name}-{number:03d}-{hashlib.sha256(f'{job.name}{number}'.encode()).hexdigest()[:8]}"
        definition = dict(job.asked["TrainingJobDefinition"])
        static = definition.pop("StaticHyperParameters", {})
        values = self.next.pop(0) if self.next else drawn(job, number)
        metric = job.config["HyperParameterTuningJobObjective"]["MetricName"]
        self._service.create(
            "TrainingJob",
            {
                **definition,
                "TrainingJobName": name,
                "HyperParameters": {**static, **values, "_tuning_objective_metric": metric},
            },
        )
        job.trials.append(self._service.jobs[name])

    # What is told ----------------------------------------------------------------------------------------------------

    def _describe(self, job: FakeTuningJob) -> dict[str, Any]:
        good = sorted(job.good(), key=lambda trial: -job.sign * job.figures(trial)[-1])
        counts = {status: sum(trial.status == status for trial in job.trials) for status in ("Completed", "Stopped")}
        return {
            **{key: value for key, value in job.asked.items() if key != "Tags"},
            "HyperParameterTuningJobArn": job.arn,
            "HyperParameterTuningJobStatus": job.status,
            "CreationTime": job.began,
            "LastModifiedTime": time.time(),
            "TrainingJobStatusCounters": {**counts, "InProgress": len(job.running())},
            "ObjectiveStatusCounters": {"Succeeded": len(good)},
            **({"HyperParameterTuningEndTime": job.ended} if job.ended else {}),
            **({"FailureReason": job.failure} if job.failure else {}),
            **({"BestTrainingJob": self._summary(job, good[0])} if good else {}),
        }

    def _list(self, job: FakeTuningJob, asked: Mapping[str, Any]) -> dict[str, Any]:
        at, size = int(asked.get("NextToken", "0")), asked.get("MaxResults", PAGE)
        by = {"CreationTime": lambda trial: trial.began}.get(asked.get("SortBy", "Name"), lambda trial: trial.name)
        trials = sorted(job.trials, key=by, reverse=asked.get("SortOrder") == "Descending")
        page = [self._summary(job, trial) for trial in trials[at : at + size]]
        more = {"NextToken": str(at + size)} if at + size < len(trials) else {}
        return {"TrainingJobSummaries": page, **more}

    def _summary(self, job: FakeTuningJob, trial: FakeJob) -> dict[str, Any]:
        names = [one["Name"] for _, one in ranges_of(job.config)]
        told: dict[str, Any] = {
            "TrainingJobName": trial.name,
            "TrainingJobArn": self._service.arn(trial),
            "CreationTime": trial.began,
            "TrainingJobStatus": trial.status,
            "TunedHyperParameters": {name: trial.asked["HyperParameters"][name] for name in names},
            "ObjectiveStatus": "Pending",
        }
        told |= {"TrainingStartTime": trial.started} if trial.started else {}
        told |= {"TrainingEndTime": trial.ended} if trial.ended else {}
        told |= {"FailureReason": trial.failure[:1024]} if trial.failure else {}
        if trial.ended:
            figures, objective = job.figures(trial), job.config["HyperParameterTuningJobObjective"]
            told["ObjectiveStatus"] = "Succeeded" if figures else "Failed"
            if figures:
                told["FinalHyperParameterTuningJobObjectiveMetric"] = {**objective, "Value": figures[-1]}
        return told


def ranges_of(config: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(kind, one) for kind in KINDS for one in (config.get("ParameterRanges") or {}).get(kind, [])]


def check(asked: Mapping[str, Any]) -> None:
    """What SageMaker holds against a tuning job, beyond the shapes."""
    config, definition = asked["HyperParameterTuningJobConfig"], asked.get("TrainingJobDefinition")
    if definition is None or "HyperParameterTuningJobObjective" not in config:
        raise refused("TrainingJobDefinition and HyperParameterTuningJobObjective are required")
    check_ranges(ranges_of(config))
    sagemaker.check_training(definition)
    if definition["RoleArn"] != sagemaker.ROLE:
        raise refused(f"Could not assume role {definition['RoleArn']}. Please ensure that the role exists")
    image, metrics = (definition["AlgorithmSpecification"].get(key) for key in ("TrainingImage", "MetricDefinitions"))
    if image != sagemaker.IMAGE:
        raise refused(f"Cannot find image {image} in the repository")
    metric = config["HyperParameterTuningJobObjective"]["MetricName"]
    if metric not in [one["Name"] for one in metrics or []]:
        raise refused(f"The objective metric {metric} must be one of the metrics that the algorithm defines")
    if any(re.compile(one["Regex"]).groups != 1 for one in metrics):
        raise refused("The regular expression of a metric must have one group")
    limits = config["ResourceLimits"]
    most, parallel = limits["MaxNumberOfTrainingJobs"], limits["MaxParallelTrainingJobs"]
    if parallel > most:
        raise refused("MaxParallelTrainingJobs must not be greater than MaxNumberOfTrainingJobs")
    _check_quota("Maximum number of training jobs per hyperparameter tuning job", most, MOST, "")
    _check_quota("Maximum number of parallel training jobs per hyperparameter tuning job", parallel, MOST_PARALLEL, "")
    resources = definition["ResourceConfig"]
    kind, count = resources["InstanceType"], resources["InstanceCount"] * parallel
    _check_quota(f"{kind} for training job usage", count, sagemaker.INSTANCES.get(kind, 0), " Instances")


def _check_quota(what: str, wanted: int, most: int, unit: str) -> None:
    if wanted > most:
        raise refused(
            f"The account-level service limit '{what}' is {most}{unit}, with current utilization of 0{unit} and a "
            f"request delta of {wanted}{unit}. Please use AWS Service Quotas to request an increase for this quota.",
            "ResourceLimitExceeded",
        )


def check_ranges(ranges: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """What the service holds against ranges; numbers are text."""
    if not 1 <= len(ranges) <= MOST_RANGES:
        raise refused(f"A tuning job has from 1 to {MOST_RANGES} hyperparameter ranges, not {len(ranges)}")
    if len({one["Name"] for _, one in ranges}) < len(ranges):
        raise refused("Hyperparameter names must be unique")
    for kind, one in ranges:
        if kind == "CategoricalParameterRanges":
            if len(set(one["Values"])) < len(one["Values"]):
                raise refused(f"{one['Name']}: values must be unique")
            continue
        try:
            low, high = ((int if kind.startswith("Integer") else float)(one[key]) for key in ("MinValue", "MaxValue"))
        except ValueError:
            raise refused(f"{one['Name']}: MinValue and MaxValue must be numbers of the range's type") from None
        if not low < high or not math.isfinite(high - low):
            raise refused(f"{one['Name']}: MinValue {low} must be less than MaxValue {high}")
        if one.get("ScalingType") == "Logarithmic" and low <= 0:
            raise refused(f"{one['Name']}: with logarithmic scaling MinValue must be greater than 0")


def drawn(job: FakeTuningJob, number: int) -> dict[str, str]:
    """Values for a training job: each range is filled evenly, whatever the others are."""
    start = int(hashlib.sha256(job.name.encode()).hexdigest()[:6], 16) + job.config.get("RandomSeed", 0)
    found: dict[str, str] = {}
    ranges = ranges_of(job.config)
    for place, (kind, one) in enumerate(ranges):
        share = (0.5 + (start + number) * 1.3247 ** -(place + 1)) % 1
        if kind == "CategoricalParameterRanges":
            found[one["Name"]] = one["Values"][int(share * len(one["Values"]))]
            continue
        low, high = float(one["MinValue"]), float(one["MaxValue"])
        value = low * (high / low) ** share if one.get("ScalingType") == "Logarithmic" else low + (high - low) * share
        found[one["Name"]] = str(round(value)) if kind == "IntegerParameterRanges" else repr(value)
    return found


def hopeless(job: FakeTuningJob, trial: FakeJob) -> bool:
    """Whether a training job is worse than the median of what those before it had reached on average by then."""
    mine = job.figures(trial)
    others = [job.figures(one)[: len(mine)] for one in job.good()]
    others = [figures for figures in others if len(figures) == len(mine)]
    if len(mine) < 2 or len(others) < 3:
        return False
    return job.sign * mine[-1] < job.sign * statistics.median(map(statistics.fmean, others))

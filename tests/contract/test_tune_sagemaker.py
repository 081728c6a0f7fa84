"""What only a study at SageMaker does: it learns from earlier searches, and its jobs are refused as SageMaker does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from contract.a_study import alive, put_in_place, started, study, tune
from contract.clouds import OnSageMaker
from contract.in_a_run import in_a_run
from e2e.test_aws import rights_of
from fakes import sagemaker, tuning

from detection_assets.domain.tuning import Trial
from resources.compute.base import MedianStop, StepFailed

PLATFORMS = ["aws"]


@pytest.fixture
def service(sagemaker_service: sagemaker.SageMaker) -> sagemaker.SageMaker:
    return OnSageMaker(sagemaker_service).service


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: sagemaker.SageMaker) -> Path:
    return put_in_place(tmp_path, monkeypatch)


def states(trials: Any) -> list[tuple[int, str]]:
    return [(trial.number, trial.state) for trial in trials]


def test_a_search_learns_from_the_one_that_was_stopped(
    platform: Any, scripted: Path, service: sagemaker.SageMaker
) -> None:
    of = study(platform, scripted, {"pause": 0.3}, trials=2, stopping=MedianStop(3, 2))

    def cancel(trial: Trial) -> None:
        if trial.number == 1 and trial.epochs:
            raise KeyboardInterrupt

    with pytest.raises(BaseException):  # noqa: B017, PT011 - as Dagster words it
        in_a_run(lambda context: platform.compute.tune(context, of, cancel))
    tune(platform, of)
    first, second = service.tuning.jobs.values()
    assert first.config["TrainingJobEarlyStoppingType"] == "Auto"
    assert all(trial.asked["EnableManagedSpotTraining"] for trial in service.jobs.values())
    used = {f"sagemaker:{operation}" for operation in service.calls if "TuningJob" in operation}
    assert used | {"sagemaker:AddTags"} == rights_of("DagsterPolicy", "Tuning"), "no right too few, and none too many"
    assert second.asked["WarmStartConfig"] == {
        "ParentHyperParameterTuningJobs": [{"HyperParameterTuningJobName": first.name}],
        "WarmStartType": "IdenticalDataAndAlgorithm",
    }


def test_a_trial_reads_what_the_service_reads(platform: Any, scripted: Path, service: sagemaker.SageMaker) -> None:
    result = tune(platform, study(platform, scripted, trials=2))
    (job,) = service.tuning.jobs.values()
    best = service.tuning.answer(
        "DescribeHyperParameterTuningJob", {"HyperParameterTuningJobName": job.name}
    )["BestTrainingJob"]  # fmt: skip
    assert result.best is not None
    assert float(best["TunedHyperParameters"]["lr0"]) == result.best.values["lr0"], "it read what the trials told"


@pytest.mark.long
def test_a_study_goes_on_with_another_image(
    platform: Any, scripted: Path, service: sagemaker.SageMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune(platform, study(platform, scripted, trials=1))
    newer = sagemaker.IMAGE.replace(":1", ":2")
    monkeypatch.setattr(sagemaker, "IMAGE", newer)
    monkeypatch.setenv("DETECTION_AWS_PROGRAMS_IMAGE", newer)
    compute = platform.compute.model_copy(update={"image": newer})
    result = in_a_run(lambda context: compute.tune(context, study(platform, scripted, trials=2)))
    assert states(result.trials) == [(0, "complete"), (1, "complete")]
    *_, second = service.tuning.jobs.values()
    assert second.asked["WarmStartConfig"]["WarmStartType"] == "TransferLearning"


def test_refusals_say_what_to_ask_for(
    platform: Any, scripted: Path, service: sagemaker.SageMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = study(platform, scripted, trials=9, parallel=3)
    with pytest.raises(StepFailed, match=r"ml\.g5\.xlarge for training job usage.*Service Quotas.*tuning\.parallel"):
        tune(platform, wide)
    assert not service.tuning.jobs
    service.no_capacity.add("ml.g5.xlarge")
    try:
        with pytest.raises(StepFailed, match=r"(?s)3 trials failed.*CapacityError.*different ML instance type"):
            tune(platform, study(platform, scripted, trials=9))
    finally:
        service.no_capacity.clear()
    monkeypatch.setattr(sagemaker, "ROLE", "arn:aws:iam::123456789012:role/another")
    with pytest.raises(StepFailed, match=r"Could not assume role.*DETECTION_AWS_ROLE"):
        tune(platform, study(platform, scripted, version="v2"))


@pytest.mark.long
def test_a_trial_that_takes_too_long_has_failed(platform: Any, scripted: Path, service: sagemaker.SageMaker) -> None:
    first = {"lr0": 0.5, "fliplr": 0.3}
    of = study(platform, scripted, {"pause": 1.0, "epochs": 20}, trials=4, parallel=2, first=first)
    told: list[Trial] = []
    with pytest.raises(StepFailed, match=r"3 trials failed(.|\n)*stopped at its limit of time: MaxRuntimeExceeded"):
        tune(platform, replace(of, step=replace(of.step, timeout_s=3.0)), told)
    assert told[0].number == 0
    assert "failed" in [trial.state for trial in told if trial.number == 0], "the detector's own values, too"
    assert not any(alive(run["pid"]) for run in started(scripted))


RANGE = {"Name": "lr0", "MinValue": "0.1", "MaxValue": "1"}


@pytest.mark.parametrize(
    ("kind", "ranges", "why"),
    [
        ("Continuous", [], "from 1 to 30"),
        ("Continuous", [{**RANGE, "MaxValue": "0.1"}], "must be less than"),
        ("Continuous", [{**RANGE, "MinValue": "0", "ScalingType": "Logarithmic"}], "greater than 0"),
        ("Continuous", [{**RANGE, "MaxValue": "much"}], "must be numbers"),
        ("Integer", [RANGE], "of the range's type"),
        ("Continuous", [RANGE, RANGE], "unique"),
        ("Categorical", [{"Name": "optimizer", "Values": ["SGD", "SGD"]}], "unique"),
    ],
)
def test_the_stand_in_refuses_ranges_that_the_service_refuses(kind: str, ranges: list[Any], why: str) -> None:
    with pytest.raises(sagemaker.Refused, match=why):
        tuning.check_ranges([(f"{kind}ParameterRanges", one) for one in ranges])

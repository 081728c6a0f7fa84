"""What only a study at SageMaker does: its job outlives the run, draws the values, is refused and charged for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from contract.a_study import alive, put_in_place, started, study, tune
from contract.in_a_run import in_a_run
from dagster._core.errors import DagsterExecutionInterruptedError
from e2e.test_aws import rights_of
from fakes import sagemaker, tuning

from detection_assets.domain.tuning import Choice, Real, Trial, Whole
from resources.compute.base import MedianStop, StepFailed
from resources.storage import Storage

PLATFORMS = ["aws"]
LR0 = {"lr0": Real(0.01, 1.0)}
WORKER = """
import sys
from pathlib import Path
import dagster as dg
from contract import a_study
from resources import profiles
from resources.compute import managed
managed.PROGRAMS = "scripted"
with dg.build_resources(profiles.PROFILES["aws"]("tiny", host="127.0.0.1", port=0)) as opened:
    a_study.tune(opened, a_study.study(opened, Path(sys.argv[1]), {"pause": 0.4, "epochs": 6}))
"""


@pytest.fixture
def service(sagemaker_service: sagemaker.SageMaker) -> sagemaker.SageMaker:
    sagemaker_service.jobs.clear()
    sagemaker_service.tuning.jobs.clear()
    sagemaker_service.tuning.next.clear()
    sagemaker_service.calls.clear()
    sagemaker_service.silent = 0
    return sagemaker_service


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: sagemaker.SageMaker) -> Path:
    return put_in_place(tmp_path, monkeypatch)


def until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, what
        time.sleep(0.05)


def states(trials: Any) -> list[tuple[int, str]]:
    return [(trial.number, trial.state) for trial in trials]


def give(service: sagemaker.SageMaker, *lr0: float) -> None:
    """Lets the service draw these next."""
    service.tuning.next = [{"lr0": str(value)} for value in lr0]


def test_a_study_is_one_tuning_job_with_a_price(
    platform: Any, scripted: Path, service: sagemaker.SageMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "PAGE", 2)
    result = tune(platform, study(platform, scripted, parallel=2))
    (job,) = service.tuning.jobs.values()
    assert job.status == "Completed"
    assert len(job.name) <= 32
    trials = [service.jobs[trial.name] for trial in job.trials]
    assert all(trial.asked["EnableManagedSpotTraining"] for trial in trials)
    assert result.instance == "ml.g5.xlarge"
    seconds = sum(max(1, round((trial.ended or 0) - (trial.started or 0))) for trial in trials)
    assert result.cost_usd == pytest.approx(1.408 / 3600 * seconds, rel=0.01)
    best = service.tuning.answer(
        "DescribeHyperParameterTuningJob", {"HyperParameterTuningJobName": job.name}
    )["BestTrainingJob"]  # fmt: skip
    assert result.best is not None
    assert float(best["TunedHyperParameters"]["lr0"]) == result.best.values["lr0"], "it read what the trials told"
    assert not list(platform.storage.list("jobs/tune-v1/checkpoints")), "no trial is to load another's checkpoint"
    platform.storage.delete("jobs")
    again = tune(platform, study(platform, scripted, parallel=2))
    assert [trial.value for trial in again.trials] == pytest.approx([trial.value for trial in result.trials])
    assert len(service.jobs) == 3, "what was tidied away in the lake is not tried again"


def test_a_run_that_is_killed_finds_its_tuning_job_and_goes_on(
    platform: Any, scripted: Path, service: sagemaker.SageMaker
) -> None:
    worker = subprocess.Popen([sys.executable, "-W", "ignore", "-c", WORKER, scripted], env=os.environ.copy())
    try:
        until(lambda: scripted.exists() and len(started(scripted)) == 2, "the second trial runs")
    finally:
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
    told: list[Trial] = []
    result = tune(platform, study(platform, scripted, {"pause": 0.4, "epochs": 6}), told)
    assert service.calls.count("CreateHyperParameterTuningJob") == 1
    assert states(result.trials) == [(0, "complete"), (1, "complete"), (2, "complete")]
    assert len(started(scripted)) == 3, "no trial was lost or doubled"
    ended = [trial.number for trial in told if trial.state == "complete"]
    assert ended == [0, 1, 2], "each is told once"
    assert all(sorted(trial.epochs) == [1, 2, 3, 4, 5, 6] for trial in result.trials)


@pytest.mark.parametrize(
    "stop", [DagsterExecutionInterruptedError, pytest.param(KeyboardInterrupt, marks=pytest.mark.long)]
)
def test_a_run_that_is_cancelled_stops_its_tuning_job(
    platform: Any, scripted: Path, service: sagemaker.SageMaker, stop: type[BaseException]
) -> None:
    of = study(platform, scripted, {"pause": 0.3}, trials=2)

    def cancel(trial: Trial) -> None:
        if trial.number == 1 and trial.epochs:
            raise stop

    with pytest.raises(BaseException) as raised:  # noqa: PT011 - either of them
        in_a_run(lambda context: platform.compute.tune(context, of, cancel))
    assert not isinstance(raised.value, AssertionError)
    (job,) = service.tuning.jobs.values()
    assert (job.status, [trial.status for trial in job.trials]) == ("Stopped", ["Completed", "Stopped"])
    assert not any(alive(run["pid"]) for run in started(scripted))
    result = tune(platform, of)
    assert states(result.trials) == [(0, "complete"), (1, "failed"), (2, "complete")]
    assert "another trial takes its place" in result.trials[1].why
    first, second = service.tuning.jobs.values()
    assert second.name == f"{first.name[:-1]}2"
    assert second.config["ResourceLimits"]["MaxNumberOfTrainingJobs"] == 1, "no more than are missing"
    used = {f"sagemaker:{operation}" for operation in service.calls if "TuningJob" in operation}
    assert used | {"sagemaker:AddTags"} == rights_of("DagsterPolicy", "Tuning"), "no right too few, and none too many"
    assert second.asked["WarmStartConfig"] == {
        "ParentHyperParameterTuningJobs": [{"HyperParameterTuningJobName": first.name}],
        "WarmStartType": "IdenticalDataAndAlgorithm",
    }


@pytest.mark.long
def test_one_that_was_stopped_in_its_first_trial_goes_on_from_its_checkpoint(
    platform: Any, scripted: Path, service: sagemaker.SageMaker
) -> None:
    of = study(platform, scripted, {"pause": 0.4, "epochs": 6}, trials=1, first={"lr0": 0.5, "fliplr": 0.3})

    def cancel(trial: Trial) -> None:
        if trial.epochs:
            raise KeyboardInterrupt

    with pytest.raises(BaseException):  # noqa: B017, PT011 - as Dagster words it
        in_a_run(lambda context: platform.compute.tune(context, of, cancel))
    assert [job.status for job in service.jobs.values()] == ["Stopped"]
    result = tune(platform, of)
    assert states(result.trials) == [(0, "complete")]
    assert result.trials[0].values == {"lr0": 0.5, "fliplr": 0.3}, "as in the detector's file, not in other digits"
    assert started(scripted)[1]["from"] >= 1
    assert not service.tuning.jobs, "there was nothing to search for"


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


def test_trials_that_fail_do_not_lose_the_rest(platform: Any, scripted: Path, service: sagemaker.SageMaker) -> None:
    give(service, 0.9, 0.3, 0.8, 0.4)
    result = tune(platform, study(platform, scripted, {"breaks_above": 0.6}, trials=2, space=LR0))
    assert [trial.state for trial in result.trials] == ["failed", "complete", "failed", "complete"]
    assert "lr0 0.8 is too much" in result.trials[2].why
    assert "console.aws.amazon.com" in result.trials[2].why
    assert result.best is not None
    assert result.best.values == {"lr0": 0.3}


def test_values_arrive_in_their_own_types(platform: Any, scripted: Path, service: sagemaker.SageMaker) -> None:
    space = {
        "lr0": Real(0.001, 1.0, log=True),
        "batch": Whole(1, 64, log=True),
        "optimizer": Choice(("SGD", "AdamW")),
        "cos_lr": Choice((True, False)),
        "mosaic": Choice((0.0, 0.5)),
    }
    service.tuning.next = [{"lr0": "1", "batch": "16", "optimizer": "SGD", "cos_lr": "true", "mosaic": "0.5"}]
    result = tune(platform, study(platform, scripted, trials=1, space=space))
    wanted = {"lr0": 1.0, "batch": 16, "optimizer": "SGD", "cos_lr": True, "mosaic": 0.5}
    assert result.trials[0].values == wanted
    assert {key: type(value) for key, value in result.trials[0].values.items()} == {
        key: type(value) for key, value in wanted.items()
    }
    (run,) = started(scripted)
    assert run["training"] == {"lr0": 1.0, "extra": {key: wanted[key] for key in wanted if key != "lr0"}}
    assert isinstance(run["training"]["lr0"], float)
    assert isinstance(run["training"]["extra"]["batch"], int)


@pytest.mark.long
def test_the_service_ends_a_trial_that_falls_behind(
    platform: Any, scripted: Path, service: sagemaker.SageMaker
) -> None:
    give(service, 0.3, 0.31, 0.29, 0.99)
    how = {"pause": 0.4, "epochs": 6}
    result = tune(platform, study(platform, scripted, how, trials=4, space=LR0, stopping=MedianStop(3, 2)))
    (job,) = service.tuning.jobs.values()
    assert job.config["TrainingJobEarlyStoppingType"] == "Auto"
    last = result.trials[3]
    assert (last.state, last.value) == ("pruned", max(last.epochs.values()))
    assert 2 <= max(last.epochs) < 6
    assert job.status == "Completed"
    assert str(started(scripted)[3]["pid"]) in Path(f"{scripted}.ends").read_text().split(), "in good order"
    again = tune(platform, study(platform, scripted, how, trials=4, space=LR0))
    assert again.trials == result.trials


@pytest.mark.long
def test_a_trial_whose_spot_instance_is_taken_away_goes_on_from_its_own_checkpoint(
    platform: Any, scripted: Path, service: sagemaker.SageMaker
) -> None:
    def take(trial: Trial) -> None:
        (job,) = service.jobs.values()
        if len(trial.epochs) >= 3 and job.starts == 1 and not job.interrupting:
            service.interrupt(job.name)

    of = study(platform, scripted, {"pause": 0.6, "epochs": 6}, trials=1)
    result = in_a_run(lambda context: platform.compute.tune(context, of, take))
    (job,) = service.jobs.values()
    assert (job.starts, job.status) == (2, "Completed")
    assert [run["from"] >= 3 for run in started(scripted)] == [False, True]
    assert sorted(result.trials[0].epochs) == [1, 2, 3, 4, 5, 6]


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


def test_a_tuning_job_that_somebody_stops_fails_the_run(
    platform: Any, scripted: Path, service: sagemaker.SageMaker
) -> None:
    def stop(trial: Trial) -> None:
        (job,) = service.tuning.jobs.values()
        if trial.epochs and job.status == "InProgress":
            service.tuning.answer("StopHyperParameterTuningJob", {"HyperParameterTuningJobName": job.name})

    of = study(platform, scripted, {"pause": 0.4})
    with pytest.raises(StepFailed, match=r"was stopped by somebody; run again to go on.*hyper-tuning-jobs"):
        in_a_run(lambda context: platform.compute.tune(context, of, stop))
    assert states(tune(platform, study(platform, scripted, trials=1)).trials) == [(0, "failed"), (1, "complete")]


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


@pytest.mark.long
def test_a_service_that_is_silent_for_a_while_stops_nothing(
    platform: Any, scripted: Path, service: sagemaker.SageMaker
) -> None:
    def silence(trial: Trial) -> None:
        if len(trial.epochs) == 1:
            service.silent = 3

    of = study(platform, scripted, {"pause": 0.5}, trials=1)
    result = in_a_run(lambda context: platform.compute.tune(context, of, silence))
    assert states(result.trials) == [(0, "complete")]
    assert service.silent == 0


@pytest.mark.long
def test_a_service_that_stays_silent_leaves_the_tuning_job_to_the_next_run(
    platform: Any, scripted: Path, service: sagemaker.SageMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silence(trial: Trial) -> None:
        if trial.epochs:
            service.silent = 1000

    of = study(platform, scripted, {"pause": 0.8}, trials=1)
    monkeypatch.setattr("resources.amazon_studies.PATIENCE_S", 0.5)
    try:
        with pytest.raises(StepFailed, match="does not say how it is"):
            in_a_run(lambda context: platform.compute.tune(context, of, silence))
    finally:
        service.silent = 0
    (job,) = service.tuning.jobs.values()
    assert job.status != "Stopped"
    assert states(tune(platform, of).trials) == [(0, "complete")]
    assert service.calls.count("CreateHyperParameterTuningJob") == 1


@pytest.mark.long
def test_two_lakes_do_not_share_a_study(platform: Any, scripted: Path, service: sagemaker.SageMaker) -> None:
    of = study(platform, scripted, trials=1)
    tune(platform, of)
    storage = Storage(root=platform.storage.root, prefix="another")
    for key in ("a/v1/1.jpg", "b/v1/1.jpg"):
        storage.put(f"frames/{key}", b"jpeg")
    long = platform.compute.model_copy(update={"storage": storage, "detector": "a-detector-with-a-long-name-indeed"})
    in_a_run(lambda context: long.tune(context, of))
    names = [job.name for job in service.tuning.jobs.values()]
    assert len({*names}) == 2
    assert all(len(name) <= 32 for name in names)


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

"""What only a study at Azure ML does: how it is asked for, what its trials log, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from contract.a_study import put_in_place, study, tune
from contract.clouds import OnAzureML
from contract.in_a_run import in_a_run
from fakes import azureml, azureml_sweeps, blob

from detection_assets.domain.tuning import Choice, Real, Whole
from resources.compute.base import MedianStop, StepFailed
from resources.compute.managed import JobState

PLATFORMS = ["azure"]


@pytest.fixture
def service(azureml_service: azureml.AzureML) -> azureml.AzureML:
    return OnAzureML(azureml_service).service


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: azureml.AzureML) -> Path:
    return put_in_place(tmp_path, monkeypatch)


def test_a_search_learns_from_what_its_trials_log_to_their_runs(
    platform: Any, scripted: Path, service: azureml.AzureML
) -> None:
    space = {"lr0": Real(0.01, 1.0, log=True), "batch": Whole(1, 8), "optimizer": Choice(("SGD", "AdamW"))}
    result = tune(platform, study(platform, scripted, trials=2, space=space))
    (sweep,) = service.sweeps.all.values()
    asked = sweep.asked
    assert asked["samplingAlgorithm"] == {"samplingAlgorithmType": "Bayesian"}
    assert asked["searchSpace"] == {
        "ln_lr0": ["uniform", [math.log(0.01), 0.0]],
        "batch": ["quniform", [1, 8, 1]],
        "optimizer": ["choice", [["SGD", "AdamW"]]],
    }
    assert asked["limits"]["maxTotalTrials"] == 2
    assert asked["limits"]["trialTimeout"] == "P1D"
    for trial, job in zip(result.trials, sweep.trials, strict=True):
        assert service.metrics.figures(job.name, "objective") == pytest.approx([*trial.epochs.values(), trial.value])
    best = service.sweeps.get(sweep.name)["properties"]["properties"]["best_child_run_id"]
    assert result.best is not None
    assert best == sweep.trials[result.best.number].name, "it has read what the trials told"
    told = json.dumps(asked)
    assert blob.KEY not in told
    assert service.secret not in told


@pytest.mark.long
def test_a_search_that_ends_trials_early_draws_at_random(
    platform: Any, scripted: Path, service: azureml.AzureML
) -> None:
    of = study(platform, scripted, trials=1, stopping=MedianStop(3, 2), seed=5)
    tune(platform, of)
    tune(platform, replace(of, trials=2))
    asked = [sweep.asked for sweep in service.sweeps.all.values()]
    assert [one["samplingAlgorithm"] for one in asked] == [
        {"samplingAlgorithmType": "Random", "seed": seed} for seed in (5, 6)
    ], "and otherwise each time"
    policy = {"policyType": "MedianStopping", "delayEvaluation": 2, "evaluationInterval": 1}
    assert [one["earlyTermination"] for one in asked] == [policy, policy]


@pytest.mark.long
def test_a_run_that_takes_no_figure_costs_no_trial(
    platform: Any, scripted: Path, service: azureml.AzureML, capfd: pytest.CaptureFixture[str]
) -> None:
    service.metrics.refused = True
    try:
        result = tune(platform, study(platform, scripted, {"epochs": 1}, trials=1))
    finally:
        service.metrics.refused = False
    assert [trial.state for trial in result.trials] == ["complete"]
    (sweep,) = service.sweeps.all.values()
    assert "best_child_run_id" not in service.sweeps.get(sweep.name)["properties"]["properties"]
    lines, _ = platform.compute.printed(sweep.trials[0].name)
    assert [line for line in lines if "did not take log-metric" in line]


def test_what_was_stopped_at_its_limit_of_time_is_told_from_what_was_cancelled(platform: Any, scripted: Path) -> None:
    def late(context: Any) -> list[bool]:
        of = study(platform, scripted, trials=0)
        follows = platform.compute.open_study(context, replace(of, step=replace(of.step, timeout_s=90.0)))
        states = [JobState("stopped", seconds=89), JobState("stopped", seconds=90), JobState("failed", seconds=90)]
        return [follows.too_late(state) for state in states]

    assert in_a_run(late) == [False, True, False]


def test_refusals_say_what_to_do(platform: Any, scripted: Path, service: azureml.AzureML) -> None:
    def refused(remedy: str, of: Any = None, **changes: Any) -> None:
        compute = platform.compute.model_copy(update=changes)
        with pytest.raises(StepFailed, match=remedy):
            in_a_run(lambda context: compute.tune(context, of or study(platform, scripted, trials=1)))
        assert not service.sweeps.all

    refused("has no compute cluster huge; make it, or set DETECTION_AZURE_GPU", gpu="huge")
    refused("has no compute cluster none; make it, or set DETECTION_AZURE_SPOT", spot="none")
    refused("Could not find datastore 'other'", datastore="other")
    refused("maxTotalTrials must be from 1 to 1000", study(platform, scripted, trials=1001))
    refused("maxConcurrentTrials must be from 1 to 100", study(platform, scripted, trials=200, parallel=101))
    service.denied = {"PUT jobs"}
    try:
        refused("AuthorizationFailed.*give whom Dagster runs as the role AzureML Data Scientist")
    finally:
        service.denied = set()


LR0 = {"lr0": ["uniform", [0.1, 1]]}
MEDIAN = {"policyType": "MedianStopping"}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"searchSpace": {}}, "at least one hyperparameter"),
        ({"searchSpace": {"lr0": ["uniform", [1, 0.1]]}}, "must be less than"),
        ({"searchSpace": {"lr0": ["uniform", [1]]}}, "no parameter expression"),
        ({"searchSpace": {"lr0": ["somehow", [0, 1]]}}, "no parameter expression"),
        ({"searchSpace": {"lr0": ["uniform", [0, "much"]]}}, "must be numbers"),
        ({"searchSpace": {"lr0": ["choice", [[]]]}}, "at least one value"),
        ({"searchSpace": {"lr0": ["quniform", [0, 1, 0]]}}, "q must be greater"),
        ({"searchSpace": {"lr0": ["loguniform", [-3, 0]]}}, "does not support loguniform"),
        ({"earlyTermination": MEDIAN}, "does not support early termination"),
        ({"objective": {"goal": "Maximize", "primaryMetric": ""}}, "primary metric is required"),
        ({"searchSpace": {"lrf": LR0["lr0"]}}, r"search_space\.lr0.*is not in the search space"),
    ],
)
def test_the_stand_in_refuses_searches_that_the_service_refuses(changes: dict[str, Any], why: str) -> None:
    asked = {
        "searchSpace": LR0,
        "samplingAlgorithm": {"samplingAlgorithmType": "Bayesian"},
        "objective": {"goal": "Maximize", "primaryMetric": "objective"},
        "trial": {"command": "echo ${{search_space.lr0}}"},
    }
    azureml_sweeps.check(asked)
    with pytest.raises(azureml.Refused, match=why):
        azureml_sweeps.check({**asked, **changes})

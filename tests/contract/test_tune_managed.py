"""What a study at a cloud's tuner does: its search outlives the run, draws the values, is stopped and charged for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from contract import clouds
from contract.a_study import alive, put_in_place, started, study, tune
from contract.in_a_run import in_a_run
from dagster._core.errors import DagsterExecutionInterruptedError
from fakes import azureml_sweeps, tuning

from detection_assets.domain.tuning import Choice, Parameter, Real, Trial, Whole
from resources.compute.base import MedianStop, StepFailed
from resources.storage import Storage

PLATFORMS = ["aws", "azure"]
pytestmark = pytest.mark.stand_in("its program is in no image")
LR0: dict[str, Parameter] = {"lr0": Real(0.01, 1.0)}
WORKER = """
import sys
from pathlib import Path
import dagster as dg
from contract import a_study
from resources import profiles
from resources.compute import managed
managed.PROGRAMS = "scripted"
with dg.build_resources(profiles.PROFILES[sys.argv[2]]("tiny", host="127.0.0.1", port=0)) as opened:
    a_study.tune(opened, a_study.study(opened, Path(sys.argv[1]), {"pause": 0.4, "epochs": 6}))
"""


@pytest.fixture
def profile(request: pytest.FixtureRequest) -> str:
    return request.node.callspec.params["platform"]


@pytest.fixture
def service(profile: str, request: pytest.FixtureRequest) -> Any:
    return clouds.on(profile, request)


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: Any, service: Any) -> Path:
    return put_in_place(tmp_path, monkeypatch)


def until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, what
        time.sleep(0.05)


def states(trials: Any) -> list[tuple[int, str]]:
    return [(trial.number, trial.state) for trial in trials]


def test_a_study_is_one_search_with_a_price(
    platform: Any, scripted: Path, service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "PAGE", 2)
    monkeypatch.setattr(azureml_sweeps, "PAGE", 2)
    result = tune(platform, study(platform, scripted, parallel=2))
    (name,) = service.searches
    assert service.searches[name] == "done"
    assert len(name) <= 32
    assert result.instance == service.instance
    seconds = sum(map(service.ran, service.jobs))
    assert result.cost_usd == pytest.approx(service.price / 3600 * seconds, rel=0.01, abs=service.price / 3600 * 0.01)
    assert not list(platform.storage.list("jobs/tune-v1/checkpoints")), "no trial is to load another's checkpoint"
    platform.storage.delete("jobs")
    again = tune(platform, study(platform, scripted, parallel=2))
    assert [trial.value for trial in again.trials] == pytest.approx([trial.value for trial in result.trials])
    assert [trial.values for trial in again.trials] == [trial.values for trial in result.trials]
    assert len(service.jobs) == 3, "what was tidied away in the lake is not tried again"


def test_a_run_that_is_killed_finds_its_search_and_goes_on(
    platform: Any, scripted: Path, service: Any, profile: str
) -> None:
    worker = subprocess.Popen([sys.executable, "-W", "ignore", "-c", WORKER, scripted, profile], env=os.environ.copy())
    try:
        until(lambda: scripted.exists() and len(started(scripted)) == 2, "the second trial runs")
    finally:
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
    told: list[Trial] = []
    result = tune(platform, study(platform, scripted, {"pause": 0.4, "epochs": 6}), told)
    assert service.asked == 1
    assert states(result.trials) == [(0, "complete"), (1, "complete"), (2, "complete")]
    assert len(started(scripted)) == 3, "no trial was lost or doubled"
    ended = [trial.number for trial in told if trial.state == "complete"]
    assert ended == [0, 1, 2], "each is told once"
    assert all(sorted(trial.epochs) == [1, 2, 3, 4, 5, 6] for trial in result.trials)


@pytest.mark.parametrize(
    "stop", [DagsterExecutionInterruptedError, pytest.param(KeyboardInterrupt, marks=pytest.mark.long)]
)
def test_a_run_that_is_cancelled_stops_its_search(
    platform: Any, scripted: Path, service: Any, stop: type[BaseException]
) -> None:
    of = study(platform, scripted, {"pause": 0.3}, trials=2)

    def cancel(trial: Trial) -> None:
        if trial.number == 1 and trial.epochs:
            raise stop

    with pytest.raises(BaseException) as raised:  # noqa: PT011 - either of them
        in_a_run(lambda context: platform.compute.tune(context, of, cancel))
    assert not isinstance(raised.value, AssertionError)
    ((name, how),) = service.searches.items()
    assert (how, service.trials(name)) == ("stopped", ["done", "stopped"])
    assert not any(alive(run["pid"]) for run in started(scripted))
    result = tune(platform, of)
    assert states(result.trials) == [(0, "complete"), (1, "failed"), (2, "complete")]
    assert "another trial takes its place" in result.trials[1].why
    assert len({trial.values["lr0"] for trial in result.trials}) == 3, "the next search draws otherwise"
    first, second = service.searches
    assert second == f"{first[:-1]}2"
    assert service.most(second) == 1, "no more than are missing"


@pytest.mark.long
def test_one_that_was_stopped_in_its_first_trial_goes_on_from_its_checkpoint(
    platform: Any, scripted: Path, service: Any
) -> None:
    of = study(platform, scripted, {"pause": 0.4, "epochs": 6}, trials=1, first={"lr0": 0.5, "fliplr": 0.3})

    def cancel(trial: Trial) -> None:
        if trial.epochs:
            raise KeyboardInterrupt

    with pytest.raises(BaseException):  # noqa: B017, PT011 - as Dagster words it
        in_a_run(lambda context: platform.compute.tune(context, of, cancel))
    assert [job.status for job in service.jobs] in (["Stopped"], ["Canceled"])
    result = tune(platform, of)
    assert states(result.trials) == [(0, "complete")]
    assert result.trials[0].values == {"lr0": 0.5, "fliplr": 0.3}, "as in the detector's file, not in other digits"
    assert started(scripted)[1]["from"] >= 1
    assert not service.searches, "there was nothing to search for"


def test_trials_that_fail_do_not_lose_the_rest(platform: Any, scripted: Path, service: Any) -> None:
    service.give(LR0, *({"lr0": value} for value in (0.9, 0.3, 0.8, 0.4)))
    result = tune(platform, study(platform, scripted, {"breaks_above": 0.6}, trials=2, space=LR0))
    assert [trial.state for trial in result.trials] == ["failed", "complete", "failed", "complete"]
    assert "lr0 0.8 is too much" in result.trials[2].why
    assert service.page in result.trials[2].why
    assert result.best is not None
    assert result.best.values == {"lr0": 0.3}


def test_values_arrive_in_their_own_types(platform: Any, scripted: Path, service: Any) -> None:
    space: dict[str, Parameter] = {
        "lr0": Real(0.001, 1.0, log=True),
        "batch": Whole(1, 64, log=True),
        "close_mosaic": Whole(0, 20),
        "optimizer": Choice(("SGD", "AdamW")),
        "cos_lr": Choice((True, False)),
        "mosaic": Choice((0.0, 0.5)),
    }
    wanted = {"lr0": 1.0, "batch": 16, "close_mosaic": 7, "optimizer": "SGD", "cos_lr": True, "mosaic": 0.5}
    service.give(space, wanted)
    result = tune(platform, study(platform, scripted, trials=1, space=space))
    assert result.trials[0].values == wanted
    assert {key: type(value) for key, value in result.trials[0].values.items()} == {
        key: type(value) for key, value in wanted.items()
    }
    (run,) = started(scripted)
    assert run["training"] == {"lr0": 1.0, "extra": {key: wanted[key] for key in wanted if key != "lr0"}}
    assert isinstance(run["training"]["lr0"], float)
    assert isinstance(run["training"]["extra"]["batch"], int)


@pytest.mark.long
def test_the_service_ends_a_trial_that_falls_behind(platform: Any, scripted: Path, service: Any) -> None:
    service.give(LR0, *({"lr0": value} for value in (0.3, 0.31, 0.29, 0.99)))
    how = {"pause": 0.4, "epochs": 6, "stays_above": 0.9}
    result = tune(platform, study(platform, scripted, how, trials=4, space=LR0, stopping=MedianStop(3, 2)))
    last = result.trials[3]
    assert (last.state, last.value) == ("pruned", max(last.epochs.values()))
    assert 2 <= max(last.epochs) < 6
    assert list(service.searches.values()) == ["done"]
    ended = str(started(scripted)[3]["pid"])
    until(lambda: ended in Path(f"{scripted}.ends").read_text().split(), "it was not ended in good order")
    again = tune(platform, study(platform, scripted, how, trials=4, space=LR0))
    assert again.trials == result.trials


@pytest.mark.long
def test_a_trial_whose_machine_is_taken_away_goes_on_from_its_own_checkpoint(
    platform: Any, scripted: Path, service: Any, profile: str
) -> None:
    compute = platform.compute.model_copy(update={"spot": {"aws": True, "azure": "spot"}[profile]})

    def take(trial: Trial) -> None:
        (job,) = service.jobs
        if len(trial.epochs) >= 3 and job.starts == 1 and not job.interrupting:
            service.interrupt(job)

    of = study(platform, scripted, {"pause": 0.6, "epochs": 6}, trials=1)
    result = in_a_run(lambda context: compute.tune(context, of, take))
    (job,) = service.jobs
    assert (job.starts, job.status) == (2, "Completed")
    assert [run["from"] >= 3 for run in started(scripted)] == [False, True]
    assert sorted(result.trials[0].epochs) == [1, 2, 3, 4, 5, 6]


def test_a_search_that_somebody_stops_fails_the_run(platform: Any, scripted: Path, service: Any) -> None:
    def stop(trial: Trial) -> None:
        ((name, how),) = service.searches.items()
        if trial.epochs and how == "running":
            service.stop(name)

    of = study(platform, scripted, {"pause": 0.4})
    with pytest.raises(StepFailed, match=r"was stopped by somebody; run again to go on") as raised:
        in_a_run(lambda context: platform.compute.tune(context, of, stop))
    assert service.page in str(raised.value)
    assert states(tune(platform, study(platform, scripted, trials=1)).trials) == [(0, "failed"), (1, "complete")]


@pytest.mark.long
def test_a_service_that_is_silent_for_a_while_stops_no_search(platform: Any, scripted: Path, service: Any) -> None:
    def silence(trial: Trial) -> None:
        if len(trial.epochs) == 1:
            service.service.silent = 3

    of = study(platform, scripted, {"pause": 0.5}, trials=1)
    result = in_a_run(lambda context: platform.compute.tune(context, of, silence))
    assert states(result.trials) == [(0, "complete")]
    assert service.service.silent == 0


@pytest.mark.long
def test_a_service_that_stays_silent_leaves_the_search_to_the_next_run(
    platform: Any, scripted: Path, service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silence(trial: Trial) -> None:
        if trial.epochs:
            service.service.silent = 1000

    of = study(platform, scripted, {"pause": 0.8}, trials=1)
    monkeypatch.setattr("resources.compute.searches.PATIENCE_S", 0.5)
    try:
        with pytest.raises(StepFailed, match="does not say how it is"):
            in_a_run(lambda context: platform.compute.tune(context, of, silence))
    finally:
        service.service.silent = 0
    assert list(service.searches.values()) != ["stopped"]
    assert states(tune(platform, of).trials) == [(0, "complete")]
    assert service.asked == 1


@pytest.mark.long
def test_two_lakes_do_not_share_a_study(platform: Any, scripted: Path, service: Any) -> None:
    of = study(platform, scripted, trials=1)
    tune(platform, of)
    storage = Storage(root=platform.storage.root, prefix="another")
    for key in ("a/v1/1.jpg", "b/v1/1.jpg"):
        storage.put(f"frames/{key}", b"jpeg")
    long = platform.compute.model_copy(update={"storage": storage, "detector": "a-detector-with-a-long-name-indeed"})
    in_a_run(lambda context: long.tune(context, of))
    assert len(service.searches) == 2
    assert all(len(name) <= 32 for name in service.searches)

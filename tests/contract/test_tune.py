"""A study's contract: it tries, judges, goes on and fails the same, wherever its trials run."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from contract.a_study import ROOT, alive, put_in_place, started, study, tune

from detection_assets.domain.tuning import Real, Trial
from resources.compute.base import MedianStop, StepFailed

PLATFORMS = ["local", "aws", "azure"]
pytestmark = pytest.mark.stand_in("its program is in no image")
here = pytest.mark.platforms("local")
"""What only this machine's own tuner does; tests/contract/test_tune_sagemaker.py has what only SageMaker's does."""


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts the program in place; gives where it writes down what it was given."""
    return put_in_place(tmp_path, monkeypatch)


def test_a_study_tries_judges_and_names_the_best(platform: Any, scripted: Path) -> None:
    told: list[Trial] = []
    result = tune(platform, study(platform, scripted, first={"lr0": 0.5}), told)
    assert [trial.number for trial in result.trials] == [0, 1, 2]
    assert {trial.state for trial in result.trials} == {"complete"}
    assert result.trials[0].values["lr0"] == 0.5, "what the detector has comes first"
    for trial in result.trials:
        assert trial.value == pytest.approx(1 - abs(trial.values["lr0"] - 0.3))
        assert sorted(trial.epochs) == [1, 2, 3, 4]
        assert trial.seconds > 0
    assert result.best == max(result.trials, key=lambda trial: trial.value or 0.0)
    runs = started(scripted)
    assert [run["training"]["lr0"] for run in runs] == [trial.values["lr0"] for trial in result.trials]
    for run, trial in zip(runs, result.trials, strict=True):
        assert run["training"]["extra"] == {"mosaic": 1.0, "fliplr": trial.values["fliplr"]}
        assert run["seen"] == ["a/v1/1.jpg", "b/v1/1.jpg"], "what the step does not name is not to be seen"
    states = [(trial.number, trial.state) for trial in told]
    assert [states.index((number, "complete")) for number in range(3)] == sorted(
        states.index((number, "complete")) for number in range(3)
    )
    assert states.index((0, "running")) < states.index((0, "complete"))


@here
def test_trials_leave_no_scratch(platform: Any, scripted: Path, home: Path) -> None:
    tune(platform, study(platform, scripted, trials=2))
    assert {path.name for path in (home / ".scratch" / "tiny").iterdir()} == {"tune-v1"}


def test_a_study_is_gone_on_with_and_draws_nothing_twice(platform: Any, scripted: Path) -> None:
    first = tune(platform, study(platform, scripted, trials=2))
    again = tune(platform, study(platform, scripted, trials=2))
    assert again.trials == first.trials
    assert len(started(scripted)) == 2, "nothing was run again"
    more = tune(platform, study(platform, scripted, trials=4))
    assert more.trials[:2] == first.trials
    assert len({trial.values["lr0"] for trial in more.trials}) == 4
    other = tune(platform, study(platform, scripted, trials=1, version="v2"))
    assert [trial.number for trial in other.trials] == [0], "another version is another study"


@here
def test_a_trial_that_falls_behind_is_ended(platform: Any, scripted: Path) -> None:
    good = study(platform, scripted, trials=3, space={"lr0": Real(0.29, 0.31)}, stopping=MedianStop(3, 2))
    tune(platform, good)
    bad = study(
        platform, scripted, {"pause": 0.7, "epochs": 8}, trials=4, space={"lr0": Real(0.9, 1.0)},
        stopping=MedianStop(3, 2),
    )  # fmt: skip
    result = tune(platform, bad)
    last = result.trials[3]
    assert last.state == "pruned"
    assert 2 <= max(last.epochs) < 8, "at the first step at which it may be, or soon after"
    assert result.best is not None
    assert result.best.number < 3
    pid = started(scripted)[-1]["pid"]
    ends = Path(f"{scripted}.ends").read_text().split()
    assert str(pid) in ends, "the program was told to end, and did so in good order"


def test_what_is_never_ended_early_runs_to_its_end(platform: Any, scripted: Path) -> None:
    tune(platform, study(platform, scripted, trials=3, space={"lr0": Real(0.29, 0.31)}))
    result = tune(platform, study(platform, scripted, {"pause": 0.3}, trials=4, space={"lr0": Real(0.9, 1.0)}))
    assert result.trials[3].state == "complete"


def test_trials_run_side_by_side(platform: Any, scripted: Path) -> None:
    told: list[Trial] = []
    result = tune(platform, study(platform, scripted, {"pause": 0.5}, trials=3, parallel=2), told)
    assert [trial.state for trial in result.trials] == ["complete"] * 3
    states = [(trial.number, trial.state) for trial in told]
    assert states.index((1, "running")) < states.index((0, "complete"))


def test_a_trial_that_fails_says_why_and_does_not_count(platform: Any, scripted: Path) -> None:
    # Hardly any draw but the first is above 0.6: three failures one after another would end the tuning.
    space = {"lr0": Real(1e-6, 0.71, log=True)}
    of = study(platform, scripted, {"breaks_above": 0.6}, trials=1, first={"lr0": 0.7}, space=space)
    result = tune(platform, of)
    assert result.trials[0].state == "failed"
    assert "lr0 0.7 is too much" in result.trials[0].why
    assert sum(trial.judged for trial in result.trials) == 1
    assert result.best is not None


def test_when_every_trial_fails_the_tuning_does(platform: Any, scripted: Path) -> None:
    of = study(platform, scripted, {"breaks_above": 0.0}, trials=9)
    with pytest.raises(StepFailed, match=r"3 trials failed one after another, the last with:(.|\n)*is too much"):
        tune(platform, of)
    assert 3 <= len(started(scripted)) < 9, "others may have begun before the third was seen to fail"


@pytest.mark.parametrize("result", [None, "NaN", "much"])
def test_a_trial_without_a_figure_has_failed(platform: Any, scripted: Path, result: Any) -> None:
    with pytest.raises(StepFailed, match="objective"):
        tune(platform, study(platform, scripted, {"result": float("nan") if result == "NaN" else result}, trials=1))


def test_at_its_limit_of_time_it_stops_and_goes_on_later(platform: Any, scripted: Path) -> None:
    slow = {"pause": 0.4, "epochs": 14}
    of = study(platform, scripted, slow, trials=1, first={"lr0": 0.5})
    result = tune(platform, replace(of, timeout_s=4.0))
    (trial,) = result.trials
    assert trial.state == "running"
    assert trial.epochs
    assert result.best is None
    again = tune(platform, of)
    assert [(trial.number, trial.state) for trial in again.trials] == [(0, "complete")]
    assert again.trials[0].values == trial.values
    assert sorted(again.trials[0].epochs) == list(range(1, 15))
    assert started(scripted)[1]["from"] >= max(trial.epochs), "from its checkpoint on"
    assert again.trials[0].seconds > trial.seconds


KILLED = """
import sys
sys.path[:0] = {paths!r}
from pathlib import Path
import dagster as dg
from resources import profiles
from resources.compute import local
from contract import a_study
local.PROGRAMS = "scripted"
opened = dg.build_resources(profiles.PROFILES["local"]("tiny", host="127.0.0.1", port=0)).__enter__()
how = {{"pause": 0.4, "epochs": 6}}
a_study.tune(opened, a_study.study(opened, Path({record!r}), how, trials=3))
"""


@here
@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.long)], ids=["kill -9", "Ctrl-C"]
)
def test_a_study_that_is_killed_loses_and_doubles_nothing(platform: Any, scripted: Path, number: int) -> None:
    script = KILLED.format(paths=[str(ROOT), str(ROOT / "tests")], record=str(scripted))
    running = subprocess.Popen([sys.executable, "-W", "ignore", "-c", script], stderr=subprocess.PIPE, text=True)
    marks = Path(platform.compute.scratch).rglob
    ends = time.monotonic() + 120
    # In the middle of the second trial.
    while not (scripted.exists() and len(started(scripted)) == 2 and any(mark.read_text() for mark in marks("epoch"))):
        assert running.poll() is None, running.stderr.read() if running.stderr else ""
        assert time.monotonic() < ends
        time.sleep(0.05)
    running.send_signal(number)
    running.communicate(timeout=120)
    assert running.returncode != 0
    before = started(scripted)
    while alive(before[1]["pid"]):  # a program ends soon after the process that started it
        assert time.monotonic() < ends
        time.sleep(0.05)
    told: list[Trial] = []
    result = tune(platform, study(platform, scripted, {"pause": 0.4, "epochs": 6}, trials=3), told)
    assert [(trial.number, trial.state) for trial in result.trials] == [
        (0, "complete"),
        (1, "complete"),
        (2, "complete"),
    ]
    assert [(told[0].number, told[0].state), (told[1].number, told[1].state)] == [(0, "complete"), (1, "running")]
    runs = started(scripted)
    assert [run["training"]["lr0"] for run in runs] == [
        before[0]["training"]["lr0"],
        before[1]["training"]["lr0"],
        before[1]["training"]["lr0"],
        result.trials[2].values["lr0"],
    ]
    assert runs[2]["from"] >= 1, "the second goes on from its checkpoint"
    for trial in result.trials:
        assert sorted(trial.epochs) == [1, 2, 3, 4, 5, 6]


@here
def test_a_trial_that_takes_its_process_down_again_and_again_is_given_up(platform: Any, scripted: Path) -> None:
    from resources.studies import ATTEMPTS, StudyFile

    of = study(platform, scripted, trials=1)
    folder = Path(platform.compute.scratch) / of.name
    folder.mkdir(parents=True)
    numbers = []
    for _ in range(ATTEMPTS):
        file = StudyFile(folder / "study.db", of)
        numbers.append(file.begin().number)
        file.close()  # as after a kill: nothing was said about the trial
    assert numbers == [0] * ATTEMPTS
    result = tune(platform, of)
    assert [(trial.number, trial.state) for trial in result.trials] == [(0, "failed"), (1, "complete")]
    assert "3 times" in result.trials[0].why


@here
def test_two_do_not_tune_the_same_at_once(platform: Any, scripted: Path) -> None:
    from resources.compute.local import LocalStudy

    of = study(platform, scripted)
    context: Any = None
    handle: LocalStudy = platform.compute.open_study(context, of)
    try:
        with pytest.raises(StepFailed, match="tune-v1 is running already"):
            tune(platform, of)
    finally:
        platform.compute.close_study(handle)
    assert tune(platform, of).best is not None

"""`detection tune` as it is used: killed, gone on with, taken up by the next training. Real trainings, of seconds."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from dagster import AssetKey, DagsterInstance, DagsterRunStatus, RunsFilter
from project import DETECTION, kill_when, make_home, write_detector
from rich.console import Console

from detection_assets.domain.problems import InputError
from resources import tables
from resources.storage import Storage

# What the file has for lr0, 0.002, is outside the space: whichever trial is best, its values make another training.
TUNING = """
tuning:
  trials: 3
  space:
    lr0: {low: 0.004, high: 0.01, log: true}
    fliplr: {choices: [0.0, 0.3]}
"""
pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]


def update(until: str) -> str:
    """`detection run fridge --until ...`, in this process."""
    from detection_assets.commands import running

    out = Console(file=io.StringIO(), width=240, highlight=False)
    assert running.run(out, "fridge", until) == 0, said(out)
    return said(out)


def tune() -> str:
    """`detection tune fridge`, in this process."""
    from detection_assets.commands import tuning

    out = Console(file=io.StringIO(), width=240, highlight=False)
    assert tuning.tune(out, "fridge", None, None) == 0, said(out)
    return said(out)


def said(out: Console) -> str:
    return out.file.getvalue()  # type: ignore[attr-defined]


class World:
    """A project with a dataset, in which nothing was tuned."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.storage = Storage(root=str(home / "lake"), prefix="fridge")

    def table(self, asset: str) -> pd.DataFrame:
        return tables.read(self.storage, asset)

    def planned(self) -> str:
        """What `detection run --until trained_weights` would do."""
        from detection_assets import definitions, detector_file
        from jobs import update as updating

        with DagsterInstance.get() as instance:
            defs = definitions.build(detector_file.find("fridge"))
            seen = updating.look(instance, "fridge", self.storage)
            found = updating.stale(instance, defs, "fridge", self.storage, seen)
            planned = updating.plan_build(found, "fridge", "trained_weights")
        return planned.why if planned else ""

    def materialization(self, asset: str) -> Any:
        with DagsterInstance.get() as instance:
            event = instance.get_latest_materialization_event(AssetKey(["fridge", asset]))
        return event.asset_materialization if event else None

    def runs(self) -> list[Any]:
        from mlflow.tracking import MlflowClient

        client = MlflowClient(f"sqlite:///{self.home / '.mlflow' / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("fridge")
        return list(client.search_runs([experiment.experiment_id])) if experiment else []


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        home = make_home(tmp_path_factory.mktemp("e2e") / "home", patch.setenv)
        path = write_detector(home, "fridge")
        path.write_text(path.read_text().replace("imgsz: 96", "imgsz: 64") + TUNING)
        subprocess.run([DETECTION, "sample", "fridge", "--clips", "3"], check=True, capture_output=True)
        with pytest.raises(InputError, match="no dataset to learn from yet; `detection run fridge --until"):
            tune()
        update("detection_dataset")
        yield World(home)


def test_what_was_never_tuned_is_no_obstacle(world: World) -> None:
    assert world.planned() == "trained_weights: missing"
    update("trained_weights")
    assert world.planned() == ""
    assert world.materialization("tuned_hyperparameters") is None
    assert "no: the settings are those" in world.materialization("trained_weights").metadata["tuned"].value
    with DagsterInstance.get() as instance:
        assert_fresh(instance)


def assert_fresh(instance: DagsterInstance) -> None:
    from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
    from dagster._core.loader import LoadingContextForTest

    from detection_assets import definitions, detector_file

    graph = definitions.build(detector_file.find("fridge")).resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    assert resolver.get_status(AssetKey(["fridge", "trained_weights"])) == StaleStatus.FRESH


def test_a_tuning_killed_after_its_first_trial_goes_on(world: World) -> None:
    before = world.table("trained_weights")["weights_version"].iloc[0]
    kill_when(lambda line: "[1/3] trial 0 complete" in line, "tune", "fridge")
    assert world.materialization("tuned_hyperparameters") is None, "nothing half-made is to be seen"
    assert world.planned() == ""

    told = tune()
    assert "[2/3] trial 1" in told
    assert "[3/3] trial 2" in told
    assert "[1/3]" not in told, "the first trial was not run again"
    table = world.table("tuned_hyperparameters")
    assert table["trial"].tolist() == [0, 1, 2]
    assert set(table["state"]) <= {"complete", "pruned"}
    assert table["best"].sum() == 1
    assert table["epochs"].tolist() == [1, 1, 1]
    assert (table["seconds"] > 0).all()
    lr0 = [json.loads(params)["lr0"] for params in table["params"]]
    assert len(set(lr0)) == 3
    assert all(0.004 <= value <= 0.01 for value in lr0)
    assert table["dataset_version"].unique().tolist() == world.table("detection_dataset")["dataset_version"].unique()
    assert world.table("trained_weights")["weights_version"].iloc[0] == before
    with DagsterInstance.get() as instance:
        assert instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTED])) == []
    left = [path.name for path in (world.home / ".scratch" / "fridge").iterdir()]
    assert [name.partition("-")[0] for name in left] == ["tune"], "only the study is kept"


def test_each_trial_is_a_child_of_one_mlflow_run(world: World) -> None:
    table = world.table("tuned_hyperparameters")
    runs = {run.info.run_id: run for run in world.runs() if "tuning_version" in run.data.tags}
    parents = [run for run in runs.values() if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    assert len(runs) == 4
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for row in table.to_dict("records"):
        child = runs[row["mlflow_run"]]
        assert child.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
        assert child.data.params == {key: str(value) for key, value in json.loads(row["params"]).items()}
        assert child.data.metrics["objective"] == pytest.approx(row["value"])
        assert "metrics/mAP50-95_B_" in child.data.metrics
    metadata = world.materialization("tuned_hyperparameters").metadata
    assert metadata["mlflow_run"].value == parents[0].info.run_id
    assert "data:image/png;base64," in metadata["history"].value
    assert "| lr0 |" in metadata["best values"].value


def test_the_next_training_takes_the_best_values_and_says_so(world: World) -> None:
    table = world.table("tuned_hyperparameters")
    best = table[table["best"]].iloc[0]
    assert world.planned() == "trained_weights: tuned_hyperparameters changed"
    update("trained_weights")
    assert world.planned() == ""
    weights = world.table("trained_weights").iloc[0]
    published = world.storage.published(f"weights/{weights['weights_version']}")
    assert published is not None
    used = json.loads(world.storage.get(published.key("training.json")))["settings"]
    values = json.loads(best["params"])
    assert {key: used[key] for key in values} == values
    assert published.notes["tuning_version"] == best["tuning_version"]
    assert published.notes["tuning_trial"] == best["trial"]
    assert str(best["tuning_version"]) in world.materialization("trained_weights").metadata["tuned"].value
    (run,) = (run for run in world.runs() if run.info.run_id == weights["mlflow_run"])
    assert run.data.params["lr0"] == str(values["lr0"])
    assert run.data.params["tuning_version"] == best["tuning_version"]


def test_a_tuning_that_changes_nothing_makes_nothing_stale(world: World) -> None:
    before = world.materialization("tuned_hyperparameters")
    told = tune()
    assert "trial 0" in told
    assert "/3] trial" not in told, "all trials are there: none is run"
    after = world.materialization("tuned_hyperparameters")
    assert after.tags["dagster/data_version"] == before.tags["dagster/data_version"]
    assert world.planned() == ""
    assert len([run for run in world.runs() if "tuning_version" in run.data.tags]) == 4
    with DagsterInstance.get() as instance:
        assert_fresh(instance)


def test_the_file_can_leave_the_values_out(world: World) -> None:
    path = world.home / "detectors" / "fridge.yaml"
    text = path.read_text()
    path.write_text(text.replace("nbs: 8,", "nbs: 8, tuned: false,"))
    try:
        first = [run.data.params for run in world.runs() if "weights_version" in run.data.tags]
        update("trained_weights")
        metadata = world.materialization("trained_weights").metadata
        assert "no: the settings are those" in metadata["tuned"].value
        assert metadata["reused"].value is True, "it is the training of before the tuning"
        assert len([run for run in world.runs() if "weights_version" in run.data.tags]) == len(first)
    finally:
        path.write_text(text)


def test_the_test_split_is_not_sent_along(world: World) -> None:
    from detection_assets import detector_file
    from detection_assets.tuned_hyperparameters import Budget, study_of

    dataset = world.table("detection_dataset")
    study = study_of(detector_file.find("fridge"), world.storage, dataset, Budget())
    sent = study.step_of({"lr0": 0.005}).inputs
    assert set(sent) == {"dataset", "frames"}
    by_split = {split: set(of["key"]) for split, of in dataset.groupby("split")}
    assert by_split["test"]
    frames = {f"frames/{key}" for key in sent["frames"].keys or ()}
    assert frames == by_split["train"] | by_split["val"]
    assert study.objective.metric == "metrics/mAP50-95(B)"
    version = study.version
    more = study_of(detector_file.find("fridge"), world.storage, dataset, Budget(trials=40, hours=2.0))
    assert (more.version, more.trials, more.timeout_s) == (version, 40, 7200.0), "more of the same is the same study"

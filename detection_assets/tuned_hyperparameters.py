"""The values of the training's settings that did best on the validation split, of those that were tried.

Made by `detection tune` alone: it is no part of bringing a detector up to date. The next training takes its values.
Version: the hash of the best values and the dataset's version. A tuning that was stopped or killed goes on where it
was; the test split is not even sent along.
"""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import pandas as pd

from detection_assets.detector import Detector
from detection_assets.domain import card, layout, tuning
from detection_assets.domain.problems import InputError
from detection_assets.domain.tuning import Trial
from detection_assets.pictures import embed
from resources import tables
from resources.compute.base import Compute, Input, MedianStop, Objective, Step, StepFailed, Study, version_of
from resources.storage import Storage
from resources.tracking import TrackedFamily, Tracking

CODE = "1"
OUTCOMES = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
"""MLflow's words for how a trial ended."""


class Budget(dg.Config):
    """How much is tried in this run; what is left out is as the detector's file says.

    Attributes:
        trials: Trials to be judged in all, those of earlier runs counted.
        hours: Hours after which this run stops.
    """

    trials: int | None = None
    hours: float | None = None


@dg.asset(
    dagster_type=tables.TABLE,
    code_version=CODE,
    kinds={"pytorch", "mlflow"},
    metadata={"settings": ["tuning", "training", "classes"]},
    check_specs=[
        dg.AssetCheckSpec(
            "gained", asset="tuned_hyperparameters", description="The best values beat those in the detector's file."
        ),
    ],
)
def tuned_hyperparameters(
    context: dg.AssetExecutionContext,
    config: Budget,
    detector: dg.ResourceParam[Detector],
    storage: Storage,
    compute: Compute,
    tracking: Tracking,
    detection_dataset: pd.DataFrame,
) -> dg.MaterializeResult:
    """A row a trial: what was tried, how good it was, whether it is the best."""
    study = study_of(detector, storage, detection_dataset, config)
    dataset = str(study.step.notes["dataset_version"])
    tags = {"detector": detector.name, "dataset_version": dataset, "tuning_version": study.version}
    runs: dict[int, str] = {}
    with tracking.family(context, tags) as family:
        book = _Book(context, study, family, runs)
        result = compute.tune(context, study, book)
        best = result.best
        if best is None:
            raise StepFailed(
                f"{study.name}: no trial has been completed yet ({len(result.trials)} have begun); run "
                f"`detection tune {detector.name}` again to go on, with more --hours if those were the limit"
            )
        family.log_params({**study.step.params["training"], "space": json.dumps(detector.tuning.space)})
        family.log_metrics({"best": best.value or 0.0})
        parent = family.run_id
    table = _table(result.trials, best, runs, dataset, study.version)
    state_counts = table["state"].value_counts().to_dict()
    link = tracking.link(parent)
    return dg.MaterializeResult(
        value=table,
        data_version=dg.DataVersion(version_of(dict(best.values), dataset)),
        metadata={
            "best values": dg.MetadataValue.md(_values(study, best)),
            "history": dg.MetadataValue.md(embed(_history(result.trials), "history")),
            "map50_95 on val": float(best.value or 0.0),
            "best trial": best.number,
            "trials": ", ".join(f"{count} {state}" for state, count in state_counts.items()),
            "dataset_version": dataset,
            "instance": result.instance,
            "seconds": round(result.seconds, 1),
            "cost_usd": result.cost_usd,
            "mlflow_run": parent,
            **({"mlflow": dg.MetadataValue.url(link)} if link else {}),
        },
        check_results=[gained(study, result.trials, best)],
    )


def study_of(detector: Detector, storage: Storage, dataset: pd.DataFrame, budget: Budget) -> Study:
    """The search that the detector's file asks for, over the training and validation images of a dataset.

    Raises:
        InputError: There is nothing to judge a trial by, or the budget is none.
    """
    if (budget.trials is not None and budget.trials < 1) or (budget.hours is not None and budget.hours <= 0):
        raise InputError(f"{detector.name}: a tuning needs at least one trial and more than no time, got {budget}")
    wanted = detector.tuning
    version = str(dataset["dataset_version"].iloc[0])
    published = storage.published(layout.dataset(version))
    assert published is not None, f"{version} is in the table but not published"
    if not dataset.loc[dataset["split"] == "val", "boxes"].sum():
        raise InputError(
            f"{detector.name}: the validation split of {version} has no boxes, so a trial could only be judged on what "
            f"taught it; annotate more videos, or enlarge dataset.split.val in detectors/{detector.name}.yaml"
        )
    seen = dataset[dataset["split"].isin(["train", "val"])]
    training = detector.training.for_the_trainer()
    training["epochs"] = wanted.epochs or training["epochs"]
    space = tuning.parameters(wanted.space)
    hours = budget.hours if budget.hours is not None else wanted.timeout_h
    return Study(
        version=version_of("tune", CODE, version, detector.classes, training, wanted.space, wanted.seed),
        step=Step(
            program="train",
            version="",
            inputs={
                "dataset": Input(published.folder),
                "frames": Input(layout.FRAMES, [key.removeprefix(layout.FRAMES + "/") for key in seen["key"]]),
            },
            outputs={},
            params={"classes": list(detector.classes), "training": training, "device": None, "trial": True},
            hardware=detector.training.hardware,
            notes={"dataset_version": version},
        ),
        into="training",
        space=space,
        objective=Objective(tuning.METRIC, "trial/trial.json"),
        trials=budget.trials or wanted.trials,
        parallel=wanted.parallel,
        timeout_s=hours * 3600 if hours is not None else None,
        # In its first epochs a network that learns well may look as bad as any.
        stopping=MedianStop(after_trials=3, after_steps=max(2, training["epochs"] // 4)) if wanted.prune else None,
        first=tuning.own_values(space, training),
        seed=wanted.seed,
    )


class _Book:
    """Keeps the book of the trials: a line of progress for each that ends, and a child run in MLflow."""

    def __init__(
        self, context: dg.AssetExecutionContext, study: Study, family: TrackedFamily, runs: dict[int, str]
    ) -> None:
        self._context, self._study, self._family, self._runs = context, study, family, runs
        self._known: dict[int, Trial] = {}

    def __call__(self, trial: Trial) -> None:
        before = self._known.get(trial.number)
        self._known[trial.number] = trial
        name = f"trial-{trial.number}"
        ended = trial.state != "running"
        if ended and before is not None and before.state == "running":
            self._tell(trial)
        if before is None and not ended and not trial.epochs:
            return  # MLflow costs seconds to import: by the first epoch the program is at work beside us
        self._runs[trial.number] = self._family.child(name, trial.values)
        if self._family.ended(name):
            return
        self._family.log(name, tuning.METRIC, trial.epochs)
        if ended:
            if trial.value is not None:
                self._family.log(name, "objective", {0: trial.value})
            why = {"why": trial.why} if trial.why else {}
            self._family.end_child(name, OUTCOMES[trial.state], {"state": trial.state, **why})

    def _tell(self, trial: Trial) -> None:
        trials = self._known.values()
        judged = sum(one.judged for one in trials)
        best = tuning.best(trials, maximize=self._study.objective.maximize)
        value = f" {trial.value:.4f}" if trial.value is not None else ""
        ahead = f", best {best.value:.4f} of trial {best.number}" if best and best.value is not None else ""
        self._context.log.info(
            f"[{judged}/{max(self._study.trials, judged)}] trial {trial.number} {trial.state}{value}{ahead}, "
            f"{trial.seconds:.0f} s: {tuning.in_words(trial.values)}"
        )


def _table(trials: Sequence[Trial], best: Trial, runs: Mapping[int, str], dataset: str, version: str) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "trial": trial.number,
                "state": trial.state,
                "value": float("nan") if trial.value is None else trial.value,
                "epochs": max(trial.epochs, default=0),
                "seconds": trial.seconds,
                "params": json.dumps(dict(trial.values), sort_keys=True),
                "best": trial.number == best.number,
                "why": trial.why,
                "mlflow_run": runs.get(trial.number),
                "dataset_version": dataset,
                "tuning_version": version,
            }
            for trial in trials
        ]
    )


def _values(study: Study, best: Trial) -> str:
    own = study.first
    rows = [(key, own.get(key), best.values[key]) for key in study.space]
    return card.table(["setting", "in the detector's file", "best"], [tuple(map(_shown, row)) for row in rows])


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)


def _history(trials: Sequence[Trial]) -> bytes:
    """A small PNG: each trial's figure, and the best so far."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 2.6), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for state, mark in (("complete", "o"), ("pruned", "x")):
        of = [(trial.number, trial.value) for trial in trials if trial.state == state and trial.value is not None]
        if of:
            axes.plot(*zip(*of, strict=True), mark, label=state, markersize=5)
    done = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
    reached = [max(trial.value or 0.0 for trial in done[: at + 1]) for at in range(len(done))]
    axes.step([trial.number for trial in done], reached, where="post", label="best so far", linewidth=1)
    axes.set_xlabel("trial")
    axes.set_ylabel("mAP50-95 on val")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def gained(study: Study, trials: Sequence[Trial], best: Trial) -> dg.AssetCheckResult:
    """Whether the search found something better than what the detector's file says, where that was tried."""
    first = next((trial for trial in trials if trial.number == 0), None)
    own = first.value if first and first.state == "complete" and set(study.first) == set(study.space) else None
    gain = (best.value or 0.0) - own if own is not None else None
    return dg.AssetCheckResult(
        check_name="gained",
        passed=gain is None or gain > 0,
        severity=dg.AssetCheckSeverity.WARN,
        description="the values in the detector's file are the best of those tried" if gain == 0 else None,
        metadata={"gain": gain} if gain is not None else {"gain": "the detector's own values are outside the space"},
    )

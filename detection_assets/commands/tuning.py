"""Tuning a detector's training with a person watching."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from detection_assets.commands import running
from detection_assets.commands.context import Project
from detection_assets.domain.problems import InputError
from detection_assets.domain.tuning import in_words
from jobs import jobs
from resources import tables
from resources.instance import open_instance

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from jobs.progress import Told

SHOWN = 15
"""Trials in the table at the end: the best ones."""


def tune(out: Console, name: str, trials: int | None, hours: float | None) -> int:
    """Runs the trials that are still to be run, a line for each, and shows the best.

    Returns:
        0 if there is a best trial, 1 if the tuning failed.

    Raises:
        InputError: If there is no dataset to learn from yet.
    """
    project = Project.of(name)
    with open_instance() as instance:
        from jobs import progress, runs, update

        runs.close_dead(instance, name)
        defs = project.definitions
        if not instance.get_latest_materialization_event(jobs.keys(name, ("detection_dataset",))[0]):
            raise InputError(
                f"{name}: there is no dataset to learn from yet; `detection run {name} --until detection_dataset`"
            )
        seen = update.look(instance, name, project.storage)
        found = update.stale(instance, defs, name, project.storage, seen)
        behind = update.plan_build(found, name, "detection_dataset")
        if behind is not None:
            out.print(
                f"tuning on the dataset as it is, though {behind.why}; "
                f"`detection run {name} --until detection_dataset` renews it",
                style="yellow",
                markup=False,
            )
        wanted = trials or project.detector.tuning.trials
        out.print(f"tuning {name}: {wanted} trials in all; Ctrl-C stops, and the next call goes on")
        budget = {key: value for key, value in {"trials": trials, "hours": hours}.items() if value is not None}
        with progress.listening(_show_lines(out)):
            good, run_id = update.execute(
                instance, defs, name, update.plan_tune(name, "asked for"), {jobs.TUNE[0]: {**budget}}
            )
        running.tell_problems(out, instance, name, [run_id])
    if good:
        _tell(out, name, tables.read(project.storage, jobs.TUNE[0]), project.detector.training.tuned)
    else:
        out.print(f"the trials that have ended are kept; `detection tune {name}` goes on with the rest")
    return 0 if good else 1


def _show_lines(out: Console) -> Callable[[Told], None]:
    """Prints each line of progress: there is one a trial, and none may be missed."""
    started = time.monotonic()

    def show(told: Told) -> None:
        if told.kind == "progress":
            clock = time.strftime("%H:%M:%S", time.gmtime(time.monotonic() - started))
            out.print(f"{clock} [{told.done}/{told.total}] {told.text}", markup=False)

    return show


def _tell(out: Console, name: str, trials: pd.DataFrame, used: bool) -> None:
    table = Table(title=f"{name}: {len(trials)} trials", title_justify="left")
    for column, justify in (("trial", "right"), ("state", "left"), ("mAP50-95 on val", "right"), ("values", "left")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    ranked = trials.sort_values(["best", "value"], ascending=False)
    for row in ranked.head(SHOWN).to_dict("records"):
        style = "bold green" if row["best"] else None
        value = f"{row['value']:.4f}"
        table.add_row(str(row["trial"]), row["state"], value, in_words(json.loads(row["params"])), style=style)
    out.print(table)
    if used:
        out.print(f"the next training takes the values of trial {ranked['trial'].iloc[0]}: `detection run {name}`")
    else:
        out.print(f"training.tuned is false in detectors/{name}.yaml: the training does not take these values")

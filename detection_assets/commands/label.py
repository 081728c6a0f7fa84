"""Asking annotators for labels with a person watching."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from detection_assets.commands import running
from detection_assets.commands.context import Project
from detection_assets.commands.running import Watch
from detection_assets.domain.problems import InputError
from jobs import jobs
from resources import label_batches, tables
from resources.instance import open_instance

SHOWN = 20
"""Pictures in the table at the end: the most urgent ones."""


def label(out: Console, name: str, budget: int | None, *, more: bool) -> int:
    """Chooses a batch, or takes the one that is open, hands it to the tool and shows it.

    Returns:
        0 if it was handed over, or there is nothing to ask about; 1 if that failed.

    Raises:
        InputError: If there are no frames to ask about yet.
    """
    project = Project.of(name)
    with open_instance() as instance:
        from jobs import progress, runs, update

        runs.close_dead(instance, name)
        if not instance.get_latest_materialization_event(jobs.keys(name, ("extracted_frames",))[0]):
            raise InputError(
                f"{name}: there are no frames to ask about yet; `detection run {name} --until annotations`"
            )
        asked = {key: value for key, value in {"budget": budget, "more": more}.items() if value}
        watch = Watch(out)
        with progress.listening(watch):
            planned = update.plan_label(name, "asked for")
            good, run_id = update.execute(instance, project.definitions, name, planned, {jobs.LABEL[0]: asked})
        running.tell_problems(out, instance, name, [run_id])
    if not good:
        out.print(f"a batch that was chosen is kept; `detection label {name}` hands it over again")
        return 1
    _tell(out, project, name, more=more)
    return 0


def _tell(out: Console, project: Project, name: str, *, more: bool) -> None:
    asked = tables.read(project.storage, jobs.LABEL[0])
    if asked.empty:
        out.print(f"{name}: nothing to ask about: all that there is, is labelled or like what is labelled")
        return
    table = Table(title=f"{name}: {len(asked)} pictures to label", title_justify="left")
    for column in ("picture", "why"):
        table.add_column(column, overflow="fold")
    for row in asked.head(SHOWN).to_dict("records"):
        table.add_row(row["name"], f"{row['reason']}: {row['why']}")
    out.print(table)
    if len(asked) > SHOWN:
        out.print(f"and {len(asked) - SHOWN} more")
    for batch, rows in asked.groupby("batch", sort=False):
        far = label_batches.progress(project.storage, str(batch))
        proposed = f", {int(rows['proposals'].sum())} boxes to begin with" if rows["proposals"].any() else ""
        out.print(f"[bold]{far.link or far.place}[/bold]: {batch}, {len(rows)} pictures{proposed}")
    if not more:
        out.print(f"until a batch is done it is handed over again; `detection label {name} --more` chooses another")

"""What became of the pictures that annotators were asked about."""

from __future__ import annotations

import time

from rich.console import Console
from rich.table import Table

from detection_assets.commands.context import Project
from detection_assets.domain.problems import InputError
from resources import label_batches
from resources.instance import open_instance
from resources.label_batches import Progress


def labels(out: Console, name: str) -> None:
    """Shows the batches of a detector: where they are, and how far."""
    storage = Project.of(name).storage
    table = Table(box=None, pad_edge=False)
    for column in ("batch", "asked", "tool", "where", "finished", ""):
        table.add_column(column, overflow="fold")
    for batch in label_batches.known(storage):
        far = label_batches.progress(storage, batch)
        table.add_row(batch, _day(far.asked), far.tool, far.link or far.place, finished(far), state(far))
    if not table.row_count:
        out.print(f"{name}: nobody was asked for labels yet; `detection label {name}` does that", markup=False)
        return
    out.print(table)


def collect(out: Console, name: str, close: str) -> int:
    """Brings in what is finished, here and now.

    Args:
        out: Where to tell.
        name: The detector.
        close: A batch that nobody is to look for any more, or "".

    Returns:
        0 if every batch could be asked about, 1 otherwise.

    Raises:
        InputError: There is no such batch, or labels are being brought in already.
    """
    from jobs import labeling as job
    from jobs import runs

    project = Project.of(name)
    labeling = project.resources["labeling"]
    if close:
        labeling.close(close, "given up")
        out.print(f"{name}: nobody looks for {close} any more; what is in stays in", markup=False)
        return 0
    with open_instance() as instance:
        runs.close_dead(instance, name)
        if runs.under_way(instance, name, (job.COLLECT,)):
            raise InputError(f"{name}: a run brings in labels right now; look again when it is over")
    failed = fresh = 0
    for of in labeling.collect():
        failed, fresh = failed + bool(of.failed), fresh + len(of.fresh)
        told = of.failed or f"{of.batch}: {of.finished} of {of.pictures} finished, {len(of.fresh)} new or changed"
        out.print(told, style="red" if of.failed else None, markup=False)
        for problem in of.problems:
            out.print(f"  {problem}", style="yellow", markup=False)
    if fresh:
        out.print(f"`detection run {name}` takes them in; so do its sensors", markup=False)
    elif not failed:
        out.print(f"{name}: nothing new is finished", markup=False)
    return 1 if failed else 0


def finished(far: Progress) -> str:
    """How many pictures of a batch are in."""
    return f"{len(far.finished)} of {far.pictures}" if far.tool else ""


def state(far: Progress) -> str:
    """How a batch is, in a word or two."""
    if not far.tool:
        return "not handed over"
    return far.closed or ("open" if far.open else "all in")


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(at)) if at else ""

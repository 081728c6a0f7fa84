"""Withdrawing a video: a patient, or a shop, that objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from detection_assets.commands.context import Project
from detection_assets.commands.running import only_one
from detection_assets.domain import layout
from detection_assets.domain.problems import InputError
from detection_assets.domain.withdrawal import Withdrawal
from resources.instance import open_instance
from resources.withdrawal import marking, withdrawals
from resources.withdrawal import traces as tracing
from resources.withdrawal.erasure import Eraser

if TYPE_CHECKING:
    import dagster as dg

    from resources.withdrawal.traces import Traces


def withdraw(
    out: Console, name: str, video: str, by: str, reason: str, *, erase: bool, dry_run: bool, yes: bool
) -> int:
    """Finds what comes from a video, marks it, and erases it where that is asked for.

    Run again after a kill, it goes on. A record that is there stays as it is.

    Returns:
        0 if all is done, 1 if something is left for a person to do.

    Raises:
        InputError: There is no such video, the name or the reason is missing, or a run of the detector is under way.
    """
    project = Project.of(name)
    storage, video = project.storage, video.strip("/")
    with only_one(name), open_instance() as instance:
        known = instance.get_dynamic_partitions(f"{name}_videos")
        made = withdrawals.read(storage, video)
        if made is None and not dry_run and not (by.strip() and reason.strip()):
            raise InputError("a withdrawal needs --by and --reason: they are kept for good")
        with out.status(f"looking for what comes from {escape(video)} ..."):
            found = tracing.find(storage, video, known)
            registry, endpoints = project.resources["registry"], project.endpoints
            wanted = marking.record(storage, registry, endpoints, found, by, reason)
        show(out, name, wanted, found)
        if dry_run:
            out.print("nothing was changed (--dry-run)")
            return 0
        if made is None or erase:
            what = "withdraw and erase" if erase else "withdraw"
            _confirmed(out, f"{what} {video} from {name} for good?", yes)
        made = withdrawals.mark(storage, made or wanted, found.contents, found.frames)
        leave_graph(instance, name, video)
        out.print(f"{made.why()}; new datasets leave it out", markup=False, soft_wrap=True)
        _tell_models(out, name, marking.models(storage, registry, endpoints, made.datasets))
        if not erase:
            return 0
        eraser = Eraser(storage, instance, project.resources["compute"], name, known_but(known, video))
        return _erase(out, eraser, made, found, by.strip() or made.by)


def known_but(known: Sequence[str], video: str) -> list[str]:
    """The videos that there are beside one."""
    return [one for one in known if one != video]


def _erase(out: Console, eraser: Eraser, made: Withdrawal, found: Traces, by: str) -> int:
    """Erases what was found, and shows the tombstone; goes on with what a killed one began.

    Raises:
        InputError: A run of the detector is under way, or something cannot be erased.
    """
    from jobs import runs

    runs.close_dead(eraser.instance, eraser.detector)
    if run := runs.goes_on(eraser.instance, eraser.detector):
        raise InputError(
            f"{eraser.detector}: run {run} is under way and may write what is erased; wait for it or end it, switch "
            "the sensors off, and run again"
        )
    stone = withdrawals.tombstone(eraser.storage, made.video)
    if stone is None or eraser.left(found):
        plan = eraser.plan(found, by)
        stone = eraser.carry_out(plan, made, lambda line: out.print(f"  {line}", markup=False))
    # Killed between the two, the last one left its plan.
    eraser.storage.remove([key for key in [layout.erasure(made.video)] if eraser.storage.exists(key)])
    table = Table(title=f"{escape(made.video)}: erased", title_justify="left")
    table.add_column("what")
    table.add_column("erased", justify="right")
    for what, count in stone.counts.items():
        table.add_row(what, str(count))
    out.print(table)
    out.print(f"proof: {eraser.storage.uri_of(layout.tombstone(made.video))}", markup=False, soft_wrap=True)
    for one in stone.left:
        out.print(f"left for you: {one}", style="yellow", markup=False, soft_wrap=True)
    return 1 if stone.left else 0


def leave_graph(instance: dg.DagsterInstance, name: str, video: str) -> None:
    """Takes a video's partition out of the graph; what is stale because of that is for the next run."""
    partitions = f"{name}_videos"
    if video in instance.get_dynamic_partitions(partitions):
        instance.delete_dynamic_partition(partitions, video)


def show(out: Console, name: str, wanted: Withdrawal, found: Traces) -> None:
    """What was found of a video, and what was made with it."""
    table = Table(title=f"{name}: {escape(wanted.video)}", title_justify="left")
    table.add_column("what")
    table.add_column("found", justify="right")
    table.add_column("which", overflow="fold")
    for what, count in wanted.found.items():
        table.add_row(what, str(count), "")
    for what, which in {
        "datasets": wanted.datasets,
        "evaluations": wanted.evaluations,
        "tunings": wanted.tunings,
        "drift profiles": wanted.profiles,
        "label batches": wanted.batches,
        "registered models": [f"{one.version} ({one.where or 'does not serve'})" for one in wanted.models],
    }.items():
        table.add_row(what, str(len(which)), escape(", ".join(which)))
    out.print(table)
    for copy in found.copies:
        out.print(
            f"the same content lies in the lake as {copy}, too: `detection withdraw {name} {copy}`",
            style="yellow",
            markup=False,
        )


def _tell_models(out: Console, name: str, models: list) -> None:
    serving = [one for one in models if one.where]
    if models:
        versions = ", ".join(one.version for one in models)
        out.print(f"learned from it, and are not deployed any more: version {versions}", markup=False)
    for one in serving:
        out.print(
            f"version {one.version} learned from it and serves ({one.where}): `detection run {name}` trains one "
            "without it and deploys that",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )


def _confirmed(out: Console, question: str, yes: bool) -> None:
    """Asks a person at a terminal.

    Raises:
        InputError: Nobody is there to be asked, or says no.
    """
    if yes:
        return
    if not out.is_terminal:
        raise InputError(f"{question} Nobody is there to be asked: say --yes")
    if not typer.confirm(question, default=False):
        raise InputError("nothing was changed")

"""Whether the settings can work, before anything depends on them."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from detection_assets.commands.context import Project

SIGNS = {"good": "[green]good[/green]", "bad": "[red]bad[/red]", "unknown": "[yellow]not known[/yellow]"}


def doctor(out: Console, name: str) -> int:
    """Asks each resource of a detector's platform, and shows what it found and what to do.

    Returns:
        0 if nothing is bad, 1 otherwise.
    """
    resources = Project.of(name).resources
    table = Table(box=None, pad_edge=False)
    for column in ("", "", "found", "remedy"):
        table.add_column(column, overflow="fold")
    bad = 0
    with out.status("looking"):
        for resource in resources.values():
            for finding in resource.check() if hasattr(resource, "check") else ():
                bad += finding.state == "bad"
                table.add_row(SIGNS[finding.state], finding.what, finding.told, finding.remedy)
    out.print(table)
    return 1 if bad else 0

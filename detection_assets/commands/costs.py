"""What a detector has cost."""

from __future__ import annotations

import time

from rich.console import Console
from rich.table import Table

from detection_assets.commands.context import Project
from detection_assets.domain import cost
from resources import costs
from resources.instance import open_instance

DAY_S = 24 * 3600


def show(out: Console, name: str, days: float) -> None:
    """Shows what the steps of each asset took and cost, and of all.

    Args:
        out: Where to.
        name: The detector.
        days: How far back.
    """
    detector = Project.of(name).detector.name
    with open_instance() as instance:
        spent = cost.table(costs.since(instance, [detector], time.time() - days * DAY_S))
    if spent.empty:
        out.print(f"{name}: no step was run in the last {days:g} days")
        return
    table = Table(title=f"{name}, the last {days:g} days", title_justify="left")
    for column in spent.columns:
        table.add_column(str(column), justify="right" if column in ("runs", "seconds", "USD") else "left")
    for row in spent.itertuples(index=False):
        table.add_row(*(str(value) for value in row))
    out.print(table)
    out.print("USD: the instances' list prices for the seconds that are charged; one's own machine counts as 0")

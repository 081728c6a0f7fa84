"""`python -m benchmarks [NAME ...]`: every benchmark, or the named ones, as one table of ratios."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

NAMES = (
    "extraction",
    "evaluation",
    "training",
    "serving",
    "serving_peers",
    "orchestration",
    "growth",
    "drift",
    "formats",
)
BY_NAME_ALONE = ("label_requests",)
"""Half an hour each."""


def main() -> int:
    """Runs the benchmarks and prints a table; 1 if a figure is over its limit."""
    wanted = sys.argv[1:] or NAMES
    unknown = sorted(set(wanted) - {*NAMES, *BY_NAME_ALONE})
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join([*NAMES, *BY_NAME_ALONE])}", file=sys.stderr)
        return 2
    out = Console()
    table = Table(title="ours beside the anchor, in one run")
    for column in ("benchmark", "what", "ours", "anchor", "ratio", "limit"):
        table.add_column(column, justify="left" if column in ("benchmark", "what") else "right")
    over = 0
    for name in wanted:
        out.print(f"{name} ...")
        for row in importlib.import_module(f"benchmarks.{name}").main():
            ratio = _number(row["ours"]) / _number(row["anchor"])
            limit = row.get("limit")
            bad = limit is not None and ratio > _number(limit)
            over += bad
            style = "red" if bad else "green" if limit is not None else ""
            cells = [f"{_number(row['ours']):,.4g}", f"{_number(row['anchor']):,.4g}", f"{ratio:.3f}"]
            table.add_row(name, str(row["name"]), *cells, "" if limit is None else f"{_number(limit):g}", style=style)
    out.print(table)
    return 1 if over else 0


def _number(value: Any) -> float:
    return float(value)


if __name__ == "__main__":
    sys.exit(main())

"""A plugin that writes `docs/platforms.md`: what the contract's cases have found on each platform.

python -m pytest -p contract.capabilities --capabilities docs/platforms.md tests/contract
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

PLATFORMS = ("local", "aws", "azure")
ROOMS = {
    "storage": "Storage",
    "compute": "Compute",
    "tune": "Tuning",
    "tracking": "Tracking",
    "registry": "Registry",
    "endpoints": "Endpoints",
    "batch": "Batch prediction",
    "arrivals": "New videos",
    "labeling": "Labelling",
    "doctor": "Doctor",
}
"""Headings by what a file's name begins with, in their order."""
COLUMNS = {"labeling": ("folder", "label_studio", "cvat", "ground_truth", "azure_ml")}
"""What a room's cases are told apart by, where that is not the platform: any of these tools serves any platform, but
Ground Truth and Azure ML want the lake of their own cloud."""
WORDS = {"passed": "yes", "failed": "**no**", "skipped": "-"}
INTRODUCTION = """# What works where

Made by `make platforms` from what the contract's tests found, not by hand: each row is a test, and each cell says
whether it passed there. A dash is a case that the platform has no part in. `local` is this machine; `aws` and `azure`
are stand-ins of their control planes that run the real programs and the real server, over a moto server and an
Azurite; the same cases run in a real account by `make test-cloud`, where they can. Tools for annotators have a column
each: a folder and Label Studio are the real ones, the others stand-ins that answer as the services do.
"""

Results = dict[tuple[str, str], dict[str, str]]
"""By file and test, what was found on each platform."""


def place(nodeid: str) -> tuple[str, str, str] | None:
    """The room, the test and the platform of a case; None if it is about no platform."""
    found = re.fullmatch(r".*test_(\w+)\.py::(test_\w+)\[(.+)\]", nodeid)
    if found is None:
        return None
    file, test, parameters = found.groups()
    room = next((room for room in ROOMS if file.split("_")[0] == room), None)
    platforms = [one for one in COLUMNS.get(room or "", PLATFORMS) if one in parameters.split("-")]
    if room in COLUMNS and file != room:
        return None  # one tool's own cases, whose parameters may be called as another tool is
    return (room, test, platforms[0]) if room and len(platforms) == 1 else None


def note(results: Results, nodeid: str, outcome: str) -> None:
    """Notes what a case has found; of several cases of one test the worst counts."""
    where = place(nodeid)
    if where is None:
        return
    room, test, platform = where
    cells = results.setdefault((room, test), {})
    order = ["skipped", "passed", "failed"]
    cells[platform] = max(cells.get(platform, "skipped"), outcome, key=order.index)


def page(results: Mapping[tuple[str, str], Mapping[str, str]]) -> str:
    """The page as Markdown."""
    lines = [INTRODUCTION]
    for room, heading in ROOMS.items():
        rows = {test: cells for (of, test), cells in sorted(results.items()) if of == room}
        # What every platform has comes first.
        ordered = sorted(rows, key=lambda test: (-len(rows[test]), test))
        if not ordered:
            continue
        columns = COLUMNS.get(room, PLATFORMS)
        lines += [f"## {heading}", "", f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
        for test in ordered:
            cells = [WORDS[rows[test].get(platform, "skipped")] for platform in columns]
            lines.append(f"| {sentence(test)} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def sentence(test: str) -> str:
    """A test's name as people read it."""
    words = test.removeprefix("test_").replace("_", " ")
    return words[0].upper() + words[1:]


class Report:
    """Gathers what the cases found, and writes the page when all have run."""

    def __init__(self, path: Path) -> None:
        self._path, self._results = path, Results()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            note(self._results, report.nodeid, report.outcome)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if self._results:
            self._path.write_text(page(self._results), encoding="utf-8")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--capabilities", type=Path, help="Write what works on which platform to this file.")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--capabilities")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Report(path), "capabilities-report")


def rows(text: str) -> set[str]:
    """The sentences of a page."""
    return {line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ") and line[2] != "|"}


def expected(nodeids: Sequence[str]) -> set[str]:
    """The sentences that a page of these cases would have."""
    return {sentence(where[1]) for nodeid in nodeids if (where := place(nodeid))}

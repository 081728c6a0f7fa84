"""The command line's words about annotations: what was wrong, which versions there are, what changed, who agrees."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

out = Console(highlight=False)

Name = Annotated[str, typer.Argument(help="The detector: the name of a file in detectors/, without .yaml.")]
Video = Annotated[str | None, typer.Argument(help="The video; default: all of them.")]
Csv = Annotated[Path | None, typer.Option(help="Write all rows into this file, for a spreadsheet.")]
WHICH = "the beginning of its hash, a time in UTC such as 2026-11-01, or ~1 for the one before today's"


def problems(name: Name, video: Video = None, csv: Csv = None) -> None:
    """Show what was wrong with the annotations, where, and what to do; exit code 1 if something drawn was dropped."""
    from detection_assets.commands import annotations

    raise typer.Exit(annotations.problems(out, name, video, csv))


def versions(name: Name, video: Annotated[str, typer.Argument(help="The video.")]) -> None:
    """Show which versions a video's annotations have had, and what changed from each to the next."""
    from detection_assets.commands import annotations

    annotations.list_versions(out, name, video)


def diff(
    name: Name,
    video: Video = None,
    earlier: Annotated[str, typer.Argument(metavar="[FROM]", help=f"The earlier version: {WHICH}.")] = "~1",
    later: Annotated[str, typer.Argument(metavar="[TO]", help="The later version, likewise.")] = "~0",
    since: Annotated[str, typer.Option(help="In place of FROM, also for all videos.")] = "",
    csv: Csv = None,
) -> None:
    """Show which boxes were added, removed, moved or re-classed between two versions of annotations, and by whom."""
    from detection_assets.commands import annotations

    annotations.differences(out, name, video, since or earlier, later, csv)


def provenance(
    name: Name,
    evaluation: Annotated[
        str | None, typer.Argument(help="The evaluation's version, or the beginning of it; default: today's.")
    ] = None,
    csv: Csv = None,
) -> None:
    """Show on which frames and versions of annotations an evaluation was made, also after those have changed."""
    from detection_assets.commands import annotations

    annotations.judged_on(out, name, evaluation, csv)


def agreement(name: Name, video: Video = None) -> None:
    """Show how well people who annotated the same frames agree, two by two and class by class."""
    from detection_assets.commands import annotations

    annotations.agree(out, name, video)

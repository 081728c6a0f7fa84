"""`detection lineage NAME QUESTION`: the twelve questions at a terminal, as a table, as CSV or as JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from detection_assets.domain.lineage_questions import QUESTIONS

if TYPE_CHECKING:
    import pandas as pd

    from detection_assets.lineage import Lineage

MOST = 40
"""Rows that are shown at a terminal; --csv and --json have them all."""

app = typer.Typer(
    help="Ask where things come from and where they went: what serves, what taught it, who saw a video.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console(highlight=False)

Version = Annotated[
    str | None, typer.Argument(help="The registered version; default: the one with most of the traffic.")
]
Csv = Annotated[bool, typer.Option("--csv", help="Print all rows and columns as CSV.")]
Json = Annotated[bool, typer.Option("--json", help="Print all rows and columns as JSON, an object a line.")]


@app.callback()
def asked(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The detector: the name of a file in detectors/, without .yaml.")],
) -> None:
    """Asks a detector."""
    context.obj = name


def _asks(command: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return app.command(command, help=QUESTIONS[command].title)


def _tell(
    context: typer.Context, command: str, ask: Callable[[Lineage], pd.DataFrame], csv: bool, json: bool, **known: str
) -> None:
    from detection_assets import lineage

    with lineage.of(str(context.obj)) as detector:
        found = ask(detector)
    if csv:
        found.to_csv(sys.stdout, index=False)
    elif json:
        found.to_json(sys.stdout, orient="records", lines=True, date_format="iso", force_ascii=False)
    elif found.empty:
        out.print(f"{context.obj}: {QUESTIONS[command].nothing(**known)}", markup=False)
    else:
        show(found)


def show(found: pd.DataFrame) -> None:
    """Prints an answer: what is the same in all rows once above the table, empty columns not at all."""
    from rich.markup import escape

    from detection_assets.domain import answer_text

    said, shown = answer_text.condensed(found)
    if said:
        out.print(said, markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for name in shown:
        table.add_column(str(name), justify="right" if shown[name].dtype.kind in "if" else "left", overflow="fold")
    for row in shown.head(MOST).itertuples(index=False):
        table.add_row(*(escape(answer_text.text(value)) for value in row))
    if len(shown.columns):
        out.print(table)
    if len(found) > MOST:
        out.print(f"... and {len(found) - MOST:,} rows more: --csv or --json has them all")


@_asks("serving")
def _serving(context: typer.Context, csv: Csv = False, json: Json = False) -> None:
    _tell(context, "serving", lambda of: of.serving(), csv, json)


@_asks("taught")
def _taught(
    context: typer.Context,
    version: Version = None,
    frames: Annotated[bool, typer.Option("--frames", help="A row a frame in place of a row a video.")] = False,
    csv: Csv = False,
    json: Json = False,
) -> None:
    _tell(context, "taught", lambda of: of.frames(version) if frames else of.taught(version), csv, json)


@_asks("saw")
def _saw(
    context: typer.Context,
    video: Annotated[str, typer.Argument(help="The video; also one that is no longer there.")],
    csv: Csv = False,
    json: Json = False,
) -> None:
    _tell(context, "saw", lambda of: of.saw(video), csv, json, video=video)


@_asks("at")
def _at(
    context: typer.Context,
    moment: Annotated[str, typer.Argument(help="A time, UTC, such as 2026-11-01T08:30.")],
    csv: Csv = False,
    json: Json = False,
) -> None:
    _tell(context, "at", lambda of: of.served_at(moment), csv, json, moment=moment)


@_asks("judged")
def _judged(
    context: typer.Context,
    evaluation: Annotated[
        str | None, typer.Argument(help="The evaluation's version, or the beginning of it; default: today's.")
    ] = None,
    csv: Csv = False,
    json: Json = False,
) -> None:
    _tell(context, "judged", lambda of: of.judged_on(evaluation), csv, json)


@_asks("why")
def _why(
    context: typer.Context,
    later: Annotated[
        str | None, typer.Argument(help="The version that scores otherwise; default: what serves.")
    ] = None,
    earlier: Annotated[str | None, typer.Argument(help="Than which; default: the one registered before it.")] = None,
    csv: Csv = False,
    json: Json = False,
) -> None:
    _tell(context, "why", lambda of: of.why(later, earlier), csv, json)


@_asks("stale")
def _stale(context: typer.Context, csv: Csv = False, json: Json = False) -> None:
    _tell(context, "stale", lambda of: of.stale(), csv, json)


@_asks("what-if")
def _what_if(
    context: typer.Context,
    video: Annotated[str | None, typer.Option(help="A video that comes or changes.")] = None,
    annotation: Annotated[str | None, typer.Option(help="A video whose annotations change.")] = None,
    setting: Annotated[str | None, typer.Option(help="A section of the detector's file, such as sampling.")] = None,
    csv: Csv = False,
    json: Json = False,
) -> None:
    def ask(of: Lineage) -> pd.DataFrame:
        return of.would_run(video=video, annotation=annotation, setting=setting)

    _tell(context, "what-if", ask, csv, json)


@_asks("alike")
def _alike(
    context: typer.Context,
    request: Annotated[str | None, typer.Option(help="The id of a captured request.")] = None,
    frame: Annotated[str | None, typer.Option(help="Or a frame that batch prediction looked at.")] = None,
    of_class: Annotated[str | None, typer.Option("--class", help="The class; default: of the surest box.")] = None,
    day: Annotated[str | None, typer.Option(help="The request's day, UTC; default: the newest that has it.")] = None,
    most: Annotated[int, typer.Option(min=1, max=1000, help="How many training frames.")] = 20,
    csv: Csv = False,
    json: Json = False,
) -> None:
    def ask(of: Lineage) -> pd.DataFrame:
        return of.alike(request=request, frame=frame, of_class=of_class, day=day, most=most)

    _tell(context, "alike", ask, csv, json)


@_asks("dropped")
def _dropped(
    context: typer.Context,
    video: Annotated[str | None, typer.Argument(help="The video; default: all of them.")] = None,
    csv: Csv = False,
    json: Json = False,
) -> None:
    _tell(context, "dropped", lambda of: of.dropped(video), csv, json)


@_asks("cost")
def _cost(context: typer.Context, version: Version = None, csv: Csv = False, json: Json = False) -> None:
    _tell(context, "cost", lambda of: of.cost(version), csv, json)


@_asks("overridden")
def _overridden(context: typer.Context, csv: Csv = False, json: Json = False) -> None:
    _tell(context, "overridden", lambda of: of.overridden(), csv, json)

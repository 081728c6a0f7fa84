"""`detection lineage NAME QUESTION`: the twelve questions at a terminal, as a table, as CSV or as JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

    from detection_assets.lineage import Lineage

MOST = 40
"""Rows that are shown at a terminal; --csv and --json have them all."""
HIDDEN = {"sha256", "key", "run"}
"""Columns that only programs read."""

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


def _tell(context: typer.Context, ask: Callable[[Lineage], pd.DataFrame], csv: bool, json: bool, none: str) -> None:
    from detection_assets import lineage

    with lineage.of(str(context.obj)) as detector:
        found = ask(detector)
    if csv:
        found.to_csv(sys.stdout, index=False)
    elif json:
        found.to_json(sys.stdout, orient="records", lines=True, date_format="iso", force_ascii=False)
    elif found.empty:
        out.print(f"{context.obj}: {none}", markup=False)
    else:
        show(found)


def show(found: pd.DataFrame) -> None:
    """Prints an answer: what is the same in all rows once above the table, empty columns not at all."""
    from rich.markup import escape

    shown = found.drop(columns=[name for name in HIDDEN if name in found])
    same = [name for name in shown if len(shown) > 1 and shown[name].nunique(dropna=False) == 1]
    said = [f"{name} {_text(shown[name].iloc[0])}" for name in same if _text(shown[name].iloc[0])]
    if said:
        out.print(", ".join(said), markup=False, soft_wrap=True)
    shown = shown.drop(columns=same)
    shown = shown.loc[:, [bool(shown[name].notna().any()) for name in shown]]
    table = Table(box=None, pad_edge=False)
    for name in shown:
        table.add_column(str(name), justify="right" if shown[name].dtype.kind in "if" else "left", overflow="fold")
    for row in shown.head(MOST).itertuples(index=False):
        table.add_row(*(escape(_text(value)) for value in row))
    if len(shown.columns):
        out.print(table)
    if len(found) > MOST:
        out.print(f"... and {len(found) - MOST:,} rows more: --csv or --json has them all")


def _text(value: Any) -> str:
    import pandas as pd

    if value is None or pd.isna(value):
        return ""
    if isinstance(value, pd.Timestamp):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@app.command()
def serving(context: typer.Context, csv: Csv = False, json: Json = False) -> None:
    """1. What serves now, since when, at what share, and who approved it?"""
    _tell(context, lambda of: of.serving(), csv, json, "nothing serves")


@app.command()
def taught(
    context: typer.Context,
    version: Version = None,
    frames: Annotated[bool, typer.Option("--frames", help="A row a frame in place of a row a video.")] = False,
    csv: Csv = False,
    json: Json = False,
) -> None:
    """2. Which dataset, annotations, videos and frames taught a version?"""
    _tell(context, lambda of: of.frames(version) if frames else of.taught(version), csv, json, "no video")


@app.command()
def saw(
    context: typer.Context,
    video: Annotated[str, typer.Argument(help="The video; also one that is no longer there.")],
    csv: Csv = False,
    json: Json = False,
) -> None:
    """3. Which datasets, models and deployments saw a video?"""
    _tell(context, lambda of: of.saw(video), csv, json, f"no dataset ever had {video}")


@app.command()
def at(
    context: typer.Context,
    moment: Annotated[str, typer.Argument(help="A time, UTC, such as 2026-11-01T08:30.")],
    csv: Csv = False,
    json: Json = False,
) -> None:
    """4. What served at a given moment?"""
    _tell(context, lambda of: of.served_at(moment), csv, json, f"nothing served at {moment}")


@app.command()
def judged(
    context: typer.Context,
    evaluation: Annotated[
        str | None, typer.Argument(help="The evaluation's version, or the beginning of it; default: today's.")
    ] = None,
    csv: Csv = False,
    json: Json = False,
) -> None:
    """5. On which annotation versions and which test frames was an evaluation made?"""
    _tell(context, lambda of: of.judged_on(evaluation), csv, json, "no test frame")


@app.command()
def why(
    context: typer.Context,
    later: Annotated[
        str | None, typer.Argument(help="The version that scores otherwise; default: what serves.")
    ] = None,
    earlier: Annotated[str | None, typer.Argument(help="Than which; default: the one registered before it.")] = None,
    csv: Csv = False,
    json: Json = False,
) -> None:
    """6. Why does a version score otherwise than another: data, labels, code, parameters, base weights?"""
    _tell(context, lambda of: of.why(later, earlier), csv, json, "they differ in nothing that is known")


@app.command()
def stale(context: typer.Context, csv: Csv = False, json: Json = False) -> None:
    """7. What is stale now, and which change made it so?"""
    _tell(context, lambda of: of.stale(), csv, json, "nothing is stale")


@app.command()
def what_if(
    context: typer.Context,
    video: Annotated[str | None, typer.Option(help="A video that comes or changes.")] = None,
    annotation: Annotated[str | None, typer.Option(help="A video whose annotations change.")] = None,
    setting: Annotated[str | None, typer.Option(help="A section of the detector's file, such as sampling.")] = None,
    csv: Csv = False,
    json: Json = False,
) -> None:
    """8. What would a new video, a changed annotation or a changed setting re-run, at what time and cost?"""

    def ask(of: Lineage) -> pd.DataFrame:
        return of.would_run(video=video, annotation=annotation, setting=setting)

    _tell(context, ask, csv, json, "nothing would run: no stage reads that")


@app.command()
def alike(
    context: typer.Context,
    request: Annotated[str | None, typer.Option(help="The id of a captured request.")] = None,
    frame: Annotated[str | None, typer.Option(help="Or a frame that batch prediction looked at.")] = None,
    of_class: Annotated[str | None, typer.Option("--class", help="The class; default: of the surest box.")] = None,
    day: Annotated[str | None, typer.Option(help="The request's day, UTC; default: the newest that has it.")] = None,
    most: Annotated[int, typer.Option(min=1, max=1000, help="How many training frames.")] = 20,
    csv: Csv = False,
    json: Json = False,
) -> None:
    """9. From a request or a predicted box: the model, its dataset, and the training frames most like it."""

    def ask(of: Lineage) -> pd.DataFrame:
        return of.alike(request=request, frame=frame, of_class=of_class, day=day, most=most)

    _tell(context, ask, csv, json, "no training frame has a box of that class")


@app.command()
def dropped(
    context: typer.Context,
    video: Annotated[str | None, typer.Argument(help="The video; default: all of them.")] = None,
    csv: Csv = False,
    json: Json = False,
) -> None:
    """10. Which frames were dropped, and why?"""
    _tell(context, lambda of: of.dropped(video), csv, json, "no frame was dropped")


@app.command()
def cost(context: typer.Context, version: Version = None, csv: Csv = False, json: Json = False) -> None:
    """11. What did a version cost, asset by asset?"""
    _tell(context, lambda of: of.cost(version), csv, json, "nothing had to be run for it")


@app.command()
def overridden(context: typer.Context, csv: Csv = False, json: Json = False) -> None:
    """12. Which gates and checks were overridden, by whom, when, why?"""
    _tell(context, lambda of: of.overridden(), csv, json, "nothing was overridden")

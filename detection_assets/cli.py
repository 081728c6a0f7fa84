"""The command line, `detection`: a thin face over the jobs that the UI and the sensors use.

Exit codes: 0 done, 1 something failed or was refused, 2 wrong usage or settings.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from detection_assets.commands import of_annotations, questions
from detection_assets.commands.of_annotations import Name
from detection_assets.domain.problems import Told

app = typer.Typer(
    name="detection",
    help="From raw video to a monitored detector. Start with `detection init NAME` or `detection demo`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(questions.app, name="lineage")
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

STAGES = (
    "raw_videos, extracted_frames, annotations, detection_dataset, trained_weights, evaluation, registered_model, "
    "deployed_endpoint"
)


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="The new detector's name: small letters, digits, underscores.")],
    classes: Annotated[str, typer.Option(help="Its classes, with commas between them, as annotators write them.")] = "",
) -> None:
    """Write a commented detectors/NAME.yaml and list the detector in workspace.yaml."""
    from detection_assets.commands import setup

    setup.init(out, name, [item.strip() for item in classes.split(",") if item.strip()])


@app.command()
def sample(
    name: Name,
    clips: Annotated[
        int | None, typer.Option(min=3, help="How many clips to render; default: the whole sample.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same clips.")] = 0,
) -> None:
    """Render sample footage with annotations for an example detector, and add it to the lake."""
    from detection_assets.commands import setup

    setup.sample(out, name, clips, seed)


@app.command()
def add(
    name: Name,
    files: Annotated[
        list[Path], typer.Argument(help="Videos, folders of images, annotation files, or folders of those.")
    ],
    under: Annotated[str, typer.Option(help="Folder in the lake to put them under, such as store-07/cam-2.")] = "",
    replace: Annotated[bool, typer.Option("--replace", help="Replace files that are there with others.")] = False,
) -> None:
    """Check videos, images and annotation files and copy them into the lake."""
    from detection_assets.commands import setup

    raise typer.Exit(setup.add(out, name, files, under, replace=replace))


Lake = Annotated[
    str, typer.Option(help="The other lake, as s3:// or az://my-bucket/detectors; default: what .env says.")
]


@app.command()
def doctor(name: Name) -> None:
    """Look whether the platform's settings can work: credentials, lake, role, image, quota; each with its remedy."""
    from detection_assets.commands import doctor as of

    raise typer.Exit(of.doctor(out, name))


@app.command()
def push(name: Name, lake: Lake = "") -> None:
    """Copy what this machine's lake has of a detector into another lake; what is there already is not sent again."""
    from detection_assets.commands import moving

    moving.push(out, name, lake)


@app.command()
def pull(name: Name, lake: Lake = "") -> None:
    """Copy what another lake has of a detector into this machine's lake; what is there already is not fetched again."""
    from detection_assets.commands import moving

    moving.pull(out, name, lake)


@app.command()
def run(
    name: Name,
    until: Annotated[str, typer.Option(help=f"Stop after this stage: {STAGES}.")] = "deployed_endpoint",
) -> None:
    """Bring a detector up to date: take in what is new, materialize what is stale, deploy what passes its gates."""
    from detection_assets.commands import running

    raise typer.Exit(running.run(out, name, until))


@app.command()
def tune(
    name: Name,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials in all, earlier ones counted; default: as detectors/NAME.yaml.")
    ] = None,
    hours: Annotated[float | None, typer.Option(min=0.0, help="Stop after so many hours; run again to go on.")] = None,
) -> None:
    """Try settings of the training on the validation split; the next training takes the best. Ctrl-C loses nothing."""
    from detection_assets.commands import tuning

    raise typer.Exit(tuning.tune(out, name, trials, hours))


@app.command()
def label(
    name: Name,
    budget: Annotated[
        int | None, typer.Option(min=1, help="The most pictures of the batch; default: as detectors/NAME.yaml.")
    ] = None,
    more: Annotated[bool, typer.Option("--more", help="Choose a further batch though one is open.")] = False,
) -> None:
    """Choose the pictures most worth labelling, say why, and hand them to the annotators' tool with boxes to begin."""
    from detection_assets.commands import label as asking_for

    raise typer.Exit(asking_for.label(out, name, budget, more=more))


@app.command()
def status(name: Name) -> None:
    """Show what is there, what is stale and why, and what serves."""
    from detection_assets.commands import running

    running.status(out, name)


@app.command()
def labels(name: Name) -> None:
    """Show which pictures annotators were asked about: where they are, and how far."""
    from detection_assets.commands import labels as of

    of.labels(out, name)


@app.command()
def collect(
    name: Name,
    close: Annotated[str, typer.Option(help="A batch to give up: what is in stays in, nobody looks for more.")] = "",
) -> None:
    """Bring in what annotators have finished."""
    from detection_assets.commands import labels as of

    raise typer.Exit(of.collect(out, name, close))


@app.command()
def cost(name: Name, days: Annotated[float, typer.Option(min=0.0, help="How many days back.")] = 30.0) -> None:
    """Show what the steps of each asset took and cost."""
    from detection_assets.commands import costs

    costs.show(out, name, days)


@app.command()
def card(
    name: Name,
    version: Annotated[str | None, typer.Argument(help="The registered version; default: the newest.")] = None,
    bom: Annotated[bool, typer.Option("--bom", help="The bill of materials instead, in CycloneDX.")] = False,
    croissant: Annotated[bool, typer.Option("--croissant", help="The dataset that taught it, in Croissant.")] = False,
    to: Annotated[Path | None, typer.Option(help="A file to write it to; default: printed.")] = None,
) -> None:
    """Print a registered model's card, its bill of materials, or the description of its dataset."""
    from detection_assets.commands import cards

    cards.show(out, name, version, cards.kind(bom=bom, croissant=croissant), to)


@app.command()
def show(
    name: Name,
    video: Annotated[
        str | None, typer.Argument(help="The video: its path below videos/; default: some frames of all.")
    ] = None,
    predictions: Annotated[
        bool, typer.Option("--predictions", help="Hold what the model found against the annotations.")
    ] = False,
    worst: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="So many of the worst disagreements; default: on the test split."),
    ] = None,
    of_class: Annotated[
        list[str] | None, typer.Option("--class", help="Only boxes of this class; may be given several times.")
    ] = None,
    annotator: Annotated[str, typer.Option(help="Only what this annotator drew.")] = "",
    frames: Annotated[int, typer.Option(min=1, max=1000, help="How many frames at most, evenly chosen.")] = 60,
    file: Annotated[
        Path | None, typer.Option("--out", help="The file to write, .html, .jpg or .png; default: a page in .scratch/.")
    ] = None,
    browse: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Show frames with their boxes: annotations, truth against prediction, or where the two disagree most."""
    from detection_assets.commands import showing

    asked = showing.Asked(video, predictions, worst, of_class or (), annotator, frames, file, browse)
    showing.show(out, name, asked)


@app.command()
def serve(name: Name) -> None:
    """Answer requests in the foreground with the version that is deployed; Ctrl-C ends it."""
    from detection_assets.commands import serving

    serving.serve(out, name)


for command in (of_annotations.problems, of_annotations.versions, of_annotations.diff, of_annotations.provenance):
    app.command()(command)
app.command()(of_annotations.agreement)


def _kept(text: str) -> str:
    """What is kept for good has to be text: a terminal of another encoding gives bytes that no file could hold."""
    if any("\ud800" <= one <= "\udfff" for one in text):
        raise typer.BadParameter("it is not UTF-8; set the terminal to it, or write it in plain letters")
    return text


By = Annotated[str, typer.Option(help="Who decides it; kept for good.", callback=_kept)]
Reason = Annotated[str, typer.Option(help="Why; kept for good.", callback=_kept)]


@app.command()
def ask(
    name: Name,
    pictures: Annotated[
        list[Path] | None, typer.Argument(help="Pictures to send; default: the golden frames, whose boxes are known.")
    ] = None,
) -> None:
    """Send pictures to the endpoint and show what it finds; exit code 1 if it does not answer, or wrongly."""
    from detection_assets.commands import asking

    raise typer.Exit(asking.ask(out, name, pictures or []))


@app.command()
def history(name: Name) -> None:
    """Show which version served when, at what share of the traffic, and why."""
    from detection_assets.commands import deployment

    deployment.history(out, name)


@app.command()
def report(
    name: Name,
    file: Annotated[Path | None, typer.Option("--out", help="The file to write; default: one in .scratch/.")] = None,
    ui: Annotated[
        str, typer.Option(help="The Dagster UI, for links.", envvar="DETECTION_UI")
    ] = "http://127.0.0.1:3000",
) -> None:
    """Write one page that tells what served, how good it was, how data grew, what drifted, what it cost; offline."""
    from detection_assets.commands import report as telling

    telling.report(out, name, file, ui)


@app.command()
def deploy(name: Name) -> None:
    """Roll the approved version out now, also one that was rolled back before."""
    from detection_assets.commands import deployment

    raise typer.Exit(deployment.deploy(out, name))


@app.command()
def rollback(name: Name, by: By = "", reason: Reason = "") -> None:
    """Go back to the version that served before: at once while it is kept, else by deploying it again."""
    from detection_assets.commands import deployment

    deployment.rollback(out, name, by, reason)


@app.command()
def approve(
    name: Name,
    by: By,
    reason: Reason,
    version: Annotated[str | None, typer.Argument(help="The version; default: the newest that waits.")] = None,
) -> None:
    """Let a version that waits be deployed."""
    from detection_assets.commands import deployment

    deployment.decide(out, name, version, by, reason, reject=False)


@app.command()
def reject(
    name: Name,
    by: By,
    reason: Reason,
    version: Annotated[str | None, typer.Argument(help="The version; default: the newest that waits.")] = None,
) -> None:
    """Keep a version that waits from being deployed."""
    from detection_assets.commands import deployment

    deployment.decide(out, name, version, by, reason, reject=True)


@app.command()
def override(
    name: Name,
    by: By,
    reason: Reason,
    withdrawn: Annotated[
        str, typer.Option(metavar="VERSION", help="A registered version that learned from withdrawn videos.")
    ] = "",
) -> None:
    """Let the newest weights pass although a gate failed, or a version that learned from withdrawn videos be deployed.

    Your name and reason stay with it.
    """
    from detection_assets.commands import deployment

    if withdrawn:
        deployment.override_withdrawn(out, name, withdrawn, by, reason)
        return
    raise typer.Exit(deployment.override(out, name, by, reason))


@app.command()
def withdraw(
    name: Name,
    video: Annotated[str, typer.Argument(help="The video: its path below videos/.")],
    by: By = "",
    reason: Reason = "",
    erase: Annotated[
        bool, typer.Option("--erase", help="Delete its data everywhere, in older versions, too; for good.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done; change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing.")] = False,
) -> None:
    """Take a video out of the graph for good: new datasets leave it out, and no model that saw it is deployed.

    Killed half-way and run again, it goes on.
    """
    from detection_assets.commands import withdrawing

    raise typer.Exit(withdrawing.withdraw(out, name, video, by, reason, erase=erase, dry_run=dry_run, yes=yes))


@app.command()
def stop(
    name: Annotated[
        str | None, typer.Argument(help="The detector; without it, every endpoint of this project.")
    ] = None,
) -> None:
    """Stop the endpoint of a detector, or of all."""
    from detection_assets.commands import serving

    serving.stop(out, name)


@app.command()
def demo(
    report: Annotated[Path, typer.Option(help="Where to write the figures.")] = Path("demo-report.json"),
) -> None:
    """Render the fridge sample, take it all the way to an answering endpoint, and report the figures."""
    from detection_assets.commands import demonstration

    raise typer.Exit(demonstration.demo(out, report))


@app.command()
def story(
    size: Annotated[str, typer.Option(help="`full`, about ten minutes, or `small`, with models that hardly learn.")] = (
        "full"
    ),
    report: Annotated[Path, typer.Option(help="Where to write the figures.")] = Path("story-report.json"),
) -> None:
    """Play a detector's life in a folder of its own: drift, labels, retraining, a canary, bad models rolled back."""
    from detection_assets.commands import story as telling

    raise typer.Exit(telling.story(out, size, report))


@app.command()
def dev(
    port: Annotated[int, typer.Option(help="Port of the Dagster UI.")] = 3000,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow pages.")] = 5000,
) -> None:
    """Open the Dagster UI with its daemon, and the MLflow pages, over what the commands did; Ctrl-C ends both."""
    from detection_assets.commands import serving

    raise typer.Exit(serving.dev(out, port, mlflow_port))


def main() -> None:
    """Runs the command line."""
    # Usage reports of the parts are off unless a user turns them on.
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
        "YOLO_OFFLINE": "1",
        "GIT_PYTHON_REFRESH": "quiet",
    }.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", module="dagster")
    try:
        from dotenv import load_dotenv

        from resources.home import home

        load_dotenv(home() / ".env")
        app()
    except Told as error:
        told = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)
        err.print(told, style="red", markup=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("interrupted")
        sys.exit(130)

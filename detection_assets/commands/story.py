"""The story of a detector in service, told by doing it: drift, new labels, retraining, a canary, and bad models.

It plays in a folder of its own and changes nothing outside it. Every claim it makes is checked as it goes, and a claim
that does not hold makes the command fail.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from detection_assets.commands import deployment, setup
from detection_assets.commands.context import Project
from detection_assets.commands.story_world import World, answers
from detection_assets.domain.problems import InputError
from detection_assets.samples import hard_times
from jobs import jobs
from resources.home import home

NAME = "fridge"
BAD = {
    "wrong": "finds the wrong classes in the wrong places",
    "slow": "answers, but late",
    "nan": "answers with numbers that are not finite",
    "bright": "loads and answers dark pictures, then fails bright ones",
}
"""Bad models that are deployed on purpose: how, and what is wrong with each."""

LOOKS = ("brightness", "contrast", "sharpness", "red", "green", "blue", "width", "height")
"""The features of a drift report that tell what pictures look like."""

YAML = """\
# The detector of `make story`. The first model sees half of the footage; the rest comes later, filmed in the dark.
name: {name}
classes: [apple, banana, cola, water]
sampling: {{rate: 2.0, min_sharpness: 0}}
dataset: {{split: {{train: 0.6, val: 0.2, test: 0.2}}, min_images: 4}}
training: {{model: yolo11n.yaml, imgsz: {imgsz}, epochs: {epochs}, batch: 8, extra: {{close_mosaic: {close}}}}}
evaluation: {{bootstrap: 200}}
gates: {{map50: {map50}, non_inferiority: {non_inferiority}, latency_ms: 5000}}
endpoint: {{confidence: {confidence}, p95_ms: {p95_ms}}}
rollout: {{canary: [20, 50], bake_s: {bake_s}, min_requests: {min_requests}, max_disagreement: 1.0, max_slowdown: 20.0}}
monitoring: {{capture: {{rate: 1.0}}}}
retraining: {{new_frames: {new_frames}, cooldown_h: 0.0}}
"""


@dataclass(frozen=True)
class Size:
    """How long the story takes."""

    first: int
    second: int
    settings: Mapping[str, Any]
    requests: int
    slow_steps: int
    rate: int


SIZES = {
    "full": Size(
        12,
        12,
        {
            **{"imgsz": 192, "epochs": 22, "close": 8, "map50": 0.3, "non_inferiority": 0.05, "confidence": 0.25},
            **{"p95_ms": 1000.0, "bake_s": 6.0, "min_requests": 5, "new_frames": 60},
        },
        300,
        100,
        10,
    ),
    "small": Size(
        4,
        2,
        {
            **{"imgsz": 96, "epochs": 2, "close": 0, "map50": 0.0, "non_inferiority": 1.0, "confidence": 0.001},
            # A late answer takes both cores of a small machine for most of a second, so few come while it is watched.
            **{"p95_ms": 600.0, "bake_s": 5.0, "min_requests": 3, "new_frames": 5},
        },
        80,
        60,
        20,
    ),
}


@dataclass
class Story:
    """One telling: the world it plays in, and what was claimed and found."""

    world: World
    size: Size
    claims: list[tuple[str, str, bool]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def claim(self, what: str, found: str, holds: bool) -> None:
        """Notes a claim with the figure that was found, and says it."""
        self.claims.append((what, found, holds))
        mark = "[green]holds[/green]" if holds else "[red]does not hold[/red]"
        self.world.out.print(f"  {mark}: {what} [dim]({found})[/dim]")

    @contextlib.contextmanager
    def chapter(self, title: str) -> Iterator[None]:
        """Prints a chapter's title, and notes how long it took."""
        self.world.out.rule(f"[bold]{len(self.seconds) + 1}. {title}[/bold]", align="left")
        began = time.monotonic()
        yield
        self.seconds[title] = round(time.monotonic() - began, 1)

    def tell(self) -> None:
        """All chapters, in order."""
        world, size = self.world, self.size
        with self.chapter("A first model, from half of the footage"):
            world.film(size.first, size.second)
            world.bring_up_to_date(jobs.STAGES[-1])
            first = world.serving()
            self.claim("a first version answers", f"version {first}", bool(first))
        with world.traffic() as log:
            with self.chapter("Cameras send pictures; the world is as it was"):
                world.wait_for(log, size.requests)
                # Most of these pictures taught the model, so its answers are surer than on the test split; what the
                # pictures look like is what they looked like.
                quiet = [feature for feature in self.drift() if feature in LOOKS]
                told = ", ".join(quiet) or "none"
                self.claim("no drift of the pictures is reported while nothing has changed", told, not quiet)
            with self.chapter("The light fails, the lens fogs, and a product comes that was never seen"):
                world.change(lambda rgb, number: hard_times.degrade(hard_times.add_stranger(rgb, number)))
                world.wait_for(log, 5 * size.requests)
                found = self.drift()
                for feature in ("brightness", "sharpness"):
                    self.claim(f"the drift report names {feature}", ", ".join(found) or "none", feature in found)
            with self.chapter("Somebody labels pictures from the dark; the sensor asks for a training"):
                world.label()
                asked = world.tick("retrain_on_labels")
                evidence = asked[0].tags["detection/evidence"] if asked else "no run was asked for"
                self.claim("newly labelled frames start a retraining", evidence, len(asked) == 1)
            with self.chapter("The second model is gated against the first and rolled out by a canary, under traffic"):
                before = len(answers(log))
                good = bool(asked) and world.run_job(str(asked[0].job_name), tags=dict(asked[0].tags))
                second = world.serving()
                self.claim("the second version serves", f"version {second} after {first}", good and second != first)
                self.gate()
                shares = pd.Series([answer.get("version") for answer in answers(log)[before:]]).value_counts().to_dict()
                self.claim("both versions answered while the canary ran", str(shares), {first, second} <= set(shares))
            with self.chapter("The lamp is mended, and bad third models come, one after the other"):
                world.change(lambda rgb, _: hard_times.brighten(rgb))
                for kind, what in BAD.items():
                    why = world.deploy_bad(kind, size.slow_steps)
                    untouched = world.serving() == second
                    self.claim(f"a model that {what} is rolled back, version {second} untouched", why, untouched)
        came = answers(log)
        failed = [answer for answer in came if answer["status"] != 200]
        self.claim("no request failed, in all this time", f"{len(failed)} of {len(came)}", not failed)
        deployment.history(world.out, NAME)

    def drift(self) -> list[str]:
        """Shows today's drift report and says which features drifted."""
        report = self.world.report()
        shown = report[["feature", "version", "production_n", "psi", "ks", "verdict"]].round(3)
        table = Table(title="drift report", title_justify="left")
        for column in shown.columns:
            table.add_column(str(column))
        for row in shown.astype("string").fillna("").itertuples(index=False):
            table.add_row(*map(str, row))
        self.world.out.print(table)
        return [str(feature) for feature in report.loc[report["verdict"] == "drift", "feature"].unique()]

    def gate(self) -> None:
        """Shows that both models were scored on the same test split."""
        evaluation = self.world.table("evaluation")
        overall = evaluation[evaluation["slice_kind"] == "all"].set_index("model")
        told = ", ".join(f"{model} {row['ap50']:.3f} on {row['n_images']}" for model, row in overall.iterrows())
        same = overall["n_images"].nunique() == 1 and {"champion", "challenger"} <= set(overall.index)
        self.claim("champion and challenger were scored on the same test split", told, bool(same))


def story(out: Console, size: str, report: Path) -> int:
    """Tells the story in `.story/` of the project's folder; what is left of an earlier telling goes.

    Returns:
        0 if every claim holds, else 1.
    """
    if size not in SIZES:
        raise InputError(f"--size {size}: there are {', '.join(SIZES)}")
    root = home()
    folder = root / ".story"
    environment = {
        "DETECTION_HOME": str(folder),
        "DETECTION_DETECTORS": str(folder / "detectors"),
        "DAGSTER_HOME": str(folder / ".dagster"),
    }
    os.environ.update(environment)
    for name in ("DETECTION_LAKE", "DETECTION_LOCAL_LAKE", "DETECTION_PLATFORM", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    if (folder / "detectors" / f"{NAME}.yaml").exists():
        Project.of(NAME).endpoints.stop()
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "detectors").mkdir(parents=True)
    shutil.copyfile(root / "dagster.yaml", folder / "dagster.yaml")
    (folder / "workspace.yaml").write_text("load_from:\n" + setup.ENTRY.format(name=NAME))
    (folder / "detectors" / f"{NAME}.yaml").write_text(YAML.format(name=NAME, **SIZES[size].settings))
    world = World(out, NAME, folder, SIZES[size].rate)
    told = Story(world, SIZES[size])
    started = time.monotonic()
    try:
        told.tell()
    finally:
        with contextlib.suppress(Exception):
            world.project.endpoints.stop()
    found = {
        "claims": [{"claim": what, "found": found, "holds": holds} for what, found, holds in told.claims],
        "chapters": told.seconds,
        "seconds": round(time.monotonic() - started, 1),
    }
    report.write_text(json.dumps(found, indent=2) + "\n")
    held = sum(holds for *_, holds in told.claims)
    out.print(f"{held} of {len(told.claims)} claims hold; {found['seconds']} s; figures in [bold]{report}[/bold]")
    look = " ".join(f"{name}={value}" for name, value in environment.items())
    out.print(f"to look around: {look} detection dev", soft_wrap=True)
    return 0 if held == len(told.claims) else 1

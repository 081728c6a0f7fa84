"""The story of a detector in service, told by doing it: drift, new labels, retraining, a canary, and bad models.

It plays in a folder of its own and changes nothing outside it. Every claim it makes is checked as it goes, and a claim
that does not hold makes the command fail.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
from rich.console import Console
from rich.table import Table

from detection_assets.commands import running, setup
from detection_assets.commands.context import Project
from detection_assets.domain import layout
from detection_assets.domain.problems import InputError
from jobs import jobs, progress
from resources import profiles, tables
from resources.instance import open_instance

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
rollout: {{canary: [20, 50], bake_s: {bake_s}, min_requests: 5, max_disagreement: 1.0, max_slowdown: 20.0}}
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
            **{"p95_ms": 1000.0, "bake_s": 6.0, "new_frames": 60},
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
            **{"p95_ms": 1000.0, "bake_s": 2.0, "new_frames": 5},
        },
        80,
        100,
        20,
    ),
}


@dataclass
class Story:
    """One telling: where it plays, and what was claimed and found."""

    out: Console
    folder: Path
    size: Size
    claims: list[tuple[str, str, bool]] = field(default_factory=list)
    _parts: list[Any] = field(default_factory=list)

    def claim(self, what: str, found: str, holds: bool) -> None:
        """Notes a claim with the figure that was found, and says it."""
        self.claims.append((what, found, holds))
        mark = "[green]holds[/green]" if holds else "[red]does not hold[/red]"
        self.out.print(f"  {mark}: {what} [dim]({found})[/dim]")

    @property
    def project(self) -> Project:
        """The detector as its file says now."""
        return Project.of(NAME)

    # Chapters --------------------------------------------------------------------------------------------------------

    def tell(self) -> None:
        """All chapters, in order."""
        self.chapter("1. A first model, from half of the footage")
        self.footage()
        if running.run(self.out, NAME, jobs.STAGES[-1]):
            raise InputError("the first model did not reach its endpoint; see above")
        first = self.serving()
        self.claim("a first version answers", f"version {first}", bool(first))
        pictures = self.pictures()
        with self.traffic(pictures) as log:
            self.chapter("2. Cameras send pictures; the world is as it was")
            self.wait_for(log, self.size.requests)
            # Most of these pictures taught the model, so its answers are surer than on the test split; what the
            # pictures look like is what they looked like.
            quiet = [feature for feature in self.drift() if feature in LOOKS]
            self.claim("no drift of the pictures is reported while nothing has changed", _told(quiet), not quiet)
            self.chapter("3. The light fails, the lens fogs, and a product comes that was never seen")
            self.change(pictures)
            self.wait_for(log, 5 * self.size.requests)
            found = self.drift()
            self.claim("the drift report names brightness", _told(found), "brightness" in found)
            self.claim("the drift report names sharpness", _told(found), "sharpness" in found)
            self.chapter("4. Somebody labels pictures from the dark; the sensor asks for a training")
            self.label()
            requests = self.tick(f"{NAME}_retrain_on_labels")
            evidence = requests[0].tags["detection/evidence"] if requests else "no run was asked for"
            self.claim("newly labelled frames start a retraining", evidence, len(requests) == 1)
            self.chapter("5. The second model is gated against the first and rolled out by a canary, under traffic")
            before = len(_answers(log))
            good = bool(requests) and self.launch(requests[0])
            second = self.serving()
            self.claim("the second version serves", f"version {second} after {first}", good and second != first)
            self.gate()
            during = _answers(log)[before:]
            shares = pd.Series([answer.get("version") for answer in during]).value_counts().to_dict()
            self.claim("both versions answered while the canary ran", str(shares), {first, second} <= set(shares))
            self.chapter("6. The lamp is mended, and bad third models come, one after the other")
            self.brighten(pictures)
            for kind, what in BAD.items():
                why = self.deploy_bad(kind)
                now = self.serving()
                self.claim(f"a model that {what} is rolled back, version {second} untouched", why, now == second)
        answers = _answers(log)
        failed = [answer for answer in answers if answer["status"] != 200]
        self.claim("no request failed, in all this time", f"{len(failed)} of {len(answers)}", not failed)
        self.history()

    def chapter(self, title: str) -> None:
        """Prints a chapter's title."""
        self.out.rule(f"[bold]{title}[/bold]", align="left")

    def footage(self) -> None:
        """Renders the sample; the first clips go in as they are, the others wait."""
        from detection_assets import samples

        total = self.size.first + self.size.second
        with setup.bar(self.out) as bar:
            task = bar.add_task("rendering", total=total)
            made = samples.render(
                NAME,
                self.folder / "sample",
                clips=total,
                progress=lambda done, of, what: bar.update(task, completed=done, total=of),
            )
        for clip in made.clips[: self.size.first]:
            self._add(made.folder, clip, made.folder / "videos" / clip.video)
        self._parts = [made.folder, *made.clips[self.size.first :]]
        self.out.print(f"{self.size.first} clips in the lake, {self.size.second} kept for later")

    def _add(self, folder: Path, clip: Any, video: Path) -> None:
        storage = self.project.storage
        storage.put(layout.video(clip.video), video)
        for path in clip.annotations:
            storage.put(path.relative_to(folder).as_posix(), path)

    def serving(self) -> str:
        """The version with the most traffic, or ""."""
        slot = self.project.endpoints.status().serving
        return slot.version if slot else ""

    def pictures(self) -> Path:
        """What the cameras see: frames of every split, as they were extracted."""
        folder = self.folder / "cameras"
        folder.mkdir(exist_ok=True)
        storage = self.project.storage
        keys = tables.read(storage, "detection_dataset")["key"].sample(frac=1.0, random_state=0).head(60)
        for number, key in enumerate(keys):
            (folder / f"{number:03}.jpg").write_bytes(storage.get(str(key)))
        return folder

    @contextlib.contextmanager
    def traffic(self, pictures: Path) -> Iterator[Path]:
        """Cameras in a process of their own, for as long as the context lasts."""
        endpoints = self.project.endpoints
        log = self.folder / "traffic.jsonl"
        command = [sys.executable, "-m", "detection_assets.samples.traffic", "--url", endpoints.url]
        command += ["--key-file", str(endpoints.key_file), "--pictures", str(pictures), "--out", str(log)]
        with subprocess.Popen(
            [*command, "--rate", str(self.size.rate), "--callers", "2"], cwd=profiles.home()
        ) as process:
            try:
                yield log
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=60)

    def wait_for(self, log: Path, count: int) -> None:
        """Waits until so many requests were answered."""
        ends = time.monotonic() + 300
        with self.out.status(f"{count} requests ..."):
            while len(_answers(log)) < count:
                if time.monotonic() > ends:
                    raise InputError(f"{log}: fewer than {count} requests were answered in five minutes")
                time.sleep(0.5)
            time.sleep(6)  # the server writes what it captured every few seconds

    def drift(self) -> list[str]:
        """Makes today's report and says which features drifted."""
        today = datetime.now(timezone.utc).strftime("%Y-%m-%d")
        self.run_job(f"{NAME}_monitor", partition_key=today)
        report = tables.read(self.project.storage, "drift_report", [today])
        shown = report[["feature", "version", "production_n", "psi", "ks", "verdict"]].round(3)
        self.out.print(_as_table("drift report", shown))
        return [str(feature) for feature in report.loc[report["verdict"] == "drift", "feature"].unique()]

    def change(self, pictures: Path) -> None:
        """Exchanges what the cameras see."""
        import simplejpeg

        from detection_assets.samples import hard_times
        from detection_assets.serving.images import decode

        for number, path in enumerate(sorted(pictures.glob("*.jpg"))):
            strange = hard_times.degrade(hard_times.add_stranger(decode(path.read_bytes()), number))
            part = path.with_suffix(".part")
            part.write_bytes(simplejpeg.encode_jpeg(strange, quality=90))
            part.replace(path)

    def brighten(self, pictures: Path) -> None:
        """Lets more light in than there ever was."""
        import simplejpeg

        from detection_assets.samples import hard_times
        from detection_assets.serving.images import decode

        for path in sorted(pictures.glob("*.jpg")):
            part = path.with_suffix(".part")
            part.write_bytes(simplejpeg.encode_jpeg(hard_times.brighten(decode(path.read_bytes())), quality=90))
            part.replace(path)

    def label(self) -> None:
        """Puts in the clips that waited, filmed in the dark, with what annotators drew on them."""
        from detection_assets.samples import hard_times

        folder, *clips = self._parts
        for clip in clips:
            dark = self.folder / "dark" / clip.video
            hard_times.degrade_clip(folder / "videos" / clip.video, dark)
            self._add(folder, clip, dark)
        if running.run(self.out, NAME, jobs.INGEST[-1]):
            raise InputError("the new footage could not be taken in; see above")

    def tick(self, sensor: str) -> list[dg.RunRequest]:
        """Ticks a sensor as the daemon would."""
        project = self.project
        with open_instance() as instance:
            context = dg.build_sensor_context(
                instance, resources={"storage": project.storage}, definitions=project.definitions
            )
            data = project.definitions.resolve_sensor_def(sensor).evaluate_tick(context)
        if data.skip_message:
            self.out.print(f"  {sensor}: {data.skip_message}")
        return list(data.run_requests or ())

    def launch(self, request: dg.RunRequest) -> bool:
        """Runs what a sensor asked for."""
        assert request.job_name is not None
        return self.run_job(request.job_name, tags=dict(request.tags))

    def run_job(self, job: str, *, stages: tuple[str, ...] | None = None, **how: Any) -> bool:
        """Runs a job in this process and shows what it tells; returns whether it succeeded."""
        watch = running.Watch(self.out)
        with open_instance() as instance, progress.listening(watch):
            result = self.project.definitions.resolve_job_def(job).execute_in_process(
                instance=instance,
                asset_selection=jobs.keys(NAME, stages) if stages else None,
                run_config={"loggers": {"progress": {}}},
                raise_on_error=False,
                **how,
            )
        return result.success

    def gate(self) -> None:
        """Shows that both models were scored on the same test split."""
        evaluation = tables.read(self.project.storage, "evaluation")
        overall = evaluation[evaluation["slice_kind"] == "all"].set_index("model")
        told = ", ".join(f"{model} {row['ap50']:.3f} on {row['n_images']}" for model, row in overall.iterrows())
        same = overall["n_images"].nunique() == 1 and {"champion", "challenger"} <= set(overall.index)
        self.claim("champion and challenger were scored on the same test split", told, bool(same))

    def deploy_bad(self, kind: str) -> str:
        """Registers a spoilt copy of the serving model, as if it had passed, deploys it and says what came of it."""
        from detection_assets.samples import bad_models

        project = self.project
        storage, registry = project.storage, project.resources["registry"]
        row = tables.read(storage, "registered_model").iloc[0]
        champion = registry.get("champion")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "weights"
            folder.mkdir()
            good = Path(name) / "good.onnx"
            good.write_bytes(storage.get(champion.onnx))
            bad = bad_models.spoil(good, folder / "best.onnx", kind, slow_steps=self.size.slow_steps)
            digest = setup.digest(bad)
            published = storage.publish(folder, layout.weights(f"spoilt-{kind}"), {})
        onnx = published.key("best.onnx")
        lineage = {**champion.tags, "spoilt": kind}
        for own in ("sha256", "onnx", "approval", "approved_by", "approved_at", "approval_reason"):
            lineage.pop(own, None)
        entry = registry.register(onnx, storage.uri_of(onnx), digest, lineage, "")
        registry.approve(entry.version, "the story", f"on purpose: {kind}")
        made = row.to_dict() | {"version": entry.version, "sha256": digest, "onnx": onnx, "approval": "approved"}
        tables.write(storage, "registered_model", None, pd.DataFrame([made]), "")
        good_run = self.run_job(f"{NAME}_deploy", stages=("deployed_endpoint",))
        why = next(
            (known.tags.get("rollout_reason", "") for known in registry.history() if known.version == entry.version), ""
        )
        tables.write(storage, "registered_model", None, pd.DataFrame([row.to_dict()]), "")
        return "it was taken into service" if good_run else why or "the run failed"

    def history(self) -> None:
        """Prints who served what, and when."""
        table = tables.read(self.project.storage, "deployment_history")
        self.out.print(_as_table("who served what", table.drop(columns=["sha256"], errors="ignore")))


def story(out: Console, size: str, report: Path) -> int:
    """Tells the story in `.story/` of the project's folder; what is left of an earlier telling goes.

    Returns:
        0 if every claim holds, else 1.
    """
    if size not in SIZES:
        raise InputError(f"--size {size}: there are {', '.join(SIZES)}")
    folder = profiles.home() / ".story"
    root = profiles.home()
    environment = {
        "DETECTION_HOME": str(folder),
        "DETECTION_DETECTORS": str(folder / "detectors"),
        "DAGSTER_HOME": str(folder / ".dagster"),
    }
    os.environ.update(environment)
    for name in ("DETECTION_LAKE", "DETECTION_PLATFORM", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    if (folder / "detectors" / f"{NAME}.yaml").exists():
        Project.of(NAME).endpoints.stop()
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "detectors").mkdir(parents=True)
    shutil.copyfile(root / "dagster.yaml", folder / "dagster.yaml")
    (folder / "workspace.yaml").write_text("load_from:\n" + setup.ENTRY.format(name=NAME))
    (folder / "detectors" / f"{NAME}.yaml").write_text(YAML.format(name=NAME, **SIZES[size].settings))
    told = Story(out, folder, SIZES[size])
    started = time.monotonic()
    try:
        told.tell()
    finally:
        with contextlib.suppress(Exception):
            told.project.endpoints.stop()
    found = {
        "claims": [{"claim": what, "found": found, "holds": holds} for what, found, holds in told.claims],
        "seconds": round(time.monotonic() - started, 1),
    }
    report.write_text(json.dumps(found, indent=2) + "\n")
    held = sum(holds for *_, holds in told.claims)
    out.print(f"{held} of {len(told.claims)} claims hold; {found['seconds']} s; figures in [bold]{report}[/bold]")
    look = " ".join(f"{name}={value}" for name, value in environment.items())
    out.print(f"to look around: {look} detection dev", soft_wrap=True)
    return 0 if held == len(told.claims) else 1


def _answers(log: Path) -> list[dict[str, Any]]:
    try:
        lines = log.read_text().splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("}")]


def _told(features: list[str]) -> str:
    return ", ".join(features) or "none"


def _as_table(title: str, rows: pd.DataFrame) -> Table:
    table = Table(title=title, title_justify="left")
    for column in rows.columns:
        table.add_column(str(column))
    for row in rows.astype("string").fillna("").itertuples(index=False):
        table.add_row(*map(str, row))
    return table

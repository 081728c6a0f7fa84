"""The world that `detection story` plays in: cameras, light that fails, people who label, the daemon, a bad day."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
from rich.console import Console

from detection_assets.commands import running, setup
from detection_assets.commands.context import Project
from detection_assets.domain import layout
from detection_assets.domain.problems import InputError
from jobs import jobs, progress
from resources import tables
from resources.home import home
from resources.instance import open_instance

PATIENCE_S = 300.0
"""How long requests may take to be answered, all in all."""
CAPTURE_S = 6.0
"""The server writes what it captured every few seconds."""


@dataclass
class World:
    """One detector, its footage and its cameras.

    Attributes:
        out: Where progress is shown.
        name: The detector; its sample is what the cameras film.
        folder: Where everything of it is.
        rate: Requests a second that the cameras send.
    """

    out: Console
    name: str
    folder: Path
    rate: int
    _sample: Path = field(default_factory=Path)
    _kept: list[Any] = field(default_factory=list)

    @property
    def project(self) -> Project:
        """The detector as its file says now."""
        return Project.of(self.name)

    def table(self, stage: str, partitions: list[str] | None = None) -> pd.DataFrame:
        """A table of the lake."""
        return tables.read(self.project.storage, stage, partitions)

    def serving(self) -> str:
        """The version with the most traffic, or ""."""
        slot = self.project.endpoints.status().serving
        return slot.version if slot else ""

    # Footage ---------------------------------------------------------------------------------------------------------

    def film(self, first: int, later: int) -> None:
        """Renders the sample; the first clips go in as they are, the others wait."""
        from detection_assets import samples

        with setup.bar(self.out) as bar:
            task = bar.add_task("rendering", total=first + later)
            made = samples.render(
                self.name,
                self.folder / "sample",
                clips=first + later,
                progress=lambda done, of, what: bar.update(task, completed=done, total=of),
            )
        self._sample, self._kept = made.folder, list(made.clips[first:])
        for clip in made.clips[:first]:
            self._add(clip, made.folder / "videos" / clip.video)
        self.out.print(f"{first} clips in the lake, {later} kept for later")

    def _add(self, clip: Any, video: Path) -> None:
        storage = self.project.storage
        storage.put(layout.video(clip.video), video)
        for path in clip.annotations:
            storage.put(path.relative_to(self._sample).as_posix(), path)

    def label(self) -> None:
        """Puts in the clips that waited, filmed in the dark, with what annotators drew on them."""
        from detection_assets.samples import hard_times

        for clip in self._kept:
            dark = self.folder / "dark" / clip.video
            hard_times.degrade_clip(self._sample / "videos" / clip.video, dark)
            self._add(clip, dark)
        self.bring_up_to_date(jobs.INGEST[-1])

    # Cameras ---------------------------------------------------------------------------------------------------------

    @property
    def pictures(self) -> Path:
        """What the cameras see, as files that may be exchanged while they send."""
        return self.folder / "cameras"

    @contextlib.contextmanager
    def traffic(self) -> Iterator[Path]:
        """Cameras in a process of their own for as long as the context lasts; yields where they write what came."""
        self.pictures.mkdir(exist_ok=True)
        storage, endpoints = self.project.storage, self.project.endpoints
        keys = self.table("detection_dataset")["key"].sample(frac=1.0, random_state=0).head(60)
        for number, key in enumerate(keys):
            (self.pictures / f"{number:03}.jpg").write_bytes(storage.get(str(key)))
        log = self.folder / "traffic.jsonl"
        command = [sys.executable, "-m", "detection_assets.samples.traffic", "--url", endpoints.url]
        command += ["--key-file", str(endpoints.key_file), "--pictures", str(self.pictures), "--out", str(log)]
        command += ["--rate", str(self.rate), "--callers", "2"]
        with subprocess.Popen(command, cwd=home()) as process:
            try:
                yield log
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=60)

    def wait_for(self, log: Path, count: int) -> None:
        """Waits until so many requests were answered."""
        ends = time.monotonic() + PATIENCE_S
        with self.out.status(f"{count} requests ..."):
            while len(answers(log)) < count:
                if time.monotonic() > ends:
                    raise InputError(f"{log}: fewer than {count} requests were answered in {PATIENCE_S:.0f} s")
                time.sleep(0.5)
            time.sleep(CAPTURE_S)

    def change(self, how: Callable[[Any, int], Any]) -> None:
        """Exchanges what the cameras see.

        Args:
            how: Takes a picture, H x W x 3 uint8, and its number, and returns the picture that takes its place.
        """
        import simplejpeg

        from detection_assets.serving.images import decode

        for number, path in enumerate(sorted(self.pictures.glob("*.jpg"))):
            part = path.with_suffix(".part")
            part.write_bytes(simplejpeg.encode_jpeg(how(decode(path.read_bytes()), number), quality=90))
            part.replace(path)

    # Runs ------------------------------------------------------------------------------------------------------------

    def bring_up_to_date(self, until: str) -> None:
        """Does what `detection run --until` does.

        Raises:
            InputError: If a stage failed.
        """
        if running.run(self.out, self.name, until):
            raise InputError(f"{self.name} did not reach {until}; see above")

    def tick(self, sensor: str) -> list[dg.RunRequest]:
        """Ticks a sensor as the daemon would, and returns the runs that it asks for."""
        project = self.project
        # Left to the collector, what the context has opened is closed later, and in the midst of something else.
        with (
            open_instance() as instance,
            dg.build_sensor_context(
                instance, resources={"storage": project.storage}, definitions=project.definitions
            ) as context,
        ):
            data = project.definitions.resolve_sensor_def(f"{self.name}_{sensor}").evaluate_tick(context)
        if data.skip_message:
            self.out.print(f"  {sensor}: {data.skip_message}")
        return list(data.run_requests or ())

    def run_job(self, job: str, *, stages: tuple[str, ...] | None = None, **how: Any) -> bool:
        """Runs a job in this process and shows what it tells; returns whether it succeeded."""
        watch = running.Watch(self.out)
        with open_instance() as instance, progress.listening(watch):
            result = self.project.definitions.resolve_job_def(job).execute_in_process(
                instance=instance,
                asset_selection=jobs.keys(self.name, stages) if stages else None,
                run_config={"loggers": {"progress": {}}},
                raise_on_error=False,
                **how,
            )
        return result.success

    def report(self) -> pd.DataFrame:
        """Makes today's drift report and returns its table."""
        today = datetime.now(timezone.utc).strftime("%Y-%m-%d")
        self.run_job(f"{self.name}_monitor", partition_key=today)
        return self.table("drift_report", [today])

    def deploy_bad(self, kind: str, slow_steps: int) -> str:
        """Registers a spoilt copy of the serving model, as if it had passed, and deploys it.

        Args:
            kind: What is wrong with it; see `samples/bad_models.py`.
            slow_steps: How slow a slow one is.

        Returns:
            What came of it.
        """
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
            bad = bad_models.spoil(good, folder / "best.onnx", kind, slow_steps=slow_steps)
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
        good_run = self.run_job(f"{self.name}_deploy", stages=("deployed_endpoint",))
        told = {known.version: known.tags.get("rollout_reason", "") for known in registry.history()}
        tables.write(storage, "registered_model", None, pd.DataFrame([row.to_dict()]), "")
        return "it was taken into service" if good_run else told.get(entry.version) or "the run failed"


def answers(log: Path) -> list[dict[str, Any]]:
    """What the cameras were answered so far, a line each."""
    try:
        lines = log.read_text().splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("}")]

"""The demo: the fridge sample, video to answering endpoint, with figures."""

from __future__ import annotations

import json
import time
from pathlib import Path

from rich.console import Console

from detection_assets.commands import running, setup
from detection_assets.commands.context import Project
from detection_assets.domain import inbox, layout
from jobs import jobs
from resources import tables
from resources.instance import open_instance

NAME = "fridge"


def demo(out: Console, report: Path) -> int:
    """Renders the sample if the lake is empty, runs the detector and writes the report.

    Returns:
        0 if the endpoint answers, 1 if a stage failed.
    """
    started = time.monotonic()
    project = Project.of(NAME)
    videos, _ = inbox.sources(project.storage.list(layout.VIDEOS))
    seconds: dict[str, float] = {}
    if not videos:
        out.print("rendering the sample: a fridge shelf in several stores")
        setup.sample(out, NAME, None, 0)
        seconds["sample"] = round(time.monotonic() - started, 2)
    watch = running.Watch(out)
    code = running.run(out, NAME, jobs.STAGES[-1], watch)
    if code:
        return code
    seconds |= {stage: round(watch.stages[stage].seconds, 2) for stage in jobs.STAGES if stage in watch.stages}
    seconds["total"] = round(time.monotonic() - started, 2)
    written = figures(project) | {"seconds": seconds}
    report.write_text(json.dumps(written, indent=2) + "\n")
    out.print(f"figures in [bold]{report}[/bold]; [bold]make dev[/bold] opens the UI, [bold]make stop[/bold] ends it")
    return 0


def figures(project: Project) -> dict[str, object]:
    """The demo's figures, read from the assets' tables."""
    with open_instance() as instance:
        videos = instance.get_dynamic_partitions(f"{project.detector.name}_videos")
    frames = tables.read(project.storage, "extracted_frames", videos)
    boxes = tables.read(project.storage, "annotations", videos)
    evaluation = tables.read(project.storage, "evaluation")
    overall = evaluation[(evaluation["model"] == "challenger") & (evaluation["slice_kind"] == "all")].iloc[0]
    model = tables.read(project.storage, "registered_model").iloc[0]
    return {
        "detector": project.detector.name,
        "map50": round(float(overall["ap50"]), 4),
        "map50_95": round(float(overall["ap50_95"]), 4),
        "map50_interval": [round(float(overall["low"]), 4), round(float(overall["high"]), 4)],
        "videos": len(videos),
        "frames": int(frames["kept"].sum()),
        "boxes": int(boxes["class"].notna().sum()),
        "dataset_version": str(model["dataset_version"]),
        "model_version": str(model["version"]),
        "endpoint_url": project.endpoints.url,
        "endpoint_key_file": str(project.endpoints.key_file or ""),
    }

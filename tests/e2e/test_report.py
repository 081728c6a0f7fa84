"""The report through the command line, over a lake that has a long life behind it, and what a phone makes of it.

What is in the lake was put there as the stages put it; nothing is trained or served here.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import orjson
import pandas as pd
import pytest
from project import give_mlflow, make_home, write_detector
from typer.testing import CliRunner

from detection_assets import cli
from detection_assets.commands.context import Project
from detection_assets.domain import layout, schemas
from detection_assets.domain.history import Entry, Held
from detection_assets.domain.labels import Batch
from detection_assets.domain.problems import Told
from resources import label_batches, tables
from resources.instance import open_instance
from resources.registry.base import APPROVED

NAME = "tiny"
EVIL = "<img src=x onerror=alert(1)>"
CLASSES = ["apple", "banana", "cola", "water"]
DAY0 = date(2026, 3, 1)


class World:
    """A detector's life, as long as a test wants it."""

    def __init__(self, home: Path, versions: int, days: int, videos: int) -> None:
        self.rng = np.random.default_rng(3)
        write_detector(home, NAME, classes=", ".join(CLASSES))
        self.project = Project.of(NAME)
        self.storage = self.project.storage
        self.start = time.time() - 86400 * versions
        self.reported(videos)
        made = [self.version(number) for number in range(1, versions + 1)]
        self.served(made)
        for back in range(days):
            self.drifted(str(DAY0 + timedelta(days=back)), made[-1], back)
        self.asked()

    def publish(self, prefix: str, files: dict[str, bytes], notes: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            for name, data in files.items():
                (Path(scratch) / name).write_bytes(data)
            self.storage.publish(Path(scratch), prefix, notes)

    def reported(self, videos: int) -> None:
        """Videos, and what extracting each of them and one training cost, in Dagster."""
        keys = [f"store-{number:05}/clip.mp4" for number in range(videos)]
        with open_instance() as instance:
            instance.add_dynamic_partitions(f"{NAME}_videos", keys)
            spent = {"instance": "ml.g5.xlarge", "seconds": 90.0, "cost_usd": 0.03, "reused": False}
            for key in keys:
                made = dg.AssetMaterialization(dg.AssetKey([NAME, "extracted_frames"]), partition=key, metadata=spent)
                instance.report_runless_asset_event(made)
            made = dg.AssetMaterialization(
                dg.AssetKey([NAME, "trained_weights"]), metadata={**spent, "seconds": 5400.0, "cost_usd": 2.11}
            )
            instance.report_runless_asset_event(made)

    def version(self, number: int) -> str:
        """A dataset, an evaluation and a registered version; the third failed a gate, and somebody answers for it."""
        dataset, evaluation = f"ds-{number:012x}", f"evaluation-{number}"
        counts = {
            "version": dataset,
            "images": 200 + 90 * number,
            "boxes": 900 + 300 * number,
            "videos": 8 + 3 * number,
        }
        self.publish(layout.dataset(dataset), {"dataset.json": json.dumps(counts).encode()}, {"optimistic": False})
        rows = []
        for at, name in enumerate(["all", *CLASSES]):
            score = float(np.clip(0.55 + 0.05 * np.log1p(number) * (at + 1) / 2 + self.rng.normal(0, 0.02), 0, 1))
            kind = "all" if name == "all" else "class"
            rows.append({
                "model": "challenger", "slice_kind": kind, "slice": name, "class": "" if kind == "all" else name,
                "ap50": score, "low": score - 0.06, "high": min(1.0, score + 0.05),
            })  # fmt: skip
        why = "AP50 of water fell by 0.08, more than 0.02" if number == 3 else "AP50 is high enough"
        gates = [{"gate": "non_inferiority", "passed": number != 3, "why": why}]
        figures = pd.DataFrame(rows).to_parquet()
        files = {"metrics.parquet": figures, "summary.json": orjson.dumps({"gates": gates})}
        self.publish(layout.evaluation(evaluation), files, {})
        if number == 3:
            told = {"weights_version": "w3", "by": "Ada Byron", "reason": EVIL, "at": "2026-03-01", "failed": [why]}
            self.storage.put(layout.override("w3"), orjson.dumps(told))
        tags = {
            **{"dataset_version": dataset, "evaluation_version": evaluation, "weights_version": f"w{number}"},
            **{"approval": APPROVED, "approved_by": "Ada Byron" if number % 3 == 0 else "gates"},
            **{"approved_at": "2026-03-02T10:11:12+00:00", "approval_reason": "every gate passed"},
        }
        registry = self.project.resources["registry"]
        return registry.register(f"weights/w{number}/best.onnx", "file:///w.onnx", f"{number:064x}", tags, "").version

    def served(self, versions: list[str]) -> None:
        """Each version by a canary of a quarter; of the last two the one was rolled back."""
        number, old = 0, None
        for at, version in enumerate(versions):
            blue, green = ("blue", "green") if at % 2 else ("green", "blue")
            ways = [({blue: Held(version, 100)}, "the first")] if old is None else [
                ({green: Held(old, 75), blue: Held(version, 25)}, "canary"),
                ({green: Held(old, 0), blue: Held(version, 100)}, "promoted: as good as before"),
            ]  # fmt: skip
            if at == len(versions) - 2 and old is not None:
                ways[1] = ({green: Held(old, 100)}, f"rolled back: {EVIL}")
            for step, (slots, why) in enumerate(ways):
                number += 1
                entry = Entry(number, self.start + at * 86400 + step * 600, slots, why=why, who="gates", run="r")
                self.storage.put(layout.rollout_entry(number), orjson.dumps(entry.dump()))
            old = old if at == len(versions) - 2 and old is not None else version

    def drifted(self, day: str, version: str, at: int) -> None:
        """A report of a day; towards the end the light fails."""
        rows = []
        for feature in ("brightness", "contrast", "sharpness", "class_mix", "boxes", "confidence"):
            bad = at > 8 and feature in ("brightness", "confidence")
            verdict = "drift" if bad else "watch" if at > 5 and feature == "contrast" else "stable"
            rows.append({
                **dict.fromkeys(schemas.SCHEMAS["drift_report"]),
                **{"day": day, "version": version, "feature": feature, "verdict": verdict, "why": "PSI 0.61 > 0.2"},
                **{"reference_n": 100, "production_n": 80},
            })  # fmt: skip
        tables.write(self.storage, "drift_report", day, pd.DataFrame(rows), "r")

    def asked(self) -> None:
        """A batch in a tool whose address is none, and one that is all in."""
        for name, digests in (("lb-000000000001", {}), ("lb-000000000002", {"a.jpg": "1"})):
            frames = pd.DataFrame({"name": ["a.jpg"], "frame": ["v#1"], "key": ["frames/a.jpg"]})
            label_batches.publish(self.storage, Batch(name, frames, pd.DataFrame({"name": []}), "1", ("apple",)), {})
            handed = {"tool": "label_studio", "link": "javascript:alert(1)", "pictures": 1, "at": time.time()}
            label_batches.note(self.storage, name, label_batches.HANDED, handed)
            label_batches.note(self.storage, name, label_batches.COLLECTED, {"digests": digests, "at": time.time()})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_mlflow: Path) -> Path:
    made = make_home(tmp_path / "home", monkeypatch.setenv)
    give_mlflow(made, empty_mlflow)
    return made


def report(*options: str) -> Path:
    done = CliRunner().invoke(cli.app, ["report", NAME, *options])
    assert done.exit_code == 0, done.output + repr(done.exception)
    return Path(done.output.strip())


def test_a_detector_that_has_done_nothing_yet_has_a_report(home: Path) -> None:
    write_detector(home, NAME)
    page = report().read_text()
    for said in (
        *(
            "Nothing serves.",
            "Nothing has served yet",
            "No registered version has figures yet",
            "No day is reported on",
        ),
        *("No version is registered yet", "0 videos, and no dataset is made", "Nobody is asked", "No step was run."),
    ):
        assert said in page, said


def test_the_report_tells_a_life_and_a_phone_shows_it_offline(home: Path, browser: Any, tmp_path: Path) -> None:
    World(home, versions=5, days=12, videos=20)
    out = tmp_path / "r.html"
    assert report("--out", str(out), "--ui", "https://dagster.example.org/") == out
    page = out.read_text()
    assert EVIL not in page
    assert 'href="javascript' not in page
    assert "Serving: version 5 at 100 %" in page
    assert re.search(r"On 2026-03-12 .*brightness.* drifted\.", page)
    assert "overridden by Ada Byron: &lt;img" in page
    assert "lb-000000000001" in page
    assert "lb-000000000002" not in page
    assert "ml.g5.xlarge" in page
    assert 'href="https://dagster.example.org/assets/tiny/deployed_endpoint"' in page
    for scheme in ("light", "dark"):
        context = browser.new_context(
            viewport={"width": 390, "height": 844}, java_script_enabled=True, offline=True, color_scheme=scheme
        )
        shown = context.new_page()
        asked: list[str] = []
        shown.on("request", lambda request, asked=asked: asked.append(request.url))
        shown.goto(out.as_uri())
        assert asked == [out.as_uri()], "nothing else is loaded"
        wide = shown.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390, f"{scheme}: {wide} pixels wide: a phone has to scroll sideways"
        assert shown.locator("svg").count() == 1 + 5 + 3 + 1
        small = shown.evaluate(
            "[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height).filter(h => h < 8)"
        )
        assert small == [], "too small to be read"
        context.close()


def test_what_is_damaged_is_told_and_all_else_is_there(home: Path) -> None:
    world = World(home, versions=3, days=1, videos=1)
    judged, data = (
        world.storage.published(prefix)
        for prefix in (layout.evaluation("evaluation-2"), layout.dataset(f"ds-{2:012x}"))
    )
    world.storage.put(judged.key("metrics.parquet"), b"PAR1")
    world.storage.remove([data.key("dataset.json")])
    page = report().read_text()
    assert "evaluations/evaluation-2 cannot be read" in page
    assert "2 versions, oldest left" in page
    assert all(f"version {number}" in page for number in (1, 2, 3))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ui", "javascript:x"], "begins with http"),
        (["--out", "/"], "folder"),
        (["--out", "/proc/r.html"], "written"),
    ],
)
def test_what_cannot_be_is_said(home: Path, options: list[str], said: str) -> None:
    write_detector(home, NAME)
    done = CliRunner().invoke(cli.app, ["report", NAME, *options])
    assert isinstance(done.exception, Told)
    assert said in str(done.exception)


@pytest.mark.long
def test_ten_thousand_videos_and_fifty_versions_make_a_small_page_in_seconds(home: Path) -> None:
    World(home, versions=50, days=60, videos=10_000)
    report()
    begun = time.monotonic()
    page = report()
    assert time.monotonic() - begun < 5
    assert page.stat().st_size < 2_000_000

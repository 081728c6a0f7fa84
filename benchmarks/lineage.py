"""Whether the twelve questions stay under a second and a gigabyte with 10,000 videos, a million boxes and 50 versions.

A generator writes what real runs would have written: tables, published datasets, a registry in MLflow's sqlite, the
log of the endpoint, and Dagster's event log. Videos come in steps, 50 in all, and each step ends with a dataset and a
registered version, as in a detector's life. Events are stored by Dagster's own statements, in one transaction a step,
without the runs around them. Pictures are not made, and of the tables by video only every hundredth, for no question
that is asked reads another's: `dropped` over all videos reads each one's table, and takes what that takes.

The detector is opened once, as a notebook or a report does; what is measured is the question alone, the median of five,
in a process of its own. Both sizes are asked in turns, and the better of two rounds counts: what else the machine does
only adds to it, and minutes later it may be twice as slow. Starting Python, importing pandas, MLflow and Dagster, and
loading the detector take seconds and are excluded.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.growth import _in_process

KNOWN = (1_000, 10_000)
BOXES_A_VIDEO = 100
FRAMES_A_VIDEO = 20
VERSIONS = 50
CALM = "stale, nothing changed"
FIRST = "stale, nothing changed, asked first"
"""Without what is noted where nothing is stale: as after a run, until somebody has asked."""
LOOKS = (CALM, FIRST)
"""A question whose answer is short and about all there are: no video is stale, which takes a look at each."""
ROUNDS = 2
NOISE = 1.25
"""What two measurements of the same question may differ by."""
LIMIT_S = 1.0
LIMIT_BYTES = 1 << 30
CLASSES = ("apple", "banana", "cola", "water")
NAME = "grown"


def main() -> list[dict[str, object]]:
    """Asks at each size, in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        rounds = [
            {
                known: _in_process("ask", str(known), module="benchmarks.lineage", where=f"{scratch}/{known}")
                for known in KNOWN
            }
            for _ in range(ROUNDS)
        ]
    small, large = (_best([one[known] for one in rounds]) for known in KNOWN)
    rows: list[dict[str, object]] = [
        {"name": f"{what}, {large[f'rows {what}']:,.0f} rows, s", "ours": large[what], "anchor": LIMIT_S, "limit": 1.0}
        for what in large
        if not what.startswith(("rows ", "peak", "made"))
    ]
    for what in [key for key in large if key.startswith("rows ")]:
        name = what.removeprefix("rows ")
        grown = max(large[what], 1.0) / max(small[what], 1.0)
        # Under a tenth of a second it is other things that take the time: a connection, a query, a thread.
        ratio = max(large[name], 0.1) / max(small[name], 0.1)
        about = KNOWN[1] / KNOWN[0] if name in LOOKS else grown
        what = "what it is about" if name in LOOKS else "its answer"
        told = {"name": f"{name}: time grows ({what} {about:.1f} times)", "ours": ratio, "anchor": about}
        rows.append({**told, "limit": NOISE})
    rows.append({"name": "memory, bytes", "ours": large["peak_bytes"], "anchor": LIMIT_BYTES, "limit": 1.0})
    return rows


def _best(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The least time of each question, and the most memory."""
    return {what: (max if what.startswith("peak") else min)(one[what] for one in rounds) for what in rounds[0]}


def ask(known: int) -> dict[str, float]:
    """Makes a detector of so many videos and asks it everything."""
    from unittest.mock import patch

    from detection_assets import lineage
    from resources import event_notes
    from resources.home import home

    began = time.perf_counter()
    if not (home() / "made").exists():
        _in_process("generate", str(known), module="benchmarks.lineage", where=str(home()))
    found: dict[str, float] = {"made_s": time.perf_counter() - began}
    video, frame = "store-000/000000.mp4", "store-000/000000.mp4#000000"
    with lineage.of(NAME) as of:
        _ = of.instance, of.project.definitions  # opened here, and not in the first question
        questions: dict[str, Callable[[], Any]] = {
            "serving": of.serving,
            "taught": of.taught,
            "frames": of.frames,
            "saw": lambda: of.saw(video),
            "served_at": lambda: of.served_at("2026-01-20"),
            "judged_on": of.judged_on,
            "why": lambda: of.why("50", "49"),
            CALM: of.stale,
            "would_run": lambda: of.would_run(setting="sampling"),
            "alike": lambda: of.alike(frame=frame),
            "dropped, one video": lambda: of.dropped(video),
            "cost": lambda: of.cost("50"),
            "overridden": of.overridden,
        }
        for name, question in questions.items():
            found |= _timed(name, question)
        with patch.object(event_notes.Log, "recall", lambda *_: None):
            found |= _timed(FIRST, of.stale)
    file = home() / "detectors" / f"{NAME}.yaml"
    before = file.read_text()
    try:
        file.write_text(before + "sampling: {rate: 7}\n")
        with lineage.of(NAME) as of:
            _ = of.instance, of.project.definitions
            found |= _timed("stale, a setting changed", of.stale)
    finally:
        file.write_text(before)
    found["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found


def _timed(name: str, question: Callable[[], Any]) -> dict[str, float]:
    answer = question()  # what it imports is loaded
    gc.collect()
    times = []
    for _ in range(5):
        started = time.perf_counter()
        answer = question()
        times.append(time.perf_counter() - started)
    print(name, round(median(times), 3), len(answer), file=sys.stderr)
    return {name: median(times), f"rows {name}": len(answer)}


def generate(known: int) -> dict[str, float]:
    """Writes the detector's life."""
    import dagster as dg
    import numpy as np
    import pandas as pd

    from detection_assets.commands.context import Project
    from detection_assets.domain import layout, schemas, snapshot
    from detection_assets.domain.history import Entry, Held
    from jobs import jobs
    from resources import event_notes, overrides, tables
    from resources.deployments import Deployments
    from resources.home import home
    from resources.instance import open_instance

    (home() / "detectors").mkdir(parents=True)
    text = f"name: {NAME}\nclasses: [{', '.join(CLASSES)}]\n"
    (home() / "detectors" / f"{NAME}.yaml").write_text(text)
    project = Project.of(NAME)
    storage, registry = project.storage, project.resources["registry"]
    rng = np.random.default_rng(0)
    videos = [f"store-{number % 50:03}/{number:06}.mp4" for number in range(known)]
    every = _frames(videos, rng)
    boxes = _boxes(every, rng)
    log = Deployments(storage)
    with open_instance() as instance:
        instance.add_dynamic_partitions(f"{NAME}_videos", videos)
        events = _Events(instance, project)
        for number in range(VERSIONS):
            fresh = videos[known * number // VERSIONS : known * (number + 1) // VERSIONS]
            _take_in(storage, events, fresh, every, boxes)
            until = known * (number + 1) // VERSIONS * FRAMES_A_VIDEO
            images = every.iloc[:until]
            version = f"ds-{number:012x}"
            drawn = boxes.iloc[: len(images) * BOXES_A_VIDEO // FRAMES_A_VIDEO]
            _publish(storage, version, images, drawn)
            labels = snapshot.labels(images["frame"].tolist(), drawn)
            table = images.assign(dataset_version=version, key="frames/" + images["file"], labels=labels)
            table = table.assign(boxes=BOXES_A_VIDEO // FRAMES_A_VIDEO)
            table = table.assign(annotations=[_digest(video)[:16] for video in table["video"]])
            pointer = tables.write(storage, "detection_dataset", None, table.drop(columns=["file", "phash"]), "run")
            events.add("detection_dataset", None, version)
            for stage in jobs.INGEST:  # as the asset does
                event_notes.latest(instance, dg.AssetKey([NAME, stage]))
            _judge(storage, number, version, pointer["table"])
            weights: dict[str, Any] = dict.fromkeys(schemas.SCHEMAS["trained_weights"])
            weights |= {"weights_version": f"w{number}", "sha256": f"{number:064x}", "dataset_version": version}
            weights |= {"pt": f"{layout.weights(f'w{number}')}/best.pt", "base_weights": "yolo11n.yaml"}
            settings = json.dumps({"settings": {"lr0": 0.01 + number / 1000, "epochs": 50}}).encode()
            storage.put(f"{layout.weights(f'w{number}')}/training.json", settings)
            tables.write(storage, "trained_weights", None, pd.DataFrame([weights]), "run")
            spent = {"seconds": 600.0, "cost_usd": 0.5, "instance": "gpu", "reused": False}
            events.add("trained_weights", None, f"{number:016x}", spent)
            events.add("evaluation", None, f"e{number}", spent)
            tags = {"weights_version": f"w{number}", "dataset_version": version, "evaluation_version": f"e{number}"}
            tags |= {"approval": "approved", "approved_by": "ada", "approved_at": "2026-01-01T00:00:00+00:00"}
            made = registry.register("best.onnx", "file:///best.onnx", f"{number:064x}", tags, "")
            events.add("registered_model", None, made.version, {"version": made.version})
            for step in range(6):
                held = {("blue", "green")[number % 2]: Held(made.version, min(100, 20 * step + 20), f"{number:064x}")}
                at = 1_768_000_000.0 + (number * 6 + step) * 3600
                log._append(Entry(number * 6 + step + 1, at, held, why="canary", who="ada"))
            if number % 10 == 0:
                overrides.write(storage, f"w{number}", "ada", "it was needed", ["AP50 0.4 is below 0.5"])
        row: dict[str, Any] = dict.fromkeys(schemas.SCHEMAS["batch_predictions"])
        row |= {"video": videos[0], "frame": every["frame"].iloc[0], "class": "apple", "confidence": 0.7}
        tables.write(storage, "batch_predictions", videos[0], pd.DataFrame([{**row, "model_version": "50"}]), "run")
    (home() / "made").touch()
    return {}


class _Events:
    """Dagster's event log, as runs would have written it."""

    def __init__(self, instance: Any, project: Any) -> None:
        from jobs import update

        self.instance, self.assets = instance, update.assets_of(project.definitions, NAME)
        self.last: dict[tuple[str, str | None], tuple[str, int]] = {}
        self.waiting: list[Any] = []
        self.stored = 0
        self.runs = 0

    def add(self, stage: str, video: str | None, version: str, metadata: dict[str, Any] | None = None) -> None:
        """Stores a materialization with the provenance that Dagster, or `versions`, gives it."""
        import dagster as dg
        from dagster import DagsterEvent, DagsterEventType
        from dagster._core.events import StepMaterializationData
        from dagster._core.events.log import EventLogEntry

        from jobs import jobs
        from resources import versions

        asset = self.assets[stage]
        tags = {versions.DATA: version, versions.CODE: asset.code_versions_by_key[asset.key] or ""}
        ingested = set(jobs.keys(NAME, jobs.INGEST))
        deps = asset.asset_deps[asset.key]
        if video is None and deps & ingested:
            self.store()
            known = self.instance.get_dynamic_partitions(f"{NAME}_videos")
            tags[versions.INPUTS] = versions.inputs_digest(self.instance, deps & ingested, known)
        for dep in deps:
            found = self.last.get((dep.path[-1], video))
            if found is not None:
                of = versions._as_input(found[0]) if video is not None else found[0]
                tags[versions.INPUT + dep.to_user_string()] = of
                tags[versions.POINTER + dep.to_user_string()] = str(found[1])
        made = dg.AssetMaterialization(asset.key, partition=video, tags=tags, metadata=metadata or {})
        event = DagsterEvent(
            event_type_value=DagsterEventType.ASSET_MATERIALIZATION.value,
            event_specific_data=StepMaterializationData(made),
            job_name=NAME,
        )
        self.waiting.append(EventLogEntry(None, "info", "", f"run-{self.runs}", time.time(), dagster_event=event))
        self.stored += 1
        self.last[stage, video] = (version, self.stored)
        if video is None:
            self.runs += 1  # what comes by video is one run over many, what does not is one of its own
            self.store()

    def store(self) -> None:
        """Stores what waits, by Dagster's own statements, in one transaction."""
        storage = self.instance.event_log_storage
        newest = {entry.dagster_event.asset_key: entry for entry in self.waiting}
        with storage.index_transaction() as conn:
            for entry in self.waiting:
                number = conn.execute(storage.prepare_insert_event(entry)).inserted_primary_key[0]
                storage._store_asset_event_tags(conn, [entry], [number])
                if newest[entry.dagster_event.asset_key] is entry:
                    storage._store_asset_event(conn, entry, number)
        self.waiting.clear()


def _digest(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


def _frames(videos: list[str], rng: Any) -> Any:
    """The frames of all videos, as a snapshot has them; `phash` at random."""
    import numpy as np
    import pandas as pd

    count = len(videos) * FRAMES_A_VIDEO
    video = np.repeat(np.array(videos, dtype=object), FRAMES_A_VIDEO)
    index = np.tile(np.arange(FRAMES_A_VIDEO), len(videos))
    frame = [f"{one}#{at:06}" for one, at in zip(video, index, strict=True)]
    split = np.array(["train"] * 7 + ["val"] + ["test"] * 2, dtype=object)
    numbers = [int(one[-10:-4]) for one in video]
    return pd.DataFrame({
        "frame": frame, "video": video, "group": [one[:9] for one in video], "split": split[np.array(numbers) % 10],
        "file": [f"{one}/v1/x/{at:06}.jpg" for one, at in zip(video, index, strict=True)],
        "width": 640, "height": 480, "sha256": [_digest(one) for one in frame],
        "phash": [f"{value:016x}" for value in rng.integers(2**63, size=count)],
    })  # fmt: skip


def _boxes(frames: Any, rng: Any) -> Any:
    import numpy as np
    import pandas as pd

    each = BOXES_A_VIDEO // FRAMES_A_VIDEO
    corners = rng.uniform(0, 400, (len(frames) * each, 2)).round(2)
    return pd.DataFrame({
        "frame": np.repeat(frames["frame"].to_numpy(object), each),
        "class": np.array(CLASSES, dtype=object)[rng.integers(4, size=len(corners))],
        "x1": corners[:, 0], "y1": corners[:, 1], "x2": corners[:, 0] + 50, "y2": corners[:, 1] + 50, "track": None,
    })  # fmt: skip


def _take_in(storage: Any, events: _Events, videos: list[str], frames: Any, boxes: Any) -> None:
    """The lake's files and tables of some videos, and what made them."""
    import pandas as pd

    from detection_assets.domain import inbox, layout, schemas
    from resources import lake, tables

    wanted = set(videos)
    mine = frames[frames["video"].isin(wanted)]
    of_boxes = boxes[boxes["frame"].isin(set(mine["frame"]))]
    of_boxes = of_boxes.assign(video=of_boxes["frame"].str.rpartition("#")[0])
    parts = dict(iter(of_boxes.groupby("video")))
    columns = list(schemas.SCHEMAS["extracted_frames"])
    for video, rows in mine.groupby("video"):
        storage.put(f"videos/{video}", b"x")
        storage.put(f"annotations/{video[:-4]}.json", b"{}")
        for stage in ("raw_videos", "extracted_frames", "annotations"):
            spent = {"seconds": 3.0, "cost_usd": 0.0, "instance": "here"} if stage == "extracted_frames" else None
            events.add(stage, str(video), _digest(str(video))[:16], spent)
        if not video.endswith("00.mp4"):
            continue
        table = rows.assign(index=range(len(rows)), pts_s=0.5, key="frames/" + rows["file"], sharpness=9.0)
        table = table.assign(brightness=99.0, kept=True, reason="")[columns]
        dropped = table.iloc[:2].assign(frame=table["frame"].iloc[:2] + "d", kept=False, reason="near-duplicate")
        tables.write(storage, "extracted_frames", video, pd.concat([table, dropped]), "run")
        drawn = parts[video].assign(source="x.json", annotator="ada", reviewed=True)
        tables.write(storage, "annotations", video, drawn, "run")
    for what in ("videos", "annotations"):
        found = {source.video: source.fingerprint for source in lake.list_sources(storage)[0] if source.video in wanted}
        if what == "annotations":
            files = lake.annotation_files(storage, videos, frames["video"].unique().tolist())
            found = {video: inbox.fingerprint(files[video]) for video in videos}
        for video, fingerprint in found.items():
            storage.put(layout.known_as(what, video, fingerprint), b"")


def _publish(storage: Any, version: str, images: Any, boxes: Any) -> None:
    """A dataset as `snapshot.write` writes it, without the hash of a million boxes fifty times over."""
    import tempfile

    from detection_assets.domain import layout, snapshot

    counts = {str(name): int(count) for name, count in boxes["class"].value_counts().items()}
    with tempfile.TemporaryDirectory() as scratch:
        meta = {"version": version, "classes": list(CLASSES), "counts": {"all": {"boxes": counts}}}
        meta |= {"images": len(images), "boxes": len(boxes), "videos": int(images["video"].nunique())}
        snapshot.write(images, boxes, meta, Path(scratch) / "d")
        storage.publish(Path(scratch) / "d", layout.dataset(version), {})


def _judge(storage: Any, number: int, dataset: str, table: str) -> None:
    import pandas as pd

    from detection_assets.domain import schemas
    from resources import tables

    rows = []
    for kind, name in [("all", "all"), *(("class", one) for one in CLASSES)]:
        row: dict[str, Any] = dict.fromkeys(schemas.SCHEMAS["evaluation"])
        row |= {"evaluation_version": f"e{number}", "dataset_version": dataset, "model": "challenger"}
        row |= {"sha256": f"{number:064x}", "slice_kind": kind, "slice": name, "class": "", "ap50": 0.5 + number / 200}
        rows.append({**row, "dataset_table": table})
    tables.write(storage, "evaluation", None, pd.DataFrame(rows), "run")


if __name__ == "__main__":
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    print(json.dumps({"ask": ask, "generate": generate}[sys.argv[1]](int(sys.argv[2]))))

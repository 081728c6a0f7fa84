"""Whether what a tick and a new video cost grows with what is known, and whether a million boxes fit into memory."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from unittest.mock import patch

ROOT = Path(__file__).parents[1]
KNOWN = (100, 1_000, 10_000)
BOXES = 1_000_000
LIMIT_BYTES = 2 << 30


def main() -> list[dict[str, object]]:
    """Measures each size in a process of its own, then the million boxes."""
    found = [_in_process("grow", str(known)) for known in KNOWN]
    least = {what: min(row[what] for row in found) for what in found[0]} | {"look_in_listings": 1.0}
    rows: list[dict[str, object]] = []
    for what, limit in (("tick_s", None), ("tick_beyond_look_s", 1.5), ("look_in_listings", 1.5), ("ingest_s", 1.5)):
        for known, row in zip(KNOWN, found, strict=True):
            rows.append(
                {"name": f"{what}, {known:,} videos known", "ours": row[what], "anchor": least[what], "limit": limit}
            )
    boxes = _in_process("boxes", str(BOXES))
    rows.append(
        {
            "name": f"{BOXES:,} boxes, files to snapshot, bytes of memory ({boxes['seconds']:.0f} s)",
            "ours": boxes["peak_bytes"],
            "anchor": LIMIT_BYTES,
            "limit": 1.0,
        }
    )
    return rows


def _in_process(*words: str, module: str = "benchmarks.growth", where: str | None = None) -> dict[str, float]:
    with tempfile.TemporaryDirectory() if where is None else contextlib.nullcontext(where) as scratch:
        env = {
            **os.environ,
            "DETECTION_HOME": scratch,
            "DETECTION_DETECTORS": f"{scratch}/detectors",
            "DAGSTER_HOME": f"{scratch}/.dagster",
        }
        command = [sys.executable, "-W", "ignore", "-m", module, *words]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[-3000:])
        return json.loads(done.stdout.splitlines()[-1])


def _project(home: Path) -> None:
    (home / "detectors").mkdir(parents=True)
    (home / "detectors" / "grown.yaml").write_text("name: grown\nclasses: [apple, banana]\nsampling: {rate: 1}\n")


def grow(known: int) -> dict[str, float]:
    """A tick that finds nothing new, and the ingest of one new video, beside so many known ones."""
    import dagster as dg
    import numpy as np
    from dagster import DagsterEvent, DagsterEventType
    from dagster._core.events import StepMaterializationData
    from dagster._core.events.log import EventLogEntry

    from detection_assets import definitions, detector_file
    from jobs import jobs, update
    from resources import lake, versions
    from resources.home import home
    from resources.instance import open_instance
    from resources.profiles import resources_for
    from resources.storage import Storage

    _project(home())
    defs = definitions.build(detector_file.find("grown"))
    clip = _clip(home() / "clip.mp4").read_bytes()
    with open_instance() as instance, dg.build_resources(resources_for("grown", "local", host="", port=0)) as opened:
        storage = opened.storage
        for number in range(known):
            storage.put(f"videos/store-{number % 50:02}/{number:06}.mp4", b"x")
        sources = lake.list_sources(storage)[0]
        for what in ("videos", "annotations"):
            for source in sources:
                storage.put(f"known/{what}/{source.video.replace('/', '%2F')}/{source.fingerprint}", b"")
        instance.add_dynamic_partitions("grown_videos", [source.video for source in sources])
        # One event a video: each is a commit of its own, and the later stages' would triple minutes of preparation.
        key = dg.AssetKey(["grown", "raw_videos"])
        for source in sources:
            made = dg.AssetMaterialization(key, partition=source.video, tags={versions.DATA: "v", versions.CODE: "c"})
            event = DagsterEvent(
                event_type_value=DagsterEventType.ASSET_MATERIALIZATION.value,
                event_specific_data=StepMaterializationData(made),
                job_name="grown",
            )
            instance.event_log_storage.store_event(
                EventLogEntry(None, "info", "", "bench", time.time(), dagster_event=event)
            )
        sensor = defs.resolve_sensor_def("grown_new_videos")
        cursor: str | None = None
        ticks, listings, looks = [], [], []
        glance = type(storage).glance
        cold = np.zeros(16 << 20)

        def timed(storage: Storage, prefix: str) -> str:
            started = time.perf_counter()
            found = glance(storage, prefix)
            looks.append(time.perf_counter() - started)
            return found

        for _ in range(32):
            started = time.perf_counter()
            list(storage.list("videos"))
            listings.append(time.perf_counter() - started)
            cold += 1  # a tick comes every half minute: it never finds what it needs in the processor's caches
            with patch.object(type(storage), "glance", timed):
                started = time.perf_counter()
                given = {"storage": storage, "arrivals": opened.arrivals}
                context = dg.build_sensor_context(instance, cursor=cursor, resources=given, definitions=defs)
                cursor = sensor.evaluate_tick(context).cursor
                ticks.append(time.perf_counter() - started)
        ingests = []
        for number in range(3):
            video = f"new/{number}.mp4"
            storage.put(f"videos/{video}", clip + b"\0" * number)
            instance.add_dynamic_partitions("grown_videos", [video])
            planned = update.Planned("grown_ingest", jobs.INGEST, video, video, 1, "new")
            started = time.perf_counter()
            good, _run = update.execute(instance, defs, "grown", planned)
            ingests.append(time.perf_counter() - started)
            assert good
    # The first two take the videos in; after them nothing is new. Tick by tick, for a median of differences: listings
    # differ more from one another than the rest of a tick takes.
    quiet = list(zip(ticks, looks, listings, strict=True))[2:]
    return {
        "tick_s": median(tick for tick, _, _ in quiet),
        "tick_beyond_look_s": median(tick - look for tick, look, _ in quiet),
        "look_in_listings": median(look for _, look, _ in quiet) / median(listing for _, _, listing in quiet),
        "ingest_s": median(ingests),
    }


def _clip(path: Path) -> Path:
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        rng = np.random.default_rng(0)
        for _ in range(30):
            picture = rng.integers(0, 255, (240, 320, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return path


def boxes(count: int) -> dict[str, float]:
    """COCO files with so many boxes, read, matched, put together, split and written as a snapshot."""
    import numpy as np
    import orjson
    import pandas as pd

    from detection_assets.domain import formats, matching, snapshot, splitting

    videos, each = 100, 200
    home = Path(os.environ["DETECTION_HOME"])
    rng = np.random.default_rng(0)
    frames = []
    for video in range(videos):
        per = count // videos
        name = f"s{video % 10}/{video:03}.mp4"
        corners = rng.uniform(0, 400, (per, 2)).round(1)
        sizes = rng.uniform(5, 80, (per, 2)).round(1)
        made = {
            "images": [{"id": i, "file_name": f"{i:06}.jpg", "width": 640, "height": 480} for i in range(each)],
            "categories": [{"id": 0, "name": "apple"}, {"id": 1, "name": "banana"}],
            "annotations": [
                {"id": i, "image_id": i % each, "category_id": i % 2, "bbox": [*map(float, corner), *map(float, size)]}
                for i, (corner, size) in enumerate(zip(corners, sizes, strict=True))
            ],
        }
        (home / f"{video:03}.json").write_bytes(orjson.dumps(made))
        index = np.arange(each)
        frames.append(
            pd.DataFrame(
                {
                    "video": name,
                    "frame": [f"{name}#{i:06}" for i in index],
                    "index": index,
                    "pts_s": index / 2.0,
                    "file": [f"{i:06}.jpg" for i in index],
                    "key": [f"frames/{name}/{i:06}.jpg" for i in index],
                    "width": 640,
                    "height": 480,
                    "sha256": [f"{video:032x}{i:032x}" for i in index],
                    "phash": [f"{rng.integers(1 << 62):016x}" for _ in index],
                    "kept": True,
                    "group": f"s{video % 10}",
                }
            )
        )
    started = time.perf_counter()
    tables = []
    for video, of_video in enumerate(frames):
        parsed = formats.load([home / f"{video:03}.json"], home, None)
        tables.append(matching.match(parsed, of_video, of_video["video"].iloc[0], ["apple", "banana"], each).boxes)
    data = snapshot.labelled(
        pd.concat(frames, ignore_index=True).drop(columns="file"),
        pd.concat(tables, ignore_index=True),
        ["apple", "banana"],
    )
    shares = {"train": 0.7, "val": 0.15, "test": 0.15}
    split = splitting.split(data.images, data.boxes, shares, 0, None, 4)
    made_snapshot = snapshot.build(data, split, ["apple", "banana"], shares)
    snapshot.write(made_snapshot.images, made_snapshot.boxes, made_snapshot.meta, home / "snapshot")
    assert len(made_snapshot.boxes) > 0.99 * count
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": time.perf_counter() - started, "peak_bytes": float(peak)}


if __name__ == "__main__":
    print(json.dumps({"grow": grow, "boxes": boxes}[sys.argv[1]](int(sys.argv[2]))))

"""A detector with two clips whose frames are extracted, and annotations that come and change: nothing is trained."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
from networks import network
from PIL import Image

from detection_assets import definitions, detector_file
from detection_assets.domain import layout, schemas
from jobs import update
from resources import tables
from resources.instance import open_instance
from resources.storage import Storage

NAME = "tiny"
VIDEOS = ("store-1/clip.mp4", "store-2/clip.mp4")
FRAMES = 6


def box(frame: int, x: float, label: str = "apple", who: str | None = "ada", **other: Any) -> dict[str, Any]:
    return {"frame": frame, "x": x, "label": label, "who": who, "width": 20.0, **other}


class Annotated:
    """The detector `tiny` in a home folder."""

    def __init__(self, home: Path, **sections: Any) -> None:
        self.home = home
        self.storage = Storage(root=str(home / "lake"), prefix=NAME)
        self.write(**sections)
        rng = np.random.default_rng(0)
        for video in VIDEOS:
            rows, raw = [], io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (72, 96, 3), np.uint8)).save(raw, "JPEG")
            for index in range(FRAMES):
                key = f"{layout.frames(video, 'v1')}/x/{index:06d}.jpg"
                self.storage.put(key, raw.getvalue())
                frame = f"{video}#{index:06d}"
                digest = f"{video}{index}".encode().hex()
                row = [video, frame, index, 0.5 * index, key, 96, 72, digest, f"{rng.integers(2**63):016x}"]
                rows.append([*row, 10.0, 100.0, True, ""])
            columns = list(schemas.SCHEMAS["extracted_frames"])
            tables.write(self.storage, "extracted_frames", video, pd.DataFrame(rows, columns=columns), "run")
            raw_video: dict[str, Any] = dict.fromkeys(schemas.SCHEMAS["raw_videos"])
            raw_video |= {"video": video, "group": video.split("/")[0], "kind": "video", "frames_decodable": FRAMES}
            tables.write(self.storage, "raw_videos", video, pd.DataFrame([raw_video]), "run")
        with open_instance() as instance:
            instance.add_dynamic_partitions(f"{NAME}_videos", list(VIDEOS))

    def write(self, **sections: Any) -> None:
        """Writes the detector's file."""
        dataset = {"min_images": 1, "near_duplicate": 0, "split": {"train": 0.5, "val": 0.25, "test": 0.25}}
        file = {"name": NAME, "classes": ["apple", "banana"], "dataset": dataset, **sections}
        file |= {"gates": {"map50": 0.0, "latency_ms": 10_000}, "evaluation": {"bootstrap": 0}}
        (self.home / "detectors" / f"{NAME}.yaml").write_text(json.dumps(file))

    def annotate(
        self, video: str, boxes: Sequence[dict[str, Any]], name: str = "boxes", empty: Sequence[int] = ()
    ) -> None:
        """Hands over a COCO file for a video."""
        numbers = sorted({*(one["frame"] for one in boxes), *empty})
        file = {
            "images": [{"id": n + 1, "file_name": f"{n:06d}.jpg", "width": 96, "height": 72} for n in numbers],
            "categories": [{"id": 1, "name": "apple"}, {"id": 2, "name": "banana"}, {"id": 3, "name": "kiwi"}],
            "annotations": [
                {
                    "id": at + 1,
                    "image_id": one["frame"] + 1,
                    "category_id": 1 + ["apple", "banana", "kiwi"].index(one["label"]),
                    "bbox": [one["x"], 10.0, one["width"], 20.0],
                    "attributes": {} if one["who"] is None else {"annotator": one["who"]},
                }
                for at, one in enumerate(boxes)
            ],
        }
        self.storage.put(f"annotations/{Path(video).with_suffix('').as_posix()}/{name}.json", json.dumps(file).encode())

    def run(self, *stages: str) -> str:
        """Materializes stages, the partitioned ones for all videos; gives the run."""
        defs = definitions.build(detector_file.find(NAME))
        with open_instance() as instance:
            if stages == ("annotations",):
                planned = update.Planned(f"{NAME}_ingest", stages, VIDEOS[0], VIDEOS[-1], len(VIDEOS), "")
            else:
                planned = update.Planned(f"{NAME}_retrain", stages, None, None, 0, "")
            good, run_id = update.execute(instance, defs, NAME, planned)
            assert good
            return run_id

    def train(self, folder: Path) -> None:
        """Publishes a network that was never trained, for an evaluation to judge."""
        made = network(folder / "network", names=["apple", "banana"])
        published = self.storage.publish(made, layout.weights("w1"), {})
        onnx = published.key("best.onnx")
        row: dict[str, Any] = dict.fromkeys(schemas.SCHEMAS["trained_weights"])
        row |= {"weights_version": "w1", "sha256": hashlib.sha256(self.storage.get(onnx)).hexdigest(), "onnx": onnx}
        row |= {"onnx_f32": onnx, "classes": '["apple", "banana"]', "imgsz": 96}
        tables.write(self.storage, "trained_weights", None, pd.DataFrame([row]), "run")

    def told(self, stage: str, partition: str | None = None) -> dict[str, Any]:
        """The metadata of the last materialization."""
        with open_instance() as instance:
            key = dg.AssetKey([NAME, stage])
            records = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition] if partition else None)
            event = instance.fetch_materializations(records, limit=1).records[0].asset_materialization
            assert event is not None
            return {name: value.value for name, value in event.metadata.items()}

    def checks(self, run_id: str) -> dict[str, Any]:
        """The evaluations of a run's checks, by name."""
        with open_instance() as instance:
            records = instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
            found = [record.dagster_event.event_specific_data for record in records]
            return {one.check_name: one for one in found}

    def version(self, video: str) -> str:
        """The version of a video's annotations, as the lake has it."""
        return json.loads(self.storage.get(layout.table_pointer("annotations", video)))["sha256"][:16]


def rows_of(data: bytes) -> list[dict[str, str]]:
    """The rows of a CSV as a spreadsheet reads them."""
    return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"))))

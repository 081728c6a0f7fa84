"""A detector in service without a training or a server: what was published, registered and captured, for real."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
from dagster import DagsterInstance
from networks import network
from PIL import Image

from detection_assets import definitions, detector_file
from detection_assets.domain import layout, schemas, snapshot
from detection_assets.domain.image_statistics import statistics
from detection_assets.serving.predictor import Predictor
from resources import profiles, tables
from resources.instance import open_instance
from resources.registry.base import CHAMPION
from resources.storage import Storage

NAME = "tiny"
CLASSES = ["apple", "banana"]
DAY = "2026-03-01"
SPLITS = ["train", "train", "train", "val", "test", "test", "test", "test"]
FRAMES_A_VIDEO = 12


def picture(rng: np.random.Generator, light: float = 1.0, size: tuple[int, int] = (96, 72)) -> np.ndarray:
    """Noise over a red or blue ground: what the network takes for an apple or a banana, more or less surely."""
    width, height = size
    red, blue = (rng.uniform(120, 220), 30) if rng.random() < 0.6 else (30, rng.uniform(120, 220))
    ground = np.array([red, rng.uniform(40, 90), blue])
    noise = rng.normal(0, rng.uniform(8, 20), (height, width, 3))
    return ((ground + noise) * light).clip(0, 255).astype(np.uint8)


def jpeg(rgb: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(rgb).save(out, "JPEG", quality=95)
    return out.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


class World:
    """The detector `tiny` with a model in the registry, its dataset and its evaluation."""

    def __init__(self, home: Path, **monitoring: Any) -> None:
        self.home = home
        self.write(**monitoring)
        self.storage = Storage(root=str(home / "lake"), prefix=NAME)
        self.predictor = Predictor(network(home / "network", names=CLASSES) / "best.onnx", confidence=0.25)

    def write(self, **monitoring: Any) -> None:
        self.write_detector(monitoring=monitoring)

    def write_detector(self, **sections: Any) -> None:
        file = {"name": NAME, "classes": CLASSES, **sections}
        (self.home / "detectors" / f"{NAME}.yaml").write_text(json.dumps(file))

    def register(self) -> str:
        """Publishes frames, dataset, weights and evaluation, registers the model, and lets it be the champion."""
        rng = np.random.default_rng(0)
        rows, boxes, frames = [], [], {}
        for number, split in enumerate(SPLITS):
            video = f"store-{number}/clip.mp4"
            files = {f"{index:06}.jpg": jpeg(picture(rng)) for index in range(FRAMES_A_VIDEO)}
            made = self.publish(layout.frames(video, "v1"), files)
            table = []
            for index, (file, data) in enumerate(files.items()):
                frame, digest = f"{video}#{index}", hashlib.sha256(data).hexdigest()
                key = made.key(file)
                rows.append([frame, video, f"store-{number}", split, key.removeprefix("frames/"), 96, 72, digest, ""])
                boxes += [
                    [frame, box["class"], *(box[side] for side in snapshot.SIDES), None] for box in self.boxes(data)
                ]
                frames[frame] = data
                table.append([video, frame, index, 0.5 * index, key, 96, 72, digest, "0" * 16, 10.0, 100.0, True, ""])
            columns = list(schemas.SCHEMAS["extracted_frames"])
            tables.write(self.storage, "extracted_frames", video, pd.DataFrame(table, columns=columns), "run")
        self.frames = frames
        images = pd.DataFrame(rows, columns=snapshot.IMAGES)
        truth = pd.DataFrame(boxes, columns=snapshot.BOXES)
        self.dataset = snapshot.version(images, truth, CLASSES)
        with tempfile.TemporaryDirectory() as scratch:
            snapshot.write(images, truth, {"version": self.dataset, "classes": CLASSES}, Path(scratch) / "d")
            self.storage.publish(Path(scratch) / "d", layout.dataset(self.dataset), {})
        judged = [
            {"model": "challenger", "frame": frame, **box}
            for frame, split in zip(images["frame"], images["split"], strict=True)
            if split == "test"
            for box in self.boxes(frames[frame], 0.001)
        ]
        out = io.BytesIO()
        pd.DataFrame(judged).to_parquet(out)
        self.publish(layout.evaluation("e1"), {"predictions.parquet": out.getvalue()})
        weights = self.publish(layout.weights("w1"), {"best.onnx": (self.home / "network" / "best.onnx").read_bytes()})
        self.onnx = weights.key("best.onnx")
        tags = {"dataset_version": self.dataset, "evaluation_version": "e1", "weights_version": "w1"}
        registry = self.resources()["registry"]
        with dg.build_resources({"registry": registry}) as opened:
            entry = opened.registry.register(self.onnx, self.storage.uri_of(self.onnx), self.predictor.sha256, tags, "")
            opened.registry.point(CHAMPION, entry.version)
        return entry.version

    def frames_alone(self, video: str) -> None:
        """Frames of a video, and nothing that could be served."""
        made = self.publish(layout.frames(video, "v1"), {"0.jpg": jpeg(picture(np.random.default_rng(0)))})
        row = [video, f"{video}#0", 0, 0.0, made.key("0.jpg"), 96, 72, "", "0" * 16, 10.0, 100.0, True, ""]
        columns = list(schemas.SCHEMAS["extracted_frames"])
        tables.write(self.storage, "extracted_frames", video, pd.DataFrame([row], columns=columns), "run")

    def publish(self, prefix: str, files: Mapping[str, bytes]) -> Any:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "out"
            folder.mkdir()
            for name, data in files.items():
                (folder / name).write_bytes(data)
            return self.storage.publish(folder, prefix, {})

    def resources(self) -> dict[str, Any]:
        return profiles.resources_for(NAME, None, host="127.0.0.1", port=0)

    def boxes(self, data: bytes, confidence: float = 0.25) -> list[dict[str, Any]]:
        found = self.predictor.predict(decoded(data), confidence)
        return [
            {
                **{"class": CLASSES[kind], "confidence": sure},
                **dict(zip(("x1", "y1", "x2", "y2"), corners, strict=True)),
            }
            for corners, sure, kind in zip(
                found.boxes.tolist(), found.confidence.tolist(), found.class_id.tolist(), strict=True
            )
        ]

    def row(self, data: bytes, name: str, at: datetime, version: str, **other: Any) -> dict[str, Any]:
        """A captured request as the server writes it."""
        rgb = decoded(data)
        return {
            **{"time": at.isoformat(timespec="milliseconds"), "request_id": name, "slot": "blue", "version": version},
            **{"status": 200, "latency_ms": 12.5, "why": "sample", "width": rgb.shape[1], "height": rgb.shape[0]},
            **{key: round(value, 3) for key, value in statistics(rgb).items()},
            **{"image": f"{name}.jpg", "boxes": self.boxes(data)},
            **other,
        }

    def capture(
        self, pictures: list[bytes], version: str, *, day: str = DAY, name: str = "request", **other: Any
    ) -> None:
        """Puts requests into the lake as the server does, a few a part, a second apart."""
        began = datetime.fromisoformat(f"{day}T08:00:00+00:00")
        by_hour: dict[str, list[dict[str, Any]]] = {}
        for number, data in enumerate(pictures):
            at = began + timedelta(minutes=number)
            row = self.row(data, f"{name}-{number}", at, version, **other)
            folder = f"{layout.captures(day)}/{at:%H}"
            if row["image"]:
                self.storage.put(f"{folder}/{row['image']}", data)
            by_hour.setdefault(folder, []).append(row)
        for folder, rows in by_hour.items():
            for first in range(0, len(rows), 20):
                lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows[first : first + 20])
                self.storage.put(f"{folder}/{name}-{first}.jsonl", lines)

    @contextmanager
    def instance(self) -> Iterator[DagsterInstance]:
        with open_instance() as instance:
            yield instance

    def monitor(self, day: str = DAY) -> dg.ExecuteInProcessResult:
        """One run of the job, as the schedule starts it."""
        defs = definitions.build(detector_file.find(NAME))
        with self.instance() as instance:
            return defs.resolve_job_def(f"{NAME}_monitor").execute_in_process(instance=instance, partition_key=day)

    def predict(self, *videos: str, raise_on_error: bool = True) -> dg.ExecuteInProcessResult:
        """One run of batch prediction over some videos, which are neighbours."""
        defs = definitions.build(detector_file.find(NAME))
        with self.instance() as instance:
            instance.add_dynamic_partitions(f"{NAME}_videos", [f"store-{number}/clip.mp4" for number in range(8)])
            tags = {"dagster/asset_partition_range_start": videos[0], "dagster/asset_partition_range_end": videos[-1]}
            return defs.resolve_job_def(f"{NAME}_predict").execute_in_process(
                instance=instance, tags=tags, raise_on_error=raise_on_error
            )

    def label(self, *, raise_on_error: bool = True, **asked: Any) -> dg.ExecuteInProcessResult:
        """One run of the job `label`, over the videos that have a table of frames."""
        defs = definitions.build(detector_file.find(NAME))
        with self.instance() as instance:
            instance.add_dynamic_partitions(f"{NAME}_videos", [f"store-{number}/clip.mp4" for number in range(8)])
            return defs.resolve_job_def(f"{NAME}_label").execute_in_process(
                instance=instance,
                run_config={"ops": {"label_requests": {"config": asked}}},
                raise_on_error=raise_on_error,
            )

    def table(self, asset: str, *partitions: str) -> pd.DataFrame:
        return tables.read(self.storage, asset, list(partitions) or None)

    def report(self, day: str = DAY) -> pd.DataFrame:
        return self.table("drift_report", day).set_index("feature")


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    """The metadata of an asset's last materialization in a run, as plain values."""
    event = result.asset_materializations_for_node(asset)[0]
    return {key: getattr(value, "value", value) for key, value in event.metadata.items()}


def check(result: dg.ExecuteInProcessResult, name: str) -> dg.AssetCheckEvaluation:
    """The result of a check in a run."""
    return next(found for found in result.get_asset_check_evaluations() if found.check_name == name)


def today() -> str:
    return f"{datetime.now(timezone.utc):%Y-%m-%d}"

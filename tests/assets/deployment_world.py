"""A detector with registered models and golden frames, without a training: for tests of what comes after it.

Run as a program it deploys: `python deployment_world.py HOME` is a Dagster run in a process that can be killed.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))
from detection_assets import definitions, detector_file
from detection_assets.commands.context import Project
from detection_assets.domain import layout
from detection_assets.samples import bad_models
from detection_assets.serving.predictor import Predictor
from jobs import update
from resources import tables
from resources.deployments import Deployments
from resources.instance import open_instance

NAME = "tiny"
DETECTOR = """\
name: tiny
classes: [apple, banana, cola, water]
approval: {approval}
rollout: {{canary: {canary}, bake_s: {bake}, keep_s: {keep}, max_slowdown: {slowdown}}}
endpoint: {{p95_ms: {p95}}}
"""


def picture(seed: int, level: float = 0.35) -> bytes:
    """A JPEG of four quarters of different brightness, of a mean level between 0 and 1."""
    rng = np.random.default_rng(seed)
    quarters = np.kron(rng.uniform(0.6, 1.4, (2, 2)), np.ones((32, 32))) * level * 255
    out = io.BytesIO()
    Image.fromarray(np.repeat(quarters.clip(0, 255).astype(np.uint8)[..., None], 3, 2)).save(out, "JPEG", quality=95)
    return out.getvalue()


class World:
    """The detector `tiny` in a home folder."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.home = home
        self.project: Any = None
        self.settings = {
            **{"approval": "auto", "canary": "[50]", "bake": 1.0, "keep": 3600, "slowdown": 50.0, "p95": 5000},
            **settings,
        }
        self.write()

    def write(self, **settings: Any) -> None:
        """Writes the detector's file anew, with some settings changed."""
        self.settings |= settings
        self.close()
        (self.home / "detectors" / f"{NAME}.yaml").write_text(DETECTOR.format(**self.settings))
        self.project = Project.of(NAME)

    def close(self) -> None:
        """Closes what the project holds open."""
        if self.project is not None:
            self.project.close()

    @property
    def storage(self) -> Any:
        return self.project.storage

    @property
    def registry(self) -> Any:
        return self.project.resources["registry"]

    @property
    def endpoints(self) -> Any:
        return self.project.endpoints

    @property
    def log(self) -> Deployments:
        return Deployments(self.storage)

    def model(self, kind: str, *, size: int = 64, golden_of: str | None = None, **tags: str) -> str:
        """Registers a model of `bad_models` with its golden frames and returns its version.

        Args:
            kind: What the model does.
            size: Side of its input; models of one kind and size are the same.
            golden_of: The kind of the model that the golden frames' boxes are from.
            **tags: Further tags.
        """
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            data = bad_models.write_model(folder / "m.onnx", kind, size=size).read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            key = f"weights/{digest[:12]}/best.onnx"
            self.storage.put(key, data)
            judge = bad_models.write_model(folder / "g.onnx", golden_of or "good", size=size)
            version = f"e-{digest[:8]}-{golden_of or kind}"
            self._golden(folder, judge, version)
        lineage = {
            **{"evaluation_version": version, "dataset_version": "ds-1", "weights_version": digest[:12]},
            **{"approval": "approved", "approved_by": "gates", "approval_reason": "every gate passed"},
            **tags,
        }
        made = self.registry.register(key, self.storage.uri_of(key), digest, lineage, "")
        self.is_registered(made.version)
        return made.version

    def is_registered(self, version: str) -> None:
        """Makes a version the one that was registered last, as the asset before would."""
        found = next(known for known in self.registry.history() if known.version == version)
        row = {name: "x" for name in ("registry", "alias", "approved_at")} | {
            **{"name": NAME, "version": version, "sha256": found.sha256, "onnx": found.onnx, "map50": 0.9},
            **{name: found.tags.get(name, "") for name in ("weights_version", "dataset_version")},
            **{name: found.tags.get(name, "") for name in ("evaluation_version", "approved_by", "approval_reason")},
            "approval": found.approval,
        }
        tables.write(self.storage, "registered_model", None, pd.DataFrame([row]), "test")

    def _golden(self, folder: Path, judge: Path, version: str) -> None:
        if self.storage.published(layout.dataset("ds-1")) is None:
            data = folder / "dataset"
            data.mkdir()
            rows = [{"frame": f"v#{index}", "file": f"v/{index}.jpg"} for index in range(4)]
            pd.DataFrame(rows).to_parquet(data / "images.parquet")
            for index in range(4):
                self.storage.put(f"{layout.FRAMES}/v/{index}.jpg", picture(index))
            self.storage.publish(data, layout.dataset("ds-1"), {})
        if self.storage.published(layout.evaluation(version)) is not None:
            return
        out = folder / "evaluation"
        out.mkdir()
        predictor = Predictor(judge, confidence=0.25, iou=0.7, max_det=300)
        boxes = []
        for index in range(4):
            found = predictor.predict(np.asarray(Image.open(io.BytesIO(picture(index)))))
            boxes += [
                {
                    "model": "challenger",
                    "frame": f"v#{index}",
                    "class": predictor.classes[int(kind)],
                    "confidence": sure,
                }
                | dict(zip(("x1", "y1", "x2", "y2"), corners, strict=True))
                for corners, sure, kind in zip(
                    found.boxes.tolist(), found.confidence.tolist(), found.class_id.tolist(), strict=True
                )
            ]
        pd.DataFrame(boxes).to_parquet(out / "predictions.parquet")
        gate = {"gate": "map50", "passed": True, "why": "AP50 is 0.9"}
        (out / "summary.json").write_text(json.dumps({"gates": [gate]}))
        self.storage.publish(out, layout.evaluation(version), {})

    def deploy(self, **labels: str) -> bool:
        """Materializes `deployed_endpoint` in this process, as a person does in the UI; returns success."""
        return deploy(labels)

    def served(self) -> tuple[str | None, dict[str, int]]:
        """The version that serves, and the share of each slot."""
        status = self.endpoints.status()
        assert not status.slots or status.alive
        return (status.serving.version if status.serving else None), {slot.name: slot.traffic for slot in status.slots}

    @contextmanager
    def traffic(self, levels: tuple[float, ...] = (0.35,), pause: float = 0.01) -> Iterator[Traffic]:
        """Sends requests from two threads while the context lasts."""
        going = Traffic(self.endpoints.url, self.endpoints.key_file.read_text().strip(), levels, pause)
        try:
            yield going
        finally:
            going.stop()


class Traffic:
    """Clients that send pictures and note every answer."""

    def __init__(self, url: str, key: str, levels: tuple[float, ...], pause: float) -> None:
        self.statuses: list[int] = []
        self.versions: list[str] = []
        self.pause = pause
        self._stop = threading.Event()
        pictures = [picture(100 + index, level) for index in range(4) for level in levels]
        self._threads = [
            threading.Thread(target=self._send, args=(url, key, pictures[part::2]), daemon=True) for part in (0, 1)
        ]
        for thread in self._threads:
            thread.start()

    def _send(self, url: str, key: str, pictures: list[bytes]) -> None:
        headers = {"X-API-Key": key, "Content-Type": "image/jpeg"}
        with httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False) as client:
            at = 0
            while not self._stop.is_set():
                at += 1
                try:
                    answer = client.post("/score", content=pictures[at % len(pictures)])
                    self.statuses.append(answer.status_code)
                    self.versions.append(str(answer.json().get("model_version")))
                except httpx.HTTPError:
                    self.statuses.append(0)
                time.sleep(self.pause)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=60)


def deploy(labels: dict[str, str] | None = None) -> bool:
    """Materializes `deployed_endpoint` of the detector, with further tags on the run."""
    with open_instance() as instance:
        defs = definitions.build(detector_file.find(NAME))
        planned = update.plan_deploy(NAME, "test")
        tags = {"detection/forced": "true"} if labels is None or not labels else labels
        return update.execute(instance, defs, NAME, planned, labels=tags)[0]


if __name__ == "__main__":
    sys.exit(0 if deploy() else 1)

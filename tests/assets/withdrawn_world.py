"""A detector's lake with all that comes from a video, without a training or a server."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
from dagster import AssetKey
from PIL import Image

from detection_assets import annotation_reports
from detection_assets.commands.context import Project
from detection_assets.domain import card, contact_html, croissant, layout, schemas, snapshot, tiles
from detection_assets.domain.problems import Problem
from detection_assets.pictures import embed, thumbnail
from resources import label_batches, standards, tables
from resources.instance import open_instance
from resources.label_batches import COLLECTED, HANDED

NAME = "tiny"
DAY = "2026-03-01"
FOLDER, INSIDE, CLIP, OTHER = "store-1/cam", "store-1/cam/monday.mp4", "store-2/clip.mp4", "store-3/clip.mp4"
REQUESTED = "captured-lb-0123456789ab"
"""A folder of images whose pictures were captured, and came back labelled."""
KINDS = {FOLDER: "images", INSIDE: "video", CLIP: "video", OTHER: "video", REQUESTED: "images"}
SPLITS = {FOLDER: "train", INSIDE: "train", CLIP: "test", OTHER: "test", REQUESTED: "val"}
FRAMES = 3
BATCH = REQUESTED.removeprefix("captured-")
VERSION = "0123456789abcdef"
SHARED = "annotations/all.json"
ODD = "my-request-0.jpg"
"""A picture of somebody else's that is called as one that was captured, and more."""
DETECTOR = "name: tiny\nclasses: [apple]\ndataset: {min_images: 1, near_duplicate: 0}\n"


def jpeg(seed: int) -> bytes:
    """A picture that is like no other, of noise, so that any piece of it can be told from all else."""
    rng = np.random.default_rng(seed)
    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


class World:
    """The detector `tiny` in a home folder, with five videos and what was made of them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / "detectors" / f"{NAME}.yaml").write_text(DETECTOR)
        self.project = Project.of(NAME)
        self.pictures: dict[str, list[bytes]] = {}

    @property
    def storage(self) -> Any:
        return self.project.storage

    @property
    def registry(self) -> Any:
        return self.project.resources["registry"]

    def close(self) -> None:
        """Closes what the project holds open."""
        self.project.close()

    # What there is ---------------------------------------------------------------------------------------------------

    def fill(self) -> None:
        """Puts everything into the lake, the registry and Dagster's event log."""
        for number, video in enumerate(KINDS):
            self._video(video, number)
        self._shared()
        self._captured()
        with open_instance() as instance:
            instance.add_dynamic_partitions(f"{NAME}_videos", list(KINDS))
            for event in self._events():
                instance.report_runless_asset_event(event)

    def _video(self, video: str, number: int) -> None:
        pictures = [jpeg(100 * number + index) for index in range(FRAMES)]
        self.pictures[video] = pictures
        digests = [hashlib.sha256(data).hexdigest() for data in pictures]
        images = KINDS[video] == "images"
        names = [self.name_of(video, index) for index in range(FRAMES)]
        if images:
            for name, data in zip(names, pictures, strict=True):
                self.storage.put(f"videos/{video}/{name}", data)
        else:
            self.storage.put(f"videos/{video}", b"".join(pictures))
        content = hashlib.sha256(b"".join(pictures)).hexdigest()
        self.storage.put_if_absent(layout.digest_of(content), video.encode())
        self.storage.put(layout.known_as("videos", video, "0011223344556677"), b"")
        made = self.publish(layout.frames(video, VERSION), dict(zip(names, pictures, strict=True)))
        row = {**dict.fromkeys(schemas.SCHEMAS["raw_videos"]), "video": video, "group": video, "kind": KINDS[video]}
        self.write("raw_videos", video, [{**row, "sha256": content, "frames_decodable": FRAMES}])
        rows = [
            {
                **{"video": video, "frame": self.frame(video, index), "index": index, "pts_s": 0.5 * index},
                **{"key": made.key(names[index]), "width": 64, "height": 48, "sha256": digests[index]},
                **{"phash": f"{number:08x}{index:08x}", "sharpness": 9.0, "brightness": 99.0, "kept": True},
                "reason": "",
            }
            for index in range(FRAMES)
        ]
        # An earlier version of the table, which nobody but history points at.
        self.write("extracted_frames", video, rows[:1])
        self.write("extracted_frames", video, rows)
        source = f"annotations/{video}/boxes.json" if images else f"annotations/{Path(video).with_suffix('')}.json"
        self.storage.put(source, json.dumps({"boxes of": video}).encode())
        box = {"class": "apple", "x1": 1.0, "y1": 2.0, "x2": 30.0, "y2": 40.0, "track": None}
        said = {**box, "annotator": None, "reviewed": False, "video": video}
        self.write(
            "annotations",
            video,
            [{**said, "frame": row["frame"], "source": source} for row in rows]
            + ([{**said, "frame": rows[0]["frame"], "source": SHARED}] if video in (CLIP, OTHER) else []),
        )
        found = [{**box, "frame": row["frame"], "confidence": 0.5} for row in rows]
        self.publish(
            layout.predictions(video, VERSION),
            {"predictions.parquet": parquet(found), "preview/01.jpg": thumbnail(pictures[0], None, ()) or b""},
        )
        more = {"video": video, "model_version": "1", "sha256": "m"}
        told = pd.DataFrame(found).drop(columns="track").assign(**more)
        self.write("batch_predictions", video, told.to_dict("records"))

    def _shared(self) -> None:
        frames = tables.read(self.storage, "extracted_frames", list(KINDS))
        boxes = tables.read(self.storage, "annotations", list(KINDS))
        self.storage.put(SHARED, b'{"boxes of": "several"}')
        images = frames.assign(group=frames["video"], split=frames["video"].map(SPLITS))
        images["file"] = images["key"].str.removeprefix("frames/")
        self.dataset = snapshot.version(images, boxes, ["apple"])
        with tempfile.TemporaryDirectory() as scratch:
            meta = {"version": self.dataset, "classes": ["apple"], "by": "group", "optimistic": False, "notes": []}
            meta |= {"videos": 5, "groups": 5, "images": len(images), "boxes": len(boxes)}
            meta |= {"shares": {"train": 0.6, "val": 0.2, "test": 0.2}}
            snapshot.write(images[snapshot.IMAGES], boxes[snapshot.BOXES].drop_duplicates(), meta, Path(scratch) / "d")
            self.storage.publish(Path(scratch) / "d", layout.dataset(self.dataset), {"optimistic": False})
        _, drawn = tables.read_with_versions(self.storage, "annotations", list(KINDS))
        images["annotations"] = images["video"].map(drawn)
        told = images.assign(dataset_version=self.dataset, boxes=1, labels="0" * 16)
        rows = told[list(schemas.SCHEMAS["detection_dataset"])]
        self.write("detection_dataset", None, rows.to_dict("records"))
        test = images[images["split"] == "test"]
        judged = [
            {"model": "challenger", "frame": frame, "class": "apple", "confidence": 0.5} for frame in test["frame"]
        ]
        slices = [{"model": "challenger", "slice_kind": "all", "slice": "all", "class": "", "ap50": 0.5}] + [
            {"model": "challenger", "slice_kind": "video", "slice": video, "class": "", "ap50": 0.5}
            for video in (CLIP, OTHER)
        ]
        worst = [
            {"file": f"worst/{at:02d}.jpg", "frame": self.frame(video, 0)} for at, video in enumerate((CLIP, OTHER))
        ]
        seen = [
            tiles.shown(tiles.Tile(self.frame(video, 0), (64, 48), (), "1 missed"), self.pictures[video][0])
            for video in (CLIP, OTHER)
        ]
        sheet = b"".join(self.pictures[video][0] for video in (CLIP, OTHER))
        self.publish(
            layout.evaluation("0000000000000001"),
            {
                "predictions.parquet": parquet(judged),
                "metrics.parquet": parquet(slices),
                "summary.json": json.dumps({"worst": worst, "gates": [], "problems": [f"{CLIP}#9: gone"]}).encode(),
                **{one["file"]: self.pictures[video][0] for one, video in zip(worst, (CLIP, OTHER), strict=True)},
                "worst.jpg": sheet,
            },
        )
        # As evaluations are made now: a page, and a sheet that may show what the page does not.
        told = {"worst": [{"frame": self.frame(CLIP, 0), "score": 1.0}], "problems": []}
        self.publish(
            layout.evaluation("0000000000000003"),
            {
                "metrics.parquet": parquet(slices),
                "summary.json": json.dumps(told).encode(),
                "worst.html": "".join(contact_html.page(seen, "worst", [], ["apple"])).encode(),
                "worst.jpg": sheet,
            },
        )
        self._told()
        full = {**dict.fromkeys(schemas.SCHEMAS["evaluation"]), "evaluation_version": "0000000000000001"}
        self.write("evaluation", None, [{**full, "dataset_version": self.dataset, **one} for one in slices])
        figures = [{"frame": frame, "brightness": 9.0} for frame in images["frame"]]
        self.publish(layout.profile(self.dataset, VERSION), {"images.parquet": parquet(figures)})
        onnx = self.publish(layout.weights(VERSION), {"best.onnx": b"a network"}).key("best.onnx")
        lineage = {"dataset_version": self.dataset, "evaluation_version": "0000000000000001"}
        lineage |= {"approval": "approved", "approved_by": "gates"}
        sha256 = hashlib.sha256(b"a network").hexdigest()
        self.version = self.registry.register(onnx, self.storage.uri_of(onnx), sha256, lineage, "").version

    def _told(self) -> None:
        """What tells of videos by name: a report of problems, a dataset's description, a card, a page to look at."""
        problems = [Problem(SHARED, "1", "no area", "dropped", video=video) for video in (CLIP, OTHER)]
        key = annotation_reports.publish(self.storage, problems)
        assert key is not None
        self.report = key
        standards.describe_dataset(self.storage, self.dataset, croissant.About("tiny"), {CLIP: "digest of the clip"})
        rows = "".join(f"| video | {card.escape(video)} | 0.5 |\n" for video in (CLIP, OTHER))
        self.publish(layout.model_card("tiny", "1", "ab" * 32), {"model_card.md": rows.encode(), "bom.json": b"{}"})
        page = self.home / ".scratch" / "show" / f"{NAME}-overview-annotations.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_bytes(b"".join(base64.b64encode(self.pictures[video][0]) for video in KINDS))

    def _captured(self) -> None:
        """Requests that were kept; the pictures of some were asked about, and came back as a folder of images."""
        rows, parts = [], []
        for index in range(FRAMES + 1):
            name = f"request-{index}"
            data = self.pictures[REQUESTED][index] if index < FRAMES else jpeg(9000)
            key = f"{layout.captures(DAY)}/08/{name}.jpg"
            self.storage.put(key, data)
            parts.append({"request_id": name, "image": f"{name}.jpg"})
            rows.append(
                {
                    **dict.fromkeys(schemas.SCHEMAS["captured_requests"]),
                    **{"day": DAY, "time": pd.Timestamp(f"{DAY}T08:00:00Z"), "request_id": name, "image": key},
                    "answer": "[]",
                }
            )
        self.storage.put(
            f"{layout.captures(DAY)}/08/part.jsonl", b"".join(json.dumps(part).encode() + b"\n" for part in parts)
        )
        self.write("captured_requests", DAY, rows)
        asked = [
            {"name": f"request-{index}.jpg", "video": REQUESTED, "frame": self.frame(REQUESTED, index)}
            | {"key": f"{layout.captures(DAY)}/08/request-{index}.jpg", "source": "request"}
            for index in range(FRAMES)
        ]
        asked += [
            {
                "name": f"other-{index}.jpg",
                "video": OTHER,
                "frame": self.frame(OTHER, index),
                "key": "k",
                "source": "frame",
            }
            for index in range(FRAMES)
        ]
        self.publish(
            layout.label_request(BATCH),
            {
                "frames.parquet": parquet(asked),
                "proposals.parquet": parquet([{"name": one["name"], "class": "apple"} for one in asked]),
                **{f"pictures/request-{index}.jpg": self.pictures[REQUESTED][index] for index in range(FRAMES)},
            },
            {"batch": BATCH, "model": "1", "classes": ["apple"]},
        )
        label_batches.note(self.storage, BATCH, HANDED, {"tool": "cvat", "link": "http://cvat/tasks/7", "pictures": 6})
        digests = {one["name"]: f"labels of {one['name']}" for one in asked}
        label_batches.note(self.storage, BATCH, COLLECTED, {"stamp": "s", "at": 1.0, "digests": digests})
        work = layout.label_work(BATCH, "a_tool")
        self.storage.put(f"{work}/pictures/request-0.jpg", self.pictures[REQUESTED][0])
        names = [*(str(one["name"]) for one in asked), ODD]
        lines = [json.dumps({"source-ref": name}).encode() + b"\n" for name in names]
        self.storage.put(f"{work}/input/input.manifest", b"".join(lines))
        images = [{"id": at, "file_name": name} for at, name in enumerate(names, 1)]
        boxes = [{"id": at, "image_id": at, "bbox": [1, 2, 3, 4]} for at in range(1, len(names) + 1)]
        self.storage.put(f"{work}/proposals.json", json.dumps({"images": images, "annotations": boxes}).encode())
        for number in (0, 3):
            self.storage.put(f"{work}/annotations/worker-response/iteration-1/{number}/a.json", b'{"answers": []}')
        looked = [{"frame": row["image"], "brightness": 9.0} for row in rows]
        self.publish(layout.looks(layout.captures(DAY), VERSION), {"pictures.parquet": parquet(looked)})
        shown = base64.b64encode(self.pictures[REQUESTED][0]).decode()
        self.publish(layout.report(DAY, VERSION), {"report.html": f"<p>request request-0</p>{shown}".encode()})
        self.publish(layout.report(DAY, VERSION[::-1]), {"report.html": b"<p>request request-3</p>"})

    def _events(self) -> Iterator[dg.AssetMaterialization]:
        def shown(video: str, index: int, alt: str | None = None) -> str:
            small = thumbnail(self.pictures[video][index], None, ()) or b""
            return embed(small, self.frame(video, index) if alt is None else alt)

        def event(asset: str, partition: str | None, text: str, **more: Any) -> dg.AssetMaterialization:
            told = {"preview": dg.MetadataValue.md(text), **more}
            return dg.AssetMaterialization(AssetKey([NAME, asset]), partition=partition, metadata=told)

        everyone = " ".join(shown(video, 0) for video in KINDS)
        for video in KINDS:
            yield event("extracted_frames", video, everyone)
            yield event("extracted_frames", video, shown(video, 1))
        yield event("detection_dataset", None, everyone)
        yield event("evaluation", None, shown(CLIP, 0, "worst"), evaluation_version="0000000000000001")
        yield event("evaluation", None, shown(OTHER, 0, "worst"), evaluation_version="0000000000000002")
        yield event("captured_requests", DAY, shown(REQUESTED, 0, "request-0"))
        asked = " ".join(shown(REQUESTED, index, f"request-{index}.jpg") for index in range(FRAMES))
        yield event("label_requests", None, asked, batch=BATCH)

    # Looking at it ---------------------------------------------------------------------------------------------------

    @staticmethod
    def name_of(video: str, index: int) -> str:
        """The file of a frame."""
        if video == REQUESTED:
            return f"request-{index}.jpg"
        return f"{index:06}.jpg"

    def frame(self, video: str, index: int) -> str:
        """The id of a frame."""
        return f"{video}#{self.name_of(video, index) if KINDS[video] == 'images' else f'{index:06}'}"

    def write(self, asset: str, partition: str | None, rows: Sequence[Mapping[str, Any]]) -> None:
        table = pd.DataFrame(list(rows))
        if asset == "captured_requests":
            table["time"] = table["time"].astype("datetime64[ms, UTC]")
        tables.write(self.storage, asset, partition, table, "run")

    def publish(self, prefix: str, files: Mapping[str, bytes], notes: Mapping[str, Any] | None = None) -> Any:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "out"
            for name, data in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)
            return self.storage.publish(folder, prefix, notes or {})

    def objects(self) -> dict[str, bytes]:
        """Everything in the lake."""
        return {item.key: self.storage.get(item.key) for item in self.storage.list("")}


def parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    out = io.BytesIO()
    pd.DataFrame(list(rows)).to_parquet(out, index=False)
    return out.getvalue()

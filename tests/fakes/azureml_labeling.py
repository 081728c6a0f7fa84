"""What a person does in the studio of Azure ML: making a labelling project of a data asset, labelling, exporting.

No interface of Azure ML's does that. The project reads the asset's MLTable and lines as the wizard does, and exports
COCO as the studio does: boxes as shares of the picture, addresses of a datastore, a file more each time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import obstore
from fakes import blob
from fakes.azureml_assets import Assets
from ruamel.yaml import YAML

from detection_assets.object_store import open_store

Box = tuple[str, float, float, float, float]


class Project:
    """A labelling project.

    Attributes:
        sizes: Width and height of each picture, by its path in the container.
        prelabels: The boxes that each begins with, in pixels.
        labelled: What was submitted.
    """

    def __init__(self, assets: Assets, asset: str) -> None:
        """Takes a data asset with its version, as `shelf-to-label:lb-1`."""
        name, _, version = asset.partition(":")
        told = assets.there["data", name, version]["properties"]
        assert told["dataType"] == "mltable"
        self.store = open_store(f"az://{blob.CONTAINER}")
        self.sizes: dict[str, tuple[int, int]] = {}
        self.prelabels: dict[str, list[Box]] = {}
        self.labelled: dict[str, list[Box]] = {}
        folder = _path(told["dataUri"])
        table = YAML(typ="safe").load(self._get(f"{folder}/MLTable").decode())
        (steps,) = (step for step in table["transformations"] if "read_json_lines" in step)
        assert steps["read_json_lines"]["encoding"] == "utf8"
        for item in table["paths"]:
            for line in self._get(str(PurePosixPath(folder) / item["file"])).decode().splitlines():
                self._picture(json.loads(line))

    def _picture(self, line: dict[str, Any]) -> None:
        path = _path(line["image_url"])
        assert self._get(path), "the studio shows what is there"
        assert path not in self.sizes, "a picture that is there twice"
        details = line["image_details"]
        self.sizes[path] = width, height = details["width"], details["height"]
        self.prelabels[path] = [
            (box["label"], box["topX"] * width, box["topY"] * height, box["bottomX"] * width, box["bottomY"] * height)
            for box in line["label"]
        ]

    def path_of(self, name: str) -> str:
        """The path of a picture, by its file name."""
        (path,) = (path for path in self.sizes if PurePosixPath(path).name == name)
        return path

    def submit(self, name: str, boxes: Sequence[Box]) -> None:
        """Submits a picture's boxes."""
        self.labelled[self.path_of(name)] = list(boxes)

    def export(self, where: str, number: int) -> bytes:
        """Exports what is labelled so far as COCO.

        Args:
            where: The folder `Labeling/export` in the container; "" to download it alone.
            number: Which export it is.
        """
        labels = sorted({box[0] for boxes in self.labelled.values() for box in boxes})
        images = [
            {
                "id": number,
                "width": float(self.sizes[path][0]),
                "height": float(self.sizes[path][1]),
                "file_name": path,
                "coco_url": f"AmlDatastore://detection_lake/{path}",
                "absolute_url": f"https://{blob.ACCOUNT}.blob.core.windows.net/{blob.CONTAINER}/{path}",
                "date_captured": "2026-01-01T10:00:00.1086527Z",
            }
            for number, path in enumerate(self.labelled, 1)
        ]
        annotations = [
            {
                "category_id": labels.index(label) + 1,
                "image_id": image["id"],
                "area": 0.0,
                "bbox": share(box, self.sizes[path]),
            }
            for image, (path, boxes) in zip(images, self.labelled.items(), strict=True)
            for label, *box in boxes
        ]
        told = {
            "images": images,
            "annotations": [{"id": number, **one} for number, one in enumerate(annotations, 1)],
            "categories": [{"id": number, "name": label} for number, label in enumerate(labels, 1)],
        }
        data = json.dumps(told).encode()
        if where:
            obstore.put(self.store, f"{where}/coco/0a1b/{number:04d}_labels.json", data)
        return data

    def _get(self, path: str) -> bytes:
        return bytes(obstore.get(self.store, path).bytes())


def share(box: Sequence[float], size: tuple[int, int]) -> list[float]:
    """A box's corners as the studio exports them: left, top, width and height, as shares of the picture."""
    x1, y1, x2, y2 = box
    width, height = size
    return [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height]


def _path(address: str) -> str:
    """Where in the container a file or folder of the datastore is."""
    assert address.startswith("azureml://"), address
    return address.partition("/paths/")[2].strip("/")

"""What people do in a tool for annotators, by one set of words, whichever tool it is.

A backend of `resources/labeling` joins the contract by a subclass here (or in a file of its own) and an entry in
`test_labeling.TOOLS`.
"""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fakes import label_studio

from detection_assets.domain import formats
from detection_assets.domain.formats.label_studio_write import CONTROL, OBJECT

Box = tuple[str, float, float, float, float]
"""Class and corners in pixels."""
SIZE = (64, 48)
"""Width and height of every picture of the contract's batch."""


class Annotators(ABC):
    """People before a tool, and what they see.

    Attributes:
        settings: The environment that makes a profile's `labeling` this tool.
        doubles: Whether two people can label the same picture.
        keeps_drafts: Whether the tool knows work that is saved and not handed in.
        corrects: Whether somebody can hand in another answer later.
        skips: Whether a picture can be refused, so that the tool says so.
        stride: How many acts lie between two kills, where not each act is followed by one.
    """

    settings: Mapping[str, str]
    doubles = True
    keeps_drafts = True
    corrects = True
    skips = True
    stride = 3

    @abstractmethod
    def sees(self, place: str) -> dict[str, list[Box]]:
        """The pictures that are there, each with the boxes to begin with; one that is there twice is an error."""

    @abstractmethod
    def submit(self, place: str, name: str, boxes: Sequence[Box], who: str = "") -> None:
        """Hands in what is on a picture; again, it corrects what the same person said before."""

    @abstractmethod
    def skip(self, place: str, name: str) -> None:
        """Refuses a picture."""

    def draft(self, place: str, name: str, boxes: Sequence[Box]) -> None:
        """Saves something without handing it in."""
        raise NotImplementedError

    def drafts(self, place: str, name: str) -> list[Box]:
        """What is saved of a picture and not handed in."""
        raise NotImplementedError

    def clear(self) -> None:
        """Leaves nothing for the next test."""
        return

    def known_as(self, who: str) -> str:
        """What annotation files call somebody."""
        return who

    @abstractmethod
    def delete(self, place: str) -> None:
        """Deletes all of it in the tool."""


class InAFolder(Annotators):
    """Somebody who puts files into `done/`."""

    keeps_drafts = False

    def __init__(self, root: Path) -> None:
        self.settings = {"DETECTION_LABELING": "folder", "DETECTION_LABELING_FOLDER": str(root)}

    def sees(self, place: str) -> dict[str, list[Box]]:
        folder = Path(place)
        there = sorted(path.name for path in (folder / "pictures").iterdir())
        boxes = formats.load([folder / "prelabels.json"], folder).boxes
        seen: dict[str, list[Box]] = {name: [] for name in there}
        for row in boxes.dropna(subset=["class"]).itertuples():
            seen[str(row.frame_name)].append((str(row[6]), *(float(value) for value in row[7:11])))  # type: ignore[arg-type]
        return seen

    def submit(self, place: str, name: str, boxes: Sequence[Box], who: str = "") -> None:
        done = Path(place) / "done" / (f"by-{who}" if who else "")
        classes = sorted({label for label, *_ in boxes})
        formats.coco.save(table(name, boxes), classes, done / f"{name}.json")
        old = (done / f"{name}.json").stat().st_mtime - 60
        os.utime(done / f"{name}.json", (old, old))

    def skip(self, place: str, name: str) -> None:
        with (Path(place) / "done" / "skipped.txt").open("a") as file:
            file.write(f"{name}\n")
        old = (Path(place) / "done" / "skipped.txt").stat().st_mtime - 60
        os.utime(Path(place) / "done" / "skipped.txt", (old, old))

    def delete(self, place: str) -> None:
        shutil.rmtree(place)


class InLabelStudio(Annotators):
    """Somebody before a browser: what it sends to the server is what is sent here."""

    def __init__(self, server: label_studio.LabelStudio) -> None:
        self.server = server
        self.settings = {
            "DETECTION_LABELING": "label_studio",
            "DETECTION_LABEL_STUDIO_URL": server.url,
            "DETECTION_LABEL_STUDIO_KEY": label_studio.PEOPLE[label_studio.OWNER],
        }

    def sees(self, place: str) -> dict[str, list[Box]]:
        seen: dict[str, list[Box]] = {}
        for task in self.tasks(place):
            name = task["data"]["frame"]
            assert name not in seen, f"{name} is there twice"
            picture = self.server.download(task["data"]["image"])
            assert picture.startswith(b"\xff\xd8"), "the picture cannot be shown"
            (prediction,) = task["predictions"]
            seen[name] = [_box(region) for region in prediction["result"]]
        return seen

    def submit(self, place: str, name: str, boxes: Sequence[Box], who: str = "") -> None:
        task, by = self.sees_task(place, name), self._who(who)
        mine = [one for one in task["annotations"] if one["completed_by"] == self.server.number(by)]
        answer = {"result": [_region(f"r{i}", box, task) for i, box in enumerate(boxes)], "lead_time": 3.2}
        if mine:
            self.server.ask("PATCH", f"/api/annotations/{mine[0]['id']}/", answer, by)
        else:
            self.server.ask("POST", f"/api/tasks/{task['id']}/annotations/", answer, by)

    def skip(self, place: str, name: str) -> None:
        path = f"/api/tasks/{self.sees_task(place, name)['id']}/annotations/"
        self.server.ask("POST", path, {"result": [], "was_cancelled": True})

    def draft(self, place: str, name: str, boxes: Sequence[Box]) -> None:
        task = self.sees_task(place, name)
        drawn = [_region(f"d{i}", box, task) for i, box in enumerate(boxes)]
        self.server.ask("POST", f"/api/tasks/{task['id']}/drafts", {"result": drawn, "lead_time": 1.0})

    def drafts(self, place: str, name: str) -> list[Box]:
        return [_box(region) for draft in self.sees_task(place, name)["drafts"] for region in draft["result"]]

    def delete(self, place: str) -> None:
        self.server.ask("DELETE", f"/api/projects/{place}/")

    def clear(self) -> None:
        for project in self.server.ask("GET", "/api/projects/?page_size=100")["results"]:
            self.delete(project["id"])

    def known_as(self, who: str) -> str:
        return self._who(who)

    def _who(self, who: str) -> str:
        return f"{who}@example.org" if who else label_studio.OWNER

    def tasks(self, place: str) -> list[dict[str, Any]]:
        return self.server.ask("GET", f"/api/tasks/?project={place}&page_size=100&fields=all")["tasks"]

    def sees_task(self, place: str, name: str) -> dict[str, Any]:
        (found,) = [task for task in self.tasks(place) if task["data"]["frame"] == name]
        return found


def _box(region: Mapping[str, Any]) -> Box:
    value = region["value"]
    wide, high = region["original_width"], region["original_height"]
    x, y, across, down = (value[key] for key in ("x", "y", "width", "height"))
    edges = (x * wide, y * high, (x + across) * wide, (y + down) * high)
    return (value["rectanglelabels"][0], *(round(edge / 100, 1) for edge in edges))  # type: ignore[return-value]


def _region(name: str, box: Box, task: Mapping[str, Any]) -> dict[str, Any]:
    label, x1, y1, x2, y2 = box
    wide, high = task["data"]["width"], task["data"]["height"]
    across, down = 100 / wide, 100 / high
    place = {"x": x1 * across, "y": y1 * down, "width": (x2 - x1) * across, "height": (y2 - y1) * down, "rotation": 0}
    return {
        **{"id": name, "type": "rectanglelabels", "from_name": CONTROL, "to_name": OBJECT, "origin": "manual"},
        **{"original_width": wide, "original_height": high, "image_rotation": 0},
        "value": {**place, "rectanglelabels": [label]},
    }


def table(name: str, boxes: Sequence[Box]) -> pd.DataFrame:
    """A picture's boxes as the writers of `formats` take them."""
    rows = [(name, *SIZE, *box) for box in boxes] or [(name, *SIZE, None, *[float("nan")] * 4)]
    return pd.DataFrame(rows, columns=["frame_name", "width", "height", "class", "x1", "y1", "x2", "y2"])


def in_a_folder(request: pytest.FixtureRequest) -> Annotators:
    """The tool `folder`."""
    return InAFolder(request.getfixturevalue("tmp_path") / "outbox")


def in_label_studio(request: pytest.FixtureRequest) -> Annotators:
    """The tool `label_studio`: a real server."""
    return InLabelStudio(request.getfixturevalue("label_studio_server"))


TOOLS = {"folder": in_a_folder, "label_studio": in_label_studio}
"""What makes the annotators of each tool, from a test's fixtures."""

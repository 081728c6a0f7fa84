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

import pandas as pd
import pytest

from detection_assets.domain import formats

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
    """

    settings: Mapping[str, str]
    doubles = True
    keeps_drafts = True

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


def table(name: str, boxes: Sequence[Box]) -> pd.DataFrame:
    """A picture's boxes as the writers of `formats` take them."""
    rows = [(name, *SIZE, *box) for box in boxes] or [(name, *SIZE, None, *[float("nan")] * 4)]
    return pd.DataFrame(rows, columns=["frame_name", "width", "height", "class", "x1", "y1", "x2", "y2"])


def in_a_folder(request: pytest.FixtureRequest) -> Annotators:
    """The tool `folder`."""
    return InAFolder(request.getfixturevalue("tmp_path") / "outbox")


TOOLS = {"folder": in_a_folder}
"""What makes the annotators of each tool, from a test's fixtures."""

"""Sheets of frames through the command line, over a small lake: what is shown and said, and what a browser makes of it.

What is in the lake was put there table by table: nothing is extracted, trained or predicted here.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from forked import Command
from PIL import Image
from project import make_home, write_detector
from typer.testing import CliRunner

from detection_assets import cli
from detection_assets.domain import layout, schemas, snapshot
from detection_assets.domain.problems import Told
from resources import tables
from resources.instance import open_instance
from resources.storage import Storage

VIDEOS = ["store-01/monday.mp4", "store-02/<b>tuesday.mp4", "store-03/nobody.mp4"]
FRAMES = 4
RED, BLUE = (221, 46, 68), (59, 136, 245)
"""Of the first class and of the second."""
BROKEN, GONE = f"{VIDEOS[0]}#000003", f"{VIDEOS[1]}#000003"


class World:
    """A project with frames, annotations of two of three videos, predictions of one, and an evaluation."""

    def __init__(self, home: Path) -> None:
        self.home = home
        write_detector(home, "tiny", classes="apple, banana")
        self.storage = Storage(root=str(home / "lake"), prefix="tiny")
        with open_instance() as instance:
            instance.add_dynamic_partitions("tiny_videos", VIDEOS)
        self.frames = pd.concat([self.extracted(video) for video in VIDEOS])
        self.write("annotations", self.annotated(VIDEOS[0], VIDEOS[1]))
        self.write("batch_predictions", self.predicted(VIDEOS[0]))
        self.evaluated()

    def publish(self, prefix: str, files: Mapping[str, bytes]) -> Any:
        with tempfile.TemporaryDirectory() as scratch:
            for name, data in files.items():
                (Path(scratch) / name).write_bytes(data)
            return self.storage.publish(Path(scratch), prefix, {})

    def write(self, asset: str, table: pd.DataFrame) -> None:
        for video, rows in table.groupby("video"):
            tables.write(self.storage, asset, str(video), rows, "run")

    def extracted(self, video: str) -> pd.DataFrame:
        out = io.BytesIO()
        Image.new("RGB", (320, 240), (128, 128, 128)).save(out, "PNG")
        names = [f"{index:06d}.png" for index in range(FRAMES)]
        made = self.publish(layout.frames(video, "v1"), {name: out.getvalue() for name in names})
        rows = [
            [video, f"{video}#{at:06d}", at, at / 2, made.key(name), 320, 240, "0" * 64, "0" * 16, 9.0, 99.0, True, ""]
            for at, name in enumerate(names)
        ]
        table = pd.DataFrame(rows, columns=list(schemas.SCHEMAS["extracted_frames"]))
        tables.write(self.storage, "extracted_frames", video, table, "run")
        for frame, key in zip(table["frame"], table["key"], strict=True):
            if frame == BROKEN:
                self.storage.put(key, b"half a pictu")
            if frame == GONE:
                (self.home / "lake" / "tiny" / key).unlink()
        return table

    def boxes(self, *videos: str) -> pd.DataFrame:
        """An apple at the left of every frame, and on the first of each video a banana at the right."""
        rows = [
            (video, f"{video}#{at:06d}", name, *corners)
            for video in videos
            for at in range(FRAMES)
            for name, corners in (("apple", (20.0, 40.0, 120.0, 200.0)), ("banana", (200.0, 40.0, 300.0, 200.0)))
            if name == "apple" or at == 0
        ]
        return pd.DataFrame(rows, columns=["video", "frame", "class", *snapshot.SIDES])

    def annotated(self, *videos: str) -> pd.DataFrame:
        boxes = self.boxes(*videos)
        who = np.where(boxes["class"] == "apple", "ada", "eve")
        return boxes.assign(track=None, source="annotations/a.json", annotator=who, reviewed=True)

    def predicted(self, *videos: str) -> pd.DataFrame:
        """As annotated, but the second frame's apple is missed, and the third's taken for a banana."""
        boxes = self.boxes(*videos).assign(confidence=0.8, model_version="7", sha256="0")
        at = boxes["frame"].str[-6:].astype(int)
        boxes.loc[at == 2, "class"] = "banana"
        missed = at == 1
        boxes.loc[missed, ["class", "confidence", *snapshot.SIDES]] = [None, np.nan, *[np.nan] * 4]
        return boxes

    def evaluated(self) -> None:
        of = self.frames[self.frames["video"] == VIDEOS[1]]
        images = of.assign(group="g", split="test", file=of["key"].str.removeprefix("frames/"))[snapshot.IMAGES]
        truth = self.boxes(VIDEOS[1]).assign(track=None)[snapshot.BOXES]
        unsure = self.boxes(VIDEOS[1]).assign(confidence=0.1)
        found = pd.concat([self.predicted(VIDEOS[1]).dropna(subset=["class"]), unsure]).assign(model="challenger")
        for prefix, files in {
            layout.dataset("ds-1"): {"images": images, "boxes": truth},
            layout.evaluation("e1"): {"predictions": found},
        }.items():
            self.publish(prefix, {f"{name}.parquet": table.to_parquet() for name, table in files.items()})
        row = dict.fromkeys(schemas.SCHEMAS["evaluation"]) | {"n_images": 4, "n_boxes": 5, "ap50": 0.5}
        row |= {"evaluation_version": "e1", "dataset_version": "ds-1", "model": "challenger"}
        tables.write(self.storage, "evaluation", None, pd.DataFrame([row]), "run")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        yield World(make_home(tmp_path_factory.mktemp("show") / "home", patch.setenv))


def show(*words: str, refused: bool = False) -> str:
    """Runs the command in this process, where it need not be loaded each time; what it tells."""
    ended = CliRunner().invoke(cli.app, ["show", "tiny", *words])
    assert isinstance(ended.exception, Told if refused else type(None)), ended.exc_info
    return str(ended.exception) if refused else ended.output


def page(told: str) -> str:
    return Path(told.splitlines()[-1]).read_text()


def test_the_overview_shows_frames_of_all_annotated_videos_and_loses_none_to_a_bad_picture(world: World) -> None:
    told = show()
    assert "8 of 8 frames, which have 10 boxes" in told
    made = page(told)
    assert Path(told.splitlines()[-1]).is_relative_to(world.home / ".scratch")
    assert made.count("<figure>") == 8
    assert made.count("<img") == 6
    assert (made.count("cannot be read"), made.count("is missing")) == (1, 1)
    assert "<b>tuesday" not in made
    assert "&lt;b&gt;tuesday" in made
    assert not list((world.home / ".scratch").rglob("*.part"))


def test_a_video_can_be_narrowed_to_frames_a_class_and_an_annotator(world: World) -> None:
    assert page(show(VIDEOS[0], "--frames", "2")).count("<figure>") == 2
    told = show(VIDEOS[0], "--class", "banana")
    assert "1 of 1 frames, which have 1 boxes" in told
    assert page(told).count("<rect") == 1
    assert "3 of 4 frames, which have 4 boxes" in show(VIDEOS[0], "--annotator", "ada", "--frames", "3")
    assert "1 of 1 frames, which have 1 boxes" in show(VIDEOS[0], "--annotator", "eve")


def test_truth_against_prediction_and_the_worst_first(world: World) -> None:
    told = show(VIDEOS[0], "--predictions")
    assert "4 of 4 frames, which have 3 right, 1 missed, 1 confused" in told
    made = page(told)
    assert "1 apple taken for banana" in made
    assert "Predicted by version 7." in made
    told = show(VIDEOS[0], "--worst", "5")
    assert "2 of 2 frames with a mistake, of 4 frames" in told
    assert f"{VIDEOS[0]}#000001  0:00.50: 1 apple missed" in told
    told = show(VIDEOS[0], "--worst", "5", "--class", "banana")
    assert "1 of 1 frames with a mistake, of 2 frames" in told


def test_without_a_video_the_worst_are_those_of_the_evaluation(world: World) -> None:
    told = show("--worst", "1")
    assert "1 of 2 frames with a mistake, of 4 frames: 3 right, 1 missed, 1 confused" in told
    made = page(told)
    assert "Evaluation e1 on ds-1, boxes of confidence 0.25 and more." in made
    assert "0:00.50" in made
    assert "taken for" in show(VIDEOS[1], "--predictions", "--frames", "4") + page(show(VIDEOS[1], "--predictions"))


def test_pictures_are_written_whole_or_not_at_all(world: World, tmp_path: Path) -> None:
    for name, kind in {"a.PNG": "PNG", "new/b.jpg": "JPEG"}.items():
        show(VIDEOS[0], "--out", str(tmp_path / name))
        with Image.open(tmp_path / name) as image:
            assert image.format == kind
            pixels = np.asarray(image.convert("RGB")).astype(int)
        assert (np.abs(pixels - RED).sum(axis=2) < 60).sum() > 2000
        assert (np.abs(pixels - BLUE).sum(axis=2) < 60).sum() > 500
    (tmp_path / "file").touch()
    told = show("--out", str(tmp_path / "file" / "a.html"), refused=True)
    assert "cannot be written" in told
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.PNG", "b.jpg", "file", "new"]


def test_the_command_ends_as_every_other_does(world: World) -> None:
    code, told = Command(os.environ, "show", "tiny", "store-01/mondy.mp4").end()
    assert (code, told.count("\n")) == (2, 1), told
    assert "no video 'store-01/mondy.mp4'; there are store-01/monday.mp4" in told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["monday.mp4"], "there are store-01/monday.mp4"),
        ([VIDEOS[2]], "nothing annotated yet; `detection add tiny FILES...`"),
        ([VIDEOS[2], "--predictions"], "no predictions yet; run the job `tiny_predict`"),
        (["--class", "aple"], "no such class; there are apple, banana"),
        (["--annotator", "bob"], "nobody of that name drew here; there are ada, eve"),
        (["--worst", "3", "--annotator", "ada"], "does not keep who drew a box"),
        (["--out", "sheet.gif"], "Let it end in .html, .jpg or .png"),
        (["--out", "."], "what kind of file is that"),
    ],
)
def test_what_cannot_be_shown_says_why_and_what_to_do(world: World, words: list[str], said: str) -> None:
    assert said in show(*words, refused=True)


def test_a_browser_shows_solid_truth_and_dashed_predictions_and_hides_what_is_switched_off(
    world: World, browser: Any
) -> None:
    told = show(VIDEOS[0], "--worst", "1", "--class", "banana")
    shown = browser.new_page(viewport={"width": 390, "height": 844})
    asked: list[str] = []
    faults: list[str] = []
    shown.on("request", lambda request: asked.append(request.url))
    shown.on("console", lambda line: faults.append(line.text))
    shown.goto(Path(told.splitlines()[-1]).as_uri())
    assert shown.evaluate("document.documentElement.scrollWidth") == 390, "nothing to scroll sideways on a phone"

    def lines() -> tuple[float, float]:
        """Shares of the box's left and upper edge, on which both sides agree, in each one's colour."""
        pixels = np.asarray(Image.open(io.BytesIO(shown.locator(".frame").screenshot())).convert("RGB")).astype(int)
        height, width = pixels.shape[:2]
        x, rows = round(20 / 320 * width), slice(round(60 / 240 * height), round(180 / 240 * height))
        edge = pixels[rows, x - 1 : x + 2]
        return tuple(float((np.abs(edge - color).sum(axis=2) < 60).any(axis=1).mean()) for color in (RED, BLUE))

    red, blue = lines()
    assert red > 0.2, "the truth shows in the gaps of the prediction over it"
    assert 0.4 < blue < 0.8
    shown.uncheck("#prediction")
    red, blue = lines()
    assert (red, blue) == (1.0, 0.0)
    shown.uncheck("#truth")
    assert lines() == (0.0, 0.0)
    assert faults == []
    assert all(url.startswith(("file:", "data:")) for url in asked)
    shown.close()

"""Labels all the way: pictures go to a real Label Studio with boxes to begin with, and the next dataset has what is
drawn there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from contract.annotators import InLabelStudio
from dagster import DagsterInstance
from fakes import label_studio
from forked import Command
from PIL import Image
from project import ROOT, write_detector

from detection_assets import definitions, detector_file
from detection_assets.domain import labels
from detection_assets.domain.labels import Batch
from resources import label_batches, tables
from resources.instance import open_instance
from resources.storage import Storage

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]


def detection(*words: str) -> str:
    ended, told = Command(os.environ, *words).end()
    assert ended == 0, told
    return told


@pytest.fixture
def instance(home: Path) -> Iterator[DagsterInstance]:
    with open_instance() as found:
        yield found


def a_batch(storage: Storage, frames: pd.DataFrame, truth: pd.DataFrame) -> Batch:
    """Frames, with boxes that are a little off, as a model's are."""
    chosen = frames.assign(
        name=[labels.picture_name(*row) for row in frames[["video", "frame", "key"]].itertuples(index=False)],
        source="frame",
        why="two boxes of cola at 0.31 and 0.38",
        rank=range(len(frames)),
    )[list(labels.COLUMNS)]
    known = chosen[["name", "frame"]].merge(truth, on="frame")
    off = {side: known[side] + 6 for side in ("x1", "y1", "x2", "y2")}
    proposals = known.assign(**off, confidence=0.38)[list(labels.PROPOSED)].iloc[:-1]
    batch = Batch(labels.batch_id(chosen, CLASSES), chosen, proposals, "1", CLASSES)
    label_batches.publish(storage, batch, {})
    return batch


CLASSES = ("apple", "banana", "cola", "water")


def test_what_is_drawn_in_label_studio_is_in_the_next_dataset(
    home: Path,
    instance: DagsterInstance,
    label_studio_server: label_studio.LabelStudio,
    browser: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    people = InLabelStudio(label_studio_server)
    for name, value in people.settings.items():
        monkeypatch.setenv(name, value)
    write_detector(home, "fridge")
    detection("sample", "fridge", "--clips", "4")
    detection("run", "fridge", "--until", "annotations")
    storage = Storage(root=str(home / "lake"), prefix="fridge")
    video = instance.get_dynamic_partitions("fridge_videos")[0]
    truth = tables.read(storage, "annotations", [video])
    extracted = tables.read(storage, "extracted_frames", [video])
    # Nobody has labelled the clip.
    for source in truth["source"].unique():
        (home / "lake" / "fridge" / str(source)).unlink()
    detection("run", "fridge", "--until", "detection_dataset")
    before = tables.read(storage, "detection_dataset")
    assert video not in set(before["video"])

    frames = extracted[extracted["kept"]].head(4)
    batch = a_batch(storage, frames, truth)
    defs = definitions.build(detector_file.find("fridge"))
    with dg.build_resources({name: (defs.resources or {})[name] for name in ("storage", "labeling")}) as opened:
        handed = opened.labeling.request(batch.id)
    assert handed.link in detection("labels", "fridge")
    assert sum(map(len, people.sees(handed.place).values())) == len(batch.proposals)
    photograph(browser, label_studio_server, handed.place, tmp_path / "label-studio.png")

    names = dict(zip(batch.frames["frame"], batch.frames["name"], strict=True))
    drawn = list(names)[:3]
    for frame in drawn:
        of_frame = truth[(truth["frame"] == frame) & truth["class"].notna()]
        people.submit(handed.place, names[frame], [tuple(row) for row in of_frame[SHAPE].itertuples(index=False)])
    people.skip(handed.place, names[list(names)[3]])

    sensor = defs.resolve_sensor_def("fridge_finished_labels")
    (asked,), cursor = tick(instance, defs, sensor, None)
    ran = defs.resolve_job_def("fridge_collect_labels").execute_in_process(instance=instance, tags=asked.tags)
    assert ran.success
    assert tick(instance, defs, sensor, cursor)[0] == []
    assert "4 of 4" in detection("labels", "fridge")

    detection("run", "fridge", "--until", "detection_dataset")
    after = tables.read(storage, "detection_dataset")
    assert set(after.loc[after["video"] == video, "frame"]) == set(drawn)
    assert set(after["dataset_version"]) != set(before["dataset_version"])
    came = tables.read(storage, "annotations", [video]).dropna(subset=["class"])
    meant = truth[truth["frame"].isin(drawn)].dropna(subset=["class"])
    order = ["frame", "class", "x1"]
    came, meant = came.sort_values(order), meant.sort_values(order)
    assert came[["frame", "class"]].values.tolist() == meant[["frame", "class"]].values.tolist()
    assert abs(came[SHAPE[1:]].to_numpy() - meant[SHAPE[1:]].to_numpy()).max() < 0.01
    assert set(came["annotator"]) == {label_studio.OWNER}
    assert not detection("collect", "fridge").count("failed")


SHAPE = ["class", "x1", "y1", "x2", "y2"]


def tick(
    instance: DagsterInstance, defs: dg.Definitions, sensor: dg.SensorDefinition, cursor: str | None
) -> tuple[list[Any], str | None]:
    """Ticks a sensor as the daemon would; gives the runs that it asks for and its cursor."""
    resources = {"labeling": (defs.resources or {})["labeling"]}
    with dg.build_sensor_context(instance, cursor=cursor, resources=resources, definitions=defs) as context:
        data = sensor.evaluate_tick(context)
    return list(data.run_requests or []), data.cursor


def photograph(browser: Any, server: label_studio.LabelStudio, project: str, out: Path) -> None:
    """Takes a picture of the project and of a task with its boxes, as somebody who logs in sees them."""
    shots: list[Path] = []
    page = browser.new_page(viewport={"width": 1280, "height": 640})
    page.goto(f"{server.url}/user/login/")
    page.fill("input[name=email]", label_studio.OWNER)
    page.fill("input[name=password]", label_studio.PASSWORD)
    page.click("button[type=submit]")
    page.wait_for_url(lambda url: "/login" not in url)
    task = server.ask("GET", f"/api/tasks/?project={project}&page_size=1")["tasks"][0]["id"]
    for path, shown in (
        (f"/projects/{project}/data", "text=cola at"),
        (f"/projects/{project}/data?task={task}", "canvas"),
    ):
        page.goto(server.url + path)
        page.wait_for_selector(shown, timeout=60_000)
        page.wait_for_timeout(3000)
        shots.append(out.with_name(f"{len(shots)}.png"))
        page.screenshot(path=shots[-1])
    page.close()
    pictures = [Image.open(shot).convert("RGB") for shot in shots]
    both = Image.new("RGB", (pictures[0].width, sum(picture.height for picture in pictures) + 8), "white")
    top = 0
    for picture in pictures:
        both.paste(picture, (0, top))
        top += picture.height + 8
    both.quantize(128).save(out, optimize=True)
    if os.environ.get("UPDATE_SNAPSHOTS"):
        shutil.copyfile(out, ROOT / "docs" / "images" / "label-studio.png")

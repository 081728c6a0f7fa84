"""What every tool for annotators does, whichever it is: one file, every backend runs every case."""

from __future__ import annotations

import io
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from contract import annotators_elsewhere
from contract.annotators import SIZE, Annotators, Box
from contract.annotators import TOOLS as HERE
from forked import FORKS
from PIL import Image

from detection_assets.domain import formats, labels
from detection_assets.domain.labels import Batch
from resources import label_batches, profiles
from resources.labeling.base import Labeling
from resources.storage import Storage

CLASSES = ("apple", "cola & ice")
APPLE: Box = ("apple", 4.0, 6.0, 20.0, 30.0)
COLA: Box = ("cola & ice", 30.0, 8.0, 50.0, 40.0)
CLIP, PHOTOS = "store-1/clip.mp4", "store-2/photos"


@dataclass
class World:
    """A tool with the contract's batch, published and not handed over."""

    labeling: Labeling
    people: Annotators
    batch: Batch

    @property
    def storage(self) -> Storage:
        return self.labeling.storage

    @property
    def names(self) -> list[str]:
        return [str(name) for name in self.batch.frames["name"]]

    def hand_over(self) -> str:
        """Hands the batch over; gives what it is in the tool."""
        handed = self.labeling.request(self.batch.id)
        assert (handed.batch, handed.tool, handed.pictures) == (self.batch.id, self.labeling.tool, len(self.names))
        return handed.place

    def collect(self) -> Any:
        (collected,) = self.labeling.collect()
        assert collected.failed == ""
        return collected

    def far(self, batch: str) -> label_batches.Progress:
        """How far a batch is."""
        return label_batches.progress(self.storage, batch)

    def lake(self, video: str) -> pd.DataFrame:
        """What the lake's annotation file of the batch says of a video; empty if there is none."""
        key = labels.annotations_key(self.batch.id, video)
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "labels.json"
            if self.storage.exists(key):
                path.write_bytes(self.storage.get(key))
            return formats.load([path] if path.exists() else [], Path(scratch)).boxes

    def boxes(self, video: str) -> dict[str, list[Box]]:
        """The same, by what the lake calls a picture, rounded to a tenth of a pixel; empty frames are there."""
        found: dict[str, list[Box]] = {}
        for row in self.lake(video).to_dict("records"):
            of = found.setdefault(row["frame_name"], [])
            if row["class"] is not None:
                corners = (round(float(row[side]), 1) for side in ("x1", "y1", "x2", "y2"))
                of.append((row["class"], *corners))  # type: ignore[arg-type]
        return {name: sorted(boxes) for name, boxes in found.items()}


def jpeg(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", SIZE, (shade, 90, 90)).save(out, "JPEG")
    return out.getvalue()


def publish(storage: Storage, first: int = 0) -> Batch:
    """A batch of two frames of a clip, two photographs and a captured request."""
    keys = [f"frames/{CLIP}/v1/{number:06d}.jpg" for number in (first, first + 30)]
    photos, asked = (f"shelf {first}.jpg", f"table-{first}.jpg"), f"request_{first}.jpg"
    frames = pd.DataFrame(
        {
            "video": [CLIP, CLIP, PHOTOS, PHOTOS, ""],
            "frame": [*(f"{CLIP}#{key[-10:-4]}" for key in keys), *(f"{PHOTOS}#{name}" for name in photos), asked],
            "index": pd.array([first, first + 30, None, None, None], dtype="Int64"),
            "pts_s": [first / 30, first / 30 + 1, *[float("nan")] * 3],
            "key": [*keys, *(f"videos/{PHOTOS}/{name}" for name in photos), f"captures/2026-01-01/10/{asked}"],
            "source": ["frame"] * 4 + ["request"],
            "why": "because",
            "rank": range(5),
            **dict(zip(("width", "height"), SIZE, strict=True)),
        }
    )
    named = frames[["video", "frame", "key"]].itertuples(index=False)
    frames["name"] = [*[labels.picture_name(*row) for row in named][:4], asked]
    batch = labels.batch_id(frames, CLASSES)
    frames.loc[4, ["video", "frame"]] = labels.folder_of(batch), f"{labels.folder_of(batch)}#{asked}"
    frames = frames[list(labels.COLUMNS)]
    for shade, key in enumerate(frames["key"]):
        storage.put(key, jpeg(40 * shade))
    names = frames["name"].tolist()
    boxes = [(names[0], *APPLE, 0.41), (names[0], *COLA, 0.33), (names[3], *APPLE, 0.3)]
    proposals = pd.DataFrame(boxes, columns=list(labels.PROPOSED))
    published = Batch(batch, frames, proposals, "7", CLASSES)
    label_batches.publish(storage, published, {asked: frames["key"].iloc[-1]})
    return published


TOOLS = {**HERE, **annotators_elsewhere.TOOLS}


@pytest.fixture(params=list(TOOLS))
def world(request: pytest.FixtureRequest, home: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    people = TOOLS[request.param](request)
    for name, value in people.settings.items():
        monkeypatch.setenv(name, value)
    with opened() as resources:
        yield World(resources.labeling, people, publish(resources.storage))
    people.clear()


def opened() -> Any:
    made = profiles.resources_for("tiny", None, host="127.0.0.1", port=0)
    return dg.build_resources({name: made[name] for name in ("storage", "labeling")})


def test_a_batch_is_handed_over_with_its_pictures_and_boxes_to_begin_with(world: World) -> None:
    seen = world.people.sees(world.hand_over())
    assert sorted(seen) == sorted(world.names)
    assert {name: sorted(boxes) for name, boxes in seen.items() if boxes} == {
        world.names[0]: [APPLE, COLA],
        world.names[3]: [APPLE],
    }


def test_handed_over_again_nothing_is_doubled_and_nothing_begun_is_lost(world: World) -> None:
    place = world.hand_over()
    world.people.submit(place, world.names[0], [APPLE])
    assert world.hand_over() == place
    assert sorted(world.people.sees(place)) == sorted(world.names)
    assert world.collect().fresh == [world.names[0]]


def test_what_is_finished_comes_in_as_annotations_of_its_videos(world: World) -> None:
    place, names = world.hand_over(), world.names
    before = world.labeling.changed()
    for name, boxes in zip(names, ([APPLE, COLA], [], [COLA], [APPLE], [COLA]), strict=True):
        world.people.submit(place, name, boxes)
    assert [*world.labeling.changed()[0]] == [world.batch.id], before
    collected = world.collect()
    assert (collected.pictures, collected.finished, collected.open) == (5, 5, False)
    assert collected.problems == []
    assert world.boxes(CLIP) == {names[0]: [APPLE, COLA], names[1]: []}
    assert world.boxes(PHOTOS) == {"shelf 0.jpg": [COLA], "table-0.jpg": [APPLE]}
    captured = labels.folder_of(world.batch.id)
    assert world.boxes(captured) == {"request_0.jpg": [COLA]}
    assert world.storage.get(f"videos/{captured}/request_0.jpg") == jpeg(160)
    clip = world.lake(CLIP)
    assert clip["frame_index"].tolist() == [0, 0, 30]
    assert clip["pts_s"].tolist() == [0.0, 0.0, 1.0]
    assert world.lake(PHOTOS)["frame_index"].isna().all()


def test_what_is_in_is_not_brought_in_twice(world: World) -> None:
    place = world.hand_over()
    world.people.submit(place, world.names[0], [APPLE])
    assert len(world.collect().written) == 1
    again = world.collect()
    assert (again.fresh, again.written, again.finished) == ([], [], 1)
    assert world.labeling.changed() == ({}, {})


def test_half_of_a_batch_gives_that_half_and_the_rest_follows(world: World) -> None:
    place, names = world.hand_over(), world.names
    world.people.submit(place, names[0], [APPLE])
    world.people.submit(place, names[2], [COLA])
    half = world.collect()
    assert (half.finished, half.open) == (2, True)
    assert world.boxes(CLIP) == {names[0]: [APPLE]}
    world.people.submit(place, names[1], [COLA])
    rest = world.collect()
    assert (rest.fresh, rest.finished) == ([names[1]], 3)
    assert world.boxes(CLIP) == {names[0]: [APPLE], names[1]: [COLA]}


def test_a_correction_is_brought_in_again(world: World) -> None:
    if not world.people.corrects:
        pytest.skip("the tool takes one answer of each person")
    place, name = world.hand_over(), world.names[0]
    world.people.submit(place, name, [APPLE, COLA])
    world.collect()
    world.people.submit(place, name, [COLA])
    assert [*world.labeling.changed()[0]] == [world.batch.id]
    assert world.collect().fresh == [name]
    assert world.boxes(CLIP) == {name: [COLA]}


def test_a_picture_that_was_skipped_is_finished_and_gets_no_row(world: World) -> None:
    if not world.people.skips:
        pytest.skip("the tool does not say that a picture was refused")
    place, names = world.hand_over(), world.names
    world.people.skip(place, names[1])
    world.people.submit(place, names[0], [APPLE])
    collected = world.collect()
    assert collected.finished == 2
    assert world.boxes(CLIP) == {names[0]: [APPLE]}
    assert names[1] in label_batches.progress(world.storage, world.batch.id).finished


def test_nothing_comes_in_of_a_batch_that_nobody_has_begun(world: World) -> None:
    world.hand_over()
    collected = world.collect()
    assert (collected.finished, collected.fresh, collected.written) == (0, [], [])


def test_work_that_is_not_handed_in_is_neither_taken_nor_touched(world: World) -> None:
    if not world.people.keeps_drafts:
        pytest.skip("the tool knows no work in progress")
    place, names = world.hand_over(), world.names
    world.people.draft(place, names[0], [COLA])
    world.people.submit(place, names[1], [APPLE])
    assert world.collect().fresh == [names[1]]
    world.hand_over()
    assert world.people.drafts(place, names[0]) == [COLA]


def test_two_people_are_told_apart(world: World) -> None:
    if not world.people.doubles:
        pytest.skip("the tool gives a picture to one person alone")
    place, name = world.hand_over(), world.names[0]
    world.people.submit(place, name, [APPLE], "ada")
    world.people.submit(place, name, [COLA], "ben")
    world.collect()
    said = world.lake(CLIP)
    assert sorted(zip(said["annotator"], said["class"], strict=True)) == [
        (world.people.known_as("ada"), "apple"),
        (world.people.known_as("ben"), "cola & ice"),
    ]
    if world.people.corrects:
        world.people.submit(place, name, [COLA], "ada")
        world.collect()
        assert world.lake(CLIP)["annotator"].tolist()[-1] == world.people.known_as("ada"), "she spoke last"
        world.people.submit(place, name, [APPLE], "ada")
    # One changes his mind: that he saw nothing is as much said as what the other drew.
    world.people.submit(place, name, [], "ben")
    world.collect()
    said = world.lake(CLIP)
    assert {
        (who, None if pd.isna(label) else label) for who, label in zip(said["annotator"], said["class"], strict=True)
    } == {
        (world.people.known_as("ada"), "apple"),
        (world.people.known_as("ben"), None),
    }


def test_two_batches_are_two(world: World) -> None:
    first = world.hand_over()
    world.collect()
    other = publish(world.storage, first=60)
    second = world.labeling.request(other.id).place
    assert first != second or not set(world.names) & set(other.frames["name"])
    world.people.submit(second, str(other.frames["name"].iloc[0]), [COLA])
    assert [*world.labeling.changed()[0]] == [other.id]
    assert {item.batch: len(item.fresh) for item in world.labeling.collect()} == {world.batch.id: 0, other.id: 1}


def test_what_is_in_stays_when_its_place_is_deleted_and_others_go_on(world: World) -> None:
    place, name = world.hand_over(), world.names[0]
    world.people.submit(place, name, [APPLE])
    world.collect()
    other = publish(world.storage, first=60)
    second = world.labeling.request(other.id).place
    world.people.submit(second, str(other.frames["name"].iloc[0]), [COLA])
    world.people.delete(place)
    found = {item.batch: item for item in world.labeling.collect()}
    assert world.batch.id in found[world.batch.id].failed
    assert "--close" in found[world.batch.id].failed
    assert found[other.id].failed == ""
    assert len(found[other.id].fresh) == 1
    assert [*world.labeling.changed()[1]] == [world.batch.id]
    assert world.boxes(CLIP)[name] == [APPLE]
    world.labeling.close(world.batch.id, "given up")
    assert [item.batch for item in world.labeling.collect()] == [other.id]


# Killed --------------------------------------------------------------------------------------------------------------

OUTWARD = {"http.client.send", "os.rename", "os.mkdir"}
"""What can be seen from outside, as the interpreter tells of it: a request, or a file that gets its name."""


def killed_at(steps: int, act: Callable[[Labeling], object]) -> None:
    """Does something again and again, each time in a process that is killed one outward act later, until one ends.

    Args:
        steps: How many acts later each is killed than the one before; the first before its first.
        act: What is done.
    """
    host = FORKS.Process(target=_again_and_again, args=(steps, dict(os.environ), act))
    host.start()
    host.join()
    assert host.exitcode == 0


def _again_and_again(steps: int, env: dict[str, str], act: Callable[[Labeling], object]) -> None:
    os.environ.clear()
    os.environ.update(env)
    annotators_elsewhere.warm()
    with opened() as resources:
        for left in range(0, 400, steps):
            # Nothing was asked of the lake yet, so there are no threads that a fork would miss.
            child = os.fork()
            if child == 0:
                _die_after(left)
                try:
                    act(resources.labeling)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
                os._exit(0)
            ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if ended != -signal.SIGKILL:
                assert left > 2, "it ended before anything was seen of it"
                sys.exit(ended)
    sys.exit("it did not end")


def _die_after(left: int) -> None:
    def watch(event: str, args: tuple[Any, ...]) -> None:
        nonlocal left
        if event in OUTWARD or (event == "open" and args[1] and set(str(args[1])) & set("wax+")):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def _hand_over(labeling: Labeling) -> None:
    for batch in label_batches.known(labeling.storage):
        labeling.request(batch)


def _bring_in(labeling: Labeling) -> None:
    assert not any(item.failed for item in labeling.collect())


@pytest.mark.parametrize("each", [pytest.param(True, marks=pytest.mark.long), False])
def test_killed_at_any_point_nothing_is_doubled_and_nothing_lost(world: World, each: bool) -> None:
    steps = 1 if each else world.people.stride
    killed_at(steps, _hand_over)
    names, place = world.names, world.hand_over()
    seen = world.people.sees(place)
    assert sorted(seen) == sorted(names)
    assert sorted(seen[names[0]]) == [APPLE, COLA]
    world.people.submit(place, names[0], [APPLE])
    world.people.submit(place, names[4], [COLA])
    killed_at(steps, _bring_in)
    assert world.collect().finished == 2
    assert world.boxes(CLIP) == {names[0]: [APPLE]}
    assert world.boxes(labels.folder_of(world.batch.id)) == {"request_0.jpg": [COLA]}

"""What is particular about labels by way of a folder: whose file speaks, what was not touched, what is no use."""

from __future__ import annotations

import os
import time
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from contract.annotators import SIZE, InAFolder, table
from contract.test_labeling import APPLE, CLASSES, CLIP, COLA, World, opened, publish

from detection_assets.domain import formats, labels
from resources import label_batches, profiles
from resources.labeling import local
from resources.labeling.base import LabelingError
from resources.labeling.local import FolderLabeling


@pytest.fixture
def world(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    people = InAFolder(tmp_path / "outbox")
    for name, value in people.settings.items():
        monkeypatch.setenv(name, value)
    with opened() as resources:
        return World(resources.labeling, people, publish(resources.storage))


def old(path: Path, seconds: float = 60) -> Path:
    at = time.time() - seconds
    os.utime(path, (at, at))
    return path


def test_pre_labels_that_nobody_touched_are_no_work(world: World) -> None:
    place = Path(world.hand_over())
    old(Path((place / "prelabels.json").rename(place / "done" / "prelabels.json")))
    collected = world.collect()
    assert collected.finished == 0
    assert "accepted.txt" in str(collected.problems[0])


def test_pre_labels_that_are_right_are_accepted_by_name(world: World) -> None:
    place = Path(world.hand_over())
    (place / "done" / "accepted.txt").write_text(f"{world.names[0]}\n{Path(world.names[1]).stem}\nno-such.jpg\n")
    old(place / "done" / "accepted.txt")
    collected = world.collect()
    assert world.boxes(CLIP) == {world.names[0]: [APPLE, COLA], world.names[1]: []}
    assert world.lake(CLIP)["confidence"].isna().all()
    assert [problem.place for problem in collected.problems] == ["no-such.jpg"]


@pytest.mark.parametrize("name", [name for name in formats.FORMATS if name not in local.NOT_FOR_PICTURES])
def test_every_format_goes_out_and_comes_back(world: World, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTION_LABELING_FORMAT", name)
    with opened() as resources:
        world.labeling = resources.labeling
        place = Path(world.hand_over())
    handed = [path for path in place.rglob("prelabels*") if path.name != "prelabels" or path.is_dir()]
    assert handed
    assert not any(world.labeling.finished(world.batch, str(place), place / "scratch").files)
    out = place / "done" / (local.FILE_OF.get(name, "mine").replace("prelabels", "mine"))
    for path in formats.FORMATS[name].save(table(world.names[0], [COLA]), CLASSES, out).files:
        old(path)
    assert world.collect().fresh == [world.names[0]]
    assert world.boxes(CLIP) == {world.names[0]: [COLA]}


def test_an_mltable_and_its_lines_are_one_data_set(world: World) -> None:
    done = Path(world.hand_over()) / "done"
    formats.azureml.save(table(world.names[0], [COLA]), CLASSES, done)
    (done / "annotations.jsonl").rename(done / "lines.txt")
    (done / "MLTable").write_text("paths: [{file: ./lines.txt}]\n")
    for path in done.iterdir():
        old(path)
    collected = world.collect()
    assert world.boxes(CLIP) == {world.names[0]: [COLA]}
    assert not collected.problems


def test_the_newer_of_two_files_speaks(world: World) -> None:
    done = Path(world.hand_over()) / "done"
    for name, box, age in (("b-first", APPLE, 90), ("a-second", COLA, 30)):
        formats.coco.save(table(world.names[0], [box]), CLASSES, done / f"{name}.json")
        old(done / f"{name}.json", age)
    world.collect()
    assert world.boxes(CLIP) == {world.names[0]: [COLA]}


def test_an_archive_is_read_and_leads_nowhere_else(world: World, tmp_path: Path) -> None:
    done = Path(world.hand_over()) / "done"
    formats.pascal_voc.save(table(world.names[0], [COLA]), CLASSES, tmp_path / "voc")
    with zipfile.ZipFile(done / "export.zip", "w") as archive:
        archive.write(tmp_path / "voc" / f"{Path(world.names[0]).stem}.xml", "Annotations/a.xml")
        archive.writestr("JPEGImages/a.jpg", b"a picture")
        archive.writestr("../../../evil.xml", "<annotation/>")
        archive.writestr("/etc/evil.xml", "<annotation/>")
    (done / "cut.zip").write_bytes((done / "export.zip").read_bytes()[:100])
    for path in done.iterdir():
        old(path)
    collected = world.collect()
    assert world.boxes(CLIP) == {world.names[0]: [COLA]}
    assert sorted(problem.place for problem in collected.problems) == ["", "../../../evil.xml", "/etc/evil.xml"]
    assert not list(tmp_path.rglob("evil.xml"))


def test_a_picture_that_is_gone_from_the_lake_is_told_with_what_to_do(world: World) -> None:
    world.storage.remove([f"frames/{CLIP}/v1/000000.jpg"])
    with pytest.raises(LabelingError, match=r"gone from the lake \(.*000000\.jpg.*put it back, or ask for others with"):
        world.labeling.request(world.batch.id)


@pytest.mark.parametrize(("ada", "ben", "last"), [(30, 60, "ada"), (60, 30, "ben")])
def test_who_spoke_last_comes_last_whatever_the_formats(world: World, ada: float, ben: float, last: str) -> None:
    done = Path(world.hand_over()) / "done"
    formats.coco.save(table(world.names[0], [APPLE]), CLASSES, done / "by-ada" / "labels.json")
    (path,) = formats.pascal_voc.save(table(world.names[0], [COLA]), CLASSES, done / "by-ben").files
    old(done / "by-ada" / "labels.json", ada)
    old(path, ben)
    world.collect()
    assert world.lake(CLIP)["annotator"].tolist()[-1] == last


@pytest.mark.parametrize("damage", ["data", "name"])
def test_a_damaged_archive_loses_nothing_else(world: World, damage: str) -> None:
    place = Path(world.hand_over())
    world.people.submit(str(place), world.names[0], [COLA])
    path = place / "done" / "damaged.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("é.json" if damage == "name" else "a.json", "[1, 2, 3]" * 100)
    whole = path.read_bytes()
    # No packed data begins with ones alone; half of a letter is none.
    path.write_bytes(whole.replace("é".encode(), b"\xc3a") if damage == "name" else whole[:36] + b"\xff" + whole[37:])
    old(path)
    collected = world.collect()
    assert collected.fresh == [world.names[0]]
    assert ["cannot be unpacked" in str(problem) for problem in collected.problems] == [True]


def test_a_file_that_goes_away_while_it_is_read_loses_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Path(world.hand_over())
    world.people.submit(str(place), world.names[0], [COLA])
    mine = place / "done" / "mine.json"
    formats.coco.save(table(world.names[1], [APPLE]), CLASSES, mine)
    seen = old(mine).stat()
    mine.unlink()
    listing = FolderLabeling._listing  # pyright: ignore[reportPrivateUsage]

    def earlier(self: FolderLabeling, batch: str, place: str) -> list[tuple[str, int, int]]:
        return [*listing(self, batch, place), (mine.name, seen.st_size, seen.st_mtime_ns)]

    monkeypatch.setattr(FolderLabeling, "_listing", earlier)
    collected = world.collect()
    assert collected.fresh == [world.names[0]]
    assert "went away" in str(collected.problems[0])


def test_a_file_that_may_not_be_read_loses_nothing_else(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Path(world.hand_over())
    world.people.submit(str(place), world.names[0], [COLA])
    formats.coco.save(table(world.names[1], [APPLE]), CLASSES, place / "done" / "locked.json")
    old(place / "done" / "locked.json")
    plain = Path.read_bytes

    def read(self: Path) -> bytes:  # whoever runs the tests may read all
        if self.name == "locked.json":
            raise PermissionError(13, "Permission denied", str(self))
        return plain(self)

    monkeypatch.setattr(Path, "read_bytes", read)
    collected = world.collect()
    assert collected.fresh == [world.names[0]]
    assert "done/locked.json: may not be read" in str(collected.problems[0])


def test_a_batch_that_cannot_be_looked_at_does_not_keep_the_others(world: World) -> None:
    place, other = Path(world.hand_over()), publish(world.storage, first=60)
    second = world.labeling.request(other.id).place
    world.people.submit(second, str(other.frames["name"].iloc[0]), [COLA])
    (place / ".handed.json").unlink()
    found = {item.batch: item for item in world.labeling.collect()}
    assert ".handed.json cannot be read: No such file" in found[world.batch.id].failed
    assert found[other.id].finished == 1


def test_what_cannot_be_used_is_told_and_loses_nothing_else(world: World) -> None:
    done = Path(world.hand_over()) / "done"
    world.people.submit(str(done.parent), world.names[0], [COLA])
    (done / "broken.json").write_text('{"images": [')
    (done / "notes.docx").write_bytes(b"x")
    formats.coco.save(table("of-something-else.jpg", [COLA]), CLASSES, done / "other.json")
    (done / "link.json").symlink_to("/etc/passwd")
    for path in done.iterdir():
        if not path.is_symlink():
            old(path)
    collected = world.collect()
    told = "\n".join(map(str, collected.problems))
    assert collected.fresh == [world.names[0]]
    assert all(name in told for name in ("broken.json", "notes.docx", "of-something-else.jpg"))
    assert "passwd" not in told


def test_a_file_that_is_still_growing_waits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    done = Path(world.hand_over()) / "done"
    growing = done / "export.json"
    formats.coco.save(table(world.names[0], [COLA]), CLASSES, growing)
    whole = growing.read_bytes()
    growing.write_bytes(whole[:50])
    monkeypatch.setattr(local.time, "sleep", lambda _: growing.write_bytes(whole[:90]))
    before = world.labeling.changed()[0]
    assert (collected := world.collect()).finished == 0
    assert "still changing" in str(collected.problems[0])
    growing.write_bytes(whole)
    assert world.labeling.changed()[0] != before
    monkeypatch.setattr(local.time, "sleep", lambda _: None)
    assert world.collect().finished == 1


def test_a_correction_of_one_picture_keeps_what_others_said_of_the_rest(world: World) -> None:
    place = world.hand_over()
    world.people.submit(place, world.names[0], [APPLE])
    world.people.submit(place, world.names[1], [COLA])
    world.collect()
    for path in (Path(place) / "done").iterdir():
        path.unlink()
    world.people.submit(place, world.names[1], [APPLE])
    world.collect()
    assert world.boxes(CLIP) == {world.names[0]: [APPLE], world.names[1]: [APPLE]}


def test_boxes_drawn_on_a_smaller_copy_and_shares_of_a_picture_are_both_understood(world: World) -> None:
    done = Path(world.hand_over()) / "done"
    half = table(world.names[0], [("apple", 2.0, 3.0, 10.0, 15.0)]).assign(width=SIZE[0] // 2, height=SIZE[1] // 2)
    formats.coco.save(half, CLASSES, done / "half.json")
    formats.yolo.save(table(world.names[1], [COLA]), CLASSES, done / "yolo")
    for path in done.rglob("*.*"):
        old(path)
    world.collect()
    said = world.lake(CLIP)
    assert said["width"].tolist() == [SIZE[0] // 2, SIZE[0]]
    assert world.boxes(CLIP)[world.names[1]] == [COLA]


@pytest.mark.parametrize("tool", ["folder", "cvat"])
def test_a_batch_that_was_given_up_and_is_chosen_again_is_looked_for_again(world: World, tool: str) -> None:
    world.hand_over()
    handed = label_batches.state(world.storage, world.batch.id, label_batches.HANDED) or {}
    label_batches.note(world.storage, world.batch.id, label_batches.HANDED, {**handed, "tool": tool})
    world.labeling.close(world.batch.id, "given up")
    # The same pictures are chosen, so it is the same batch.
    assert publish(world.storage).id == world.batch.id
    world.people.submit(world.hand_over(), world.names[0], [COLA])
    assert world.far(world.batch.id).closed == ""
    assert [*world.labeling.changed()[0]] == [world.batch.id]
    world.collect()
    assert world.boxes(CLIP) == {world.names[0]: [COLA]}


def test_two_people_may_draw_on_copies_of_different_sizes(world: World) -> None:
    done = Path(world.hand_over()) / "done"
    half = table(world.names[0], [("apple", 2.0, 3.0, 10.0, 15.0)]).assign(width=SIZE[0] // 2, height=SIZE[1] // 2)
    square = table(world.names[1], [APPLE]).assign(width=99, height=99)
    formats.coco.save(pd.concat([half, square]), CLASSES, done / "by-ada" / "half.json")
    formats.coco.save(table(world.names[0], [COLA]), CLASSES, done / "by-ben" / "whole.json")
    formats.coco.save(table(world.names[1], [COLA]), CLASSES, done / "by-ben" / "more.json")
    for path in done.rglob("*.json"):
        old(path)
    collected = world.collect()
    said = world.lake(CLIP)
    assert set(said["width"]) == {SIZE[0]}
    assert world.boxes(CLIP) == {world.names[0]: [APPLE, COLA], world.names[1]: [COLA]}
    assert "as 99x99, another shape than its own" in str(collected.problems[0])


def test_what_was_corrected_in_the_lake_stands_until_the_tool_says_something_else(world: World, tmp_path: Path) -> None:
    place, key = world.hand_over(), labels.annotations_key(world.batch.id, CLIP)
    world.people.submit(place, world.names[0], [APPLE])
    world.collect()
    formats.coco.save(table(world.names[0], [COLA]), CLASSES, tmp_path / "by-hand.json")
    world.storage.put(key, tmp_path / "by-hand.json")
    world.people.submit(place, world.names[1], [APPLE])
    world.collect()
    assert world.boxes(CLIP) == {world.names[0]: [COLA], world.names[1]: [APPLE]}
    world.storage.remove([key])
    world.people.submit(place, world.names[1], [COLA])
    world.collect()
    assert world.boxes(CLIP) == {world.names[1]: [COLA]}


def test_labels_in_the_lake_that_cannot_be_read_are_not_written_over(world: World) -> None:
    place, key = world.hand_over(), labels.annotations_key(world.batch.id, CLIP)
    world.people.submit(place, world.names[0], [APPLE])
    world.collect()
    world.storage.put(key, b'{"images": [')
    world.people.submit(place, world.names[1], [APPLE])
    (collected,) = world.labeling.collect()
    assert "cannot be read: not JSON" in collected.failed
    assert world.storage.get(key) == b'{"images": ['
    world.storage.remove([key])
    assert world.collect().fresh == [world.names[1]]


def test_settings_that_cannot_work_are_refused_with_what_to_set(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for settings, told in (
        ({"DETECTION_LABELING": "paper"}, "set it to one of: folder"),
        ({"DETECTION_LABELING": "folder", "DETECTION_LABELING_FORMAT": "mot"}, "set it to one of: coco"),
        ({"DETECTION_LABELING": "label_studio"}, "DETECTION_LABEL_STUDIO_URL is not set"),
        (
            {"DETECTION_LABELING": "label_studio", "DETECTION_LABEL_STUDIO_URL": "http://x"},
            "DETECTION_LABEL_STUDIO_KEY is not set",
        ),
    ):
        with monkeypatch.context() as patch:
            for name, value in settings.items():
                patch.setenv(name, value)
            with pytest.raises(profiles.SettingsError, match=told):
                profiles.resources_for("tiny", None, host="", port=0)

"""What only CVAT does: jobs of several pictures, stages and reviews, tasks whose pictures never came, refusals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from contract.test_labeling import APPLE, CLIP, COLA, publish
from fakes import cvat

from detection_assets.domain import formats
from detection_assets.domain.labels import Batch
from resources import label_batches
from resources.labeling.base import LabelingError
from resources.labeling.cvat import CvatLabeling
from resources.storage import Storage


@pytest.fixture
def server(cvat_server: cvat.Cvat) -> Iterator[cvat.Cvat]:
    cvat_server.tasks.clear()
    cvat_server.calls.clear()
    yield cvat_server
    cvat_server.before = lambda _: None


@pytest.fixture
def labeling(server: cvat.Cvat, tmp_path: Path) -> CvatLabeling:
    storage = Storage(root=str(tmp_path / "lake"), prefix="tiny")
    return CvatLabeling(storage=storage, detector="tiny", url=server.url, key=cvat.TOKEN, poll_s=0.02, pictures=3)


@pytest.fixture
def batch(labeling: CvatLabeling) -> Batch:
    return publish(labeling.storage)


def hand_over(labeling: CvatLabeling, batch: Batch) -> str:
    return labeling.hand_over(batch, label_batches.read(labeling.storage, batch.id)[1]).place


def brought(labeling: CvatLabeling, batch: Batch, place: str, folder: Path) -> tuple[Any, pd.DataFrame]:
    folder.mkdir()
    told = labeling.finished(batch, place, folder)
    return told, formats.load(list(told.files), folder).boxes


def test_a_jobs_pictures_are_finished_together_with_who_drew_them(
    labeling: CvatLabeling, batch: Batch, server: cvat.Cvat, tmp_path: Path
) -> None:
    place, names = hand_over(labeling, batch), batch.frames["name"].tolist()
    task = server.tasks[int(place)]
    assert [(job.start, job.stop) for job in task.jobs] == [(0, 2), (3, 4)]
    assert [frame[0] for frame in task.frames] == names, "in the order of their use"
    server.draw(task, names[0], [(*APPLE, {"source": "auto", "occluded": True}), COLA], "ada")
    server.draw(task, names[3], [COLA], "ben")
    server.finish(task, names[0])
    told, boxes = brought(labeling, batch, place, tmp_path / "first")
    assert list(told.done) == names[:3]
    assert boxes["annotator"].dropna().unique().tolist() == ["ada"]
    assert boxes.loc[boxes["class"].isna(), "frame_name"].tolist() == names[1:3], "nobody drew anything there"
    assert boxes["occluded"].dropna().tolist() == [True, False]
    assert not boxes["reviewed"].any()
    server.finish(task, names[3])
    server.finish(task, names[3], "acceptance")
    told, boxes = brought(labeling, batch, place, tmp_path / "second")
    assert list(told.done) == names
    of_ben = boxes[boxes["annotator"] == "ben"]
    assert of_ben.loc[of_ben["class"].notna(), "reviewed"].tolist() == [True]
    assert of_ben.loc[of_ben["class"].isna(), "frame_name"].tolist() == [names[4]], "that he saw nothing is his, too"


@pytest.mark.parametrize(("stage", "done"), [("annotation", 3), ("validation", 3), ("acceptance", 0)])
def test_a_stage_that_is_asked_for_has_to_be_completed(
    labeling: CvatLabeling, batch: Batch, server: cvat.Cvat, tmp_path: Path, stage: Any, done: int
) -> None:
    place, name = hand_over(labeling, batch), str(batch.frames["name"].iloc[0])
    asked = labeling.model_copy(update={"stage": stage})
    task, before = server.tasks[int(place)], asked.stamp(batch.id, place)
    server.draw(task, name, [APPLE])
    assert asked.stamp(batch.id, place) == before, "work in progress is none of ours"
    server.finish(task, name)
    server.finish(task, name, "validation")
    server.finish(task, name)
    assert len(brought(asked, batch, place, tmp_path / "out")[0].done) == done
    assert (asked.stamp(batch.id, place) != before) == bool(done)


def test_a_task_whose_pictures_never_came_is_made_anew(labeling: CvatLabeling, batch: Batch, server: cvat.Cvat) -> None:
    def ends(asked: str) -> None:
        if asked.startswith("POST") and asked.endswith("/data"):
            raise cvat.Refused(413, "Request Entity Too Large")

    server.before = ends
    with pytest.raises(LabelingError, match=r"refuses it \(413\).*Too Large"):
        hand_over(labeling, batch)
    (first,) = server.tasks
    server.before = lambda _: None
    second = hand_over(labeling, batch)
    assert list(server.tasks) == [int(second)] != [first]


def test_pictures_that_are_being_taken_in_are_waited_for(
    labeling: CvatLabeling, batch: Batch, server: cvat.Cvat
) -> None:
    def ends(asked: str) -> None:
        if "/api/requests" in asked:
            raise cvat.Refused(500, "somebody pulled the plug")

    server.before = ends
    with pytest.raises(LabelingError, match="somebody pulled the plug"):
        hand_over(labeling, batch)
    server.before = lambda _: None
    (first,) = server.tasks
    assert hand_over(labeling, batch) == str(first)
    assert len(server.tasks[first].shapes) == 3, "its proposals are there as well"


def test_two_that_make_a_task_at_once_leave_one(
    labeling: CvatLabeling, batch: Batch, server: cvat.Cvat, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, found = hand_over(labeling, batch), CvatLabeling._found
    looks: list[int] = []

    def blind(self: CvatLabeling, *given: Any) -> Any:
        looks.append(1)
        return None if len(looks) == 1 else found(self, *given)

    monkeypatch.setattr(CvatLabeling, "_found", blind)
    with pytest.raises(LabelingError, match=f"task {first}; run again"):
        hand_over(labeling, batch)
    assert list(server.tasks) == [int(first)]


def test_proposals_that_somebody_deleted_do_not_come_back(
    labeling: CvatLabeling, batch: Batch, server: cvat.Cvat
) -> None:
    place, names = hand_over(labeling, batch), batch.frames["name"].tolist()
    task = server.tasks[int(place)]
    assert {shape["source"] for shape in task.shapes} == {"auto"}
    for name in names:
        server.draw(task, name, [])
    assert hand_over(labeling, batch) == place
    assert task.shapes == []


def test_a_picture_that_is_none_is_named(labeling: CvatLabeling, batch: Batch, server: cvat.Cvat) -> None:
    labeling.storage.put(f"frames/{CLIP}/v1/000000.jpg", b"no picture")
    with pytest.raises(LabelingError, match=r"store-1_clip_000000\.jpg is no image"):
        hand_over(labeling, batch)


def test_a_picture_that_is_gone_from_the_lake_is_told_as_such(labeling: CvatLabeling, batch: Batch) -> None:
    labeling.storage.remove([f"frames/{CLIP}/v1/000000.jpg"])
    with pytest.raises(LabelingError, match=rf"{batch.id}: a picture is gone from the lake \(.*000000\.jpg.*--more"):
        labeling.request(batch.id)


def test_a_server_that_is_not_reached_is_asked_once_about_all_batches(labeling: CvatLabeling, batch: Batch) -> None:
    labeling.request(batch.id)
    labeling.request(publish(labeling.storage, first=60).id)
    silent = labeling.model_copy(update={"url": "http://127.0.0.1:9"})
    assert len(silent.changed()[1]) == 1


def test_a_label_that_cvat_does_not_take_is_told_before_anything_is_made(
    labeling: CvatLabeling, batch: Batch, server: cvat.Cvat
) -> None:
    long = Batch(batch.id, batch.frames, batch.proposals, "", ("a" * 65,))
    with pytest.raises(LabelingError, match="64 characters"):
        hand_over(labeling, long)
    assert not server.calls


def test_more_tasks_than_a_page_has_are_looked_through(labeling: CvatLabeling, batch: Batch, server: cvat.Cvat) -> None:
    place = hand_over(labeling, batch)
    title = server.tasks[int(place)].name
    for number in range(int(place) + 1, int(place) + 26):  # somebody copied it, later
        server.tasks[number] = cvat.Task(number, title, "", {}, 0)
    assert hand_over(labeling, batch) == place


def test_a_server_that_is_busy_is_asked_again(labeling: CvatLabeling, batch: Batch, server: cvat.Cvat) -> None:
    left = [503, 429]

    def busy(asked: str) -> None:
        if left and asked.startswith("GET"):
            raise cvat.Refused(left.pop(), "come back later")

    server.before = busy
    assert hand_over(labeling, batch)
    assert not left


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"key": "another"}, r"knows no such user.*DETECTION_CVAT_KEY"),
        ({"key": "", "user": "a", "password": "b"}, r"knows no such user.*user and password"),
        ({"organization": "other"}, "other organization does not exist"),
        ({"url": "http://127.0.0.1:9"}, r"was not reached.*DETECTION_CVAT_URL"),
    ],
)
def test_what_is_wrong_with_the_settings_is_told_and_by_the_doctor_too(
    labeling: CvatLabeling, batch: Batch, given: dict[str, str], told: str
) -> None:
    wrong = labeling.model_copy(update=given)
    with pytest.raises(LabelingError, match=told):
        hand_over(wrong, batch)
    assert next(iter(wrong.check())).state == "bad"


def test_a_password_and_an_organization_do_as_well(labeling: CvatLabeling, batch: Batch, server: cvat.Cvat) -> None:
    ours = labeling.model_copy(
        update={"key": "", "user": cvat.USER, "password": cvat.PASSWORD, "organization": cvat.ORGANIZATION}
    )
    (good,) = ours.check()
    assert (good.state, cvat.VERSION in good.told) == ("good", True)
    place = hand_over(ours, batch)
    assert server.tasks[int(place)].organization == cvat.ORGANIZATION
    with pytest.raises(LabelingError, match=r"does not allow it.*DETECTION_CVAT_ORG"):
        labeling.stamp(batch.id, place)

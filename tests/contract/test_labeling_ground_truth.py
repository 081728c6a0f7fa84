"""What only Ground Truth does: jobs that end, several workers, a page for them, refusals and rights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from e2e.test_aws import rights_of
from fakes import ground_truth, sagemaker

from detection_assets.domain import formats, labels
from resources import label_batches
from resources.amazon_labeling import manifest, page
from resources.labeling.aws import GroundTruthLabeling
from resources.labeling.base import LabelingError

PLATFORMS = ["aws"]
CLASSES = ("apple", 'a "b" </x> {{ c }}')
NAMES = ["a_000000.jpg", "a_000001.jpg", "b_000000.jpg"]
PROPOSED = [
    ("a_000000.jpg", "apple", 10.4, 20.0, 110.0, 220.0, 0.9),
    ("a_000000.jpg", CLASSES[1], -5.0, 20.0, 110.0, 700.0, 0.4),
    ("b_000000.jpg", "apple", 50.2, 20.0, 50.3, 220.0, 0.3),
]
BOX = {"label": "apple", "left": 10, "top": 20, "width": 30, "height": 40}


@pytest.fixture
def jobs(sagemaker_service: sagemaker.SageMaker) -> Iterator[ground_truth.LabelingJobs]:
    there = sagemaker_service.labeling
    there.jobs.clear()
    sagemaker_service.calls.clear()
    yield there
    there.jobs.clear()
    there.together = True


@pytest.fixture
def labeling(platform: Any, jobs: ground_truth.LabelingJobs) -> GroundTruthLabeling:
    return GroundTruthLabeling(
        storage=platform.storage, detector="tiny", role=sagemaker.ROLE, workteam=ground_truth.TEAM
    )


@pytest.fixture
def batch(platform: Any) -> labels.Batch:
    return made(platform.storage, PROPOSED)


def made(storage: Any, proposed: list[tuple[Any, ...]]) -> labels.Batch:
    """A batch of three pictures of two videos, published."""
    rows = [
        (name, f"{name[0]}.mp4", f"{name[0]}.mp4#{int(name[2:8])}", int(name[2:8]), 0.5, f"frames/{name}", 640, 480)
        for name in NAMES
    ]
    frames = pd.DataFrame([(*row, "frame", "doubtful", i) for i, row in enumerate(rows)], columns=labels.COLUMNS)
    for name in NAMES:
        storage.put(f"frames/{name}", b"picture")
    proposals = pd.DataFrame(proposed, columns=labels.PROPOSED)
    one = labels.Batch(labels.batch_id(frames, CLASSES), frames, proposals, "3", CLASSES)
    label_batches.publish(storage, one, {})
    return one


def hand_over(labeling: GroundTruthLabeling, batch: labels.Batch) -> Any:
    return labeling.hand_over(batch, label_batches.read(labeling.storage, batch.id)[1])


def boxes_of(found: Any, folder: Path) -> list[tuple[Any, ...]]:
    """What the files say: picture, class, corners and annotator."""
    table = formats.load(list(found.files), folder).boxes
    told = table[["frame_name", "class", "x1", "y1", "x2", "y2", "annotator"]].astype(object)
    return [tuple(row) for row in told.where(told.notna(), None).itertuples(index=False)]


def test_workers_see_the_picture_the_classes_and_the_proposals(
    labeling: GroundTruthLabeling, batch: labels.Batch, jobs: ground_truth.LabelingJobs
) -> None:
    handed = hand_over(labeling, batch)
    assert handed.link == f"https://{ground_truth.PORTAL}"
    (job,) = jobs.jobs.values()
    assert job.name == handed.place
    assert (job.status, job.failure) == ("InProgress", "")
    seen = jobs.page(job, 0)
    assert seen.src.startswith("https://signed/")
    assert seen.src.endswith("/frames/a_000000.jpg")
    assert seen.labels == list(CLASSES)
    assert seen.boxes == [
        {"label": "apple", "left": 10, "top": 20, "width": 100, "height": 200},
        {"label": CLASSES[1], "left": 0, "top": 20, "width": 110, "height": 460},
    ]
    assert CLASSES[1] in seen.text, "the page says which classes there are, whatever they are called"
    assert jobs.page(job, 2).boxes == [], "a box that is no pixel wide is none"


def test_without_proposals_it_is_a_job_of_drawing(
    platform: Any, labeling: GroundTruthLabeling, jobs: ground_truth.LabelingJobs
) -> None:
    hand_over(labeling, made(platform.storage, []))
    (job,) = jobs.jobs.values()
    assert job.task["PreHumanTaskLambdaArn"].endswith(":PRE-BoundingBox")
    assert job.status == "InProgress"
    assert jobs.page(job, 0).boxes == []


def test_each_of_several_workers_has_a_say(
    labeling: GroundTruthLabeling, batch: labels.Batch, jobs: ground_truth.LabelingJobs, tmp_path: Path
) -> None:
    two = labeling.model_copy(update={"workers": 2})
    place = hand_over(two, batch).place
    job = jobs.jobs[place]
    jobs.submit(job, 0, [BOX], "anna")
    assert two.finished(batch, place, tmp_path / "none").done == [], "one of two is half"
    jobs.together = False
    jobs.submit(job, 0, [], "ben")
    jobs.submit(job, 1, [{**BOX, "left": 11}], "ben")
    found = two.finished(batch, place, tmp_path)
    assert found.done == ["a_000000.jpg"]
    who = f"private.{ground_truth.s3.REGION}.anna"
    assert ("a_000000.jpg", "apple", 10.0, 20.0, 40.0, 60.0, who) in boxes_of(found, tmp_path)


def test_what_only_the_manifest_has_is_read_from_it(
    labeling: GroundTruthLabeling, batch: labels.Batch, jobs: ground_truth.LabelingJobs, tmp_path: Path
) -> None:
    place = hand_over(labeling, batch).place
    jobs.submit(jobs.jobs[place], 1, [BOX])
    labeling.storage.delete(f"label_work/{batch.id}/ground_truth/{place}/annotations")
    found = labeling.finished(batch, place, tmp_path)
    assert list(found.done) == ["a_000001.jpg"]
    assert boxes_of(found, tmp_path) == [("a_000001.jpg", "apple", 10.0, 20.0, 40.0, 60.0, None)]


def test_what_nobody_labelled_in_time_is_told_and_handed_over_by_a_job_more(
    labeling: GroundTruthLabeling, batch: labels.Batch, jobs: ground_truth.LabelingJobs, tmp_path: Path
) -> None:
    place = hand_over(labeling, batch).place
    job = jobs.jobs[place]
    jobs.submit(job, 0, [BOX])
    jobs.submit(job, 1, [])
    jobs.expire(job, 2)
    assert job.status == "Completed"
    found = labeling.finished(batch, place, tmp_path)
    assert list(found.done) == NAMES[:2]
    assert [(problem.place, problem.what) for problem in found.problems] == [
        ("b_000000.jpg", "Ground Truth: ClientError: task expired"),
        ("", "the labeling job is Completed, and 1 pictures are not labelled"),
    ]
    assert hand_over(labeling, batch).place == place
    assert sorted(jobs.jobs) == [place, f"{place}-2"]
    assert [line["frame"] for line in jobs.jobs[f"{place}-2"].lines] == ["b_000000.jpg"]
    hand_over(labeling, batch)
    assert len(jobs.jobs) == 2, "one that is at work is enough"
    jobs.submit(jobs.jobs[f"{place}-2"], 0, [BOX], "ben")
    (tmp_path / "all").mkdir()
    found = labeling.finished(batch, place, tmp_path / "all")
    assert list(found.done) == NAMES
    assert sorted(row[0] for row in boxes_of(found, tmp_path)) == NAMES


def test_a_job_that_was_stopped_or_failed_says_so(
    labeling: GroundTruthLabeling, batch: labels.Batch, jobs: ground_truth.LabelingJobs, tmp_path: Path
) -> None:
    place = hand_over(labeling, batch).place
    job = jobs.jobs[place]
    jobs.submit(job, 0, [BOX])
    jobs.answer("StopLabelingJob", {"LabelingJobName": place})
    (tmp_path / "stopped").mkdir()
    found = labeling.finished(batch, place, tmp_path / "stopped")
    assert list(found.done) == NAMES[:1], "what is finished is finished"
    assert "is Stopped, and 2 pictures" in found.problems[-1].what
    job.status, job.failure = "Failed", "ClientError: the role may not read the pictures"
    found = labeling.finished(batch, place, tmp_path)
    assert "is Failed: ClientError: the role may not read the pictures" in found.problems[-1].what


def test_answers_that_are_none_lose_nothing_else(
    labeling: GroundTruthLabeling, batch: labels.Batch, jobs: ground_truth.LabelingJobs, tmp_path: Path
) -> None:
    place = hand_over(labeling, batch).place
    job, below = jobs.jobs[place], f"label_work/{batch.id}/ground_truth/{place}"
    jobs.submit(job, 0, [BOX, {**BOX, "left": None}, {**BOX, "width": "wide"}])
    responses = f"{below}/annotations/worker-response/iteration-1"
    labeling.storage.put(f"{responses}/1/half.json", b'{"answers": [')
    labeling.storage.put(f"{responses}/1/other.json", b'{"answers": [{"workerId": "x", "answerContent": {}}, 7]}')
    labeling.storage.put(f"{responses}/99/far.json", b"{}")
    labeling.storage.put(f"{below}/manifests/output/output.manifest", b'7\n{"frame": "a_000001.jpg"}\n{"fr')
    found = labeling.finished(batch, place, tmp_path)
    assert list(found.done) == NAMES[:1]
    assert len(boxes_of(found, tmp_path)) == 1
    assert [problem.what for problem in found.problems] == [
        "2 of 3 boxes have no label or no place",
        "not JSON",
        "an answer without boundingBoxes",
        "not a JSON object",
    ]


def test_two_at_once_make_one_job(
    labeling: GroundTruthLabeling,
    batch: labels.Batch,
    jobs: ground_truth.LabelingJobs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = hand_over(labeling, batch)
    with monkeypatch.context() as patch:
        # As if neither had seen the other's.
        patch.setattr(GroundTruthLabeling, "_jobs", lambda *_: [])
        assert hand_over(labeling, batch) == first
    assert list(jobs.jobs) == [first.place]
    elsewhere = labeling.model_copy(update={"storage": labeling.storage.model_copy(update={"prefix": "other"})})
    assert elsewhere.job_of(batch.id) != first.place
    longest = labeling.model_copy(update={"detector": "a_very_long_name_of_a_detector_" * 3})
    assert len(longest.job_of(batch.id, 99)) <= 63


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"workteam": f"{ground_truth.TEAM}-2"}, r"workteam.*DETECTION_AWS_WORKTEAM"),
        ({"role": "arn:aws:iam::123456789012:role/another"}, "DETECTION_AWS_ROLE"),
        ({"account": "123456789012"}, "are no pair of here"),
        ({"workteam": "labellers"}, "workteam"),
    ],
)
def test_refusals_say_what_to_set(
    labeling: GroundTruthLabeling,
    batch: labels.Batch,
    jobs: ground_truth.LabelingJobs,
    given: dict[str, str],
    told: str,
) -> None:
    with pytest.raises(LabelingError, match=told):
        hand_over(labeling.model_copy(update=given), batch)
    assert not jobs.jobs


def test_a_region_whose_functions_are_not_known_says_what_to_set(
    labeling: GroundTruthLabeling, batch: labels.Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    with pytest.raises(LabelingError, match=r"eu-north-1.*DETECTION_AWS_LABELING_ACCOUNT"):
        hand_over(labeling, batch)


def test_a_job_that_is_not_there_says_where_it_was_looked_for(
    labeling: GroundTruthLabeling, batch: labels.Batch, tmp_path: Path
) -> None:
    with pytest.raises(LabelingError, match=r"no labeling job tiny.*--close lb-"):
        labeling.finished(batch, "tiny", tmp_path)


def test_the_doctor_looks_for_the_team_and_for_browsers(
    platform: Any, labeling: GroundTruthLabeling, s3_server: str
) -> None:
    from resources import amazon

    bucket = platform.storage.uri.removeprefix("s3://").partition("/")[0]
    team, browsers = labeling.check()
    assert (team.state, browsers.state) == ("good", "bad")
    assert "infra/aws/template.yaml" in browsers.remedy
    rule = {"AllowedMethods": ["GET"], "AllowedOrigins": ["*"]}
    amazon.client("s3").put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [rule]})
    try:
        assert [one.state for one in labeling.check()] == ["good", "good"]
    finally:
        amazon.client("s3").delete_bucket_cors(Bucket=bucket)
    other = labeling.model_copy(update={"workteam": f"{ground_truth.TEAM}-2"})
    assert next(iter(other.check())).state == "bad"
    vendor = ground_truth.TEAM.replace("private-crowd/labellers", "vendor-crowd/boxes-inc")
    assert next(iter(labeling.model_copy(update={"workteam": vendor}).check())).state == "bad", "nobody has subscribed"
    crowd = ground_truth.TEAM.replace("private-crowd/labellers", "public-crowd/default")
    assert "private" in next(iter(labeling.model_copy(update={"workteam": crowd}).check())).remedy


def test_the_rights_are_those_that_are_used(
    labeling: GroundTruthLabeling, batch: labels.Batch, sagemaker_service: sagemaker.SageMaker, tmp_path: Path
) -> None:
    labeling.finished(batch, hand_over(labeling, batch).place, tmp_path)
    list(labeling.model_copy(update={"workteam": ground_truth.TEAM.replace("private", "vendor")}).check())
    used = {f"sagemaker:{operation}" for operation in sagemaker_service.calls}
    given = rights_of("DagsterPolicy", "Labeling") | rights_of("DagsterPolicy", "LabelingTeam")
    assert used | {"sagemaker:AddTags"} == given, "no right too few, and none too many"


def test_words_of_the_template_language_in_a_title_are_words() -> None:
    text = page("{{ task }} {% if %} <b>", "plain", adjust=False).decode()
    assert "<b>" not in text
    assert "{{ task }}" not in text
    assert "{%" not in text


def test_a_class_that_is_not_asked_for_is_not_proposed() -> None:
    frames = pd.DataFrame([("a.jpg", 640, 480, 0)], columns=["name", "width", "height", "rank"])
    proposals = pd.DataFrame([("a.jpg", "pear", 1.0, 1.0, 9.0, 9.0, 0.5)], columns=labels.PROPOSED)
    batch = labels.Batch("lb-1", frames, proposals, "3", ("apple",))
    assert b'"annotations":[]' in manifest(batch, ["a.jpg"], {"a.jpg": "s3://b/a.jpg"}, adjust=True)

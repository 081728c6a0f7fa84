"""Annotations that come and change: what is reported, versioned, compared, and known of an evaluation."""

from __future__ import annotations

import io
import os
from datetime import datetime, timezone
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from assets.annotated import FRAMES, NAME, VIDEOS, Annotated, box, rows_of
from forked import Command
from project import give_mlflow
from rich.console import Console

from detection_assets.commands import annotations as commands
from detection_assets.domain import layout, snapshot
from detection_assets.domain.problems import InputError
from resources import provenance, table_versions, tables
from resources.instance import open_instance


@pytest.fixture
def annotated(home: Path) -> Annotated:
    return Annotated(home)


def test_every_run_leaves_a_report_that_an_annotator_can_work_through(annotated: Annotated) -> None:
    one, other = VIDEOS
    annotated.annotate(one, [box(0, 10), box(0, 90), box(1, 10, width=0), box(2, 10, "kiwi"), box(9, 10)])
    annotated.annotate(other, [box(0, 10)])
    annotated.storage.put("annotations/store-1/clip/=broken.xml", b"<annotation><object>")
    annotated.storage.put("annotations/notes.xml", b"<annotation><object>")
    annotated.run("annotations")

    told = annotated.told("annotations", one)
    assert told["problems by kind"] == {
        **{"no area, dropped": 1, "out of frame, clipped": 1, "unknown class, dropped": 1, "unknown frame, dropped": 1},
        **{"unreadable, skipped": 2, "flat, kept": 1},
    }
    rows = [row for key in told["problem reports"] for row in rows_of(annotated.storage.get(key))]
    clipped = next(row for row in rows if row["action"] == "clipped")
    assert clipped["video"] == one
    assert clipped["frame"] == f"{one}#000000"
    assert [clipped[side] for side in ("class", "x1", "y1", "x2", "y2")] == ["apple", "90.0", "10.0", "110.0", "30.0"]
    assert clipped["place"] == "annotation 2"
    assert all(row["remedy"] for row in rows), rows
    assert {row["file"] for row in rows if row["kind"] == "unreadable"} >= {"annotations/store-1/clip/=broken.xml"}
    assert annotated.told("annotations", other)["problems by kind"] == {"unreadable, skipped": 1}


def detection(*words: str) -> tuple[int, str]:
    return Command({**os.environ, "COLUMNS": "250"}, *words).end()


def test_versions_are_told_apart_by_what_changed_and_by_whom(annotated: Annotated, tmp_path: Path) -> None:
    one, other = VIDEOS
    annotated.annotate(one, [box(0, 10), box(0, 50), box(1, 10)])
    annotated.annotate(other, [box(0, 10)])
    annotated.run("annotations")
    first = annotated.version(one)
    assert "since the last version" not in annotated.told("annotations", one)
    annotated.run("annotations")
    assert "since the last version" not in annotated.told("annotations", one), "made again without a change"
    between = datetime.now(timezone.utc).isoformat()
    annotated.annotate(one, [box(0, 14, who="bob"), box(0, 50, "banana", "bob"), box(2, 10), box(2, 50)])
    annotated.run("annotations")
    second = annotated.version(one)
    sentence = (
        "+2 boxes by ada, -1, 1 moved by bob, 1 re-classed by bob, 1 frame newly annotated, 1 frame no longer annotated"
    )
    assert annotated.told("annotations", one)["since the last version"] == sentence
    assert "since the last version" not in annotated.told("annotations", other)

    with open_instance() as instance:
        found = table_versions.history(instance, annotated.storage, dg.AssetKey([NAME, "annotations"]), VIDEOS)
    assert [version.version for version in found[one]] == [first, second]
    assert len(found[other]) == 1, "what was made again counts once, and the version over both videos not at all"
    for said, meant in (
        ("~0", second),
        ("~1", first),
        (first[:6], first),
        (between, first),
        ("2020-01-01", None),
        ("~9", None),
    ):
        picked = table_versions.pick(found[one], said, one)
        assert (picked.version if picked else None) == meant, said
    for said in ("ffffffff", "yesterday", "abc"):
        with pytest.raises(InputError):
            table_versions.pick(found[one], said, one)

    code, told = detection("diff", NAME, one, first, "~0", "--csv", str(tmp_path / "diff.csv"))
    assert code == 0, told
    assert sentence in told
    assert f"{first} (" in told
    rows = rows_of((tmp_path / "diff.csv").read_bytes())
    assert {(row["change"], row["class_after"], row["by"]) for row in rows} >= {
        ("moved", "apple", "bob"),
        ("re-classed", "banana", "bob"),
    }
    out = Console(width=250, record=True, file=io.StringIO())
    commands.differences(out, NAME, None, between, "~0", None)
    assert "1 of 2 videos changed" in out.export_text()
    code, told = detection("versions", NAME, one)
    assert code == 0, told
    assert all(version in told for version in (first, second))
    with pytest.raises(InputError, match=f"did you mean {one}"):
        commands.differences(out, NAME, "store-1/clip.mp5", "~1", "~0", None)


def test_reports_come_by_command_and_say_whether_work_was_lost(annotated: Annotated, tmp_path: Path) -> None:
    one, other = VIDEOS
    annotated.annotate(one, [box(0, 90)], "=boxes")
    annotated.annotate(other, [box(0, 10)])
    annotated.run("annotations")
    out = Console(width=250, record=True, file=io.StringIO())
    assert commands.problems(out, NAME, None, None) == 0
    told = out.export_text()
    assert "out of frame" in told
    assert "1 problems in the annotations of 2 videos, 0 of them dropped" in told
    annotated.annotate(other, [box(0, 10, width=0)])
    annotated.run("annotations")
    code, told = detection("problems", NAME, other, "--csv", str(tmp_path))
    assert (code, "is a folder; name a file in it" in told) == (2, True), told
    code, told = detection("problems", NAME, other, "--csv", str(tmp_path / "problems.csv"))
    assert code == 1, told
    assert [row["kind"] for row in rows_of((tmp_path / "problems.csv").read_bytes())] == ["flat", "no area"]


def test_two_people_on_one_video_are_put_together_as_the_detector_says(annotated: Annotated) -> None:
    one, other = VIDEOS
    boxes = [box(0, 10), box(0, 12, who="bob"), box(0, 60, who="bob"), box(1, 10), box(1, 12, "banana", "bob")]
    annotated.annotate(one, boxes)
    annotated.annotate(other, [box(0, 10)])
    run = annotated.run("annotations")
    table = tables.read(annotated.storage, "annotations", [one])
    assert table["annotator"].tolist() == ["bob"] * 3, "the last one in the file"
    check = annotated.checks(run)["annotators_agree"]
    assert not check.passed
    assert check.severity.name == "WARN"
    assert "ada and bob" in check.description
    assert "data:image/jpeg" in check.metadata["pictures"].value
    single = annotated.version(other)
    annotated.write(annotations={"policy": "union"})
    annotated.run("annotations")
    table = tables.read(annotated.storage, "annotations", [one])
    assert table["annotator"].tolist() == ["ada, bob", "bob", "ada, bob"]
    assert annotated.version(other) == single, "where one person annotated, nothing changes"
    annotated.write(annotations={"policy": "consensus", "agreement": 0.1})
    run = annotated.run("annotations")
    assert tables.read(annotated.storage, "annotations", [one])["x1"].tolist() == [11.0, 11.0]
    assert annotated.checks(run)["annotators_agree"].passed
    code, told = detection("agreement", NAME)
    assert code == 0, told
    assert "all classes" in told
    assert f"{one}#000001" in told


def test_an_evaluation_knows_the_annotations_it_was_made_on(
    annotated: Annotated, empty_mlflow: Path, tmp_path: Path
) -> None:
    give_mlflow(annotated.home, empty_mlflow)
    for number, video in enumerate(VIDEOS):
        annotated.annotate(video, [box(at, 10 + at + number) for at in range(FRAMES)])
    annotated.run("annotations")
    annotated.train(tmp_path)
    annotated.run("detection_dataset", "evaluation")
    evaluated = tables.read(annotated.storage, "evaluation").iloc[0]
    published = annotated.storage.published(layout.dataset(evaluated["dataset_version"]))
    assert published is not None
    with annotated.storage.local_copy(published.folder) as folder:
        judged = snapshot.read(folder)
    test = judged.images[judged.images["split"] == "test"]
    then = {video: annotated.version(video) for video in VIDEOS}

    # Everything changes afterwards: the boxes, the dataset.
    for video in VIDEOS:
        annotated.annotate(video, [box(at, 40, "banana", "bob") for at in range(FRAMES)])
    annotated.run("annotations")
    annotated.run("detection_dataset")
    assert (
        tables.read(annotated.storage, "detection_dataset")["dataset_version"].iloc[0] != evaluated["dataset_version"]
    )

    found = provenance.of(annotated.storage, evaluated["evaluation_version"][:-4])
    assert found.evaluation == evaluated["evaluation_version"]
    assert sorted(found.frames["frame"]) == sorted(test["frame"])
    assert {*zip(found.frames["video"], found.frames["annotations"], strict=True)} <= {*then.items()}
    frames = tables.read(annotated.storage, "extracted_frames", VIDEOS).assign(group="g")
    again = snapshot.labelled(frames, found.truth(annotated.storage), ["apple", "banana"])
    expected = judged.boxes[judged.boxes["frame"].isin(test["frame"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(again.boxes.reset_index(drop=True), expected)
    assert len(expected)

    code, told = detection("provenance", NAME, "--csv", str(tmp_path / "judged.csv"))
    assert code == 0, told
    assert evaluated["evaluation_version"] in told
    assert all(version in told for version in found.frames["annotations"])
    rows = rows_of((tmp_path / "judged.csv").read_bytes())
    assert {row["frame"] for row in rows} == {*test["frame"]}
    assert {row["class"] for row in rows} == {"apple"}
    with pytest.raises(InputError, match="no evaluation begins so; there are"):
        provenance.of(annotated.storage, "no-such")
    assert "judged on" in annotated.told("evaluation")

"""What is particular about MOTChallenge files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from detection_assets.domain import formats
from detection_assets.domain.problems import InputError

CORNERS = ["x1", "y1", "x2", "y2"]
SEQINFO = "[Sequence]\nname=MOT17-04\nimDir=img1\nframeRate=30\nseqLength=4\nimWidth=1920\nimHeight=1080\nimExt=.jpg\n"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_ground_truth_of_the_benchmark(tmp_path: Path) -> None:
    gt = write(
        tmp_path / "MOT17-04" / "gt" / "gt.txt",
        "1,2,1,1,1920,1080,1,1,1\n1,3,101,201,10,20,0,7,0.25\n4,2,5,5,1,1,1,3,1\n",
    )
    info = write(tmp_path / "MOT17-04" / "seqinfo.ini", SEQINFO)
    parsed = formats.load([gt, info], tmp_path)
    assert parsed.problems == []
    boxes = parsed.boxes
    assert boxes["frame_index"].tolist() == [0, 0, 3, 1, 2], "frames count from 1; those without boxes are empty"
    assert boxes["class"].tolist() == ["pedestrian", "static person", "car", None, None]
    assert boxes.loc[:1, CORNERS].to_numpy().tolist() == [[0, 0, 1920, 1080], [100, 200, 110, 220]]
    assert boxes["track"].tolist() == ["2", "3", "2", None, None]
    assert boxes["attributes"].tolist() == [None, '{"ignored":true,"visibility":0.25}', None, None, None]
    assert boxes["confidence"].isna().all(), "the flag is no confidence"
    assert (boxes["width"] == 1920).all()
    assert boxes["frame_name"].isna().all()


def test_detections_have_a_confidence_and_no_track(tmp_path: Path) -> None:
    det = write(
        tmp_path / "a" / "det" / "det.txt",
        "1, -1, 1359.1, 413.27, 120.26, 362.77, 0.5, -1, -1, -1\n2,-1,1,1,2,2,-1,-1,-1,-1\n",
    )
    write(tmp_path / "a" / "seqinfo.ini", SEQINFO)
    boxes = formats.load([det], tmp_path).boxes
    assert boxes["class"].tolist() == ["pedestrian", "pedestrian"], "without boxes a detector says nothing of a frame"
    assert boxes["track"].isna().all()
    assert boxes["confidence"].fillna(-7).tolist() == [0.5, -7]
    np.testing.assert_allclose(boxes.loc[0, CORNERS].tolist(), [1358.1, 412.27, 1478.36, 775.04])


def test_where_there_are_names_corners_are_as_annotation_tools_write_them(tmp_path: Path) -> None:
    gt = write(tmp_path / "gt" / "gt.txt", "1,1,0,0,10,10,1,2,1\n1,2,0,0,10,10,1,3,1\n")
    write(tmp_path / "gt" / "labels.txt", "apple\nкола\n")
    parsed = formats.load([gt, tmp_path / "gt" / "labels.txt"], tmp_path)
    assert parsed.boxes["class"].tolist() == ["кола"]
    assert parsed.boxes.loc[0, CORNERS].tolist() == [0, 0, 10, 10]
    assert [(problem.place, "labels.txt" in problem.done) for problem in parsed.problems] == [("line 2", True)]


def test_lines_that_are_wrong_are_named_one_by_one(tmp_path: Path) -> None:
    lines = ["1,1,5,5,2,2,1,1,1", "", "0,1,5,5,2,2,1,1,1", "2,1,5,x,2,2,1,1,1", "3,1,5", "1.5,1,5,5,2,2,1,1,1"]
    lines += ["4,1,5,5,2,2,1,99,1", "5,1,inf,5,2,2,1,1,1"]
    parsed = formats.load([write(tmp_path / "gt.txt", "\n".join(lines))], tmp_path)
    assert parsed.boxes["frame_index"].tolist() == [0, 4]
    assert sorted(problem.place for problem in parsed.problems) == [f"line {i}" for i in (3, 4, 5, 6, 7)]


def test_a_frame_whose_line_could_not_be_read_is_not_empty(tmp_path: Path) -> None:
    gt = write(tmp_path / "gt.txt", "1,1,5,5,2,2,1,1,1\n2,1,x,5,2,2,1,1,1\n")
    write(tmp_path / "seqinfo.ini", SEQINFO.replace("=4", "=3"))
    assert formats.load([gt], tmp_path).boxes["frame_index"].tolist() == [0, 2]


def test_files_of_several_sequences_say_whose_frames_they_speak_of(tmp_path: Path) -> None:
    line = "3,1,5,5,2,2,1,1,1\n"
    files = [write(tmp_path / name / "gt" / "gt.txt", line) for name in ("a", "b")]
    write(tmp_path / "b" / "seqinfo.ini", "[Sequence]\nname=../x/clip.avi\n")
    assert formats.load(files, tmp_path).boxes["frame_name"].tolist() == ["a.mp4/000002", "clip.avi/000002"]


@pytest.mark.parametrize(
    "info",
    [
        "[Sequence]\nseqLength=99999999999\nimWidth=-1\n",
        "[Sequence\n",
        "name=%(x)s\n",
        "[Sequence]\nname=%(name)s\n",
        "[]",
    ],
)
def test_a_seqinfo_of_nonsense_loses_no_box(tmp_path: Path, info: str) -> None:
    gt = write(tmp_path / "gt.txt", "1,1,5,5,2,2,1,1,1\n")
    write(tmp_path / "seqinfo.ini", info)
    parsed = formats.load([gt], tmp_path)
    assert len(parsed.boxes) == 1
    assert parsed.boxes["width"].isna().all()


def table(**columns: object) -> pd.DataFrame:
    row = {"frame_name": "000000.jpg", "frame_index": 0, "width": 9, "height": 9, "class": "cat", "track": None}
    return pd.DataFrame({**row, **dict.fromkeys(CORNERS, 1.0), **columns})


def test_what_is_written_differently_is_told(tmp_path: Path) -> None:
    boxes = table(
        frame_index=[2, 4, 6],
        frame_name=["a.jpg", "b.jpg", "c.jpg"],
        track=["7", "left one", None],
        width=[9, 8, 9],
        attributes=['{"ignored": true, "visibility": 0.5}', '{"visibility": 3, "x": 1}', None],
    )
    boxes.loc[2, ["class"]] = None
    saved = formats.mot.save(boxes, ["cat"], tmp_path / "out")
    assert [problem.place for problem in saved.problems] == ["track", "", "frame_name", "imWidth", "attributes"]
    assert (tmp_path / "out" / "gt" / "gt.txt").read_text().splitlines() == [
        "3,7,1.0,1.0,0.0,0.0,0,1,0.5",
        "5,8,1.0,1.0,0.0,0.0,1,1,1",
    ]
    assert formats.load(saved.files, tmp_path).boxes["track"].tolist() == ["7", "8"]


@pytest.mark.parametrize(
    ("boxes", "classes", "words"),
    [
        (table(frame_index=[None]), ["cat"], "frame_index"),
        (table(frame_name=["a.jpg", "b.jpg"]), ["cat"], "both number 0"),
        (table(frame_index=[0]), ["cat", "a\nb"], "single line"),
    ],
)
def test_save_refuses_before_writing(tmp_path: Path, boxes: pd.DataFrame, classes: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        formats.mot.save(boxes, classes, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("far", ["inf", "1e312", "-inf"])
def test_infinities_are_no_tracks_and_no_classes(tmp_path: Path, far: str) -> None:
    (tmp_path / "a.txt").write_text(f"1,{far},1,1,9,9,1,1,1\n2,3,1,1,9,9,1,{far},1\n3,3,1,1,9,9,1,2,1\n")
    parsed = formats.load([tmp_path / "a.txt"], tmp_path)
    assert parsed.boxes["track"].tolist() == [None, "3"]
    assert [problem.place for problem in parsed.problems] == ["line 2"]

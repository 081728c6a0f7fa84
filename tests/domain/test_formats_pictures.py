"""What is particular about LabelMe and OpenImages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from detection_assets.domain import formats
from detection_assets.domain.problems import InputError

CORNERS = ["x1", "y1", "x2", "y2"]
HEADER = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"


def write(path: Path, content: str | dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def shape(label: str, kind: str, points: list[list[float]], **more: Any) -> dict[str, Any]:
    return {"label": label, "shape_type": kind, "points": points, "group_id": None, "flags": {}, **more}


@pytest.mark.parametrize(
    ("kind", "points", "corners"),
    [
        ("rectangle", [[5, 6], [1, 2]], [1, 2, 5, 6]),
        ("polygon", [[1, 2], [5, 3], [4, 9]], [1, 2, 5, 9]),
        ("circle", [[10, 10], [13, 14]], [5, 5, 15, 15]),
        ("mask", [[1, 2], [4, 8]], [1, 2, 5, 9]),
        ("rotation", [[5, 0], [10, 5], [5, 10], [0, 5]], [0, 0, 10, 10]),
        (None, [[1, 2], [5, 3], [4, 9]], [1, 2, 5, 9]),
    ],
)
def test_labelme_shapes_become_their_boxes(
    tmp_path: Path, kind: str, points: list[list[float]], corners: list[float]
) -> None:
    content = {"shapes": [shape("cat", kind, points)], "imagePath": "..\\pics\\a.jpg", "imageData": "no base64!"}
    parsed = formats.load([write(tmp_path / "x.json", content)], tmp_path)
    assert parsed.boxes[CORNERS].to_numpy().tolist() == [corners]
    assert parsed.boxes["frame_name"].tolist() == ["a.jpg"], "a path upwards says nothing about our folders"
    assert ["boxes around" in problem.done for problem in parsed.problems] == ([] if kind == "rectangle" else [True])


def test_labelme_reads_what_it_can(tmp_path: Path) -> None:
    content = {
        "flags": {"blurred": True, "night": False},
        "imageWidth": 10,
        "imageHeight": None,
        "shapes": [
            shape(
                "cat", "rectangle", [[0, 0], [1, 1]], group_id=7, flags={"occluded": True, "wet": True, "dry": False}
            ),
            shape("cat", "rectangle", [[2, 2], [3, 3]], group_id=7, description=" odd ", difficult=True, score=0.5),
            shape("cat", "polygon", [[0, 0], [1, 0], [1, 1]], group_id=8),
            shape("cat", "polygon", [[8, 8], [9, 8], [9, 9]], group_id=8),
            shape("dog", "polygon", [[8, 8], [9, 8], [9, 9]], group_id=8),
            shape("nose", "point", [[1, 1]]),
            shape(" ", "rectangle", [[0, 0], [1, 1]]),
            shape("cat", "rectangle", [[0, "0"], [1, 1]]),
            shape("cat", "circle", [[0, 0]]),
            {"label": "cat"},
            None,
        ],
    }
    parsed = formats.load([write(tmp_path / "pic 1.json", content)], tmp_path)
    boxes = parsed.boxes
    assert boxes["frame_name"].unique().tolist() == ["pic 1"]
    assert boxes["class"].tolist() == ["cat", "cat", "cat", "dog"]
    assert boxes["track"].tolist() == ["7", "7", "8", "8"]
    assert boxes.loc[2, CORNERS].tolist() == [0, 0, 9, 9], "parts of one object are one box"
    assert boxes["occluded"].tolist() == [True, pd.NA, pd.NA, pd.NA]
    assert boxes["difficult"].tolist() == [pd.NA, True, pd.NA, pd.NA]
    assert boxes.loc[1, "confidence"] == 0.5
    assert boxes["attributes"].tolist() == ['{"wet":true}', '{"description":"odd"}', None, None]
    places = [problem.place for problem in parsed.problems]
    assert places == ["flags", *(f"shapes[{i}]" for i in range(6, 11)), "shapes", "shapes"]
    assert "blurred" in parsed.problems[0].what


def test_labelme_without_boxes_is_an_empty_frame_only_if_nothing_was_lost(tmp_path: Path) -> None:
    empty = write(tmp_path / "a.json", {"shapes": [], "imagePath": "a.jpg"})
    pointed = write(tmp_path / "b.json", {"shapes": [shape("x", "point", [[1, 1]])], "imagePath": "b.jpg"})
    lost = write(tmp_path / "c.json", {"shapes": [shape("x", "rectangle", [])], "imagePath": "c.jpg"})
    boxes = formats.load([empty, pointed, lost], tmp_path).boxes
    assert boxes["frame_name"].tolist() == ["a.jpg", "b.jpg"]
    assert boxes["class"].isna().all()


def test_labelme_refuses_corners_that_json_cannot_say(tmp_path: Path) -> None:
    boxes = pd.DataFrame({"frame_name": ["a.jpg"], "class": "cat", "x1": np.inf, "y1": 0.0, "x2": 1.0, "y2": 1.0})
    with pytest.raises(InputError, match=r"a\.jpg"):
        formats.labelme.save(boxes, ["cat"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text",
    [
        f"{HEADER}\na,xclick,/m/01,1,0.25,0.75,0.5,1,1,0,-1,1,0\n",
        f"{HEADER.replace(',', ';')}\r\na;xclick;/m/01;1;0,25;0,75;0,5;1;1;0;-1;1;0\r\n",
        f'\ufeff{HEADER}\n"a","xclick","/m/01","1","0,25","0,75","0,5",1,1,0,-1,1,0\n',
        f"{HEADER}\n".replace(",", "\t") + "a\txclick\t/m/01\t1\t.25\t7.5e-1\t0.5\t1.0\t1\t0\t-1\t1\t0",
    ],
)
@pytest.mark.parametrize("above", [False, True])
def test_openimages_is_read_however_a_spreadsheet_wrote_it(tmp_path: Path, text: str, above: bool) -> None:
    names = write((tmp_path if above else tmp_path / "set") / "class-descriptions-boxable.csv", '/m/01,"Cat, small"\n')
    parsed = formats.load([write(tmp_path / "set" / "x.csv", text), names], tmp_path)
    assert parsed.problems == []
    (row,) = parsed.boxes.to_dict("records")
    assert (row["frame_name"], row["class"], row["relative"]) == ("a", "Cat, small", True)
    assert [row[corner] for corner in CORNERS] == [0.25, 0.5, 0.75, 1]
    assert (row["occluded"], row["truncated"], row["crowd"]) == (True, False, None)
    assert np.isnan(row["confidence"]), "1 is a dummy"
    assert json.loads(row["attributes"]) == {"depiction": True, "inside": False, "source": "xclick"}
    assert row["place"] == "line 2"


def test_openimages_tells_the_lines_that_are_wrong(tmp_path: Path) -> None:
    lines = [
        "ImageID,LabelName,XMin,XMax,YMin,YMax",
        "a.jpg,/m/01,0,1,0,1",
        "",
        "b.jpg,cat,0,1,0",
        "c.jpg,cat,0,x,0,1",
        ",cat,0,1,0,1",
        "d.jpg,,0,1,0,1",
        "e.jpg,cat,10,200,30,40",
        "../../etc/f.jpg,cat,0,inf,0,1",
    ]
    parsed = formats.load([write(tmp_path / "x.csv", "\n".join(lines))], tmp_path)
    assert parsed.boxes["frame_name"].tolist() == ["a.jpg", "f.jpg"]
    assert [p.place for p in parsed.problems] == ["line 4", "line 5", "line 6", "line 7", "line 8", "LabelName"]
    assert "class-descriptions" in parsed.problems[-1].done


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ImageID,LabelName,XMin,XMax,YMin\na,b,0,1,0\n", "YMax"),
        ("ImageID,LabelName,XMin,XMax,YMin,YMax,XMin\n", "two columns"),
        ("ImageID,Source,LabelName,Confidence\na,verification,/m/01,1\n", "XMin"),
    ],
)
def test_openimages_without_boxes_is_refused(tmp_path: Path, text: str, words: str) -> None:
    parsed = formats.load([write(tmp_path / "x.csv", text)], tmp_path)
    assert len(parsed.boxes) == 0
    assert words in parsed.problems[0].what


def test_openimages_says_which_frames_it_cannot_call_empty_and_keeps_a_confidence_of_one(tmp_path: Path) -> None:
    corners = {corner: [1.0, np.nan] for corner in CORNERS}
    boxes = pd.DataFrame({"frame_name": ["a.jpg", "b.jpg"], "class": ["cat", None], "width": 9, "height": 9, **corners})
    saved = formats.openimages.save(boxes.assign(confidence=[1.0, np.nan]), ["cat"], tmp_path / "out")
    assert [("b.jpg" in problem.what, problem.place) for problem in saved.problems] == [(True, "")]
    assert formats.load(saved.files, tmp_path).boxes["confidence"].tolist() == [1.0]


def test_openimages_refuses_two_frames_of_one_id_and_frames_without_size(tmp_path: Path) -> None:
    boxes = pd.DataFrame({"frame_name": ["a.jpg", "a.png"], "class": "cat", **dict.fromkeys(CORNERS, 1.0)})
    with pytest.raises(InputError, match=r"a\.jpg.*a\.png"):
        formats.openimages.save(boxes.assign(width=9, height=9), ["cat"], tmp_path / "out")
    with pytest.raises(InputError, match="width"):
        formats.openimages.save(boxes[:1].assign(width=None, height=None), ["cat"], tmp_path / "out")
    assert not (tmp_path / "out").exists()

"""The formats against golden data, and each against its own writer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from detection_assets.domain import formats
from detection_assets.domain.problems import InputError

DATA = Path(__file__).parents[3] / "shared" / "data"
GOLDEN = DATA / "golden_formats" / "gts"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not there")

CLASSES = ["apple", "banana split", "könig", "水", "a: b #c", "'quoted\"", "no", "7"]
CORNERS = ["x1", "y1", "x2", "y2"]


def corners_by_name(parsed: formats.Parsed, sizes: pd.DataFrame) -> pd.DataFrame:
    boxes = parsed.boxes.dropna(subset=["class"]).copy()
    boxes["stem"] = [Path(name).stem for name in boxes["frame_name"]]
    for side, (one, two) in {"width": ("x1", "x2"), "height": ("y1", "y2")}.items():
        scale = np.where(boxes["relative"], sizes[side].reindex(boxes["stem"]), 1.0).astype(float)
        boxes[one], boxes[two] = boxes[one] * scale, boxes[two] * scale
    for corner in CORNERS:
        boxes[f"near_{corner}"] = boxes[corner].round()
    return boxes.sort_values(["stem", "class", *(f"near_{c}" for c in CORNERS)]).reset_index(drop=True)


@needs_data
@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("coco_format_v1", "coco"),
        ("coco_format_v2", "coco"),
        ("pascalvoc_format", "pascal_voc"),
        ("imagenet_format/Annotations", "pascal_voc"),
        ("yolo_format", "yolo"),
        ("cvat_format", "cvat"),
        ("labelme_format", "labelme"),
        ("openimages_format", "openimages"),
    ],
)
def test_golden_boxes_are_the_same_in_every_format(folder: str, name: str) -> None:
    files = sorted(path for path in (GOLDEN / folder).rglob("*") if path.is_file())
    assert {formats.detect(path) for path in files} == {name}
    parsed = formats.load(files, GOLDEN)
    assert parsed.problems == []
    reference = formats.load([GOLDEN / "coco_format_v1" / "instances_default.json"], GOLDEN)
    sizes = reference.boxes.assign(stem=[Path(n).stem for n in reference.boxes["frame_name"]])
    sizes = sizes.drop_duplicates("stem").set_index("stem")[["width", "height"]].astype(float)
    got, expected = corners_by_name(parsed, sizes), corners_by_name(reference, sizes)
    assert len(got) == 273
    assert got["class"].nunique() == 20
    assert got[["stem", "class"]].equals(expected[["stem", "class"]])
    assert np.abs(got[CORNERS].to_numpy() - expected[CORNERS].to_numpy()).max() <= 0.5


def test_other_files_are_refused_one_by_one(tmp_path: Path) -> None:
    files = [write(tmp_path / name, text) for name, text in {"a.csv": "a,b\n1,2\n", "b.json": '{"a": 1}'}.items()]
    parsed = formats.load(files, tmp_path)
    assert len(parsed.boxes) == 0
    assert [problem.file for problem in parsed.problems] == ["a.csv", "b.json"]


@needs_data
def test_bccd_reads_every_box_even_those_without_area() -> None:
    parsed = formats.load(sorted((DATA / "bccd" / "Annotations").iterdir()), DATA / "bccd")
    assert parsed.boxes["class"].value_counts().to_dict() == {"RBC": 4155, "WBC": 372, "Platelets": 361}
    files = ["Annotations/BloodImage_00338.xml", "Annotations/BloodImage_00343.xml"]
    assert [problem.file for problem in parsed.problems] == files
    assert all("without area" in problem.what and "kept" in problem.done for problem in parsed.problems)


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.json", '{"info": {"images": []}, "images": []}', "coco"),
        ("a.txt", '{"annotations" : [ {"id": 1', "coco"),
        ("a.json", '\ufeff{\n "categories": []}', "coco"),
        ("a.json", '{"shapes": [], "imagePath": "x.jpg"}', "labelme"),
        ("a.json", '{"imagePath": "x.jpg", "imageData": "/9j/4AAQ', "labelme"),
        ("a.json", '{"version": "5", "flags": {"shapes": []}, "shapes": [{"label"', "labelme"),
        ("a.json", '{"a": {"shapes": []}, "b": "shapes: ["}', None),
        ("a.csv", "ImageID,Source,LabelName,Confidence,XMin", "openimages"),
        ("a.csv", "ImageID;LabelName;XMin;XMax;YMin;YMax\n", "openimages"),
        ("class-descriptions-boxable.csv", "/m/011k07,Tortoise\n", "openimages"),
        ("gt.txt", "1,1,912,484,97,109,0,7,1\n", "mot"),
        ("a.txt", "1, 3, 794.27, 247.59, 71.245, 174.88, -1, -1, -1, -1\n", "mot"),
        ("gt.txt", "", "mot"),
        ("labels.txt", "cat\n", None),
        ("seqinfo.ini", "[Sequence]\nname=a\n", "mot"),
        ("a.json", '{"source-ref": "s3://a", "b": {"annotations": []}}', "ground_truth"),
        ("a.json", '{"tracking-annotations": [', "ground_truth"),
        ("a.json", '{"tracking-annotations": "none"}', None),
        ("a.json", '{"image_url": "azureml://a", "label": []}\n{}', "azureml"),
        ("a.json", '{"a": {"image_url": ""}, "images": []}', "coco"),
        ("MLTable", "type: mltable\npaths:\n", "azureml"),
        ("MLTable", "nothing", None),
        ("a.json", '[{"id": 1, "annotations": [{"result": [', "label_studio"),
        ("a.json", '[ {"data": {"annotations": []}, "predictions": []}]', "label_studio"),
        ("a.json", '{"id": 1, "data": {"image": "a"}, "annotations": []}', "label_studio"),
        ("a.json", '{"info": {}, "data": "x", "annotations": []}', "coco"),
        ("a.json", '[{"image_id": 1, "category_id": 2, "bbox": []}]', None),
        ("a.json", "[1, 2]", None),
        ("a.json", '{"text": "\\"images\\": ["}', None),
        ("a.json", '{"images": "none"}', None),
        ("a.json", "[]", None),
        ("a.json", "", None),
        ("a.xml", "<annotation><object/></annotation>", "pascal_voc"),
        ("a.dat", '<?xml version="1.0"?><!-- <annotation> -->\n<annotations/>', "cvat"),
        ("a.xml", '<!DOCTYPE annotations [<!ENTITY a "b">]><annotations/>', "cvat"),
        ("a.xml", "<html/>", None),
        ("a.xml", "<!--", None),
        ("a.txt", "0 .5 0.5 1e-1 0.25\n", "yolo"),
        ("a.txt", "what\n0 nan 0.5 0.1 0.25 0.9\n", "yolo"),
        ("a.txt", "", "yolo"),
        ("a.txt", "BloodImage_1\nBloodImage_2\n", None),
        ("a.csv", "0 0.5 0.5 0.1 0.25\n", None),
        ("train.txt", "data/a.jpg\ndata/b.PNG\n", "yolo"),
        ("data.yaml", "names: [a]", "yolo"),
        ("shop.names", "a\nb", "yolo"),
        ("a.jpg", b"\xff\xd8\xff\xe0\x00\x10JFIF", None),
        ("a.xml", "<annotation/>".encode("utf-16"), "pascal_voc"),
    ],
)
def test_detect_by_content(tmp_path: Path, name: str, text: str | bytes, expected: str | None) -> None:
    assert formats.detect(write(tmp_path / name, text)) == expected


def test_detect_reads_only_the_head(tmp_path: Path) -> None:
    path = tmp_path / "big.json"
    with path.open("wb") as file:
        file.write(b'{"images": [')
        file.truncate(2**33)  # sparse; reading it all would take minutes
    assert formats.detect(path) == "coco"
    parsed = formats.load([path], tmp_path)
    assert "MiB" in parsed.problems[0].what


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("data.yaml", "names: [cat, dog]"),
        ("dataset.yaml", "path: x\nnames:\n  1: dog\n  0: cat\n"),
        ("classes.txt", "\ufeffcat\r\ndog\r\n"),
        ("obj.names", "cat\ndog"),
        ("shop.names", "cat\ndog\n\n"),
    ],
)
@pytest.mark.parametrize("above", [False, True])
def test_yolo_names_are_found_beside_or_above(tmp_path: Path, name: str, text: str, above: bool) -> None:
    labels = write(tmp_path / "set" / "labels" / "a.txt", "1 0.5 0.5 0.5 0.5\n0 0.1 0.1 0.1 0.1 0.9\n0 0 0 1 0 1 1\n")
    write((tmp_path if above else labels.parent) / name, text)
    parsed = formats.load([labels], tmp_path)
    assert [problem.place for problem in parsed.problems] == ["line 3", "line 2"], "the polygon, the sixth number"
    assert parsed.boxes["class"].tolist() == ["dog", "cat", "cat"]
    assert parsed.boxes.loc[0, CORNERS].tolist() == [0.25, 0.25, 0.75, 0.75]
    assert parsed.boxes.loc[2, CORNERS].tolist() == [0, 0, 1, 1]
    assert parsed.boxes["relative"].all()
    assert parsed.boxes["place"].tolist() == ["line 1", "line 2", "line 3"]


def test_yolo_names_above_the_root_are_not_looked_at(tmp_path: Path) -> None:
    write(tmp_path / "data.yaml", "names: [cat]")
    for name in ("a", "b"):
        write(tmp_path / "root" / f"{name}.txt", "0 0.5 0.5 0.5 0.5\n")
    parsed = formats.load(sorted((tmp_path / "root").iterdir()), tmp_path / "root")
    assert len(parsed.boxes) == 0
    assert len(parsed.problems) == 1, "one a folder, not one a file"


def test_yolo_lines_that_are_wrong_are_named_one_by_one(tmp_path: Path) -> None:
    write(tmp_path / "classes.txt", "cat\n\ndog\n")
    lines = [
        "0 0.5 0.5 0.5 0.5",
        "",
        "9 0 0 1 1",
        "1 0 0 1 1",
        "0 a 0 1 1",
        "0 1 2",
        "0 100 20 30 40",
        "-1 0 0 1 1",
        "2 0 0 1 1",
    ]
    parsed = formats.load([write(tmp_path / "a.txt", "\n".join(lines))], tmp_path)
    assert parsed.boxes["class"].tolist() == ["cat", "dog"]
    assert [problem.place for problem in parsed.problems] == [f"line {i}" for i in (3, 4, 5, 6, 7, 8)]


def test_coco_reads_what_it_can(tmp_path: Path) -> None:
    text = """{"images": [{"id": 1, "file_name": "../../etc/a.jpg", "width": 10, "height": "20"},
      {"id": "2", "file_name": "sub/b.jpg"},
      {"id": 3}, {"id": 4, "file_name": "c.jpg", "width": -1, "height": NaN}, {"id": 5, "file_name": "d.jpg"}, 7],
     "categories": [{"id": 1, "name": " cat "}, {"id": 2}],
     "annotations": [
      {"id": 10, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 1, "attributes": {"track_id": 5}},
      {"id": 11, "image_id": 2, "category_id": 1, "bbox": [NaN, 2, 3, 1e400], "annotator": "eva", "reviewed": true},
      {"id": 12, "image_id": 99, "category_id": 1, "bbox": [1, 2, 3, 4]},
      {"id": 13, "image_id": 5, "category_id": 1, "bbox": [1, 2, 3]},
      {"id": 14, "image_id": 1, "category_id": 8, "bbox": [1, 2, 3, 4]},
      {"id": 15, "image_id": [1], "category_id": {}, "bbox": null}]}"""
    parsed = formats.load([write(tmp_path / "x.json", text)], tmp_path)
    boxes = parsed.boxes
    assert boxes["frame_name"].tolist() == ["a.jpg", "sub/b.jpg", "c.jpg"], "d.jpg lost its box, so it is not empty"
    assert boxes["class"].tolist() == ["cat", "cat", None]
    assert boxes.loc[0, CORNERS].tolist() == [1, 2, 4, 6]
    assert boxes["track"].tolist() == ["5", None, None]
    assert boxes["crowd"].tolist()[0] is True
    assert boxes["crowd"].isna().tolist() == [False, True, True]
    assert (boxes["annotator"].tolist(), boxes["reviewed"].tolist()) == ([None, "eva", None], [False, True, False])
    assert boxes["width"].isna().tolist() == [False, True, True]
    assert {p.place for p in parsed.problems} == {
        *("images", "images[2]", "categories[1]", "annotation 12", "annotation 13", "annotation 14"),
        "annotation 15",
    }


def test_voc_takes_the_file_name_where_there_is_none_inside(tmp_path: Path) -> None:
    text = """<annotation><filename> </filename><size><width>0</width><height>x</height></size>
    <object><name>cat</name><part><name>ear</name><bndbox><xmin>1</xmin></bndbox></part>
    <bndbox><ymin>2.5</ymin><xmin>1</xmin><xmax>3</xmax><ymax>4</ymax></bndbox></object>
    <object><name>cat</name></object><object><bndbox/></object></annotation>"""
    parsed = formats.load([write(tmp_path / "köln 1.xml", text)], tmp_path)
    assert parsed.boxes["frame_name"].tolist() == ["köln 1"]
    assert parsed.boxes.loc[0, CORNERS].tolist() == [1, 2.5, 3, 4]
    assert parsed.boxes["width"].isna().all()
    assert [problem.place for problem in parsed.problems] == ["object 2", "object 3"]


@pytest.mark.parametrize("name", ["coco", "yolo", "pascal_voc", "cvat"])
@pytest.mark.parametrize(
    ("change", "message"),
    [({"class": "pear"}, "pear"), ({"frame_name": None}, "frame_index")],
)
def test_save_refuses_before_writing(tmp_path: Path, name: str, change: dict[str, str], message: str) -> None:
    row = {"frame_name": "a.jpg", "frame_index": None, "width": 9, "height": 9, "class": "apple"}
    boxes = pd.DataFrame([{**row, **dict.fromkeys(CORNERS, 1.0), **change}])
    with pytest.raises(InputError, match=message):
        formats.FORMATS[name].save(boxes, CLASSES, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["yolo", "pascal_voc"])
def test_save_refuses_two_frames_in_one_file(tmp_path: Path, name: str) -> None:
    boxes = pd.DataFrame({"frame_name": ["a/x.jpg", "b/x.png"], "class": None, "width": 9, "height": 9}).assign(
        **dict.fromkeys(CORNERS, np.nan)
    )
    with pytest.raises(InputError, match=r"a/x\.jpg.*b/x\.png"):
        formats.FORMATS[name].save(boxes, CLASSES, tmp_path / "out")


def test_saved_tracks_and_numbers_come_back_from_coco(tmp_path: Path) -> None:
    boxes = pd.DataFrame(
        {
            "frame_index": [4, 5],
            "width": 9,
            "height": 9,
            "class": "apple",
            "x1": 0.1,
            "y1": 0,
            "x2": 5,
            "y2": 5,
            "track": "t1",
        }
    )
    parsed = formats.load(formats.coco.save(boxes, CLASSES, tmp_path / "a.json").files, tmp_path)
    assert parsed.boxes["frame_name"].tolist() == ["000004.jpg", "000005.jpg"]
    assert parsed.boxes["frame_index"].tolist() == [4, 5]
    assert parsed.boxes["track"].tolist() == ["t1", "t1"]

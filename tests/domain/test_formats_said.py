"""What annotation tools say of boxes beyond class and corners, as each of them writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest

from detection_assets.domain import formats
from detection_assets.domain.formats.xml import tree
from detection_assets.domain.problems import InputError

CORNERS = ["x1", "y1", "x2", "y2"]


def coco(tmp_path: Path, *annotations: dict[str, Any], **image: Any) -> formats.Parsed:
    document = {
        "images": [{"id": 1, "file_name": "a.jpg", **image}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 3, "bbox": [1, 2, 4, 2], **one} for i, one in enumerate(annotations)
        ],
    }
    path = tmp_path / "a.json"
    path.write_bytes(orjson.dumps(document))
    return formats.load([path], tmp_path)


def said(parsed: formats.Parsed, row: int = 0) -> dict[str, Any]:
    """What a row says, without where it is."""
    about = ("track", "annotator", "reviewed", "confidence", *formats.parsed.FLAGS, "attributes")
    return {name: value for name in about if not pd.isna(value := parsed.boxes[name].iloc[row])}


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        pytest.param({"iscrowd": 1}, {"crowd": True}, id="crowd"),
        pytest.param({"iscrowd": 0, "score": 0.25}, {"crowd": False, "confidence": 0.25}, id="a result"),
        pytest.param({"track_id": 7}, {"track": "7"}, id="track"),
        pytest.param(
            {"attributes": {"occluded": True, "rotation": 0.0, "track_id": 4, "keyframe": False, "colour": "red"}},
            {"occluded": True, "track": "4", "keyframe": False, "attributes": '{"colour":"red"}'},
            id="CVAT",
        ),
        pytest.param(
            {"attributes": {"difficult": "1", "truncated": 0, "score": "0.5", "z": [1], "a": None}},
            {"difficult": True, "truncated": False, "confidence": 0.5, "attributes": '{"a":null,"z":[1]}'},
            id="Datumaro",
        ),
        pytest.param({"track_id": 1, "attributes": {"track_id": 2}}, {"track": "1"}, id="the annotation goes first"),
        pytest.param({"annotator": "eva", "attributes": {"reviewed": True}}, {"annotator": "eva", "reviewed": True}),
        pytest.param(
            {"attributes": {"difficult": "perhaps", "keyframe": 2}},
            {"attributes": '{"difficult":"perhaps","keyframe":2}'},
            id="what fits no column stays",
        ),
    ],
)
def test_coco_says(tmp_path: Path, annotation: dict[str, Any], expected: dict[str, Any]) -> None:
    parsed = coco(tmp_path, {"attributes": {}}, annotation)
    assert parsed.problems == []
    assert said(parsed, 1) == {"reviewed": False, **expected}


def test_coco_says_when_a_frame_is(tmp_path: Path) -> None:
    boxes = coco(tmp_path, {}, frame_index=3, pts_s=0.5, width=10).boxes
    assert (boxes["frame_index"][0], boxes["pts_s"][0]) == (3, 0.5)
    assert pd.isna(boxes["height"][0]), "sizes may be missing"


@pytest.mark.parametrize(
    ("annotation", "corners", "words"),
    [
        ({"attributes": {"rotation": 90}}, [2, 1, 4, 5], "turned by 90"),
        ({"segmentation": [[1, 2, 5, 2, 3, 4]]}, [1, 2, 5, 4], "an outline"),
        ({"segmentation": {"counts": "abc", "size": [9, 9]}}, [1, 2, 5, 4], "a mask"),
        ({"bbox": [], "segmentation": [[1, 2, 7, 3, 3, 9]]}, [1, 2, 7, 9], "an outline"),
        ({"bbox": None, "segmentation": {"counts": [1]}}, None, "not four numbers"),
        ({"keypoints": [1, 2, 2]}, [1, 2, 5, 4], "'keypoints'"),
        ({"attributes": [1]}, [1, 2, 5, 4], "no object"),
    ],
)
def test_coco_tells_what_is_no_plain_box(
    tmp_path: Path, annotation: dict[str, Any], corners: list[float] | None, words: str
) -> None:
    parsed = coco(tmp_path, annotation)
    assert [words in problem.what for problem in parsed.problems] == [True]
    assert parsed.boxes[CORNERS].to_numpy().ravel().tolist() == pytest.approx(corners or [])


def test_coco_ids_of_any_kind(tmp_path: Path) -> None:
    twice = coco(tmp_path, {"id": 5}, {"id": 5}, {"id": 4})
    assert [problem.place for problem in twice.problems] == ["annotation 5"]
    assert twice.boxes["place"].tolist() == ["annotation 5", "annotation 5", "annotation 4"], "all are kept"
    texts = coco(tmp_path, {"id": "x", "image_id": "1", "category_id": "3"}, {"id": 8})
    assert (texts.problems, texts.boxes["class"].tolist()) == ([], ["cat", "cat"])
    assert texts.boxes["place"].tolist() == ["annotations[0]", "annotation 8"]


VOC = "<annotation><filename>a.jpg</filename><object><name>cat</name>{}</object></annotation>"
BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>5</xmax><ymax>4</ymax></bndbox>"


@pytest.mark.parametrize(
    ("more", "expected", "corners", "words"),
    [
        (BOX + "<pose>Unspecified</pose><truncated>0</truncated><difficult>1</difficult>",
         {"truncated": False, "difficult": True}, [1, 2, 5, 4], []),
        (BOX + "<pose>Left</pose><truncated>0.3</truncated><occluded>1</occluded>",
         {"occluded": True, "attributes": '{"pose":"Left","truncated":"0.3"}'}, [1, 2, 5, 4], []),
        (BOX + "<attributes><attribute><name>track_id</name><value>4</value></attribute><attribute><name>n</name>"
         "<value>1</value></attribute></attributes>", {"track": "4", "attributes": '{"n":"1"}'}, [1, 2, 5, 4], []),
        ("<robndbox><cx>3</cx><cy>3</cy><w>4</w><h>2</h><angle>1.5707963267948966</angle></robndbox>",
         {}, [2, 1, 4, 5], ["turned by 90"]),
        ("<polygon><x1>1</x1><y1>2</y1><x2>7</x2><y2>3</y2><x3>3</x3><y3>9</y3></polygon>",
         {}, [1, 2, 7, 9], ["polygon of 3"]),
    ],
)  # fmt: skip
def test_voc_says(tmp_path: Path, more: str, expected: dict[str, Any], corners: list[float], words: list[str]) -> None:
    (tmp_path / "a.xml").write_text(VOC.format(more))
    parsed = formats.load([tmp_path / "a.xml"], tmp_path)
    assert said(parsed) == {"reviewed": False, **expected}
    assert parsed.boxes.loc[0, CORNERS].tolist() == pytest.approx(corners)
    assert all(word in problem.what for word, problem in zip(words, parsed.problems, strict=True))


@pytest.mark.parametrize("video", [False, True])
def test_cvat_says(tmp_path: Path, video: bool) -> None:
    shape = (
        'xtl="1" ytl="2" xbr="5" ybr="4" occluded="1" z_order="2"><attribute name="on">true</attribute>'
        '<attribute name="n">7</attribute><attribute name="free">true</attribute>'
        '<attribute name="annotator">eva</attribute><attribute name="truncated">true</attribute></box>'
    )
    kinds = "".join(
        f"<attribute><name>{name}</name><input_type>{kind}</input_type></attribute>"
        for name, kind in (("on", "checkbox"), ("n", "number"), ("free", "text"))
    )
    task = f"<name>t</name><labels><label><name>cat</name><attributes>{kinds}</attributes></label></labels>"
    inside = (
        f'<track id="4" label="cat" source="auto"><box frame="0" keyframe="1" outside="0" {shape}'
        '<box frame="2" keyframe="0" outside="0" xtl="1" ytl="2" xbr="5" ybr="4" occluded="0"/></track>'
        if video
        else f'<image id="0" name="a.jpg"><box label="cat" source="auto" {shape}</image>'
    )
    path = tmp_path / "a.xml"
    people = "<assignee><username>bo</username></assignee>"
    path.write_text(f"<annotations><meta><task>{task}{people}</task></meta>{inside}</annotations>")
    parsed = formats.load([path], tmp_path)
    assert parsed.problems == []
    attributes = '{"free":"true","n":7,"on":true,"source":"auto","z_order":2}'
    common = {"reviewed": False, "occluded": True, "truncated": True, "annotator": "eva", "attributes": attributes}
    if not video:
        assert said(parsed) == common
        return
    assert said(parsed) == {**common, "track": "4", "keyframe": True}
    assert said(parsed, 1) == {**common, "track": "4", "keyframe": False}, "holds until the next keyframe"
    rest = {"annotator": "bo", "attributes": '{"source":"auto"}'}
    assert said(parsed, 2) == {"reviewed": False, "occluded": False, "track": "4", "keyframe": False, **rest}


def table(**more: Any) -> pd.DataFrame:
    row = {"frame_name": "a.jpg", "frame_index": 0, "width": 9, "height": 9, "class": "cat"}
    return pd.DataFrame([{**row, "x1": 1.0, "y1": 2.0, "x2": 5.0, "y2": 4.0, **more}])


def test_labels_declare_what_their_boxes_say(tmp_path: Path) -> None:
    one = {"n": 4, "on": False, "t": "x", "mixed": 1, "source": "auto", "group_id": 3}
    boxes = pd.concat([table(attributes=json.dumps(one), difficult=True), table(attributes='{"mixed":"a","n":-2}')])
    saved = formats.cvat.save(boxes, ["cat", "dog"], tmp_path / "a.xml")
    assert [(problem.place, "'mixed'" in problem.what) for problem in saved.problems] == [
        ("frame_index", False), ("image a.jpg, shape 2", True)
    ]  # fmt: skip
    root = tree((tmp_path / "a.xml").read_bytes())
    cat, dog = root.findall("meta/task/labels/label")
    kinds = {one.findtext("name"): one.findtext("input_type") for one in cat.findall("attributes/attribute")}
    assert kinds == {"n": "number", "on": "checkbox", "t": "text", "mixed": "text", "difficult": "checkbox"}
    assert cat.findtext("attributes/attribute[name='n']/values") == "-2;4;1"
    assert dog.findall("attributes/attribute") == []
    box = root.find("image/box")
    assert box is not None
    assert (box.get("source"), box.get("group_id"), box.get("z_order")) == ("auto", "3", "0")


def test_values_that_voc_has_as_text_only_are_told(tmp_path: Path) -> None:
    saved = formats.pascal_voc.save(table(attributes='{"n":1,"t":"x"}'), ["cat"], tmp_path / "v")
    assert [problem.place for problem in saved.problems] == ["frame_index", "object 1"]
    assert "'n'" in saved.problems[1].what


def test_attributes_that_coco_would_take_for_an_angle_turn_nothing(tmp_path: Path) -> None:
    saved = formats.coco.save(table(attributes='{"rotation":45,"t":"x"}'), ["cat"], tmp_path / "a.json")
    assert [problem.place for problem in saved.problems] == ["attributes"]
    boxes = formats.load(saved.files, tmp_path).boxes
    assert boxes.loc[0, CORNERS].tolist() == [1, 2, 5, 4]


def test_yolo_writes_a_sixth_number_on_request(tmp_path: Path) -> None:
    boxes = pd.concat([table(track=track, confidence=0.5) for track in ("7", "007", None, "a")])
    plain = formats.yolo.save(boxes, ["cat"], tmp_path / "plain")
    assert [problem.place for problem in plain.problems] == ["frame_index", "track", "confidence"]
    saved = formats.yolo.save(boxes, ["cat"], tmp_path / "tracks", sixth="track")
    assert [problem.place for problem in saved.problems] == ["frame_index", "confidence", "track"]
    assert "2 boxes" in saved.problems[-1].what
    back = formats.load(saved.files, tmp_path)
    assert (back.problems, back.boxes["track"].tolist()) == ([], ["7", None, None, None])
    with pytest.raises(InputError, match="confidence or track"):
        formats.yolo.save(boxes, ["cat"], tmp_path / "other", sixth="area")


@pytest.mark.parametrize("corner", [-3.0, 0.0, 100.0])
def test_yolo_lines_are_what_they_would_be_one_by_one(tmp_path: Path, corner: float) -> None:
    classes = [f"class {i}" for i in range(12)]
    boxes = pd.concat([table(x1=corner, x2=corner + i / 3, **{"class": name}) for i, name in enumerate(classes)])
    formats.yolo.save(boxes, classes, tmp_path)
    lines = (tmp_path / "labels" / "a.txt").read_text().splitlines()
    expected = [
        f"{i} {(2 * corner + i / 3) / 2 / 9:.9f} {3 / 9:.9f} {i / 3 / 9:.9f} {2 / 9:.9f}" for i in range(len(classes))
    ]
    assert lines == expected


def test_who_found_a_picture_empty_is_kept_beside_what_others_drew(tmp_path: Path) -> None:
    said_by = [("a.jpg", "cat", "ada"), ("a.jpg", None, "ben"), ("b.jpg", None, "ben"), ("b.jpg", None, "ada")]
    rows = pd.DataFrame(said_by, columns=["frame_name", "class", "annotator"])
    rows = rows.assign(width=9, height=9, **{side: float(i) for i, side in enumerate(CORNERS)})
    rows.loc[rows["class"].isna(), CORNERS] = float("nan")
    saved = formats.coco.save(rows, ["cat"], tmp_path / "a.json")
    assert not saved.problems
    found = formats.load(saved.files, tmp_path).boxes
    kept = [tuple(row) for row in found[["frame_name", "class", "annotator"]].itertuples(index=False)]
    assert sorted(kept, key=str) == sorted(said_by, key=str)
    assert kept[:2] == [said_by[1], said_by[0]], "who drew something speaks last"


@pytest.mark.parametrize("people", [None, "ada", {"a": 1}, [1, None, [2], " "], []])
def test_people_who_are_none_found_nothing(tmp_path: Path, people: Any) -> None:
    assert coco(tmp_path, {}, found_empty_by=people).boxes["annotator"].tolist() == [None]


@pytest.mark.parametrize(
    ("write", "name", "covered"), [(formats.cvat.save, "a.xml", 4), (formats.label_studio.save, "a.json", 7)]
)
def test_a_videos_file_that_speaks_for_frames_between_says_so(
    tmp_path: Path, write: Any, name: str, covered: int
) -> None:
    track = pd.concat([table(frame_index=frame, track="1") for frame in (0, 2, 6)])
    (told,) = write(track, ["cat"], tmp_path / name, video=True).problems
    assert f"here {covered}, and the table has 3 of them" in told.what
    assert told.number == covered - 3
    gapless = track.assign(frame_index=range(3))
    assert not write(gapless, ["cat"], tmp_path / name, video=True).problems

"""What is particular about Label Studio: people, predictions, keyframes, addresses, and the tasks that we make."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection_assets.domain import formats
from detection_assets.domain.formats import label_studio
from detection_assets.domain.formats.saving import frames_to_save
from detection_assets.domain.problems import InputError

CORNERS = ["x1", "y1", "x2", "y2"]


def region(name: str = "r", kind: str = "rectanglelabels", *, size: int | None = 100, **value: Any) -> dict[str, Any]:
    place = {"x": 10, "y": 20, "width": 30, "height": 40} if kind.startswith("rectangle") else {}
    found = {"id": name, "type": kind, "value": {**place, kind: ["cat"], **value}}
    return found if size is None else {**found, "original_width": size, "original_height": 2 * size}


def task(*results: dict[str, Any], data: dict[str, Any] | None = None, **annotation: Any) -> dict[str, Any]:
    return {
        "id": 7,
        "data": data or {"image": "a.jpg"},
        "annotations": [{"id": 8, "completed_by": 3, "result": list(results), **annotation}],
    }


def load(tmp_path: Path, *tasks: Any, wanted: list[int] | None = None) -> formats.Parsed:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(list(tasks)))
    assert formats.detect(path) == "label_studio"
    return formats.load([path], tmp_path, wanted)


def said(parsed: formats.Parsed, row: int = 0) -> dict[str, Any]:
    about = ("track", "annotator", "reviewed", "confidence", *formats.parsed.FLAGS, "attributes")
    return {name: value for name in about if not pd.isna(value := parsed.boxes[name].iloc[row])}


@pytest.mark.parametrize(
    ("result", "corners", "words"),
    [
        (region(), [10, 40, 40, 120], ""),
        (region(size=None), [0.1, 0.2, 0.4, 0.6], ""),
        (region(rotation=90), [-70, 40, 10, 70], ""),
        (region(rotation=360), [10, 40, 40, 120], ""),
        (region(x=50, y=50, width=10, height=5, rotation=45), [42.928932, 100, 57.071068, 114.142136], "turned by 45"),
        (region(kind="polygonlabels", points=[[1, 1], [5, 2], [3, 9]]), [1, 2, 5, 18], "polygon of 3"),
        (region(kind="ellipselabels", x=50, y=50, radiusX=10, radiusY=5), [40, 90, 60, 110], "ellipse"),
        (region(kind="ellipselabels", x=50, y=50, radiusX=10, radiusY=5, rotation=90), [40, 90, 60, 110], "ellipse"),
        (region(kind="brushlabels", rle=[1, 2]), None, "painted"),
        (region(kind="keypointlabels", x=1, y=2), None, "a point"),
        (region(rectanglelabels=[]), None, "no label"),
        (region(width="wide"), None, "no usable place"),
        ({**region(), "image_rotation": 90}, None, "turned by 90"),
    ],
)
def test_shapes_become_their_boxes(
    tmp_path: Path, result: dict[str, Any], corners: list[float] | None, words: str
) -> None:
    parsed = load(tmp_path, task(result))
    assert [words in problem.what for problem in parsed.problems] == ([True] if words else [])
    assert parsed.boxes[CORNERS].to_numpy().ravel().tolist() == pytest.approx(corners or [])
    assert corners is None or parsed.boxes["relative"].tolist() == [result.get("original_width") is None]


def test_every_person_is_heard_and_nobody_else(tmp_path: Path) -> None:
    first = task(region("a"), completed_by={"id": 4, "email": "eva@x.org"})
    first["annotations"] += [
        {"id": 9, "completed_by": 5, "result": [region("b"), region("c")], "ground_truth": True},
        {"id": 10, "completed_by": 6, "result": [region("d")], "was_cancelled": True},
        {"id": 11, "completed_by": 6, "result": []},
    ]
    first["predictions"] = [{"model_version": "m", "result": [region("p")]}]
    unseen = {"id": 12, "data": {"image": "b.jpg"}, "annotations": [], "drafts": [{"result": []}], "predictions": []}
    parsed = load(tmp_path, first, unseen)
    assert parsed.boxes["annotator"].tolist() == ["eva@x.org", "5", "5", "6"]
    assert parsed.boxes["reviewed"].tolist() == [False, True, True, False]
    assert parsed.boxes["class"].tolist() == ["cat", "cat", "cat", None], "the last one saw nothing"
    assert [(problem.place, problem.what) for problem in parsed.problems] == [
        ("task 7, annotation 10", "an annotator skipped the task"),
        ("", "1 tasks have predictions of a model, which nobody checked"),
        ("", "1 tasks have drafts, which somebody has not finished"),
        ("", "1 tasks have no annotation"),
    ]


def test_what_is_said_of_a_region(tmp_path: Path) -> None:
    box = {**region(), "score": 0.5, "meta": {"text": ["odd", "one"], "track_id": "t7"}}
    answers = [
        {"id": "r", "type": "choices", "from_name": "occluded", "value": {"choices": ["yes"]}},
        {"id": "r", "type": "choices", "from_name": "colours", "value": {"choices": ["red", "blue"]}},
        {"id": "r", "type": "number", "from_name": "count", "value": {"number": 3}},
        {"id": "q", "type": "choices", "from_name": "weather", "value": {"choices": ["rain"]}},
        {"type": "relation", "from_id": "r", "to_id": "r"},
    ]
    parsed = load(tmp_path, task(box, *answers))
    attributes = '{"colours":["red","blue"],"count":3,"text":"odd\\none"}'
    assert said(parsed) == {
        **{"track": "t7", "annotator": "3", "reviewed": False, "confidence": 0.5, "occluded": True},
        "attributes": attributes,
    }
    assert ["'weather'" in problem.what for problem in parsed.problems] == [True]
    assert parsed.boxes["place"].tolist() == ["task 7, annotation 8, region r"]


def test_labels_beside_their_shape_and_several_of_them(tmp_path: Path) -> None:
    bare = {key: value for key, value in region()["value"].items() if key != "rectanglelabels"}
    shape = {**region(), "type": "rectangle", "value": bare}
    label = {"id": "r", "type": "labels", "value": {**bare, "labels": ["cat", "wet"]}}
    parsed = load(tmp_path, task(shape, label))
    assert parsed.boxes["class"].tolist() == ["cat", "wet"]
    assert ["2 labels" in problem.what for problem in parsed.problems] == [True]


@pytest.mark.parametrize(
    ("data", "more", "name"),
    [
        ({"image": "/data/upload/1/0123abcd-name%20x.jpg"}, {}, "name x.jpg"),
        ({"image": "/image2"}, {"file_upload": "e97d4735-000000000025.jpg"}, "000000000025.jpg"),
        ({"image": "a.jpg"}, {"file_upload": "e97d4735-tasks.json"}, "a.jpg"),
        ({"image": "/data/local-files/?d=lake/frames/store%201/clip/0123456789abcdef/000030.jpg"}, {},
         "store 1/clip/000030.jpg"),
        ({"photo": "https://host/frames/cam/clip.mp4/000030.jpg?sig=x%2Fy"}, {}, "cam/clip.mp4/000030.jpg"),
        ({"text": "hello", "where": "azure-blob://box/some/where/000030.jpg"}, {}, "000030.jpg"),
        ({"image": "sub/000030.jpg"}, {}, "sub/000030.jpg"),
        ({"image": "s3://b/x.jpg", "frame": "000030.jpg", "video": "store-1/clip.mp4"}, {},
         "store-1/clip.mp4/000030.jpg"),
        ({"image": "s3://b/x.jpg", "frame": "../../etc/a.jpg"}, {}, "a.jpg"),
    ],
)  # fmt: skip
def test_pictures_are_called_by_what_is_known_of_them(
    tmp_path: Path, data: dict[str, Any], more: dict[str, Any], name: str
) -> None:
    parsed = load(tmp_path, {**task(region(), data=data), **more})
    assert parsed.boxes["frame_name"].tolist() == [name]


def test_json_min_and_single_annotations_are_read(tmp_path: Path) -> None:
    value = {**region()["value"], "original_width": 100, "original_height": 200}
    minimal = {"id": 1, "image": "a.jpg", "label": [value], "annotator": 4, "annotation_id": 9, "lead_time": 1.5}
    parsed = load(tmp_path, minimal)
    assert (parsed.problems, parsed.boxes.loc[0, CORNERS].tolist()) == ([], [10, 40, 40, 120])
    assert said(parsed) == {"annotator": "4", "reviewed": False}
    for single in (
        {
            "id": 8,
            "result": [region()],
            "completed_by": {"email": "e@x"},
            "task": {"id": 7, "data": {"image": "a.jpg"}},
        },
        task(region()),
    ):
        (tmp_path / "7").write_text(json.dumps(single))
        assert formats.detect(tmp_path / "7") == "label_studio"
        assert formats.load([tmp_path / "7"], tmp_path).boxes["frame_name"].tolist() == ["a.jpg"]


def keyframe(frame: int, x: float, **more: Any) -> dict[str, Any]:
    return {"frame": frame, "enabled": True, "rotation": 0, "x": x, "y": 0, "width": 10, "height": 10, **more}


def moving(*sequence: dict[str, Any], name: str = "t", frames: int = 9) -> dict[str, Any]:
    value = {"framesCount": frames, "duration": 1.0, "sequence": list(sequence), "labels": ["cat"]}
    return {"id": name, "type": "videorectangle", "from_name": "box", "to_name": "video", "value": value}


def test_tracks_of_a_video(tmp_path: Path) -> None:
    data = {"video": "/data/upload/1/0123abcd-clip.mp4", "width": 100, "height": 100}
    track = moving(keyframe(2, 0), keyframe(4, 20, enabled=False), keyframe(8, 50))
    parsed = load(tmp_path, task(track, data=data))
    boxes = parsed.boxes.dropna(subset=["class"])
    assert parsed.problems == []
    assert boxes["frame_index"].tolist() == [1, 2, 3, 7, 8], "gone from the frame after one that is not enabled"
    assert boxes["x1"].tolist() == [0, 10, 20, 50, 50]
    assert boxes["keyframe"].tolist() == [True, False, True, True, False]
    assert set(boxes["track"]) == {"t"}
    assert sorted(parsed.boxes["frame_index"][parsed.boxes["class"].isna()]) == [0, 4, 5, 6], "seen, and empty"
    assert parsed.boxes["frame_name"].isna().all()
    some = load(tmp_path, task(track, data=data), wanted=[2, 5, 99])
    assert some.boxes["frame_index"].tolist() == [2, 5]
    other = {"video": "s3://b/videos/cam/other.mp4"}
    both = load(tmp_path, task(track, data=data), task(moving(keyframe(1, 0)), data=other), wanted=[2])
    assert both.boxes["frame_name"].tolist() == ["clip.mp4/000002", "cam/other.mp4/000002"]
    assert both.boxes["relative"].tolist() == [False, True]


def test_a_turning_box_and_a_video_of_nothing(tmp_path: Path) -> None:
    data = {"video": "v.mp4", "width": 100, "height": 100}
    turning = moving(keyframe(1, 50), keyframe(3, 50, rotation=180), frames=3)
    parsed = load(tmp_path, task(turning, data=data))
    assert parsed.boxes[CORNERS].to_numpy().tolist() == [[50, 0, 60, 10], [40, 0, 50, 10], [40, -10, 50, 0]]
    assert ["turns" in problem.what for problem in parsed.problems] == [True]
    nothing = load(tmp_path, task(data={**data, "frames": 2}), task(data=data))
    assert nothing.boxes["frame_index"].tolist() == [0, 1]
    assert ["how long" in problem.what for problem in nothing.problems] == [True]
    broken = load(tmp_path, task(moving(keyframe(0, 1), keyframe(1, 1)), data=data))
    assert len(broken.boxes.dropna(subset=["class"])) == 9
    assert len(broken.boxes) == 9, "a frame is not empty if a keyframe could not be used"
    endless = load(tmp_path, task(moving(keyframe(1, 1), frames=2**31 - 1), data=data), task(region()))
    assert len(endless.boxes) == 1
    assert ["claims" in problem.what for problem in endless.problems] == [True]


def test_settings_of_a_project() -> None:
    classes = ["cat", '<"a" & b>', "könig"]
    pictures = ElementTree.fromstring(label_studio.config(classes))
    assert [label.get("value") for label in pictures.iter("Label")] == classes
    control, image = pictures.find("RectangleLabels"), pictures.find("Image")
    assert control is not None
    assert image is not None
    made = label_studio.task(frames_to_save(table(), ["cat"])[0], "s3://b/a.jpg", video="cam/clip.mp4")
    result = made["annotations"][0]["result"][0]
    assert (result["from_name"], result["to_name"]) == (control.get("name"), control.get("toName"))
    assert image.get("name") == result["to_name"]
    assert made["data"][str(image.get("value")).removeprefix("$")] == "s3://b/a.jpg"
    videos = ElementTree.fromstring(label_studio.config(classes, video=True, fps=30000 / 1001))
    assert [label.get("value") for label in videos.iter("Label")] == classes
    video, tracks = videos.find("Video"), videos.find("VideoRectangle")
    assert video is not None
    assert tracks is not None
    assert float(str(video.get("framerate"))) == pytest.approx(29.97002997)
    made = label_studio.video_task(table(track="t"), "s3://b/clip.mp4")
    result = made["annotations"][0]["result"][0]
    assert (result["from_name"], result["to_name"]) == (tracks.get("name"), video.get("name"))
    with pytest.raises(InputError, match="XML"):
        label_studio.config(["a\0"])


def table(**more: Any) -> pd.DataFrame:
    row = {"frame_name": "a.jpg", "frame_index": 0, "width": 9, "height": 9, "class": "cat"}
    return pd.DataFrame([{**row, "x1": 1.0, "y1": 2.0, "x2": 5.0, "y2": 4.0, **more}])


def test_pre_annotations_are_no_annotations(tmp_path: Path) -> None:
    boxes = pd.concat([table(confidence=0.25), table(confidence=0.75)])
    urls = {"a.jpg": "https://lake/a.jpg"}
    saved = label_studio.save(boxes, ["cat"], tmp_path / "a.json", model_version="champion 7", urls=urls)
    (made,) = json.loads(saved.files[0].read_bytes())
    assert "annotations" not in made
    (prediction,) = made["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("champion 7", 0.5)
    assert [result["score"] for result in prediction["result"]] == [0.25, 0.75]
    assert made["data"]["image"] == "https://lake/a.jpg"
    parsed = formats.load(saved.files, tmp_path)
    assert len(parsed.boxes) == 0
    assert [problem.what for problem in parsed.problems] == [
        "1 tasks have predictions of a model, which nobody checked",
        "1 tasks have no annotation",
    ]


@pytest.mark.parametrize(
    ("boxes", "video", "words"),
    [
        (table(width=None), False, "no width"),
        (table(x1=float("nan")), False, "no numbers"),
        (table(frame_index=None), True, "frame_index"),
        (table(width=None), True, "no width"),
        (pd.concat([table(track="t"), table(track="t")]), True, "two boxes"),
        (table(**{"class": "dog"}), True, "'dog'"),
    ],
)
def test_what_cannot_be_a_task_is_refused(tmp_path: Path, boxes: pd.DataFrame, video: bool, words: str) -> None:
    with pytest.raises(InputError, match=words):
        label_studio.save(boxes, ["cat"], tmp_path / "a.json", video=video)
    assert not (tmp_path / "a.json").exists()


seen_at = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {
            "x1": st.integers(0, 90).map(float),
            "annotator": st.sampled_from([None, "eva"]),
            "reviewed": st.booleans(),
            "confidence": st.sampled_from([None, 0.5]),
            "occluded": st.sampled_from([None, True, False]),
            "attributes": st.sampled_from([None, '{"n": 1}']),
        }
    ),
)


def tracks_come_back(seen: list[list[dict[str, Any] | None]], step: int) -> None:
    rows = [
        {**one, "frame_index": step * at, "class": f"c{number}", "track": f"t{number}", "keyframe": True}
        for number, frames in enumerate(seen)
        for at, one in enumerate(frames)
        if one is not None
    ]
    if not rows:
        return
    boxes = pd.DataFrame(rows).assign(y1=0.0, y2=5.0, width=640, height=480)
    boxes["x2"] = boxes["x1"] + 5
    with TemporaryDirectory() as folder:
        saved = label_studio.save(boxes, ["c0", "c1", "c2"], Path(folder) / "a.json", video=True)
        assert {problem.kind for problem in saved.problems} <= {"frames between"}
        # Of the frames between those of the table nobody said anything; there the tool draws straight lines.
        parsed = formats.load(saved.files, Path(folder), set(boxes["frame_index"]))
    assert parsed.problems == []
    got = parsed.boxes.dropna(subset=["class"])
    got, boxes = (t.sort_values(["track", "frame_index"]).reset_index(drop=True) for t in (got, boxes))
    np.testing.assert_allclose(got[CORNERS].to_numpy(), boxes[CORNERS].to_numpy(), atol=1e-8)
    for one in (got, boxes):
        one["attributes"] = [None if pd.isna(text) else json.loads(text) for text in one["attributes"]]
    for column in ("class", "track", "frame_index", *seen_columns()):
        assert [plain(value) for value in got[column]] == [plain(value) for value in boxes[column]], column


def seen_columns() -> tuple[str, ...]:
    return ("annotator", "reviewed", "confidence", "occluded", "attributes", "keyframe")


def plain(value: Any) -> Any:
    return None if not isinstance(value, dict) and pd.isna(value) else value


objects = st.lists(st.lists(seen_at, min_size=4, max_size=4), min_size=1, max_size=3)


@settings(max_examples=15, deadline=None)
@given(seen=objects, step=st.sampled_from([1, 15]))
def test_tracks_that_are_saved_come_back(seen: list[list[dict[str, Any] | None]], step: int) -> None:
    tracks_come_back(seen, step)


@pytest.mark.long
@settings(max_examples=1000, deadline=None)
@given(seen=objects, step=st.sampled_from([1, 15]))
def test_tracks_of_a_thousand_videos_come_back(seen: list[list[dict[str, Any] | None]], step: int) -> None:
    tracks_come_back(seen, step)


def test_a_list_of_which_nothing_has_a_picture_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_studio, "MAX_NAMELESS", 5)
    bare = [task(region(), data={"note": 1}) for _ in range(6)]
    (*_, problem) = load(tmp_path, *bare, task(region())).problems
    assert (problem.kind, problem.what) == ("unreadable", "none of its first 6 tasks has a picture")
    parsed = load(tmp_path, task(region()), *bare)
    assert len(parsed.boxes) == 1
    assert "unreadable" not in {problem.kind for problem in parsed.problems}

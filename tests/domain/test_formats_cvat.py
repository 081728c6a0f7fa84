"""CVAT: tracks between keyframes, tasks, people, shapes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection_assets.domain import formats
from detection_assets.domain.problems import InputError

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not there")
CORNERS = ["x1", "y1", "x2", "y2"]


def task(start: int = 0, stop: int = 20, step: int = 1, more: str = "") -> str:
    return (
        f"<meta><task><id>1</id><name>t</name><mode>interpolation</mode><start_frame>{start}</start_frame><stop_frame>{stop}"
        f"</stop_frame><frame_filter>step={step}</frame_filter>{more}<original_size><width>100</width><height>80</height>"
        "</original_size></task></meta>"
    )


def track(*marks: tuple[int, int, int], label: str = "cat", number: int = 0, more: str = "") -> str:
    """A track of boxes 10 wide and high: frame, left, outside."""
    boxes = "".join(
        f'<box frame="{frame}" keyframe="1" outside="{out}" xtl="{x}" ytl="0" xbr="{x + 10}" ybr="10"/>'
        for frame, x, out in marks
    )
    return f'<track id="{number}" label="{label}" {more}>{boxes}</track>'


def read(tmp_path: Path, text: str, wanted: list[int] | None = None) -> formats.Parsed:
    path = tmp_path / "a.xml"
    path.write_text(f"<annotations>{text}</annotations>", encoding="utf-8")
    return formats.load([path], tmp_path, wanted)


def lefts(parsed: formats.Parsed) -> dict[int, float | None]:
    rows = parsed.boxes.sort_values("frame_index")
    return {
        int(i): None if c is None else x for i, c, x in zip(rows["frame_index"], rows["class"], rows["x1"], strict=True)
    }


@pytest.mark.parametrize(
    ("marks", "wanted", "expected"),
    [
        pytest.param([(0, 0, 0), (10, 20, 0)], [0, 3, 10], {0: 0, 3: 6, 10: 20}, id="straight line"),
        pytest.param(
            [(0, 0, 0), (10, 20, 0)], [15, 20, 21], {15: 20, 20: 20}, id="stays until the task ends, not longer"
        ),
        pytest.param(
            [(5, 0, 0), (10, 0, 1)], [4, 5, 9, 10, 11], {4: None, 5: 0, 9: 0, 10: None, 11: None}, id="outside"
        ),
        pytest.param([(0, 0, 0), (2, 0, 1), (5, 9, 0)], [1, 3, 5], {1: 0, 3: None, 5: 9}, id="comes back"),
        pytest.param([(10, 20, 0), (0, 0, 0)], [5], {5: 10}, id="keyframes in any order"),
        pytest.param([(0, 0, 0), (4, 1, 0), (4, 8, 0)], [2, 4], {2: 4, 4: 8}, id="keyframe doubled"),
        pytest.param([], [5], {5: None}, id="no keyframes"),
    ],
)
def test_positions_at_the_exact_frame(
    tmp_path: Path, marks: list[tuple[int, int, int]], wanted: list[int], expected: dict[int, float | None]
) -> None:
    assert lefts(read(tmp_path, task() + track(*marks), wanted)) == expected


def test_all_frames_of_the_task_if_none_are_named(tmp_path: Path) -> None:
    parsed = read(tmp_path, task(10, 20, 5) + track((10, 0, 0), (20, 10, 1)))
    assert lefts(parsed) == {10: 0, 15: 5, 20: None}
    assert parsed.boxes["width"].tolist() == [100] * 3
    assert parsed.boxes["frame_name"].tolist() == [None] * 3


def test_frames_the_step_left_out(tmp_path: Path) -> None:
    parsed = read(tmp_path, task(0, 20, 5) + track((5, 0, 0), (10, 10, 0), (15, 10, 1)), [0, 2, 5, 6, 10, 12, 15, 17])
    assert lefts(parsed) == {0: None, 5: 0, 6: 2, 10: 10, 15: None, 17: None}, "at 2 and 12 nobody can say"
    assert [problem.what[:8] for problem in parsed.problems] == ["2 frames"]


def test_without_a_task_the_keyframes_span_the_video(tmp_path: Path) -> None:
    assert lefts(read(tmp_path, track((3, 0, 0), (5, 4, 0)))) == {3: 0, 4: 2, 5: 4}


def test_a_video_in_which_nothing_was_found(tmp_path: Path) -> None:
    assert lefts(read(tmp_path, task(0, 2))) == {0: None, 1: None, 2: None}


@pytest.mark.parametrize(
    ("people", "annotator", "reviewed"),
    [
        ("<assignee><username>eva</username><email>e@x</email></assignee>", "eva", False),
        ("<assignee><username>eva</username></assignee><reviewer><username>bo</username></reviewer>", "eva", True),
        ("<assignee></assignee><reviewer>bo</reviewer>", "bo", True),
        ("<owner><username>root</username></owner>", None, False),
    ],
)
def test_people(tmp_path: Path, people: str, annotator: str | None, reviewed: bool) -> None:
    boxes = read(tmp_path, task(more=people) + track((0, 0, 0)), [0]).boxes
    assert (boxes["annotator"][0], boxes["reviewed"][0]) == (annotator, reviewed)


def test_tasks_of_a_project_are_told_apart(tmp_path: Path) -> None:
    tasks = "".join(
        f"<task><id>{i}</id><name>{name}</name><start_frame>0</start_frame><stop_frame>1</stop_frame></task>"
        for i, name in ((7, "clip.mp4"), (8, "test"))
    )
    text = f"<meta><project><tasks>{tasks}</tasks></project></meta>"
    text += track((0, 1, 0), more='task_id="7"') + track((0, 2, 0), label="dog", more='task_id="8"')
    boxes = read(tmp_path, text).boxes
    assert list(zip(boxes["frame_name"], boxes["class"], strict=True)) == [
        *[("clip.mp4/000000", "cat"), ("clip.mp4/000001", "cat")],
        *[("test.mp4/000000", "dog"), ("test.mp4/000001", "dog")],
    ]


@pytest.mark.parametrize(
    ("shape", "corners"),
    [
        ('<box label="a" xtl="1" ytl="2" xbr="3" ybr="6"/>', (1, 2, 3, 6)),
        ('<box label="a" xtl="0" ytl="0" xbr="4" ybr="2" rotation="90"/>', (1, -1, 3, 3)),
        ('<polygon label="a" points="1,2;5,3;2.5,9"/>', (1, 2, 5, 9)),
        ('<mask label="a" left="1" top="2" width="3" height="4" rle="1"/>', (1, 2, 4, 6)),
        ('<ellipse label="a" cx="5" cy="5" rx="2" ry="3"/>', (3, 2, 7, 8)),
        ('<ellipse label="a" cx="5" cy="5" rx="2" ry="3" rotation="90"/>', (2, 3, 8, 7)),
    ],
)
def test_shapes_by_their_extremes(tmp_path: Path, shape: str, corners: tuple[float, ...]) -> None:
    parsed = read(tmp_path, f'<image id="0" name="a.jpg" width="9" height="9">{shape}</image>')
    told = [] if 'xtl="1"' in shape else ["image a.jpg, shape 1"]
    assert [problem.place for problem in parsed.problems] == told
    np.testing.assert_allclose(parsed.boxes.loc[0, CORNERS].to_numpy(dtype=float), corners)


@pytest.mark.parametrize("text", ["x" * 9_000, "line\n" * 9_000])
def test_a_long_attribute_comes_back_whole(tmp_path: Path, text: str) -> None:
    row = {
        "frame_name": "a.jpg",
        "class": "cat",
        **dict.fromkeys(CORNERS, 1.0),
        "attributes": json.dumps({"note": text}),
    }
    formats.cvat.save(pd.DataFrame([row]), ["cat"], tmp_path / "a.xml")
    parsed = formats.load([tmp_path / "a.xml"], tmp_path)
    assert json.loads(parsed.boxes["attributes"][0]) == {"note": text}


def test_an_attribute_without_end_is_cut_and_told(tmp_path: Path) -> None:
    box = f'<box label="a" xtl="1" ytl="2" xbr="3" ybr="6"><attribute name="note">{"x" * 70_000}</attribute></box>'
    parsed = read(tmp_path, f'<image id="0" name="a.jpg">{box}</image>')
    assert len(json.loads(parsed.boxes["attributes"][0])["note"]) == 2**16
    assert "image a.jpg: the attribute 'note' has 70,000 characters" in str(parsed.problems[0])


def test_what_is_wrong_is_named_and_its_frame_not_called_empty(tmp_path: Path) -> None:
    text = (
        '<image id="0" name="a.jpg"><box label="a" xtl="x" ytl="2" xbr="3" ybr="6"/></image>'
        '<image id="1"><box label="a" xtl="1" ytl="2" xbr="3" ybr="6"/></image>'
        '<image id="2" name="c.jpg"><points label="a" points="1,2"/><tag label="dark"/></image>'
        '<image id="3" name="../d.jpg"><box label="a" xtl="1" ytl="2" xbr="3" ybr="6"/></image>'
    )
    parsed = read(tmp_path, text)
    assert list(zip(parsed.boxes["frame_name"], parsed.boxes["class"], strict=True)) == [
        ("d.jpg", "a"),
        ("c.jpg", None),
    ]
    assert [problem.place for problem in parsed.problems] == ["image a.jpg, shape 1", "image 1", "<points>"]
    broken = '<track id="4" label="a"><box frame="1" outside="0" xtl="1"/><box frame="x"/></track><track id="5"/>'
    parsed = read(tmp_path, task(0, 2) + broken)
    assert lefts(parsed) == {0: None, 2: None}
    assert len(parsed.problems) == 3


@needs_data
def test_a_real_video_export() -> None:
    path = DATA / "annotations" / "cvat" / "video" / "annotations.xml"
    assert formats.detect(path) == "cvat"
    parsed = formats.load([path], DATA)
    assert lefts(parsed) == {10: 3.0, 13: None, 16: None, 19: None}
    assert parsed.boxes["class"][0] == "II"
    assert sorted(problem.place for problem in parsed.problems) == ["<points>", "<polyline>"]


@needs_data
def test_a_real_image_export() -> None:
    parsed = formats.load([DATA / "annotations" / "cvat" / "images" / "annotations.xml"], DATA)
    boxes = parsed.boxes.drop_duplicates("frame_name").set_index("frame_name")
    assert boxes.loc["img0.jpg", CORNERS].tolist() == [0, 2, 4, 4]
    assert boxes.loc["img1.jpg", CORNERS].tolist() == [1, 2, 6, 5]
    assert len(parsed.boxes) == 6, "three subsets hold the same two images"


presence = st.lists(st.one_of(st.none(), st.floats(0, 500, width=32)), min_size=4, max_size=12)


@settings(max_examples=80, deadline=None)
@given(objects=st.lists(presence, min_size=1, max_size=4), step=st.integers(1, 5), start=st.integers(0, 9))
def test_saved_tracks_are_loaded(
    tmp_path_factory: pytest.TempPathFactory, objects: list[list[float | None]], step: int, start: int
) -> None:
    out = tmp_path_factory.mktemp("tracks") / "a.xml"
    frames = [start + step * i for i in range(max(len(o) for o in objects))]
    rows = [
        {"frame_index": frame, "class": "cat", "x1": x, "y1": 0.0, "x2": x + 5, "y2": 5.0, "track": str(number)}
        for number, lefts_ in enumerate(objects)
        for frame, x in zip(frames, lefts_, strict=False)
        if x is not None
    ]
    seen = {row["frame_index"] for row in rows}
    rows += [
        {"frame_index": f, "class": None, **dict.fromkeys(CORNERS, np.nan), "track": None}
        for f in frames
        if f not in seen
    ]
    saved = pd.DataFrame(rows).assign(width=640, height=480)
    formats.cvat.save(saved, ["cat"], out, video=True)
    parsed = formats.load([out], out.parent)
    assert parsed.problems == []
    order = ["frame_index", "track"]
    got = parsed.boxes.sort_values(order).reset_index(drop=True)
    expected = saved.sort_values(order).reset_index(drop=True)
    assert got["frame_index"].tolist() == expected["frame_index"].tolist()
    assert [c or None for c in got["class"]] == [c if isinstance(c, str) else None for c in expected["class"]]
    assert [t or None for t in got["track"]] == [t if isinstance(t, str) else None for t in expected["track"]]
    np.testing.assert_array_equal(got[CORNERS].to_numpy(), expected[CORNERS].to_numpy(dtype=float))


def test_only_keyframes_are_written_and_the_rest_comes_back_by_interpolation(tmp_path: Path) -> None:
    frames = np.arange(11)
    saved = pd.DataFrame(
        {"frame_index": frames, "class": "cat", "x1": frames * 2.0, "y1": 0.0, "x2": frames * 2.0 + 5, "y2": 5.0}
    )
    saved = saved.assign(width=99, height=99, track="3", keyframe=frames == 5)
    saved = saved[saved["frame_index"] != 8]
    saved.loc[len(saved) + 1] = {**saved.iloc[0].to_dict(), "frame_index": 12, "class": None, "track": None}
    (path,) = formats.cvat.save(saved, ["cat"], tmp_path / "a.xml", video=True, source="clip.mp4").files
    text = path.read_text()
    assert text.count('outside="0"') == 5, "0, 5, 7, 9 and 10"
    assert text.count('outside="1"') == 2, "8 and 11"
    found = lefts(formats.load([path], tmp_path))
    assert found == {**{i: i * 2.0 for i in (*range(8), 9, 10)}, 8: None, 11: None, 12: None}


def test_save_refuses_a_track_that_is_two_objects(tmp_path: Path) -> None:
    row = {"frame_index": 1, "class": "cat", **dict.fromkeys(CORNERS, 1.0), "track": "1"}
    with pytest.raises(InputError, match="two boxes in frame 1"):
        formats.cvat.save(pd.DataFrame([row, row]), ["cat"], tmp_path / "a.xml", video=True)
    two = pd.DataFrame([row, {**row, "frame_index": 2, "class": "dog"}])
    with pytest.raises(InputError, match="several classes"):
        formats.cvat.save(two, ["cat", "dog"], tmp_path / "a.xml", video=True)
    with pytest.raises(InputError, match="frame_index"):
        formats.cvat.save(pd.DataFrame([{**row, "frame_index": None}]), ["cat"], tmp_path / "a.xml", video=True)
    assert list(tmp_path.iterdir()) == []

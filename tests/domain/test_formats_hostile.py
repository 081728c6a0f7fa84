"""Files that are broken, or meant to break the reader: each gives problems, none an exception; the others are read."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detection_assets.domain import formats
from detection_assets.domain.formats.parsed import MAX_LISTED, frame_name

GOOD_VOC = "<annotation><filename>good.jpg</filename></annotation>"
BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("bomb.xml", f"{BOMB}<annotation><filename>&b;</filename></annotation>", "entities"),
        ("bomb.xml", f'{BOMB}<annotations><image name="&b;"/></annotations>', "entities"),
        ("get.xml", '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>', "entities"),
        ("cut.xml", "<annotation><object><name>cat", "cut off"),
        ("cut.xml", '<annotations><track id="0" label="a"><box frame="0"', "cut off"),
        ("cut.json", '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id"', "cut off"),
        ("nan.json", '{"images": [NaN, ', "cut off"),
        ("deep.json", '{"images": ' + "[" * 100_000, "cut off"),
        ("deep.json", '{"images": [NaN], "annotations": ' + "[" * 100_000, "cut off"),
        ("list.json", '{"images": {"a": 1}, "annotations": []}', None),
        ("dict.json", '{"annotations": []}', "images"),
        ("list.json", '{"images": [], "annotations": 3}', "annotations"),
        ("empty.json", "", "is empty"),
        ("empty.xml", b"", "is empty"),
        ("blank.xml", " \n ", "is empty"),
        ("zeros.xml", b"\0" * 100, "not an annotation"),
        ("latin.txt", "0 0.5 0.5 0.5 0.5\nü".encode("latin-1"), "not UTF-8"),
        ("latin.json", '{"images": [{"id": 1, "file_name": "ü.jpg"}]}'.encode("latin-1"), "cut off"),
        ("odd.xml", '<?xml version="1.0" encoding="klingon"?><annotation/>', None),
        ("odd.xml", '<?xml version="1.0" encoding="utf-7"?><annotation/>', None),
        ("cvat.xml", "<annotations><version>1.1</version></annotations>", "neither"),
        ("deep.xml", "<annotation>" + "<a>" * 200_000, "cut off"),
        ("deep.xml", "<annotations>" + "<a>" * 200_000, "cut off"),
        (
            "century.xml",
            "<annotations><meta><task><start_frame>0</start_frame><stop_frame>2147483647</stop_frame></task>"
            "</meta>"
            '<track id="0" label="a"><box frame="0" xtl="0" ytl="0" xbr="1" ybr="1"/></track></annotations>',
            "frames",
        ),
    ],
)
def test_one_bad_file_is_one_problem_and_the_rest_is_read(
    tmp_path: Path, name: str, data: str | bytes, words: str | None
) -> None:
    (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    (tmp_path / "good.xml").write_text(GOOD_VOC)
    (tmp_path / "classes.txt").write_text("cat")
    parsed = formats.load([tmp_path / name, tmp_path / "good.xml"], tmp_path)
    assert parsed.boxes["frame_name"].tolist() == ["good.jpg"]
    assert [problem.file for problem in parsed.problems] == [name]
    problem = parsed.problems[0]
    assert "skipped the file" in problem.done
    assert words is None or words in problem.what


def test_what_cannot_be_opened_is_a_problem(tmp_path: Path) -> None:
    parsed = formats.load([tmp_path / "missing.json", tmp_path], tmp_path)
    assert [problem.file for problem in parsed.problems] == ["missing.json", "."]
    assert formats.detect(tmp_path / "missing.json") is None


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "classes.txt").write_text("kühl", encoding=encoding)
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.5 0.5", encoding=encoding)
    (tmp_path / "b.xml").write_text(GOOD_VOC.replace("good", "gut ö"), encoding=encoding)
    text = '{"images": [{"id": 1, "file_name": "ö.jpg"}]}'
    (tmp_path / "c.json").write_text(text, encoding=encoding)
    parsed = formats.load(sorted(tmp_path.iterdir()), tmp_path)
    assert parsed.problems == []
    assert sorted(parsed.boxes["frame_name"]) == ["a.txt", "gut ö.jpg", "ö.jpg"]
    assert "kühl" in parsed.boxes["class"].tolist()


@pytest.mark.parametrize(
    "text",
    [
        "names: [unclosed",
        "nc: 3",
        "names: 7",
        "names: {a: b}",
        "names: {999999999: b}",
        "? [1]\n: 2\n",
        "names: !!python/object/apply:os.system ['touch /tmp/pwned']",
        "a: &a [x]\nb: &b [*a, *a]\nnames: *c",
        "names: !!int x",
        "names: 2001-99-99",
        "[" * 1100,
    ],
)
def test_names_that_cannot_be_read_are_a_problem(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.5 0.5")
    parsed = formats.load([tmp_path / "a.txt"], tmp_path)
    assert len(parsed.boxes) == 0
    assert parsed.problems[0].file == "data.yaml"


def test_problems_of_one_kind_stay_few(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat")
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n" + "7 0 0 1 1\n" * 5000)
    parsed = formats.load([tmp_path / "a.txt"], tmp_path)
    assert len(parsed.problems) == MAX_LISTED + 1
    assert "5000 in all" in parsed.problems[-1].what


@pytest.mark.parametrize(
    "piece", ["<!--", "<?", "<!DOCTYPE [", "<!DOCTYPE a [ ]", '{"a', '{"\\"\\"', "1" * 9, "1 ", "0 0 0 0 0 "]
)
def test_detect_is_quick_whatever_the_head(tmp_path: Path, piece: str) -> None:
    path = tmp_path / "slow.txt"
    path.write_text(("<" if piece.startswith("<") else "") + piece * (formats.HEAD // len(piece)))
    start = time.monotonic()
    formats.detect(path)
    assert time.monotonic() - start < 5, "the cost must not grow with the square of the head"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("a.jpg", "a.jpg"),
        ("sub/a.jpg", "sub/a.jpg"),
        ("sub\\a.jpg", "sub/a.jpg"),
        ("./a//b.jpg", "a/b.jpg"),
        ("../../etc/passwd", "passwd"),
        ("a/../b.jpg", "b.jpg"),
        ("/etc/passwd", "passwd"),
        ("C:\\data\\a.jpg", "a.jpg"),
        ("..", ""),
        ("", ""),
        (" Köln 1.v2.jpg ", "Köln 1.v2.jpg"),
    ],
)
def test_names_of_strangers_are_cleaned(written: str, read: str) -> None:
    assert frame_name(written) == read


VALID = {
    "coco": b'{"images":[{"id":1,"file_name":"a.jpg","width":9,"height":9},{"id":2,"file_name":"b.jpg"}],"categories":'
    b'[{"id":1,"name":"cat"}],"annotations":[{"id":1,"image_id":1,"category_id":1,"bbox":[1,2,3,4],"track_id":7}]}',
    "yolo": b"0 0.5 0.5 0.25 0.25\n1 0.1 0.2 0.3 0.4 0.5\n",
    "pascal_voc": b"<annotation><filename>a.jpg</filename><size><width>9</width><height>9</height></size><object>"
    b"<name>cat</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox></object></annotation>",
    "cvat": b"<annotations><meta><task><start_frame>0</start_frame><stop_frame>9</stop_frame>"
    b"<frame_filter>step=3</frame_filter></task></meta>"
    b'<image id="0" name="a.jpg" width="9" height="9"><box label="cat" xtl="1" ytl="2" xbr="3" ybr="4"/></image>'
    b'<track id="0" label="cat"><box frame="3" outside="0" keyframe="1" xtl="1" ytl="2" xbr="3" ybr="4"/></track>'
    b"</annotations>",
}


@st.composite
def mutants(draw: st.DrawFn, name: str) -> bytes:
    """A valid file with a piece of it cut out, doubled or replaced."""
    data = VALID[name]
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        stop = draw(st.integers(start, min(len(data), start + 40)))
        piece = draw(
            st.one_of(
                st.binary(max_size=8),
                st.sampled_from(
                    [b"", data[start:stop] * 2, b"-1", b"null", b"NaN", b"1e999", b"9" * 30, b'"', b"<", b"[]", b"{}"]
                ),
            )
        )
        data = data[:start] + piece + data[stop:]
    return data


def check(parsed: formats.Parsed) -> None:
    assert {column: str(dtype) for column, dtype in parsed.boxes.dtypes.items()} == formats.COLUMNS
    for column in ("frame_name", "class", "track", "annotator", "file", "place"):
        assert all(value is None or isinstance(value, str) for value in parsed.boxes[column])
    for problem in parsed.problems:
        assert problem.what
        assert problem.done


@pytest.mark.parametrize("name", list(VALID))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_readers_never_raise(tmp_path: Path, name: str, data: st.DataObject) -> None:
    content = data.draw(st.one_of(mutants(name), st.binary(max_size=200)))
    (tmp_path / "classes.txt").write_text("cat\ndog")
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    check(formats.FORMATS[name].load([path], tmp_path))
    check(formats.load([path], tmp_path, wanted=[0, 1, 4, 2**40]))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(
        st.binary(max_size=60), st.text("names:[]{}-!&*?|>'\"%@`#,0a1. \n\t", max_size=60).map(str.encode)
    )
)
@pytest.mark.parametrize("name", ["data.yaml", "classes.txt", "x.names"])
def test_names_never_raise(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.5 0.5")
    check(formats.load([tmp_path / "a.txt"], tmp_path))


def test_huge_and_infinite_numbers_are_read_for_matching_to_judge(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        '{"images": [{"id": 1, "file_name": "a.jpg", "width": 1e300, "height": Infinity}],'
        '"categories": [{"id": 1, "name": "c"}],'
        '"annotations": [{"image_id": 1, "category_id": 1, "bbox": [-Infinity, NaN, 1e308, ' + "9" * 400 + "]}]}"
    )
    boxes = formats.load([tmp_path / "a.json"], tmp_path).boxes
    assert len(boxes) == 0 or not np.isfinite(boxes[["x1", "y1", "x2", "y2"]].to_numpy()).all()
    assert pd.isna(boxes["width"]).all()

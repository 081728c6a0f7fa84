"""Files that are broken, or meant to break the reader: each gives problems, none an exception; the others are read."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
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
        ("deep.xml", "<annotations>" + "<a>" * 200_000, "more than 100 deep"),
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
    "labelme": b'{"imagePath":"a.jpg","imageData":"AAAA","imageWidth":9,"imageHeight":9,"flags":{"x":true},"shapes":['
    b'{"label":"cat","shape_type":"rectangle","points":[[1,2],[3,4]],"group_id":7,"flags":{"occluded":true}},'
    b'{"label":"cat","shape_type":"circle","points":[[1,2],[3,4]],"attributes":{"a":1},"score":0.5}]}',
    "openimages": b"ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf\n"
    b'a.jpg,xclick,cat,1,0.25,0.75,0.5,1,1,0,-1\n"b","",/m/01,0.5,"0,25",1,0,1,,,1\n',
    "mot": b"1,2,1,1,1920,1080,1,1,1\n2,3,101.5,201,10,20,0,2,0.25\n3,-1,5,5,1,1,1,3,-1\n",
    "label_studio": b'[{"id":1,"data":{"image":"/data/upload/1/0123abcd-a.jpg"},"annotations":[{"id":2,"completed_by":'
    b'3,"result":[{"id":"r","type":"rectanglelabels","original_width":9,"original_height":9,"score":0.5,"value":{"x":1,'
    b'"y":2,"width":3,"height":4,"rotation":30,"rectanglelabels":["cat"]},"meta":{"text":["a"]}},{"id":"r","type":'
    b'"choices","from_name":"n","value":{"choices":["b"]}}]}]},{"data":{"video":"s3://b/v.mp4","frames":9},"annotations":'
    b'[{"result":[{"id":"t","type":"videorectangle","value":{"framesCount":9,"labels":["cat"],"sequence":[{"frame":1,"x":'
    b'1,"y":2,"width":3,"height":4,"rotation":0},{"frame":5,"enabled":false,"x":2,"y":2,"width":3,"height":4}]}}]}]}]',
    "ground_truth": b'{"source-ref":"s3://b/p/a.jpg","l":{"image_size":[{"width":9,"height":9}],"annotations":[{"class_id":0,'
    b'"top":1,"left":2,"width":3,"height":4}]},"l-metadata":{"objects":[{"confidence":0.5}],"class-map":{"0":"cat"},'
    b'"type":"groundtruth/object-detection","creation-date":"2020"}}\n{"source-ref":"b","l-metadata":{"failure-reason":"x"}}',
    "azureml": b'{"image_url":"azureml://s/datastores/d/paths/p/a.jpg","image_details":{"width":"9px","height":9},"label":['
    b'{"label":"cat","topX":0.25,"topY":0.25,"bottomX":0.5,"bottomY":0.5,"isCrowd":"true"},{"label":"cat","polygon":'
    b'[[0.1,0.1,0.2,0.1,0.2,0.2]]}],"label_confidence":[0.5,1]}\n{"image_url":"p/b.jpg","label":[]}',
    "sequence": b'{"tracking-annotations":[{"frame-no":0,"frame":"0.jpg","annotations":[{"class-id":"0","top":1,"left":'
    b'2,"width":3,"height":4,"object-id":"x","object-name":"cat:1","label-category-attributes":{"a":"b"}}]}]}',
}
BRANCHES = {"sequence": "ground_truth"}
"""Kinds of files that a format reads apart from its others."""


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


def test_every_format_is_tried() -> None:
    assert set(VALID) - set(BRANCHES) == set(formats.FORMATS)
    for name, content in VALID.items():
        assert name in ("yolo", "mot") or b"cat" in content


def never_raises(folder: Path, name: str, data: st.DataObject) -> None:
    content = data.draw(st.one_of(mutants(name), mutants(name), st.binary(max_size=200)))
    (folder / "classes.txt").write_text("cat\ndog")
    path = folder / "a.txt"
    path.write_bytes(content)
    check(formats.FORMATS[BRANCHES.get(name, name)].load([path], folder))
    check(formats.load([path], folder, wanted=[0, 1, 4, 2**40]))


@pytest.mark.parametrize("name", list(VALID))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_readers_never_raise(tmp_path: Path, name: str, data: st.DataObject) -> None:
    never_raises(tmp_path, name, data)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", list(VALID))
@settings(max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_readers_never_raise_in_ten_thousand_files(tmp_path: Path, name: str, data: st.DataObject) -> None:
    never_raises(tmp_path, name, data)


@pytest.mark.parametrize("name", list(formats.FORMATS))
@pytest.mark.parametrize(
    "evil", ["../../evil.jpg", "/etc/evil.jpg", "C:\\x\\evil.jpg", "a/../../../evil.jpg", "..\\evil.jpg"]
)
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str, evil: str) -> None:
    out = tmp_path / "deep" / "out"
    row = {"frame_name": evil, "frame_index": 0, "width": 9, "height": 9, "class": "../cat", "track": "../1"}
    boxes = pd.DataFrame([{**row, "x1": 1.0, "y1": 1.0, "x2": 2.0, "y2": 2.0}])
    saved = formats.FORMATS[name].save(boxes, ["../cat"], out / SINGLE_FILES.get(name, "."))
    there = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(saved.files) == sorted(there)
    assert all(path.is_relative_to(out) for path in there)
    parsed = formats.load(saved.files, tmp_path)
    assert parsed.boxes["class"].tolist() == ["../cat"]
    for found in parsed.boxes["frame_name"].dropna():
        assert frame_name(found) == found, "what is read is cleaned"
        assert Path(found).stem == "evil"


SINGLE_FILES = {"coco": "a.json", "cvat": "a.xml", "label_studio": "a.json", "ground_truth": "a.manifest"}

HEADER = b"ImageID,LabelName,XMin,XMax,YMin,YMax\n"
ENDLESS = {
    "arrays.json": (b'{"images": ', b"["),
    "not-a-number.json": (b'{"images": [NaN,', b"["),
    "digits.json": (b'{"images": [', b"1"),
    "shapes.json": (b'{"shapes": [', b'{"a":'),
    "flat-shapes.json": (b'{"shapes": [', b"{},"),
    "picture.json": (b'{"shapes": [], "imageData": "', b"A"),
    "voc.xml": (b"<annotation>", b"<a>"),
    "flat-voc.xml": (b"<annotation>", b"<a/>"),
    "cvat.xml": (b"<annotations>", b"<a>"),
    "meta.xml": (b"<annotations><meta>", b"<a>"),
    "text.xml": (b"<annotations><meta><task><name>", b"a"),
    "attribute.xml": (b'<annotations><image name="', b"a"),
    "comment.xml": (b"<annotations><!-- ", b"a"),
    "polygon.txt": (b"0 0.5 0.5 0.5 0.5\n0", b" 0"),
    "word.txt": (b"0 0.5 0.5 0.5 0.5\n", b"0"),
    "tasks.json": (b'[{"annotations": [', b"["),
    "flat-tasks.json": (b'[{"annotations": []},', b"{},"),
    "flat-results.json": (b'[{"annotations": [{"result": [', b"{},"),
    "task-digits.json": (b'[{"annotations": []},', b"1"),
    "task-text.json": (b'[{"annotations": []},{"data": "', b"\\\\"),
    "flat-lines.jsonl": (b'{"image_url": ""}\n', b"{}\n"),
    "empty-lines.jsonl": (b'{"image_url": ""}\n', b"\n"),
    "line.jsonl": (b'{"image_url": "a", "label": [', b"{},"),
    "many.manifest": (b'{"source-ref": ""}\n', b"[]\n"),
    "nested.manifest": (b'{"source-ref": "a", "a-metadata": ', b"["),
    "frames.json": (b'{"tracking-annotations": [', b"{},"),
    "MLTable": (b"paths:\n", b"- [a]\n"),
    "line.csv": (HEADER, b"a"),
    "quote.csv": (HEADER + b'"', b"a,b,0,1,0,1\n"),
    "commas.csv": (HEADER, b",,,,,,,,\n"),
    "line.mot.txt": (b"1,1,1,1,1,1\n", b"1,"),
    "short.mot.txt": (b"1,1,1,1,1,1\n", b"1,\n"),
    "zeros.mot.txt": (b"1,1,1,1,1,1\n", b"\0"),
}
"""How a file begins that goes on and on, and how it goes on."""

LIMITED = """
import json, sys, time
from pathlib import Path
from detection_assets.domain import formats
path = Path(sys.argv[1])
start = time.process_time()
parsed = formats.load([path], path.parent)
took = time.process_time() - start
# Not what `getrusage` says: that begins with the size of who started this.
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
print(json.dumps([took, peak, len(parsed.boxes), [problem.what for problem in parsed.problems]]))
"""


def endless(path: Path, size: int) -> Path:
    begin, piece = ENDLESS[path.name]
    path.write_bytes(begin + piece * ((size - len(begin)) // len(piece)))
    (path.parent / "classes.txt").write_text("cat")
    return path


@pytest.mark.parametrize("name", list(ENDLESS))
def test_what_goes_on_and_on_is_told(tmp_path: Path, name: str) -> None:
    start = time.process_time()
    parsed = formats.load([endless(tmp_path / name, 2**20)], tmp_path)
    assert time.process_time() - start < 5
    assert parsed.problems or name == "polygon.txt", "nobody says how many corners a polygon has"


def test_tracks_that_each_name_a_task_of_their_own_are_told(tmp_path: Path) -> None:
    box = '<box frame="0" outside="0" xtl="1" ytl="1" xbr="2" ybr="2"/>'
    tracks = "".join(f'<track id="{i}" label="a" task_id="{i}">{box}</track>' for i in range(2000))
    (tmp_path / "a.xml").write_text(f"<annotations>{tracks}</annotations>")
    start = time.process_time()
    (problem,) = formats.load([tmp_path / "a.xml"], tmp_path).problems
    assert time.process_time() - start < 5
    assert "2,000 tasks" in problem.what


@pytest.mark.long
@pytest.mark.parametrize("name", list(ENDLESS))
@pytest.mark.parametrize("size", [2**22 - 1, 2**23, 100 * 10**6])
def test_a_hundred_megabytes_stay_within_limits(tmp_path: Path, name: str, size: int) -> None:
    path = endless(tmp_path / name, size)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30)),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    took, peak, _, problems = json.loads(done.stdout)
    assert problems or name == "polygon.txt"
    assert peak < 512, f"{peak:.0f} MB"
    assert took < 5, f"{took:.1f} s"


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

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detection_assets.domain import captures, schemas

KEY = "captures/2026-03-01/08/part.jsonl"
BOX = {"class": "apple", "confidence": 0.9, "x1": 1.0, "y1": 2.0, "x2": 30.5, "y2": 40.0}
ROW: dict[str, Any] = {
    **{"time": "2026-03-01T08:00:00.123+00:00", "request_id": "a", "slot": "blue", "version": "1", "status": 200},
    **{"latency_ms": 12.5, "why": "sample", "width": 640, "height": 480, "brightness": 100.0, "contrast": 40.0},
    **{"sharpness": 300.0, "red": 1.0, "green": 2.0, "blue": 3.0, "image": "a.jpg", "boxes": [BOX]},
}


def lines(*rows: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def read(*rows: dict[str, Any]) -> tuple[pd.DataFrame, list[Any]]:
    return captures.read([(KEY, lines(*rows))], "2026-03-01")


def test_a_row_becomes_a_row() -> None:
    table, problems = read(ROW)
    table = schemas.conform("captured_requests", table)
    assert not problems
    row = table.iloc[0]
    assert row["time"] == pd.Timestamp("2026-03-01T08:00:00.123Z")
    assert row["image"] == "captures/2026-03-01/08/a.jpg"
    assert row["boxes"] == 1
    assert captures.boxes(table).to_dict("records") == [{"frame": "a", **BOX}]


def test_nothing_is_an_empty_table_with_its_types() -> None:
    table, problems = captures.read([], "2026-03-01")
    assert schemas.conform("captured_requests", table).dtypes.equals(schemas.empty("captured_requests").dtypes)
    assert not problems
    assert captures.boxes(table).empty
    assert captures.service(table).empty


def test_order_is_that_of_time_in_any_zone() -> None:
    later = {**ROW, "request_id": "later", "time": "2026-03-01T10:00:01+02:00"}
    table, _ = captures.read([("b", lines(later)), ("a", lines(ROW))], "2026-03-01")
    assert list(table["request_id"]) == ["a", "later"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"time": "yesterday"}, "time"),
        ({"time": "2026-03-01T08:00:00"}, "timezone"),
        ({"request_id": ""}, "request_id"),
        ({"width": 0}, "width"),
        ({"latency_ms": -1}, "latency_ms"),
        ({"brightness": "dark"}, "brightness"),
        ({"boxes": [{**BOX, "x1": None}]}, "boxes.0.x1"),
        ({"boxes": None}, "boxes"),
        ({"why": "because"}, "why"),
        ({"image": "../../key"}, "image"),
        ({"image": "a/b.jpg"}, "image"),
        ({"image": ".hidden.jpg"}, "image"),
    ],
)
def test_a_bad_value_is_told_with_its_place_and_the_rest_stays(change: dict[str, Any], said: str) -> None:
    table, (problem,) = read(ROW, {**ROW, "request_id": "bad", **change}, {**ROW, "request_id": "b"})
    assert list(table["request_id"]) == ["a", "b"]
    assert (problem.file, problem.place) == (KEY, "line 2")
    assert said in problem.what


def test_not_a_number_and_half_lines_are_left_out() -> None:
    whole = lines(ROW)
    data = whole[:50] + b"\n" + whole.replace(b"12.5", b"NaN") + b"\xff\xfe\n" + whole
    table, problems = captures.read([(KEY, data)], "2026-03-01")
    assert len(table) == 1
    assert [problem.place for problem in problems] == ["line 1", "line 2", "line 3"]


def test_what_a_newer_server_adds_is_ignored_and_what_it_lacks_is_missing() -> None:
    bare = {key: value for key, value in ROW.items() if key not in ("brightness", "blue", "image")}
    table, problems = read({**bare, "colour of the sky": "blue"})
    assert not problems
    assert table["brightness"].isna().all()
    assert table["image"].isna().all()


@given(st.binary(max_size=400))
def test_no_bytes_stop_the_reader(data: bytes) -> None:
    table, problems = captures.read([(KEY, data)], "2026-03-01")
    assert len(table) + len(problems) <= data.count(b"\n") + 1


def test_the_name_of_a_picture_is_the_servers_or_the_requests() -> None:
    table, _ = read({**ROW, "image": "a-1f2e.jpg"}, {**ROW, "request_id": "b", "image": None})
    assert [captures.picture_name(row) for row in table.itertuples()] == ["a-1f2e", "b"]


def test_latencies_are_of_the_requests_drawn_at_random() -> None:
    drawn = [{**ROW, "request_id": f"d{at}", "latency_ms": float(at)} for at in range(1, 101)]
    unsure = [{**ROW, "request_id": f"u{at}", "latency_ms": 9000.0, "why": "low confidence"} for at in range(20)]
    other = {**ROW, "request_id": "o", "version": "2"}
    table, _ = read(*drawn, *unsure, other)
    found = captures.service(table).set_index("version")
    assert found.loc["1", ["kept", "drawn"]].tolist() == [120, 100]
    assert found.loc["1", "p50_ms"] == pytest.approx(50.5)
    assert found.loc["1", "p99_ms"] < 101
    assert found.loc["2", "drawn"] == 1


@pytest.mark.parametrize(
    ("key", "part"),
    [("a/b.jsonl", True), ("a/.b.jsonl", False), ("a/b.jsonl.part", False), ("a/b.jpg", False)],
)
def test_parts_that_are_being_written_are_none(key: str, part: bool) -> None:
    assert captures.is_part(key) == part

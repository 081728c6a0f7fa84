from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from detection_assets.domain import layout, schemas
from resources import tables

ROW = {
    **{"video": "a.mp4", "frame": "a.mp4#000001", "class": "apple", "x1": 1.0, "y1": 2.0, "x2": 3.0, "y2": 4.0},
    **{"track": None, "source": "annotations/a.json", "annotator": None, "reviewed": False},
}


def boxes(*videos: str) -> pd.DataFrame:
    return schemas.conform("annotations", pd.DataFrame([{**ROW, "video": video} for video in videos]))


def test_todays_table_and_every_earlier_one_can_be_read(platform: Any) -> None:
    first = tables.write(platform.storage, "annotations", "a.mp4", boxes("a.mp4"), "run 1")
    second = tables.write(platform.storage, "annotations", "a.mp4", boxes("a.mp4", "a.mp4"), "run 2")
    assert len(tables.read(platform.storage, "annotations", ["a.mp4"])) == 2
    assert len(tables.read_versions(platform.storage, "annotations", [first["table"]])) == 1
    assert second["sha256"] != first["sha256"]


def test_the_same_content_is_the_same_table(platform: Any) -> None:
    first = tables.write(platform.storage, "annotations", "a.mp4", boxes("a.mp4"), "run 1")
    again = tables.write(platform.storage, "annotations", "a.mp4", boxes("a.mp4"), "run 2")
    assert again["table"] == first["table"]


def test_the_types_survive(platform: Any) -> None:
    table = boxes("a.mp4")
    tables.write(platform.storage, "annotations", "a.mp4", table, "run")
    pd.testing.assert_frame_equal(tables.read(platform.storage, "annotations", ["a.mp4"]), table)


def test_videos_without_a_table_contribute_nothing(platform: Any) -> None:
    tables.write(platform.storage, "annotations", "a.mp4", boxes("a.mp4"), "run")
    assert len(tables.read(platform.storage, "annotations", ["a.mp4", "b.mp4"])) == 1
    assert tables.read(platform.storage, "annotations", []).empty


def test_an_asset_without_a_table_says_what_to_do(platform: Any) -> None:
    with pytest.raises(FileNotFoundError, match="run the detector up to evaluation first"):
        tables.read(platform.storage, "evaluation")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": "x1"}, "missing columns"),
        ({"add": "extra"}, "unknown columns"),
        ({"spoil": "x1"}, "column x1 does not fit float64"),
    ],
)
def test_a_table_that_breaks_its_schema_is_not_written(platform: Any, change: dict[str, str], message: str) -> None:
    table = boxes("a.mp4")
    if "drop" in change:
        table = table.drop(columns=change["drop"])
    if "add" in change:
        table[change["add"]] = 1
    if "spoil" in change:
        table[change["spoil"]] = "no number"
    with pytest.raises(ValueError, match=message):
        tables.write(platform.storage, "annotations", "a.mp4", table, "run")
    assert not platform.storage.exists(layout.table_pointer("annotations", "a.mp4"))


def test_days_have_tables_of_their_own_as_videos_have(platform: Any) -> None:
    columns = schemas.SCHEMAS["drift_report"]
    row = {name: 0.5 if column.dtype == "float64" else 1 for name, column in columns.items()}
    row |= {name: "x" for name, column in columns.items() if column.dtype == "string"}
    for day in ("2026-03-01", "2026-03-02"):
        tables.write(platform.storage, "drift_report", day, pd.DataFrame([{**row, "day": day}]), "run")
    both = tables.read(platform.storage, "drift_report", ["2026-03-01", "2026-03-02", "2026-03-03"])
    assert list(both["day"]) == ["2026-03-01", "2026-03-02"]


def test_times_survive(platform: Any) -> None:
    table = schemas.empty("captured_requests")
    tables.write(platform.storage, "captured_requests", "2026-03-01", table, "run")
    found = tables.read(platform.storage, "captured_requests", ["2026-03-01"])
    assert str(found["time"].dtype) == "datetime64[ms, UTC]"


@pytest.mark.parametrize(
    ("asset", "column"), [("annotations", "video"), ("batch_predictions", "video"), ("drift_report", "day")]
)
def test_a_table_says_what_its_partitions_are(asset: str, column: str) -> None:
    assert schemas.partition_column(asset) == column


def test_a_table_that_cannot_be_told_apart_says_so() -> None:
    with pytest.raises(ValueError, match="no column video or day"):
        schemas.partition_column("evaluation")

"""Annotations that come and change: what is reported, versioned, compared, and known of an evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest
from assets.annotated import NAME, VIDEOS, Annotated, box, rows_of

from resources import tables


@pytest.fixture
def annotated(home: Path) -> Annotated:
    return Annotated(home)


def test_every_run_leaves_a_report_that_an_annotator_can_work_through(annotated: Annotated) -> None:
    one, other = VIDEOS
    annotated.annotate(one, [box(0, 10), box(0, 90), box(1, 10, width=0), box(2, 10, "kiwi"), box(9, 10)])
    annotated.annotate(other, [box(0, 10)])
    annotated.storage.put("annotations/store-1/clip/=broken.xml", b"<annotation><object>")
    annotated.storage.put("annotations/notes.xml", b"<annotation><object>")
    annotated.run("annotations")

    told = annotated.told("annotations", one)
    assert told["problems by kind"] == {
        **{"no area, dropped": 1, "out of frame, clipped": 1, "unknown class, dropped": 1, "unknown frame, dropped": 1},
        **{"unreadable, skipped": 2, "flat, kept": 1},
    }
    rows = [row for key in told["problem reports"] for row in rows_of(annotated.storage.get(key))]
    clipped = next(row for row in rows if row["action"] == "clipped")
    assert clipped["video"] == one
    assert clipped["frame"] == f"{one}#000000"
    assert [clipped[side] for side in ("class", "x1", "y1", "x2", "y2")] == ["apple", "90.0", "10.0", "110.0", "30.0"]
    assert clipped["place"] == "annotation 2"
    assert all(row["remedy"] for row in rows), rows
    assert {row["file"] for row in rows if row["kind"] == "unreadable"} >= {"annotations/store-1/clip/=broken.xml"}
    assert annotated.told("annotations", other)["problems by kind"] == {"unreadable, skipped": 1}

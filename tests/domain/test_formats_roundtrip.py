"""Every format and every table that it can hold: what is saved is loaded, and what is left out is told.

A format that is added to `FORMATS` is tested here without more ado; what is special about one stands in `SPECIAL`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detection_assets.domain import formats
from detection_assets.domain.formats.parsed import FLAGS
from detection_assets.domain.formats.saving import OPTIONAL, Saved

CORNERS = ["x1", "y1", "x2", "y2"]
CLASSES = ["apple", "banana split", "könig", "水", "a: b #c", "'quoted\"", "no", "7", "a, b; <c> & d", "🍌"]
OF_FRAMES = ("frame_index", "pts_s")


@dataclass(frozen=True)
class Special:
    """What one format wants or does that others do not.

    Attributes:
        out: What is given to `save`, in an empty folder.
        frames_by: How a frame that is read is told to be the one that was written.
        video: Whether a frame has a number and no name of its own.
        numbered_tracks: Whether a track is a number.
        empty_frames: Whether a frame without boxes can be said, or only where every frame from the first is there.
        sizes: Whether `width` and `height` come back.
        atol: By how much a corner may differ, as a share of the frame's side.
        always: What is said of every box: no, where the table says nothing.
        texts: Whether the values of attributes come back as text.
    """

    out: str = "out"
    frames_by: Callable[[str], str] = str
    video: bool = False
    numbered_tracks: bool = False
    empty_frames: bool | Literal["all from the first"] = True
    sizes: bool = True
    atol: float = 1e-12
    always: tuple[str, ...] = ()
    texts: bool = False


def stem(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[0]


SPECIAL = {
    "azureml": Special(always=("crowd",)),
    "ground_truth": Special(out="out.manifest"),
    "label_studio": Special(out="out.json"),
    "coco": Special(out="out.json", always=("crowd",)),
    "cvat": Special(out="out.xml", always=("occluded",)),
    "labelme": Special(),
    "mot": Special(video=True, numbered_tracks=True, empty_frames="all from the first"),
    # An id is the name without its ending.
    "openimages": Special(frames_by=lambda name: name.removesuffix(".jpg"), empty_frames=False, sizes=False),
    "pascal_voc": Special(texts=True),
    # A file is called like its frame; nine decimals are written.
    "yolo": Special(frames_by=stem, sizes=False, atol=2e-9),
}

names = st.text(st.characters(categories=["L", "N"], include_characters="-_. "), min_size=1, max_size=8).map(
    lambda stem: f"x{stem}x.jpg"
)
fraction = st.floats(0, 1, width=32)
words = st.text(st.characters(categories=["L", "N"], include_characters="-_. '\"&<>,;"), min_size=1, max_size=8).map(
    lambda text: f"x{text}x"
)
# A name has one type: CVAT declares it once for all.
values = {"colour": words, "ripe?": st.booleans(), "größe": st.integers(-99, 99), "a b": st.just("")}
attributes = (
    st.fixed_dictionaries({}, optional=values).filter(bool).map(lambda found: json.dumps(found, sort_keys=True))
)
said: dict[str, st.SearchStrategy[Any]] = {
    "annotator": words,
    "confidence": st.floats(0, 1, width=32),
    **dict.fromkeys(FLAGS, st.booleans()),
    "attributes": attributes,
}


@st.composite
def tables(draw: st.DrawFn, special: Special, holds: tuple[str, ...] | None) -> pd.DataFrame:
    """A legal table. `holds`: the optional columns that may say something; None for all."""
    columns = [name for name in OPTIONAL if holds is None or name in holds]
    says = [name for name in columns if draw(st.booleans())]
    size = draw(st.tuples(st.integers(1, 8000), st.integers(1, 8000)))
    numbers = st.lists(st.integers(0, 60), min_size=1, max_size=4, unique=True)
    indices = (
        sorted(draw(numbers)) if not special.video or draw(st.booleans()) else list(range(draw(st.integers(1, 4))))
    )
    found = (
        [f"{i:06d}.jpg" for i in indices]
        if special.video
        else draw(st.lists(names, min_size=len(indices), max_size=len(indices), unique_by=lambda name: name.casefold()))
    )
    may_be_empty = special.empty_frames is True or (special.empty_frames and indices == list(range(len(indices))))
    ids = st.integers(0, 50).map(str) if special.numbered_tracks else st.one_of(st.integers(0, 50).map(str), words)
    tracks = draw(st.lists(ids, unique=True, max_size=3)) if "track" in says or special.video else []
    # An object is of one class.
    of_track = {track: draw(st.sampled_from(CLASSES)) for track in tracks}
    rows: list[dict[str, Any]] = []
    for number, (name, index) in enumerate(zip(found, indices, strict=True)):
        width, height = size if special.video else draw(st.tuples(st.integers(1, 8000), st.integers(1, 8000)))
        frame = {"frame_name": name, "frame_index": None, "pts_s": np.nan, "width": width, "height": height}
        if "frame_index" in says or special.video:
            frame["frame_index"] = index
        if "pts_s" in says:
            frame["pts_s"] = number / 25
        free = list(tracks)
        boxes = draw(st.integers(0 if may_be_empty else 1, 3))
        for _ in range(boxes):
            track = free.pop() if free and draw(st.booleans()) else None
            x1, x2 = sorted((draw(fraction), draw(fraction)))
            y1, y2 = sorted((draw(fraction), draw(fraction)))
            row = {**frame, "class": of_track.get(track or "") or draw(st.sampled_from(CLASSES)), "track": track}
            row |= {"x1": x1 * width, "x2": x2 * width, "y1": y1 * height, "y2": y2 * height}
            row["reviewed"] = "reviewed" in says and draw(st.booleans())
            row |= {name: draw(strategy) for name, strategy in said.items() if name in says and draw(st.booleans())}
            rows.append(row)
        if not boxes:
            rows.append({**frame, "class": None, "reviewed": False})
    types = {name: kind for name, kind in formats.COLUMNS.items() if name not in ("relative", "file", "place")}
    table = pd.DataFrame(rows, columns=list(types)).astype({"reviewed": bool})
    return table.astype({name: kind for name, kind in types.items() if kind != "object"})


def canonical(value: Any) -> Any:
    return None if value is None or (not isinstance(value, dict) and pd.isna(value)) else value


def attributes_of(text: str, special: Special) -> dict[str, Any]:
    said = json.loads(text)
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in said.items()} if special.texts else said


def frame_of(row: dict[str, Any], special: Special) -> str:
    return str(row["frame_index"]) if special.video else special.frames_by(row["frame_name"])


def key_of(row: dict[str, Any], special: Special) -> tuple[Any, ...]:
    """What tells rows of one table apart, whatever their order."""
    corners = tuple(round(float(row[corner]), 4) for corner in CORNERS) if row["class"] else ()
    return (
        frame_of(row, special),
        row["class"] or "",
        corners,
        str(row["track"]),
        str(row["attributes"]),
        str(row["confidence"]),
    )


def check(name: str, special: Special, table: pd.DataFrame, holds: tuple[str, ...], folder: Path) -> Saved:
    saved = formats.FORMATS[name].save(table, CLASSES, folder / special.out)
    assert {formats.detect(path) for path in saved.files} == {name}
    parsed = formats.load(saved.files, folder)
    assert [problem for problem in parsed.problems if "without area" not in problem.what] == []
    got = parsed.boxes
    assert {column: str(kind) for column, kind in got.dtypes.items()} == formats.COLUMNS
    sizes = {frame_of(row, special): (row["width"], row["height"]) for row in table.to_dict("records")}
    mine: list[dict[str, Any]] = got.to_dict("records")
    for row in mine:
        if row["relative"]:
            width, height = sizes[frame_of(row, special)]
            row |= {"x1": row["x1"] * width, "x2": row["x2"] * width}
            row |= {"y1": row["y1"] * height, "y2": row["y2"] * height}
    theirs: list[dict[str, Any]] = table.to_dict("records")
    for row in theirs:
        row |= {column: None for column in OPTIONAL if column not in holds and column != "reviewed"}
        if "reviewed" not in holds:
            row["reviewed"] = False
        row |= {column: False for column in special.always if row["class"] and pd.isna(row[column])}
    for row in (*mine, *theirs):
        row |= {column: canonical(row[column]) for column in formats.COLUMNS if column in row}
        if row["attributes"] is not None:
            row["attributes"] = json.dumps(attributes_of(row["attributes"], special), sort_keys=True)
    compare(mine, theirs, special, holds)
    return saved


def compare(
    mine: list[dict[str, Any]],
    theirs: list[dict[str, Any]],
    special: Special,
    holds: tuple[str, ...],
) -> None:
    mine, theirs = ([*sorted(rows, key=lambda row: key_of(row, special))] for rows in (mine, theirs))
    assert len(mine) == len(theirs)
    for one, other in zip(mine, theirs, strict=True):
        assert key_of(one, special)[:2] == key_of(other, special)[:2]
        compared = ["track", "annotator", "reviewed", "confidence", *FLAGS, "attributes"] if other["class"] else []
        for column in [*compared, *(column for column in OF_FRAMES if column in holds)]:
            assert one[column] == other[column], column
        if special.sizes:
            assert (one["width"], one["height"]) == (other["width"], other["height"])
        if other["class"]:
            side = np.array([other["width"], other["height"]] * 2, dtype=float)
            off = np.abs(np.array([one[c] for c in CORNERS]) - np.array([other[c] for c in CORNERS]))
            assert (off <= special.atol * side + 1e-9).all()


def compare_problems(table: pd.DataFrame, saved: Saved, holds: tuple[str, ...]) -> None:
    told = {problem.place for problem in saved.problems}
    for column in OPTIONAL:
        # Most formats write a 0 for what nobody looked at: a flag that is nowhere True says nothing.
        flag = column == "reviewed" or (column in FLAGS and column != "keyframe")
        speaks = bool(table[column].eq(True).any() if flag else table[column].notna().any())
        assert (column in told) == (speaks and column not in holds), column


few = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
many = settings(few, max_examples=1000)


def both_ways(name: str, data: st.DataObject, *, everything: bool) -> None:
    special, holds = SPECIAL.get(name, Special()), tuple(formats.FORMATS[name].HOLDS)
    table = data.draw(tables(special, None if everything else holds))
    with TemporaryDirectory() as folder:
        compare_problems(table, check(name, special, table, holds, Path(folder)), holds)


@pytest.mark.parametrize("name", list(formats.FORMATS))
@few
@given(data=st.data())
def test_what_a_format_holds_comes_back(name: str, data: st.DataObject) -> None:
    both_ways(name, data, everything=False)


@pytest.mark.parametrize("name", list(formats.FORMATS))
@few
@given(data=st.data())
def test_what_a_format_does_not_hold_is_told(name: str, data: st.DataObject) -> None:
    both_ways(name, data, everything=True)


in_a_frame = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {
            "x1": st.floats(0, 500, width=32),
            "annotator": st.one_of(st.none(), words),
            "reviewed": st.booleans(),
            "confidence": st.one_of(st.none(), fraction),
            "attributes": st.one_of(st.none(), attributes),
            **dict.fromkeys([flag for flag in FLAGS if flag != "keyframe"], st.one_of(st.none(), st.booleans())),
        }
    ),
)
objects = st.lists(st.lists(in_a_frame, min_size=4, max_size=4), min_size=1, max_size=3)


def tracks_come_back(seen: list[list[dict[str, Any] | None]], root: Path) -> None:
    rows = [
        {
            **one,
            **{"frame_index": frame, "class": CLASSES[number], "track": str(number), "keyframe": True},
            **{"y1": 0.0, "x2": one["x1"] + 5, "y2": 5.0},
        }
        for number, at in enumerate(seen)
        for frame, one in enumerate(at)
        if one is not None
    ]
    if not rows:
        return
    kinds = {name: formats.COLUMNS[name] for name in (*OPTIONAL, "class") if name in rows[0]}
    boxes = pd.DataFrame(rows).astype(kinds).assign(width=640, height=480)
    saved = formats.cvat.save(boxes, CLASSES, root / "a.xml", video=True)
    assert {problem.kind for problem in saved.problems} <= {"frames between"}
    got = formats.load(saved.files, root).boxes.dropna(subset=["class"])
    got, boxes = (t.sort_values(["track", "frame_index"]).reset_index(drop=True) for t in (got, boxes))
    boxes["occluded"] = boxes["occluded"].fillna(False)
    np.testing.assert_array_equal(got[CORNERS].to_numpy(), boxes[CORNERS].to_numpy(dtype=float))
    for table in (got, boxes):
        table["attributes"] = [
            text if text is None or pd.isna(text) else json.loads(text) for text in table["attributes"]
        ]
    for column in ("class", *formats.cvat.VIDEO_HOLDS):
        assert [*map(canonical, got[column])] == [*map(canonical, boxes[column])], column


@few
@given(seen=objects)
def test_tracks_of_a_cvat_video_come_back(seen: list[list[dict[str, Any] | None]]) -> None:
    with TemporaryDirectory() as folder:
        tracks_come_back(seen, Path(folder))


@pytest.mark.long
@many
@given(seen=objects)
def test_tracks_of_a_thousand_cvat_videos_come_back(seen: list[list[dict[str, Any] | None]]) -> None:
    with TemporaryDirectory() as folder:
        tracks_come_back(seen, Path(folder))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", list(formats.FORMATS))
@many
@given(data=st.data())
def test_a_thousand_tables_come_back(name: str, data: st.DataObject) -> None:
    both_ways(name, data, everything=data.draw(st.booleans()))

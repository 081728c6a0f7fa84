"""What changed between two versions of annotations, and who did it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection_assets.domain import annotation_diff, overlap, schemas
from detection_assets.domain.annotation_diff import Diff, diff

NAN = float("nan")
BOX = {
    **{"video": "a.mp4", "frame": "a.mp4#000001", "class": "apple", "x1": 10.0, "y1": 10.0, "x2": 30.0, "y2": 30.0},
    **{"track": None, "source": "a.json", "annotator": "ada", "reviewed": False},
}


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    full = [{**BOX, **row} for row in rows]
    full = [{**row, **dict.fromkeys(("x1", "y1", "x2", "y2"), NAN)} if row["class"] is None else row for row in full]
    return schemas.conform(
        "annotations", pd.DataFrame(full, columns=list(dict.fromkeys(name for row in [BOX, *rows] for name in row)))
    )


def at(x: float, y: float = 10.0, **other: Any) -> dict[str, Any]:
    return {"x1": x, "y1": y, "x2": x + 20, "y2": y + 20, **other}


def told(found: Diff) -> list[tuple[Any, ...]]:
    columns = ["change", "class_before", "class_after", "by", "fields"]
    return [tuple(row) for row in found.changes[columns].itertuples(index=False)]


def numbers(found: Diff) -> dict[str, int]:
    return {name: number for name, number in found.counts.items() if number}


EMPTY = {"class": None}
CASES: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]], list[tuple[Any, ...]], dict[str, int]]] = {
    "nothing": ([], [], [], {}),
    "the same in another order": ([at(10), at(50)], [at(50), at(10)], [], {}),
    "the first boxes": (
        [],
        [at(10)],
        [("added", None, "apple", "ada", "")],
        {"added": 1, "frames_annotated": 1},
    ),
    "one more": ([at(10)], [at(10), at(50, annotator="bob")], [("added", None, "apple", "bob", "")], {"added": 1}),
    "one less, and one person speaks for the frame": (
        [at(10), at(50, annotator="bob")],
        [at(10)],
        [("removed", "apple", None, "ada", "")],
        {"removed": 1},
    ),
    "one less, and nobody knows by whom": (
        [at(10), at(50), at(90)],
        [at(10), at(50, annotator="bob")],
        [("changed", "apple", "apple", "bob", "annotator"), ("removed", "apple", None, "", "")],
        {"removed": 1, "changed": 1},
    ),
    "all of a frame, which nobody speaks for any more": (
        [at(10)],
        [],
        [("removed", "apple", None, "", "")],
        {"removed": 1, "frames_forgotten": 1},
    ),
    "moved": ([at(10)], [at(14)], [("moved", "apple", "apple", "ada", "")], {"moved": 1}),
    "rounded by another tool": (
        [at(10)],
        [at(10.4)],
        [("changed", "apple", "apple", "ada", "corners")],
        {"changed": 1},
    ),
    "moved too far to be the same": (
        [at(10)],
        [at(24)],
        [("removed", "apple", None, "ada", ""), ("added", None, "apple", "ada", "")],
        {"added": 1, "removed": 1},
    ),
    "however far, on its track": (
        [at(10, track="7")],
        [at(70, track="7")],
        [("moved", "apple", "apple", "ada", "")],
        {"moved": 1},
    ),
    "a number that was given to something else is not its track": (
        [at(10, track="7")],
        [at(70, track="7", **{"class": "cola"})],
        [("removed", "apple", None, "ada", ""), ("added", None, "cola", "ada", "")],
        {"added": 1, "removed": 1},
    ),
    "re-classed": (
        [at(10)],
        [at(10, **{"class": "banana"})],
        [("re-classed", "apple", "banana", "ada", "")],
        {"reclassed": 1},
    ),
    "moved and re-classed": (
        [at(10)],
        [at(12, **{"class": "banana"})],
        [("moved and re-classed", "apple", "banana", "ada", "")],
        {"moved": 1, "reclassed": 1},
    ),
    "tracks that were numbered anew stay where they are": (
        [at(10, track="1"), at(50, track="2")],
        [at(10, track="2"), at(50, track="1")],
        [("changed", "apple", "apple", "ada", "track")] * 2,
        {"changed": 2},
    ),
    "flags and review": (
        [at(10, reviewed=False, occluded=None)],
        [at(10, reviewed=True, occluded=True)],
        [("changed", "apple", "apple", "ada", "reviewed, occluded")],
        {"changed": 1},
    ),
    "found empty": (
        [at(10)],
        [EMPTY],
        [("removed", "apple", None, "ada", ""), ("found empty", None, None, "ada", "")],
        {"removed": 1, "frames_emptied": 1},
    ),
    "no longer empty": (
        [EMPTY],
        [at(10)],
        [("no longer empty", None, None, "ada", ""), ("added", None, "apple", "ada", "")],
        {"added": 1, "frames_filled": 1},
    ),
    "still empty, says another": (
        [EMPTY],
        [{**EMPTY, "annotator": "bob"}],
        [("changed", None, None, "bob", "annotator")],
        {"changed": 1},
    ),
    "each to the one it overlaps most, in sum": (
        [at(10), at(18)],
        [at(16), at(24)],
        [("moved", "apple", "apple", "ada", "")] * 2,
        {"moved": 2},
    ),
    "of equals, the one of its class": (
        [at(10), at(10, **{"class": "cola"})],
        [at(12), at(12, **{"class": "cola"})],
        [("moved", "apple", "apple", "ada", ""), ("moved", "cola", "cola", "ada", "")],
        {"moved": 2},
    ),
    "doubled tracks are told apart by where they are": (
        [at(10, track="1"), at(50, track="1")],
        [at(12, track="1"), at(52, track="1")],
        [("moved", "apple", "apple", "ada", "")] * 2,
        {"moved": 2},
    ),
}


@pytest.mark.parametrize(("before", "after", "changes", "counts"), CASES.values(), ids=CASES)
def test_what_changed(
    before: list[dict[str, Any]], after: list[dict[str, Any]], changes: list[tuple[Any, ...]], counts: dict[str, int]
) -> None:
    found = diff(table(*before), table(*after))
    assert told(found) == changes
    assert numbers(found) == counts
    assert bool(found) == bool(changes)


def test_how_far_and_how_much_is_left() -> None:
    row = diff(table(at(10)), table(at(14))).changes.iloc[0]
    assert row["moved_px"] == 4
    assert row["iou"] == pytest.approx(16 / 24)
    assert [row["x1_before"], row["x1_after"]] == [10, 14]


def test_a_sentence_for_people() -> None:
    before = table(at(10), at(50), at(90), {"frame": "a.mp4#000002"})
    after = table(at(13, annotator="bob"), at(50, **{"class": "cola"}), at(120), at(150), {"frame": "a.mp4#000003"})
    found = diff(before, after)
    assert found.sentence == (
        "+3 boxes by ada, -2, 1 moved by bob, 1 re-classed by ada, 1 frame newly annotated, 1 frame no longer annotated"
    )
    assert diff(before, before).sentence == "no difference"
    assert diff(before, table(at(10), at(50), {"frame": "a.mp4#000002"})).sentence == "-1 box by ada"
    assert found.by_annotator().set_index("by").loc["ada", "added"] == 3


def test_a_frame_that_is_too_crowded_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "CROWD", 3)
    one = [at(x) for x in (10.0, 50.0)]
    found = diff(table(*one, at(10, frame="b")), table(*[at(x) for x in (12.0, 52.0)], at(13, frame="b")))
    assert numbers(found) == {"added": 2, "removed": 2, "moved": 1, "frames_crowded": 1}


@pytest.mark.parametrize("dense", [overlap.DENSE, 0])
def test_the_best_choice_is_the_best_of_all(dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "DENSE", dense)
    i, j = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    chosen = overlap.choose(i, j, np.array([0.9, 0.8, 0.8, 0.1]))
    assert chosen.tolist() == ([False, True, True, False] if dense else [True, False, False, True])


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "frame": st.sampled_from(["f1", "f2", "f3"]),
            "class": st.sampled_from(["apple", "banana", None]),
            "x1": st.sampled_from([0.0, 4.0, 4.3, 9.0, 40.0]),
            "y1": st.sampled_from([0.0, 2.0]),
            "x2": st.sampled_from([50.0, 55.0, 60.0]),
            "track": st.sampled_from([None, "1", "2"]),
            "annotator": st.sampled_from([None, "ada", "bob"]),
            "reviewed": st.booleans(),
            "occluded": st.sampled_from([None, True, False]),
            "attributes": st.sampled_from([None, '{"ripe":true}']),
        }
    ),
    max_size=8,
)


def rows_of(frame: pd.DataFrame) -> list[str]:
    return sorted(
        repr(tuple(None if pd.isna(value) else value for value in row)) for row in frame.itertuples(index=False)
    )


@given(ROWS, ROWS, st.randoms())
@settings(max_examples=25, deadline=None)
def test_a_difference_applied_to_the_one_gives_the_other(
    one: list[dict[str, Any]], other: list[dict[str, Any]], random: Any
) -> None:
    before, after = table(*one), table(*other)
    found = diff(before, after).changes
    # Each row of either table is told at most once, and what is not told is in both.
    for name, whole in (("before", before), ("after", after)):
        rows = found.loc[found[name] >= 0, name]
        assert rows.is_unique
        assert rows.isin(range(len(whole))).all()
    patched = pd.concat(
        [before.drop(found.loc[found["before"] >= 0, "before"]), after.iloc[found["after"][found["after"] >= 0]]]
    )
    assert rows_of(patched) == rows_of(after)
    shuffled = list(one)
    random.shuffle(shuffled)
    assert not diff(before, table(*shuffled))
    again = diff(table(*shuffled), after)
    assert told(again) == told(diff(before, after)), "the order of rows changes nothing"


def test_tables_of_earlier_releases_lack_columns_and_differ_in_none() -> None:
    old = table(at(10)).drop(columns=["confidence", *annotation_diff._ALL[-6:]])
    assert not diff(old, table(at(10)))

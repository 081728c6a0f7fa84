from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection_assets.domain import informativeness
from detection_assets.domain.informativeness import CHALLENGER, MIRRORED, PLAIN, disagreement, figures, partners
from detection_assets.domain.two_samples import Sample, unexplained

COLUMNS = ["frame", "class", "confidence", "x1", "y1", "x2", "y2"]
HERE, NEAR, THERE = (0, 0, 10, 10), (0, 0, 10, 8), (50, 50, 60, 60)


def found(*rows: tuple[object, ...]) -> pd.DataFrame:
    """Boxes from frame, class, confidence, corners."""
    return pd.DataFrame([(frame, kind, sure, *place) for frame, kind, sure, place in rows], columns=COLUMNS)


@pytest.mark.parametrize(
    ("confidence", "threshold", "value"),
    [(0.25, 0.25, 1.0), (0.0, 0.25, 0.0), (1.0, 0.25, 0.0), (0.625, 0.25, 0.5), (0.1, 0.2, 0.5), (0.3, 0.0, 0.7)],
)
def test_a_box_is_unsure_about_the_threshold(confidence: float, threshold: float, value: float) -> None:
    assert informativeness.unsure(np.array([confidence]), threshold) == pytest.approx([value])


def test_a_picture_is_as_unsure_as_its_three_most_unsure_boxes() -> None:
    boxes = found(*(("a", "x", sure, HERE) for sure in (0.5, 0.5, 0.5, 0.5, 0.01)), ("b", "x", 0.5, HERE))
    assert informativeness.uncertainty(boxes, pd.Index(["a", "b", "c"]), 0.5) == pytest.approx([1, 1 / 3, 0])


@pytest.mark.parametrize(
    ("one", "other", "value"),
    [
        ([("a", "x", 0.8, HERE)], [("a", "x", 0.8, HERE)], 0.0),
        ([("a", "x", 0.8, HERE)], [], 0.8),
        ([], [("a", "x", 0.8, HERE)], 0.8),
        ([("a", "x", 0.8, HERE)], [("a", "y", 0.8, HERE)], 1.0),
        ([("a", "x", 0.8, HERE)], [("a", "x", 0.8, NEAR)], 0.16),
        ([("a", "x", 0.8, HERE)], [("a", "x", 0.4, HERE)], 0.4),
        ([("a", "x", 0.8, HERE), ("a", "x", 0.8, THERE)], [("a", "x", 0.8, HERE)], 0.5),
        ([("a", "x", 0.1, HERE)], [], 0.0),
        ([("a", "x", 0.1, HERE)], [("a", "x", 0.3, HERE)], 0.2),
        ([("b", "x", 0.8, HERE)], [], 0.0),
    ],
    ids=[
        *("the same", "not found again", "found by the other", "another class", "elsewhere", "less sure"),
        *("one of two", "noise", "noise to one alone", "another picture's"),
    ],
)
def test_how_much_two_looks_disagree(
    one: list[tuple[object, ...]], other: list[tuple[object, ...]], value: float
) -> None:
    frames = pd.Index(["a"])
    assert disagreement(found(*one), found(*other), frames, 0.125) == pytest.approx([value])
    assert disagreement(found(*other), found(*one), frames, 0.125) == pytest.approx([value])


def test_what_fits_best_are_partners_and_each_has_one() -> None:
    one = found(("a", "x", 0.5, NEAR), ("a", "x", 0.5, HERE), ("a", "y", 0.5, HERE))
    other = found(("a", "x", 0.5, HERE), ("b", "y", 0.5, HERE))
    partner, overlap = partners(one, other)
    assert partner.tolist() == [-1, 0, -1]
    assert overlap.tolist() == [0, 1, 0]


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_partners_overlap_as_much_as_any_pairing_could(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def some() -> pd.DataFrame:
        count = int(rng.integers(0, 6))
        corner, side = rng.integers(0, 3, (count, 2)), rng.integers(3, 9, (count, 2))
        boxes = np.hstack([corner, corner + side]).astype(float) + rng.random((count, 4))
        names = {"frame": rng.choice(["a", "b"], count), "class": rng.choice(["x", "y"], count), "confidence": 0.5}
        return pd.DataFrame({**names, **dict(zip(COLUMNS[3:], boxes.T, strict=True))}, columns=COLUMNS)

    one, other = some(), some()
    may: dict[int, dict[int, float]] = {}
    for a, mine in enumerate(one.to_dict("records")):
        for b, theirs in enumerate(other.to_dict("records")):
            wide = min(mine["x2"], theirs["x2"]) - max(mine["x1"], theirs["x1"])
            high = min(mine["y2"], theirs["y2"]) - max(mine["y1"], theirs["y1"])
            both = max(0, wide) * max(0, high)
            areas = sum((box["x2"] - box["x1"]) * (box["y2"] - box["y1"]) for box in (mine, theirs))
            if (mine["frame"], mine["class"]) == (theirs["frame"], theirs["class"]) and both / (areas - both) >= 0.5:
                may.setdefault(a, {})[b] = both / (areas - both)

    def most(left: list[int], taken: frozenset[int]) -> float:
        if not left:
            return 0.0
        pairs = [(b, iou) for b, iou in may.get(left[0], {}).items() if b not in taken]
        return max([most(left[1:], taken), *(iou + most(left[1:], taken | {b}) for b, iou in pairs)])

    partner, overlap = partners(one, other)
    pairs = {a: b for a, b in enumerate(partner.tolist()) if b >= 0}
    assert len(set(pairs.values())) == len(pairs)
    assert [overlap[a] for a in pairs] == pytest.approx([may[a][b] for a, b in pairs.items()])
    assert overlap.sum() == pytest.approx(most([*may], frozenset()))


def test_a_class_is_rare_from_half_of_the_average_down() -> None:
    rare = informativeness.rarity({"a": 150, "b": 130, "c": 20, "other": 999}, ["a", "b", "c", "d"])
    assert rare == pytest.approx({"a": 0, "b": 0, "c": 1 - 20 / 37.5, "d": 1})
    assert set(informativeness.rarity({}, ["a", "b"]).values()) == {0.0}


def test_the_figures_of_some_pictures() -> None:
    boxes = pd.concat([
        found(("a", "x", 0.5, HERE), ("b", "y", 0.9, HERE)).assign(view=PLAIN),
        found(("a", "x", 0.5, HERE)).assign(view=MIRRORED),
        found(("b", "y", 0.9, HERE)).assign(view=CHALLENGER),
    ])  # fmt: skip
    frames = pd.Index(["c", "b", "a"])
    told = figures(boxes, frames, 0.5, {"x": 30, "y": 3}, ["x", "y"], challenged=True).set_index("frame")
    assert told.loc["a"].to_dict() == pytest.approx(
        {"low": 1 / 3, "mirrored": 0, "challenger": 0.5, "unsure": 0.5, "rare": 0}
    )
    assert told.loc["b"].to_dict() == pytest.approx(
        {"low": 0.2 / 3, "mirrored": 0.9, "challenger": 0, "unsure": 0.9, "rare": 0.9 * (1 - 3 / 8.25)}
    )
    assert told.loc["c"].sum() == 0
    alone = figures(boxes, frames, 0.5, {}, ["x", "y"], challenged=False)
    assert (alone["challenger"] == 0).all()


def test_nothing_found_anywhere_is_no_obstacle() -> None:
    none = found().assign(view="")
    told = figures(none, pd.Index(["a"]), 0.25, {}, ["x"], challenged=True)
    assert told.drop(columns="frame").to_numpy(float).tolist() == [[0.0] * 5]
    assert figures(none, pd.Index([]), 0.25, {}, ["x"], challenged=False).empty


def sample(values: list[object]) -> Sample:
    array = np.array(values, object if isinstance(values[0], str) else np.float64)
    return Sample(array, np.arange(len(values)))


def test_the_share_that_the_reference_does_not_explain() -> None:
    reference = sample([float(value) for value in range(1000)])
    production = sample([50.0] * 40 + [550.0] * 60)
    share = unexplained(reference, production, np.array([50.0, 550.0, 950.0]))
    assert share == pytest.approx([1 - 0.1 / 0.4, 1 - 0.1 / 0.6, 0], abs=0.02)
    kinds = unexplained(sample(["a"] * 9 + ["b"]), sample(["a", "b", "b", "c"]), np.array(["a", "b", "c"], object))
    assert kinds == pytest.approx([0, 1 - 0.1 / 0.5, 1])

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection_assets.domain import selection
from detection_assets.domain.quality import hamming
from detection_assets.domain.selection import CHOSEN, DIVERSE, DRIFTED, RARE, REASONS, UNSURE, Wanted, choose, spread

EVEN = {name: 0.25 for name in REASONS}
FAR = [f"{number * 0x0101_0101_0101_0101 & (2**64 - 1):016x}" for number in range(0, 256, 16)]


def table(*rows: tuple[object, ...]) -> pd.DataFrame:
    """Candidates from frame, video, hash, unsure, drifted, rare."""
    return pd.DataFrame(rows, columns=["frame", "video", "phash", UNSURE, DRIFTED, RARE])


def line(*places: float) -> np.ndarray:
    """Features of pictures on a line."""
    return np.array([[place, 0.0] for place in places], np.float32)


NOTHING = line()


def picked(candidates: pd.DataFrame, features: np.ndarray, wanted: Wanted, known: np.ndarray = NOTHING) -> list[str]:
    return choose(candidates, features, known, wanted)["frame"].tolist()


def test_the_highest_score_comes_first_where_all_are_equally_unlike() -> None:
    candidates = table(("a", "v", None, 0.2, 0, 0), ("b", "w", None, 0.9, 0, 0), ("c", "x", None, 0.5, 0, 0))
    wanted = Wanted(2, {UNSURE: 1.0}, None, 1.0)
    assert picked(candidates, line(0, 1, 2), wanted, line(9)) == ["b", "c"]


def test_a_picture_like_one_that_is_labelled_is_worth_little_whatever_its_score() -> None:
    candidates = table(("like", "v", None, 0.9, 0, 0), ("new", "v", None, 0.5, 0, 0), ("far", "v", None, 0.1, 0, 0))
    wanted = Wanted(1, {UNSURE: 1.0}, None, 1.0)
    assert picked(candidates, line(0, 1, 2), wanted, line(0.05)) == ["new"]
    assert picked(candidates, line(0, 1, 2), wanted, line(-5)) == ["like"]


def test_reasons_take_turns_by_their_shares() -> None:
    rows = [(f"f{number:02}", f"v{number}", None, 0.5, 0.5, 0.5) for number in range(40)]
    shares = {UNSURE: 0.4, DRIFTED: 0.2, RARE: 0.2, DIVERSE: 0.2}
    found = choose(table(*rows), line(*range(40)), NOTHING, Wanted(20, shares, None, 1.0))
    assert found["reason"].value_counts().to_dict() == {UNSURE: 8, DRIFTED: 4, RARE: 4, DIVERSE: 4}
    assert found["reason"].head(5).value_counts().to_dict() == {UNSURE: 2, DRIFTED: 1, RARE: 1, DIVERSE: 1}
    assert found["rank"].tolist() == list(range(20))


def test_a_reason_without_pictures_leaves_its_share_to_the_others() -> None:
    rows = [(f"f{number:02}", f"v{number}", None, 0.5 * (number > 1), 0.0, float(number < 2)) for number in range(40)]
    found = choose(table(*rows), line(*range(40)), NOTHING, Wanted(20, EVEN, None, 1.0))
    assert found["reason"].value_counts().to_dict() == {UNSURE: 9, DIVERSE: 9, RARE: 2}


def test_variety_fills_what_no_reason_has_a_picture_for() -> None:
    rows = [(f"f{number:02}", "v", None, float(number < 3), 0.0, 0.0) for number in range(10)]
    found = choose(table(*rows), line(*range(10)), NOTHING, Wanted(8, {UNSURE: 1.0}, None, 1.0))
    assert found["reason"].tolist() == [UNSURE] * 3 + [DIVERSE] * 5


def test_variety_asks_for_what_stands_for_the_most_and_not_for_the_oddest() -> None:
    places = [0.0, 0.1, 0.2, 5.0, 5.1, 5.2, 5.3, 12.0]
    rows = [(f"f{number}", f"v{number}", None, 0, 0, 0) for number in range(8)]
    found = choose(table(*rows), line(*places), NOTHING, Wanted(3, {DIVERSE: 1.0}, None, 1.0))
    assert [round(places[int(frame[1:])]) for frame in found["frame"]] == [5, 0, 12]
    assert found["stands_for"].iloc[0] == 1.0
    assert np.isnan(found["distance"].iloc[0])


def test_near_duplicates_are_chosen_once_and_pictures_without_a_hash_are_like_nothing() -> None:
    same = "00000000000000ff"
    candidates = table(
        *(("a", "v", same, 0.9, 0, 0), ("b", "w", "00000000000000fe", 0.8, 0, 0), ("c", "x", None, 0.7, 0, 0)),
        *(("d", "y", None, 0.6, 0, 0), ("e", "z", "ffffffffffffff00", 0.5, 0, 0)),
    )
    wanted = Wanted(9, {UNSURE: 1.0}, 1, 1.0)
    assert sorted(picked(candidates, line(0, 1, 2, 3, 4), wanted)) == ["a", "c", "d", "e"]
    assert len(picked(candidates, line(0, 1, 2, 3, 4), Wanted(9, {UNSURE: 1.0}, None, 1.0))) == 5


def test_what_is_like_something_labelled_is_no_candidate() -> None:
    candidates = table(("a", "v", FAR[1], 0, 0, 0), ("b", "v", FAR[2], 0, 0, 0), ("c", "v", None, 0, 0, 0))
    assert selection.unlike(candidates, [FAR[1], None], 0).tolist() == [False, True, True]
    assert selection.unlike(candidates, [f"{int(FAR[2], 16) ^ 3:016x}"], 2).tolist() == [True, False, True]
    assert selection.unlike(candidates, [FAR[1]], None).all()
    assert selection.unlike(candidates.iloc[:0], [FAR[1]], 4).tolist() == []


def test_no_video_has_more_than_its_share_while_others_have_pictures() -> None:
    rows = [(f"a{number}", "loud", None, 0.9, 0, 0) for number in range(9)]
    rows += [(f"b{number}", "quiet", None, 0.1, 0, 0) for number in range(3)]
    found = choose(table(*rows), line(*range(12)), NOTHING, Wanted(6, {UNSURE: 1.0}, None, 0.5))
    assert found["frame"].str[0].value_counts().to_dict() == {"a": 3, "b": 3}
    alone = choose(table(*rows), line(*range(12)), NOTHING, Wanted(10, {UNSURE: 1.0}, None, 0.2))
    assert alone["frame"].str[0].value_counts().to_dict() == {"a": 7, "b": 3}, "the budget is used all the same"


def test_without_candidates_nothing_is_chosen() -> None:
    found = choose(table(), np.zeros((0, 2), np.float32), NOTHING, Wanted(5, EVEN))
    assert found.empty
    assert list(found.columns) == list(CHOSEN)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, Wanted]:
    count = draw(st.integers(0, 40))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    scores = rng.choice([0.0, 0.0, 0.3, 1.0], (count, 3)) * rng.random((count, 3))
    hashes = [None if rng.random() < 0.2 else FAR[int(rng.integers(len(FAR)))] for _ in range(count)]
    videos = rng.integers(0, 6, count)
    rows = [(f"v{v}#{n}", f"v{v}", h, *s) for n, (v, h, s) in enumerate(zip(videos, hashes, scores, strict=True))]
    shares = dict(zip(REASONS, rng.dirichlet(np.ones(4)) * (rng.random(4) < 0.8), strict=True))
    wanted = Wanted(
        draw(st.integers(1, 25)), shares, draw(st.sampled_from([None, 0, 6])), draw(st.sampled_from([0.1, 0.3, 1.0]))
    )
    features = np.round(rng.random((count, 3)), 1).astype(np.float32)
    return table(*rows), features, np.round(rng.random((int(rng.integers(0, 5)), 3)), 1).astype(np.float32), wanted


@given(world=worlds(), seed=st.integers(0, 1000))
@settings(max_examples=150, deadline=None)
def test_a_choice_keeps_its_promises_whatever_the_candidates(
    world: tuple[pd.DataFrame, np.ndarray, np.ndarray, Wanted], seed: int
) -> None:
    candidates, features, known, wanted = world
    found = choose(candidates, features, known, wanted)
    assert len(found) <= wanted.budget
    assert found["frame"].is_unique
    assert found["reason"].isin(REASONS).all()
    assert np.isfinite(found[["score", "stands_for"]].to_numpy(float)).all()
    rows = candidates.set_index("frame").loc[found["frame"]]
    for reason, frame in zip(found["reason"], found["frame"], strict=True):
        assert reason == DIVERSE or rows.loc[frame, reason] > 0
    hashes = [int(text, 16) for text in rows["phash"].dropna()]
    if wanted.near_duplicate is not None:
        far = wanted.near_duplicate
        assert all(hamming(one, other) > far for at, one in enumerate(hashes) for other in hashes[:at])
    if len(found) < wanted.budget:
        left = candidates[~candidates["frame"].isin(found["frame"])]
        assert all(
            isinstance(text, str)
            and wanted.near_duplicate is not None
            and min(hamming(int(text, 16), one) for one in hashes) <= wanted.near_duplicate
            for text in left["phash"]
        ), "a picture was left out though there was room"
    order = np.random.default_rng(seed).permutation(len(candidates))
    pd.testing.assert_frame_equal(choose(candidates.iloc[order], features[order], known, wanted), found)


@pytest.mark.parametrize(
    ("counts", "most", "expected"),
    [
        ((10, 10, 10), 30, (10, 10, 10)),
        ((10, 10, 10), 6, (2, 2, 2)),
        ((1, 100, 3), 14, (1, 10, 3)),
        ((5, 5), 3, (1, 2)),
        ((4, 4), 0, (0, 0)),
    ],
    ids=["enough room", "alike", "the small keep all", "an odd one", "no room"],
)
def test_what_is_looked_at_is_even_over_videos(counts: tuple[int, ...], most: int, expected: tuple[int, ...]) -> None:
    rows = [(f"{at}#{number:03}", str(at)) for at, count in enumerate(counts) for number in range(count)]
    found = spread(pd.DataFrame(rows, columns=["frame", "video"]), most)
    assert tuple((found["video"] == str(at)).sum() for at in range(len(counts))) == expected
    assert found["frame"].is_unique


def test_what_is_looked_at_is_even_over_time() -> None:
    rows = pd.DataFrame({"frame": [f"v#{number:03}" for number in range(100)], "video": "v"})
    assert spread(rows, 4)["frame"].tolist() == ["v#012", "v#037", "v#062", "v#087"]

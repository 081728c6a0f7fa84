"""Where truth and prediction disagree: each box is told once, and the worst frame comes first."""

import numpy as np
import pandas as pd
import pytest

from detection_assets.domain import disagreements
from detection_assets.domain.disagreements import JUDGED, a_few, concerning, in_words, judge, rank, totals

AT = {"here": (0, 0, 20, 20), "a little off": (0, 0, 20, 18), "far off": (10, 0, 30, 20), "there": (60, 60, 90, 90)}


def truth(*rows):
    """Rows of class and place, all in frame f."""
    columns = ["frame", "class", "x1", "y1", "x2", "y2"]
    return pd.DataFrame([("f", name, *AT[place]) for name, place in rows], columns=columns)


def found(*rows):
    """Rows of class, place and confidence."""
    return truth(*(row[:2] for row in rows)).assign(confidence=[float(row[2]) for row in rows])


@pytest.mark.parametrize(
    ("there", "seen", "words", "score"),
    [
        ((), (), "nothing there, nothing found", 0),
        ([("cola", "here")], [("cola", "a little off", 0.9)], "all 1 right", 0),
        ([("cola", "here")], (), "1 cola missed", 1),
        ((), [("cola", "here", 0.4)], "1 cola invented", 0.4),
        ([("cola", "here")], [("water", "here", 0.4)], "1 cola taken for water", 1),
        ([("cola", "here")], [("cola", "far off", 0.4)], "1 cola misplaced", 0.5),
        ([("cola", "here")], [("cola", "there", 0.4)], "1 cola missed, 1 cola invented", 1.4),
        ([("cola", "here")], [("cola", "here", 0.8), ("cola", "a little off", 0.4)], "1 cola found twice", 0.2),
        (
            [("cola", "here")],
            [("cola", "here", 0.8), ("water", "a little off", 0.6)],
            "1 water invented",
            0.6,
        ),
        (
            [("cola", "here"), ("cola", "there"), ("water", "far off")],
            [("apple", "there", 0.5)],
            "1 cola missed, 1 water missed, 1 cola taken for apple",
            3,
        ),
        ([("cola", "here"), (None, "here")], [("cola", "here", 0.8), (None, "here", np.nan)], "all 1 right", 0),
    ],
)
def test_each_box_is_told_once(there, seen, words, score):
    judged = judge(truth(*there), found(*seen), ["f"])
    assert in_words(judged) == words
    ranked = rank(judged, ["f"])
    assert ranked["score"].tolist() == pytest.approx([score])
    named = sum(name is not None for name, *_ in [*there, *seen])
    assert len(judged) == named
    assert list(judged.columns) == JUDGED


def test_a_class_of_which_nothing_is_there_counts_as_invented_and_any_name_is_taken():
    judged = judge(truth(("", "here")), found(("<b>", "there", 0.5)), ["f"])
    assert in_words(judged) == "1  missed, 1 <b> invented"


def test_the_worst_frame_comes_first_and_equal_ones_keep_their_order():
    there = pd.concat([truth(("cola", "here")).assign(frame=frame) for frame in "abc"])
    seen = found(("cola", "here", 0.9), ("cola", "there", 0.9)).assign(frame=["a", "b"])
    ranked = rank(judge(there, seen, ["d", "c", "a", "b"]), ["d", "c", "a", "b"])
    assert ranked["frame"].tolist() == ["b", "c", "d", "a"]
    assert ranked.iloc[0].to_dict() == {
        **{"frame": "b", "score": 1.9, "right": 0, "missed": 1, "confused": 0, "invented": 1},
        **{"misplaced": 0, "doubled": 0},
    }
    assert totals(ranked) == "1 right, 2 missed, 1 invented"


def test_of_a_few_each_video_gives_its_worst_first():
    ranked = pd.DataFrame({"frame": list("abcdef"), "score": [9.0, 8, 7, 6, 1, 0]})
    videos = ["v", "v", "v", "w", "w", "x"]
    assert a_few(ranked, videos, 3)["frame"].tolist() == ["a", "b", "d"]
    assert a_few(ranked, videos, 2)["frame"].tolist() == ["a", "d"]
    assert a_few(ranked, videos, 9)["frame"].tolist() == list("abcde")


def test_what_concerns_a_class_is_also_what_was_taken_for_it():
    judged = judge(
        truth(("cola", "here"), ("apple", "there")), found(("water", "here", 0.5), ("apple", "there", 0.5)), ["f"]
    )
    assert in_words(concerning(judged, ["water"])) == "1 cola taken for water"
    assert in_words(concerning(judged, ["cola"])) == "1 cola taken for water"
    assert in_words(concerning(judged, ["apple"])) == "all 1 right"


def test_very_many_kinds_of_mistakes_are_not_all_spelled_out():
    many = pd.concat([truth((f"class {number}", "here")) for number in range(9)])
    told = in_words(judge(many, found(), ["f"]))
    assert told.endswith("1 class 5 missed and 3 more kinds of mistakes")


def test_many_boxes_are_each_told_once_and_pairs_on_both_sides():
    rng = np.random.default_rng(7)
    low = rng.uniform(0, 80, (400, 2))
    columns = ["x1", "y1", "x2", "y2"]
    table = pd.DataFrame(np.hstack([low, low + rng.uniform(10, 30, (400, 2))]), columns=columns)
    table = table.assign(frame=[f"f{at % 40}" for at in range(400)], **{"class": rng.choice(list("ab"), 400)})
    seen = table.assign(confidence=rng.random(400))
    seen[columns] += rng.normal(0, 3, (400, 4))
    seen["class"] = np.where(rng.random(400) < 0.3, "a", seen["class"])
    seen["x2"], seen["y2"] = seen[["x1", "x2"]].max(axis=1) + 1, seen[["y1", "y2"]].max(axis=1) + 1
    frames = sorted(table["frame"].unique())
    judged = judge(table, seen, frames)
    by_side = judged.groupby(["side", "verdict"]).size()
    for verdict in (disagreements.RIGHT, disagreements.CONFUSED, disagreements.MISPLACED):
        assert by_side["truth", verdict] == by_side["prediction", verdict], "a pair is on both sides"
    scores = disagreements.Scores(table, seen, pd.DataFrame({"frame": frames, "width": 99, "height": 99}), ["a", "b"])
    assert by_side["truth", "right"] == (scores.pairs() >= 0).sum()
    assert rank(judged, frames)[["right", "missed", "confused", "misplaced"]].to_numpy().sum() == len(table)

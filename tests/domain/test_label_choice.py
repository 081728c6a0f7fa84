from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from detection_assets.domain import selection
from detection_assets.domain.description import FIELDS, NAMES, describe, features
from detection_assets.domain.informativeness import BOXES, CHALLENGER, MIRRORED, PLAIN
from detection_assets.domain.label_choice import Ask, choose
from detection_assets.domain.label_reasons import Known, words
from detection_assets.domain.selection import Wanted

CLASSES = ["apple", "cola"]
HERE, THERE = (0, 0, 10, 10), (50, 50, 60, 60)
LABELLED = {"apple": 40, "cola": 12}


def boxes(*rows: tuple[object, ...]) -> pd.DataFrame:
    """Boxes on `f` from view, class, confidence, corners."""
    return pd.DataFrame([("f", view, kind, sure, *place) for view, kind, sure, place in rows], columns=list(BOXES))


def why(found: pd.DataFrame, reason: str, figure: str = "low", score: float = 0.5, **known: object) -> str:
    chosen = pd.DataFrame([("f", 0, reason, score, 0.1, 0.09)], columns=list(selection.CHOSEN))
    figures = pd.DataFrame({"frame": ["f"], "low": 0.1, "mirrored": 0.1, "challenger": 0.1}).assign(**{figure: 0.9})
    about = {"champion": "3", "challenger": "4", **known}
    (said,) = words(chosen, figures, found, Known(0.35, LABELLED, CLASSES, **about))  # type: ignore[arg-type]
    return said


@pytest.mark.parametrize(
    ("rows", "figure", "said"),
    [
        (
            [(PLAIN, "cola", 0.38, HERE), (PLAIN, "cola", 0.31, THERE), (PLAIN, "apple", 0.99, THERE)],
            "low",
            "unsure: 2 boxes of cola at 0.38 and 0.31, where answers begin at 0.35; 12 labelled of cola so far",
        ),
        (
            [(PLAIN, "apple", 0.97, HERE)],
            "low",
            "unsure: 1 box of apple at 0.97, where answers begin at 0.35; 40 labelled of apple so far",
        ),
        (
            [(PLAIN, "apple", 0.62, HERE), (MIRRORED, "cola", 0.5, THERE), (MIRRORED, "cola", 0.1, HERE)],
            "mirrored",
            "unsure: the picture and its mirror image disagree by 50%: 1 box of apple at 0.62 in the picture alone and "
            "1 box of cola at 0.50 in its mirror image alone; 40 labelled of apple, 12 labelled of cola so far",
        ),
        (
            [(CHALLENGER, "cola", 0.55, HERE)],
            "challenger",
            "unsure: version 3 and version 4 disagree by 50%: 1 box of cola at 0.55 in version 4 alone; "
            "12 labelled of cola so far",
        ),
        (
            [(PLAIN, "apple", 0.8, HERE), (MIRRORED, "apple", 0.4, HERE)],
            "mirrored",
            "unsure: the picture and its mirror image disagree by 50%: 1 box of apple at 0.80 found again, but "
            "elsewhere or less surely; 40 labelled of apple so far",
        ),
    ],
    ids=["about the threshold", "far from it", "mirror image", "challenger", "less surely"],
)
def test_an_unsure_picture_says_of_what(rows: list[tuple[object, ...]], figure: str, said: str) -> None:
    assert why(boxes(*rows), selection.UNSURE, figure) == said


def test_the_other_reasons_say_theirs() -> None:
    rare = boxes((PLAIN, "cola", 0.4, HERE), (PLAIN, "apple", 0.9, HERE))
    assert (
        why(rare, selection.RARE) == "rare: 1 box of cola at 0.40; 12 labelled of cola so far, 26 of the average class"
    )
    assert why(boxes(), selection.DRIFTED, drifted={"f": "darker"}) == "drifted: darker"
    nearest = "it is the nearest to 9% of those that could be asked about"
    assert why(boxes(), selection.DIVERSE).endswith(f"that are labelled, waiting or chosen, {nearest}")
    assert why(boxes(), selection.DIVERSE, champion="").startswith("diverse: no model serves yet, so only variety")


def described(looks: Mapping[str, float]) -> pd.DataFrame:
    """Pictures that are as grey as told."""
    table = pd.DataFrame({"frame": list(looks), "phash": None, "width": 64, "height": 48}, dtype=object)
    return table.join(pd.DataFrame([[grey] * len(NAMES) for grey in looks.values()], columns=NAMES, dtype="float32"))


def candidates(*frames: str) -> pd.DataFrame:
    return pd.DataFrame({"frame": frames, "video": [f"v-{frame}" for frame in frames], "phash": None, "mine": 1})


NOBODY = described({})
NO_LABELS = pd.DataFrame({"frame": [], "class": []}, dtype=object)


def test_a_choice_from_what_was_seen() -> None:
    looks = described({"a": 0.1, "b": 0.5, "c": 0.9})
    found = boxes((PLAIN, "apple", 0.3, HERE)).assign(frame="b")
    wanted = Wanted(2, {selection.UNSURE: 0.5, selection.DRIFTED: 0.5}, 6, 1.0)
    ask = Ask(CLASSES, 0.3, wanted, champion="3", drifted={"c": 0.8}, kinds={"c": "darker"})
    chosen, possible = choose(candidates("c", "gone", "b", "a"), looks, found, NOBODY, NO_LABELS, ask)
    assert possible == 3, "one could not be read"
    assert chosen[["frame", "rank", "reason", "mine"]].to_numpy().tolist() == [
        ["b", 0, "unsure", 1],
        ["c", 1, "drifted", 1],
    ]
    assert chosen["why"].tolist()[1] == "drifted: darker"


def test_without_a_model_the_choice_is_by_variety_alone() -> None:
    looks = described({"a": 0.10, "b": 0.11, "c": 0.9, "d": 0.12, "e": 0.13})
    wanted = Wanted(2, {selection.UNSURE: 1.0}, 6, 1.0)
    chosen, _ = choose(candidates(*"abcde"), looks, boxes(), NOBODY, NO_LABELS, Ask(CLASSES, 0.3, wanted))
    assert chosen["frame"].tolist() == ["d", "c"]
    assert set(chosen["reason"]) == {"diverse"}


def test_what_looks_like_a_picture_that_waits_is_left_out() -> None:
    looks = described({"a": 0.1, "b": 0.5}).assign(phash=["00000000000000ff", "ff00ff00ff00ff00"])
    waits = described({"w": 0.1}).assign(phash="00000000000000fe")
    ask = Ask(CLASSES, 0.3, Wanted(5, {selection.DIVERSE: 1.0}, 6, 1.0))
    chosen, possible = choose(candidates("a", "b"), looks, boxes(), waits, NO_LABELS, ask)
    assert (chosen["frame"].tolist(), possible) == (["b"], 1)


def test_a_description_says_what_is_where() -> None:
    picture = np.zeros((120, 200, 3), np.uint8)
    picture[:60, :100] = (255, 0, 51)
    told = describe(picture).reshape(FIELDS, FIELDS, 4)
    assert told[0, 0] == pytest.approx([1, 0, 0.2, 0], abs=0.02)
    assert told[3, 3] == pytest.approx([0, 0, 0, 0])
    assert told[1, 1, 3] > 0.05, "an edge"
    assert told.min() >= 0
    assert told.max() <= 1


def test_pictures_differ_by_looks_and_by_what_is_on_them() -> None:
    looks = described({"a": 0.2, "b": 0.2, "c": 0.5})
    on = pd.DataFrame({"frame": ["b", "b", "x", "a"], "class": ["cola", "cola", "cola", "other"]})
    numbers = features(looks, on, CLASSES)
    a, b, c = numbers
    assert np.linalg.norm(a - c) == pytest.approx(0.3, abs=1e-6)
    assert np.linalg.norm(a - b) == pytest.approx(0.5 * np.log(3) / np.sqrt(2), abs=1e-6)
    assert features(looks, None, CLASSES).shape == (3, len(NAMES))

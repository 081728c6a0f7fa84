from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from detection_assets.domain import drift
from detection_assets.domain.drift import Limits
from detection_assets.domain.two_samples import Sample

LIMITS = Limits()
SEEDS = 150


def frames(rng: np.random.Generator, count: int, shift: float = 0.0, r: float = 0.0) -> pd.DataFrame:
    """Pictures of a shop: features that hang together, skewed ones, two camera sizes."""
    noise = rng.normal(0, 1, count)
    light = noise.copy()
    for at in range(1, count):
        light[at] = r * light[at - 1] + np.sqrt(1 - r * r) * noise[at]
    light = light + shift
    wide = rng.random(count) < 0.3
    return pd.DataFrame({
        "frame": [f"f{at}" for at in range(count)],
        "brightness": 120 + 20 * light,
        "contrast": 40 + 5 * light + rng.normal(0, 3, count),
        "sharpness": np.exp(rng.normal(5, 0.8, count)),
        "red": 130 + 22 * light + rng.normal(0, 4, count),
        "green": 118 + 20 * light + rng.normal(0, 4, count),
        "blue": 100 + 19 * light + rng.normal(0, 4, count),
        "width": np.where(wide, 1920.0, 1280.0),
        "height": np.where(wide, 1080.0, 720.0),
    })  # fmt: skip


def boxes(rng: np.random.Generator, frames: pd.DataFrame) -> pd.DataFrame:
    """What a model finds on them: boxes of one frame resemble each other."""
    count = rng.poisson(2.5, len(frames))
    of = np.repeat(np.arange(len(frames)), count)
    mood, size = rng.normal(0, 0.7, len(frames))[of], np.exp(rng.normal(4.5, 0.4, len(of)))
    return pd.DataFrame({
        "frame": frames["frame"].to_numpy()[of],
        "class": rng.choice(np.array(["apple", "banana", "cola", "water"], object), len(of), p=[0.45, 0.3, 0.2, 0.05]),
        "confidence": 1 / (1 + np.exp(-(mood + rng.normal(0.5, 1, len(of))))),
        "x1": 0.0, "y1": 0.0, "x2": size, "y2": size * 0.8,
    })  # fmt: skip


def samples(rng: np.random.Generator, count: int, *, ordered: bool, **other: float) -> dict[str, Sample]:
    pictures = frames(rng, count, **other)
    return drift.image_samples(pictures, ordered=ordered) | drift.answer_samples(
        pictures, boxes(rng, pictures), ordered=ordered
    )


def verdicts(reference: dict[str, Sample], production: dict[str, Sample], n: int) -> dict[str, str]:
    found = drift.judge(drift.find(reference, production, n, LIMITS), LIMITS)
    return {one.feature: one.verdict for one in found}


@pytest.mark.parametrize("n", [50, 200, 2000])
def test_when_nothing_changes_hardly_a_report_says_otherwise(n: int) -> None:
    """Over so many reports of twelve features: at most one in twenty has any verdict but stable."""
    wrong = 0
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        found = verdicts(samples(rng, 1000, ordered=False), samples(rng, n, ordered=True), n)
        assert len(found) == 12
        wrong += any(verdict in (drift.WATCH, drift.DRIFT) for verdict in found.values())
    assert wrong <= 0.05 * SEEDS, f"{wrong} of {SEEDS}"


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.long)])
def test_looks_at_a_day_that_fills_are_no_more_wrong(every: int) -> None:
    """At its captured requests every third hour, and every hour."""
    wrong, days = 0, 60
    for seed in range(days):
        rng = np.random.default_rng(seed)
        reference, whole = samples(rng, 500, ordered=False), frames(rng, 480)
        found = boxes(rng, whole)
        for hour in range(3, 25, every):
            so_far = whole.iloc[: 20 * hour]
            production = drift.image_samples(so_far, ordered=True) | drift.answer_samples(so_far, found, ordered=True)
            if any(one in (drift.WATCH, drift.DRIFT) for one in verdicts(reference, production, 20 * hour).values()):
                wrong += 1
                break
    assert wrong <= 0.05 * days, f"{wrong} of {days}"


def test_frames_that_follow_each_other_are_no_drift() -> None:
    """With the light of one camera changing slowly (r = 0.8), counted as independent they would be: see below."""
    wrong, naive, n = 0, 0, 200
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        reference, production = samples(rng, 1000, ordered=False), samples(rng, n, ordered=True, r=0.8)
        wrong += drift.DRIFT in verdicts(reference, production, n).values()
        loose = {name: Sample(one.values, one.units, False) for name, one in production.items()}
        naive += drift.DRIFT in verdicts(reference, loose, n).values()
    assert wrong <= 0.05 * SEEDS, f"{wrong} of {SEEDS}"
    assert naive >= 0.15 * SEEDS, f"only {naive} of {SEEDS}: the correction would not be needed"


def test_a_shift_of_one_sigma_is_always_found_in_200_requests() -> None:
    for seed in range(100):
        rng = np.random.default_rng(seed)
        reference = samples(rng, 1000, ordered=False)
        for sigma in (-1.0, 1.0):
            found = verdicts(reference, samples(rng, 200, ordered=True, shift=sigma), 200)
            assert found["brightness"] == drift.DRIFT, (seed, sigma)
            assert found["width"] == drift.STABLE


def test_a_change_in_the_afternoon_is_found_the_same_day() -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        reference = samples(rng, 500, ordered=False)
        day = pd.concat([frames(rng, 120), frames(rng, 80, shift=-3.0)], ignore_index=True)
        found = drift.judge(drift.find(reference, drift.image_samples(day, ordered=True), 200, LIMITS), LIMITS)
        assert {one.feature: one.verdict for one in found}["brightness"] == drift.DRIFT, seed


def test_a_certain_difference_that_is_small_is_no_drift() -> None:
    rng = np.random.default_rng(0)
    found = verdicts(samples(rng, 1000, ordered=False), samples(rng, 20000, ordered=True, shift=0.25), 20000)
    assert found["brightness"] == drift.WATCH
    found = verdicts(samples(rng, 1000, ordered=False), samples(rng, 20000, ordered=True, shift=0.12), 20000)
    assert found["brightness"] in (drift.STABLE, drift.WATCH)


def test_another_class_mix_is_named_in_words() -> None:
    rng = np.random.default_rng(1)
    pictures = frames(rng, 300)
    found = boxes(rng, pictures)
    other = found.assign(**{"class": found["class"].replace({"banana": "cola"})})
    one, two = (drift.answer_samples(pictures, each, ordered=True) for each in (found, other))
    judged = {one.feature: one for one in drift.judge(drift.find(one, two, 300, LIMITS), LIMITS)}
    assert judged["class_mix"].verdict == drift.DRIFT
    assert "banana" in judged["class_mix"].why
    assert "→ 0%" in judged["class_mix"].why
    assert judged["confidence"].verdict == drift.STABLE


def test_few_requests_and_no_reference_are_said_to_be_so() -> None:
    rng = np.random.default_rng(2)
    reference = samples(rng, 300, ordered=False)
    assert set(verdicts(reference, samples(rng, 49, ordered=True), 49).values()) == {drift.TOO_FEW}
    assert set(verdicts({}, samples(rng, 80, ordered=True), 80).values()) == {drift.NO_REFERENCE}
    nothing = verdicts(reference, drift.answer_samples(frames(rng, 80), boxes(rng, frames(rng, 0)), ordered=True), 80)
    assert nothing["boxes_a_frame"] == drift.DRIFT, "pictures in which nothing is found any more"
    assert nothing["confidence"] == drift.TOO_FEW


def test_a_test_split_of_one_video_is_no_standard_for_answers() -> None:
    rng = np.random.default_rng(3)
    pictures = frames(rng, 200).assign(unit=0)
    reference = drift.answer_samples(pictures, boxes(rng, pictures), ordered=False)
    production = drift.answer_samples(frames(rng, 200), boxes(rng, frames(rng, 200)), ordered=True)
    assert set(verdicts(reference, production, 200).values()) == {drift.TOO_FEW}


def test_repeats_have_one_number_and_pictures_without_figures_their_own() -> None:
    pictures = frames(np.random.default_rng(4), 3)
    twice = pd.concat([pictures, pictures, pictures.assign(brightness=np.nan)], ignore_index=True)
    assert drift.repeats(twice).tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5]


def test_the_strangest_pictures_come_first_with_what_is_strange_about_them() -> None:
    rng = np.random.default_rng(5)
    reference = drift.image_samples(frames(rng, 500), ordered=False)
    pictures = frames(rng, 50)
    pictures.loc[7, "brightness"], pictures.loc[30, "width"] = 1000.0, 9000.0
    found = drift.strangest(reference, pictures, 2)
    assert dict(zip(found["row"], found["feature"], strict=True)) == {7: "brightness", 30: "width"}
    assert drift.strangest(reference, pictures.iloc[:0], 2).empty
    assert drift.strangest({}, pictures, 2).empty

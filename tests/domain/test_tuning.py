from __future__ import annotations

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detection_assets.domain import tuning
from detection_assets.domain.tuning import TUNABLE, Choice, Real, Trial, Whole, best, merged, own_values, parameter

GOOD = {
    "real": ("lr0", {"low": 1e-4, "high": 1e-2, "log": True}, Real(1e-4, 1e-2, True)),
    "whole numbers for a real one": ("mosaic", {"low": 0, "high": 1}, Real(0.0, 1.0)),
    "whole": ("close_mosaic", {"low": 0, "high": 10}, Whole(0, 10)),
    "whole, log": ("batch", {"low": 2, "high": 64, "log": True}, Whole(2, 64, True)),
    "choices": ("fliplr", {"choices": [0.0, 0.5]}, Choice((0.0, 0.5))),
    "names": ("optimizer", {"choices": ["SGD", "AdamW"]}, Choice(("SGD", "AdamW"))),
    "yes and no": ("cos_lr", {"choices": [True, False]}, Choice((True, False))),
}


@pytest.mark.parametrize(("key", "written", "expected"), GOOD.values(), ids=GOOD)
def test_what_can_be_searched(key, written, expected):
    found = parameter(key, written)
    assert found == expected
    assert type(found) is type(expected)


WRONG = {
    "not tunable": ("imgsz", {"low": 1, "high": 3}, "is nothing that can be tuned. There are: lr0, lrf"),
    "nearly right": ("mosiac", {"low": 0, "high": 1}, "is nothing that can be tuned. Did you mean `mosaic`?"),
    "no mapping": ("lr0", 0.1, "must be {low: ..., high: ...} or {choices: [...]}, got 0.1."),
    "null": ("lr0", None, "must be {low: ..., high: ...}"),
    "empty": ("lr0", {}, "must be {low: ..., high: ...}"),
    "half": ("lr0", {"low": 0.1}, "must be {low: ..., high: ...}"),
    "unknown word": ("lr0", {"low": 0.1, "hihg": 0.2}, "has hihg, which means nothing here."),
    "both": ("lr0", {"low": 0.1, "high": 0.2, "choices": [1, 2]}, "has choices and limits. Write one"),
    "turned round": ("lr0", {"low": 0.2, "high": 0.1}, "has low 0.2, which is not below high 0.1."),
    "equal": ("lr0", {"low": 0.2, "high": 0.2}, "which is not below"),
    "log of nothing": ("mosaic", {"low": 0, "high": 1, "log": True}, "with log: true it must be above 0"),
    "log in words": ("lr0", {"low": 0.1, "high": 0.2, "log": "yes"}, "has log 'yes'. Write true or false."),
    "outside": ("mosaic", {"low": 0, "high": 7}, "has 7, which is not within 0 to 1."),
    "text": ("lr0", {"low": "1e-4", "high": 0.1}, "has '1e-4', which is not a number."),
    "truth": ("lr0", {"low": False, "high": 0.1}, "has False, which is not a number."),
    "infinite": ("lr0", {"low": 0.1, "high": math.inf}, "has inf, which is not a number."),
    "half a batch": ("batch", {"low": 1, "high": 2.5}, "has 2.5, which is not a whole number."),
    "one choice": ("lr0", {"choices": [0.1]}, "has choices that are not a list of at least two"),
    "choices in text": ("lr0", {"choices": "0.1, 0.2"}, "has choices that are not a list of at least two"),
    "doubled choice": ("lr0", {"choices": [0.1, 0.1]}, "has a choice twice"),
    "choice outside": ("fliplr", {"choices": [0.1, 2]}, "has 2, which is not within"),
    "no such name": ("optimizer", {"choices": ["SGD", "Adamm"]}, "has the choice 'Adamm'. There are: SGD, Adam"),
    "a number for a name": ("cos_lr", {"choices": [1, 0]}, "has the choice 1. There are: true, false."),
    "limits for names": ("optimizer", {"low": 0, "high": 1}, "must be {choices: [...]}"),
    "a list of lists": ("lr0", {"choices": [[0.1], [0.2]]}, "has [0.1], which is not a number."),
}


@pytest.mark.parametrize(("key", "written", "complaint"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_searched_is_refused_with_the_remedy(key, written, complaint):
    with pytest.raises(ValueError, match=r"[.?]$") as caught:
        parameter(key, written)
    assert str(caught.value).startswith(complaint) or complaint in str(caught.value)


@given(st.sampled_from(sorted(TUNABLE)) | st.text(max_size=5), st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["low", "high", "log", "choices", "x"]), inner, max_size=4),
    max_leaves=6,
))  # fmt: skip
def test_whatever_is_written_is_searched_or_refused(key, written):
    try:
        found = parameter(key, written)
    except ValueError:
        return
    assert isinstance(found, Choice) or found.low < found.high


def test_the_default_space_is_one():
    space = tuning.parameters(tuning.SPACE)
    assert set(space) == {"lr0", "weight_decay", "mosaic", "scale", "fliplr"}
    assert space["lr0"] == Real(1e-4, 1e-2, True)


def test_values_go_where_the_file_has_them():
    training = {"lr0": 0.002, "batch": 8, "extra": {"close_mosaic": 8, "mosaic": 0.5}}
    before = json.dumps(training)
    found = merged(training, {"lr0": 0.01, "mosaic": 0.7, "scale": 0.1})
    assert found == {"lr0": 0.01, "batch": 8, "extra": {"close_mosaic": 8, "mosaic": 0.7, "scale": 0.1}}
    assert json.dumps(training) == before
    assert merged({"extra": None}, {"scale": 0.1}) == {"extra": {"scale": 0.1}}


def test_the_files_own_values_make_the_same_training():
    training = {"lr0": 0.002, "extra": {"close_mosaic": 8, "mosaic": 0.5}}
    space = tuning.parameters({**tuning.SPACE, "close_mosaic": {"low": 0, "high": 9}})
    own = own_values(space, training)
    assert own == {"lr0": 0.002, "weight_decay": 0.0005, "mosaic": 0.5, "scale": 0.5, "fliplr": 0.5, "close_mosaic": 8}
    assert merged(training, own) == training
    back = merged({"extra": {"mosaic": 0.5}}, {"mosaic": 1.0})
    assert back == {"extra": {"mosaic": 1.0}}, "what the file changed is changed back, though it is the default"


def test_own_values_outside_the_space_are_left_out():
    space = {"lr0": Real(0.01, 0.1), "fliplr": Choice((0.0, 0.3)), "batch": Whole(2, 8), "optimizer": Choice(("SGD",))}
    assert own_values(space, {"lr0": 0.002, "batch": 8, "optimizer": "AdamW", "extra": {}}) == {"batch": 8}


def trial(number, state, value):
    return Trial(number, state, {"lr0": number}, value)


def test_the_best_is_complete_and_of_equals_the_first():
    trials = [trial(0, "complete", 0.4), trial(1, "pruned", 0.9), trial(2, "complete", 0.6), trial(3, "complete", 0.6)]
    assert best(trials) is trials[2]
    assert best(trials, maximize=False) is trials[0]
    assert best([trials[1], trial(4, "failed", None), trial(5, "running", 0.8)]) is None
    assert best([trial(0, "complete", 0.0)]).number == 0


def test_only_verdicts_count():
    assert [trial(0, state, 0.1).judged for state in ("running", "complete", "pruned", "failed")] == [
        *(False, True, True, False)
    ]


def test_in_words():
    assert tuning.in_words({"lr0": 0.0021234, "batch": 8, "optimizer": "SGD"}) == "lr0 0.00212, batch 8, optimizer SGD"


@pytest.mark.parametrize("among", [expected for _, _, expected in GOOD.values()], ids=GOOD)
@given(chance=st.floats(0, 1, exclude_max=True))
def test_a_value_survives_a_tuner_that_knows_only_text(among, chance):
    value = tuning.drawn(among, chance)
    assert tuning.within(among, value)
    (elsewhere,) = tuning.space_of(json.loads(json.dumps(tuning.described({"key": among})))).values()
    found = tuning.from_text(elsewhere, tuning.as_text(value))
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(("among", "text"), [(Choice(("SGD", True)), "Adam"), (Whole(1, 4), "2.5"), (Real(0, 1), "a")])
def test_a_value_that_the_parameter_cannot_have_is_refused(among, text):
    with pytest.raises(ValueError, match=text):
        tuning.from_text(among, text)


@given(chance=st.floats(0, 1))
def test_a_value_that_is_given_by_its_logarithm_is_one_that_the_parameter_can_have(chance):
    space = {"lr0": Real(1e-5, 0.1, log=True), "batch": Whole(1, 64, log=True)}
    ends = {"lr0": (math.log(1e-5), math.log(0.1)), "batch": (math.log(1), math.log(65))}
    given = {f"ln_{key}": repr(low + chance * (high - low)) for key, (low, high) in ends.items()}
    found = tuning.taken(space, given)
    assert all(tuning.within(among, found[key]) for key, among in space.items())
    assert isinstance(found["batch"], int)
    assert found["lr0"] == pytest.approx(math.exp(float(given["ln_lr0"])))


def test_values_are_taken_as_a_tuner_writes_them():
    space = {"lr0": Real(0.1, 1), "batch": Whole(1, 64), "cos_lr": Choice((True, False))}
    given = {"lr0": "0.5", "batch": "16.0", "cos_lr": "true", "_tuning_objective_metric": "objective"}
    assert tuning.taken(space, given) == {"lr0": 0.5, "batch": 16, "cos_lr": True}
    with pytest.raises(ValueError, match=r"gives no value of lr0, but of batch"):
        tuning.taken(space, {"batch": "16"})


def test_every_value_of_a_parameter_is_drawn():
    assert {tuning.drawn(Whole(1, 4), chance / 100) for chance in range(100)} == {1, 2, 3, 4}
    assert {tuning.drawn(Choice((0.1, 0.3)), chance / 100) for chance in range(100)} == {0.1, 0.3}


@given(st.floats(-1e6, 1e6))
def test_a_tuner_finds_what_a_trial_has_reached_in_its_log(value):
    (found,) = re.findall(tuning.OBJECTIVE_PATTERN, f"epoch 3 {tuning.objective_line(value)} loss 0.2")
    assert float(found) == pytest.approx(value, rel=1e-8, abs=1e-300)

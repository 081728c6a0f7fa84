from __future__ import annotations

import base64
import json
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detection_assets.domain import history, schemas
from detection_assets.domain.history import Entry, Held, Period
from detection_assets.domain.rollout import Rollout

ROLLOUT = Rollout("r1", "2", "bbb", "key", {}, "green", "blue", "1", approved_by="gates")
LOG = [
    Entry(1, 10.0, {"blue": Held("1", 100)}, why="first", who="gates"),
    Entry(2, 20.0, {"blue": Held("1", 100), "green": Held("2", 0)}, ROLLOUT, why="loading", who="gates"),
    Entry(3, 25.0, {"blue": Held("1", 100), "green": Held("2", 0)}, ROLLOUT, settled=False, why="golden"),
    Entry(4, 30.0, {"blue": Held("1", 90), "green": Held("2", 10)}, ROLLOUT, why="canary", who="gates", run="run1"),
    Entry(5, 40.0, {"blue": Held("1", 0), "green": Held("2", 100)}, ROLLOUT, why="full", who="gates"),
    Entry(6, 50.0, {"blue": Held("1", 100), "green": Held("2", 0)}, ROLLOUT, why="rolled back", who="Ada"),
    Entry(7, 60.0, {"blue": Held("1", 100)}, ROLLOUT, why="removed", who="Ada"),
]


def test_a_log_makes_periods_without_a_gap() -> None:
    found = history.periods(LOG)
    assert [(p.slot, p.version, p.share, p.start, p.end, p.why) for p in found] == [
        ("blue", "1", 100, 10, 30, "first"),
        ("green", "2", 0, 20, 30, "loading"),
        ("blue", "1", 90, 30, 40, "canary"),
        ("green", "2", 10, 30, 40, "canary"),
        ("blue", "1", 0, 40, 50, "full"),
        ("green", "2", 100, 40, 50, "full"),
        ("blue", "1", 100, 50, None, "rolled back"),
        ("green", "2", 0, 50, 60, "rolled back"),
    ]
    assert [p.ended for p in found] == ["canary", "canary", "full", "full", *["rolled back"] * 2, "", "removed"]
    assert found[3].rollout == "r1"
    assert found[3].run == "run1"
    assert found[-2].who == "Ada"


@pytest.mark.parametrize(
    ("moment", "shares"),
    [(5, {}), (10, {"1": 100}), (29.9, {"1": 100}), (30, {"1": 90, "2": 10}), (45, {"2": 100}), (1e9, {"1": 100})],
)
def test_every_moment_has_an_answer(moment: float, shares: dict[str, int]) -> None:
    assert history.at(history.periods(LOG), moment) == shares


def test_the_order_of_reading_does_not_matter() -> None:
    assert history.periods(LOG[::-1]) == history.periods(LOG)


def test_a_clock_that_was_set_back_makes_no_period_that_ends_before_it_begins() -> None:
    log = [LOG[0], Entry(2, 5.0, {"blue": Held("3", 100)}), Entry(3, 20.0, {})]
    found = history.periods(log)
    assert [(p.version, p.start, p.end) for p in found] == [("3", 10.0, 20.0)]


SLOTS = st.dictionaries(
    st.sampled_from(["blue", "green"]), st.builds(Held, st.sampled_from("123"), st.integers(0, 100))
)


@given(st.lists(st.tuples(st.floats(0, 100), SLOTS), min_size=1, max_size=12))
def test_periods_say_what_the_log_says(told: list) -> None:
    log = [Entry(number + 1, 100.0 * number + at, slots) for number, (at, slots) in enumerate(told)]
    found = history.periods(log)
    for number, entry in enumerate(log):
        ends = log[number + 1].at if number + 1 < len(log) else entry.at + 1
        middle = (entry.at + ends) / 2
        if ends == entry.at:
            continue
        now = {p.slot: (p.version, p.share) for p in found if p.start <= middle and (p.end is None or middle < p.end)}
        assert now == {name: (held.version, held.share) for name, held in entry.slots.items()}


def test_an_entry_survives_being_written_down() -> None:
    for entry in LOG:
        assert Entry.load(json.loads(json.dumps(entry.dump()))) == entry
    for nonsense in ({}, {**LOG[0].dump(), "slots": {"blue": {"share": 1}}}, {**LOG[0].dump(), "number": None}):
        with pytest.raises(ValueError, match="cannot be read"):
            Entry.load(nonsense)


def test_the_version_before() -> None:
    found = history.periods(LOG)
    assert history.previous(found, "2") == "1"
    assert history.previous(found, "1") == "2"
    assert history.previous(found, "1", ["2"]) is None


def test_another_model_of_the_same_number_begins_a_period() -> None:
    log = [Entry(1, 10.0, {"blue": Held("1", 100, "a")}), Entry(2, 20.0, {"blue": Held("1", 100, "b")})]
    assert [(one.start, one.end, one.sha256) for one in history.periods(log)] == [(10.0, 20.0, "a"), (20.0, None, "b")]


def test_the_table_has_its_schema_and_says_when_it_is_still_so() -> None:
    table = schemas.conform("deployment_history", history.table(history.periods(LOG)))
    assert table["from"].iloc[0] == "1970-01-01T00:00:10.000+00:00"
    assert table["until"].isna().sum() == 1
    assert schemas.conform("deployment_history", history.table([])).empty


def test_what_people_read_is_the_latest_first_and_short() -> None:
    found = history.shown(history.periods(LOG))
    first = found.iloc[0]
    assert (first["slot"], first["from"], first["until"]) == ("green", "1970-01-01 00:00:50", "1970-01-01 00:01:00")
    assert found["until"].tolist().count("now") == 1
    assert list(found.columns) == ["slot", "version", "share", "from", "until", "why", "who"]
    assert "first" in found["why"].iloc[-1]
    assert found["why"].tolist().count("full → rolled back") == 2
    assert history.shown([]).empty


def test_the_picture_is_well_formed_and_escapes_what_strangers_wrote() -> None:
    evil = Period("blue", "<script>", 100, 10, None, '"><b>&\x0b\ud800', "Ada", "", "")
    drawn = history.picture([*history.periods(LOG), evil], 100.0)
    assert "<script>" not in drawn
    root = ElementTree.fromstring(drawn)
    bands = [item for item in root.iter("{http://www.w3.org/2000/svg}rect") if len(item)]
    assert len(bands) == 9
    assert all(float(band.get("width", 0)) >= 1 for band in bands)
    encoded = history.markdown(history.periods(LOG), 100.0).partition("base64,")[2].rstrip(")")
    ElementTree.fromstring(base64.b64decode(encoded))
    assert history.markdown([], 100.0) == "nothing has served yet"

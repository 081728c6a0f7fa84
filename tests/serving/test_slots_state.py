"""The state file: what is accepted, and what a bad one is told."""

import json
from pathlib import Path

import pytest

from detection_assets.domain.problems import InputError
from detection_assets.serving.refusals import Refused
from detection_assets.serving.slots import Slots, parse_state

FILE = Path("/srv/fridge.json")
BLUE = {"model": "/m/best.onnx", "sha256": "ab", "version": "3"}


def test_a_state_is_read_with_defaults() -> None:
    state = parse_state(
        json.dumps({"detector": "fridge", "slots": {"blue": BLUE}, "traffic": {"blue": 100, "green": 0}}).encode(), FILE
    )
    blue = state.slots["blue"]
    assert (state.detector, dict(state.traffic)) == ("fridge", {"blue": 100.0, "green": 0.0})
    assert (blue.model, blue.version, blue.confidence, blue.iou, blue.max_det) == (
        Path("/m/best.onnx"), "3", 0.25, 0.7, 300,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a state file"),
        ("[]", "not a state file"),
        ("{}", "'detector' is missing"),
        ({"detector": "f", "slots": {"blue": {}}}, "'model' is missing"),
        ({"detector": "f", "slots": []}, "not a state file"),
        ({"detector": "f", "slots": {"blue": {**BLUE, "iou": 7}}}, "iou is 7"),
        ({"detector": "f", "slots": {"blue": {**BLUE, "max_det": "many"}}}, "not a state file"),
        ({"detector": "f", "slots": {}, "traffic": {"blue": 1}}, "not among the slots"),
        ({"detector": "f", "slots": {"blue": BLUE}, "traffic": {"blue": -1}}, "must be 0 or more"),
        ({"detector": "f", "slots": {"blue": BLUE}, "traffic": {"blue": "all"}}, "not a state file"),
    ],
)
def test_a_bad_state_is_refused_with_its_file(content: str | dict, message: str) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    with pytest.raises(InputError, match=f"/srv/fridge.json.*{message}"):
        parse_state(text.encode(), FILE)


def test_without_a_state_nothing_is_served(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "state.json", poll_s=0.01)
    slots.start()
    try:
        with pytest.raises(Refused) as caught:
            slots.choose()
        assert (caught.value.status, caught.value.retry_after, slots.ready) == (503, 1, False)
        assert "does not exist yet" in slots.status()["state_error"]
    finally:
        slots.stop()

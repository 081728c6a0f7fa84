"""The state file: what is accepted, and what a bad one is told."""

import json
from pathlib import Path

import pytest

from detection_assets.domain.problems import InputError
from detection_assets.serving.refusals import Refused
from detection_assets.serving.slots import Slots
from detection_assets.serving.state import CaptureSpec, ShadowSpec, parse_state

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


def test_shadow_and_capture_are_read() -> None:
    plain = {"detector": "f", "slots": {"blue": BLUE, "green": BLUE}, "traffic": {"blue": 1}}
    state = parse_state(json.dumps(plain).encode(), FILE)
    assert (state.shadow, state.capture) == (None, None)
    more = {"shadow": {"slot": "green", "share": 0.5}, "capture": {"folder": "/lake/f/captures"}}
    state = parse_state(json.dumps(plain | more).encode(), FILE)
    assert state.shadow == ShadowSpec("green", 0.5)
    assert state.capture == CaptureSpec(Path("/lake/f/captures"), 0.0, 0.0, True, 30)
    capture = {"folder": "/c", "rate": 0.05, "below": 0.4, "images": False, "keep_days": 7}
    state = parse_state(json.dumps(plain | {"shadow": None, "capture": capture}).encode(), FILE)
    assert state.capture == CaptureSpec(Path("/c"), 0.05, 0.4, False, 7)


def with_capture(**changes: object) -> dict:
    return {"detector": "f", "slots": {"blue": BLUE}, "capture": {"folder": "/c"} | changes}


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
        ({"detector": "f", "slots": {"blue": BLUE}, "shadow": {"slot": "green", "share": 1}}, "the shadow is 'green'"),
        ({"detector": "f", "slots": {"blue": BLUE}, "shadow": {"slot": "blue"}}, "'share' is missing"),
        ({"detector": "f", "slots": {"blue": BLUE}, "shadow": {"slot": "blue", "share": 2}}, "shadow.share is 2"),
        ({"detector": "f", "slots": {"blue": BLUE}, "shadow": "blue"}, "not a state file"),
        (with_capture(folder="captures"), "capture.folder is 'captures'; it must be absolute"),
        (with_capture(rate=5), "capture.rate is 5; it must be between 0 and 1"),
        (with_capture(rate=True), "capture.rate is True"),
        (with_capture(below="low"), "capture.below is 'low'"),
        (with_capture(images="no"), "capture.images is 'no'; it must be true or false"),
        (with_capture(keep_days=0), "capture.keep_days is 0; it must be a whole number"),
        (with_capture(keep_days=1.5), "capture.keep_days is 1.5"),
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

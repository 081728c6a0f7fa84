from __future__ import annotations

import hashlib
import io
import json
import threading
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detection_assets.domain.rollout import Health
from resources.endpoints.base import EndpointError

PLATFORMS = ["local", "aws", "azure"]
SETTINGS = {"confidence": 0.25, "iou": 0.7, "max_det": 300}


def picture() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((60, 80, 3), 128, np.uint8)).save(out, "JPEG")
    return out.getvalue()


def test_an_endpoint_begins_with_nothing(platform: Any) -> None:
    status = platform.endpoints.status()
    assert not status.alive
    assert status.serving is None
    assert platform.endpoints.idle_slot() == "blue"


def test_a_version_goes_to_an_idle_slot_and_then_takes_the_traffic(platform: Any, model: dict[str, str]) -> None:
    endpoints = platform.endpoints
    endpoints.deploy("blue", **model, version="1", settings=SETTINGS)
    ready = endpoints.wait_ready("blue", endpoints.ready_s)
    assert (ready.version, ready.traffic) == ("1", 0)
    assert endpoints.invoke("blue", picture())["slot"] == "blue", "one slot can be asked whatever its traffic"
    endpoints.route({"blue": 100})
    assert endpoints.status().serving.version == "1"

    endpoints.deploy("green", **model, version="2", settings=SETTINGS)
    endpoints.wait_ready("green", endpoints.ready_s)
    assert endpoints.status().serving.version == "1", "deploying moves no traffic"
    endpoints.route({"green": 100, "blue": 0})
    endpoints.remove("blue")
    status = endpoints.status()
    assert status.serving.version == "2"
    assert [slot.name for slot in status.slots] == ["green"]
    assert endpoints.idle_slot() == "blue"


def test_a_model_with_another_digest_is_refused_and_the_serving_slot_untouched(
    platform: Any, model: dict[str, str]
) -> None:
    endpoints = platform.endpoints
    endpoints.deploy("blue", **model, version="1", settings=SETTINGS)
    endpoints.wait_ready("blue", endpoints.ready_s)
    endpoints.route({"blue": 100})
    endpoints.deploy("green", model["onnx"], "0" * 64, version="2", settings=SETTINGS)
    with pytest.raises(EndpointError, match="failed to load version 2"):
        endpoints.wait_ready("green", endpoints.ready_s)
    assert endpoints.invoke("blue", picture())["model_version"] == "1"
    endpoints.remove("green")
    assert [slot.state for slot in endpoints.status().slots] == ["ready"]


def test_shares_that_make_no_sense_are_refused(platform: Any, model: dict[str, str]) -> None:
    platform.endpoints.deploy("blue", **model, version="1", settings=SETTINGS)
    for traffic in ({"blue": 50}, {"blue": 150, "green": -50}, {"red": 100}):
        with pytest.raises(EndpointError, match=r"do not sum|no slot"):
            platform.endpoints.route(traffic)


def test_a_slot_with_traffic_is_neither_replaced_nor_removed(platform: Any, model: dict[str, str]) -> None:
    endpoints = platform.endpoints
    endpoints.deploy("blue", **model, version="1", settings=SETTINGS)
    endpoints.wait_ready("blue", endpoints.ready_s)
    endpoints.route({"blue": 100})
    with pytest.raises(EndpointError, match="has traffic"):
        endpoints.remove("blue")
    with pytest.raises(EndpointError, match="has traffic"):
        endpoints.deploy("blue", **model, version="2", settings=SETTINGS)


def test_a_picture_that_is_none_is_refused_by_the_endpoint(platform: Any, model: dict[str, str]) -> None:
    platform.endpoints.deploy("blue", **model, version="1", settings=SETTINGS)
    platform.endpoints.wait_ready("blue", platform.endpoints.ready_s)
    with pytest.raises(EndpointError, match="answered 4"):
        platform.endpoints.invoke("blue", b"no picture")


def answered_by(endpoints: Any, n: int) -> list[str]:
    """Which slots answer requests that name none."""
    return [endpoints.invoke(None, picture())["slot"] for _ in range(n)]


@pytest.fixture
def two(platform: Any, model: dict[str, str]) -> Any:
    """An endpoint with version 1 at 100 % and version 2 at none."""
    endpoints = platform.endpoints
    for slot, version in (("blue", "1"), ("green", "2")):
        endpoints.deploy(slot, **model, version=version, settings=SETTINGS)
        endpoints.wait_ready(slot, endpoints.ready_s)
        if slot == "blue":
            endpoints.route({"blue": 100})
    return endpoints


@pytest.mark.stand_in("SageMaker takes about a minute for it")
def test_a_route_is_taken_within_a_second_and_without_a_restart(two: Any) -> None:
    assert set(answered_by(two, 5)) == {"blue"}
    took: list[float] = []
    for traffic, by in (({"green": 100, "blue": 0}, "green"), ({"blue": 100, "green": 0}, "blue")) * 2:
        began = time.monotonic()
        two.route(traffic)
        took.append(time.monotonic() - began)
        assert set(answered_by(two, 5)) == {by}
        routed_at = two.status().routed_at
        assert routed_at is None or abs(time.time() - routed_at) < 5
    assert min(took) < 1, "the others may have waited for a machine that had other work"
    two.route({"blue": 50, "green": 50})
    assert set(answered_by(two, 60)) == {"blue", "green"}


def counted(endpoints: Any, slot: str, requests: int = 0) -> Health:
    """A slot's counters once they are there: the servers of some endpoints tell them a while later."""
    ends = time.monotonic() + 20
    while (seen := endpoints.health(slot)) is None or seen.requests < requests:
        assert time.monotonic() < ends, seen
        time.sleep(0.1)
    return seen


def test_counters_grow_with_the_requests_and_begin_anew_with_another_model(two: Any, model: dict[str, str]) -> None:
    before = counted(two, "blue")
    answered_by(two, 8)
    two.invoke("green", picture())
    window = counted(two, "blue", before.requests + 8).after(before)
    assert (window.requests, window.errors) == (8, 0)
    assert window.quantile_ms(0.95) > 0
    assert counted(two, "green").requests == 0, "a request that names its slot is no traffic"
    assert two.health("red") is None
    two.deploy("green", **model, version="3", settings=SETTINGS)
    two.wait_ready("green", two.ready_s)
    assert counted(two, "green").since > before.since


def test_requests_are_mirrored_to_a_slot_and_compared(two: Any) -> None:
    two.mirror("green", 1.0)
    ends = time.monotonic() + 30
    while counted(two, "green").compared < 5:
        assert set(answered_by(two, 3)) == {"blue"}, "what is mirrored is never returned"
        assert time.monotonic() < ends
    seen = two.health("green")
    assert seen.agreed == seen.compared, "both hold the same model"
    two.route({"blue": 90, "green": 10})
    two.mirror(None, 0.0)
    time.sleep(1)
    before = two.health("green").compared
    answered_by(two, 10)
    time.sleep(0.5)
    assert two.health("green").compared == before


def test_mirroring_that_makes_no_sense_is_refused(platform: Any, model: dict[str, str]) -> None:
    platform.endpoints.deploy("blue", **model, version="1", settings=SETTINGS)
    for slot, share, why in (("red", 0.5, "no slot red"), ("blue", 1.5, "0 to 1 can")):
        with pytest.raises(EndpointError, match=why):
            platform.endpoints.mirror(slot, share)


def test_an_endpoint_that_was_stopped_can_be_woken_and_goes_on_as_it_was(two: Any) -> None:
    two.route({"blue": 30, "green": 70})
    assert two.stop()
    assert not two.stop()
    assert not two.status().alive
    two.route({"blue": 40, "green": 60})
    two.wake()
    two.wait_ready("green", two.ready_s)
    assert {slot.name: slot.traffic for slot in two.status().slots} == {"blue": 40, "green": 60}


def test_waking_what_was_never_made_makes_nothing(platform: Any) -> None:
    platform.endpoints.wake()
    assert not platform.endpoints.status().alive


def test_two_who_change_an_endpoint_at_once_lose_nothing(platform: Any, model: dict[str, str]) -> None:
    """Each of many threads removes and deploys in a slot of its own: none may undo another's change."""
    endpoints = platform.endpoints
    endpoints.deploy("blue", **model, version="1", settings=SETTINGS)
    failed: list[BaseException] = []
    rounds = 15 if hasattr(endpoints, "state") else 2  # a managed endpoint takes its time for each

    def change(slot: str) -> None:
        try:
            for number in range(rounds):
                endpoints.deploy(slot, **model, version=str(number), settings=SETTINGS)
                assert {item.name: item.version for item in endpoints.status().slots}[slot] == str(number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=change, args=(name,)) for name in ("blue", "green")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    last = str(rounds - 1)
    assert {item.name: item.version for item in endpoints.status().slots} == {"blue": last, "green": last}


@pytest.mark.platforms("local")
class TestTheLocalServer:
    """What only a server process of this machine has."""

    def test_a_state_that_somebody_holds_is_told_and_not_changed(
        self, platform: Any, model: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import fcntl

        endpoints = platform.endpoints
        endpoints.deploy("blue", **model, version="1", settings=SETTINGS)
        monkeypatch.setattr("resources.endpoints.local.LOCK_S", 0.2)
        with (endpoints.home / "state.lock").open("a") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(EndpointError, match=r"state\.lock is locked\); try again, or end that process"):
                endpoints.remove("blue")
        endpoints.remove("blue")

    def test_a_port_that_somebody_else_has_is_left_to_him(self, platform: Any, model: dict[str, str]) -> None:
        """Another detector's server on our port must not be taken for ours."""
        endpoints = platform.endpoints
        endpoints.deploy("blue", **model, version="1", settings=SETTINGS)
        other = endpoints.model_copy(update={"folder": f"{endpoints.folder}-2"})
        other.home.mkdir(parents=True)
        (other.home / "port").write_text(str(endpoints.server.chosen_port()))
        try:
            other.deploy("blue", **model, version="7", settings=SETTINGS)
            assert other.wait_ready("blue", other.ready_s).version == "7"
            assert other.url != endpoints.url
            assert endpoints.wait_ready("blue", endpoints.ready_s).version == "1"
        finally:
            other.stop()

    def test_deploying_leaves_mirroring_alone_and_forgets_models_that_nobody_holds(
        self, two: Any, platform: Any, onnx: bytes
    ) -> None:
        two.mirror("green", 0.5)
        other = onnx + b"\0"
        platform.storage.put("weights/w2/best.onnx", other)
        two.deploy("green", "weights/w2/best.onnx", hashlib.sha256(other).hexdigest(), "3", SETTINGS)
        assert two.state()["shadow"] == {"slot": "green", "share": 0.5}
        assert len(list((two.home / "models").iterdir())) == 2
        two.remove("green")
        assert "shadow" not in two.state()
        assert len(list((two.home / "models").iterdir())) == 1

    def test_what_is_captured_is_in_the_state_and_changes_with_the_settings(self, two: Any, platform: Any) -> None:
        assert "capture" not in two.state()
        capture = {"folder": "/lake/captures", "rate": 0.05, "below": 0.4, "images": True, "keep_days": 30}
        watching = two.model_copy(update={"capture": capture})
        watching.route({"blue": 100})
        assert two.state()["capture"] == capture
        watching.wake()
        assert json.loads((two.home / "state.json").read_text())["capture"] == capture
        two.wake()
        assert "capture" not in two.state()

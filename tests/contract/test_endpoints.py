from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resources.endpoints.base import EndpointError

SETTINGS = {"confidence": 0.25, "iou": 0.7, "max_det": 300}


@pytest.fixture(scope="session")
def onnx(detector: Path) -> bytes:
    return (detector / "best.onnx").read_bytes()


@pytest.fixture
def model(platform: Any, onnx: bytes) -> dict[str, str]:
    platform.storage.put("weights/w1/best.onnx", onnx)
    return {"onnx": "weights/w1/best.onnx", "sha256": hashlib.sha256(onnx).hexdigest()}


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
    ready = endpoints.wait_ready("blue", 60)
    assert (ready.version, ready.traffic) == ("1", 0)
    assert endpoints.invoke("blue", picture())["slot"] == "blue", "one slot can be asked whatever its traffic"
    endpoints.route({"blue": 100})
    assert endpoints.status().serving.version == "1"

    endpoints.deploy("green", **model, version="2", settings=SETTINGS)
    endpoints.wait_ready("green", 60)
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
    endpoints.wait_ready("blue", 60)
    endpoints.route({"blue": 100})
    endpoints.deploy("green", model["onnx"], "0" * 64, version="2", settings=SETTINGS)
    with pytest.raises(EndpointError, match="failed to load version 2"):
        endpoints.wait_ready("green", 30)
    assert endpoints.invoke("blue", picture())["model_version"] == "1"
    endpoints.remove("green")
    assert [slot.state for slot in endpoints.status().slots] == ["ready"]


@pytest.mark.parametrize("traffic", [{"blue": 50}, {"blue": 150, "green": -50}, {"red": 100}])
def test_shares_that_make_no_sense_are_refused(platform: Any, model: dict[str, str], traffic: dict[str, int]) -> None:
    platform.endpoints.deploy("blue", **model, version="1", settings=SETTINGS)
    with pytest.raises(EndpointError, match=r"do not sum|no slot"):
        platform.endpoints.route(traffic)


def test_a_slot_with_traffic_is_neither_replaced_nor_removed(platform: Any, model: dict[str, str]) -> None:
    endpoints = platform.endpoints
    endpoints.deploy("blue", **model, version="1", settings=SETTINGS)
    endpoints.wait_ready("blue", 60)
    endpoints.route({"blue": 100})
    with pytest.raises(EndpointError, match="has traffic"):
        endpoints.remove("blue")
    with pytest.raises(EndpointError, match="has traffic"):
        endpoints.deploy("blue", **model, version="2", settings=SETTINGS)


def test_a_picture_that_is_none_is_refused_by_the_endpoint(platform: Any, model: dict[str, str]) -> None:
    platform.endpoints.deploy("blue", **model, version="1", settings=SETTINGS)
    platform.endpoints.wait_ready("blue", 60)
    with pytest.raises(EndpointError, match="answered 4"):
        platform.endpoints.invoke("blue", b"no picture")

"""What endpoints that a cloud runs have in common beside the contract: a lake between them and their servers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from contract.test_endpoints import SETTINGS, picture

from detection_assets.domain import captures, layout
from resources.endpoints.base import EndpointError
from resources.storage import Storage

PLATFORMS = ["aws", "azure"]
pytestmark = pytest.mark.stand_in("quotas, fleets and scaling are made as each case needs them")


def until(seen: Callable[[], Any], what: str) -> Any:
    ends = time.monotonic() + 20
    while not (found := seen()):
        assert time.monotonic() < ends, what
        time.sleep(0.1)
    return found


@pytest.fixture
def servers(request: pytest.FixtureRequest, platform: Any) -> dict[str, str]:
    """What the stand-in tells each server besides; as it was before, afterwards."""
    on_azure = hasattr(platform.endpoints, "ml")
    service = request.getfixturevalue("azureml_service" if on_azure else "sagemaker_service")
    return service.endpoints.environment


@pytest.mark.long
def test_requests_are_kept_in_the_lake_and_what_is_kept_can_change(platform: Any, one: Any) -> None:
    def rows() -> list[dict[str, Any]]:
        keys = [item.key for item in platform.storage.list(layout.CAPTURES)]
        parts = [platform.storage.get(key) for key in keys if captures.is_part(key)]
        return [json.loads(line) for part in parts for line in part.splitlines()]

    keeping = one.model_copy(update={"capture": {"rate": 1.0, "below": 0.0, "images": True, "keep_days": 30}})
    keeping.wake()
    orders = json.loads(platform.storage.get(layout.ENDPOINT_ORDERS))
    assert orders["capture"]["folder"] == platform.storage.uri_of(layout.CAPTURES)
    time.sleep(1)  # each server looks by itself
    answer = one.invoke(None, picture())
    one.invoke("blue", picture())  # a trial is not kept
    (row,) = until(rows, "kept")
    assert (row["request_id"], row["slot"], row["version"]) == (answer["request_id"], "blue", "1")
    image = f"{layout.captures(row['time'][:10])}/{row['time'][11:13]}/{row['image']}"
    assert platform.storage.get(image) == picture()
    one.wake()
    time.sleep(1)
    one.invoke(None, picture())
    time.sleep(4)
    assert len(rows()) == 1


@pytest.mark.long
def test_servers_answer_without_the_lake(
    one: Any, servers: dict[str, str], monkeypatch: pytest.MonkeyPatch, model: dict[str, str]
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AZURE_STORAGE_ENDPOINT"):
        monkeypatch.setitem(servers, name, "https://127.0.0.1:9")
    one.deploy("green", **model, version="2", settings=SETTINGS)
    one.wait_ready("green", 60)
    assert one.invoke("green", picture())["model_version"] == "2"
    assert one.health("green") is None, "nobody counts"


@pytest.mark.long
def test_an_endpoint_that_never_worked_is_made_anew(platform: Any, model: dict[str, str]) -> None:
    endpoints = platform.endpoints
    endpoints.deploy("blue", model["onnx"], "0" * 64, version="1", settings=SETTINGS)
    with pytest.raises(EndpointError, match=r"failed to load version 1: .*sha256|digest"):
        endpoints.wait_ready("blue", 60)
    endpoints.deploy("blue", **model, version="2", settings=SETTINGS)
    assert endpoints.wait_ready("blue", 60).version == "2"


def test_an_endpoint_of_another_lake_is_told(one: Any, platform: Any) -> None:
    other = one.model_copy(update={"storage": Storage(root=platform.storage.root, prefix="another")})
    other._desk = None
    with pytest.raises(EndpointError, match=r"serving\.json is missing: it is of another lake"):
        other.status()

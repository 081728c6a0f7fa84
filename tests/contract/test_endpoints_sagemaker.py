"""What only an endpoint on SageMaker has: fleets that are replaced, quotas, scaling, a lake between it and servers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from contract.test_endpoints import SETTINGS, picture
from fakes import sagemaker

from detection_assets.domain import captures, layout
from resources import amazon, amazon_hosting
from resources.endpoints.base import EndpointError
from resources.storage import Storage

PLATFORMS = ["aws"]
pytestmark = pytest.mark.stand_in("quotas, fleets and scaling are made as each case needs them")


@pytest.fixture
def one(platform: Any, model: dict[str, str]) -> Any:
    """An endpoint with version 1 at 100 %."""
    endpoints = platform.endpoints
    endpoints.deploy("blue", **model, version="1", settings=SETTINGS)
    endpoints.wait_ready("blue", 60)
    endpoints.route({"blue": 100})
    return endpoints


def until(seen: Callable[[], Any], what: str) -> Any:
    ends = time.monotonic() + 20
    while not (found := seen()):
        assert time.monotonic() < ends, what
        time.sleep(0.1)
    return found


def test_counters_outlive_the_servers_that_an_update_replaces(
    one: Any, model: dict[str, str], sagemaker_service: sagemaker.SageMaker
) -> None:
    for _ in range(5):
        one.invoke(None, picture())
    before = until(lambda: (seen := one.health("blue")) and seen.requests == 5 and seen, "counted")
    sagemaker_service.endpoints.replaces = True
    try:
        one.deploy("green", **model, version="2", settings=SETTINGS)
        one.wait_ready("green", 60)
    finally:
        sagemaker_service.endpoints.replaces = False
    one.invoke(None, picture())
    after = until(lambda: (seen := one.health("blue")) and seen.requests == 6 and seen, "counted on")
    assert after.since == before.since
    assert after.after(before).requests == 1


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
    one: Any, sagemaker_service: sagemaker.SageMaker, monkeypatch: pytest.MonkeyPatch, model: dict[str, str]
) -> None:
    monkeypatch.setitem(sagemaker_service.endpoints.environment, "AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    one.deploy("green", **model, version="2", settings=SETTINGS)
    one.wait_ready("green", 60)
    assert one.invoke("green", picture())["model_version"] == "2"
    assert one.health("green") is None, "nobody counts"


def test_a_quota_is_named_and_nothing_is_left_that_could_not_be_changed(platform: Any, model: dict[str, str]) -> None:
    large = platform.endpoints.model_copy(update={"instance": "ml.p4d.24xlarge"})
    with pytest.raises(EndpointError, match=r"ml.p4d.24xlarge for endpoint usage.*Service Quotas"):
        large.deploy("blue", **model, version="1", settings=SETTINGS)
    platform.endpoints.deploy("blue", **model, version="1", settings=SETTINGS)
    assert platform.endpoints.wait_ready("blue", 60).version == "1"


@pytest.mark.long
def test_an_endpoint_that_never_worked_is_made_anew(platform: Any, model: dict[str, str]) -> None:
    endpoints = platform.endpoints
    endpoints.deploy("blue", model["onnx"], "0" * 64, version="1", settings=SETTINGS)
    with pytest.raises(EndpointError, match=r"failed to load version 1: .*sha256|digest"):
        endpoints.wait_ready("blue", 60)
    endpoints.deploy("blue", **model, version="2", settings=SETTINGS)
    assert endpoints.wait_ready("blue", 60).version == "2"


def test_a_slot_with_traffic_grows_by_itself_and_an_idle_one_does_not(
    one: Any, model: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one.hosting.most = 4
    one.deploy("green", **model, version="2", settings=SETTINGS)
    one.wait_ready("green", 60)
    one.route({"blue": 0, "green": 100})
    scaling = amazon.client("application-autoscaling")

    def scaled() -> list[str]:
        found = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
        assert all((item["MinCapacity"], item["MaxCapacity"]) == (1, 4) for item in found)
        return [item["ResourceId"] for item in found]

    assert scaled() == [f"endpoint/{one.name}/variant/green"]
    one.route({"blue": 100, "green": 0})
    assert scaled() == [f"endpoint/{one.name}/variant/blue"]
    assert one.stop()
    assert scaled() == []


@pytest.mark.long
def test_what_changes_have_left_is_deleted_after_a_while(
    platform: Any, one: Any, model: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(amazon_hosting, "OLD_S", -1.0)
    for version in ("2", "3"):
        one.deploy("green", **model, version=version, settings=SETTINGS)
        one.wait_ready("green", 60)
    client = amazon.client("sagemaker")
    held = set(one.hosting.held(client.describe_endpoint(EndpointName=one.name)["EndpointConfigName"]).values())
    models = {item["ModelName"] for item in client.list_models(NameContains=one.name)["Models"]}
    folders = {item.key.split("/")[2] for item in platform.storage.list(layout.deployment(""))}
    assert held <= models
    assert held <= folders
    assert len(models) == len(folders) == 3, "what the change before left goes with the next"
    assert len(client.list_endpoint_configs(NameContains=one.name)["EndpointConfigs"]) == 2


def test_an_endpoint_of_another_lake_is_told(one: Any, platform: Any) -> None:
    other = one.model_copy(update={"storage": Storage(root=platform.storage.root, prefix="another")})
    other._desk = None
    with pytest.raises(EndpointError, match=r"serving\.json is missing: it is of another lake"):
        other.status()

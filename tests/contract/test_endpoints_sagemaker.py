"""What only an endpoint on SageMaker has: fleets that are replaced, quotas, scaling, a lake between it and servers."""

from __future__ import annotations

from typing import Any

import pytest
from contract.test_endpoints import SETTINGS, picture
from contract.test_endpoints_managed import until
from fakes import sagemaker

from detection_assets.domain import layout
from resources import amazon, amazon_hosting
from resources.endpoints.base import EndpointError

PLATFORMS = ["aws"]
pytestmark = pytest.mark.stand_in("quotas, fleets and scaling are made as each case needs them")


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


def test_a_quota_is_named_and_nothing_is_left_that_could_not_be_changed(platform: Any, model: dict[str, str]) -> None:
    large = platform.endpoints.model_copy(update={"instance": "ml.p4d.24xlarge"})
    with pytest.raises(EndpointError, match=r"ml.p4d.24xlarge for endpoint usage.*Service Quotas"):
        large.deploy("blue", **model, version="1", settings=SETTINGS)
    platform.endpoints.deploy("blue", **model, version="1", settings=SETTINGS)
    assert platform.endpoints.wait_ready("blue", 60).version == "1"


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

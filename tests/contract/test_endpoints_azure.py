"""What only a managed online endpoint of Azure ML has: keys, quotas, a name of its own in the region, two routes."""

from __future__ import annotations

import logging
import re
import ssl
import urllib.error
import urllib.request
from typing import Any

import pytest
from contract.test_endpoints import SETTINGS, picture
from contract.test_endpoints_managed import until
from fakes import azureml
from fakes.azureml_endpoints import BODY_BYTES

from detection_assets.domain import layout
from resources.endpoints import azure
from resources.endpoints.base import EndpointError
from resources.microsoft import Workspace
from resources.microsoft_hosting import name_of

PLATFORMS = ["azure"]
pytestmark = pytest.mark.stand_in("keys, quotas and refusals are made as each case needs them")


def asked(service: azureml.AzureML, url: str, key: str, body: bytes = b"", **headers: str) -> int:
    """The status of what a caller with a key is answered."""
    given = {"Authorization": f"Bearer {key}", "Content-Type": "image/jpeg"}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, data=body or picture(), headers=given)
    trusting = ssl.create_default_context(cafile=str(service.certificate.authority))
    try:
        with urllib.request.urlopen(request, context=trusting) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_callers_have_the_key_and_nobody_else_ever_sees_it(
    one: Any, platform: Any, azureml_service: azureml.AzureML, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    endpoint = azureml_service.endpoints.all[one.name]
    first, other = endpoint.keys
    assert asked(azureml_service, one.url, first) == 200
    assert asked(azureml_service, one.url, other) == 200
    assert asked(azureml_service, one.url, "another") == 401
    assert asked(azureml_service, one.url, first, b"x" * (BODY_BYTES + 1)) == 413
    assert asked(azureml_service, one.url, first, azureml_model_deployment="red") == 404
    assert asked(azureml_service, one.url, first, b"no picture") == 424, "a refusal of the server's own"
    assert one.invoke(None, picture())["slot"] == "blue"
    endpoint.keys[:] = ["fresh", "fresher"]
    assert one.invoke(None, picture())["slot"] == "blue", "new keys are asked for"
    one.mirror("blue", 1.0)
    kept = b"".join(platform.storage.get(item.key) for item in platform.storage.list(layout.ENDPOINT))
    said = f"{caplog.text}{one.how_to_ask()}{one!r}{one.status()}"
    for key in (first, other, "fresher"):
        assert key not in said
        assert key.encode() not in kept


def test_what_azure_takes_of_nobody_is_refused(one: Any, model: dict[str, str], azureml_service: Any) -> None:
    from azure.core.exceptions import HttpResponseError

    deployments, endpoints = one.ml.client.online_deployments, one.ml.client.online_endpoints
    with pytest.raises(HttpResponseError, match="has traffic"):
        deployments.begin_delete("blue", one.name)
    for traffic, why in (({"blue": 60}, "sum to 0 or to 100"), ({"red": 100}, "no such deployment")):
        wanted = endpoints.get(one.name)
        wanted.traffic = traffic
        with pytest.raises(HttpResponseError, match=why):
            endpoints.begin_create_or_update(wanted)
    azureml_service.endpoints.takes_s = 1.0
    try:
        assert one.hosting.open({"blue": 100})
        assert not one.hosting.open({"blue": 100}), "one change at a time"
        assert not one.hosting.remove("blue")
    finally:
        azureml_service.endpoints.takes_s = 0.1
    one.settled()


def test_a_size_that_the_region_has_not_is_told(platform: Any, model: dict[str, str]) -> None:
    strange = platform.endpoints.model_copy(update={"instance": "Standard_Unknown"})
    with pytest.raises(EndpointError, match="Standard_Unknown is not supported in this region"):
        strange.deploy("blue", **model, version="1", settings=SETTINGS)


def test_a_name_that_somebody_else_has_is_told(
    platform: Any, model: dict[str, str], azureml_service: azureml.AzureML
) -> None:
    azureml_service.endpoints.taken.add(platform.endpoints.name)
    with pytest.raises(EndpointError, match="somebody else in this region has one of that name; delete it, or call"):
        platform.endpoints.deploy("blue", **model, version="1", settings=SETTINGS)


@pytest.mark.parametrize("detector", ["fridge", "a", "a_detector_with_a_name_of_many_words_in_it", "Ünïcode"])
def test_names_are_azures_and_no_other_workspaces(detector: str) -> None:
    names = {name_of(Workspace("one", "group", workspace), detector) for workspace in ("a", "b")}
    assert len(names) == 2
    for name in names:
        assert re.fullmatch(r"[a-z][a-z0-9-]{1,30}[a-z0-9]", name), name


def test_a_quota_is_named_and_another_size_helps(platform: Any, model: dict[str, str]) -> None:
    large = platform.endpoints.model_copy(update={"instance": "Standard_NC24ads_A100_v4"})
    large.deploy("blue", **model, version="1", settings=SETTINGS)
    why = "OutOfQuota: .*ask for more cores of Standard_NC24ads_A100_v4 .* DETECTION_AZURE_ENDPOINT"
    with pytest.raises(EndpointError, match=why):
        large.wait_ready("blue", 60)
    platform.endpoints.deploy("blue", **model, version="1", settings=SETTINGS)
    assert platform.endpoints.wait_ready("blue", 60).version == "1"


def test_a_slot_with_traffic_grows_by_itself_and_no_endpoint_leaves_a_rule(
    one: Any, azureml_service: azureml.AzureML
) -> None:
    one.hosting.most = 4
    one.route({"blue": 100})
    (about,) = azureml_service.endpoints.scaling.values()
    (profile,) = about["properties"]["profiles"]
    assert profile["capacity"] == {"minimum": "1", "maximum": "4", "default": "1"}
    assert [rule["metricTrigger"]["threshold"] for rule in profile["rules"]] == [300.0, 150.0]
    assert about["properties"]["targetResourceUri"].endswith(f"/onlineEndpoints/{one.name}/deployments/blue")
    assert one.stop()
    assert not azureml_service.endpoints.scaling


def test_an_endpoint_that_goes_between_two_looks_is_gone(
    one: Any, azureml_service: azureml.AzureML, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = one.hosting.endpoint

    def last_seen() -> Any:
        seen = endpoint()
        one.ml.client.online_endpoints.begin_delete(one.name).wait()
        return seen

    with monkeypatch.context() as patch:
        patch.setattr(one.hosting, "endpoint", last_seen)
        assert not one.look().slots
    assert one.name not in azureml_service.endpoints.all
    assert one.look() is None


def test_a_server_that_dies_leaves_its_last_words(
    platform: Any, model: dict[str, str], azureml_service: azureml.AzureML, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(azureml_service.endpoints.environment, "AZUREML_MODEL_DIR", "/nowhere")
    endpoints = platform.endpoints
    endpoints.deploy("blue", **model, version="1", settings=SETTINGS)
    with pytest.raises(EndpointError, match=r"version 1: ResourceNotReady: .*/nowhere: no such file or folder"):
        endpoints.wait_ready("blue", 60)
    endpoints._hosting = None
    (slot,) = endpoints.status().slots
    assert slot.state == "failed"
    assert "/nowhere: no such file or folder" in slot.error, "also to somebody who did not ask for it"


@pytest.mark.long
def test_servers_that_mirror_take_new_keys(one: Any, model: dict[str, str], azureml_service: azureml.AzureML) -> None:
    one.deploy("green", **model, version="2", settings=SETTINGS)
    one.wait_ready("green", 60)
    one.mirror("green", 1.0)

    def compared() -> int:
        one.invoke(None, picture())
        seen = one.health("green")
        return seen.compared if seen else 0

    until(compared, "compared")
    azureml_service.endpoints.all[one.name].keys[:] = ["fresh", "fresher"]
    before = compared()
    until(lambda: compared() > before + 5, "compared on")


@pytest.mark.long
def test_a_request_that_lasts_too_long_is_ended(platform: Any, model: dict[str, str]) -> None:
    hasty = platform.endpoints.model_copy(update={"timeout_s": 0.001})
    hasty.deploy("blue", **model, version="1", settings=SETTINGS)
    hasty.wait_ready("blue", 60)
    with pytest.raises(EndpointError, match="answered 408"):
        hasty.invoke("blue", picture())


@pytest.mark.long
def test_azures_own_server_answers_by_the_entry_script(platform: Any, model: dict[str, str]) -> None:
    scripted = platform.endpoints.model_copy(update={"script": True})
    for slot, version in (("blue", "1"), ("green", "2")):
        scripted.deploy(slot, **model, version=version, settings=SETTINGS)
        scripted.wait_ready(slot, 60)
    scripted.route({"blue": 0, "green": 100})
    answer = scripted.invoke(None, picture())
    assert (answer["slot"], answer["model_version"]) == ("green", "2")
    with pytest.raises(EndpointError, match=r"answered 4\d\d: .*not a picture|answered 4"):
        scripted.invoke("blue", b"no picture")
    assert scripted.health("green") is None, "nobody counts"


@pytest.mark.long
def test_who_is_killed_while_it_wakes_an_endpoint_finds_it_and_goes_on(
    one: Any, model: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one.deploy("green", **model, version="2", settings=SETTINGS)
    one.wait_ready("green", 60)
    one.route({"blue": 70, "green": 30})
    assert one.stop()
    deploy = one.hosting.deploy

    def killed_at_green(slot: str, *more: Any) -> bool:
        if slot == "green":
            raise KeyboardInterrupt
        return deploy(slot, *more)

    with monkeypatch.context() as patch:
        patch.setattr(one.hosting, "deploy", killed_at_green)
        with pytest.raises(KeyboardInterrupt):
            one.wake()
    one.wake()
    assert {slot.name: (slot.traffic, slot.state) for slot in one.status().slots} == {
        "blue": (70, "ready"),
        "green": (30, "ready"),
    }


@pytest.mark.long
def test_models_that_nobody_uses_are_deleted_after_a_while(
    one: Any, platform: Any, model: dict[str, str], monkeypatch: pytest.MonkeyPatch, azureml_service: azureml.AzureML
) -> None:
    def models() -> set[str]:
        return {name for kind, name, _ in azureml_service.assets.there if kind == "models"}

    def folders() -> set[str]:
        return {item.key.split("/")[2] for item in platform.storage.list(layout.deployment(""))}

    others = models() - folders()
    monkeypatch.setattr(azure, "OLD_S", -1.0)
    for version in ("2", "3"):
        one.deploy("green", **model, version=version, settings=SETTINGS)
        one.wait_ready("green", 60)
    held = {slot.deployment for slot in one.look().slots.values()}
    assert held <= models()
    assert held <= folders()
    assert models() - others == folders()
    assert len(folders()) == 3, "what the change before left goes with the next"

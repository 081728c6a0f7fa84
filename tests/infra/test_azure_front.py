"""The front of an endpoint on Azure, as far as its template can be read without Bicep's compiler."""

from __future__ import annotations

import json
import re
from typing import Any

import bicep
import pytest
from defusedxml import ElementTree


def policy(name: str, **values: str) -> Any:
    """A policy as API Management is given it."""
    text = bicep.properties("front", name)["value"]
    token = values.get("issuer", "")
    asks = bicep.parsed("front")["variables"]["asksForAToken"]["value"]
    text = text.replace("${byToken ? asksForAToken : ''}", asks if token else "")
    for key, value in values.items():
        text = text.replace(f"${{{key}}}", value)
    assert "${" not in text
    return ElementTree.fromstring(text)


def test_every_name_that_is_used_is_one_that_is_there() -> None:
    assert bicep.unknown("front") == set()


def test_every_parameter_is_explained_and_used() -> None:
    for name, parameter in bicep.parsed("front")["parameters"].items():
        assert any("description" in str(decorator) for decorator in parameter["decorators"]), name
        assert len(re.findall(rf"\b{name}\b", bicep.text("front"))) > 1, name


def test_the_key_is_the_vaults_and_nobody_elses() -> None:
    assert bicep.rights("front") == {"gatewayOpensTheKey": ("key", "secretsUser", "gateway")}
    named = bicep.properties("front", "endpointKey")
    assert named["secret"] is True
    assert "value" not in named, "it is read from the vault"
    assert bicep.config("front", "endpointKey")["dependsOn"] == ["gatewayOpensTheKey"]
    assert list(bicep.parsed("front")["outputs"]) == ["Url"]


@pytest.mark.parametrize("issuer", ["", "https://issuer.example.org/.well-known/openid-configuration"])
def test_every_caller_is_known(issuer: str) -> None:
    for kind in ("apis", "products"):
        found = [one for one in bicep.of_kind("front", kind).values() if "properties" in one]
        assert [one["properties"]["subscriptionRequired"] for one in found] == [True], kind
    assert len(bicep.of_kind("front", "operations")) == 1, "there is no way past the one that asks who it is"
    inbound = policy("policy", issuer=issuer, audience="detection").find("inbound")
    tokens = inbound.findall("validate-jwt")
    assert [one.find("openid-config").get("url") for one in tokens] == ([issuer] if issuer else [])
    assert [one.text for token in tokens for one in token.iter("audience")] == (["detection"] if issuer else [])


def test_the_endpoint_is_asked_with_its_key_and_not_with_the_callers() -> None:
    inbound = policy("policy").find("inbound")
    headers = {one.get("name"): (one.get("exists-action"), one.findtext("value")) for one in inbound.iter("set-header")}
    assert headers == {
        "Authorization": ("override", "Bearer {{endpoint-key}}"),
        "Ocp-Apim-Subscription-Key": ("delete", None),
        "azureml-model-deployment": ("delete", None),  # which slot answers is for the traffic to say
    }
    assert next(one.tag for one in inbound) == "base"


def test_callers_are_slowed_and_written_down_but_their_pictures_are_not() -> None:
    (limit,) = policy("callersAreSlowed", requests="100").iter("rate-limit")
    assert limit.attrib == {"calls": "100", "renewal-period": "10"}
    about = bicep.properties("front", "written")
    assert [about["frontend"][way]["body"]["bytes"] for way in ("request", "response")] == [0, 0]
    (alert,) = bicep.of_kind("front", "metricAlerts").values()
    assert "actionGroup" in json.dumps(alert["properties"]["actions"])


def test_what_it_builds_on_has_the_names_that_the_first_template_gives() -> None:
    for kind in ("vaults", "components"):
        (ours,), (theirs,) = (bicep.of_kind(name, kind).values() for name in ("front", "template"))
        assert ours["name"] == theirs["name"]

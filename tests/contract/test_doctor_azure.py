"""What the doctor sees of a workspace, and what it says is to be done."""

from __future__ import annotations

from typing import Any

import pytest
from contract.test_doctor import found
from fakes import azureml, blob
from project import free_port

from resources import microsoft

PLATFORMS = ["azure"]


def test_a_workspace_that_can_work_is_good(platform: Any) -> None:
    findings = found(platform.compute.model_copy(update={"spot": "spot"}))
    assert {finding.state for finding in findings.values()} == {"good"}
    assert list(findings) == ["workspace", "datastore", "cluster cpu", "cluster gpu", "cluster spot"]
    assert findings["cluster spot"].told == "Standard_NC4as_T4_v3, LowPriority, 2 at most"


def test_a_datastore_of_another_container_is_not_the_lakes(
    platform: Any, azureml_service: azureml.AzureML, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(azureml_service.datastores, "others", "another")
    wrong = found(platform.compute.model_copy(update={"datastore": "others"}))["datastore"]
    assert (wrong.state, wrong.told) == ("bad", f"others: container another of the account {blob.ACCOUNT}")
    assert wrong.remedy == f"set DETECTION_AZURE_DATASTORE to one of the container lake of the account {blob.ACCOUNT}"
    missing = found(platform.compute.model_copy(update={"datastore": "none"}))["datastore"]
    assert missing.state == "bad"
    assert f"the account {blob.ACCOUNT} and the container lake" in missing.remedy


def test_clusters_that_are_missing_or_get_no_machines_say_so(
    platform: Any, azureml_service: azureml.AzureML, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(platform.compute.model_copy(update={"gpu": "none"}))["cluster none"].remedy == (
        "make it, or correct DETECTION_AZURE_GPU"
    )
    monkeypatch.setitem(azureml_service.clusters["gpu"].errors, "ClusterCoreQuotaReached", "no cores are left")
    short = found(platform.compute)["cluster gpu"]
    assert short.state == "bad"
    assert "ask for more cores of Standard_NC4as_T4_v3" in short.told


def test_clusters_that_have_too_few_machines_to_train_together_say_so(platform: Any) -> None:
    findings = found(platform.compute.model_copy(update={"count": 3, "spot": "spot"}))
    assert {name for name, finding in findings.items() if finding.state == "bad"} == {"cluster spot"}
    assert findings["cluster spot"].told == "has 2 machines at most, of 3 that train together"
    assert "DETECTION_AZURE_TRAINING_INSTANCES" in findings["cluster spot"].remedy


def test_whoever_may_not_or_is_nobody_is_told_what_helps(
    platform: Any, azureml_service: azureml.AzureML, monkeypatch: pytest.MonkeyPatch
) -> None:
    (nowhere,) = platform.compute.model_copy(update={"workspace": "other"}).check()
    assert (nowhere.what, nowhere.state) == ("workspace", "bad")
    assert "DETECTION_AZURE_WORKSPACE" in nowhere.remedy
    monkeypatch.setattr(azureml_service, "denied", {"GET workspace"})
    (denied,) = platform.compute.check()
    assert "AzureML Data Scientist" in denied.remedy
    monkeypatch.setenv("MSI_SECRET", "another")
    (nobody,) = platform.compute.check()
    assert (nobody.what, nobody.state) == ("credentials", "bad")
    assert "az login" in nobody.remedy


def test_an_azure_that_does_not_answer_is_said_within_a_minute(
    platform: Any, azureml_service: azureml.AzureML, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(microsoft, "RETRIES", 1)
    nobody = f"https://127.0.0.1:{free_port()}"
    cloud = {**azureml_service._cloud()[0], "resourceManager": nobody, "name": "Gone"}
    monkeypatch.setattr(azureml_service, "_cloud", lambda: [cloud])
    monkeypatch.setenv("AZUREML_CURRENT_CLOUD", "Gone")
    (silent,) = platform.compute.check()
    assert (silent.what, silent.state) == ("workspace", "bad")
    assert silent.remedy == "Azure does not answer; correct the network, and run again"


def test_what_the_endpoint_needs_is_looked_at(platform: Any, azureml_service: azureml.AzureML) -> None:
    findings = found(platform.endpoints)
    assert {name: finding.state for name, finding in findings.items()} == {
        "identity of servers": "good",
        "machines of servers": "good",
    }
    assert findings["machines of servers"].told.startswith("Standard_F4s_v2: 2 while a version comes in, 8 cores")
    wrong = platform.endpoints.model_copy(update={"identity": "servers", "instance": "Standard_Unknown"})
    findings = found(wrong)
    assert "DETECTION_AZURE_ENDPOINT_IDENTITY" in findings["identity of servers"].remedy
    assert findings["machines of servers"].remedy == "correct DETECTION_AZURE_ENDPOINT"
    none = platform.endpoints.model_copy(update={"identity": f"{platform.endpoints.identity}-none"})
    assert found(none)["identity of servers"].state == "bad"
    azureml_service.denied = {"GET identities", "GET vmSizes"}
    try:
        assert {finding.state for finding in found(platform.endpoints).values()} == {"unknown"}
    finally:
        azureml_service.denied = set()

"""`detection tune` on Azure as it is used: interrupted, gone on with, learnt from. Real trainings, of seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e.test_aws import project
from e2e.test_aws_tuning import interrupted_and_gone_on_with, prepare
from fakes import azureml, blob, certificates

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]


def test_a_tuning_that_is_interrupted_goes_on(
    tmp_path: Path,
    blob_server: str,
    certificate: certificates.Certificate,
    azureml_service: azureml.AzureML,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = azureml_service
    service.jobs.all.clear()
    service.sweeps.all.clear()
    env = {
        **project(tmp_path / "home"),
        **blob.environment(blob_server, certificate),
        **service.settings,
        "DETECTION_PLATFORM": "azure",
        "DETECTION_LAKE": f"az://{blob.CONTAINER}/{tmp_path.name}",
        "DETECTION_POLL_S": "0.3",
    }
    prepare(env, tmp_path / "home")

    def searches() -> bool:
        return any(trial.status == "Running" for sweep in list(service.sweeps.all.values()) for trial in sweep.trials)

    interrupted_and_gone_on_with(env, searches, monkeypatch)
    assert {sweep.status for sweep in service.sweeps.all.values()} == {"Canceled", "Completed"}
    *_, last = service.sweeps.all.values()
    assert service.sweeps.get(last.name)["properties"]["properties"]["best_child_run_id"], "it read what was logged"

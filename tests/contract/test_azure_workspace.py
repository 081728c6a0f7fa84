"""The stand-in of Azure ML, asked by the SDK as it is: it keeps what it is told, and refuses what Azure ML refuses."""

from __future__ import annotations

import time
from typing import Any

import pytest
from fakes import azureml, blob

PLATFORMS = ["azure"]


@pytest.fixture
def ml(platform: Any) -> Any:
    return platform.compute.ml.client


def job(**changes: Any) -> Any:
    from azure.ai.ml import command
    from azure.ai.ml.entities import Environment

    asked = {"name": f"job-{time.time_ns()}", "command": "echo done", "compute": "cpu"}
    return command(**{**asked, "environment": Environment(image=azureml.IMAGE), **changes})


def ended(ml: Any, name: str) -> Any:
    ends = time.monotonic() + 60
    while (found := ml.jobs.get(name)).status not in ("Completed", "Failed", "Canceled"):
        assert time.monotonic() < ends
        time.sleep(0.1)
    return found


def test_a_command_runs_with_its_folders_and_its_outputs_are_uploaded(platform: Any, ml: Any) -> None:
    from azure.ai.ml import Input, Output

    platform.storage.put("given/a.txt", b"seen ")
    lake = platform.storage.uri.removeprefix(f"az://{blob.CONTAINER}/")
    place = f"azureml://datastores/{azureml.DATASTORE}/paths/{lake}"
    made = ml.jobs.create_or_update(
        job(
            command="(cat ${{inputs.given}}/a.txt; echo $WORD ${{inputs.times}}) > ${{outputs.made}}/b.txt",
            inputs={"given": Input(type="uri_folder", path=f"{place}/given/"), "times": 3},
            outputs={"made": Output(type="uri_folder", path=f"{place}/made/", mode="rw_mount")},
            environment_variables={"WORD": "word"},
        )
    )
    assert ended(ml, made.name).status == "Completed"
    assert platform.storage.get("made/b.txt") == b"seen word 3\n"


def test_a_command_that_lasts_too_long_is_cancelled(ml: Any) -> None:
    made = ml.jobs.create_or_update(job(command="sleep 60", timeout=1))
    assert ended(ml, made.name).status == "Canceled"


def test_a_command_that_fails_is_failed(platform: Any, ml: Any) -> None:
    made = ml.jobs.create_or_update(job(command="echo no; exit 3"))
    assert ended(ml, made.name).status == "Failed"
    told = platform.compute.ml.run(made.name)
    assert "exited with status code 3" in told["error"]["error"]["message"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"name": "a name"}, "is no name of a job"),
        ({"compute": "none"}, "Unknown compute target"),
        ({"environment": "azureml:none:1"}, "could not be found"),
        ({"instance_count": 3, "distribution": {"type": "pytorch"}}, "the cluster has 2 nodes at most"),
        ({"outputs": {"x": "azureml://datastores/none/paths/x"}}, "Could not find datastore 'none'"),
    ],
)
def test_what_no_workspace_takes_is_refused(ml: Any, changes: dict[str, Any], why: str) -> None:
    from azure.ai.ml import Output
    from azure.core.exceptions import HttpResponseError

    if "outputs" in changes:
        changes = {"outputs": {name: Output(type="uri_folder", path=uri) for name, uri in changes["outputs"].items()}}
    with pytest.raises(HttpResponseError, match=why):
        ml.jobs.create_or_update(job(**changes))


def test_machines_are_told_of_each_other_and_one_that_fails_ends_all(platform: Any, ml: Any) -> None:
    from azure.ai.ml import PyTorchDistribution

    together = {"instance_count": 2, "distribution": PyTorchDistribution(process_count_per_instance=1)}
    names = "$RANK of $WORLD_SIZE at $MASTER_ADDR on node $NODE_RANK as $LOCAL_RANK"
    made = ml.jobs.create_or_update(job(command=f"echo {names}", **together))
    assert ended(ml, made.name).status == "Completed"
    lines, _ = platform.compute.printed(made.name, several=True)
    assert lines == [f"instance {rank}: {rank} of 2 at 127.0.0.1 on node {rank} as 0" for rank in range(2)]
    made = ml.jobs.create_or_update(job(command="test $RANK = 0 && sleep 60 || exit 3", **together))
    assert ended(ml, made.name).status == "Failed"
    assert "std_log_process_1.txt" in platform.compute.ml.run(made.name)["error"]["error"]["message"]


def test_a_run_takes_what_its_own_job_logs(platform: Any, ml: Any) -> None:
    log = "from detection_assets.figures import Figures; f = Figures('m'); f.begin({'a': '1'}); f.tell(0.5)"
    made = ml.jobs.create_or_update(job(command=f'python -c "{log}"'))
    assert ended(ml, made.name).status == "Completed"
    told = platform.compute.ml.mlflow_run(made.name)
    assert [(metric["key"], metric["value"], metric["step"]) for metric in told["metrics"]] == [("m", 0.5, 1)]
    assert told["params"] == [{"key": "a", "value": "1"}]
    other = ml.jobs.create_or_update(job(command=f'MLFLOW_RUN_ID={made.name} python -c "{log}"'))
    ended(ml, other.name)
    assert len(platform.compute.ml.mlflow_run(made.name)["metrics"]) == 1, "the token is of one run alone"


def test_a_name_means_one_job(ml: Any) -> None:
    from azure.core.exceptions import HttpResponseError

    asked = job(command="sleep 0.1")
    assert ml.jobs.create_or_update(asked).name == asked.name
    assert ml.jobs.create_or_update(job(name=asked.name, command="sleep 0.1")).name == asked.name
    with pytest.raises(HttpResponseError, match="the existing job's command cannot be changed"):
        ml.jobs.create_or_update(job(name=asked.name, command="sleep 0.2"))
    ended(ml, asked.name)
    with pytest.raises(HttpResponseError, match="in the terminal state Completed"):
        ml.jobs.begin_cancel(asked.name)


def test_a_version_of_data_means_one_place(platform: Any, ml: Any) -> None:
    from azure.ai.ml.entities import Data
    from azure.core.exceptions import HttpResponseError

    def data(path: str) -> Any:
        return Data(name="dataset", version="ds-1", type="uri_folder", path=f"azureml://datastores/lake/paths/{path}/")

    assert ml.data.create_or_update(data("a")).version == "ds-1"
    assert ml.data.get("dataset", "ds-1").path.endswith("/a/")
    with pytest.raises(HttpResponseError, match=r"already exists.*data uri cannot be changed"):
        ml.data.create_or_update(data("b"))


def test_nobody_gets_in_without_a_token(azureml_service: azureml.AzureML) -> None:
    import ssl
    import urllib.error
    import urllib.request

    trusting = ssl.create_default_context(cafile=str(azureml_service.certificate.authority))
    for headers in ({}, {"Authorization": "Bearer made.up.token"}):
        request = urllib.request.Request(f"{azureml_service.url}{azureml.ROOT}?api-version=1", headers=headers)
        with pytest.raises(urllib.error.HTTPError) as raised:
            urllib.request.urlopen(request, context=trusting)
        raised.value.close()
        assert raised.value.code == 401

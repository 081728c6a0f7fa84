import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from fakes import azureml
from fakes.azureml_mlflow import begun
from fakes.s3 import Between

from resources import microsoft_tracking
from resources.storage import LakeError
from resources.tracking import Tracking

PLATFORMS = ["local", "aws", "azure"]
ARN = "arn:aws:sagemaker:eu-central-1:123456789012:mlflow-tracking-server/detection"
TAGS = {"detector": "tiny", "weights_version": "w1"}


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Iterator[str]:
    """The address of an MLflow server."""
    folder = tmp_path_factory.mktemp("mlflow-server")
    shutil.copyfile(empty_mlflow, folder / "mlflow.db")
    url, server = begun(folder)
    yield url
    server.terminate()
    server.wait(timeout=30)


@pytest.fixture
def aws_settings(aws_settings: None, mlflow_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Between]:
    """A server of SageMaker's is named by its ARN, and wants requests signed."""
    import mlflow

    between = Between()
    with between.open(mlflow_server) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", ARN)
        mlflow.set_tracking_uri(ARN)  # the plugin asks for the process's own, which the case before has set
        monkeypatch.setenv("SAGEMAKER_MLFLOW_CUSTOM_ENDPOINT", url)
        yield between
        assert all(asked.headers["Authorization"].startswith("AWS4-HMAC-SHA256 ") for asked in between.seen)
        forget(mlflow_server)


@pytest.fixture
def azure_settings(
    azure_settings: None, azureml_service: azureml.AzureML, mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A workspace has an MLflow of its own, which wants a token with each request."""
    monkeypatch.setattr(azureml_service.mlflow, "url", mlflow_server)
    monkeypatch.setenv("MLFLOW_TRACKING_AUTH", "")  # so that what is set is taken back
    monkeypatch.delenv("MLFLOW_TRACKING_AUTH")
    asked = azureml_service.mlflow.asked
    yield
    assert azureml_service.mlflow.asked > asked
    forget(mlflow_server)


def forget(mlflow_server: str) -> None:
    """Leaves the next case an experiment of its own, and a process that knows no server."""
    import mlflow

    auth = os.environ.pop("MLFLOW_TRACKING_AUTH", None)
    client = mlflow.MlflowClient(mlflow_server)
    for experiment in client.search_experiments(filter_string="name = 'tiny'"):
        client.rename_experiment(experiment.experiment_id, uuid.uuid4().hex)
    mlflow.set_tracking_uri(None)
    if auth is not None:
        os.environ["MLFLOW_TRACKING_AUTH"] = auth


def track(platform: Any, body: Any) -> None:
    @dg.asset
    def trained(context: dg.AssetExecutionContext) -> None:
        with platform.tracking.run(context, TAGS) as run:
            body(run)

    dg.materialize([trained])


def test_what_is_logged_is_found_and_the_run_has_ended(platform: Any) -> None:
    def body(run: Any) -> None:
        run.log_params({"epochs": 3})
        run.log_metrics({"metrics/mAP50(B)": 0.5, "nan": float("nan")}, step=1)
        run.log_metrics({"metrics/mAP50(B)": 0.75}, step=2)

    track(platform, body)
    (found,) = platform.tracking.find(TAGS)
    assert found.info.status == "FINISHED"
    assert found.data.params["epochs"] == "3"
    assert found.data.metrics == {"metrics/mAP50_B_": 0.75}
    assert found.data.tags["dagster_run_id"]


@pytest.mark.parametrize(("error", "status"), [(RuntimeError("x"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_a_run_always_ends(platform: Any, error: BaseException, status: str) -> None:
    def body(run: Any) -> None:
        run.log_metrics({"a": 1.0})
        raise error

    with pytest.raises(BaseException):  # noqa: B017, PT011 - Dagster wraps an interrupt in its own way
        track(platform, body)
    assert len(platform.tracking.find(TAGS, status)) == 1
    assert platform.tracking.find(TAGS, "RUNNING") == []


def raise_family(platform: Any, body: Any) -> None:
    @dg.asset
    def tuned(context: dg.AssetExecutionContext) -> None:
        with platform.tracking.family(context, {"detector": "tiny", "tuning_version": "t1"}) as family:
            body(family)

    dg.materialize([tuned])


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt()], ids=["failed", "interrupted"])
def test_a_family_is_gone_on_with(platform: Any, error: BaseException) -> None:
    def first(family: Any) -> None:
        family.child("a", {"lr0": 0.1})
        family.log("a", "score", {1: 0.1, 2: 0.2})
        family.end_child("a", "FINISHED", {"state": "complete"})
        family.child("b", {"lr0": 0.2})
        family.log("b", "score", {1: 0.3})
        raise error

    def second(family: Any) -> None:
        assert family.ended("a")
        assert not family.ended("b")
        assert not family.ended("c")
        family.child("a", {"lr0": 0.1})
        family.child("b", {"lr0": 0.2})
        family.log("b", "score", {1: 0.3, 2: 0.4})
        family.end_child("b", "KILLED", {"state": "pruned"})
        family.child("c", {"lr0": 0.3})
        family.end_child("c", "FINISHED", {"state": "complete"})
        family.log_params({"epochs": 2})

    with pytest.raises(BaseException):  # noqa: B017, PT011 - Dagster wraps an interrupt in its own way
        raise_family(platform, first)
    tags = {"tuning_version": "t1"}
    left = {run.data.tags.get("child"): run.info.status for run in platform.tracking.search(tags)}
    assert left == {None: "FAILED" if isinstance(error, RuntimeError) else "KILLED", "a": "FINISHED", "b": "KILLED"}
    raise_family(platform, second)
    found = {run.data.tags.get("child"): run for run in platform.tracking.search(tags)}
    assert len(platform.tracking.search(tags)) == 4, "nothing is there twice"
    assert {name: run.info.status for name, run in found.items()} == {
        **{None: "FINISHED", "a": "FINISHED", "b": "KILLED", "c": "FINISHED"}
    }
    for name in "abc":
        assert found[name].data.tags["mlflow.parentRunId"] == found[None].info.run_id
    history = platform.tracking.client().get_metric_history(found["b"].info.run_id, "score")
    assert [(kept.step, kept.value) for kept in history] == [(1, 0.3), (2, 0.4)]
    assert found["b"].data.params == {"lr0": "0.2"}
    assert found[None].data.params == {"epochs": "2"}


def test_a_family_of_which_nothing_is_logged_is_no_run(platform: Any) -> None:
    raise_family(platform, lambda family: None)
    assert platform.tracking.search({"tuning_version": "t1"}) == []


def test_nothing_logged_is_no_run(platform: Any) -> None:
    track(platform, lambda run: None)
    assert platform.tracking.find(TAGS) == []


def test_a_run_that_a_dead_process_left_open_is_closed_by_the_next(platform: Any) -> None:
    client = platform.tracking.client()
    left = client.create_run(platform.tracking.experiment_id(), tags=TAGS)
    track(platform, lambda run: run.log_metrics({"a": 1.0}))
    assert client.get_run(left.info.run_id).info.status == "KILLED"
    assert len(platform.tracking.find(TAGS)) == 1


@pytest.mark.parametrize(
    ("uri", "server", "login"),
    [
        ("https://ada:p%40ss@mlflow.example.org:8443/base", "https://mlflow.example.org:8443/base", ("ada", "p@ss")),
        ("http://ada@127.0.0.1:5000", "http://127.0.0.1:5000", ("ada", "")),
        ("https://mlflow.example.org", "https://mlflow.example.org", None),
        ("sqlite:////home/ada/mlflow.db", "sqlite:////home/ada/mlflow.db", None),
        ("arn:aws:sagemaker:eu:1:mlflow-tracking-server/a", "arn:aws:sagemaker:eu:1:mlflow-tracking-server/a", None),
    ],
)  # fmt: skip
def test_mlflow_is_not_told_a_password_in_an_address_that_it_prints(
    uri: str, server: str, login: tuple[str, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    for name in names:
        monkeypatch.setenv(name, "")  # so that what is set is taken back
        monkeypatch.delenv(name)
    assert Tracking(uri=uri, experiment="tiny").server == server
    assert tuple(os.environ.get(name) for name in names) == (login or (None, None))


WORKSPACE = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"


@pytest.mark.platforms("azure")
def test_a_run_of_a_workspace_is_found_in_the_studio_and_its_files_in_the_lake(platform: Any, tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    path.write_bytes(b"picture")
    seen: list[str] = []

    def body(run: Any) -> None:
        run.log_file(path)
        seen.append(run.run_id)

    track(platform, body)
    (found,) = platform.tracking.find(TAGS)
    assert found.info.artifact_uri.startswith("azureml://")
    assert platform.tracking.link(seen[0]) == f"https://ml.azure.com/runs/{seen[0]}?wsid={azureml.ROOT}"


@pytest.mark.platforms("azure")
def test_a_workspaces_token_goes_to_that_workspace_alone(platform: Any) -> None:
    import requests

    assert platform.tracking.experiment_id()
    for server, token in ((platform.tracking.server, True), ("https://mlflow.example.org", False)):
        asked = requests.Request(
            "GET", f"{server}/api/2.0/mlflow/runs/get", auth=microsoft_tracking.Tokens().get_auth()
        )
        assert ("Authorization" in asked.prepare().headers) == token


@pytest.mark.platforms("azure")
def test_a_workspace_that_does_not_say_where_its_mlflow_is(
    platform: Any, azureml_service: azureml.AzureML, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert platform.tracking.experiment_id()
    other = platform.tracking.model_copy(update={"uri": platform.tracking.uri.replace(azureml.WORKSPACE, "other")})
    with pytest.raises(LakeError, match=r"other: where is its MLflow.*DETECTION_AZURE_WORKSPACE"):
        other.client()
    monkeypatch.setattr(azureml_service, "denied", {"GET mlflow"})
    with pytest.raises(Exception, match="AuthorizationFailed"):
        platform.tracking.experiment_id()


def test_an_address_of_a_workspaces_mlflow_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_AUTH", "")  # so that what is set is taken back
    uri = f"azureml://westeurope.api.azureml.ms/mlflow/v1.0{WORKSPACE}"
    tracking = Tracking(uri=uri, experiment="tiny")
    assert tracking.server == f"https://westeurope.api.azureml.ms/mlflow/v2.0{WORKSPACE}"
    assert tracking.link("r1") == f"https://ml.azure.com/runs/r1?wsid={WORKSPACE}"
    with pytest.raises(LakeError, match="names no workspace"):
        _ = Tracking(uri="azureml://westeurope.api.azureml.ms", experiment="tiny").server
    with monkeypatch.context() as patch:
        patch.setattr(microsoft_tracking, "plugin", lambda: True)
        assert tracking.server == uri

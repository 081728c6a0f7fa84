"""Fixtures that every layer of tests shares: a project of its own in a temporary folder, and the real data."""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import azureml, blob, certificates, label_studio, s3, sagemaker
from project import ROOT, SHARED, make_home

from resources.tracking import Tracking

# What the tests train is tiny, and several train at once: a second thread costs more than it brings.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: to look through it for garbage again and again took a tenth of
    the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data; the test is skipped, plainly, where it is missing."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data at {SHARED}")
    return SHARED


@pytest.fixture(autouse=True)
def _no_storage_of_a_dead_instance() -> None:
    """Dagster keeps whose state it loads definitions with in a context variable; instances of fixtures that are closed
    out of their order leave one there that is no more, and then no test after it could load any."""
    module = sys.modules.get("dagster._core.storage.defs_state.base")
    storage = module.DefsStateStorage.get() if module else None
    if storage is not None and (storage._instance_weakref is None or storage._instance_weakref() is None):
        module._current_storage.set(None)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with no detector, which everything that is run from here on takes for its own."""
    return make_home(tmp_path / "home", monkeypatch.setenv)


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MLflow database with its tables and nothing in them: making one takes seconds, copying it none."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    Tracking(uri=f"sqlite:///{path}", experiment="tiny").client().search_experiments()
    return path


@pytest.fixture(scope="session")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with best.onnx, best.pt, pictures/ and reference.json; built once, also for parallel workers."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    out = shared / "small-detector"
    with (shared / "small-detector.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (out / "reference.json").exists():
            script = ROOT / "tests" / "serving" / "small_detector.py"
            done = subprocess.run([sys.executable, str(script), str(out)], capture_output=True, text=True, cwd=shared)
            assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A real browser that goes nowhere by itself."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no chromium on this machine; pages must be tested in CI: install it")
        pytest.skip("no chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        running = playwright.chromium.launch(executable_path=path, args=arguments)
        yield running
        running.close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 with one bucket."""
    with s3.moto_server() as url:
        yield url


@pytest.fixture
def s3_lake(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of an empty lake in it, for a process whose environment says how to get there."""
    for name, value in s3.environment(s3_server).items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3.BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture
def between(s3_server: str, s3_lake: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3.Between]:
    """Somebody between this test and S3, who lets through what he is not told to answer."""
    one = s3.Between()
    with one.open(s3_server) as url:
        for name, value in s3.environment(url).items():
            monkeypatch.setenv(name, value)
        yield one


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> certificates.Certificate:
    """What servers of this machine say who they are with."""
    return certificates.make(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="session")
def blob_server(tmp_path_factory: pytest.TempPathFactory, certificate: certificates.Certificate) -> Iterator[str]:
    """The address of a Blob storage with one account and one container."""
    with blob.azurite(tmp_path_factory.mktemp("azurite"), certificate) as url:
        yield url


@pytest.fixture(scope="session")
def queue_server(tmp_path_factory: pytest.TempPathFactory, certificate: certificates.Certificate) -> Iterator[str]:
    """The address of the queues of that account."""
    with blob.queues(tmp_path_factory.mktemp("queues"), certificate) as url:
        yield url


@pytest.fixture
def blob_lake(blob_server: str, certificate: certificates.Certificate, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of an empty lake in it, for a process whose environment says how to get there."""
    for name, value in blob.environment(blob_server, certificate).items():
        monkeypatch.setenv(name, value)
    return f"az://{blob.CONTAINER}/{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def sagemaker_service(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[sagemaker.SageMaker]:
    """A SageMaker whose lake is that S3."""
    service = sagemaker.SageMaker(tmp_path_factory.mktemp("sagemaker"), s3_server)
    with service.serve():
        yield service


@pytest.fixture
def aws_settings(
    sagemaker_service: sagemaker.SageMaker, s3_lake: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """What a filled `.env` says, in an account that has no models yet."""
    sagemaker_service.account = f"{uuid.uuid4().int % 10**12:012d}"
    for name, value in {
        **sagemaker_service.settings,
        "DETECTION_LAKE": s3_lake,
        "DETECTION_POLL_S": "0.2",
        "DETECTION_REPORT_S": "0.2",
    }.items():
        monkeypatch.setenv(name, value)
    yield
    sagemaker_service.endpoints.clear()


@pytest.fixture(scope="session")
def azureml_service(
    blob_server: str,
    certificate: certificates.Certificate,
    empty_mlflow: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[azureml.AzureML]:
    """An Azure ML whose lake is that Blob storage."""
    service = azureml.AzureML(tmp_path_factory.mktemp("azureml"), blob_server, certificate)
    service.mlflow.empty = empty_mlflow
    with service.serve():
        yield service


@pytest.fixture
def azure_settings(azureml_service: azureml.AzureML, blob_lake: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a filled `.env` says, of a workspace that has no models and no data yet."""
    azureml_service.assets.there.clear()
    for name, value in {
        **azureml_service.settings,
        "DETECTION_LAKE": blob_lake,
        "DETECTION_POLL_S": "0.2",
        "DETECTION_REPORT_S": "0.2",
    }.items():
        monkeypatch.setenv(name, value)
    yield
    azureml_service.endpoints.clear()


@pytest.fixture(scope="session")
def label_studio_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[label_studio.LabelStudio]:
    """A real server of Label Studio, with people and no projects."""
    with label_studio.serving(tmp_path_factory.mktemp("label-studio")) as server:
        yield server

"""The platforms that every contract is held against. A backend that joins a file's `PLATFORMS` runs all its cases."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from fakes import s3, sagemaker
from project import give_mlflow

from resources import profiles

PLATFORMS = ["local"]
"""For the files that say nothing else."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "platform" in metafunc.fixturenames:
        metafunc.parametrize("platform", getattr(metafunc.module, "PLATFORMS", PLATFORMS), indirect=True)


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


@pytest.fixture(scope="session")
def sagemaker_service(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[sagemaker.SageMaker]:
    """A SageMaker whose lake is that S3."""
    service = sagemaker.SageMaker(tmp_path_factory.mktemp("sagemaker"), s3_server)
    with service.serve():
        yield service


@pytest.fixture
def aws_settings(sagemaker_service: sagemaker.SageMaker, s3_lake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a filled `.env` says."""
    for name, value in {**sagemaker_service.settings, "DETECTION_LAKE": s3_lake, "DETECTION_POLL_S": "0.2"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def platform(request: pytest.FixtureRequest, home: Path, empty_mlflow: Path) -> Iterator[Any]:
    """A platform's matching set of resources, opened, by attribute."""
    give_mlflow(home, empty_mlflow)
    if request.param == "aws":
        request.getfixturevalue("aws_settings")
    made = profiles.PROFILES[request.param]("tiny", host="127.0.0.1", port=0)
    with dg.build_resources(made) as opened:
        yield opened
        if hasattr(opened.endpoints, "stop"):
            opened.endpoints.stop()

"""The platforms that every contract is held against. A backend that joins a file's `PLATFORMS` runs all its cases.

What runs on `aws`, a stand-in, runs in a real account as well where one is asked for (`-m cloud`). Not so what asks for
the stand-in itself by one of its fixtures, or is marked `stand_in`, with the reason.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from contract import an_account
from fakes import cvat
from project import give_mlflow

from resources import profiles

PLATFORMS = ["local"]
"""For the files that say nothing else."""
ACCOUNT = "aws-account"
STAND_INS = {"sagemaker_service", "s3_server", "batch_service"}
"""Fixtures that give a test a stand-in to look into."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "platform" in metafunc.fixturenames:
        own = metafunc.definition.get_closest_marker("platforms")
        wanted = list(own.args if own else getattr(metafunc.module, "PLATFORMS", PLATFORMS))
        bound = metafunc.definition.get_closest_marker("stand_in") or STAND_INS.intersection(metafunc.fixturenames)
        if "aws" in wanted and not bound:
            wanted.append(pytest.param(ACCOUNT, marks=pytest.mark.cloud))
        metafunc.parametrize("platform", wanted, indirect=True)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Whoever asks for a real account and nothing else is told at once what it takes."""
    asked = [item.get_closest_marker("cloud") for item in session.items]
    if asked and all(asked) and not session.config.option.collectonly and (reason := an_account.wrong()):
        raise pytest.UsageError(reason)


@pytest.fixture(scope="session")
def account_lake() -> Iterator[str]:
    """The URI of a lake of this run alone, in the account that `.env` names."""
    with an_account.fresh_lake() as uri:
        yield uri


@pytest.fixture
def aws_account(account_lake: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Points the environment at that account and lake; gives the name of a detector that nobody else has."""
    an_account.surround(monkeypatch)
    monkeypatch.setenv("DETECTION_LAKE", account_lake)
    return f"tiny_{uuid.uuid4().hex[:8]}"


@pytest.fixture
def platform(request: pytest.FixtureRequest, home: Path, empty_mlflow: Path) -> Iterator[Any]:
    """A platform's matching set of resources, opened, by attribute."""
    give_mlflow(home, empty_mlflow)
    profile, detector = request.param, "tiny"
    if profile == ACCOUNT:
        profile, detector = "aws", request.getfixturevalue("aws_account")
    elif profile != "local":
        request.getfixturevalue(f"{profile}_settings")
    made = profiles.PROFILES[profile](detector, host="127.0.0.1", port=0)
    with dg.build_resources(made) as opened:
        yield opened
        if request.param == "local":
            opened.endpoints.stop()
        if request.param == ACCOUNT:
            an_account.clear(opened)


@pytest.fixture(scope="session")
def cvat_server() -> Iterator[cvat.Cvat]:
    """A CVAT without tasks."""
    server = cvat.Cvat()
    with server.serve():
        yield server


@pytest.fixture(scope="session")
def onnx(detector: Path) -> bytes:
    """A model that serves."""
    return (detector / "best.onnx").read_bytes()


@pytest.fixture
def model(platform: Any, onnx: bytes) -> dict[str, str]:
    """The model in the platform's lake, as an endpoint is told of it."""
    platform.storage.put("weights/w1/best.onnx", onnx)
    return {"onnx": "weights/w1/best.onnx", "sha256": hashlib.sha256(onnx).hexdigest()}


@pytest.fixture
def one(platform: Any, model: dict[str, str]) -> Any:
    """An endpoint with version 1 at 100 %."""
    endpoints = platform.endpoints
    settings = {"confidence": 0.25, "iou": 0.7, "max_det": 300}
    endpoints.deploy("blue", **model, version="1", settings=settings)
    endpoints.wait_ready("blue", 60)
    endpoints.route({"blue": 100})
    return endpoints

"""The platforms that every contract is held against. A backend that joins a file's `PLATFORMS` runs all its cases."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from project import give_mlflow

from resources import profiles

PLATFORMS = ["local"]
"""For the files that say nothing else."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "platform" in metafunc.fixturenames:
        own = metafunc.definition.get_closest_marker("platforms")
        wanted = own.args if own else getattr(metafunc.module, "PLATFORMS", PLATFORMS)
        metafunc.parametrize("platform", wanted, indirect=True)


@pytest.fixture
def platform(request: pytest.FixtureRequest, home: Path, empty_mlflow: Path) -> Iterator[Any]:
    """A platform's matching set of resources, opened, by attribute."""
    give_mlflow(home, empty_mlflow)
    if request.param != "local":
        request.getfixturevalue(f"{request.param}_settings")
    made = profiles.PROFILES[request.param]("tiny", host="127.0.0.1", port=0)
    with dg.build_resources(made) as opened:
        yield opened
        if request.param == "local":
            opened.endpoints.stop()


@pytest.fixture(scope="session")
def onnx(detector: Path) -> bytes:
    """A model that serves."""
    return (detector / "best.onnx").read_bytes()


@pytest.fixture
def model(platform: Any, onnx: bytes) -> dict[str, str]:
    """The model in the platform's lake, as an endpoint is told of it."""
    platform.storage.put("weights/w1/best.onnx", onnx)
    return {"onnx": "weights/w1/best.onnx", "sha256": hashlib.sha256(onnx).hexdigest()}

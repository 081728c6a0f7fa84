"""A small detector and a real server around it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Helpers beside the tests, whatever import mode pytest runs in.
sys.path.insert(0, str(Path(__file__).parent))
from served import Server, spec


@pytest.fixture(scope="session")
def server(detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one ready model; tests leave it as they found it."""
    one = Server(tmp_path_factory.mktemp("server"))
    one.write({"blue": spec(detector / "best.onnx", "3")}, blue=100, green=0)
    one.until_ready()
    yield one
    one.stop()


@pytest.fixture(scope="session")
def picture(detector: Path) -> bytes:
    return (detector / "pictures" / "01.png").read_bytes()

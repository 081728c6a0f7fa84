"""A small detector and a real server around it."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Helpers beside the tests, whatever import mode pytest runs in.
sys.path.insert(0, str(Path(__file__).parent))
from served import Server, spec


@pytest.fixture(scope="session")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with best.onnx, best.pt, pictures/ and reference.json; built once, also for parallel workers."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    out = shared / "small-detector"
    with (shared / "small-detector.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (out / "reference.json").exists():
            script = Path(__file__).with_name("small_detector.py")
            done = subprocess.run([sys.executable, str(script), str(out)], capture_output=True, text=True, cwd=shared)
            assert done.returncode == 0, done.stderr[-4000:]
    return out


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

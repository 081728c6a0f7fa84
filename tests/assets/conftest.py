from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from assets.deployment_world import World


@pytest.fixture
def world(home: Path, empty_mlflow: Path) -> Iterator[World]:
    (home / ".mlflow").mkdir()
    shutil.copyfile(empty_mlflow, home / ".mlflow" / "mlflow.db")
    made = World(home)
    yield made
    made.endpoints.stop()
    made.close()


@pytest.fixture
def served(world: World) -> World:
    """A world in which version 1 serves."""
    world.model("good")
    assert world.deploy()
    return world

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from assets.deployment_world import World
from monitored import World as Monitored
from project import give_mlflow, make_home


@pytest.fixture
def world(home: Path, empty_mlflow: Path) -> Iterator[World]:
    give_mlflow(home, empty_mlflow)
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


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Iterator[Monitored]:
    """A detector with one registered version, whose endpoint is not needed."""
    with pytest.MonkeyPatch.context() as patch:
        home = make_home(tmp_path_factory.mktemp("monitored") / "home", patch.setenv)
        give_mlflow(home, empty_mlflow)
        made = Monitored(home)
        made.version = made.register()
        yield made

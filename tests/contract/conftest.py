"""The platforms that every contract is held against. A backend that joins `PLATFORMS` runs every case."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from project import give_mlflow

from resources import profiles

PLATFORMS = ["local"]


@pytest.fixture(params=PLATFORMS)
def platform(request: pytest.FixtureRequest, home: Path, empty_mlflow: Path) -> Iterator[Any]:
    """A platform's matching set of resources, opened, by attribute."""
    give_mlflow(home, empty_mlflow)
    made = profiles.PROFILES[request.param]("tiny", host="127.0.0.1", port=0)
    with dg.build_resources(made) as opened:
        yield opened
        if hasattr(opened.endpoints, "stop"):
            opened.endpoints.stop()

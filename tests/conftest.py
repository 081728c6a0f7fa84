"""Fixtures that every layer of tests shares: a project of its own in a temporary folder, and the real data."""

from __future__ import annotations

from pathlib import Path

import pytest
from project import SHARED, make_home


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data; the test is skipped, plainly, where it is missing."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data at {SHARED}")
    return SHARED


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with no detector, which everything that is run from here on takes for its own."""
    return make_home(tmp_path / "home", monkeypatch.setenv)

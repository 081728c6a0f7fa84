"""A model that fails a gate: it is not registered, not even by hand, until somebody answers for it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from project import DETECTION, make_home, write_detector

from detection_assets.commands.context import Project
from resources import overrides, tables
from resources.deployments import Deployments

pytestmark = [pytest.mark.slow, pytest.mark.long]


def detection(*words: str, code: int = 0) -> str:
    done = subprocess.run([DETECTION, *words], capture_output=True, text=True, env={**os.environ, "COLUMNS": "250"})
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project whose only model failed its gate."""
    with pytest.MonkeyPatch.context() as patch:
        home = make_home(tmp_path_factory.mktemp("override") / "home", patch.setenv)
        path = write_detector(home, "fridge")
        path.write_text(path.read_text().replace("map50: 0.0", "map50: 1.0"))
        detection("sample", "fridge", "--clips", "3")
        assert "check evaluation/gates: AP50 is" in detection("run", "fridge", code=1)
        yield home
        detection("stop")


def test_a_failed_gate_can_be_overridden_with_a_name_and_a_reason_that_stay(refused: Path) -> None:
    assert "is not registered" not in detection("override", "fridge", "--by", "Ada", code=2)
    assert "needs a name and a reason" in detection("override", "fridge", "--by", " ", "--reason", "demo", code=2)
    assert "no registered_model yet" in detection("deploy", "fridge", code=2)

    told = detection("override", "fridge", "--by", "Ada", "--reason", "only a demo")
    assert "Ada answers for weights" in told
    assert "AP50 is" in told
    assert "version 1 serves" in told

    project = Project.of("fridge")
    weights = str(tables.read(project.storage, "trained_weights")["weights_version"].iloc[0])
    known = overrides.read(project.storage, weights)
    assert known is not None
    assert (known.by, known.reason) == ("Ada", "only a demo")
    (version,) = project.resources["registry"].history()
    assert (version.tags["override_by"], version.tags["override_reason"]) == ("Ada", "only a demo")
    assert version.tags["approved_by"] == "Ada"
    row = tables.read(project.storage, "registered_model").iloc[0]
    assert (row["approval"], row["approved_by"]) == ("approved", "Ada")
    assert row["approval_reason"] == "gates overridden: only a demo"
    (period,) = [period for period in Deployments(project.storage).periods() if period.share]
    assert period.who == "Ada"
    assert project.storage.exists(f"overrides/{weights}.json")

    assert "overridden already, by Ada" in detection("override", "fridge", "--by", "Bea", "--reason", "me too", code=2)
    assert "Ada" in detection("history", "fridge")
    assert "up to date" in detection("run", "fridge")

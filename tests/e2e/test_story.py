"""The production loop through the command line: every claim of the story, with models that hardly learn."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from project import DETECTION, make_home

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]


def test_every_claim_of_the_story_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_home(tmp_path / "home", monkeypatch.setenv)
    report = tmp_path / "story.json"
    command = [DETECTION, "story", "--size", "small", "--report", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    told = f"{done.stdout}\n{done.stderr}"
    assert report.exists(), told
    claims = json.loads(report.read_text())["claims"]
    assert len(claims) >= 12, told
    assert [claim for claim in claims if not claim["holds"]] == [], told
    assert done.returncode == 0, told
    assert "brightness" in told

"""The page of what works where: made from results, and of today's tests."""

from __future__ import annotations

import subprocess
import sys

from contract import capabilities
from project import ROOT

PAGE = ROOT / "docs" / "platforms.md"


def test_a_cell_is_what_its_cases_found() -> None:
    results = capabilities.Results()
    for case, outcome in (
        ("a_thing_works[local]", "passed"),
        ("a_thing_works[aws-one]", "passed"),
        ("a_thing_works[aws-two]", "failed"),
        ("a_thing_works[azure]", "skipped"),
        ("only_here[local-x]", "passed"),
        ("nowhere", "passed"),
        ("both[local-aws]", "passed"),
    ):
        capabilities.note(results, f"tests/contract/test_compute.py::test_{case}", outcome)
    lines = capabilities.page(results).splitlines()
    assert "| A thing works | yes | **no** | - |" in lines
    assert "| Only here | yes | - | - |" in lines
    assert len(capabilities.rows("\n".join(lines))) == 2


def test_the_page_has_todays_tests_and_none_failed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "not long and not cloud", "tests/contract"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    text = PAGE.read_text(encoding="utf-8")
    assert capabilities.rows(text) == capabilities.expected(done.stdout.splitlines()), "run `make platforms`"
    assert capabilities.WORDS["failed"] not in text

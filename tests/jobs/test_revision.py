from __future__ import annotations

import re

import pytest

from resources import revision

ADDRESSES = {
    "https://example.org/team/code.git": "https://example.org/team/code.git",
    "https://me:token@example.org/code.git": "https://example.org/code.git",
    "git@example.org:team/code.git": "",
    "/home/me/code": "",
    "": "",
}


@pytest.mark.parametrize(("told", "expected"), ADDRESSES.items())
def test_a_repository_has_an_address_that_anybody_may_know(
    told: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(revision.REPOSITORY, raising=False)
    monkeypatch.setattr(revision, "_git", lambda *_: told)
    assert revision.repository.__wrapped__() == expected


def test_the_commit_is_that_of_the_image_or_of_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(revision.REVISION, "c0ffee")
    assert revision.commit.__wrapped__() == "c0ffee"
    monkeypatch.delenv(revision.REVISION)
    assert re.fullmatch("([0-9a-f]{40}(-dirty)?)?", revision.commit.__wrapped__())

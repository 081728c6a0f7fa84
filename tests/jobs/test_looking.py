"""A look at the lake while somebody is still writing there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import update
from resources.storage import Storage

LONG_AGO = time.time() - 3600


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    folder = tmp_path / "lake" / "fridge"
    (folder / "videos" / "shelf").mkdir(parents=True)
    return folder


def old(path: Path, data: bytes = b"x") -> Path:
    path.write_bytes(data)
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def look(lake: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object] | None) -> tuple[set[str], dict]:
    """What a look finds; `meanwhile` happens while it waits, and where there is none it must not wait."""
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        assert meanwhile is not None, "nothing was moving"
        waits.append(seconds)
        meanwhile()

    monkeypatch.setattr(update.time, "sleep", sleep)
    found, refused = update.settled_sources(Storage(root=str(lake.parent), prefix="fridge"))
    assert (len(waits) == 1) == (meanwhile is not None)
    return {source.video for source in found}, refused


def test_what_has_been_at_rest_is_taken_at_once(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old(lake / "videos" / "a.mp4")
    old(lake / "videos" / "shelf" / "1.jpg")
    os.utime(lake / "videos" / "shelf", (LONG_AGO, LONG_AGO))
    assert look(lake, monkeypatch, None) == ({"a.mp4", "shelf"}, {})


def test_a_file_that_grows_waits_and_the_others_do_not(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old(lake / "videos" / "a.mp4")
    growing = lake / "videos" / "b.mp4"
    growing.write_bytes(b"x")
    found, refused = look(lake, monkeypatch, lambda: growing.write_bytes(b"xx"))
    assert found == {"a.mp4"}
    assert refused == {"b.mp4": "it is still being written; run again when it is whole"}
    assert look(lake, monkeypatch, lambda: None) == ({"a.mp4", "b.mp4"}, {})


def test_a_folder_that_old_images_are_moved_into_waits(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = lake / "videos" / "shelf"
    old(shelf / "1.jpg")
    found, refused = look(lake, monkeypatch, lambda: old(shelf / "2.jpg"))
    assert found == set()
    assert list(refused) == ["shelf"]

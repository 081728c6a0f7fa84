"""What was taken in already, as the names of empty objects tell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from detection_assets.domain import layout
from resources import lake
from resources.storage import Storage
from resources.store_errors import LakeError


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(root=str(tmp_path / "lake"), prefix="fridge")


def keys(storage: Storage) -> list[str]:
    return sorted(item.key for item in storage.list("known"))


def test_the_last_fingerprint_of_each_video_is_told(storage: Storage) -> None:
    first = {"a.mp4": "1", "a": "2", "b c/ä+.mp4": "3", "x%2Fy.mp4": "4"}
    lake.remember(storage, "videos", first)
    lake.remember(storage, "annotations", {"a.mp4": "9"})
    assert lake.remembered(storage, "videos") == first
    lake.remember(storage, "videos", {"a.mp4": "7"})
    assert lake.remembered(storage, "videos") == {**first, "a.mp4": "7"}
    assert lake.remembered(storage, "videos", ["a.mp4", "never seen"]) == {"a.mp4": "7"}
    assert lake.remembered(storage, "annotations") == {"a.mp4": "9"}
    assert len(keys(storage)) == len(first) + 1, "what was told before is gone"


def test_many_at_once_are_told_as_one_by_one(storage: Storage, tmp_path: Path) -> None:
    many = {f"store-{number % 3}/{number}.mp4": f"{number:x}" for number in range(2 * lake.FEW + 10)}
    lake.remember(storage, "videos", dict.fromkeys(many, "old"))
    lake.remember(storage, "videos", many)
    other = Storage(root=str(tmp_path / "other"), prefix="fridge")
    for video, fingerprint in many.items():
        lake.remember(other, "videos", {video: fingerprint})
    assert keys(storage) == keys(other)
    assert lake.remembered(storage, "videos") == many


def test_what_is_remembered_already_is_not_written_again(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"a.mp4": "1", "b.mp4": "2"}
    lake.remember(storage, "videos", known)
    monkeypatch.setattr(Storage, "put", lambda *_: pytest.fail("nothing has changed"))
    monkeypatch.setattr(Storage, "remove", lambda _, gone: [pytest.fail(key) for key in gone])
    lake.remember(storage, "videos", known)


def test_what_cannot_be_listed_is_not_taken_for_nothing(storage: Storage) -> None:
    lake.remember(storage, "videos", {"a.mp4": "1"})
    loop = storage.local_path("known/annotations")
    assert loop is not None
    loop.symlink_to(loop)
    with pytest.raises(LakeError, match="known/annotations"):
        lake.remembered(storage, "annotations")
    assert lake.remembered(storage, "videos") == {"a.mp4": "1"}


def test_a_name_that_no_file_can_have_in_one_piece_is_remembered_all_the_same() -> None:
    key = layout.known_as("videos", "x" * 250, "f" * 16)
    assert max(map(len, key.split("/"))) <= 255


@pytest.mark.parametrize(
    "ask",
    [lambda place: lake.remembered(place, "videos"), lambda place: lake.remembered(place, "videos", ["store/a.mp4"])],
)
def test_lakes_in_which_each_video_had_a_folder_of_its_own_are_read(
    storage: Storage, ask: Callable[[Storage], dict[str, str]]
) -> None:
    storage.put(f"{layout.known_before('videos', 'store/a.mp4')}/0011223344556677", b"")
    assert ask(storage) == {"store/a.mp4": "0011223344556677"}
    lake.remember(storage, "videos", {"store/a.mp4": "new"})
    assert keys(storage) == [layout.known_as("videos", "store/a.mp4", "new")]
    assert ask(storage) == {"store/a.mp4": "new"}

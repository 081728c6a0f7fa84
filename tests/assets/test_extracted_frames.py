"""Which files of the lake an extraction is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from detection_assets import extracted_frames
from resources.storage import Storage


def test_a_folder_of_images_is_its_images_and_all_folders_are_listed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(root=str(tmp_path), prefix="tiny")
    for name in ("a/1.jpg", "a/2.jpg", "a/deep/3.jpg", "b/4.jpg", "other/5.jpg", "clip.mp4"):
        storage.put(f"videos/{name}", b"x")
    listed: list[str] = []
    list_of = Storage.list

    def counted(self: Storage, prefix: str) -> object:
        listed.append(prefix)
        return list_of(self, prefix)

    monkeypatch.setattr(Storage, "list", counted)
    files = extracted_frames._files(storage, {"a": "images", "a/deep": "images", "b": "images", "clip.mp4": "video"})
    assert {video: sorted(found) for video, found in files.items()} == {
        "a": ["a/1.jpg", "a/2.jpg", "a/deep/3.jpg"],
        "a/deep": ["a/deep/3.jpg"],
        "b": ["b/4.jpg"],
        "clip.mp4": ["clip.mp4"],
    }
    assert listed == ["videos"]
    assert extracted_frames._files(storage, {"b": "images"}) == {"b": ["b/4.jpg"]}
    assert listed[1:] == ["videos/b"], "of one folder only that"
    assert extracted_frames._files(storage, {"clip.mp4": "video"}) == {"clip.mp4": ["clip.mp4"]}
    assert len(listed) == 2, "and of videos nothing"

"""A lake on this machine is listed as the store's library lists it, whatever lies there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import obstore
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detection_assets.domain.layout import Stored
from resources import local_files
from resources.storage import Storage, _stored
from resources.store_errors import LakeError


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    (tmp_path / "lake" / "tiny").mkdir(parents=True)
    return Storage(root=str(tmp_path / "lake"), prefix="tiny")


def told_by_the_library(storage: Storage, prefix: str) -> list[Stored]:
    return sorted(map(_stored, chain.from_iterable(obstore.list(storage.store, prefix))))


def fill(folder: Path) -> None:
    for number, name in enumerate(
        ["a.mp4", "store 1/cam-2/b.mp4", "store 1/b+c (2), d's & e=f;@!.xml", "ünï/文件.jpg"]
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * number)
        os.utime(path, ns=(0, 1_790_000_000_123_456_789 + number))
    (folder / "empty" / "folder").mkdir(parents=True)


@pytest.mark.parametrize("prefix", ["videos", "videos/store 1", "videos/store 1/cam-2", "", "nothing", "videos/a.mp4"])
def test_plain_files_are_listed_as_the_library_lists_them(storage: Storage, prefix: str) -> None:
    root = storage.local_path("")
    assert root is not None
    fill(root / "videos")
    assert sorted(storage.list(prefix)) == told_by_the_library(storage, prefix)
    if prefix.startswith("videos/store"):
        assert local_files.listing(root / prefix, prefix)


ODD: dict[str, Callable[[Path], object]] = {
    "a link to a file": lambda folder: (folder / "link.mp4").symlink_to(folder / "a.mp4"),
    "a link to a folder": lambda folder: (folder / "more").symlink_to(folder / "store 1"),
    "a link to nothing": lambda folder: (folder / "gone.mp4").symlink_to(folder / "gone"),
    "half a file": lambda folder: (folder / "b.mp4#12").write_bytes(b"x"),
    "a hash": lambda folder: (folder / "b#12.mp4").write_bytes(b"x"),
    "a percent sign": lambda folder: (folder / "100%25.mp4").write_bytes(b"x"),
    "a letter in two parts": lambda folder: (folder / "u\u0308.mp4").write_bytes(b"x"),
    "a pipe": lambda folder: os.mkfifo(folder / "pipe.mp4"),
    "a file older than time": lambda folder: os.utime(folder / "a.mp4", (-5, -5)),
}


@pytest.mark.parametrize("what", ODD)
def test_what_only_the_library_can_tell_of_is_left_to_it(storage: Storage, what: str) -> None:
    root = storage.local_path("videos")
    assert root is not None
    fill(root)
    ODD[what](root)
    assert local_files.listing(root, "videos") is None
    assert sorted(storage.list("videos")) == told_by_the_library(storage, "videos")


@pytest.mark.parametrize("name", ["line\nbreak.mp4", "back\\slash.mp4", os.fsdecode(b"\xff.mp4"), "\x01.mp4"])
def test_a_name_that_the_library_may_refuse_is_refused_as_before(storage: Storage, name: str) -> None:
    root = storage.local_path("videos")
    assert root is not None
    fill(root)
    (root / name).write_bytes(b"x")
    try:
        expected = told_by_the_library(storage, "videos")
    except Exception:
        with pytest.raises(LakeError):
            list(storage.list("videos"))
    else:
        assert sorted(storage.list("videos")) == expected


NAMES = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"], codec="utf-8"), min_size=1, max_size=12).filter(
    lambda name: "/" not in name and name not in {".", ".."}
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(NAMES, min_size=1, max_size=3), max_size=6))
def test_any_names_are_listed_as_the_library_lists_them(storage: Storage, paths: list[list[str]]) -> None:
    root = storage.local_path("any")
    assert root is not None
    shutil.rmtree(root, ignore_errors=True)
    for parts in paths:
        path = root.joinpath(*parts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        except OSError:  # a folder where a file is, or the other way round
            continue
    assert sorted(storage.list("any")) == told_by_the_library(storage, "any")

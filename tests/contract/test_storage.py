from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from resources.storage import Storage

ODD_NAMES = ["plain.bin", "with space.bin", "dots.in.name.bin", "ünïcode/文件.bin", "100%#~.bin", "a@b,c(d).bin"]


@pytest.fixture(params=["local", "aws", "azure", pytest.param("account", marks=pytest.mark.cloud)])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "account":
        detector = request.getfixturevalue("aws_account")
        return Storage(root=os.environ["DETECTION_LAKE"], prefix=detector)
    lakes = {"aws": "s3_lake", "azure": "blob_lake"}
    root = request.getfixturevalue(lakes[request.param]) if request.param in lakes else str(tmp_path / "lake")
    return Storage(root=root, prefix="tiny")


@pytest.mark.parametrize("key", ODD_NAMES)
def test_what_is_put_is_got_listed_and_found(storage: Storage, key: str) -> None:
    storage.put(f"x/{key}", b"content")
    assert storage.get(f"x/{key}") == b"content"
    assert storage.exists(f"x/{key}")
    assert [(item.key, item.size) for item in storage.list("x")] == [(f"x/{key}", 7)]


def test_names_are_those_of_a_listing(storage: Storage) -> None:
    assert not list(storage.names("x"))
    for key in (*(f"x/{name}" for name in ODD_NAMES), "x/deep/er/one", "xy/beside", "x.bin"):
        storage.put(key, b"")
    if (half := storage.local_path("x/deep/er/two#7")) is not None:
        half.write_bytes(b"what a killed writer left")
    for prefix in ("x", "x/deep", ""):
        assert sorted(storage.names(prefix)) == sorted(item.key for item in storage.list(prefix))


def test_a_listing_tells_when_content_changes(storage: Storage) -> None:
    storage.put("a", b"one")
    before = {item.key: item.tag for item in storage.list("")}
    storage.put("a", b"two")
    assert {item.key: item.tag for item in storage.list("")} != before


def test_an_object_is_the_same_however_it_is_looked_at(storage: Storage) -> None:
    storage.put("x/a", b"one")
    found = storage.find("x/a")
    assert found is not None
    assert [found] == list(storage.list("x")) == list(storage.list_folder("x"))


def test_a_glance_changes_with_the_listing_and_with_nothing_else(storage: Storage) -> None:
    assert storage.glance("x") == storage.glance("x")
    empty = storage.glance("x")
    storage.put("x/a", b"one")
    storage.put("x/b", b"one")
    storage.put("elsewhere", b"one")
    first = storage.glance("x")
    assert first == storage.glance("x") != empty
    storage.put("elsewhere", b"two")
    assert storage.glance("x") == first
    storage.put("x/a", b"more")
    assert storage.glance("x") != first
    storage.delete("x/b")
    assert storage.glance("x") != first


def test_long_files_are_put_and_fetched_whole(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resources.storage.RANGE", 5_000_000)
    long, short = tmp_path / "long", tmp_path / "short"
    long.write_bytes(random.Random(0).randbytes(17_000_001))
    short.write_bytes(b"")
    storage.put("long", long)
    storage.put("short", short)
    storage.download({"long": tmp_path / "got" / "long", "short": tmp_path / "got" / "short"})
    assert (tmp_path / "got" / "long").read_bytes() == long.read_bytes()
    assert (tmp_path / "got" / "short").read_bytes() == b""


def test_what_is_missing_says_so(storage: Storage) -> None:
    assert not storage.exists("nothing")
    assert storage.get_many(["nothing", "nor this"]) == [None, None]
    with pytest.raises(FileNotFoundError):
        storage.get("nothing")


@pytest.mark.parametrize("key", ["NoSuchBucket", "409 Conflict", "StorageFull", "AccessDenied"])
def test_a_key_that_reads_like_an_error_is_none(storage: Storage, key: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.get(key)
    assert storage.put_if_absent(key, b"first")
    assert not storage.put_if_absent(key, b"second")
    assert storage.get(key) == b"first"


@pytest.mark.parametrize("key", ["../escape", "a/../../escape", "a/./b"])
def test_a_key_cannot_leave_the_root(storage: Storage, key: str) -> None:
    with pytest.raises(ValueError, match=r"\.|parse|Path"):
        storage.put(key, b"x")


def test_of_many_writers_exactly_one_creates(storage: Storage) -> None:
    for round_ in range(10):
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda who, key=f"k{round_}": storage.put_if_absent(key, str(who).encode()), range(8)))
        assert won.count(True) == 1
        assert storage.get(f"k{round_}") == str(won.index(True)).encode()


def folder_with(tmp_path: Path, **files: str) -> Path:
    folder = tmp_path / "made"
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def test_nothing_is_published_before_the_manifest(storage: Storage, tmp_path: Path) -> None:
    assert storage.published("v/1") is None
    storage.upload(folder_with(tmp_path, a="1"), "v/1/attempt")
    assert storage.published("v/1") is None


def test_publishing_makes_every_file_readable(storage: Storage, tmp_path: Path) -> None:
    found = storage.publish(folder_with(tmp_path, a="1", sub__b="22"), "v/1", {"why": "test"})
    assert found.files == {"a": 1, "sub/b": 2}
    assert found.notes["why"] == "test"
    assert storage.get(found.key("sub/b")) == b"22"
    with pytest.raises(FileNotFoundError, match="was published without c"):
        found.key("c")


def test_nothing_published_is_overwritten(storage: Storage, tmp_path: Path) -> None:
    first = storage.publish(folder_with(tmp_path, a="first"), "v/1", {})
    second = storage.publish(folder_with(tmp_path, a="second"), "v/1", {})
    assert second == first
    assert storage.get(second.key("a")) == b"first"
    assert [item.key for item in storage.list("v/1")].count(second.key("a")) == 1
    assert len(list(storage.list("v/1"))) == 2, "the loser's files are gone"


def test_two_detectors_do_not_see_each_other(storage: Storage) -> None:
    other = Storage(root=storage.root, prefix="other")
    storage.put("videos/a.mp4", b"x")
    assert list(other.list("")) == []


def test_delete_removes_what_is_below_and_no_more(storage: Storage) -> None:
    for key in ("a/1", "a/2/3", "ab/1"):
        storage.put(key, b"x")
    assert storage.delete("a") == 2
    assert [item.key for item in storage.list("")] == ["ab/1"]


def test_a_local_copy_holds_the_content(storage: Storage) -> None:
    storage.put("folder/x.txt", b"x")
    storage.put("folder/sub/y.txt", b"y")
    with storage.local_copy("folder/x.txt") as path:
        assert path.read_bytes() == b"x"
    with storage.local_copy("folder") as path:
        assert (path / "sub" / "y.txt").read_bytes() == b"y"

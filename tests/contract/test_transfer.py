"""A lake is moved to S3, or to Blob storage, and back."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from fakes.s3 import Asked, Between, refusal

from detection_assets.domain import layout
from detection_assets.domain.problems import InputError
from resources import lake, transfer
from resources.storage import Storage
from resources.store_errors import LakeError

OLD = time.time() - 3600


@pytest.fixture
def here(tmp_path: Path) -> Storage:
    """A lake of this machine with what a detector has."""
    storage = Storage(root=str(tmp_path / "lake"), prefix="fridge")
    storage.put("videos/a.mp4", b"a" * 1000)
    storage.put("videos/long.mp4", os.urandom(12 << 20))
    storage.put("annotations/a.xml", b"<annotations/>")
    for name in ("0.jpg", "1.jpg"):
        storage.put(f"frames/a.mp4/v1/0123/{name}", name.encode())
    storage.put("frames/a.mp4/v1/manifest.json", b"{}")
    storage.put("tables/raw_videos/a.mp4/0f.parquet", b"table")
    storage.put("tables/raw_videos/a.mp4/today.json", b'"0f"')
    storage.put("known/digests/ab", b"")
    storage.put("jobs/train-1/1/order.json", b"{}")
    for path in (tmp_path / "lake").rglob("*"):
        if path.is_file():
            os.utime(path, (OLD, OLD))
    taken = {source.video: source.fingerprint for source in lake.list_sources(storage)[0]}
    lake.remember(storage, "videos", {"a.mp4": taken["a.mp4"], "long.mp4": "before it was replaced"})
    return storage


@pytest.fixture(params=["s3_lake"])
def there(request: pytest.FixtureRequest) -> Storage:
    return Storage(root=request.getfixturevalue(request.param), prefix="fridge")


def move(source: Storage, target: Storage) -> list[str]:
    copied: list[str] = []
    transfer.carry_out(transfer.plan(source, target), source, target, lambda item: copied.append(item.key))
    return copied


def content(storage: Storage) -> dict[str, bytes]:
    return {item.key: storage.get(item.key) for item in storage.list("") if not layout.is_of_this_place(item.key)}


@pytest.mark.parametrize("there", ["s3_lake", "blob_lake"], indirect=True)
def test_there_and_back_again_is_the_same(here: Storage, there: Storage, tmp_path: Path) -> None:
    copied = move(here, there)
    assert content(there) == content(here)
    assert copied[-2:] == ["frames/a.mp4/v1/manifest.json", "tables/raw_videos/a.mp4/today.json"], (
        "who names comes last"
    )
    assert not list(there.list("jobs")), "what only mattered while it ran stays"
    assert move(here, there) == []
    assert move(there, here) == [], "and what was moved is not moved back"
    for storage in (here, there):
        now = {source.video: source.fingerprint for source in lake.list_sources(storage)[0]}
        assert lake.remembered(storage, "videos")["a.mp4"] == now["a.mp4"], "what was taken in is, here and there"
    assert "long.mp4" not in lake.remembered(there, "videos")
    elsewhere = Storage(root=str(tmp_path / "another"), prefix="fridge")
    assert len(move(there, elsewhere)) == len(copied)
    assert content(elsewhere) == content(here)


def test_what_was_changed_moves_and_what_is_newer_stays(here: Storage, there: Storage) -> None:
    move(here, there)
    time.sleep(1.1)  # a store tells whole seconds
    here.put("annotations/a.xml", b"<annotation5/>")
    here.put("tables/raw_videos/a.mp4/today.json", b'"1f"')
    assert move(here, there) == ["annotations/a.xml", "tables/raw_videos/a.mp4/today.json"]
    time.sleep(1.1)
    there.put("annotations/a.xml", b"<annotations>newer</annotations>")
    plan = transfer.plan(here, there)
    assert (plan.todo, plan.newer) == ([], ["annotations/a.xml"])
    assert move(there, here) == ["annotations/a.xml"]
    assert here.get("annotations/a.xml") == b"<annotations>newer</annotations>"


def test_a_long_video_that_was_replaced_by_one_of_the_same_size_moves(here: Storage, there: Storage) -> None:
    move(here, there)
    time.sleep(1.1)
    here.put("videos/long.mp4", os.urandom(12 << 20))
    assert move(here, there) == ["videos/long.mp4"]


def test_what_was_erased_does_not_come_back_from_where_it_is_not(here: Storage, tmp_path: Path) -> None:
    erased = Storage(root=str(tmp_path / "erased"), prefix="fridge")
    erased.put(layout.tombstone("a.mp4"), b"{}")
    with pytest.raises(InputError, match=r"a\.mp4 was erased from .*/erased/fridge and is still in .*/lake/fridge"):
        transfer.plan(here, erased)
    here.remove([item.key for item in here.list("") if "a.mp4" in item.key])
    assert "videos/long.mp4" in move(here, erased)
    assert not list(here.list("withdrawn")), "what was erased there is told there"


def test_what_was_interrupted_goes_on_and_names_nothing_that_is_not_there(
    here: Storage, s3_server: str, s3_lake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(asked: Asked) -> tuple[int, bytes] | None:
        return refusal(403, "AccessDenied") if asked.method == "PUT" and asked.path.endswith("1.jpg") else None

    with Between(before=refuse).open(s3_server) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(LakeError):
            move(here, Storage(root=s3_lake, prefix="fridge"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    there = Storage(root=s3_lake, prefix="fridge")
    assert there.exists("frames/a.mp4/v1/0123/0.jpg")
    assert not there.exists("frames/a.mp4/v1/manifest.json")
    assert not there.exists("tables/raw_videos/a.mp4/today.json")
    copied = move(here, there)
    assert "frames/a.mp4/v1/0123/1.jpg" in copied
    assert "frames/a.mp4/v1/0123/0.jpg" not in copied
    assert content(there) == content(here)

"""A patient objects: the video is withdrawn and erased while the machine fails again and again, end to end.

The whole graph is run for real, with a model in service that learned from the video. Then everything that a project
leaves anywhere is searched for what the video was.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import search
from forked import Command
from project import kill_when, make_home, write_detector

from detection_assets.domain import inbox, layout
from detection_assets.pictures import thumbnail
from resources import tables
from resources.storage import Storage
from resources.withdrawal import withdrawals

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

VIDEO = "store-01/cam-1/clip-001.mp4"
KILLED = (
    *("looking for", "tables that hold rows of it", "what is published with rows of it", "its tables"),
    *("its predictions and frames", "the video itself", "pictures in Dagster's event log", "looking for what is left"),
)
"""What the command says just before it is killed, one after the other."""


def detection(*words: str, code: int | None = 0) -> str:
    ended, told = Command(os.environ, *words).end()
    assert code is None or ended == code, f"{words}: {ended}\n{told}"
    return told


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        made = make_home(tmp_path_factory.mktemp("withdrawal") / "home", patch.setenv)
        write_detector(made, "fridge", epochs=2)
        detection("sample", "fridge", "--clips", "6")
        detection("run", "fridge")
        yield made
        detection("stop", code=None)


def pieces(data: bytes) -> Iterator[bytes]:
    """Some of the bytes of a picture or a video that are nobody else's: from its middle, as they are and in base64."""
    middle = len(data) // 2
    yield data[middle : middle + 48]
    # Of three ways to begin, one is how it stands in a longer text.
    for start in range(3):
        yield base64.b64encode(data[middle + start : middle + start + 48])


def everything_of(storage: Storage, video: str) -> dict[str, bytes]:
    """What is looked for, by what it is."""
    frames = tables.read(storage, "extracted_frames", [video])
    kept = frames[frames["kept"]]
    found: dict[str, bytes] = {}
    for row in kept.itertuples():
        data = storage.get(str(row.key))
        small = thumbnail(data, None, ()) or b""
        for name, whole in (("frame", data), ("small picture", small)):
            found |= {f"{name} {row.index}, {way}": piece for way, piece in enumerate(pieces(whole))}
        found[f"digest {row.index}"] = str(row.sha256).encode()
    raw = storage.get(layout.video(video))
    found |= {f"video, {way}": piece for way, piece in enumerate(pieces(raw))}
    assert len(kept) > 5
    return found


def places(home: Path, wanted: dict[str, bytes]) -> list[str]:
    return sorted(
        {
            f"{what} in {place}"
            for place, data in search.everything(home)
            for what, piece in wanted.items()
            if piece in data
        }
    )


def test_a_withdrawn_video_is_found_nowhere_although_its_erasure_was_killed_again_and_again(home: Path) -> None:
    storage = Storage(root=str(home / "lake"), prefix="fridge")
    wanted = everything_of(storage, VIDEO)
    others = sorted({item.video for item in inbox.sources(storage.list(layout.VIDEOS))[0]} - {VIDEO})
    assert len({place.partition(" in ")[2].split(":")[0] for place in places(home, wanted)}) > 10, "it is found before"
    dataset = str(tables.read(storage, "detection_dataset")["dataset_version"].iloc[0])
    theirs = {
        item.key: storage.get(item.key)
        for other in others
        for root in ("videos", "frames", "tables/extracted_frames", "tables/annotations")
        for item in storage.list(
            f"{root}/{layout.table_folder('', other).rpartition('/')[2] if 'tables' in root else other}"
        )
    } | {layout.video(other): storage.get(layout.video(other)) for other in others}
    assert len(theirs) > 40

    ask = ("withdraw", "fridge", VIDEO, "--by", "ada", "--reason", "the shop objects", "--erase", "--yes")
    assert dataset in detection(*ask[:3], "--dry-run")
    for said in KILLED:
        kill_when(lambda line, said=said: line.strip().startswith(said), *ask, after_s=0.02)
        assert withdrawals.tombstone(storage, VIDEO) is None, "nothing claims to be erased that is not"
    assert "proof: " in detection(*ask)

    left = [place for place in places(home, wanted)]
    assert left == []
    stone = withdrawals.tombstone(storage, VIDEO)
    assert stone is not None
    assert stone.left == []
    assert stone.counts["video files"] == 1
    assert {key: storage.get(key) for key in theirs} == theirs, "what is others' is theirs, byte by byte"

    told = detection("status", "fridge")
    assert "it serves: version 1 learned from a withdrawn video" in told
    detection("run", "fridge")
    fresh = tables.read(storage, "detection_dataset")
    assert VIDEO not in set(fresh["video"])
    assert set(fresh["video"]) <= set(others)
    assert str(fresh["dataset_version"].iloc[0]) != dataset
    assert "answers with version 2" in detection("status", "fridge")
    refused = detection("rollback", "fridge", "--by", "bob", "--reason", "I liked it", code=2)
    assert "version 1 learned from a withdrawn video" in refused
    assert places(home, wanted) == [], "nothing brings it back"
    assert json.loads(storage.get(layout.withdrawn(VIDEO)))["models"] == [
        {"version": "1", "dataset": dataset, "where": "blue 100 %"}
    ]

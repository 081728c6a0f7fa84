"""A lake on a disk that fills up, at one place after another: each run says so, and one with room completes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from project import DETECTION, write_detector

from resources import tables
from resources.storage import Storage

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="a small disk takes root to make"),
]
KIB = 1024


def run() -> tuple[int, str]:
    command = [DETECTION, "run", "fridge", "--until", "detection_dataset"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def lake(home: Path) -> Iterator[Path]:
    folder = home / "lake"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("this machine mounts nothing")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def resize(lake: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size // KIB}k", str(lake)], check=True)


def used(lake: Path) -> int:
    stat = os.statvfs(lake)
    return (stat.f_blocks - stat.f_bfree) * stat.f_frsize


def test_a_full_disk_is_told_and_a_run_with_room_completes(home: Path, lake: Path) -> None:
    write_detector(home, "fridge")
    subprocess.run([DETECTION, "sample", "fridge", "--clips", "3"], check=True, capture_output=True)
    told = []
    for room in (8 * KIB, 128 * KIB, 512 * KIB, 96 * KIB, 32 * KIB):
        resize(lake, used(lake) + room)
        code, said = run()
        if code == 0:
            break
        assert code == 1, said
        assert "the disk is full; free some space and run again: 'file://" in " ".join(said.split()), said
        assert "Debug source" not in said
        told.append(said)
    assert told, "the disk was never full"
    resize(lake, 64 * KIB * KIB)
    code, said = run()
    assert code == 0, said
    storage = Storage(root=str(lake), prefix="fridge")
    source = lake / "fridge" / "videos"
    videos = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.mp4"))
    assert len(videos) == 3
    frames = tables.read(storage, "extracted_frames", videos)
    kept = frames[frames["kept"]]
    assert set(kept["video"]) == set(videos)
    assert all(storage.exists(key) for key in kept["key"])
    assert not frames["frame"].duplicated().any()
    assert len(tables.read(storage, "detection_dataset")) == len(kept[kept["frame"].isin(
        tables.read(storage, "annotations", videos)["frame"]
    )])  # fmt: skip
    code, said = run()
    assert "nothing to do" in said, said

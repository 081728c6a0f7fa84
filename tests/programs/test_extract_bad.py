"""Extraction of folders of images, and of what goes wrong: bad files and parameters, a full disk, a killed process."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from detection_assets.domain.sampling import Sampling
from detection_assets.programs import extract
from detection_assets.programs.extract_frames import DiskFullError, Task, write_whole
from detection_assets.programs.extract_pool import Done, Failed, Pool
from detection_assets.programs.job import Job


def jpeg(seed: int, size: tuple[int, int] = (96, 64), orientation: int = 1) -> bytes:
    rough = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8))
    image = rough.resize(size, Image.Resampling.NEAREST)
    exif = image.getexif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif, quality=95)
    return buffer.getvalue()


def job(tmp_path: Path, entries: list[dict[str, str]], **params: Any) -> tuple[Job, list[dict[str, Any]]]:
    (tmp_path / "lake").mkdir(exist_ok=True)
    (tmp_path / "out").mkdir(exist_ok=True)
    reports: list[dict[str, Any]] = []
    made = Job({"videos": tmp_path / "lake"}, tmp_path / "out", {"videos": entries, **params})
    made.report = lambda payload: reports.append(json.loads(json.dumps(payload)))
    return made, reports


def entry(path: str, kind: str = "images", out: str = "v") -> dict[str, str]:
    return {"video": f"key/{path}", "kind": kind, "path": path, "out": out}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "lake" / "photos"
    (folder / "more").mkdir(parents=True)
    for name, data in {
        "p2.jpg": jpeg(1),
        "p10.JPG": jpeg(2, orientation=8),
        "p3.jpg": jpeg(1),  # a copy
        "p4.jpg": jpeg(3)[:-300],
        "p5.jpg": b"",
        "p6 é.jpg": jpeg(4),
        "p7.png": b"\x89PNG no",
        "flat.jpg": jpeg(5, (1, 1)),
        "notes.txt": b"no frame",
        "more/p1.jpg": jpeg(9),
    }.items():
        (folder / name).write_bytes(data)
    return folder


def test_a_folder_of_images(tmp_path: Path, photos: Path):
    made, reports = job(tmp_path, [entry("photos")], sampling={"near_duplicate": 0, "min_sharpness": 1})
    extract.run(made)
    table = pd.read_parquet(tmp_path / "out/v/frames.parquet")
    names = ["flat.jpg", "p2.jpg", "p3.jpg", "p4.jpg", "p5.jpg", "p6 é.jpg", "p7.png", "p10.JPG"]
    assert table["frame"].tolist() == [f"key/photos#{name}" for name in names]
    assert table["index"].tolist() == list(range(8))
    assert table["pts_s"].isna().all()
    reasons = [reason.partition(":")[0] for reason in table["reason"]]
    assert reasons == ["blurred", "", "near-duplicate", "corrupt", "corrupt", "", "corrupt", ""]
    kept = table[table["kept"]].set_index("file")
    assert kept.index.tolist() == ["p2.jpg", "p6 é.jpg", "p10.JPG"]
    for name, row in kept.iterrows():
        data = (tmp_path / "out/v" / str(name)).read_bytes()
        assert data == (photos / str(name)).read_bytes()
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
    assert kept.loc["p10.JPG", ["width", "height"]].tolist() == [64, 96]
    assert sorted(f.name for f in (tmp_path / "out/v").iterdir()) == sorted([*kept.index, "frames.parquet"])
    assert reports == [
        {
            "kind": "video",
            "video": "key/photos",
            "out": "v",
            "seen": 8,
            "kept": 3,
            "dropped": {"blurred": 1, "near-duplicate": 1, "corrupt": 3},
            "frames_decoded": 5,
            "error": None,
        }
    ]


def test_pieces_of_a_folder_give_what_one_worker_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(extract, "MIN_IMAGES", 3)
    folder = tmp_path / "lake" / "many"
    folder.mkdir(parents=True)
    for number in range(11):
        (folder / f"{number}.jpg").write_bytes(jpeg(number // 2) if number != 7 else b"bad")
    tables = []
    for workers, out in ((1, "a"), (2, "b")):
        made, _ = job(tmp_path, [entry("many", out=out)], sampling={"near_duplicate": 0}, workers=workers)
        extract.run(made)
        tables.append(pd.read_parquet(tmp_path / "out" / out / "frames.parquet"))
    pd.testing.assert_frame_equal(*tables)
    assert tables[0]["kept"].tolist() == [True, False] * 3 + [True, False, True, False, True]
    kept = sorted(tables[1]["file"][tables[1]["kept"]])
    assert sorted(f.name for f in (tmp_path / "out/b").glob("*.jpg")) == kept


def test_nothing_to_use(tmp_path: Path):
    (tmp_path / "lake/empty").mkdir(parents=True)
    (tmp_path / "lake/broken").mkdir(parents=True)
    (tmp_path / "lake/broken/x.jpg").write_bytes(b"x")
    entries = [entry("empty", out="a"), entry("broken", out="b"), entry("gone.mp4", "video", "c")]
    made, reports = job(tmp_path, entries, workers=1)
    extract.run(made)
    assert [len(pd.read_parquet(tmp_path / "out" / out / "frames.parquet")) for out in "abc"] == [0, 1, 0]
    failed = {report["video"]: report["error"] for report in reports if report["kind"] == "video_failed"}
    assert set(failed) == {"key/empty", "key/gone.mp4"}
    assert "no images" in failed["key/empty"]
    (used,) = [report for report in reports if report["kind"] == "video"]
    assert "not one of its images decodes" in used["error"]


@pytest.mark.parametrize(
    ("entries", "params", "says"),
    [
        ([entry("../out")], {}, "leads out"),
        ([entry("/etc")], {}, "leads out"),
        ([entry("a", out="../x")], {}, "leads out"),
        ([entry("a"), entry("b")], {}, "share the output folder"),
        ([entry("a", kind="film")], {}, "film"),
        ([], {"sampling": {"rate": -1}}, "sampling.rate"),
        ([], {"sampling": {"fps": 1}}, "fps"),
    ],
)
def test_wrong_parameters(tmp_path: Path, entries: list[dict[str, str]], params: dict[str, Any], says: str):
    made, _ = job(tmp_path, entries, **params)
    with pytest.raises(ValueError, match=says):
        extract.run(made)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("name", ["p2.jpg", "frames.parquet"])
def test_a_full_disk_stops_the_run_with_its_reason(tmp_path: Path, photos: Path, name: str):
    made, reports = job(tmp_path, [entry("photos")], workers=1)
    (tmp_path / "out/v").mkdir()
    (tmp_path / "out/v" / f".{name}.part").symlink_to("/dev/full")
    with pytest.raises(DiskFullError, match="disk is full") as caught:
        extract.run(made)
    assert name in str(caught.value)
    assert caught.value.errno == errno.ENOSPC
    assert not (tmp_path / "out/v" / name).exists()
    assert not reports
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)


def test_files_are_whole_or_absent(tmp_path: Path):
    path = tmp_path / "a.bin"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert [f.name for f in tmp_path.iterdir()] == ["a.bin"]
    with pytest.raises(OSError, match="No such file"):
        write_whole(tmp_path / "none" / "a.bin", b"")


def reader_of(pipe: Path, seconds: float = 60.0) -> int:
    """Waits until a process other than this one reads a named pipe; gives its number."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for link in Path("/proc").glob("[0-9]*/fd/*"):
            with contextlib.suppress(OSError):
                if link.readlink() == pipe and int(link.parts[2]) != os.getpid():
                    return int(link.parts[2])
        time.sleep(0.02)
    raise AssertionError("nobody reads the pipe")


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    """A file of which the reading never ends."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("named pipes are watched through /proc, which is not here")
    path = tmp_path / "pipe.jpg"
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR)
    yield path
    os.close(writer)


def test_a_crash_loses_its_own_video_only(tmp_path: Path, photos: Path, pipe: Path):
    stuck = Task("images", tmp_path, tmp_path, Sampling(), names=((0, pipe.name),))
    (tmp_path / "a").mkdir()
    sound = Task("images", photos, tmp_path / "a", Sampling(), names=((0, "p2.jpg"), (1, "p6 é.jpg")))

    def crash() -> None:
        # Once in the pool, and once more where it is tried alone.
        first = reader_of(pipe)
        os.kill(first, signal.SIGKILL)
        while (second := reader_of(pipe)) == first:
            time.sleep(0.02)
        os.kill(second, signal.SIGKILL)

    killer = threading.Thread(target=crash)
    killer.start()
    with Pool(2, True, lambda *_: None) as pool:
        events = {event.task: event for event in pool.run([sound, stuck, sound, sound])}
    killer.join()
    assert set(events) == {0, 1, 2, 3}
    assert isinstance(events[1], Failed)
    assert "died" in events[1].why
    for number in (0, 2, 3):
        event = events[number]
        assert isinstance(event, Done)
        assert [row.file for row in event.outcome.rows] == ["p2.jpg", "p6 é.jpg"]


def test_workers_end_when_their_parent_is_killed(tmp_path: Path, pipe: Path):
    script = """
import sys
from pathlib import Path
from detection_assets.domain.sampling import Sampling
from detection_assets.programs.extract_frames import Task
from detection_assets.programs.extract_pool import Pool
task = Task("images", Path(sys.argv[1]), Path(sys.argv[1]), Sampling(), names=((0, "pipe.jpg"),))
with Pool(2, True, lambda *_: None) as pool:
    list(pool.run([task, task]))
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL) as parent:
        worker = reader_of(pipe)
        assert worker != parent.pid
        parent.kill()
    end = time.monotonic() + 20
    while Path(f"/proc/{worker}/fd").exists() and any(Path(f"/proc/{worker}/fd").glob("*")):
        assert time.monotonic() < end
        time.sleep(0.05)

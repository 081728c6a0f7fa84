"""What is kept of requests, what is not, and that nobody notices when it cannot be kept."""

import datetime
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from served import Server, grey, spec

from detection_assets.domain.image_statistics import statistics
from detection_assets.samples.bad_models import write_model
from detection_assets.serving import capture as capturing
from detection_assets.serving.capture import Capture, Captured
from detection_assets.serving.images import decode
from detection_assets.serving.observe import Metrics
from detection_assets.serving.places import Folder
from detection_assets.serving.state import CaptureSpec

SURE, UNSURE = grey(240), grey(110)  # confidences of 0.94 and 0.43


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "good.onnx", "good")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Server]:
    one = Server(tmp_path_factory.mktemp("capture"))
    one.write({"blue": spec(model, "7")}, blue=1)
    one.until_ready()
    yield one
    one.stop()


def configure(server: Server, model: Path, folder: Path, **changes: object) -> None:
    wanted = {"folder": str(folder), "rate": 0, "below": 0, "images": True, "keep_days": 7} | changes
    server.write({"blue": spec(model, "7")}, {"capture": wanted}, blue=1)
    server.until(lambda: wanted.items() <= (server.status()["capture"] or {}).items(), "configured")


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for part in sorted(folder.glob("*/*/*.jsonl")) for line in part.read_text().splitlines()]


def test_a_sample_and_the_unsure_are_kept_with_their_pictures(server: Server, model: Path, tmp_path: Path) -> None:
    configure(server, model, tmp_path, rate=0, below=0.5)
    for number in range(5):
        assert server.score(SURE, None).status_code == 200
        server.client.post("/score", content=UNSURE, headers={"X-Request-ID": f"u.{number}"})
    server.score(UNSURE, "blue")  # a trial
    server.until(lambda: len(rows(tmp_path)) == 5, "written", 10)
    kept = rows(tmp_path)
    assert [row["request_id"] for row in kept] == [f"u.{number}" for number in range(5)]
    assert {row["why"] for row in kept} == {"low confidence"}

    configure(server, model, tmp_path, rate=1, below=0.5)
    answer = server.client.post("/score", content=SURE).json()
    server.until(lambda: len(rows(tmp_path)) == 6, "written", 10)
    row = rows(tmp_path)[-1]
    assert list(row) == [
        *("time", "request_id", "slot", "version", "status", "latency_ms", "why", "width", "height"),
        *("brightness", "contrast", "sharpness", "red", "green", "blue", "image", "boxes"),
    ]
    assert (row["request_id"], row["why"]) == (answer["request_id"], "sample")
    assert (row["slot"], row["version"], row["status"]) == ("blue", "7", 200)
    assert (row["width"], row["height"], row["latency_ms"] > 0) == (80, 60, True)
    moment = datetime.datetime.fromisoformat(row["time"])
    assert abs((datetime.datetime.now(datetime.timezone.utc) - moment).total_seconds()) < 30
    assert moment.utcoffset() == datetime.timedelta(0)
    measured = statistics(decode(SURE))
    assert {name: row[name] for name in measured} == pytest.approx(measured, abs=0.01)
    names = ("class", "confidence", "x1", "y1", "x2", "y2")
    assert row["boxes"] == [{name: box[name] for name in names} for box in answer["boxes"]]
    (picture,) = tmp_path.glob(f"*/*/{row['image']}")
    assert picture.read_bytes() == SURE
    assert picture.parent == tmp_path / f"{moment:%Y-%m-%d}" / f"{moment:%H}"
    assert not list(tmp_path.rglob(".*"))


def test_a_batch_is_kept_picture_by_picture_and_an_id_twice(server: Server, model: Path, tmp_path: Path) -> None:
    configure(server, model, tmp_path, rate=1)
    files = [("file", ("a.jpg", SURE)), ("file", ("b.jpg", UNSURE)), ("file", ("c.jpg", b"?"))]
    server.client.post("/score", files=files, headers={"X-Request-ID": "many"})
    for content in (SURE, UNSURE):
        server.client.post("/score", content=content, headers={"X-Request-ID": "../twice"[3:]})
    server.until(lambda: len(rows(tmp_path)) == 4, "written", 10)
    kept = rows(tmp_path)
    assert [row["request_id"] for row in kept] == ["many.0", "many.1", "twice", "twice"]
    assert [next(tmp_path.glob(f"*/*/{row['image']}")).read_bytes() for row in kept] == [SURE, UNSURE, SURE, UNSURE]


def test_without_pictures_statistics_remain(server: Server, model: Path, tmp_path: Path) -> None:
    configure(server, model, tmp_path, rate=1, images=False)
    server.score(SURE)
    server.until(lambda: len(rows(tmp_path)) == 1, "written", 10)
    (row,) = rows(tmp_path)
    assert row["image"] is None
    assert row["brightness"] == pytest.approx(240, abs=1)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".jsonl"}


def test_what_was_captured_is_written_when_the_server_ends(model: Path, tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.write({"blue": spec(model, "7")}, {"capture": {"folder": str(tmp_path / "kept"), "rate": 1}}, blue=1)
    server.until_ready()
    for _ in range(20):
        server.score(SURE)
    server.stop()
    assert len(rows(tmp_path / "kept")) == 20


def test_a_folder_that_cannot_be_written_fails_nobody(server: Server, model: Path, tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    configure(server, model, in_the_way / "captures", rate=1)
    assert {server.score(SURE).status_code for _ in range(10)} == {200}
    server.until(lambda: server.status()["capture"]["failed"] >= 10, "counted", 10)
    assert "cannot be kept (Not a directory)" in server.status()["capture"]["error"]
    complaints = [line for line in server.log.read_text().splitlines() if "cannot be kept" in line]
    assert len(complaints) == 1
    in_the_way.unlink()
    server.score(SURE)
    server.until(lambda: server.status()["capture"]["error"] is None, "kept again", 10)
    assert len(rows(in_the_way / "captures")) == 1


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="a small disk takes root to make")
def test_a_full_disk_fails_nobody(server: Server, model: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        configure(server, model, disk / "captures", rate=1)
        noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
        import io

        from PIL import Image

        out = io.BytesIO()
        Image.fromarray(noise).save(out, "PNG")
        assert {server.score(out.getvalue()).status_code for _ in range(5)} == {200}
        server.until(lambda: server.status()["capture"]["failed"] >= 5, "counted", 10)
        # What is counted is told a moment later.
        server.until(lambda: "No space left" in (server.status()["capture"]["error"] or ""), "told", 10)
        server.until(lambda: not list(disk.rglob(".*")), "cleared away", 10)
    finally:
        configure(server, model, tmp_path / "elsewhere")
        # A file of a request that was under way may be open a moment longer.
        server.until(lambda: subprocess.run(["umount", str(disk)], capture_output=True).returncode == 0, "free", 10)


def captured(picture: bytes = SURE) -> Captured:
    return Captured("id", "blue", "7", 1.0, picture, {"width": 80, "height": 60, "boxes": []})


def test_what_does_not_fit_is_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capturing, "WAITING", 5)
    capture = Capture(Metrics())
    spec_ = CaptureSpec(tmp_path, rate=1)
    for _ in range(300):
        capture.offer(spec_, captured())
    capture.close()
    status = capture.status(spec_)
    assert status is not None
    assert status["dropped"] > 200
    assert status["captured"] + status["dropped"] == 300
    assert len(rows(tmp_path)) == status["captured"] > 0


def test_only_a_share_is_sampled(tmp_path: Path) -> None:
    capture = Capture(Metrics())
    for _ in range(2000):
        capture.offer(CaptureSpec(tmp_path, rate=0.05, images=False), captured())
    capture.close()
    assert 50 < len(rows(tmp_path)) < 160  # five standard deviations around 100


def test_days_past_keeping_are_removed(tmp_path: Path) -> None:
    today = datetime.datetime.now(datetime.timezone.utc).date()
    days = {age: tmp_path / str(today - datetime.timedelta(days=age)) for age in (0, 1, 7, 8, 400)}
    for day in days.values():
        (day / "03").mkdir(parents=True)
        (day / "03" / "a.jsonl").write_text("{}\n")
    (tmp_path / "notes").mkdir()
    (tmp_path / "2020-01-01").write_text("a file, nothing of ours")
    (tmp_path / ".removed-2020-01-01-x" / "00").mkdir(parents=True)
    assert Folder(tmp_path).sweep(7) == [days[400].name, days[8].name]
    assert {path.name for path in tmp_path.iterdir()} == {
        *(days[age].name for age in (0, 1, 7)), "notes", "2020-01-01",
    }  # fmt: skip
    assert Folder(tmp_path / "nothing").sweep(7) == []
    assert Folder(tmp_path).sweep(7) == []


def test_the_server_sweeps(server: Server, model: Path, tmp_path: Path) -> None:
    (tmp_path / "2020-02-02" / "00").mkdir(parents=True)
    configure(server, model, tmp_path, rate=1)
    server.score(SURE)
    server.until(lambda: not (tmp_path / "2020-02-02").exists(), "swept", 10)
    assert rows(tmp_path) or server.until(lambda: bool(rows(tmp_path)), "written", 10)

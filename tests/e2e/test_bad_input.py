"""Bad input of every kind beside good input: told by name, and the good goes on."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from forked import Command
from PIL import Image
from project import write_detector

from resources import tables
from resources.storage import Storage

pytestmark = pytest.mark.slow


def detection(*words: str) -> tuple[int, str]:
    return Command({**os.environ, "COLUMNS": "250"}, *words).end()


def jpeg(seed: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (96, 128, 3), np.uint8)).save(out, "JPEG")
    return out.getvalue()


def video(path: Path, frames: int = 30) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        rng = np.random.default_rng(0)
        for _ in range(frames):
            picture = rng.integers(0, 255, (96, 128, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())


def test_one_bad_file_never_loses_the_rest(home: Path, tmp_path: Path) -> None:
    write_detector(home, "tiny", classes="apple, banana")
    source = tmp_path / "from camera (1)"
    source.mkdir()
    video(source / "good.mp4")
    video(source / "größe 文件 v1.2.mp4")
    (source / "empty.mp4").touch()
    (source / "text.mp4").write_text("this is no video")
    whole = (source / "good.mp4").read_bytes()
    (source / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    (source / "copy.mp4").write_bytes(whole)
    (source / "three...dots.mp4").write_bytes(whole)
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        (photos / f"{number}.jpg").write_bytes(jpeg(number))
    (photos / "corrupt.jpg").write_bytes(jpeg(9)[:200])

    code, told = detection("add", "tiny", str(source), str(photos), str(tmp_path / "nowhere"))
    assert code == 1
    for name, why in {
        "empty.mp4": "empty",
        "text.mp4": "",
        "three...dots.mp4": "three dots in a row",
        "nowhere": "no such file or folder",
    }.items():
        assert any(name in line and why in line for line in told.splitlines() if "refused" in line), (name, told)

    # Straight into the lake, past `add`, as a camera's upload would.
    storage = Storage(root=str(home / "lake"), prefix="tiny")
    storage.put("videos/upload/text.mp4", b"this is no video")
    storage.put(
        "annotations/photos/boxes.json",
        json.dumps(
            {
                "images": [
                    {"id": 1, "file_name": "0.jpg", "width": 128, "height": 96},
                    {"id": 2, "file_name": "1.jpg", "width": 128, "height": 96},
                    {"id": 3, "file_name": "../../etc/2.jpg", "width": 128, "height": 96},
                    {"id": 4, "file_name": "missing.jpg", "width": 128, "height": 96},
                ],
                "categories": [{"id": 7, "name": "banana"}, {"id": 3, "name": "kiwi"}],
                "annotations": [
                    {"id": 1, "image_id": 1, "category_id": 7, "bbox": [10, 10, 20, 20]},
                    {"id": 2, "image_id": 1, "category_id": 7, "bbox": [120, 80, 50, 50]},
                    {"id": 3, "image_id": 2, "category_id": 7, "bbox": [5, 5, 0, 10]},
                    {"id": 4, "image_id": 2, "category_id": 3, "bbox": [5, 5, 10, 10]},
                    {"id": 5, "image_id": 3, "category_id": 7, "bbox": [1, 2, 30, 40]},
                    {"id": 6, "image_id": 4, "category_id": 7, "bbox": [1, 1, 9, 9]},
                ],
            }
        ).encode(),
    )
    storage.put("annotations/photos/broken.xml", b"<annotation><object>")
    code, told = detection("run", "tiny", "--until", "annotations")
    assert code == 0, told

    videos = [
        *("from camera (1)/copy.mp4", "from camera (1)/good.mp4", "from camera (1)/größe 文件 v1.2.mp4"),
        *("photos", "upload/text.mp4"),
    ]
    raw = tables.read(storage, "raw_videos", [*videos, "from camera (1)/truncated.mp4"]).set_index("video")
    assert set(videos) <= set(raw.index)
    assert "text.mp4" in str(raw.loc["upload/text.mp4", "problem"])
    assert raw.loc["from camera (1)/good.mp4", "problem"] is None or raw["problem"].isna()["from camera (1)/good.mp4"]
    frames = tables.read(storage, "extracted_frames", videos)
    assert {"from camera (1)/good.mp4", "from camera (1)/größe 文件 v1.2.mp4", "photos"} <= set(
        frames.loc[frames["kept"], "video"]
    )
    corrupt = frames[frames["frame"] == "photos#corrupt.jpg"].iloc[0]
    assert not corrupt["kept"]
    assert corrupt["reason"].startswith("corrupt")
    boxes = tables.read(storage, "annotations", videos).dropna(subset=["class"])
    assert set(boxes["class"]) == {"banana"}
    assert len(boxes) == 3, "clipped, escaped and plain boxes are kept; zero-area, unknown class and no frame are not"
    assert boxes["x2"].max() <= 128
    for word in ("kiwi", "missing.jpg", "broken.xml", "copy.mp4"):
        assert word in told, word


def test_a_detector_file_with_mistakes_names_each_with_its_line(home: Path) -> None:
    path = write_detector(home, "tiny")
    path.write_text(path.read_text().replace("rate: 2.0", "rat: 2.0") + "nonsense: 1\n")
    code, told = detection("run", "tiny")
    assert code == 2
    assert "tiny.yaml:3" in told
    assert "nonsense" in told
    assert "Traceback" not in told


@pytest.mark.parametrize("words", [("run", "nobody"), ("status", "nobody"), ("add", "nobody", "x")])
def test_a_detector_that_does_not_exist_is_named(home: Path, words: tuple[str, ...]) -> None:
    write_detector(home, "tiny")
    code, told = detection(*words)
    assert code == 2
    assert "nobody" in told
    assert "tiny" in told
    assert "Traceback" not in told


def test_a_platform_that_is_not_there_is_refused_with_what_to_set(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_detector(home, "tiny")
    monkeypatch.setenv("DETECTION_PLATFORM", "moon")
    code, told = detection("run", "tiny")
    assert code == 2
    assert "DETECTION_PLATFORM" in told


def test_a_reason_that_is_no_text_is_refused_before_anything_is_kept(home: Path) -> None:
    write_detector(home, "tiny")
    code, told = detection("withdraw", "tiny", "a.mp4", "--by", "ada", "--reason", os.fsdecode(b"\xff"))
    assert code == 2
    assert "'--reason': it is not UTF-8" in told
    assert "Traceback" not in told


def test_serve_before_a_run_says_what_to_do(home: Path) -> None:
    write_detector(home, "tiny")
    code, told = detection("serve", "tiny")
    assert code == 2
    assert "detection run tiny" in told

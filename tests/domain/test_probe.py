"""Probing videos and folders of images, sound and broken."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from detection_assets.domain.probe import probe, sha256
from detection_assets.domain.video_images import image_names, natural, read_luma, read_size

SHARED = Path(__file__).parents[2] / "../shared/data/videos"


def clip(path: Path, codec: str = "libx264", rotation: int = 0, options: dict[str, str] | None = None) -> Path:
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(50):
            picture = np.random.default_rng(number).integers(0, 255, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44_100)
        for number in range(10):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 44_100, number * 1024, Fraction(1, 44_100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def head(path: Path, share: float, **kwargs: dict[str, str]) -> None:
    data = clip(path, **kwargs).read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def noise_after_header(path: Path) -> None:
    data = clip(path).read_bytes()
    start = data.index(b"mdat") + 4
    end = data.index(b"moov", start)
    path.write_bytes(data[:start] + bytes(end - start) + data[end:])


def jpeg(size: tuple[int, int] = (40, 30), orientation: int = 1, seed: int = 0) -> bytes:
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))
    exif = image.getexif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG of a few bytes that claims gigabytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def test_a_sound_video(tmp_path: Path):
    path = clip(tmp_path / "a b.c.mp4")
    found = probe(path, "video")
    assert found == {
        "codec": "h264",
        "fps": 25.0,
        "duration_s": 2.0,
        "width": 64,
        "height": 48,
        "frames_declared": 50,
        "frames_decodable": 50,
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "problem": None,
    }
    assert sha256(path, "video") == found["sha256"]


def test_a_turned_video_has_the_size_that_is_displayed(tmp_path: Path):
    found = probe(clip(tmp_path / "turned.mp4", rotation=-90), "video")
    assert (found["width"], found["height"]) == (48, 64)


@pytest.mark.parametrize(
    ("name", "make", "says", "usable"),
    [
        ("empty.mp4", lambda path: path.write_bytes(b""), "empty", False),
        ("text.mp4", lambda path: path.write_text("no video\n" * 99), "it is text", False),
        ("list.mp4", lambda path: path.write_text("#EXTM3U\n#EXTINF:1,\nother.ts\n"), "it is text", False),
        ("noise.mp4", lambda path: path.write_bytes(bytes(range(256)) * 40), "not a video", False),
        ("sound.mp4", sound, "no video in it, only audio", False),
        ("no-index.mp4", lambda path: head(path, 0.5), "moov", False),
        ("short.mp4", lambda path: head(path, 0.5, options={"movflags": "faststart"}), "cut off", True),
        ("zeros.mp4", noise_after_header, "can be decoded", False),
        ("none.mp4", lambda path: None, "does not exist", False),
    ],
)
def test_a_broken_video_is_explained(
    tmp_path: Path, name: str, make: Callable[[Path], object], says: str, usable: bool
):
    make(tmp_path / name)
    found = probe(tmp_path / name, "video")
    assert found["problem"].startswith(f"{name}: ")
    assert says in found["problem"]
    assert bool(found["frames_decodable"]) is usable
    assert ";" in found["problem"]  # what is wrong; what to do
    if usable:
        assert 15 < found["frames_decodable"] < 35
        assert found["frames_declared"] == 50


@pytest.mark.skipif(not SHARED.exists(), reason="the shared videos are not on this machine")
def test_a_header_that_claims_too_much():
    found = probe(SHARED / "tree.avi", "video")
    assert (found["frames_declared"], found["frames_decodable"]) == (444, 68)
    assert "444" in found["problem"]
    assert "68" in found["problem"]


def test_a_folder_of_images(tmp_path: Path):
    files = {"b10.jpg": jpeg(seed=1), "b9.JPG": jpeg(orientation=6, seed=2), "a.png": jpeg((40, 30), seed=3)}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "notes.xml").write_text("<x/>")
    (tmp_path / ".hidden.jpg").write_bytes(jpeg())
    (tmp_path / "sub.jpg").mkdir()
    found = probe(tmp_path, "images")
    assert image_names(tmp_path) == ["a.png", "b9.JPG", "b10.jpg"]
    assert (found["width"], found["height"]) == (40, 30)
    assert (found["frames_declared"], found["frames_decodable"], found["codec"]) == (3, 3, "jpeg")
    assert found["problem"] is None
    assert found["bytes"] == sum(map(len, files.values()))
    assert found["sha256"] == sha256(tmp_path, "images")
    (tmp_path / "a.png").rename(tmp_path / "c.png")
    assert sha256(tmp_path, "images") != found["sha256"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "0 bytes"),
        (b"no picture at all", "not a picture"),
        (jpeg()[:-200], "does not decode"),
        (bomb(), "pixels"),
        (bomb(10_000, 9_000), "pixels"),
        (b"GIF89a" + bytes(50), "not a picture"),
    ],
)
def test_a_bad_image_is_named_and_the_rest_is_used(tmp_path: Path, data: bytes, says: str):
    (tmp_path / "good.jpg").write_bytes(jpeg())
    (tmp_path / "bad.jpg").write_bytes(data)
    found = probe(tmp_path, "images")
    assert (found["frames_declared"], found["frames_decodable"]) == (2, 1)
    assert "bad.jpg" in found["problem"]
    assert says in found["problem"]


@pytest.mark.parametrize(("kind", "says"), [("images", "no images"), ("video", "does not exist")])
def test_an_empty_folder(tmp_path: Path, kind: str, says: str):
    found = probe(tmp_path, kind)
    assert says in found["problem"]
    assert found["frames_decodable"] == 0


def test_an_unknown_kind(tmp_path: Path):
    with pytest.raises(ValueError, match="film"):
        probe(tmp_path, "film")


def test_natural_order():
    names = ["img10.jpg", "IMG2.jpg", "img1.jpg", "img02.jpg", "a.jpg"]
    assert sorted(names, key=natural) == ["a.jpg", "img1.jpg", "IMG2.jpg", "img02.jpg", "img10.jpg"]


def test_images_are_read_as_displayed():
    lying = jpeg((80, 40), orientation=6)
    assert read_size(lying) == (40, 80, "JPEG")
    width, height, luma = read_luma(lying)
    assert (width, height) == (40, 80)
    assert luma.shape == (80, 40)
    buffer = io.BytesIO()
    Image.fromarray(np.full((40, 50), 32_768, np.uint16)).save(buffer, "PNG")
    _, _, luma = read_luma(buffer.getvalue())
    assert luma.mean() == pytest.approx(128, abs=2)

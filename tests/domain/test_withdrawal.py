"""What names a video, and what names another one whose key is a part of its own or begins with it."""

from __future__ import annotations

import json

import orjson
import pytest

from detection_assets.domain.withdrawal import tells_of

HEX = "0123456789abcdef"
NAMES = {
    "an order": ("a/b.mp4", b'{"videos": [{"video": "a/b.mp4", "path": "a/b.mp4"}]}'),
    "a key of its file": ("a/b.mp4", b'["s3://bucket/lake/fridge/videos/a/b.mp4"]'),
    "its frames": ("a/b.mp4", f'"frames/a/b.mp4/{HEX}/1/0.jpg"'.encode()),
    "its frames, below a prefix told elsewhere": ("a/b.mp4", f'["a/b.mp4/{HEX}/1/0.jpg"]'.encode()),
    "a frame": ("a/b.mp4", b'{"frame": "a/b.mp4#000012"}'),
    "a sentence": ("a/b.mp4", b"extracting a/b.mp4."),
    "a line of a message": ("a/b.mp4", b"a/b.mp4: 12 frames"),
    "a line of a message in JSON": ("a/b.mp4", json.dumps("done\na/b.mp4: 12 frames").encode()),
    "an image of its folder": ("a", b'["a/1 b.JPG"]'),
    "escaped": ('k"\u00fc.mp4', json.dumps({"video": 'k"\u00fc.mp4'}).encode()),
    "escaped as it is": ('k"\u00fc.mp4', orjson.dumps({"video": 'k"\u00fc.mp4'})),
    "quoted": ("a b.mp4", b"https://store/videos/a%20b.mp4?sig=1"),
}
OTHERS = {
    "below its folder": ("a", b'{"video": "a/b.mp4", "frame": "a/b.mp4#1"}'),
    "frames below its folder": ("a", f'["frames/a/b.mp4/{HEX}/1/0.jpg", "a/b.mp4/{HEX}/1/0.jpg"]'.encode()),
    "images of a folder in its folder": ("a", b'["a/c/1.jpg"]'),
    "in another folder": ("b.mp4", b'["a/b.mp4", "frames/a/b.mp4/0"]'),
    "a longer name": ("b.mp4", b'["ab.mp4", "b.mp42", "b.mp4.mkv", "-b.mp4", "\xc3\xbcb.mp4"]'),
    "a folder called as a file begins": ("a/b", b'["a/b.mp4", "a/b-2"]'),
    "a word": ("cam", b'{"camera": "webcam"}'),
}


@pytest.mark.parametrize(("video", "data"), NAMES.values(), ids=NAMES)
def test_what_names_a_video(video: str, data: bytes) -> None:
    assert tells_of(data, video)


@pytest.mark.parametrize(("video", "data"), OTHERS.values(), ids=OTHERS)
def test_what_names_another(video: str, data: bytes) -> None:
    assert not tells_of(data, video)

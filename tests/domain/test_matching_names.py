"""Which frame a name means: the rule of `frame_names`, case by case."""

from __future__ import annotations

import pytest

from detection_assets.domain.formats.frame_names import AMBIGUOUS, OTHER, UNKNOWN, Images, Names


@pytest.mark.parametrize(
    ("video", "name", "index"),
    [
        # nothing but the number
        ("clip.mp4", "000030.jpg", 30),
        ("clip.mp4", "000030.txt", 30),
        ("clip.mp4", "30", 30),
        ("clip.mp4", "frame_000030.PNG", 30),
        ("clip.mp4", "frame30", 30),
        ("clip.mp4", "img-0030.jpeg", 30),
        ("clip.mp4", "images/train/000030.jpg", 30),
        # the video's own name before it
        ("store-1/cam/clip-007.mp4", "clip-007_000030.jpg", 30),
        ("store-1/cam/clip-007.mp4", "Clip-007_frame_000030.jpg", 30),
        ("store-1/cam/clip-007.mp4", "clip-007.mp4_30.jpg", 30),
        ("store-1/cam/clip-007.mp4", "cam_clip-007_30.jpg", 30),
        ("store-1/cam/clip-007.mp4", "lake_store-1_cam_clip-007_30.jpg", 30),
        ("köln/gänge.mp4", "ga\u0308nge_30.jpg", 30),
        ("a b.v2.mp4", "a b.v2_000030.jpg", 30),
        ("frame.mp4", "frame_000030.jpg", 30),
        # folders that lead to it
        ("store-1/cam/clip.mp4", "store-1/cam/clip_000030.jpg", 30),
        ("store-1/cam/clip.mp4", "cam/000030.jpg", 30),
        ("store-1/cam/clip.mp4", "store-1/cam/clip/000030.jpg", 30),
        ("store-1/cam/clip.mp4", "clip.mp4/000030", 30),
        ("store-1/cam/clip.mp4", "lake/videos/Store-1/cam/000030.jpg", 30),
        ("store-1/cam/clip.mp4", "images/store-1/cam/images/000030.jpg", 30),
        # what tools add
        ("clip.mp4", "000030_jpg.rf.0123456789abcdef0123456789abcdef.jpg", 30),
        ("clip.mp4", "3fa9c01b-000030.jpg", 30),
        ("clip.mp4", "3fa9c01b-clip_000030.jpg", 30),
        # another video's
        ("store-1/cam/clip.mp4", "store-2/cam/clip_000030.jpg", OTHER),
        ("store-1/cam/clip.mp4", "store-2/cam/000030.jpg", OTHER),
        ("store-1/cam/clip.mp4", "cam/clip-b/000030.jpg", OTHER),
        ("clip-1.mp4", "clip-10_000030.jpg", OTHER),
        ("clip-10.mp4", "clip-1_000030.jpg", OTHER),
        ("clip.mp4", "clip-b_000030.jpg", OTHER),
        ("clip.mp4", "kitchen_000030.jpg", OTHER),
        ("clip.mp4", "20200423-000030.jpg", OTHER),
        ("clip.mp4", "other_clip_30.jpg", OTHER),
        ("clip.mp4", "test.mp4/000030", OTHER),
        # no frame at all
        ("clip-007.mp4", "clip-007.jpg", UNKNOWN),
        ("clip-007.mp4", "clip-007.mp4", UNKNOWN),
        ("clip.mp4", "nothing.jpg", UNKNOWN),
        ("clip.mp4", "000030 (1).jpg", UNKNOWN),
        ("clip.mp4", "9" * 40, UNKNOWN),
        ("clip.mp4", "9999999999.jpg", UNKNOWN),
        ("clip.mp4", "", UNKNOWN),
        ("clip.mp4", "frame_٣٠.jpg", UNKNOWN),
        # a video called by a number
        ("30.mp4", "30.jpg", 30),
        ("30.mp4", "31.jpg", 31),
    ],
)
def test_number_of_a_frame(video: str, name: str, index: int) -> None:
    assert Names(video, [name]).index(name) == index


def test_eight_digits_are_a_hash_only_among_hashes() -> None:
    names = ["12345678-000030.jpg", "3fa9c01b-000031.jpg"]
    assert [Names("clip.mp4", names).index(name) for name in names] == [30, 31]
    assert Names("clip.mp4", names[:1]).index(names[0]) == OTHER
    assert Names("12345678.mp4", names[:1]).index(names[0]) == 30


FILES = ["a.jpg", "B.JPG", "c.jpg", "c.png", "C.gif", "ü 1.v2.jpg", "sub/d.jpg", "e.jpg", "E.jpg", "12.jpg"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.jpg", 0),
        ("a.txt", 0),
        ("a", 0),
        ("A.jpg", 0),
        ("b.xml", 1),
        ("c.jpg", 2),
        ("c.txt", AMBIGUOUS),
        ("C.gif", 4),
        ("C.txt", 4),
        ("c.gif", AMBIGUOUS),
        ("E.txt", 8),
        ("u\u0308 1.v2.txt", 5),
        ("d.jpg", 6),
        ("sub/d.jpg", 6),
        ("photos/a.jpg", 0),
        ("store-1/photos/a.jpg", 0),
        ("images/a.jpg", 0),
        ("store-2/photos/a.jpg", OTHER),
        ("a_jpg.rf.0123456789abcdef0123456789abcdef.jpg", 0),
        ("frame_12.jpg", UNKNOWN),
        ("z.jpg", UNKNOWN),
    ],
)
def test_image_of_a_folder(name: str, found: int) -> None:
    video = "store-1/photos"
    assert Images(FILES, Names(video, [name])).position(name) == found

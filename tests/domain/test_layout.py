from __future__ import annotations

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from detection_assets.domain import inbox, layout
from detection_assets.domain.layout import Stored


@pytest.mark.parametrize(
    ("video", "why"),
    [
        ("store/a.mp4", None),
        ("two words/ä+b (1) 100%.mp4", None),
        (".../a.mp4", "three dots"),
        ("a\x7f.mp4", "control character"),
        ("a#1.mp4", "'#'"),
        ("a//b.mp4", "empty part"),
        ("../a.mp4", "dots alone"),
        ("a/./b.mp4", "dots alone"),
        ("a/", "empty part"),
        ("", "empty part"),
        ("a" * layout.LONGEST, None),
        ("a" * (layout.LONGEST + 1), "longer than"),
        ("映" * 100, None),
        ("映" * 101, "longer than"),
    ],
)
def test_what_cannot_be_a_video_says_why(video: str, why: str | None) -> None:
    found = layout.video_key_problem(video)
    assert found is None if why is None else found is not None and why in found


@pytest.mark.parametrize(
    ("key", "size", "videos"),
    [
        ("a.mp4", 1, ["a.mp4"]),
        ("camera1", 1, ["camera1"]),
        ("camera1", 0, []),
        ("a.mp4", 0, ["a.mp4"]),
        ("photos/1.jpg", 1, ["photos"]),
        ("store/photos/1.jpg", 1, ["store/photos"]),
        ("loose.jpg", 1, []),
        ("a.mp4.part", 1, []),
    ],
)
def test_which_video_an_object_belongs_to(key: str, size: int, videos: list[str]) -> None:
    assert [source.video for source in inbox.sources([Stored(f"videos/{key}", size, "")])[0]] == videos


@given(st.text(min_size=1, max_size=300), st.from_regex(r"[0-9a-f]{16}", fullmatch=True))
@example("a/b%2Fc/%252F!~.mp4", "0" * 16)
@example("x" * 199, "f" * 16)
@example("x" * 200, "f" * 16)
def test_what_was_taken_in_is_read_off_the_name_that_remembers_it(video: str, fingerprint: str) -> None:
    assume(layout.video_key_problem(video) is None)
    key = layout.known_as("videos", video, fingerprint)
    assert layout.taken_in("videos", key) == (video, fingerprint)
    assert key.startswith(f"{layout.known_beside('videos', video)}/")
    assert "//" not in key
    quoted = key.split("/")[3].partition("!")[0]
    assert len(key.rpartition("/")[2]) < 230 or len(quoted) >= 200
    before = f"{layout.known_before('videos', video)}/{fingerprint}"
    assert layout.taken_in("videos", before) == (video, fingerprint)

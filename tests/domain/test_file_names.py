from __future__ import annotations

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detection_assets.domain import file_names, inbox
from detection_assets.domain.layout import Stored


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("annotations/a.json", True),
        ("annotations/a.JSONL", True),
        ("annotations/job/output.manifest", True),
        ("annotations/clip/MLTable", True),
        ("annotations/clip/mltable", False),
        ("videos/MLTable.mp4", False),
        ("videos/camera1", False),
    ],
)
def test_what_a_name_says_of_annotations(key: str, expected: bool) -> None:
    assert file_names.is_annotation(key) is expected
    found, refused = inbox.sources([Stored(f"videos/x/{key.rpartition('/')[2]}", 1, "")])
    assert (found == [] and len(refused) == 1) is expected, "what is annotation is no video"


@given(st.text(st.sampled_from("aB./éİ"), max_size=12))
def test_an_ending_is_what_the_standard_library_says(key: str) -> None:
    assert file_names.suffix(key) == posixpath.splitext(key)[1].lower()
    assert file_names.stem(key) == posixpath.splitext(key)[0]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("a/b.mp4", False),
        ("a/.b.mp4", True),
        (".a/b.mp4", False),
        ("a/b.mp4.PART", True),
        ("a/b.crdownload", True),
        ("a.part/b.mp4", False),
        ("a/part", False),
        ("a/.part", True),
    ],
)
def test_what_is_still_being_written_is_told_by_its_own_name(key: str, expected: bool) -> None:
    assert file_names.is_transient(key) is expected
    assert (inbox.sources([Stored(f"videos/{key}", 1, "")])[0] == []) is expected

"""Which pictures are worth a look."""

from __future__ import annotations

import pytest

from detection_assets.domain.previews import PREVIEWS, over_videos, worth_a_look


@pytest.mark.parametrize(
    ("count", "found", "chosen"),
    [
        (0, [], []),
        (2, [], [0, 1]),
        (9, [], [0, 3, 6]),
        (9, [4], [4]),
        (9, [1, 2, 5, 8], [1, 2, 5]),
        (100, range(100), [0, 33, 66]),
    ],
)
def test_some_are_chosen_evenly_and_those_with_boxes_first(count: int, found: list[int], chosen: list[int]) -> None:
    looked_at = [str(number) for number in range(count)]
    assert worth_a_look(looked_at, {str(number) for number in found}) == [str(number) for number in chosen]
    assert len(chosen) <= PREVIEWS


@pytest.mark.parametrize(
    ("videos", "count", "chosen"),
    [
        ("", 5, []),
        ("aaa", 5, [0, 1, 2]),
        ("aaaaa", 3, [0, 2, 4]),
        ("aaaaa", 1, [2]),
        ("aaaaaab", 4, [0, 2, 5, 6]),
        ("abcdefg", 3, [0, 3, 6]),
        ("aaabbbccc", 2, [1, 7]),
    ],
)
def test_many_videos_give_as_many_frames_each_as_there_is_room_for(videos, count, chosen):
    assert over_videos(list(videos), count) == chosen

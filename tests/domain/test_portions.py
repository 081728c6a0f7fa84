from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from detection_assets.domain.portions import portions

SIZES = st.dictionaries(st.text(max_size=4), st.floats(0, 1e12), max_size=30)


@given(SIZES, st.integers(1, 8))
def test_every_item_is_in_one_portion_and_none_is_empty(sizes: dict[str, float], most: int) -> None:
    made = portions(sizes, most)
    assert sorted(item for portion in made for item in portion) == sorted(sizes)
    assert all(made)
    assert len(made) == min(most, len(sizes))


@given(SIZES, st.integers(1, 8), st.randoms())
def test_the_order_of_the_items_does_not_matter(sizes: dict[str, float], most: int, random: object) -> None:
    shuffled = list(sizes)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert portions({item: sizes[item] for item in shuffled}, most) == portions(sizes, most)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=6), st.integers(1, 3))
def test_the_largest_portion_is_at_most_a_third_above_the_best(sizes: list[int], most: int) -> None:
    best = min(
        max(sum(size for size, at in zip(sizes, places, strict=True) if at == portion) for portion in range(most))
        for places in itertools.product(range(most), repeat=len(sizes))
    )
    made = portions({str(number): size for number, size in enumerate(sizes)}, most)
    assert max(sum(sizes[int(item)] for item in portion) for portion in made) <= 4 / 3 * best


def test_large_ones_are_apart() -> None:
    sizes = {"a.mp4": 900, "b.mp4": 800, "c.mp4": 100, "d.mp4": 150}
    assert portions(sizes, 2) == [["a.mp4", "c.mp4"], ["b.mp4", "d.mp4"]]
    assert portions(sizes, 1) == [["a.mp4", "b.mp4", "c.mp4", "d.mp4"]]
    assert portions({}, 3) == []

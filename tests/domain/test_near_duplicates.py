from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection_assets.domain.near_duplicates import across, clusters, pairs, parse
from detection_assets.domain.problems import InputError

# Few seeds and few flips, so that drawn hashes really are near one another.
SEEDS = [0, 2**64 - 1, 0x0123456789ABCDEF, 0xF0F0F0F0F0F0F0F0, 0x00000000FFFFFFFF]


def near(seed: int, flips: list[int]) -> str:
    for bit in flips:
        seed ^= 1 << bit
    return f"{seed:016x}"


HASH = st.builds(near, st.sampled_from(SEEDS), st.lists(st.integers(0, 63), max_size=6)) | st.sampled_from(["", None])
HASHES = st.lists(HASH, max_size=25)
DISTANCE = st.integers(0, 12)


def apart(one: str | None, other: str | None) -> int:
    return bin(int(one, 16) ^ int(other, 16)).count("1") if one and other else 65


@settings(deadline=None, max_examples=60)
@given(HASHES, DISTANCE)
def test_pairs_are_those_of_brute_force(hashes, distance):
    expected = {
        (a, b, apart(hashes[a], hashes[b]))
        for a in range(len(hashes))
        for b in range(a + 1, len(hashes))
        if apart(hashes[a], hashes[b]) <= distance
    }
    found = pairs(hashes, distance)
    assert list(found.itertuples(index=False, name=None)) == sorted(expected)


@settings(deadline=None, max_examples=60)
@given(HASHES, DISTANCE)
def test_clusters_are_what_pairs_link(hashes, distance):
    labels = list(range(len(hashes)))
    for _ in hashes:
        for a in range(len(hashes)):
            for b in range(len(hashes)):
                if a != b and apart(hashes[a], hashes[b]) <= distance:
                    labels[a] = labels[b] = min(labels[a], labels[b])
    assert clusters(hashes, distance).tolist() == labels


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(HASH, st.sampled_from(["train", "val", "test"])), max_size=20), DISTANCE)
def test_across_names_each_frame_that_must_give_way(rows, distance):
    images = pd.DataFrame(
        [(f"v#{at:06d}", split, phash) for at, (phash, split) in enumerate(rows)], columns=["frame", "split", "phash"]
    )
    rank = {"train": 0, "val": 1, "test": 2}
    expected = {}
    for one in images.itertuples():
        others = [apart(one.phash, other.phash) for other in images.itertuples() if rank[other.split] > rank[one.split]]
        if min(others, default=65) <= distance:
            expected[one.frame] = min(others)
    found = across(images, distance)
    assert dict(zip(found["frame"], found["distance"], strict=True)) == expected
    at = images.set_index("frame")
    for row in found.itertuples():
        assert rank[at.loc[row.near, "split"]] > rank[row.split] == rank[at.loc[row.frame, "split"]]
        assert apart(at.loc[row.frame, "phash"], at.loc[row.near, "phash"]) == row.distance
    assert across(images[~images["frame"].isin(found["frame"])], distance).empty


def test_a_hundred_thousand_hashes_are_compared_without_comparing_all_to_all():
    # Spread by multiplication with an odd number; each tenth has a neighbour two bits away.
    spread = [at * 0x9E3779B97F4A7C15 % 2**64 for at in range(90_000)]
    twins = [value ^ 0b1001 << (at % 60) for at, value in enumerate(spread[:10_000])]
    hashes = [f"{value:016x}" for value in spread + twins]
    found = pairs(hashes, 4)
    assert {(at, 90_000 + at) for at in range(10_000)} <= set(zip(found["a"], found["b"], strict=True))
    assert (found["distance"] <= 4).all()
    labels = clusters(hashes, 4)
    assert (labels[90_000:] == labels[:10_000]).all()


def test_many_equal_hashes_stay_linear():
    hashes = ["ffff0000ffff0000"] * 50_000
    assert set(clusters(hashes, 4).tolist()) == {0}
    images = pd.DataFrame({"frame": range(50_000), "split": ["train"] * 49_999 + ["test"], "phash": hashes})
    assert len(across(images, 4)) == 49_999


@given(st.lists(st.one_of(st.integers(0, 2**64 - 1).map(lambda one: f"{one:x}"), st.sampled_from([None, ""]))))
def test_hashes_are_read_alike_all_at_once_and_one_by_one(hashes):
    whole = [f"{int(one or '0', 16):016x}" for one in hashes]
    read, known = parse(hashes)
    assert read.tolist() == parse(whole)[0].tolist() == [int(one, 16) for one in whole]
    assert known.tolist() == [bool(one) for one in hashes]


@pytest.mark.parametrize("bad", ["xyz", "1" * 17, "-1", "12 34 56 78 90 ab", "-" * 16])
def test_what_is_no_hash_is_refused(bad):
    with pytest.raises(InputError, match=r"row 1: .* is not a 64-bit hash"):
        pairs(["0" * 16, bad], 3)


@pytest.mark.parametrize("distance", [-1, 64])
def test_a_distance_out_of_range_is_refused(distance):
    with pytest.raises(ValueError, match="expected 0 to 63"):
        clusters(["0" * 16, "1" * 16], distance)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="unknown splits"):
        across(pd.DataFrame({"frame": ["a"], "split": ["dev"], "phash": ["0" * 16]}), 4)

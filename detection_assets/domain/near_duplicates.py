"""Frames that look the same: pairs of perceptual hashes within a few bits of each other, without comparing all to all.

Two 64-bit hashes that differ in at most `d` bits agree wholly in at least one of any `d + 1` bands that the bits are
cut into (pigeonhole). So only hashes that share a band are compared, and what is compared is compared exactly: no pair
is missed and none is invented.

Hashes are hex strings as in the table of extracted frames; an empty or missing one is like nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from detection_assets.domain.problems import InputError

BITS = 64
DIGITS = BITS // 4
YIELDS = ("train", "val", "test")
"""Which split gives a frame up when two hold the same picture, first to last: test is what models are judged on."""

Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]


def parse(hashes: Sequence[Any] | pd.Series) -> tuple[Hashes, npt.NDArray[np.bool_]]:
    """Reads hex hashes.

    Args:
        hashes: 16 hex digits each; None, NaN and the empty string stand for no hash.

    Returns:
        The hashes as numbers (0 where there is none) and whether there is one, both of the length given.

    Raises:
        InputError: If a hash is not a hexadecimal number of at most 64 bits.
    """
    values = np.zeros(len(hashes), dtype=np.uint64)
    known = np.zeros(len(hashes), dtype=np.bool_)
    with suppress(TypeError, ValueError):
        # Whole hashes are read all at once; where one is missing or odd, each is looked at.
        read = bytes.fromhex("".join(hashes))
        if set(map(len, hashes)) <= {DIGITS} and len(read) == values.nbytes:
            return np.frombuffer(read, ">u8").astype(np.uint64), ~known
    for at, text in enumerate(hashes):
        if not isinstance(text, str) or not text:
            continue
        try:
            values[at] = int(text, 16)
        except (ValueError, OverflowError):
            raise InputError(f"row {at}: {text!r} is not a 64-bit hash in hex; extract the frames again") from None
        known[at] = True
    return values, known


def pairs(hashes: Sequence[Any] | pd.Series, distance: int) -> pd.DataFrame:
    """All pairs of hashes that differ in at most `distance` bits.

    n equal hashes are n(n-1)/2 pairs: for what looks the same as what, `clusters` and `across` stay linear.

    Args:
        hashes: Hex hashes, in any order.
        distance: Most bits that may differ, 0 to 63.

    Returns:
        Columns `a`, `b` (positions, a < b) and `distance` (bits), in order of a and b.
    """
    values, known = parse(hashes)
    where = np.flatnonzero(known)
    unique, inverse, counts = np.unique(values[known], return_inverse=True, return_counts=True)
    # Positions of each unique hash lie together: members[starts[u] : starts[u] + counts[u]].
    members = where[np.argsort(inverse, kind="stable")]
    starts = np.cumsum(counts) - counts
    near_a, near_b, bits = _near(unique, distance)
    first, second, apart = [], [], []
    for u in np.flatnonzero(counts > 1):
        same = members[starts[u] : starts[u] + counts[u]]
        left, right = np.triu_indices(len(same), 1)
        first.append(same[left])
        second.append(same[right])
        apart.append(np.zeros(len(left), dtype=np.int64))
    # Each near pair of unique hashes stands for every combination of their members.
    times = counts[near_a] * counts[near_b]
    if len(times):
        pair = np.repeat(np.arange(len(times)), times)
        nth = np.arange(len(pair)) - np.repeat(np.cumsum(times) - times, times)
        width = counts[near_b][pair]
        first.append(members[starts[near_a][pair] + nth // width])
        second.append(members[starts[near_b][pair] + nth % width])
        apart.append(bits[pair])
    a, b, d = (np.concatenate(part) if part else np.zeros(0, dtype=np.int64) for part in (first, second, apart))
    table = pd.DataFrame({"a": np.minimum(a, b), "b": np.maximum(a, b), "distance": d})
    return table.sort_values(["a", "b"], ignore_index=True)


def clusters(hashes: Sequence[Any] | pd.Series, distance: int) -> Places:
    """Puts hashes that are linked by near pairs, directly or through others, in one cluster.

    Args:
        hashes: Hex hashes.
        distance: Most bits that may differ between two linked hashes.

    Returns:
        For each hash the position of the first member of its cluster; one without a hash is alone.
    """
    values, known = parse(hashes)
    labels = np.arange(len(values), dtype=np.int64)
    where = np.flatnonzero(known)
    unique, first, inverse = np.unique(values[known], return_index=True, return_inverse=True)
    near_a, near_b, _ = _near(unique, distance)
    lowest = where[first].astype(np.int64)
    own = np.arange(len(unique), dtype=np.int64)
    # Smallest label spreads along the links; jumping to the label's own label halves long chains each round.
    root = own.copy()
    while True:
        before = root.copy()
        least = np.minimum(root[near_a], root[near_b])
        for end in (root[near_a], root[near_b], near_a, near_b):
            np.minimum.at(root, end, least)
        root = root[root]
        if np.array_equal(before, root):
            break
    start = np.full(len(unique), len(values), dtype=np.int64)
    np.minimum.at(start, root, lowest)
    labels[where] = start[root[inverse]]
    return labels


def across(images: pd.DataFrame, distance: int) -> pd.DataFrame:
    """Frames whose near-duplicate lies in another split, so that a model would be judged on what it was taught.

    For each such frame the nearest one in a split that matters more (test over val over train). Without the frames
    listed under `frame` no near-duplicate crosses splits, and the table stays linear in the frames however many are
    alike.

    Args:
        images: Columns `frame`, `split` and `phash`.
        distance: Most bits that may differ.

    Returns:
        Columns `frame`, `split`, `near` (a frame), `near_split` and `distance`, in order of `frame`.

    Raises:
        ValueError: If a split is none of train, val and test.
    """
    odd = set(images["split"].unique()) - set(YIELDS)
    if odd:
        raise ValueError(f"unknown splits {sorted(map(str, odd))}: expected {', '.join(YIELDS)}")
    ordered = images.sort_values("frame", kind="stable", ignore_index=True)
    values, known = parse(list(ordered["phash"]))
    rank = pd.Index(YIELDS).get_indexer(pd.Index(ordered["split"].astype(object))).astype(np.int64)
    ranks = len(YIELDS)
    where = np.flatnonzero(known)
    # One node for each (hash, split): a thousand equal frames of one split are one node.
    unique, inverse = np.unique(values[known], return_inverse=True)
    node, first, of = np.unique(inverse * ranks + rank[where], return_index=True, return_inverse=True)
    speaker = where[first]
    near_a, near_b, bits = _near(unique, distance)
    own = np.arange(len(unique))
    near_a, near_b = np.concatenate([own, near_a, near_b]), np.concatenate([own, near_b, near_a])
    bits = np.concatenate([np.zeros(len(own), dtype=np.int64), bits, bits])
    found: list[pd.DataFrame] = []
    for low in range(ranks):
        for high in range(low + 1, ranks):
            mine, theirs = near_a * ranks + low, near_b * ranks + high
            at_mine, at_theirs = np.searchsorted(node, mine), np.searchsorted(node, theirs)
            end = len(node) - 1
            both = (node[np.minimum(at_mine, end)] == mine) & (node[np.minimum(at_theirs, end)] == theirs)
            found.append(pd.DataFrame({"node": at_mine[both], "near": at_theirs[both], "distance": bits[both]}))
    links = pd.concat(found, ignore_index=True).sort_values(["node", "distance", "near"])
    links = links.drop_duplicates("node")
    best = np.full(len(node), -1, dtype=np.int64)
    best[links["node"].to_numpy()] = np.arange(len(links))
    chosen = best[of]
    crossing = chosen >= 0
    link = links.iloc[chosen[crossing]]
    left, right = where[crossing], speaker[link["near"].to_numpy()]
    return pd.DataFrame(
        {
            "frame": ordered["frame"].to_numpy()[left],
            "split": ordered["split"].to_numpy()[left],
            "near": ordered["frame"].to_numpy()[right],
            "near_split": ordered["split"].to_numpy()[right],
            "distance": link["distance"].to_numpy(),
        }
    )


def _near(unique: Hashes, distance: int) -> tuple[Places, Places, Places]:
    """Pairs of positions (a < b) of distinct hashes within `distance` bits, and the bits, each pair once."""
    if not 0 <= distance < BITS:
        raise ValueError(f"distance {distance}: expected 0 to {BITS - 1} bits")
    found = [np.zeros((0, 3), dtype=np.int64)]
    if distance:  # Distinct hashes are never at distance 0.
        found.extend(_in_bands(unique, distance))
    table = np.unique(np.concatenate(found), axis=0)
    return table[:, 0], table[:, 1], table[:, 2]


def _in_bands(unique: Hashes, distance: int) -> Iterator[npt.NDArray[np.int64]]:
    edges = np.linspace(0, BITS, distance + 2).astype(int)
    for low, high in itertools.pairwise(edges):
        band = (unique >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(band, kind="stable")
        sorted_band, sorted_hash = band[order], unique[order]
        ends = np.searchsorted(sorted_band, sorted_band, side="right")
        # Each place is compared with the k-th after it, for every k that stays in its bucket.
        left = np.arange(len(unique))
        step = 1
        while True:
            left = left[left + step < ends[left]]
            if not len(left):
                break
            bits = np.bitwise_count(sorted_hash[left] ^ sorted_hash[left + step])
            near = np.flatnonzero(bits <= distance)
            if len(near):
                one, other = order[left[near]], order[left[near] + step]
                yield np.stack([np.minimum(one, other), np.maximum(one, other), bits[near].astype(np.int64)], axis=1)
            step += 1

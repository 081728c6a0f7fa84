"""Sharpness, brightness and the perceptual hash of frames."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from detection_assets.domain.quality import (
    LUMA_SIDE,
    RECENT,
    NearDuplicates,
    hamming,
    luma_size,
    measure,
    phash,
    sharpness,
)


def scene(seed: int = 0, width: int = 1920, height: int = 1080) -> Image.Image:
    rng = np.random.default_rng(seed)
    rough = Image.fromarray(rng.integers(0, 256, (27, 48), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    fine = Image.fromarray(rng.integers(0, 256, (270, 480), dtype=np.uint8)).resize((width, height))
    return Image.blend(rough, fine, 0.2)


def luma(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize(luma_size(*image.size), Image.Resampling.BOX))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1920, 1080), (512, 288)),
        ((1080, 1920), (288, 512)),
        ((320, 240), (320, 240)),
        ((4000, 10), (512, 32)),
        ((1, 1), (32, 32)),
    ],
)
def test_luma_size(size: tuple[int, int], expected: tuple[int, int]):
    assert luma_size(*size) == expected


def test_sharpness_falls_with_blur_and_not_with_resolution():
    sharp = scene()
    found = [measure(luma(sharp.filter(ImageFilter.GaussianBlur(radius)))).sharpness for radius in (0, 4, 8, 16)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 4 * found[2]
    for size in ((1280, 720), (960, 540)):
        smaller = measure(luma(sharp.resize(size, Image.Resampling.BOX))).sharpness
        assert smaller == pytest.approx(found[0], rel=0.2)


def test_sharpness_is_the_variance_of_the_laplacian():
    image = np.zeros((5, 5), np.uint8)
    image[2, 2] = 10
    assert sharpness(image) == pytest.approx(np.var([0, 10, 0, 10, -40, 10, 0, 10, 0]))
    assert sharpness(np.full((64, 64), 77, np.uint8)) == 0
    assert sharpness(np.full((2, 64), 77, np.uint8)) == 0


def test_brightness():
    assert measure(np.full((288, 512), 99, np.uint8)).brightness == 99


def test_hash_is_steady_under_what_does_not_matter_and_moves_with_what_does():
    one = luma(scene(0))
    noise = np.random.default_rng(5).normal(0, 3, one.shape)
    same = [
        np.clip(one + noise, 0, 255).astype(np.uint8),
        np.clip(one * 0.9 + 12.0, 0, 255).astype(np.uint8),
        np.asarray(Image.fromarray(one).resize((LUMA_SIDE // 2, 144), Image.Resampling.BOX)),
    ]
    assert all(hamming(phash(one), phash(other)) <= 4 for other in same)
    assert all(hamming(phash(one), phash(luma(scene(seed)))) > 15 for seed in range(1, 8))
    assert hamming(phash(one), phash(np.ascontiguousarray(one[:, ::-1]))) > 15


def test_hash_as_text():
    quality = measure(np.full((32, 32), 9, np.uint8))
    assert len(quality.phash_hex) == 16
    assert int(quality.phash_hex, 16) == quality.phash


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_hamming(one: int, other: int):
    assert hamming(one, other) == f"{one ^ other:b}".count("1")


def test_near_duplicates_are_compared_with_the_last_kept_ones():
    def far(n: int) -> int:
        return ((n + 1) * 0x9E3779B97F4A7C15) % 2**64

    seen = NearDuplicates(2)
    assert [seen.seen(value) for value in (0, 0b11, 0b111, far(1), 0b101)] == [False, True, False, False, True]
    for n in range(2, 2 + RECENT):
        assert not seen.seen(far(n))
    assert not seen.seen(0)  # long ago
    off = NearDuplicates(None)
    assert not any(off.seen(0) for _ in range(3))
    exact = NearDuplicates(0)
    assert [exact.seen(value) for value in (1, 1, 3)] == [False, True, False]

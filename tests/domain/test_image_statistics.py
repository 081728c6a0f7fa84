from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from detection_assets.domain.image_statistics import NAMES, statistics
from detection_assets.domain.quality import measure


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_flat_picture_has_its_own_levels() -> None:
    flat = np.full((40, 60, 3), (200, 100, 50), np.uint8)
    found = statistics(flat)
    assert tuple(found) == NAMES
    assert [found[name] for name in ("red", "green", "blue")] == pytest.approx([200, 100, 50])
    assert found["brightness"] == pytest.approx(round(0.299 * 200 + 0.587 * 100 + 0.114 * 50))
    assert found["contrast"] == found["sharpness"] == 0


def test_the_figures_are_those_that_frames_are_judged_by() -> None:
    picture = noise(100, 120)
    grey = np.asarray(Image.fromarray(picture).convert("L"))
    found, quality = statistics(picture), measure(grey)
    assert found["brightness"] == pytest.approx(quality.brightness, abs=0.1)
    assert found["sharpness"] == pytest.approx(quality.sharpness, rel=0.01)
    assert found["contrast"] == pytest.approx(grey.std(), rel=0.01)


@pytest.mark.parametrize("shape", [(480, 640), (1080, 1920), (3000, 100)])
def test_a_large_picture_is_like_its_small_self(shape: tuple[int, int]) -> None:
    rough = np.kron(noise(max(1, shape[0] // 60), max(1, shape[1] // 60)), np.ones((60, 60, 1), np.uint8))
    half = np.ascontiguousarray(np.kron(rough, np.ones((2, 2, 1), np.uint8)))
    for name, value in statistics(rough).items():
        if name != "sharpness":
            assert statistics(half)[name] == pytest.approx(value, rel=0.03, abs=1.5), name


def test_each_change_moves_its_own_figure() -> None:
    smooth = Image.fromarray(noise(200, 300)).filter(ImageFilter.GaussianBlur(1.5))
    before = statistics(np.asarray(smooth))
    blurred = statistics(np.asarray(smooth.filter(ImageFilter.GaussianBlur(3))))
    dark = statistics((np.asarray(smooth) * 0.5).astype(np.uint8))
    assert blurred["sharpness"] < 0.2 * before["sharpness"]
    assert blurred["brightness"] == pytest.approx(before["brightness"], abs=1)
    assert dark["brightness"] == pytest.approx(before["brightness"] / 2, abs=1)
    assert dark["contrast"] == pytest.approx(before["contrast"] / 2, rel=0.1)


def test_views_and_tiny_pictures_are_measured() -> None:
    picture = noise(60, 80)
    assert statistics(picture[::-1, ::-1])["brightness"] == pytest.approx(statistics(picture)["brightness"], abs=0.1)
    for shape in ((1, 1), (2, 700), (700, 2)):
        assert all(np.isfinite(value) for value in statistics(noise(*shape)).values()), shape


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)],
)
def test_what_is_no_picture_is_refused(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a picture is height x width x 3, uint8"):
        statistics(array)

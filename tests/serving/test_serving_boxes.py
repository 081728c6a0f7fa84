"""Placing and suppressing, against plain definitions of both."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection_assets.serving.boxes import CHUNK, Letterbox, suppress

sides = st.integers(1, 4000)


@settings(deadline=None)
@given(sides, sides, st.integers(1, 20), st.integers(1, 20))
def test_a_picture_fits_and_boxes_come_back(width: int, height: int, rows: int, columns: int) -> None:
    size = (rows * 32, columns * 32)
    place = Letterbox.fit(width, height, size)
    assert 0 <= place.left <= size[1] - place.scaled_width
    assert 0 <= place.top <= size[0] - place.scaled_height
    assert place.scaled_width == size[1] or place.scaled_height == size[0]
    whole = [place.left, place.top, place.left + place.scaled_width, place.top + place.scaled_height]
    assert np.allclose(place.restore(np.array([whole], np.float32)), [[0, 0, width, height]], atol=0.01 * max(width, 1))
    outside = place.restore(np.array([[-1e4, -1e4, 1e4, 1e4]], np.float32))
    assert outside.tolist() == [[0, 0, width, height]]


def by_definition(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, iou: float, max_det: int) -> list[int]:
    kept: list[int] = []
    for index in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        for other in kept:
            a, b = boxes[index].astype(float), boxes[other].astype(float)
            width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
            height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
            union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
            if classes[index] == classes[other] and union and width * height / union > iou:
                break
        else:
            kept.append(index)
    return kept[:max_det]


@pytest.mark.parametrize("count", [0, 1, 7, 60, CHUNK, 2 * CHUNK + 1])
@pytest.mark.parametrize(("iou", "max_det"), [(0.7, 300), (0.3, 300), (0.0, 300), (1.0, 300), (0.5, 9)])
def test_suppression_is_greedy_within_a_class(count: int, iou: float, max_det: int) -> None:
    rng = np.random.default_rng(count)
    # Halves of pixels, exact in float32 also at a class's offset: no rounding to blame for a difference.
    corner = rng.integers(0, 300, (count, 2)) / 2
    boxes = np.concatenate([corner, corner + rng.integers(2, 200, (count, 2)) / 2], axis=1).astype(np.float32)
    scores, classes = rng.integers(1, 100, count).astype(np.float32) / 100, rng.integers(0, 3, count)
    kept = suppress(boxes, scores, classes, iou, max_det)
    assert kept.tolist() == by_definition(boxes, scores, classes, iou, max_det)

"""The arithmetic around the network: where a picture lies in the network's input, and which boxes survive.

Plain numpy, so that it can be checked against other implementations without a model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CLASS_OFFSET = 7680
"""Pixels between the planes of two classes in class-aware suppression. The same as ultralytics', because float32
rounding at this offset decides ties."""

MAX_CANDIDATES = 30_000
"""Most boxes that enter suppression, the most confident first; again as ultralytics."""

CHUNK = 256
"""Candidates compared with each other at a time: bounds memory at 256 x 256 whatever the threshold lets through."""


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Where a picture lies in the network's input: scaled to fit, centred, the rest padded.

    Attributes:
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
        scaled_width: Width of the picture inside the input.
        scaled_height: Height of the picture inside the input.
        left: Padding left of it.
        top: Padding above it.
    """

    width: int
    height: int
    scaled_width: int
    scaled_height: int
    left: int
    top: int

    @classmethod
    def fit(cls, width: int, height: int, size: tuple[int, int]) -> Letterbox:
        """Places a picture of `width` x `height` in an input of `size` (height, width).

        Sides are rounded and odd padding goes to the bottom and the right, as in training: half a pixel of difference
        here moves every box.
        """
        scale = min(size[0] / height, size[1] / width)
        scaled_width, scaled_height = max(round(width * scale), 1), max(round(height * scale), 1)
        left, top = round((size[1] - scaled_width) / 2 - 0.1), round((size[0] - scaled_height) / 2 - 0.1)
        return cls(width, height, scaled_width, scaled_height, left, top)

    def restore(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Takes boxes from the network's input back to the picture.

        Args:
            boxes: N x 4, x1 y1 x2 y2 in pixels of the network's input.

        Returns:
            N x 4, x1 y1 x2 y2 in pixels of the picture, clipped to it.
        """
        gain_x, gain_y = self.scaled_width / self.width, self.scaled_height / self.height
        shift = np.array([self.left, self.top] * 2, np.float32)
        gain = np.array([gain_x, gain_y] * 2, np.float32)
        limit = np.array([self.width, self.height] * 2, np.float32)
        return np.clip((boxes - shift) / gain, 0, limit)


def overlaps(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of each box of one table with each of another.

    Args:
        first: N x 4, x1 y1 x2 y2.
        second: M x 4, x1 y1 x2 y2.

    Returns:
        N x M, between 0 and 1; 0 where both boxes are empty.
    """
    a, b = first[:, None], second[None]
    width = np.maximum(np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0]), 0)
    height = np.maximum(np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1]), 0)
    shared = width * height
    area_a = (first[:, 2] - first[:, 0]) * (first[:, 3] - first[:, 1])
    area_b = (second[:, 2] - second[:, 0]) * (second[:, 3] - second[:, 1])
    union = area_a[:, None] + area_b[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union != 0)


def suppress(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], classes: NDArray[np.int64], iou: float, max_det: int
) -> NDArray[np.int64]:
    """Greedy non-maximum suppression within each class.

    Works through the candidates in chunks, most confident first, and stops at `max_det`: a threshold that lets
    thousands through costs milliseconds, where comparing box by box costs a hundred times that.

    Args:
        boxes: N x 4, x1 y1 x2 y2 in pixels.
        scores: N confidences.
        classes: N class ids.
        iou: A box goes if it overlaps a kept one of its class by more than this.
        max_det: Most boxes to keep.

    Returns:
        Indices of the kept boxes, most confident first.
    """
    order = np.argsort(-scores, kind="stable")[:MAX_CANDIDATES]
    apart = boxes + (classes.astype(np.float32) * np.float32(CLASS_OFFSET))[:, None]
    # float64, so that float32 overlaps are compared with the limit itself and not with its nearest float32
    limit = np.float64(iou)
    kept = np.empty(0, np.int64)
    for start in range(0, len(order), CHUNK):
        chunk = order[start : start + CHUNK]
        if len(kept):
            chunk = chunk[~(overlaps(apart[kept], apart[chunk]) > limit).any(axis=0)]
        clash = np.triu(overlaps(apart[chunk], apart[chunk]) > limit, k=1)
        alive = np.ones(len(chunk), bool)
        for row in np.flatnonzero(clash.any(axis=1)):
            if alive[row]:
                alive &= ~clash[row]
        kept = np.concatenate([kept, chunk[alive]])
        if len(kept) >= max_det:
            break
    return kept[:max_det]

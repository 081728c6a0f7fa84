"""What a picture looks like in six numbers, to notice when the pictures that come are not those that taught.

The server measures each captured request, the drift report measures the frames of the dataset: both here, so that
what is compared was measured alike. Sharpness and brightness are those of `quality`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detection_assets.domain.quality import luma_size, sharpness

NAMES = ("brightness", "contrast", "sharpness", "red", "green", "blue")
"""The keys of `statistics`."""


def statistics(rgb: NDArray[np.uint8]) -> dict[str, float]:
    """Measures a picture: its luma on a copy of at most `quality.LUMA_SIDE` pixels a side, its colour in full.

    Args:
        rgb: H x W x 3 uint8, as displayed.

    Returns:
        brightness: Mean luma (ITU-R BT.601, full range), 0..255, as in `quality.measure`.
        contrast: Standard deviation of luma (root-mean-square contrast, Peli, JOSA A 7(10), 1990), 0..127.5.
        sharpness: Variance of the Laplacian of luma, as in `quality.sharpness`.
        red, green, blue: Mean level of each channel, 0..255.

    Raises:
        ValueError: If the array is no such picture.
    """
    import cv2

    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or not rgb.size:
        raise ValueError(f"a picture is height x width x 3, uint8; got {rgb.shape}, {rgb.dtype}")
    height, width = rgb.shape[:2]
    luma = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    size = luma_size(width, height)
    if size != (width, height):
        luma = cv2.resize(luma, size, interpolation=cv2.INTER_AREA)  # in grey: a third of the work
    mean, deviation = cv2.meanStdDev(luma)
    red, green, blue, _ = cv2.mean(rgb)
    return {
        "brightness": float(mean[0, 0]),
        "contrast": float(deviation[0, 0]),
        "sharpness": sharpness(np.asarray(luma)),
        "red": red,
        "green": green,
        "blue": blue,
    }

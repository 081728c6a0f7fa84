"""How good a frame is to learn from: sharpness, brightness, and whether it shows what another one already shows.

All figures are taken from the same small luma picture, so that they cost little and compare across resolutions.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

LUMA_SIDE = 512
"""Pixels of the longer side, at most, of the luma picture that figures are taken from."""

RECENT = 5
"""A frame is compared with so many of the frames kept just before it."""

_HASH_SIDE = 32
_HASH_BITS = 8


@dataclass(frozen=True, slots=True)
class Quality:
    """Figures of one frame.

    Attributes:
        sharpness: Variance of the Laplacian; 0 for a flat picture, a few tens when blurred, hundreds when sharp.
        brightness: Mean luma, 0..255.
        phash: 64-bit perceptual hash.
    """

    sharpness: float
    brightness: float
    phash: int

    @property
    def phash_hex(self) -> str:
        """The hash as 16 hexadecimal digits."""
        return f"{self.phash:016x}"


def luma_size(width: int, height: int) -> tuple[int, int]:
    """Size of the luma picture for a frame: the longer side is at most `LUMA_SIDE`, the shape is kept.

    Smaller frames stay as they are: scaled up, every frame of a small camera would count as blurred.

    Args:
        width: Pixels of the frame.
        height: Pixels of the frame.

    Returns:
        Width and height, each at least `32`.
    """
    scale = min(1.0, LUMA_SIDE / max(width, height))
    return max(_HASH_SIDE, round(width * scale)), max(_HASH_SIDE, round(height * scale))


def measure(luma: np.ndarray) -> Quality:
    """Measures a frame.

    Args:
        luma: H x W uint8, full range (0 black, 255 white), of the size that `luma_size` gives.
    """
    return Quality(sharpness(luma), float(luma.mean()), phash(luma))


def sharpness(luma: np.ndarray) -> float:
    """Variance of the 4-neighbour Laplacian (Pech-Pacheco et al., ICPR 2000), borders left out.

    Args:
        luma: H x W uint8.
    """
    if min(luma.shape) < 3:
        return 0.0
    grey = luma.astype(np.int16)
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    return float(laplacian.var(dtype=np.float64))


def phash(luma: np.ndarray) -> int:
    """64-bit perceptual hash: signs of the 8 x 8 lowest DCT-II coefficients of a 32 x 32 luma, about their median.

    The mean (the first coefficient) takes no part in the median, so that brightness alone does not turn bits.

    Args:
        luma: H x W uint8, both sides at least 32.
    """
    small = _shrunk(luma)
    spectrum = _DCT @ small @ _DCT.T
    flat = spectrum.ravel()
    bits = flat > np.median(flat[1:])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def phash_of(rgb: np.ndarray) -> str:
    """The perceptual hash of a picture, 16 hexadecimal digits, as extraction takes it of a frame.

    Args:
        rgb: H x W x 3 uint8, as displayed.
    """
    import cv2

    size = luma_size(rgb.shape[1], rgb.shape[0])
    luma = cv2.resize(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
    return f"{phash(np.asarray(luma)):016x}"


def _dct_rows() -> np.ndarray:
    frequency, place = np.arange(_HASH_BITS)[:, None], np.arange(_HASH_SIDE)[None, :]
    return np.cos(np.pi * frequency * (2 * place + 1) / (2 * _HASH_SIDE))


_DCT = _dct_rows()


def _shrunk(luma: np.ndarray) -> np.ndarray:
    """Averages over 32 x 32 areas, as even in size as whole pixels allow."""
    rows = np.linspace(0, luma.shape[0], _HASH_SIDE + 1).astype(np.int64)
    columns = np.linspace(0, luma.shape[1], _HASH_SIDE + 1).astype(np.int64)
    total = np.add.reduceat(luma.astype(np.float64), rows[:-1], axis=0)
    total = np.add.reduceat(total, columns[:-1], axis=1)
    return total / (np.diff(rows)[:, None] * np.diff(columns)[None, :])


def hamming(one: int, other: int) -> int:
    """Bits in which two hashes differ."""
    return (one ^ other).bit_count()


class NearDuplicates:
    """Tells whether a frame shows nothing new beside the frames kept just before it.

    Args:
        distance: Hashes that differ in at most so many bits are duplicates; None finds none.
    """

    def __init__(self, distance: int | None):
        self._distance = distance
        self._kept: deque[int] = deque(maxlen=RECENT)

    def seen(self, phash: int) -> bool:
        """Compares a frame with the recent ones, and remembers it as kept unless it is a duplicate.

        Args:
            phash: Its hash. Frames must come in display order.
        """
        if self._distance is None:
            return False
        if any(hamming(phash, kept) <= self._distance for kept in self._kept):
            return True
        self._kept.append(phash)
        return False

"""A small painter: shapes are signed distances on a grid in centimetres, so edges are smooth at any scale.

What it makes is a `Sprite`: a premultiplied RGBA picture that knows where its origin lies and how large it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[Any]
Colour = Sequence[float] | NDArray[Any]

SOLID = 150
"""Alpha (of 255) from which a pixel counts as the object itself; what is below is its shadow."""
SHADOW_MAX = 0.45
"""The darkest that a shadow gets, as alpha: it stays clear of `SOLID`."""


@dataclass(frozen=True)
class Sprite:
    """A flat picture of a thing.

    Attributes:
        image: H x W x 4 uint8, RGB premultiplied by alpha.
        ppc: Pixels a centimetre.
        origin: Column and row of the thing's own (0, 0).
    """

    image: NDArray[Any]
    ppc: float
    origin: tuple[float, float]

    def local(self) -> NDArray[np.float64]:
        """The 3 x 3 matrix from pixel coordinates (corner convention) to centimetres, x right and y up."""
        return np.array(
            [
                [1 / self.ppc, 0, -self.origin[0] / self.ppc],
                [0, -1 / self.ppc, self.origin[1] / self.ppc],
                [0, 0, 1],
            ]
        )


class Canvas:
    """Paints layers over each other on a grid of centimetres (x right, y up).

    Attributes:
        x: Abscissa of each pixel's centre.
        y: Ordinate of each pixel's centre.
    """

    def __init__(self, left: float, right: float, bottom: float, top: float, ppc: float) -> None:
        width, height = int(np.ceil((right - left) * ppc)), int(np.ceil((top - bottom) * ppc))
        self.ppc = ppc
        self.origin = (-left * ppc, top * ppc)
        xs = ((np.arange(width) + 0.5) / ppc + left).astype(np.float32)
        ys = (top - (np.arange(height) + 0.5) / ppc).astype(np.float32)
        self.x, self.y = np.meshgrid(xs, ys)
        self._rgb = np.zeros((height, width, 3), np.float32)
        self._alpha = np.zeros((height, width), np.float32)

    def cover(self, distance: Field) -> Field:
        """Turns a signed distance in centimetres (negative inside) into coverage 0..1."""
        return np.clip(0.5 - distance * self.ppc, 0, 1)

    def paint(self, colour: Colour, coverage: Field) -> None:
        """Lays a colour (one, or one a pixel; 0..1) over what is there.

        Args:
            colour: RGB.
            coverage: H x W, 0..1.
        """
        source = np.asarray(colour, np.float32)
        self._rgb *= (1 - coverage)[..., None]
        self._rgb += source * coverage[..., None]
        self._alpha += coverage * (1 - self._alpha)

    def shadow(self, distance: Field, reach: float, strength: float) -> None:
        """Darkens around a shape, fading out `reach` centimetres away. Call it before the shape is painted."""
        fade = np.clip(1 - distance / reach, 0, 1) ** 2
        self.paint((0.0, 0.0, 0.0), np.minimum(fade * strength, SHADOW_MAX).astype(np.float32))

    def polygon(self, points: Sequence[tuple[float, float]]) -> Field:
        """The coverage of a filled polygon, its corners in centimetres."""
        import cv2

        corners = np.array(points, np.float64) * [self.ppc, -self.ppc] + self.origin
        mask = np.zeros(self.x.shape, np.uint8)
        cv2.fillPoly(mask, [np.round((corners - 0.5) * 16).astype(np.int32)], (255,), cv2.LINE_AA, 4)
        return mask.astype(np.float32) / 255

    def sprite(self) -> Sprite:
        """What has been painted so far."""
        rgba = np.dstack([self._rgb, self._alpha])
        return Sprite(np.ascontiguousarray(np.clip(rgba * 255 + 0.5, 0, 255).astype(np.uint8)), self.ppc, self.origin)


def capsule(
    x: Field, y: Field, start: tuple[float, float], end: tuple[float, float], r0: float, r1: float
) -> tuple[Field, Field, Field]:
    """A tapered rod.

    Args:
        x: Grid abscissa.
        y: Grid ordinate.
        start: One end.
        end: The other end.
        r0: Radius at `start`.
        r1: Radius at `end`.

    Returns:
        Signed distance, position along the rod (0..1), and position across it (-1..1 inside).
    """
    dx, dy = end[0] - start[0], end[1] - start[1]
    length2 = dx * dx + dy * dy
    px, py = x - start[0], y - start[1]
    along = np.clip((px * dx + py * dy) / length2, 0, 1)
    radius = r0 + (r1 - r0) * along
    away = np.hypot(px - along * dx, py - along * dy)
    side = np.sign(dx * py - dy * px)
    return away - radius, along, side * away / radius


def lit(base: Colour, nx: Field, ny: Field, light: Sequence[float], gloss: float, ambient: float = 0.42) -> Field:
    """Shades a rounded surface by Lambert's and Blinn's rules, seen along z.

    Args:
        base: The surface's own colour.
        nx: The normal's horizontal part.
        ny: The normal's vertical part.
        light: Direction to the light, normalised.
        gloss: Strength of the highlight, 0..1.
        ambient: Share of light that comes from everywhere.

    Returns:
        H x W x 3 colours.
    """
    nz = np.sqrt(np.clip(1 - nx * nx - ny * ny, 0, 1))
    lx, ly, lz = light
    diffuse = np.clip(nx * lx + ny * ly + nz * lz, 0, 1)
    half = np.array([lx, ly, lz + 1.0])
    hx, hy, hz = half / np.linalg.norm(half)
    highlight = np.clip(nx * hx + ny * hy + nz * hz, 0, 1) ** 40 * gloss
    shade = np.asarray(base, np.float32) * (ambient + (1.05 - ambient) * diffuse)[..., None] + highlight[..., None]
    return np.clip(shade, 0, 1).astype(np.float32)


def mix(one: Colour, other: Colour, share: Field) -> Field:
    """Blends two colours by a field of 0..1."""
    a, b = np.asarray(one, np.float32), np.asarray(other, np.float32)
    return a + (b - a) * share[..., None]


def clouds(rng: np.random.Generator, shape: tuple[int, int], cells: float) -> Field:
    """Smooth noise in 0..1 with about `cells` bumps across the shorter side."""
    import cv2

    step = max(1.0, min(shape) / cells)
    small = rng.random((max(2, round(shape[0] / step)), max(2, round(shape[1] / step)))).astype(np.float32)
    return np.clip(cv2.resize(small, shape[::-1], interpolation=cv2.INTER_CUBIC), 0, 1)


def smoothstep(low: float, high: float, value: Field) -> Field:
    """Goes smoothly from 0 at `low` to 1 at `high`."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)

"""Hands and forearms that reach into the picture: they bring things, take them away, and cover others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detection_assets.samples.canvas import Canvas, Sprite, capsule, clouds, lit, mix, smoothstep
from detection_assets.samples.geometry import Camera, Matrix, Vector, ease, unit
from detection_assets.samples.packaging import RGB

SKINS: list[RGB] = [(0.93, 0.74, 0.62), (0.82, 0.60, 0.45), (0.60, 0.40, 0.28), (0.38, 0.25, 0.18)]


def arm(skin: RGB, sleeve: RGB, bare: float, ppc: float, light: tuple[float, ...], seed: int) -> Sprite:
    """A right hand with its forearm, fingertips up, the grip at (0, 0).

    Args:
        skin: Colour of hand (or glove).
        sleeve: Colour of the sleeve.
        bare: Length of forearm that the sleeve leaves bare, cm.
        ppc: Pixels a centimetre.
        light: Direction to the light.
        seed: Of the folds in the cloth.
    """
    canvas = Canvas(-9, 9, -52, 6.5, ppc)
    x, y = canvas.x, canvas.y
    rng = np.random.default_rng(seed)
    folds = clouds(rng, x.shape, 7)

    def limb(
        start: tuple[float, float], end: tuple[float, float], r0: float, r1: float, colour: RGB, dark: float
    ) -> None:
        distance, along, across = capsule(x, y, start, end, r0, r1)
        turn = np.arctan2(end[1] - start[1], end[0] - start[0])
        nx, ny = -np.sin(turn) * across * 0.95, np.cos(turn) * across * 0.95
        base = mix(colour, tuple(c * dark for c in colour), along)
        base = base * (0.93 + 0.12 * folds)[..., None]
        canvas.paint(lit(base, nx, ny, light, 0.10, ambient=0.5), canvas.cover(distance))

    limb((1.0, -14.0), (2.0, -52.0), 3.2, 4.3, skin, 0.95)
    cuff = -9.0 - bare
    distance, along, across = capsule(x, y, (1.2, cuff), (2.2, -54.0), 4.3, 6.0)
    cloth = np.asarray(sleeve, np.float32) * (0.80 + 0.38 * folds)[..., None]
    cloth = cloth * (1 - 0.25 * smoothstep(0.10, 0.0, along))[..., None]
    canvas.paint(lit(cloth, across * 0.9, np.zeros_like(across), light, 0.03, ambient=0.5), canvas.cover(distance))
    limb((-3.6, -2.6), (-2.6, 1.2), 1.15, 0.95, skin, 0.9)
    limb((-3.0, -6.5), (-3.6, -2.6), 1.5, 1.2, skin, 1.0)
    limb((0.6, -5.6), (0.9, -12.0), 4.1, 3.0, skin, 0.96)
    for k, (base_x, tip) in enumerate(((-1.6, 3.2), (0.3, 4.2), (2.1, 3.7), (3.7, 2.0))):
        limb((base_x, -3.4), (base_x * 0.82, tip), 1.12 - 0.05 * k, 0.86, skin, 0.9)
        nail = np.hypot((x - base_x * 0.82) / 0.5, (y - tip - 0.15) / 0.62) - 1
        canvas.paint(tuple(min(1.0, c * 1.12 + 0.03) for c in skin), canvas.cover(nail * 0.5) * 0.55)
    return canvas.sprite()


@dataclass(frozen=True)
class Visit:
    """A hand that comes, does something at a place, and goes.

    Attributes:
        spot: World point of the grip.
        outside: World point where the hand starts and ends, out of the picture.
        elbow: From the hand to the elbow.
        start: When it enters, seconds.
        way: Seconds for each way.
        rest: Seconds at the spot.
        lift: How high a thing is lifted over the others on its way, cm.
        carries: `in`, `out` or `nothing`.
    """

    spot: Vector
    outside: Vector
    elbow: Vector
    start: float
    way: float
    rest: float
    lift: float
    carries: str

    @property
    def grip(self) -> float:
        """When the thing changes between the hand and the shelf."""
        return self.start + self.way + self.rest * 0.5

    @property
    def end(self) -> float:
        """When the hand has left."""
        return self.start + 2 * self.way + self.rest

    def hand(self, time: float) -> Vector | None:
        """Where the grip is, or None while nobody is there."""
        if not self.start < time < self.end:
            return None
        before, after = time - self.start, self.end - time
        share = ease(min(before, after) / self.way)
        arc = np.array([0.0, self.lift * 4 * share * (1 - share), 0.0])
        return self.outside + (self.spot - self.outside) * share + arc

    def holding(self, time: float) -> bool:
        """Whether the thing is in the hand now."""
        if self.carries == "nothing" or not self.start < time < self.end:
            return False
        return time < self.grip if self.carries == "in" else time >= self.grip

    def stands(self, time: float) -> bool:
        """Whether the thing is at its spot now."""
        if self.carries == "nothing":
            return True
        return time >= self.grip if self.carries == "in" else time < self.grip

    def forearm(self, hand: Vector, camera: Camera) -> Matrix:
        """The plane of the arm's sprite: along the forearm, and as square to the viewer as that allows."""
        along = unit(-self.elbow)
        across = unit(np.cross(along, unit(hand - camera.eye)))
        return np.column_stack([across, along, hand])

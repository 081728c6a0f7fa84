"""Things on a theatre's tray, seen from above: steel instruments, specimens, and what lies among them.

A sprite lies in its own plane, its length along x. Steel is drawn twice, once with the lamp glancing off it: the stage
blends the two as the camera moves.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from detection_assets.samples.canvas import Canvas, Field, Sprite, capsule, clouds, lit, mix, smoothstep
from detection_assets.samples.packaging import RGB

Painter = Callable[[Canvas, float], None]
Light = tuple[float, ...]


def steel(across: Field, along: Field, glint: float, shade: RGB) -> Field:
    """The colours of a polished bar: bands of what it mirrors, and a glare that `glint` (0..1) brings out.

    Args:
        across: Position across the bar, -1..1.
        along: Position along it, 0..1.
        glint: How much the lamp glances off.
        shade: The steel's tint.
    """
    bands = 0.50 + 0.30 * np.cos(across * 4.2 + 0.6) + 0.08 * np.sin(along * 9 + across * 3)
    glare = np.exp(-(((across + 0.15) / 0.30) ** 2)) * np.exp(-(((along - 0.55) / 0.30) ** 2))
    tone = bands + glint * 0.9 * glare
    return np.clip(np.asarray(shade, np.float32) * tone[..., None], 0, 1).astype(np.float32)


class Metal:
    """A painter's helper for one instrument: rods and plates of the same steel."""

    def __init__(self, canvas: Canvas, glint: float, shade: RGB) -> None:
        self.canvas, self.glint, self.shade = canvas, glint, shade

    def rod(self, start: tuple[float, float], end: tuple[float, float], r0: float, r1: float) -> None:
        """A tapered rod."""
        distance, along, across = capsule(self.canvas.x, self.canvas.y, start, end, r0, r1)
        self.canvas.paint(steel(across, along, self.glint, self.shade), self.canvas.cover(distance))

    def ring(self, middle: tuple[float, float], wide: float, tall: float, thick: float) -> None:
        """A finger ring."""
        x, y = self.canvas.x - middle[0], self.canvas.y - middle[1]
        rho = np.hypot(x / wide, y / tall)
        distance = np.abs(rho - 1) * min(wide, tall) - thick
        across = np.clip((rho - 1) * min(wide, tall) / thick, -1, 1)
        along = np.arctan2(y, x) / (2 * np.pi) + 0.5
        self.canvas.paint(steel(across, along, self.glint, self.shade), self.canvas.cover(distance))

    def plate(self, points: list[tuple[float, float]], slope: float) -> None:
        """A flat or ground part; `slope` turns its face to or from the lamp."""
        ys = [p[1] for p in points]
        middle, half = (max(ys) + min(ys)) / 2, max((max(ys) - min(ys)) / 2, 0.1)
        across = np.clip((self.canvas.y - middle) / half, -1, 1) * 0.6 + slope
        along = np.clip((self.canvas.x - points[0][0]) / 6 + 0.5, 0, 1)
        self.canvas.paint(steel(across, along, self.glint, self.shade), self.canvas.polygon(points))


def both(
    box: tuple[float, float, float, float], ppc: float, paint: Painter, outline: Callable[[Canvas], Field]
) -> tuple[Sprite, Sprite]:
    """Draws an instrument dull and glinting, its shadow below.

    Args:
        box: Left, right, bottom and top of the sprite, cm.
        ppc: Pixels a centimetre.
        paint: Paints it on a canvas for a glint of 0..1.
        outline: Its rough signed distance, for the shadow.
    """
    sprites: list[Sprite] = []
    for glint in (0.0, 1.0):
        canvas = Canvas(*box, ppc)
        canvas.shadow(outline(canvas), 0.9, 0.42)
        paint(canvas, glint)
        sprites.append(canvas.sprite())
    return sprites[0], sprites[1]


def scalpel(ppc: float, shade: RGB, rng: np.random.Generator) -> tuple[Sprite, Sprite]:
    """A flat handle with grooves, and a small curved or pointed blade."""
    length, wide = rng.uniform(11.0, 13.0), rng.uniform(0.48, 0.60)
    pointed, plastic = rng.random() < 0.4, rng.random() < 0.25
    grip = [(0.16, 0.46, 0.36), (0.20, 0.36, 0.62)][rng.integers(2)]
    left = -length / 2

    def paint(canvas: Canvas, glint: float) -> None:
        metal = Metal(canvas, glint, shade)
        neck = left + length * 0.80
        metal.plate(
            [(neck - 1.0, -wide * 0.5), (neck + 1.4, -wide * 0.4), (neck + 1.4, wide * 0.4), (neck - 1, wide * 0.5)],
            0.1,
        )
        tip = left + length + 2.6
        belly = 0.25 if pointed else 0.95
        blade = [(neck + 0.8, 0.45), (tip - 0.9, 0.40), (tip, 0.05 if pointed else -0.25)]
        blade += [(tip - 0.8, -belly * 0.75), (tip - 1.9, -belly), (neck + 0.9, -0.45)]
        metal.plate(blade, -0.25)
        metal.plate([(neck + 1.2, -0.30), (tip - 1.8, -belly), (tip - 0.8, -belly * 0.75), (tip - 1.6, -0.3)], 0.75)
        waist = [(left, -wide), (left + length * 0.3, -wide * 0.72), (neck, -wide), (neck, wide)]
        waist += [(left + length * 0.3, wide * 0.72), (left, wide)]
        if plastic:
            canvas.paint(
                lit(grip, np.zeros_like(canvas.y), np.clip(canvas.y / wide, -0.9, 0.9) * 0.7, (0, 0.5, 0.87), 0.3),
                canvas.polygon(waist),
            )
        else:
            metal.plate(waist, 0.0)
        for k in range(6):
            x = neck - 0.5 - 0.38 * k
            canvas.paint(
                (0.18, 0.19, 0.21),
                canvas.cover(np.maximum(np.abs(canvas.x - x) - 0.07, np.abs(canvas.y) - wide * 0.7)) * 0.8,
            )

    def outline(canvas: Canvas) -> Field:
        return capsule(canvas.x, canvas.y - -0.2, (left, 0.0), (left + length + 2.2, 0.0), wide, 0.5)[0]

    return both((left - 1.2, left + length + 3.6, -2.0, 1.8), ppc, paint, outline)


def forceps(ppc: float, shade: RGB, rng: np.random.Generator) -> tuple[Sprite, Sprite]:
    """Tweezers: two springy legs joined at one end, ridged where they are held."""
    length, gape = rng.uniform(12.0, 14.5), rng.uniform(0.9, 1.7)
    left = -length / 2

    def paint(canvas: Canvas, glint: float) -> None:
        metal = Metal(canvas, glint, shade)
        for side in (-1, 1):
            bow = side * gape
            metal.rod((left, side * 0.15), (left + length * 0.38, bow), 0.46, 0.52)
            metal.rod((left + length * 0.38, bow), (left + length * 0.62, bow * 0.92), 0.52, 0.42)
            metal.rod((left + length * 0.62, bow * 0.92), (left + length, side * gape * 0.22), 0.42, 0.13)
            for k in range(7):
                x = left + length * (0.40 + 0.028 * k)
                mark = np.maximum(np.abs(canvas.x - x) - 0.07, np.abs(canvas.y - bow) - 0.40)
                canvas.paint((0.20, 0.21, 0.23), canvas.cover(mark) * 0.75)
        metal.rod((left - 0.3, 0.0), (left + 1.0, 0.0), 0.50, 0.42)

    def outline(canvas: Canvas) -> Field:
        legs = [
            capsule(canvas.x, canvas.y + 0.3, (left, 0.0), (left + length * 0.5, side * gape), 0.5, 0.5)[0]
            for side in (-1, 1)
        ]
        return np.minimum(*legs)

    return both((left - 1.6, left + length + 1.0, -gape - 1.8, gape + 1.6), ppc, paint, outline)


def scissors(ppc: float, shade: RGB, rng: np.random.Generator) -> tuple[Sprite, Sprite]:
    """Two blades crossed on a screw, a ring at the end of each; open by more or less."""
    length, opening = rng.uniform(13.0, 15.5), rng.uniform(0.05, 0.26)
    tip, back = length * 0.42, -length * 0.50
    curve = rng.uniform(-0.5, 0.5)
    gold = rng.random() < 0.25

    def paint(canvas: Canvas, glint: float) -> None:
        for side in (-1, 1):
            rings = Metal(canvas, glint, (0.92, 0.76, 0.36) if gold else shade)
            metal = Metal(canvas, glint, shade)
            c, s = np.cos(side * opening), np.sin(side * opening)

            def turn(x: float, y: float, c: float = c, s: float = s) -> tuple[float, float]:
                return float(c * x - s * y), float(s * x + c * y)

            metal.rod(turn(0.0, 0.1 * side), turn(back * 0.66, -0.75 * side), 0.42, 0.34)
            blade = [
                turn(-0.8, -0.42),
                turn(tip * 0.5, -0.52),
                turn(tip, curve),
                turn(tip * 0.5, 0.42),
                turn(-0.8, 0.46),
            ]
            metal.plate(blade, 0.3 * side)
            rings.ring(turn(back * 0.84, -1.25 * side), 1.75, 1.25, 0.32)
        screw = np.hypot(canvas.x, canvas.y)
        canvas.paint((0.50, 0.51, 0.54), canvas.cover(screw - 0.42))
        canvas.paint(
            (0.16, 0.16, 0.18), canvas.cover(np.maximum(screw - 0.34, np.abs(canvas.y - canvas.x * 0.6) - 0.07))
        )

    def outline(canvas: Canvas) -> Field:
        shanks = [
            capsule(canvas.x, canvas.y + 0.3, (tip, 0.0), (back, side * (1.2 + opening * 5)), 0.3, 0.7)[0]
            for side in (-1, 1)
        ]
        return np.minimum(*shanks)

    reach = 3.4 + opening * 9
    return both((back - 2.8, tip + 1.4, -reach, reach), ppc, paint, outline)


def tumour(ppc: float, light: Light, rng: np.random.Generator) -> Sprite:
    """A specimen: a lobed, moist lump in pinks and yellows, with vessels and a darker core."""
    radius = rng.uniform(1.9, 3.2)
    canvas = Canvas(-radius * 1.7, radius * 1.7, -radius * 1.7, radius * 1.7, ppc)
    angle, rho = np.arctan2(canvas.y, canvas.x), np.hypot(canvas.x, canvas.y)
    lobes = sum(rng.uniform(0.02, 0.13) * np.sin(k * angle + rng.uniform(0, 2 * np.pi)) for k in range(2, 7))
    edge = radius * (1 + np.asarray(lobes, np.float32))
    canvas.shadow(np.hypot(canvas.x - 0.2, canvas.y + 0.3) - edge, 0.8, 0.44)
    lumps = clouds(rng, rho.shape, 6)
    rise = np.sqrt(np.clip(1 - (rho / edge) ** 2, 0, 1)) * 1.4 + 0.5 * lumps
    down, right = (np.asarray(slope) * ppc for slope in np.gradient(rise))
    steep = np.sqrt(1 + down**2 + right**2)
    nx, ny = -right / steep, down / steep
    flesh = mix((0.74, 0.36, 0.34), (0.88, 0.66, 0.48), smoothstep(0.45, 0.8, clouds(rng, rho.shape, 5)))
    flesh = mix(flesh, (0.42, 0.10, 0.12), smoothstep(0.55, 0.9, clouds(rng, rho.shape, 4)) * 0.85)
    vessel = np.abs(clouds(rng, rho.shape, 5) - 0.5)
    flesh = mix(flesh, (0.50, 0.06, 0.10), smoothstep(0.035, 0.0, vessel) * 0.75)
    canvas.paint(lit(flesh, nx, ny, light, 0.65), canvas.cover(rho - edge))
    return canvas.sprite()


def gauze(ppc: float, rng: np.random.Generator) -> Sprite:
    """A folded swab of woven cotton, often bloody: red and soft as a specimen, but flat."""
    half = rng.uniform(2.6, 4.0)
    canvas = Canvas(-half * 1.5, half * 1.5, -half * 1.5, half * 1.5, ppc)
    wavy = 0.18 * np.sin(canvas.y * 2.1 + rng.uniform(0, 6)), 0.18 * np.sin(canvas.x * 1.7 + rng.uniform(0, 6))
    square = np.maximum(np.abs(canvas.x + wavy[0]) - half, np.abs(canvas.y + wavy[1]) - half * 0.8)
    canvas.shadow(square, 0.6, 0.36)
    weave = 0.90 + 0.05 * np.sin(canvas.x * 17) + 0.05 * np.sin(canvas.y * 17)
    fold = 1 - 0.12 * smoothstep(0.12, 0.0, np.abs(canvas.x - half * 0.2))
    cloth = np.asarray((0.92, 0.92, 0.89), np.float32) * (weave * fold)[..., None]
    if rng.random() < 0.6:
        spot = np.hypot(canvas.x - rng.uniform(-1, 1), canvas.y - rng.uniform(-1, 1)) / half
        stain = smoothstep(0.9, 0.3, spot + 0.7 * (clouds(rng, spot.shape, 5) - 0.5))
        cloth = mix(cloth, (0.55, 0.07, 0.08), stain * 0.85)
    canvas.paint(cloth, canvas.cover(square))
    return canvas.sprite()


def syringe(ppc: float, rng: np.random.Generator) -> Sprite:
    """A syringe: as long and thin as a scalpel, but of clear plastic."""
    canvas = Canvas(-8.5, 8.5, -2.0, 2.0, ppc)
    x, y = canvas.x, canvas.y
    barrel = np.maximum(np.abs(x) - 3.6, np.abs(y) - 0.8)
    canvas.shadow(np.maximum(np.abs(x) - 5.5, np.abs(y + 0.2) - 0.8), 0.7, 0.36)
    canvas.paint((0.86, 0.88, 0.90), canvas.cover(np.maximum(np.abs(x + 5.2) - 1.8, np.abs(y) - 0.28)))
    canvas.paint((0.90, 0.92, 0.93), canvas.cover(np.maximum(np.abs(x + 7.0) - 0.2, np.abs(y) - 0.8)))
    shine = 0.72 + 0.25 * np.cos(y * 3.4 + 0.7)
    fill = [(0.82, 0.88, 0.92), (0.90, 0.80, 0.45), (0.86, 0.90, 0.93)][rng.integers(3)]
    canvas.paint(np.asarray(fill, np.float32) * shine[..., None], canvas.cover(barrel))
    canvas.paint((0.15, 0.16, 0.18), canvas.cover(np.maximum(np.abs(x + 1.4) - 0.35, np.abs(y) - 0.72)))
    canvas.paint((0.88, 0.90, 0.91), canvas.cover(np.maximum(np.abs(x + 3.7) - 0.2, np.abs(y) - 1.5)))
    for k in range(8):
        canvas.paint(
            (0.1, 0.1, 0.12), canvas.cover(np.maximum(np.abs(x + 0.2 - 0.4 * k) - 0.05, np.abs(y + 0.5) - 0.25)) * 0.8
        )
    hub, _, _ = capsule(x, y, (3.6, 0.0), (4.6, 0.0), 0.35, 0.28)
    canvas.paint([(0.20, 0.55, 0.30), (0.85, 0.45, 0.15), (0.25, 0.45, 0.75)][rng.integers(3)], canvas.cover(hub))
    needle, _, _ = capsule(x, y, (4.6, 0.0), (7.8, 0.0), 0.08, 0.05)
    canvas.paint((0.72, 0.73, 0.76), canvas.cover(needle))
    return canvas.sprite()


def bowl(ppc: float, light: Light, rng: np.random.Generator) -> Sprite:
    """A round steel bowl with a little fluid."""
    radius = rng.uniform(3.6, 5.0)
    canvas = Canvas(-radius * 1.3, radius * 1.3, -radius * 1.3, radius * 1.3, ppc)
    rho, angle = np.hypot(canvas.x, canvas.y), np.arctan2(canvas.y, canvas.x)
    canvas.shadow(np.hypot(canvas.x - 0.3, canvas.y + 0.4) - radius, 0.9, 0.44)
    tone = 0.56 + 0.26 * np.cos(angle * 2 + rng.uniform(0, 6)) * rho / radius + 0.16 * np.cos(rho * 2.2)
    canvas.paint(np.asarray((0.86, 0.88, 0.90), np.float32) * tone[..., None], canvas.cover(rho - radius))
    canvas.paint((0.93, 0.94, 0.95), canvas.cover(np.abs(rho - radius + 0.15) - 0.13))
    fluid = [(0.55, 0.30, 0.12), (0.62, 0.70, 0.74), (0.50, 0.12, 0.12)][rng.integers(3)]
    flat = np.full_like(rho, 0.05)
    canvas.paint(lit(fluid, canvas.x / radius * 0.3, flat, light, 0.5), canvas.cover(rho - radius * 0.62))
    return canvas.sprite()

"""Grown things of the fridge: apples and bananas, and those that are mistaken for them."""

from __future__ import annotations

import numpy as np

from detection_assets.samples.canvas import Canvas, Field, Sprite, capsule, clouds, lit, mix, smoothstep
from detection_assets.samples.packaging import RGB, Look

APPLES: list[tuple[RGB, RGB]] = [
    ((0.72, 0.07, 0.09), (0.86, 0.62, 0.22)),
    ((0.58, 0.04, 0.08), (0.66, 0.12, 0.10)),
    ((0.52, 0.70, 0.16), (0.70, 0.80, 0.34)),
    ((0.80, 0.72, 0.24), (0.62, 0.70, 0.22)),
    ((0.82, 0.20, 0.13), (0.80, 0.76, 0.34)),
]
"""Skin and blush of the sorts of apple."""


def _ball(radius: float, flat: float, look: Look, dip: float) -> tuple[Canvas, Field, Field, Field]:
    """A canvas with a round fruit's coverage and normals; `dip` is how deep the stem sits."""
    canvas = Canvas(-radius * 1.5, radius * 1.5, -radius * 0.55, radius * 2.5, look.ppc)
    middle = radius * flat
    dx, dy = canvas.x, (canvas.y - middle) / flat
    rho, angle = np.hypot(dx, dy), np.arctan2(dy, dx)
    edge = radius * (1 - dip * np.exp(-(((angle - np.pi / 2) / 0.34) ** 2)))
    edge *= 1 + 0.3 * dip * np.cos(3 * (angle - np.pi / 2))
    canvas.shadow(np.hypot(canvas.x, (canvas.y - 0.3) * 3.2) - radius * 0.8, radius * 0.75, 0.44)
    return canvas, canvas.cover(rho - edge), dx / edge, dy / edge


def apple(sort: int, look: Look, rng: np.random.Generator) -> Sprite:
    """An apple: streaked skin, pale specks, a stem in its hollow, sometimes a grower's sticker."""
    radius, flat = rng.uniform(3.6, 4.5), rng.uniform(0.86, 0.98)
    canvas, cover, nx, ny = _ball(radius, flat, look, rng.uniform(0.10, 0.16))
    skin, blush = APPLES[sort]
    skin = tuple(float(np.clip(c * rng.uniform(0.88, 1.12), 0, 1)) for c in skin)
    side = rng.uniform(0, 2 * np.pi)
    meridian = np.arctan2(nx, 0.3 + np.sqrt(np.clip(1 - nx * nx - ny * ny, 0, 1)))
    streak = 0.22 * np.sin(meridian * 23 + 2 * np.sin(ny * 5 + side)) * clouds(rng, nx.shape, 9)
    share = smoothstep(
        -0.15, 0.9, nx * np.cos(side) + ny * np.sin(side) + streak + 0.35 * (clouds(rng, nx.shape, 4) - 0.5)
    )
    base = mix(skin, blush, share)
    specks = smoothstep(0.93, 0.99, clouds(rng, nx.shape, 34))
    base = mix(base, (0.93, 0.86, 0.62), specks * 0.5)
    top = np.hypot(nx / 0.42, (ny - 0.86) / 0.24)
    base = mix(base, (0.42, 0.40, 0.12), smoothstep(1.0, 0.25, top) * 0.75)
    canvas.paint(lit(base, nx, ny, look.light, rng.uniform(0.25, 0.5)), cover)
    lean = rng.uniform(-0.5, 0.5)
    if rng.random() < 0.8:
        tip = (lean, 2 * radius * flat + rng.uniform(0.1, 0.8))
        stem, along, _ = capsule(canvas.x, canvas.y, (0.0, radius * flat * 1.72), tip, 0.16, 0.22)
        canvas.paint(mix((0.24, 0.15, 0.06), (0.45, 0.32, 0.16), along), canvas.cover(stem))
    if rng.random() < 0.3:
        at = np.hypot((canvas.x - rng.uniform(-1.4, 1.4)) / 1.1, canvas.y - radius * rng.uniform(0.7, 1.2))
        canvas.paint((0.93, 0.93, 0.88), canvas.cover(at - 0.62))
        canvas.paint((0.14, 0.34, 0.62), canvas.cover(at - 0.42))
    return canvas.sprite()


def tomato(look: Look, rng: np.random.Generator) -> Sprite:
    """A tomato: as red as an apple, flatter, glossier, with a green calyx."""
    radius, flat = rng.uniform(3.3, 4.1), rng.uniform(0.72, 0.82)
    canvas, cover, nx, ny = _ball(radius, flat, look, 0.05)
    base = mix((0.80, 0.10, 0.05), (0.88, 0.30, 0.08), smoothstep(0.2, 1.0, ny + 0.3 * clouds(rng, nx.shape, 3)))
    ribs = 0.94 + 0.06 * np.cos(np.arctan2(nx, 0.6) * 9)
    canvas.paint(lit(base * ribs[..., None], nx, ny, look.light, 0.75), cover)
    for k in range(6):
        angle = np.pi * (k + rng.uniform(-0.2, 0.2)) / 5
        start = (0.0, radius * flat * 1.86)
        end = (1.9 * np.cos(angle), start[1] + 0.7 * np.sin(angle) - 0.35)
        leaf, along, _ = capsule(canvas.x, canvas.y, start, end, 0.30, 0.05)
        canvas.paint(mix((0.16, 0.36, 0.10), (0.34, 0.54, 0.18), along), canvas.cover(leaf))
    return canvas.sprite()


def orange(look: Look, rng: np.random.Generator) -> Sprite:
    """An orange: pored peel, a small green button."""
    radius = rng.uniform(3.5, 4.3)
    canvas, cover, nx, ny = _ball(radius, 0.97, look, 0.02)
    pores = 0.90 + 0.14 * clouds(rng, nx.shape, 30)
    base = np.asarray((0.94, 0.50, 0.07), np.float32) * pores[..., None]
    canvas.paint(lit(base, nx, ny, look.light, 0.22), cover)
    button = np.hypot(canvas.x, (canvas.y - radius * 1.72) / 0.55) - 0.35
    canvas.paint((0.36, 0.42, 0.14), canvas.cover(button))
    return canvas.sprite()


def lemon(look: Look, rng: np.random.Generator) -> Sprite:
    """A lemon on its side: as yellow as a banana."""
    canvas = Canvas(-5.6, 5.6, -1.5, 6.5, look.ppc)
    tilt = rng.uniform(-0.4, 0.4)
    dx, dy = canvas.x, canvas.y - 2.7
    along, across = dx * np.cos(tilt) + dy * np.sin(tilt), dy * np.cos(tilt) - dx * np.sin(tilt)
    body = np.hypot(along / 3.9, across / 2.8)
    tip = np.hypot((np.abs(along) - 3.7) / 0.9, across / 0.75)
    canvas.shadow(np.hypot(canvas.x, (canvas.y - 0.3) * 3) - 3.2, 2.6, 0.42)
    distance = np.minimum((body - 1) * 2.8, (tip - 1) * 0.75)
    pores = 0.92 + 0.1 * clouds(rng, body.shape, 30)
    base = np.asarray((0.93, 0.80, 0.16), np.float32) * pores[..., None]
    nx, ny = np.clip(along / 4.6, -1, 1), np.clip(across / 2.9, -1, 1)
    canvas.paint(lit(base, nx, ny, look.light, 0.3), canvas.cover(distance))
    return canvas.sprite()


def banana(look: Look, rng: np.random.Generator) -> Sprite:
    """One to four bananas of a hand: curved, ridged, brown at both ends, with spots of age."""
    fingers = int(rng.integers(1, 5))
    ripe = rng.uniform(0, 1)
    sag = rng.uniform(10.5, 14.5)
    canvas = Canvas(-10.5, 10.5, -1.6, 10.5, look.ppc)
    canvas.shadow(np.hypot(canvas.x / 4.2, canvas.y - 0.5) - 1.0, 1.5, 0.40)
    flip = -1.0 if rng.random() < 0.5 else 1.0
    x, y = canvas.x * flip, canvas.y
    for k in reversed(range(fingers)):
        centre_x, centre_y = -0.55 * k, sag + 1.4 + 0.9 * k
        radius = sag - 0.35 * k + rng.uniform(-0.2, 0.2)
        half = rng.uniform(0.60, 0.68) * 11.5 / sag
        angle = np.arctan2(x - centre_x, centre_y - y)
        along = np.clip(angle / half, -1, 1)
        wide = 1.75 * np.sqrt(np.clip(1 - 0.80 * np.abs(along) ** 3.2, 0.02, 1))
        px, py = centre_x + radius * np.sin(along * half), centre_y - radius * np.cos(along * half)
        away = np.hypot(x - px, y - py)
        across = (np.hypot(x - centre_x, y - centre_y) - radius) / np.maximum(wide, 0.05)
        cover = canvas.cover(away - wide)
        skin = mix(
            (0.90, 0.76, 0.13), (0.66, 0.72, 0.20), np.full_like(x, 1 - ripe) * smoothstep(0.2, 1.0, np.abs(along))
        )
        ridge = np.exp(-(((across - 0.25) / 0.10) ** 2)) + np.exp(-(((across + 0.45) / 0.10) ** 2))
        skin = skin * (1 - 0.16 * ridge)[..., None]
        spots = smoothstep(0.80 + 0.12 * (1 - ripe), 0.97, clouds(rng, x.shape, 16)) * (0.25 + 0.6 * ripe)
        skin = mix(skin, (0.33, 0.20, 0.07), spots)
        skin = mix(skin, (0.20, 0.14, 0.07), smoothstep(0.93, 0.995, along))
        skin = mix(skin, (0.42, 0.44, 0.14), smoothstep(-0.86, -0.97, along))
        ny = np.clip(-across, -0.98, 0.98)
        outline = smoothstep(0.72, 1.0, np.abs(across)) * 0.35
        shaded = lit(skin, np.zeros_like(ny), ny, look.light, 0.18) * (1 - outline)[..., None]
        canvas.paint(shaded, cover)
        end = (centre_x - radius * np.sin(half), centre_y - radius * np.cos(half))
        stem, part, _ = capsule(x, y, end, (end[0] - 0.2, end[1] + 1.6), 0.55, 0.42)
        canvas.paint(mix((0.55, 0.52, 0.16), (0.28, 0.20, 0.08), part), canvas.cover(stem))
    return canvas.sprite()

"""Turned things of the fridge: cans, bottles and cups, with a printed label that wraps around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detection_assets.samples.canvas import Canvas, Colour, Field, Sprite, clouds, lit, mix, smoothstep

RGB = tuple[float, ...]


@dataclass(frozen=True)
class Look:
    """How things are seen in one clip: sprites are drawn for it once.

    Attributes:
        elevation: Angle in radians at which the camera looks down on a thing.
        light: Direction to the light as the camera sees it, normalised.
        ppc: Pixels a centimetre to draw at.
    """

    elevation: float
    light: tuple[float, ...]
    ppc: float


@dataclass(frozen=True)
class Print:
    """What is printed on a label.

    Attributes:
        ground: Its colour.
        ink: Colour of the writing and of the motif.
        word: The writing.
        motif: `wave`, `band`, `peaks`, `fruit`, `drops` or `plain`.
        second: A further colour of the motif.
    """

    ground: RGB
    ink: RGB
    word: str
    motif: str
    second: RGB


def label_picture(design: Print, width: float, height: float, ppc: float) -> Field:
    """Prints the unrolled label, `width` x `height` cm, twice as fine as the sprite."""
    import cv2

    scale = ppc * 1.5
    w, h = max(8, int(width * scale)), max(8, int(height * scale))
    picture = np.empty((h, w, 3), np.float32)
    picture[:] = design.ground
    u, v = np.meshgrid(np.linspace(0, 2, w, dtype=np.float32), np.linspace(0, 1, h, dtype=np.float32))
    if design.motif == "wave":
        swing = v - 0.62 - 0.13 * np.sin(np.pi * 2 * u)
        picture = mix(picture, design.second, smoothstep(0.02, 0.0, np.abs(swing) - 0.055))
    elif design.motif == "band":
        picture = mix(picture, design.second, smoothstep(0.02, 0.0, np.abs(v - 0.78) - 0.09))
    elif design.motif == "peaks":
        ridge = 0.92 - 0.42 * np.abs(np.mod(u * 2.5, 1) - 0.5) - 0.2 * np.abs(np.mod(u * 4, 1) - 0.5)
        picture = mix(picture, design.second, smoothstep(-0.02, 0.02, v - ridge))
    elif design.motif in {"fruit", "drops"}:
        for k in range(6):
            cx, cy = 0.17 + k / 3, 0.75 + 0.1 * (k % 2)
            away = np.hypot((u - cx) * width / 2, (v - cy) * height)
            picture = mix(
                picture, design.second, smoothstep(0.05, -0.05, away - (1.0 if design.motif == "fruit" else 0.45))
            )
    face, thick = cv2.FONT_HERSHEY_DUPLEX, max(1, round(scale / 9))
    (tw, th), _ = cv2.getTextSize(design.word, face, 1.0, thick)
    size = min(w * 0.33 / max(tw, 1), h * 0.42 / max(th, 1))
    writing = np.zeros((h, w), np.uint8)
    for middle in (0.25, 0.75):
        at = (int(w * middle - tw * size / 2), int(h * 0.42 + th * size / 2))
        cv2.putText(writing, design.word, at, face, size, (255,), thick, cv2.LINE_AA)
    return mix(picture, design.ink, writing.astype(np.float32) / 255)


class Turned:
    """A body of revolution standing on the shelf, seen at the look's elevation.

    Surface height and the normal follow from the profile: the front of a circle of radius r, seen from `e` above, drops
    by `r sin(e) nz` below the axis, nz being the normal's part towards the viewer.
    """

    def __init__(self, profile: Sequence[tuple[float, float]], look: Look) -> None:
        self.look = look
        self.heights = np.array([p[0] for p in profile], np.float32)
        self.radii = np.array([p[1] for p in profile], np.float32)
        self.height, self.widest = float(self.heights[-1]), float(self.radii.max())
        self.tilt = float(np.sin(look.elevation))
        pad = self.widest * 0.9
        dip = self.widest * max(self.tilt, 0) + 1.0
        reach = self.widest + pad
        self.canvas = Canvas(-reach, reach, -dip, self.height + self.widest * abs(self.tilt) + 0.6, look.ppc)
        x, y = self.canvas.x, self.canvas.y
        drop = self.tilt * self.widest
        radius = self._radius(y + drop * 0.8)
        for _ in range(2):
            self.nx = np.clip(x / radius, -1, 1)
            self.nz = np.sqrt(1 - self.nx**2)
            self.surface = y + self.tilt * radius * self.nz
            radius = self._radius(self.surface)
        beside = np.abs(x) - radius
        self.body = self.canvas.cover(np.maximum(beside, np.maximum(-self.surface, self.surface - self.height)))
        self.canvas.shadow(
            np.hypot(x, (y + 0.2) / max(abs(self.tilt), 0.12)) - self.widest * 0.9, self.widest * 0.8, 0.42
        )

    def _radius(self, surface: Field) -> Field:
        return np.interp(surface, self.heights, self.radii).astype(np.float32)

    def between(self, low: float, high: float) -> Field:
        """Coverage of the part of the body between two heights."""
        inside = self.canvas.cover(np.maximum(low - self.surface, self.surface - high))
        return self.body * inside

    def wrap(self, picture: Field, low: float, high: float, turn: float) -> Field:
        """The colours of a label picture laid around the body from `low` to `high`, turned by `turn` radians."""
        import cv2

        h, w = picture.shape[:2]
        around = np.arcsin(self.nx) / (2 * np.pi) + turn / (2 * np.pi)
        u = np.mod(around, 1.0).astype(np.float32) * (w - 1)
        v = ((high - self.surface) / (high - low) * (h - 1)).astype(np.float32)
        return cv2.remap(picture, u, np.clip(v, 0, h - 1), cv2.INTER_LINEAR)

    def paint(self, colour: Colour, coverage: Field, gloss: float, ambient: float = 0.42) -> None:
        """Paints a part of the body, shaded as the turned surface it is."""
        base = np.broadcast_to(np.asarray(colour, np.float32), (*self.nx.shape, 3))
        self.canvas.paint(lit(base, self.nx, np.zeros_like(self.nx), self.look.light, gloss, ambient), coverage)

    def streaks(self, strength: float, low: float, high: float) -> None:
        """Reflections of lamps: upright bright lines."""
        for at, wide in ((-0.55, 0.10), (0.62, 0.06)):
            line = np.exp(-(((self.nx - at) / wide) ** 2)) * strength
            self.canvas.paint((1.0, 1.0, 1.0), (self.between(low, high) * line).astype(np.float32))

    def lid(self, colour: RGB, radius: float, rim: RGB | None = None) -> None:
        """The top as seen from above; nothing shows from below."""
        if self.tilt <= 0.02:
            return
        flat = np.hypot(self.canvas.x, (self.canvas.y - self.height) / self.tilt)
        if rim is not None:
            self.canvas.paint(rim, self.canvas.cover((flat - radius) * self.tilt))
            radius *= 0.86
        shade = 0.8 + 0.25 * clouds(np.random.default_rng(1), self.nx.shape, 2)
        self.canvas.paint(
            np.asarray(colour, np.float32) * shade[..., None], self.canvas.cover((flat - radius) * self.tilt)
        )


def can(design: Print, look: Look, turn: float, slim: bool = False) -> Sprite:
    """A drinks can, printed all over, with a bare metal top."""
    r, h = (2.7, 14.5) if slim else (3.3, 12.0)
    body = Turned([(0, r * 0.8), (0.7, r), (h - 1.1, r), (h, r * 0.84)], look)
    metal = (0.72, 0.73, 0.75)
    body.paint(metal, body.body, 0.6)
    picture = label_picture(design, 2 * np.pi * r, h - 1.7, look.ppc)
    body.paint(body.wrap(picture, 0.6, h - 0.9, turn), body.between(0.55, h - 0.9), 0.55)
    body.streaks(0.30, 0.6, h - 0.9)
    body.lid((0.62, 0.63, 0.66), r * 0.84, rim=(0.86, 0.87, 0.89))
    if body.tilt > 0.1:
        tab = np.hypot((body.canvas.x - 0.2) / 0.9, (body.canvas.y - h) / (0.9 * body.tilt)) - 0.7
        body.canvas.paint((0.42, 0.43, 0.46), body.canvas.cover(tab))
    return body.canvas.sprite()


def bottle(
    design: Print, cap: RGB, liquid: RGB, clear: float, look: Look, turn: float, rng: np.random.Generator
) -> Sprite:
    """A half-litre bottle.

    Args:
        design: The label.
        cap: Colour of the screw cap.
        liquid: Colour of what is in it.
        clear: 0 for a dark or milky drink, 1 for water: how much of the shelf shows through.
        look: How it is seen.
        turn: Which side of the label faces the viewer, radians.
        rng: Shape and filling differ from bottle to bottle.
    """
    r, h = rng.uniform(3.1, 3.45), rng.uniform(21.5, 23.8)
    shoulder = h * rng.uniform(0.62, 0.70)
    waist = r * rng.uniform(0.86, 1.0)
    body = Turned(
        [
            (0, r * 0.86),
            (0.8, r),
            (h * 0.22, r),
            (h * 0.3, waist),
            (h * 0.42, waist),
            (h * 0.5, r),
            (shoulder, r * 0.98),
            (h * 0.84, r * 0.55),
            (h * 0.9, r * 0.40),
            (h, r * 0.40),
        ],
        look,
    )
    level = h * rng.uniform(0.74, 0.86)
    edge = smoothstep(0.55, 1.0, np.abs(body.nx))
    glass = body.between(0, h * 0.93)
    filled = body.between(0, level)
    if clear > 0:
        # Thick where the wall is seen edge on: there it hides the shelf, and the middle lets it through.
        tint = mix(liquid, tuple(c * 0.55 for c in liquid), edge)
        body.paint(tint, glass * (0.64 + 0.3 * edge).astype(np.float32), 0.5, ambient=0.6)
        body.paint(tuple(c * 0.92 for c in liquid), filled * 0.25, 0.3, ambient=0.6)
        ripple = 0.5 + 0.5 * np.sin(body.surface * 5.0)
        body.paint((0.95, 0.98, 1.0), (glass * 0.22 * ripple * (1 - edge)).astype(np.float32), 0.4, ambient=0.7)
    else:
        pale = tuple(0.55 * c + 0.35 for c in liquid)
        body.paint(pale, glass, 0.6)
        deep = mix(liquid, tuple(min(1.0, c * 1.9 + 0.05) for c in liquid), edge * 0.5)
        body.paint(deep, filled, 0.7)
    low, high = h * 0.29, h * rng.uniform(0.5, 0.58)
    picture = label_picture(design, 2 * np.pi * r, high - low, look.ppc)
    body.paint(body.wrap(picture, low, high, turn), body.between(low, high), 0.25)
    body.streaks(0.42 if clear > 0 else 0.34, 0.5, h * 0.9)
    ribs = (0.88 + 0.12 * np.sign(np.sin(np.arcsin(body.nx) * 18)))[..., None].astype(np.float32)
    body.paint(np.asarray(cap, np.float32) * ribs, body.between(h * 0.92, h), 0.3)
    body.lid(cap, r * 0.40)
    return body.canvas.sprite()


def cup(design: Print, look: Look, turn: float) -> Sprite:
    """A yoghurt cup: wider at the top, with a foil lid."""
    body = Turned([(0, 2.9), (7.2, 3.7), (7.4, 3.9), (7.8, 3.9)], look)
    picture = label_picture(design, 2 * np.pi * 3.4, 7.0, look.ppc)
    body.paint(body.wrap(picture, 0.2, 7.2, turn), body.body, 0.15)
    body.paint((0.93, 0.93, 0.94), body.between(7.2, 7.8), 0.4)
    body.lid(design.second, 3.9, rim=(0.92, 0.92, 0.93))
    return body.canvas.sprite()


def carton(design: Print, look: Look, yaw: float) -> Sprite:
    """A litre of juice in a carton with a gable, turned by `yaw` (-1..1) so that one side shows."""
    import cv2

    wide, deep, h = 7.0, 7.0, 18.5
    front = wide * np.cos(yaw)
    side = deep * abs(np.sin(yaw))
    left = -(front + side) / 2
    tilt = float(np.sin(look.elevation))
    canvas = Canvas(left - 2.5, -left + 2.5, -2.0, h + 5.5, look.ppc)
    canvas.shadow(np.maximum(np.abs(canvas.x) + left, np.abs(canvas.y) * 3 - 1.5), 2.4, 0.42)
    split = left + front if yaw > 0 else left + side
    picture = label_picture(design, 2 * wide, h, look.ppc)
    w = picture.shape[1]
    faces = [(left, split, picture[:, : w // 2]), (split, -left, picture[:, w // 2 :])]
    for k, (a, b, face) in enumerate(faces):
        if b - a < 0.4:
            continue
        frontal = (k == 0) == (yaw > 0)
        lift = tilt * (b - a) * (0.35 if frontal else 0.9) * (-1 if k == 0 else 1)
        y0, y1 = (0.0 - min(lift, 0), 0.0 + max(lift, 0)) if k else (max(-lift, 0.0), 0.0)
        quad = [(a, y0), (b, y1), (b, y1 + h), (a, y0 + h)]
        source = np.array([[0, face.shape[0]], [face.shape[1], face.shape[0]], [face.shape[1], 0], [0, 0]], np.float32)
        target = np.array([[(x + canvas.origin[0] / canvas.ppc), (canvas.origin[1] / canvas.ppc - y)] for x, y in quad])
        matrix = cv2.getPerspectiveTransform(source, (target * canvas.ppc).astype(np.float32))
        shape = canvas.x.shape
        warped = cv2.warpPerspective(np.ascontiguousarray(face), matrix, shape[::-1], borderMode=cv2.BORDER_REPLICATE)
        towards = look.light[2] + (look.light[0] if k else -look.light[0]) * 0.7
        shade = float(np.clip(0.5 + 0.5 * towards, 0.4, 1.05)) * (1.0 if frontal else 0.8)
        canvas.paint(np.clip(warped * shade, 0, 1), canvas.polygon(quad))
        roof = [(a, y0 + h), (b, y1 + h), (b - (1.2 if k else 0), h + 3.4), (a + (0 if k else 1.2), h + 3.4)]
        canvas.paint(tuple(c * shade * 0.9 for c in design.ground), canvas.polygon(roof))
    canvas.paint(
        (0.9, 0.9, 0.9),
        canvas.polygon([(left + 1.2, h + 3.0), (-left - 0.4, h + 3.0), (-left - 0.4, h + 4.2), (left + 1.2, h + 4.2)]),
    )
    return canvas.sprite()

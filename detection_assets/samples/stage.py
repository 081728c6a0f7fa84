"""The stage: things and planes placed in the world, drawn back to front, and what of each thing can be seen.

Truth comes out of the drawing itself. Beside the picture grows a second one that holds, for each pixel, which thing is
in front there; a thing's box is the extent of its own pixels, so it is exact whatever covers it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detection_assets.samples.canvas import SOLID, Sprite
from detection_assets.samples.geometry import Camera, Matrix

Image = NDArray[Any]

LARGEST = 700
"""Pixels. A thing that spans more than this, most of it out of the picture, is only measured inside the picture."""


@dataclass(frozen=True)
class Backdrop:
    """An opaque rectangle that belongs to the room: a wall, a shelf, a drape.

    Attributes:
        texture: H x W x 3 uint8.
        plane: 3 x 3, texture pixels (corner convention) to world.
    """

    texture: Image
    plane: Matrix


@dataclass(frozen=True)
class Thing:
    """A sprite at a place.

    Attributes:
        sprite: What it looks like.
        plane: 3 x 3, the sprite's centimetres to world.
        number: 1..255 for what has truth; 0 for what only covers.
        before: Where the same plane was one exposure earlier, if the thing itself moves.
        gleam: The same thing with the light glancing off it, and how much of that there is (0..1).
    """

    sprite: Sprite
    plane: Matrix
    number: int = 0
    before: Matrix | None = None
    gleam: tuple[Sprite, float] | None = None


@dataclass(frozen=True)
class Seen:
    """What the camera sees of one thing in one frame.

    Attributes:
        number: The thing's number.
        box: x1, y1, x2, y2 of its visible pixels; x2 and y2 exclusive.
        visible: Visible pixels by the pixels it would have with nothing in front of it in an endless picture.
    """

    number: int
    box: tuple[int, int, int, int]
    visible: float


def rectangle(texture: Image, origin: Sequence[float], across: Sequence[float], down: Sequence[float]) -> Backdrop:
    """Stretches a texture over a rectangle of the world.

    Args:
        texture: H x W x 3.
        origin: World point of its top left corner.
        across: World vector along its top edge.
        down: World vector along its left edge.
    """
    h, w = texture.shape[:2]
    plane = np.column_stack([np.asarray(across, float) / w, np.asarray(down, float) / h, np.asarray(origin, float)])
    return Backdrop(texture, plane)


class Stage:
    """One frame being drawn.

    Attributes:
        camera: Where it is seen from.
        size: Width and height in pixels.
        void: The grey of what lies beyond the room.
        picture: H x W x 3 uint8, RGB; `room` starts it.
        front: H x W uint8, the number of the thing in front.
    """

    def __init__(self, camera: Camera, size: tuple[int, int], void: int) -> None:
        self.camera = camera
        self.size = size
        self.void = void
        self.picture = np.empty((size[1], size[0], 3), np.uint8)
        self.front = np.zeros((size[1], size[0]), np.uint8)
        self._drawn: list[tuple[int, int, tuple[int, int, int, int]]] = []

    def room(self, backdrops: Sequence[Backdrop]) -> None:
        """Starts the picture with the far background. Plain surfaces do with half the resolution, in half the time."""
        import cv2

        half = (self.size[0] // 2, self.size[1] // 2)
        small = np.full((half[1], half[0], 3), self.void, np.uint8)
        shrink = np.diag([half[0] / self.size[0], half[1] / self.size[1], 1.0])
        for backdrop in backdrops:
            _lay(backdrop.texture, shrink @ self.camera.homography(backdrop.plane), small)
        cv2.resize(small, self.size, dst=self.picture)

    def back(self, backdrop: Backdrop) -> None:
        """Draws a backdrop; things drawn earlier are behind it."""
        import cv2

        corners = _lay(backdrop.texture, self.camera.homography(backdrop.plane), self.picture)
        if corners is not None and self._drawn:
            cv2.fillConvexPoly(self.front, np.round(corners).astype(np.int32), (0,))

    def put(self, thing: Thing) -> None:
        """Draws a thing in front of what has been drawn."""
        import cv2

        local = thing.sprite.local()
        h, w = thing.sprite.image.shape[:2]
        homography = self.camera.homography(thing.plane @ local)
        corners = _corners(homography, w, h)
        if corners is None:
            return
        x0, y0, x1, y1 = _bounds(corners)
        inside = _clip((x0, y0, x1, y1), self.size)
        if inside[2] <= inside[0] or inside[3] <= inside[1]:
            return
        if max(x1 - x0, y1 - y0) > LARGEST:
            x0, y0, x1, y1 = inside
        image = thing.sprite.image
        if thing.gleam is not None:
            image = cv2.addWeighted(image, 1 - thing.gleam[1], thing.gleam[0].image, thing.gleam[1], 0)
        warped = cv2.warpPerspective(image, _centred(_shift(-x0, -y0) @ homography), (x1 - x0, y1 - y0))
        solid = np.greater_equal(warped[..., 3], SOLID).view(np.uint8)
        area = cv2.countNonZero(solid)
        if thing.before is not None:
            earlier = _corners(self.camera.homography(thing.before @ local), w, h)
            if earlier is not None:
                warped = smear(warped, corners.mean(axis=0) - earlier.mean(axis=0))
        cx0, cy0, cx1, cy1 = inside
        part = warped[cy0 - y0 : cy1 - y0, cx0 - x0 : cx1 - x0]
        target = self.picture[cy0:cy1, cx0:cx1]
        rest = cv2.cvtColor(cv2.bitwise_not(cv2.extractChannel(part, 3)), cv2.COLOR_GRAY2RGB)
        under = cv2.multiply(target, rest, scale=1 / 255)
        cv2.add(under, cv2.cvtColor(part, cv2.COLOR_RGBA2RGB), dst=target)
        cv2.copyTo(
            np.full((cy1 - cy0, cx1 - cx0), thing.number, np.uint8),
            solid[cy0 - y0 : cy1 - y0, cx0 - x0 : cx1 - x0],
            self.front[cy0:cy1, cx0:cx1],
        )
        if thing.number:
            self._drawn.append((thing.number, area, inside))

    def seen(self) -> list[Seen]:
        """What is visible of each numbered thing, in drawing order."""
        import cv2

        result: list[Seen] = []
        for number, area, (x0, y0, x1, y1) in self._drawn:
            own = np.equal(self.front[y0:y1, x0:x1], number).view(np.uint8)
            count = cv2.countNonZero(own)
            if count:
                bx, by, bw, bh = cv2.boundingRect(own)
                box = (x0 + bx, y0 + by, x0 + bx + bw, y0 + by + bh)
                result.append(Seen(number, box, min(1.0, count / area)))
        return result


def smear(image: Image, way: NDArray[np.float64]) -> Image:
    """Blurs a picture along a way in pixels, as motion during the exposure does.

    It averages up to seven copies, moved by whole pixels along the way: a kernel of that size costs several times more.
    """
    import cv2

    length = float(np.hypot(*way))
    if length < 1.3:
        return image
    way = way * min(1.0, 16.0 / length)
    taps = int(np.clip(np.ceil(length), 2, 7))
    moves = np.round(np.outer(np.linspace(-0.5, 0.5, taps), way)).astype(int)
    pad = int(np.abs(moves).max())
    h, w = image.shape[:2]
    wide = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    copies = [wide[pad + dy : pad + dy + h, pad + dx : pad + dx + w] for dx, dy in moves]
    result = copies[0]
    for k, copy in enumerate(copies[1:], 1):
        result = cv2.addWeighted(result, k / (k + 1), copy, 1 / (k + 1), 0)
    return result


def _lay(texture: Image, homography: Matrix, picture: Image) -> NDArray[np.float64] | None:
    """Draws a texture into a picture and returns its corners, or None if nothing of it shows."""
    import cv2

    h, w = texture.shape[:2]
    corners = _corners(homography, w, h)
    if corners is None:
        return None
    x0, y0, x1, y1 = _clip(_bounds(corners), (picture.shape[1], picture.shape[0]))
    if x1 <= x0 or y1 <= y0:
        return None
    # Given the way from picture to texture, OpenCV need not invert, and takes a faster path.
    matrix = np.linalg.inv(_centred(_shift(-x0, -y0) @ homography))
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    part = picture[y0:y1, x0:x1]
    cv2.warpPerspective(texture, matrix, (x1 - x0, y1 - y0), dst=part, flags=flags, borderMode=cv2.BORDER_TRANSPARENT)
    return corners


def _corners(homography: Matrix, width: int, height: int) -> NDArray[np.float64] | None:
    """The projected corners of a picture, 4 x 2, or None if it reaches to behind the camera."""
    corners = homography @ np.array([[0, width, width, 0], [0, 0, height, height], [1, 1, 1, 1.0]])
    if corners[2].min() < 2.0:
        return None
    return (corners[:2] / corners[2]).T


def _bounds(corners: NDArray[np.float64]) -> tuple[int, int, int, int]:
    low, high = np.floor(corners.min(axis=0)) - 1, np.ceil(corners.max(axis=0)) + 1
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _clip(bounds: tuple[int, int, int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = bounds
    return max(x0, 0), max(y0, 0), min(x1, size[0]), min(y1, size[1])


def _shift(dx: float, dy: float) -> Matrix:
    return np.array([[1, 0, dx], [0, 1, dy], [0, 0, 1.0]])


def _centred(homography: Matrix) -> Matrix:
    """From corner coordinates, which geometry uses, to OpenCV's, where a whole number is a pixel's centre."""
    return _shift(-0.5, -0.5) @ homography @ _shift(0.5, 0.5)

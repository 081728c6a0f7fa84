"""Where the camera is and what it sees: a pinhole camera on a path of smooth, seeded motion.

World: centimetres, x right, y up, z away from the viewer. Image: pixels, x right, y down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera at one moment.

    Attributes:
        eye: Its place in the world.
        rotation: World axes to camera axes (rows: right, down, forward).
        intrinsics: Camera axes to homogeneous pixels.
    """

    eye: Vector
    rotation: Matrix
    intrinsics: Matrix

    def homography(self, plane: Matrix) -> Matrix:
        """Maps a plane's own coordinates to pixels.

        Args:
            plane: 3 x 3; its columns are the plane's two axes and its origin in the world.

        Returns:
            3 x 3 homography, `K R (plane - eye)` written for homogeneous plane coordinates.
        """
        moved = plane.copy()
        moved[:, 2] -= self.eye
        return self.intrinsics @ self.rotation @ moved

    def project(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Projects N x 3 world points to N x 2 pixels."""
        seen = (points - self.eye) @ self.rotation.T @ self.intrinsics.T
        return seen[:, :2] / seen[:, 2:]


def look(eye: Vector, target: Vector, roll: float, focal: float, size: tuple[int, int]) -> Camera:
    """Points a camera.

    Args:
        eye: Where it is.
        target: What is in the middle of its picture; not straight above or below.
        roll: Turn about its own axis, radians.
        focal: Focal length in pixels.
        size: Width and height in pixels.
    """
    forward = target - eye
    forward = forward / np.linalg.norm(forward)
    right = np.cross([0.0, 1.0, 0.0], forward)
    right /= np.linalg.norm(right)
    down = np.cross(right, forward)
    c, s = np.cos(roll), np.sin(roll)
    rotation = np.array([c * right + s * down, c * down - s * right, forward])
    intrinsics = np.array([[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1.0]])
    return Camera(eye, rotation, intrinsics)


class Wander:
    """Smooth motion about zero: three sines a dimension, with seeded pace and phase."""

    def __init__(self, rng: np.random.Generator, amplitude: list[float], slow: float, fast: float) -> None:
        shape = (3, len(amplitude))
        self._pace = rng.uniform(slow, fast, shape) * 2 * np.pi * np.array([[1.0], [1.9], [3.1]])
        self._phase = rng.uniform(0, 2 * np.pi, shape)
        self._size = np.array(amplitude) * np.array([[0.6], [0.28], [0.12]])

    def at(self, time: float) -> Vector:
        """The offset at a time in seconds."""
        return np.sum(self._size * np.sin(self._pace * time + self._phase), axis=0)


@dataclass(frozen=True)
class CameraPath:
    """A camera over time: a pose, a pan across the scene, and the unrest of its mount or of the hand that holds it.

    Attributes:
        eye: Mean place.
        target: Mean point of view.
        pan: How far eye and target travel from the clip's start to its end.
        unrest: Seven wandering offsets: eye (3), target (3), roll.
        focal: Focal length in pixels.
        size: Width and height in pixels.
        seconds: The clip's length.
        roll: Mean roll in radians.
    """

    eye: Vector
    target: Vector
    pan: Vector
    unrest: Wander
    focal: float
    size: tuple[int, int]
    seconds: float
    roll: float = 0.0

    def at(self, time: float) -> Camera:
        """The camera at a time in seconds."""
        offset = self.unrest.at(time)
        share = ease(time / self.seconds) - 0.5
        eye = self.eye + offset[:3] + self.pan * share
        target = self.target + offset[3:6] + self.pan * share
        return look(eye, target, self.roll + float(offset[6]), self.focal, self.size)


def ease(share: float) -> float:
    """Goes from 0 to 1 with a gentle start and end; held outside."""
    t = min(1.0, max(0.0, share))
    return t * t * (3 - 2 * t)


def unit(vector: Vector) -> Vector:
    """The vector at length one."""
    return vector / np.linalg.norm(vector)


def facing(origin: Vector, camera: Camera) -> Matrix:
    """An upright plane at `origin` that turns to the camera about the vertical, as round things look from all sides."""
    away = origin - camera.eye
    right = unit(np.array([away[2], 0.0, -away[0]]))
    return np.column_stack([right, [0.0, 1.0, 0.0], origin])


def lying(origin: Vector, angle: float) -> Matrix:
    """A horizontal plane at `origin`, its first axis turned by `angle` radians from the world's x."""
    c, s = np.cos(angle), np.sin(angle)
    return np.column_stack([[c, 0.0, s], [-s, 0.0, c], origin])

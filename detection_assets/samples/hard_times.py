"""Footage after something went wrong in front of the camera: the light failed, the lens fogged, a new product came.

The truth stays what it was: nothing moves, so the annotations of the clip as it was filmed still hold.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detection_assets.domain.problems import InputError

LIGHT = 0.35
"""Share of the light that is left."""
FOG_SIGMA = 1.6
"""Standard deviation of the blur, pixels."""
GLARE = 0.9
"""Mean level of a picture in glaring light, 0 to 1."""
STRANGER = (110, 150)
"""Width and height of the product that was never seen, pixels."""


def degrade(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture in a dark room behind a fogged lens.

    Args:
        rgb: H x W x 3 uint8.

    Returns:
        The same shape.
    """
    import cv2

    return cv2.GaussianBlur(cv2.convertScaleAbs(rgb, alpha=LIGHT), (0, 0), FOG_SIGMA).astype(np.uint8)


def brighten(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture in glaring light, whatever light it was in.

    Args:
        rgb: H x W x 3 uint8.

    Returns:
        The same shape, with a mean level of `GLARE`, less what is cut off at white.
    """
    import cv2

    return cv2.convertScaleAbs(rgb, alpha=255 * GLARE / max(1.0, float(rgb.mean()))).astype(np.uint8)


def add_stranger(rgb: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Puts a product that no detector of ours knows, a chequered crate, somewhere into the picture.

    Args:
        rgb: H x W x 3 uint8.
        seed: Decides where it stands.

    Returns:
        A copy of the same shape.
    """
    height, width = rgb.shape[:2]
    wide, tall = min(STRANGER[0], width), min(STRANGER[1], height)
    rng = np.random.default_rng(seed)
    left, top = int(rng.integers(0, width - wide + 1)), int(rng.integers(0, height - tall + 1))
    rows, columns = np.mgrid[0:tall, 0:wide] // 15
    pattern: NDArray[Any] = np.where(((rows + columns) % 2)[..., None] == 0, (150, 40, 170), (120, 220, 40))
    out = rgb.copy()
    out[top : top + tall, left : left + wide] = pattern
    return out


def degrade_clip(source: Path, target: Path) -> int:
    """Films a clip again in hard times, with the same frames at the same moments.

    Args:
        source: The clip.
        target: Where to write the other one; replaced as a whole when it is done.

    Returns:
        Frames written.

    Raises:
        InputError: If the source cannot be decoded.
    """
    import av
    import av.error

    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part.mp4")
    count = 0
    try:
        with av.open(str(source)) as given, av.open(str(part), "w", format="mp4") as made:
            shown = given.streams.video[0]
            stream = made.add_stream("libx264", rate=shown.average_rate, options={"crf": "23", "preset": "veryfast"})
            stream.width, stream.height, stream.pix_fmt = (
                shown.codec_context.width,
                shown.codec_context.height,
                "yuv420p",
            )
            stream.time_base = stream.codec_context.time_base = shown.time_base
            for frame in given.decode(shown):
                dark = av.VideoFrame.from_ndarray(degrade(frame.to_ndarray(format="rgb24")), format="rgb24")
                dark.pts, dark.time_base = frame.pts, shown.time_base
                made.mux(stream.encode(dark))
                count += 1
            made.mux(stream.encode())
    except av.error.FFmpegError as error:
        part.unlink(missing_ok=True)
        raise InputError(f"{source}: cannot be decoded ({error}); give a clip that plays") from error
    part.replace(target)
    return count

"""Turns the bytes of a stranger's picture into pixels, or says why not.

Formats are listed, sizes are limited before anything is decoded, and a decoder's failure never leaves this module as
anything but an `InputError`.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from detection_assets.domain.problems import InputError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
MAX_BYTES = 20 * 2**20
MAX_PIXELS = 50_000_000
"""150 MB as RGB: larger than the pictures of common cameras, small enough for a few at a time."""

ORIENTATION = 0x0112
"""EXIF tag that says how the camera was held."""


def decode(
    data: bytes, *, name: str = "the picture", max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Decodes a picture as a person would see it: turned by its EXIF orientation, in RGB.

    Grey, palette, CMYK, 16-bit and transparent pictures become 8-bit RGB; transparency is dropped, as in training. Of
    an animation the first picture counts.

    Args:
        data: The encoded bytes: JPEG, PNG, WEBP or BMP.
        name: What to call the picture in an error.
        max_bytes: Most bytes accepted.
        max_pixels: Most pixels accepted; checked on the header, before any memory is taken for them.

    Returns:
        Height x width x 3, RGB, uint8.

    Raises:
        InputError: Not a picture, not one of the formats, cut short, damaged, or too large.
    """
    if not data:
        raise InputError(f"{name} is empty: send the bytes of a {_any_of(FORMATS)} file")
    if len(data) > max_bytes:
        raise InputError(f"{name} has {len(data):,} bytes, more than the limit of {max_bytes:,}: send a smaller one")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise InputError(_too_large(name, f"{width} x {height}", max_pixels))
            return _pixels(data, image)
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{name} is not a {_any_of(FORMATS)} picture that can be read: check the file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(_too_large(name, "far more pixels", max_pixels)) from None
    except Exception as error:  # decoders meet hostile bytes with any kind of exception
        detail = str(error) or type(error).__name__
        raise InputError(f"{name} is cut short or damaged ({detail}): send the whole file again") from error


def extension(data: bytes) -> str:
    """The usual extension, without a dot, of a picture that `decode` has read."""
    for start, name in ((b"\xff\xd8", "jpg"), (b"\x89PNG", "png"), (b"RIFF", "webp"), (b"BM", "bmp")):
        if data.startswith(start):
            return name
    return "bin"


def warm_up() -> None:
    """Decodes a pixel of each format, so that no request pays for loading the decoders."""
    pixel = Image.new("RGB", (1, 1))
    for name in FORMATS:
        encoded = io.BytesIO()
        pixel.save(encoded, name)
        decode(encoded.getvalue())


def _pixels(data: bytes, image: Image.Image) -> NDArray[np.uint8]:
    fast = _fast_jpeg(data) if image.format in ("JPEG", "MPO") and image.mode == "RGB" else None
    array = _any_mode(image) if fast is None else fast
    return np.ascontiguousarray(_upright(array, _orientation(image)))


def _fast_jpeg(data: bytes) -> NDArray[np.uint8] | None:
    """Decodes an ordinary JPEG in about three quarters of Pillow's time, to the same pixels; None if it has doubts.

    It is stricter than Pillow: stray bytes that every viewer ignores stop it. So Pillow has the last word.
    """
    import simplejpeg

    try:
        return simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:
        return None


def _any_mode(image: Image.Image) -> NDArray[np.uint8]:
    image.load()
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip it at 255
        grey = (np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1


def _upright(array: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turns and mirrors pixels by the eight values of EXIF 2.32, 4.6.4 A "Orientation"."""
    if orientation in (5, 6, 7, 8):
        array = array.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array


def _too_large(name: str, size: str, max_pixels: int) -> str:
    return f"{name} has {size} pixels, more than the limit of {max_pixels:,}: send a smaller one"


def _any_of(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"

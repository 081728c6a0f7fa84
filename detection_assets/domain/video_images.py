"""Folders of images that stand for a video: which files are its frames, and reading pictures from strangers safely."""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from detection_assets.domain.quality import luma_size

FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
"""The formats that are opened, by the endings that mark a file as a frame. Pillow knows many more, which strangers'
files must not reach."""

MAX_PIXELS = 89_478_485
"""A picture with more pixels is refused unopened: a small file can claim gigabytes. Pillow's own limit."""

_ORIENTATION = 0x0112  # EXIF tag


class PictureError(Exception):
    """A picture that cannot be used; the message says why."""


def natural(name: str) -> tuple[list[str | int], str]:
    """Sort key in which `img2` comes before `img10`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name.casefold())], name


def image_names(folder: Path) -> list[str]:
    """Names of the images of a folder, in natural order: its frames. Sub-folders and other files are not part of it.

    Args:
        folder: The folder.
    """
    return sorted(
        (
            entry.name
            for entry in folder.iterdir()
            if entry.suffix.lower() in FORMATS and not entry.name.startswith(".") and entry.is_file()
        ),
        key=natural,
    )


def read_size(data: bytes) -> tuple[int, int, str]:
    """Makes sure that a picture decodes, at little cost (JPEG at an eighth of its size).

    Args:
        data: The file's bytes.

    Returns:
        Width and height as displayed (after EXIF orientation), and the format.

    Raises:
        PictureError: It does not decode, or is too large.
    """
    picture, size = _opened(data, fast=True)
    return *size, picture.format or ""


def read_luma(data: bytes) -> tuple[int, int, np.ndarray]:
    """Reads a picture's size and the luma that quality is measured on.

    Args:
        data: The file's bytes.

    Returns:
        Width and height as displayed (after EXIF orientation), and H x W uint8 luma of the size `luma_size` gives.

    Raises:
        PictureError: It does not decode, or is too large.
    """
    picture, (width, height) = _opened(data, fast=False)
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith(("I", "F")):
        # Sixteen bits and more: Pillow would clip them to white.
        deep = np.asarray(picture, dtype=np.float64)
        picture = Image.fromarray((deep * (255.0 / max(65535.0, deep.max(initial=0.0)))).clip(0, 255).astype(np.uint8))
    small = luma_size(width, height)
    return width, height, np.asarray(picture.convert("L").resize(small, Image.Resampling.BOX))


def _opened(data: bytes, fast: bool) -> tuple[Image.Image, tuple[int, int]]:
    """Decodes a picture, and gives its size as displayed, which a fast decode does not keep."""
    if not data:
        raise PictureError("the file is empty (0 bytes)")
    with warnings.catch_warnings():
        # Pillow warns of oddities such as broken EXIF blocks, which do not matter here.
        warnings.simplefilter("ignore")
        try:
            picture = Image.open(io.BytesIO(data), formats=sorted(set(FORMATS.values())))
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise PictureError(f"{width} x {height} pixels are more than {MAX_PIXELS} in all")
            turned = picture.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
            picture.draft("L", (max(width // 8, 1), max(height // 8, 1)) if fast else (width, height))
            picture.load()
        except Image.DecompressionBombError as error:
            raise PictureError(f"it has too many pixels ({error})") from error
        except Image.UnidentifiedImageError as error:
            raise PictureError("it is not a picture in any of " + ", ".join(sorted(set(FORMATS.values())))) from error
        except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError) as error:
            raise PictureError(f"it does not decode ({error})") from error
    return picture, (height, width) if turned else (width, height)

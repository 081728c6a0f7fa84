"""Pictures from strangers: each kind becomes RGB, each bad one an error with a reason."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from detection_assets.domain.problems import InputError
from detection_assets.serving.images import decode

RNG = np.random.default_rng(0)
PIXELS = np.repeat(np.repeat(RNG.integers(0, 255, (6, 9, 3), dtype=np.uint8), 8, 0), 8, 1)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


COLOUR = Image.fromarray(PIXELS)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_lossless_formats_keep_every_pixel(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(decode(encoded(COLOUR, kind, **options)), PIXELS)


@pytest.mark.parametrize(
    "options", [{}, {"quality": 30}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 2}]
)
def test_jpeg_is_decoded_as_pillow_does(options: dict) -> None:
    data = encoded(COLOUR, "JPEG", **options)
    assert np.array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_other_modes_become_rgb(mode: str) -> None:
    image = COLOUR.convert(mode)
    assert np.array_equal(decode(encoded(image, "PNG")), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpegs_of_other_modes_become_rgb(mode: str) -> None:
    data = encoded(COLOUR.convert(mode), "JPEG", quality=95)
    assert np.array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_transparent_palettes_become_rgb() -> None:
    image = COLOUR.convert("P")
    shown = decode(encoded(image, "PNG", transparency=bytes(range(256))))
    assert np.array_equal(shown, np.asarray(image.convert("RGB")))


def test_sixteen_bits_keep_their_upper_eight() -> None:
    deep = RNG.integers(0, 65535, (12, 10), dtype=np.uint16)
    shown = decode(encoded(Image.fromarray(deep), "PNG"))
    assert np.array_equal(shown, np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, 2))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(COLOUR, kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(decode(data), np.asarray(expected))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_broken_exif_block_is_ignored() -> None:
    data = encoded(COLOUR, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert decode(data).shape == PIXELS.shape


def bomb(width: int, height: int) -> bytes:
    """A few bytes of PNG that claim, and would unfold to, width x height pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


JPEG = encoded(COLOUR, "JPEG")
PNG = encoded(COLOUR, "PNG")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b"hello, this is text", "is not a JPEG", id="text"),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not a JPEG", id="svg"),
        pytest.param(encoded(COLOUR, "GIF"), "is not a JPEG", id="a format not listed"),
        pytest.param(encoded(COLOUR, "TIFF"), "is not a JPEG", id="another format not listed"),
        pytest.param(JPEG[: len(JPEG) // 2], "cut short or damaged", id="truncated jpeg"),
        pytest.param(PNG[: len(PNG) // 2], "cut short or damaged", id="truncated png"),
        pytest.param(JPEG[:20], "JPEG", id="jpeg header only"),
        pytest.param(encoded(COLOUR, "WEBP")[:60], "", id="truncated webp"),
        pytest.param(encoded(COLOUR, "BMP")[:200], "cut short or damaged", id="truncated bmp"),
        pytest.param(bomb(8_000, 8_000), "more than the limit of 50,000,000", id="too many pixels"),
        pytest.param(bomb(11_000, 11_000), "more than the limit of 50,000,000", id="where pillow warns"),
        pytest.param(bomb(60_000, 60_000), "more than the limit of 50,000,000", id="where pillow refuses"),
    ],
)
def test_bad_pictures_are_refused_with_a_reason(data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=f"cam 1.*{message}"):
        decode(data, name="cam 1")


def test_the_byte_limit_holds() -> None:
    with pytest.raises(InputError, match="more than the limit of 10"):
        decode(PNG, max_bytes=10)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([JPEG, PNG, encoded(COLOUR, "WEBP"), encoded(COLOUR, "BMP")]), st.data())
def test_damage_is_either_survived_or_an_input_error(data: bytes, draw: st.DataObject) -> None:
    damaged = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 8))):
        damaged[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        pixels = decode(bytes(damaged), max_pixels=10**6)
    except InputError:
        return
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3

"""Some two hundred hostile bodies: each is refused with a reason, and the server stays alive and small."""

import base64
import io
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from served import Server, grey, spec

from detection_assets.samples.bad_models import write_model

MEMORY_LIMIT = 600 * 2**20
"""Growth that is allowed while all of them are sent: two decoders may each hold a picture of fifty million pixels."""


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, depth: int = 8, colour: int = 2, data: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bombs() -> Iterator[tuple[str, bytes]]:
    zeros = zlib.compress(bytes(50_000_000), 9)
    for width, height in ((60_000, 60_000), (2**31 - 1, 1), (1, 2**31 - 1), (100_000, 501), (2**31 - 1, 2**31 - 1)):
        for colour, depth in ((2, 8), (6, 16), (0, 1)):
            yield f"png {width} x {height}, colour {colour}", png(width, height, depth, colour, zeros[:20_000])
    yield "png that claims a pixel too many", png(50_000_001, 1, data=zeros)
    yield "png without pixels", png(5000, 5000)
    yield "png of size nought", png(0, 0)
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000), 9))
    whole = png(64, 64, data=zlib.compress(bytes(64 * 193)))
    yield "png with a bomb of a comment", whole[:33] + text + whole[33:]
    gif = encoded(Image.new("L", (8, 8)), "GIF")
    yield "gif", gif
    yield "gif that claims to be huge", gif[:6] + struct.pack("<HH", 65_535, 65_535) + gif[10:]
    bmp = bytearray(encoded(Image.new("RGB", (8, 8)), "BMP"))
    bmp[18:26] = struct.pack("<ii", 2**30, 2**30)
    yield "bmp that claims to be huge", bytes(bmp)
    bmp[18:26] = struct.pack("<ii", -5, -5)
    yield "bmp of negative size", bytes(bmp)
    jpeg = bytearray(grey(90))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 65_535, 65_535)
    yield "jpeg that claims to be huge", bytes(jpeg)
    for kind in ("TIFF", "ICO", "PPM", "PCX", "TGA", "PDF", "DDS", "SGI"):
        yield kind, encoded(Image.new("RGB", (16, 16)), kind)
    yield "svg", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    yield "eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) (r) file\n"


def damaged() -> Iterator[tuple[str, bytes]]:
    """Pictures cut at many places; where a JPEG or WEBP loses only its end, decoders disagree on what is lost."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8))
    for kind in ("JPEG", "PNG", "WEBP", "BMP"):
        whole = encoded(image, kind)
        for share in (1, 3, 7, 15, 30, 45, 60, 75, 90):
            yield f"{kind} cut at {share} %", whole[: max(1, len(whole) * share // 100)]
    for length in (0, 1, 2, 3, 4, 8, 100, 65_536):
        yield f"{length} zeros", bytes(length)
        if length:
            yield f"{length} random bytes", rng.bytes(length)
    for start in (
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\xff\xff\xff\x7fWEBPVP8 ",
        b"BM",
        b"GIF89a",
        b"\0\0\0\x0cjP  ",
    ):
        yield f"random bytes after {start!r}", start + rng.bytes(2000)


def values() -> Iterator[tuple[str, bytes]]:
    good = base64.b64encode(grey(90)).decode()
    odd = [None, True, 0, -1, 1.5, 10**400, "", " ", "?", "a", "===", "data:", "data:image/png;base64,", "\0", "☃" * 99]
    odd += [[], {}, [good], {"image": good}, "http://127.0.0.1/a.png", "file:///etc/passwd", "../../etc/passwd"]
    for value in odd:
        yield f"image {str(value)[:30]!r}", json.dumps({"image": value}).encode()
        if value != [good]:
            yield f"images {str(value)[:30]!r}", json.dumps({"images": value}).encode()
            yield f"images of {str(value)[:30]!r}", json.dumps({"images": [value, value]}).encode()
    for value in (-0.1, 1.1, "high", [], {}, True, "nan", "inf", 10**400):
        yield f"confidence {str(value)[:30]!r}", json.dumps({"image": good, "confidence": value}).encode()
    yield "seventeen pictures", json.dumps({"images": [good] * 17}).encode()
    yield "a million pictures", json.dumps({"images": [""] * 1_000_000}).encode()
    yield "huge base64", b'{"image": "' + b"A" * (19 * 2**20) + b'"}'
    yield "huge key", json.dumps({"k" * 1_000_000: good}).encode()
    yield "many keys", json.dumps({str(index): index for index in range(100_000)}).encode()
    for opening in (b"[", b'{"image":', b'{"images":[', b'[{"a":'):
        for depth in (50, 1100, 200_000):
            yield f"{opening!r} {depth} deep", opening * depth
    yield "balanced and deep", b"[" * 2000 + b"]" * 2000
    yield "image that is deep", b'{"image":' + b"[" * 900 + b"]" * 900 + b"}"
    for text in (
        b"",
        b" ",
        b"\0",
        b"null",
        b"true",
        b"1",
        b'"a"',
        b"[]",
        b"{}",
        b"NaN",
        b"{'image': 1}",
        b"\xff\xfe{}",
    ):
        yield f"json {text!r}", text
    yield "utf-16", json.dumps({"image": good}).encode("utf-16")
    yield "the same key twice, last one bad", b'{"image": "' + good.encode() + b'", "image": 5}'


def forms() -> Iterator[tuple[str, bytes]]:
    def part(head: bytes, body: bytes = b"x") -> bytes:
        return b"--b\r\n" + head + b"\r\n\r\n" + body + b"\r\n"

    file = b'Content-Disposition: form-data; name="file"; filename="a.png"'
    yield "nothing", b""
    yield "only an end", b"--b--\r\n"
    yield "no end", part(file)[:-2]
    yield "a file that is none", part(file) + b"--b--\r\n"
    yield "seventeen files", part(file) * 17 + b"--b--\r\n"
    yield "a thousand fields", part(b'Content-Disposition: form-data; name="f"') * 1000 + b"--b--\r\n"
    yield (
        "a field of a megabyte",
        part(b'Content-Disposition: form-data; name="confidence"', b"1" * 2**20) + b"--b--\r\n",
    )
    yield "a header of a megabyte", part(b"X-A: " + b"a" * 2**20 + b"\r\n" + file) + b"--b--\r\n"
    yield "a thousand headers", part(b"X-A: a\r\n" * 1000 + file) + b"--b--\r\n"
    yield "no name", part(b"Content-Disposition: form-data") + b"--b--\r\n"
    yield "a path for a name", part(file.replace(b"a.png", b"../../../../etc/passwd")) + b"--b--\r\n"
    yield "parts in parts", part(b"Content-Type: multipart/mixed; boundary=c\r\n" + file, part(file)) + b"--b--\r\n"


CASES = [
    *((f"picture: {name}", "image/jpeg", body) for name, body in (*bombs(), *damaged())),
    *((f"json: {name}", "application/json", body) for name, body in values()),
    *((f"form: {name}", "multipart/form-data; boundary=b", body) for name, body in forms()),
    *(
        (f"type: {kind!r}", kind, grey(90))
        for kind in (
            *("text/html", "application/xml", "multipart/mixed; boundary=b", "", ";", "a" * 5000),
            "application/x-pickle",
        )
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("hostile")
    one = Server(folder)
    one.write(
        {"blue": spec(write_model(folder / "m.onnx", "good"), "1")},
        {"capture": {"folder": str(folder / "captures"), "rate": 1}},
        blue=1,
    )
    one.until_ready()
    yield one
    one.stop()


def memory(server: Server) -> int:
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * 4096


def peak(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024


def test_there_are_enough() -> None:
    assert len(CASES) >= 200
    assert len({name for name, _, _ in CASES}) == len(CASES)


def test_every_hostile_body_is_refused_with_a_reason(server: Server) -> None:
    assert server.score(grey(90)).status_code == 200
    before, wrong = memory(server), []
    for name, content_type, body in CASES:
        try:
            response = server.client.post("/score", content=body, headers={"content-type": content_type})
        except httpx.TransportError as error:
            wrong.append(f"{name}: {error!r}")
            continue
        told = response.json()
        if not (400 <= response.status_code < 500 and len(told.get("error", "")) > 10 and told.get("request_id")):
            wrong.append(f"{name}: {response.status_code} {response.text[:200]}")
        if len(response.content) > 5000:
            wrong.append(f"{name}: an answer of {len(response.content)} bytes")
    assert not wrong, "\n".join(wrong)
    assert server.process.poll() is None
    assert server.score(grey(200)).json()["boxes"]
    assert peak(server) - before < MEMORY_LIMIT
    text = server.log.read_text()
    assert "Traceback" not in text
    assert '"status":500' not in text

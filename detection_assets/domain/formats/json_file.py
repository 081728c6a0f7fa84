"""JSON from strangers: read as a whole, at most so large, and every failure says its line.

What grows with the data set, a list of tasks or lines of JSON, is read piece by piece: parsed JSON takes thirty times
its size, so a piece is small, and one that cannot be parsed does not lose the others.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from detection_assets.domain.formats.parsed import Unreadable, decode, read_bytes

MAX_PIECE_BYTES = 4 * 2**20
"""One picture's, or one video's, JSON."""

MAX_PIECES = 1_000_000
"""More lines or tasks than that are no data set that people drew."""

_CHUNK = 2**20
_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)(?:"|\\?\Z)(\s*:\s*([\[{]|(?="))?)?|[{}\[\]]', re.DOTALL)


def document(path: Path, limit: int, remedy: str, *, without: str = "", rest: int = 0) -> Any:
    """Parses a file of at most `limit` bytes.

    Args:
        path: The file.
        limit: Most bytes.
        remedy: What to do about a file that is no JSON.
        without: A key whose value, a text without escapes, is left out unread.
        rest: Most bytes of a file beside that value; 0 for as many as `limit`. Parsed JSON takes thirty times its size.

    Raises:
        Unreadable: It is empty, too large, cut off, nested too deeply or no JSON.
    """
    data = read_bytes(path, limit)
    if not data.strip():
        raise Unreadable("is empty", remedy)
    if data[:1] in (b"\xef", b"\xff", b"\xfe", b"\x00"):
        data = decode(data).encode("utf-8", "surrogatepass")
    if without:
        data = re.sub(rb'("%s"\s*:\s*)"[^"\\]*"' % re.escape(without.encode()), rb"\1null", data)
    if rest and len(data) > rest:
        raise Unreadable(f"larger than {rest // 2**20} MiB, not counting '{without}'", remedy)
    return parse(data, remedy)


def parse(data: bytes, remedy: str) -> Any:
    """Parses one JSON text.

    Raises:
        Unreadable: It is cut off, nested too deeply or no JSON; the place is the line and column.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        what, place = f"not JSON, or cut off: {error.msg}", f"line {error.lineno}, column {error.colno}"
    if b"NaN" in data or b"Infinity" in data:
        # Python's own json writes these although JSON has no such numbers; one such box must not lose the others.
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            pass
    raise Unreadable(what, remedy, place)


def top_keys(text: str) -> dict[str, str]:
    """The keys of a JSON object that begins `text`, with the first sign of each value.

    Args:
        text: The head of a file; it may end anywhere.

    Returns:
        `[`, `{` or `"` by key, or an empty text for any other value. Empty where `text` begins no object.
    """
    found: dict[str, str] = {}
    if not text.lstrip().startswith("{"):
        return found
    depth = 0
    for token in _TOKEN.finditer(text):
        if token[0] in ("{", "["):
            depth += 1
        elif token[0] in ("}", "]"):
            depth -= 1
        elif token[2]:
            if depth == 1:
                found[token[1]] = '"' if token[3] == "" else token[3] or ""
            depth += bool(token[3])
    return found


def lines(path: Path, remedy: str) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not empty, with their numbers from 1, whole ones only up to `MAX_PIECE_BYTES`.

    Raises:
        Unreadable: The file cannot be opened, is empty, has too many lines, or one that is too long.
    """
    number, some = 0, False
    try:
        with path.open("rb") as file:
            wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            file.seek(0)
            if wide:
                raise Unreadable("not UTF-8 text", "save it as UTF-8")
            while line := file.readline(MAX_PIECE_BYTES + 1):
                number += 1
                if len(line) > MAX_PIECE_BYTES:
                    raise Unreadable(f"longer than {MAX_PIECE_BYTES // 2**20} MiB", remedy, f"line {number}")
                if number > MAX_PIECES:
                    raise Unreadable(f"more than {MAX_PIECES:,} lines", "split it into several files")
                text = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).strip()
                if text:
                    some = True
                    yield number, text
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror or error}", "check that it exists and is readable") from None
    if not some:
        raise Unreadable("is empty", remedy)


def elements(path: Path, remedy: str, limit: int = MAX_PIECE_BYTES) -> Iterator[bytes]:
    """The objects and lists that a JSON list holds, one by one and unparsed; of a JSON object, the object itself.

    Args:
        path: The file.
        remedy: What to do about a file that is no JSON.
        limit: Most bytes of one of them.

    Raises:
        Unreadable: The file cannot be opened, is empty or cut off, or holds too many, or one that is too large.
    """
    try:
        with path.open("rb") as file:
            yield from _Elements(remedy, limit).of(iter(lambda: file.read(_CHUNK), b""))
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror or error}", "check that it exists and is readable") from None


class _Elements:
    """Cuts a JSON list at its elements, a chunk at a time, by counting brackets outside of strings."""

    def __init__(self, remedy: str, limit: int) -> None:
        self._remedy, self._limit = remedy, limit
        self._level = -1
        self._depth = self._count = 0
        self._quoted = False
        self._open = bytearray()

    def of(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        rest = b""
        for i, chunk in enumerate(chunks):
            data = rest + (self._utf8(chunk) if i == 0 else chunk)
            # A backslash and what it escapes must not be parted.
            tail = len(data) - len(data.rstrip(b"\\"))
            rest = data[len(data) - tail % 2 :]
            yield from self._cut(data[: len(data) - tail % 2])
        if self._level < 0:
            raise Unreadable("is empty" if not self._count and not self._open.strip() else "no JSON list", self._remedy)
        if self._depth:
            raise Unreadable("not JSON, or cut off: a bracket is not closed", self._remedy, f"element {self._count}")

    def _utf8(self, head: bytes) -> bytes:
        if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise Unreadable("not UTF-8 text", "save it as UTF-8")
        return head.removeprefix(codecs.BOM_UTF8)

    def _cut(self, data: bytes) -> Iterator[bytes]:
        if self._level < 0:
            data = data.lstrip()
            if not data:
                return
            # Of a list the elements are cut out, at depth 1; an object is one itself, at depth 0.
            self._level = 1 if data[:1] == b"[" else 0
        codes = np.frombuffer(data.replace(b"\\\\", b"__").replace(b'\\"', b"__"), dtype=np.uint8)
        quoted = (np.cumsum(codes == ord('"'), dtype=np.uint8) + self._quoted) & 1
        folded = codes | 0x20  # { and [ are one then, and } and ]; nothing else becomes one of them
        at = np.flatnonzero(((folded == ord("{")) | (folded == ord("}"))) & (quoted == 0))
        if len(codes):
            self._quoted = bool(quoted[-1])
        steps = np.where(folded[at] == ord("{"), 1, -1)
        depths = self._depth + np.cumsum(steps)
        if len(at):
            self._depth = int(depths[-1])
        begins = at[(depths == self._level + 1) & (steps == 1)].tolist()
        ends = at[(depths == self._level) & (steps == -1)].tolist()
        if self._open and ends:
            begins.insert(0, 0)
        for begin, end in zip(begins, ends, strict=False):
            self._count += 1
            if self._count > MAX_PIECES:
                raise Unreadable(f"more than {MAX_PIECES:,} elements", "split it into several files")
            whole = data[begin : end + 1]
            if self._open:
                whole = bytes(self._open) + whole
                self._open.clear()
            if len(whole) > self._limit:
                self._too_large()
            yield whole
        if len(begins) > len(ends):
            self._open += data[begins[len(ends)] :]
        elif self._open:
            self._open += data
        if len(self._open) > self._limit:
            self._too_large()

    def _too_large(self) -> None:
        what = f"element {self._count + 1} is larger than {self._limit // 2**20} MiB"
        raise Unreadable(what, self._remedy, f"element {self._count + 1}")


def number(value: object) -> float | None:
    """A JSON number as a float, infinite where it is too large for one; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf

"""JSON from strangers: read as a whole, at most so large, and every failure says its line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import orjson

from detection_assets.domain.formats.parsed import Unreadable, decode, read_bytes

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

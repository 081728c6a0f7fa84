"""Looks for secrets in everything that is there: files, rows of databases, tables, whatever way they are packed."""

from __future__ import annotations

import base64
import gzip
import io
import json
import sqlite3
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, quote_plus


def forms(secret: str) -> set[bytes]:
    """A secret as it is, and as it is found inside addresses, JSON and base64."""
    plain = secret.encode()
    found = {plain, quote(secret, safe="").encode(), quote(secret).encode(), quote_plus(secret).encode()}
    found |= {json.dumps(secret)[1:-1].encode(), plain.hex().encode(), repr(secret)[1:-1].encode()}
    for before in range(3):
        # Of what stands before and behind it, the first and the last characters know.
        encoded = base64.b64encode(b"\0" * before + plain + b"\0" * (-(before + len(plain)) % 3)).rstrip(b"=")
        inner = encoded[2 * (before > 0) + (before > 1) + 1 :][: len(plain) * 4 // 3 - 4]
        found |= {inner, inner.replace(b"+", b"-").replace(b"/", b"_")}
    return found


def unpacked(data: bytes, depth: int = 3) -> Iterator[bytes]:
    """Bytes as they are and, if they are packed, what is in them."""
    yield data
    if depth == 0:
        return
    if data[:2] == b"\x1f\x8b":
        yield from unpacked(gzip.decompress(data), depth - 1)
    elif data[:1] == b"\x78":
        try:
            yield from unpacked(zlib.decompress(data), depth - 1)
        except zlib.error:
            return
    elif data[:4] == b"PAR1":
        import pyarrow.parquet as pq

        file = pq.ParquetFile(io.BytesIO(data))
        yield repr(file.schema_arrow.metadata).encode()
        yield repr(file.read().to_pydict()).encode()
    elif data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            for name in packed.namelist():
                yield from unpacked(packed.read(name), depth - 1)


def rows(path: Path) -> Iterator[tuple[str, bytes]]:
    """Every value of every row of a SQLite file, with the name of its table."""
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    database.text_factory = bytes
    for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        name = table.decode()
        for row in database.execute(f'SELECT * FROM "{name}"'):
            for value in row:
                if isinstance(value, bytes):
                    yield name, value
    database.close()


def everything(folder: Path, but: Iterable[Path] = ()) -> Iterator[tuple[str, bytes]]:
    """All that lies in a folder, with the name of its place; rows of databases one by one."""
    left_out = set(but)
    for path in sorted(folder.rglob("*")):
        if path in left_out or not path.is_file() or path.is_symlink():
            continue
        data = path.read_bytes()
        for part in unpacked(data):
            yield str(path), part
        if data[:15] == b"SQLite format 3":
            for table, value in rows(path):
                for part in unpacked(value):
                    yield f"{path}: {table}", part


def found(secrets: Mapping[str, str], places: Iterable[tuple[str, bytes]]) -> list[str]:
    """Where which secret is, in whatever form."""
    wanted = {name: forms(secret) for name, secret in secrets.items()}
    return sorted(
        {
            f"{name} in {place}: ...{data[max(0, at - 120) : at + 60]!r}"
            for place, data in places
            for name, ways in wanted.items()
            for way in ways
            if (at := data.find(way)) >= 0
        }
    )

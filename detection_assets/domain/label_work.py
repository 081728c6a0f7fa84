"""What a labelling tool has of a batch in the lake, without pictures that were withdrawn: lists, boxes, answers."""

from __future__ import annotations

import posixpath
from collections.abc import Collection
from typing import Any
from urllib.parse import unquote

import orjson

GONE = b"{}"
"""What stands in a manifest in the place of a picture: answers are kept by the number of its line, which must stay."""


def lines_without(data: bytes, names: Collection[str], gone: bytes = b"") -> bytes:
    """Lines of JSON without those about some pictures.

    Args:
        data: The lines; one that is no JSON stays.
        names: Names of the pictures: what any of a line's own texts is, or what the address in it ends with.
        gone: What stands in the place of such a line; "" for nothing.
    """
    kept: list[bytes] = []
    for line in data.splitlines(keepends=True):
        if not _is_about(line, names):
            kept.append(line)
        elif gone:
            kept.append(gone + b"\n")
    return b"".join(kept)


def _is_about(line: bytes, names: Collection[str]) -> bool:
    try:
        told = orjson.loads(line)
    except ValueError:
        return False
    return isinstance(told, dict) and any(_is(value, names) for value in told.values())


def _is(address: object, names: Collection[str]) -> bool:
    if not isinstance(address, str):
        return False
    last = posixpath.basename(address.partition("?")[0])
    return last in names or unquote(last) in names or address in names


def gone_lines(data: bytes) -> set[int]:
    """The numbers, from 0, of a manifest's lines whose pictures were taken out."""
    rows = [line for line in data.splitlines() if line.strip()]
    return {number for number, line in enumerate(rows) if line.strip() == GONE}


def boxes_without(data: bytes, names: Collection[str]) -> bytes:
    """A COCO file without some pictures and their boxes; anything else as it is.

    Args:
        data: The file.
        names: Names of the pictures.
    """
    try:
        told: Any = orjson.loads(data)
    except ValueError:
        return data
    if not (isinstance(told, dict) and isinstance(told.get("images"), list)):
        return data
    images = [one for one in told["images"] if isinstance(one, dict)]
    its = {one.get("id") for one in images if any(_is(value, names) for value in one.values())}
    if not its:
        return data
    told["images"] = [one for one in images if one.get("id") not in its]
    boxes = [one for one in told.get("annotations") or () if isinstance(one, dict)]
    told["annotations"] = [one for one in boxes if one.get("image_id") not in its]
    return orjson.dumps(told)


def answers_without(data: bytes, numbers: Collection[int]) -> bytes:
    """What a service has put together of several pictures, by the number of each, without some; else as it is.

    Args:
        data: A list of JSON objects with `datasetObjectId`.
        numbers: The numbers of the pictures.
    """
    try:
        told: Any = orjson.loads(data)
    except ValueError:
        return data
    if not isinstance(told, list):
        return data
    wanted = {str(number) for number in numbers}
    kept = [one for one in told if not (isinstance(one, dict) and str(one.get("datasetObjectId")) in wanted)]
    return orjson.dumps(kept) if len(kept) < len(told) else data

"""Addresses of pictures in the files of labelling services, and the frames they mean.

The files name pictures by where they lie: `s3://bucket/...`, `azureml://.../paths/...`, `https://...`,
`/data/upload/...`.

- Below a folder `frames` or `videos`, which is how our lake is laid out, the rest is the name: the video's key and the
  file's name. The folder of a version of extracted frames is left out.
- Elsewhere the folders that all pictures of the file share are where somebody keeps pictures, and say nothing about
  which video they are of. What they do not share belongs to the names.
- What was uploaded to Label Studio is called by its file, without the hash that Label Studio puts before it.

A name that is no address is left as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import takewhile
from urllib.parse import parse_qs, unquote

from detection_assets.domain.formats.parsed import frame_name

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://+[^/?#]*", re.IGNORECASE)
_UPLOAD = re.compile(r"/data/upload/(?:\d+/)?(?:[0-9a-f]{8}-)?([^/?#]+)")
_VERSION = re.compile(r"[0-9a-f]{12,64}")
_LAKE = ("frames", "videos")


def names_of(addresses: Iterable[str]) -> dict[str, str]:
    """The names of the frames that the addresses in one file mean; empty for what names nothing.

    Args:
        addresses: All addresses of the file: what they have in common is left out.
    """
    found: dict[str, str] = {}
    elsewhere: dict[str, list[str]] = {}
    for address in dict.fromkeys(addresses):
        path = _path(address)
        if path is None:
            found[address] = frame_name(address)
            continue
        parts = [part for part in path.replace("\\", "/").split("/") if part.strip() not in ("", ".", "..")]
        at = next((i for i, part in enumerate(parts[:-1]) if part in _LAKE), None)
        if at is None:
            elsewhere[address] = parts
            continue
        parts = parts[at + 1 :]
        if len(parts) > 2 and _VERSION.fullmatch(parts[-2]):
            del parts[-2]
        found[address] = "/".join(parts)
    folders = [parts[:-1] for parts in elsewhere.values()]
    shared = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, zip(*folders, strict=False)))
    return found | {address: "/".join(parts[shared:]) for address, parts in elsewhere.items()}


def base_of(address: str) -> str:
    """The name of the file that an address means, without folders."""
    return names_of([address])[address].rpartition("/")[2]


def _path(address: str) -> str | None:
    """The path in an address, below its server, bucket or store; None for what is no address."""
    upload = _UPLOAD.search(address)
    if upload:
        return unquote(upload[1])
    if address.startswith("/data/local-files"):
        return next(iter(parse_qs(address.partition("?")[2]).get("d", [])), "")
    scheme = _SCHEME.match(address)
    if scheme is None:
        return None
    rest = address[scheme.end() :]
    kind = scheme[1].lower()
    if kind in ("http", "https"):
        return unquote(re.split(r"[?#]", rest, maxsplit=1)[0])
    return rest.partition("/paths/")[2] or rest if kind == "azureml" else rest

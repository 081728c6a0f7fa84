"""What lies in a lake that is a folder of this machine, told as the store's library tells it, in half of its time."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from detection_assets.domain.layout import Stored
from resources.store_errors import not_listed

_PLAIN = re.compile(r"[\w .,;!=+@&()'/-]*")
"""Names that the library writes as they are."""


def listing(folder: Path, prefix: str) -> list[Stored] | None:
    """The files below a folder, each looked at.

    Args:
        folder: Where.
        prefix: What stands before their paths in it.

    Returns:
        The same as the library's, in no order; None if there is something that only the library can tell of: a link, an
        odd name, what is no file, what is being written, or what may not be looked at.
    """
    found: list[Stored] = []
    waiting = [(str(folder), prefix)]
    try:
        while waiting:
            place, before = waiting.pop()
            with os.scandir(place) as entries:
                those = list(entries)
            if not _PLAIN.fullmatch("/".join([entry.name for entry in those])):
                return None
            begin = f"{before}/" if before else ""
            for entry in those:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((entry.path, begin + entry.name))
                    continue
                if not entry.is_file(follow_symlinks=False):
                    return None
                told = entry.stat(follow_symlinks=False)
                size, micros = told.st_size, told.st_mtime_ns // 1000
                if micros < 0:
                    return None
                tag = f'"{told.st_ino:x}-{micros:x}-{size:x}"'
                found.append(Stored(begin + entry.name, size, tag, micros / 1_000_000))
    except OSError:
        return None
    return found


def names(folder: Path, prefix: str) -> Iterator[str]:
    """The paths of the files below a folder, in no order, without a look at each; arguments as of `listing`.

    Raises:
        LakeError: A folder may not be listed.
    """
    for top, _, files in os.walk(folder, onerror=not_listed):
        place = f"{prefix}{top.removeprefix(str(folder))}"
        yield from (f"{place}/{name}".lstrip("/") for name in files if not re.search("#[0-9]+$", name))  # half done

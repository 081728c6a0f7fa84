"""Files that commands write for people: whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detection_assets.domain.problems import InputError, Told


@contextmanager
def whole(target: Path, option: str) -> Iterator[Path]:
    """A file to write to in place of another, which takes its name when it is whole.

    What is there and no plain file, such as a pipe or a link, is written to as it is.

    Args:
        target: The file that is wanted; its folder is made.
        option: The option of the command that names it.

    Yields:
        A file beside it, which is gone afterwards, or the pipe or the link.

    Raises:
        InputError: It cannot be written.
    """
    if target.is_dir():
        raise InputError(f"{option} {target}: is a folder; name a file in it")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        if target.is_symlink() or (target.exists() and not target.is_file()):
            yield target
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        if isinstance(error, Told):
            raise  # of the lake
        why = error.strerror or error
        raise InputError(f"{target}: cannot be written: {why}; name another file with {option}") from error

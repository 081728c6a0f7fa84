"""Temporary folders that say whose they are, so that what a killed process left in one can be found and deleted."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

NAME = "detection-{pid}-"
_OURS = re.compile(NAME.format(pid="([0-9]+)"))


def folder() -> tempfile.TemporaryDirectory[str]:
    """A temporary folder for what is of a video: its file, its pictures, tables with rows of it."""
    return tempfile.TemporaryDirectory(prefix=NAME.format(pid=os.getpid()))


def clear() -> None:
    """Deletes the folders of processes that are no more."""
    for path in forsaken():
        shutil.rmtree(path, ignore_errors=True)


def forsaken() -> Iterator[Path]:
    """The folders of processes that are no more."""
    for path in Path(tempfile.gettempdir()).iterdir():
        made = _OURS.match(path.name)
        if made is not None and not lives(int(made[1])):
            yield path


def lives(pid: int) -> bool:
    """Whether a process of this machine is still there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True

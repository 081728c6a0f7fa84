"""Where captured requests are kept: a folder of this machine, or a place in a lake."""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
import uuid
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath
from typing import Any

from detection_assets.object_store import open_store


class Place(ABC):
    """A folder a day, and in it whatever is written."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Writes a file whole, or not at all.

        Args:
            name: Its path below the place, with `/` between parts.
            content: Its bytes.

        Raises:
            OSError: It cannot be written.
        """

    @abstractmethod
    def write_new(self, name: str, content: bytes) -> str:
        """Writes a file and returns its path, which is another one if there is a file of that name.

        Raises:
            OSError: It cannot be written.
        """

    @abstractmethod
    def sweep(self, keep_days: int) -> list[str]:
        """Removes the days that are past keeping, and returns them.

        Args:
            keep_days: Whole days that are kept beside the present one, UTC.

        Raises:
            OSError: One could not be removed.
        """


class Folder(Place):
    """A folder of this machine."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def write(self, name: str, content: bytes) -> None:
        """Writes beside, then renames."""
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}")
        try:
            scratch.write_bytes(content)
            os.replace(scratch, path)
        except OSError:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)
            raise

    def write_new(self, name: str, content: bytes) -> str:
        """There is one writer, so that looking first is enough."""
        if (self._root / name).exists():
            name = _another(name)
        self.write(name, content)
        return name

    def sweep(self, keep_days: int) -> list[str]:
        """A day is renamed before it is removed, so that nobody reads half of it; what was left so goes, too."""
        removed: list[str] = []
        for path in sorted(self._root.iterdir()) if self._root.is_dir() else []:
            if path.name.startswith(".removed-"):
                shutil.rmtree(path)
            elif is_past(path.name, keep_days) and path.is_dir():
                gone = path.with_name(f".removed-{path.name}-{uuid.uuid4().hex[:8]}")
                path.rename(gone)
                shutil.rmtree(gone)
                removed.append(path.name)
        return removed


class Lake(Place):
    """A place in a store of objects, which several servers may write to at once."""

    def __init__(self, uri: str) -> None:
        self._uri, self._opened = uri, None

    @property
    def _store(self) -> Any:
        self._opened = self._opened or open_store(self._uri)
        return self._opened

    def write(self, name: str, content: bytes) -> None:
        """An object appears whole."""
        import obstore

        with _as_os_errors():
            obstore.put(self._store, name, content)

    def write_new(self, name: str, content: bytes) -> str:
        """The store says whether there is one."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        with _as_os_errors():
            try:
                obstore.put(self._store, name, content, mode="create")
            except AlreadyExistsError:
                name = _another(name)
                obstore.put(self._store, name, content)
        return name

    def sweep(self, keep_days: int) -> list[str]:
        """Whoever reads a day meanwhile finds less of it."""
        import obstore

        removed: list[str] = []
        with _as_os_errors():
            for day in obstore.list_with_delimiter(self._store)["common_prefixes"]:
                if is_past(day, keep_days):
                    for batch in obstore.list(self._store, day):
                        obstore.delete(self._store, [item["path"] for item in batch])
                    removed.append(day)
        return removed


def place_at(where: Path | str) -> Place:
    """The place at a path or a URI."""
    return Lake(where) if isinstance(where, str) and "://" in where else Folder(Path(where))


def is_past(day: str, keep_days: int) -> bool:
    """Whether a name is that of a day that is past keeping."""
    try:
        found = datetime.date.fromisoformat(day)
    except ValueError:
        return False
    return found < datetime.datetime.now(datetime.timezone.utc).date() - datetime.timedelta(days=keep_days)


def _another(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_name(f"{path.stem}-{uuid.uuid4().hex[:8]}{path.suffix}"))


@contextlib.contextmanager
def _as_os_errors() -> Any:
    from obstore.exceptions import BaseError

    try:
        yield
    except OSError:
        raise
    except BaseError as error:
        raise OSError(str(error).strip().splitlines()[0][:300]) from error

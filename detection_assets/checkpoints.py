"""A folder that outlives an interruption, where the platform itself keeps none: its files lie in the lake as well."""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from pathlib import Path

from detection_assets.object_store import open_store


class KeptFolder:
    """Copies what a program keeps in a folder into the lake while it runs, and brings it back when it begins again."""

    def __init__(self, uri: str, folder: Path, every_s: float) -> None:
        """Brings what lies below the URI into the folder, and copies from then on what changes there.

        Args:
            uri: Where in the lake it is kept.
            folder: The folder; it is made.
            every_s: Seconds between two looks at it.
        """
        self._store, self._folder, self._every_s = open_store(uri), folder, every_s
        self._known: dict[str, tuple[int, int]] = {}
        self._bring()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    def _bring(self) -> None:
        import obstore

        self._folder.mkdir(parents=True, exist_ok=True)
        for batch in obstore.list(self._store):
            for item in batch:
                target = self._folder / item["path"]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(bytes(obstore.get(self._store, item["path"]).bytes()))
                self._known[item["path"]] = _state(target)

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            try:
                self.copy()
            except Exception as error:  # the store's trouble of a moment; what was copied before is there
                print(f"launcher: the checkpoint could not be kept: {error}; trying again", file=sys.stderr, flush=True)

    def copy(self) -> None:
        """Copies what has changed, in the order in which it was written: what is written last vouches for the rest."""
        import obstore

        fresh: list[tuple[tuple[int, int], str]] = []
        for path in self._folder.rglob("*"):
            # What a program is still writing has another name, and may be gone by now.
            with suppress(FileNotFoundError):
                if path.is_file() and path.suffix != ".part":
                    key, state = path.relative_to(self._folder).as_posix(), _state(path)
                    if self._known.get(key) != state:
                        fresh.append((state, key))
        for state, key in sorted(fresh):
            with suppress(FileNotFoundError):
                obstore.put(self._store, key, self._folder / key)
                self._known[key] = state

    def end(self) -> None:
        """Copies what is left."""
        self._ended.set()
        self._thread.join()
        self.copy()


def _state(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_mtime_ns, about.st_size

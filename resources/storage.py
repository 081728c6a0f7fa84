"""One detector's part of the lake: a folder, an S3 prefix or a Blob prefix, by its URI alone.

Publishing is what every stage relies on: outputs go to a folder that no reader knows, then one small manifest is put
with create-if-absent. Whoever finds the manifest finds everything; a killed step leaves garbage, never a half-made
version.
"""

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import dagster as dg
import obstore
import orjson
from obstore.exceptions import AlreadyExistsError, GenericError
from obstore.store import LocalStore, from_url
from pydantic import PrivateAttr

from detection_assets.domain import layout
from detection_assets.domain.layout import Stored

PARALLEL = 32
"""Requests in flight at once when many objects move: enough to hide a cloud's latency, few enough for its limits."""


FULL = ("StorageFull", "QuotaExceeded")
"""What the store's error says when there is no room, on a disk or within a quota."""


class StorageFullError(OSError):
    """There is no room for an object. What was there before is there still."""


@dataclass(frozen=True, slots=True)
class Published:
    """One published version of something.

    Attributes:
        prefix: Where it is published.
        folder: Storage prefix of its files.
        files: Size in bytes of each file, by its path below the folder.
        notes: What the publisher wrote in the manifest.
    """

    prefix: str
    folder: str
    files: Mapping[str, int]
    notes: Mapping[str, Any]

    def key(self, name: str) -> str:
        """The storage key of a file, by its path below the folder."""
        if name not in self.files:
            raise FileNotFoundError(
                f"{self.prefix} was published without {name}; it has {', '.join(self.files) or 'nothing'}"
            )
        return f"{self.folder}/{name}"


class Storage(dg.ConfigurableResource):
    """Objects under one root. Keys are relative to it, with `/` between parts.

    Attributes:
        root: The lake: a folder, `s3://bucket/prefix` or `az://container/prefix`.
        prefix: The detector's folder in the lake.
    """

    root: str
    prefix: str
    _store: Any = PrivateAttr(default=None)

    @property
    def uri(self) -> str:
        """The root as a URI."""
        root = self.root if "://" in self.root else Path(self.root).absolute().as_uri()
        return f"{root.rstrip('/')}/{self.prefix}"

    @property
    def store(self) -> Any:
        """The object store under the root; opened once."""
        if self._store is None:
            folder = self._folder
            self._store = LocalStore(folder, mkdir=True) if folder else from_url(self.uri)
        return self._store

    @property
    def _folder(self) -> Path | None:
        url = urlparse(self.uri)
        return Path(unquote(url.path)) if url.scheme == "file" else None

    def uri_of(self, key: str) -> str:
        """The URI of a key, as other programs understand it."""
        return f"{self.uri}/{key}"

    def local_path(self, key: str) -> Path | None:
        """The file or folder of a key where the lake is a folder of this machine; otherwise None."""
        folder = self._folder
        return folder / key if folder else None

    # Objects ---------------------------------------------------------------------------------------------------------

    def put(self, key: str, data: bytes | Path) -> None:
        """Writes an object, over an earlier one if there is one; a reader sees the old or the new, never a part.

        Raises:
            StorageFullError: There is no room for it.
        """
        with self._room(key):
            obstore.put(self.store, key, data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Writes an object unless there is one; of several writers exactly one is told True.

        Raises:
            StorageFullError: There is no room for it.
        """
        try:
            with self._room(key):
                obstore.put(self.store, key, data, mode="create")
        except AlreadyExistsError:
            return False
        return True

    @contextmanager
    def _room(self, key: str) -> Iterator[None]:
        try:
            yield
        except GenericError as error:
            if not any(sign in str(error) for sign in FULL):
                raise
            why = "the disk is full; free some space and run again"
            # Not from the other one, whose many lines say no more.
            raise StorageFullError(errno.ENOSPC, why, self.uri_of(key)) from None

    def get(self, key: str) -> bytes:
        """Reads an object.

        Raises:
            FileNotFoundError: If there is none.
        """
        return bytes(obstore.get(self.store, key).bytes())

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Reads many objects side by side; None for each that does not exist."""
        from concurrent.futures import ThreadPoolExecutor

        def one(key: str) -> bytes | None:
            try:
                return self.get(key)
            except FileNotFoundError:
                return None

        if len(keys) < 4:
            return [one(key) for key in keys]
        with ThreadPoolExecutor(PARALLEL) as pool:
            return list(pool.map(one, keys))

    def exists(self, key: str) -> bool:
        """Whether there is an object."""
        try:
            obstore.head(self.store, key)
        except FileNotFoundError:
            return False
        return True

    def list(self, prefix: str) -> Iterator[Stored]:
        """Lists the objects below a prefix, in no order."""
        for batch in obstore.list(self.store, prefix, chunk_size=1000):
            for item in batch:
                tag = item["e_tag"] or item["last_modified"].isoformat()
                yield Stored(item["path"], item["size"], tag)

    def glance(self, prefix: str) -> str:
        """A digest of a listing, for "has anything changed at all?": it costs no more than the listing itself."""
        lines: list[str] = []
        for batch in obstore.list(self.store, prefix, chunk_size=1000):
            lines += [f"{item['path']}\0{item['size']}\0{item['e_tag'] or item['last_modified']}" for item in batch]
        lines.sort()
        return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()

    def delete(self, prefix: str) -> int:
        """Deletes every object below a prefix; returns how many."""
        keys = [item.key for item in self.list(prefix)]
        if keys:
            obstore.delete(self.store, keys)
        folder = self.local_path(prefix)
        if folder and folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)
        return len(keys)

    # Files and folders -----------------------------------------------------------------------------------------------

    @contextmanager
    def local_copy(self, key: str) -> Iterator[Path]:
        """Makes an object, or a folder of objects, readable as a local path for as long as the context lasts."""
        path = self.local_path(key)
        if path is not None:
            yield path
            return
        import tempfile

        with tempfile.TemporaryDirectory() as scratch:
            target = Path(scratch) / key.rsplit("/", 1)[-1]
            keys = [item.key for item in self.list(key)]
            if keys:
                self.download({name: target / name.removeprefix(key + "/") for name in keys})
            else:
                self.download({key: target})
            yield target

    def download(self, targets: Mapping[str, Path]) -> None:
        """Writes objects to files, side by side, streaming."""
        from concurrent.futures import ThreadPoolExecutor

        def one(item: tuple[str, Path]) -> None:
            key, target = item
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as out:
                for chunk in obstore.get(self.store, key).stream(min_chunk_size=4 << 20):
                    out.write(chunk)

        with ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(one, targets.items()))

    def upload(self, folder: Path, prefix: str) -> None:
        """Moves the files of a local folder below a prefix; the folder is empty or gone afterwards."""
        target = self.local_path(prefix)
        if target is not None and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.replace(folder, target)
                return
            except OSError:
                pass  # another file system: copied below
        from concurrent.futures import ThreadPoolExecutor

        files = [path for path in folder.rglob("*") if path.is_file()]
        with ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(lambda path: self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path), files))
        shutil.rmtree(folder)

    # Publishing ------------------------------------------------------------------------------------------------------

    def published(self, prefix: str) -> Published | None:
        """What is published at a prefix, or None if nothing is."""
        try:
            manifest = orjson.loads(self.get(f"{prefix}/{layout.MANIFEST}"))
        except FileNotFoundError:
            return None
        return Published(prefix, f"{prefix}/{manifest['folder']}", manifest["files"], manifest["notes"])

    def publish(self, folder: Path, prefix: str, notes: Mapping[str, Any]) -> Published:
        """Publishes a local folder as the one version that lies at a prefix.

        Args:
            folder: Its files; it is emptied.
            prefix: Where; whatever is published there already stays and is returned instead.
            notes: JSON-serialisable, kept in the manifest.

        Returns:
            What is published at the prefix now.
        """
        attempt = uuid.uuid4().hex[:12]
        files = {
            path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()
        }
        self.upload(folder, f"{prefix}/{attempt}")
        return self.publish_staged(prefix, attempt, files, notes)

    def publish_staged(
        self, prefix: str, attempt: str, files: Mapping[str, int], notes: Mapping[str, Any]
    ) -> Published:
        """Publishes what lies at `<prefix>/<attempt>` already, by putting its manifest.

        Returns:
            What is published at the prefix now: this, or what somebody else published first.
        """
        manifest = {"folder": attempt, "files": dict(sorted(files.items())), "notes": dict(notes)}
        if not self.put_if_absent(f"{prefix}/{layout.MANIFEST}", orjson.dumps(manifest)):
            self.delete(f"{prefix}/{attempt}")
        found = self.published(prefix)
        assert found is not None, f"{prefix}: its manifest was removed while it was being published"
        return found

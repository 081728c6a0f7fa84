"""One detector's part of the lake: a folder, an S3 prefix or a Blob prefix, by its URI alone.

Publishing is what every stage relies on: outputs go to a folder that no reader knows, then one small manifest is put
with create-if-absent. Whoever finds the manifest finds everything; a killed step leaves garbage, never a half-made
version.
"""

import errno
import glob
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlparse

import dagster as dg
import obstore
import orjson
from obstore.exceptions import (
    AlreadyExistsError,
    GenericError,
    InvalidPathError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import LocalStore
from pydantic import PrivateAttr

from detection_assets.domain import layout
from detection_assets.domain.layout import Stored
from detection_assets.object_store import open_store
from resources import local_files, temporary
from resources.findings import Finding
from resources.store_errors import CONFLICT, LakeError, StorageFullError, is_full, refusal, says, unreadable

PARALLEL = 32
"""Requests in flight at once when many objects move: enough to hide a cloud's latency, few enough for its limits."""
PART = 8 << 20
"""Bytes of a part of an upload; what is shorter goes in one request."""
RANGE = 64 << 20
"""Bytes of one request: a longer object is read in several, one after the other, each tried again by itself."""
SAMPLE = 64 << 10
"""Bytes of each of the three pieces by which two large objects are compared."""
PARTS = 9000
"""Parts that an object is uploaded in, at most; S3 takes 10,000."""
ATTEMPTS = 5
"""How often a write is tried that S3 refuses only because another one is on its way to the same key."""


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
            self._store = LocalStore(folder, mkdir=True) if folder else open_store(self.uri)
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

    def check(self) -> Iterator[Finding]:
        """Writes, reads, lists and deletes a small object, as everything that uses the lake does."""
        folder = layout.job(f"check-{uuid.uuid4().hex[:12]}")
        key = f"{folder}/object"
        try:
            self.put(key, b"check")
            if self.get(key) != b"check" or [item.key for item in self.list(folder)] != [key]:
                yield Finding("lake", "bad", f"{self.uri}: what was written is not what is read", "use another store")
                return
            self.delete(folder)
        except OSError as error:
            yield Finding("lake", "bad", self.uri, error.strerror or str(error))
            return
        except Exception as error:  # the store's library has errors of its own for a lake that is nowhere
            told = str(error).strip().splitlines()[0][:200]
            yield Finding("lake", "bad", self.uri, f"it does not answer; correct DETECTION_LAKE or the network: {told}")
            return
        yield Finding("lake", "good", f"{self.uri}: written, read, listed, deleted")

    # Objects ---------------------------------------------------------------------------------------------------------

    def put(self, key: str, data: bytes | Path) -> None:
        """Writes an object, over an earlier one if there is one; a reader sees the old or the new, never a part.

        Raises:
            StorageFullError: There is no room for it.
            LakeError: The lake is not there, or refuses.
        """
        part = _part(data.stat().st_size) if isinstance(data, Path) else PART
        with self._asking(key):
            obstore.put(self.store, key, data, chunk_size=part)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Writes an object unless there is one; of several writers at most one is told True.

        A writer whose answer got lost on the way, and who was asked to write again, may be told False: see
        `publish_staged`.

        Raises:
            StorageFullError: There is no room for it.
            LakeError: The lake is not there, or refuses.
        """
        for attempt in range(ATTEMPTS):
            try:
                with self._asking(key):
                    obstore.put(self.store, key, data, mode="create")
                return True
            except AlreadyExistsError as error:
                if not says(error, CONFLICT):
                    return False
                # Not "there is one" but "there may soon be one": whoever is writing it may yet fail.
                time.sleep(0.05 * 2**attempt)
        raise LakeError(errno.EAGAIN, "other writes to it did not end; run again", self.uri_of(key))

    @contextmanager
    def _asking(self, key: str) -> Iterator[None]:
        """Says in words of ours, and without the pages of the library's, what is wrong with the lake as a whole."""
        try:
            yield
        except (GenericError, PermissionDeniedError, UnauthenticatedError, FileNotFoundError) as error:
            if is_full(error):
                why = "the disk is full; free some space and run again"
                raise StorageFullError(errno.ENOSPC, why, self.uri_of(key)) from None
            why = refusal(error)
            if why and self._folder:
                why = "this user may not do that here; correct the folder's owner or permissions"
            if why is None:
                raise
            raise LakeError(errno.EACCES, why, self.uri_of(key)) from None
        except InvalidPathError as error:
            raise LakeError(errno.EINVAL, unreadable(error), self.uri_of(key)) from None

    def get(self, key: str) -> bytes:
        """Reads an object.

        Raises:
            FileNotFoundError: If there is none.
            LakeError: The lake is not there, or refuses.
        """
        with self._asking(key):
            return bytes(obstore.get(self.store, key).bytes())

    def sample(self, key: str) -> tuple[int, bytes]:
        """An object's size and some of its bytes: all of a small one; of a larger its beginning, middle and end."""
        with self._asking(key):
            size = obstore.head(self.store, key)["size"]
            if size <= 3 * SAMPLE:
                return size, self.get(key)
            starts = [0, (size - SAMPLE) // 2, size - SAMPLE]
            parts = obstore.get_ranges(self.store, key, starts=starts, lengths=[SAMPLE] * 3)
            return size, b"".join(bytes(part) for part in parts)

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Reads many objects side by side; None for each that does not exist."""

        def one(key: str) -> bytes | None:
            try:
                return self.get(key)
            except FileNotFoundError:
                return None

        if len(keys) < 4:
            return [one(key) for key in keys]
        with ThreadPoolExecutor(PARALLEL) as pool:
            return list(pool.map(one, keys))

    def find(self, key: str) -> Stored | None:
        """An object as a listing shows it; None if there is none."""
        try:
            with self._asking(key):
                return _stored(obstore.head(self.store, key))
        except FileNotFoundError:
            return None

    def exists(self, key: str) -> bool:
        """Whether there is an object."""
        return self.find(key) is not None

    def list(self, prefix: str) -> Iterator[Stored]:
        """Lists the objects below a prefix, in no order."""
        folder = self.local_path(prefix)
        plain = local_files.listing(folder, prefix) if folder is not None else None
        yield from map(_stored, self._listing(prefix)) if plain is None else plain

    def names(self, prefix: str) -> Iterator[str]:
        """The keys below a prefix, in no order; in a folder of this machine without a look at each file."""
        folder = self.local_path(prefix)
        if folder is not None:
            yield from local_files.names(folder, prefix)
        else:
            yield from (item["path"] for item in self._listing(prefix))

    def list_folder(self, folder: str) -> Sequence[Stored]:
        """The objects directly in a folder, however many there are in folders below it."""
        with self._asking(folder):
            return [_stored(item) for item in obstore.list_with_delimiter(self.store, folder)["objects"]]

    def folders(self, folder: str) -> Sequence[str]:
        """The names of the folders directly in a folder."""
        with self._asking(folder):
            found = obstore.list_with_delimiter(self.store, folder)["common_prefixes"]
        return [prefix.rstrip("/").rpartition("/")[2] for prefix in found]

    def glance(self, prefix: str) -> str:
        """A digest of a listing, for "has anything changed at all?": it costs no more than the listing itself."""
        lines = sorted(f"{key}\0{size}\0{tag}" for key, size, tag, _ in self.list(prefix))
        return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()

    def _listing(self, prefix: str) -> Iterator[Any]:
        with self._asking(prefix):
            yield from chain.from_iterable(obstore.list(self.store, prefix, chunk_size=1000))

    def delete(self, prefix: str) -> int:
        """Deletes every object below a prefix; returns how many."""
        keys = [item.key for item in self.list(prefix)]
        if keys:
            obstore.delete(self.store, keys)
        folder = self.local_path(prefix)
        if folder and folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)
        return len(keys)

    def remove(self, keys: Sequence[str]) -> int:
        """Deletes the objects that are there, and local folders that are left empty; returns how many were given."""
        if not keys:
            return 0
        with self._asking(keys[0]):
            if self._folder is None:
                obstore.delete(self.store, list(keys))
                return len(keys)
        for key in keys:
            path = self._folder / key
            path.unlink(missing_ok=True)
            # What a killed writer left of it is in no listing.
            for half in path.parent.glob(f"{glob.escape(path.name)}#[0-9]*"):
                half.unlink(missing_ok=True)
            for folder in path.parents:
                if folder == self._folder or self._folder not in folder.parents or any(folder.iterdir()):
                    break
                folder.rmdir()
        return len(keys)

    # Files and folders -----------------------------------------------------------------------------------------------

    @contextmanager
    def local_copy(self, key: str) -> Iterator[Path]:
        """Makes an object, or a folder of objects, readable as a local path for as long as the context lasts."""
        path = self.local_path(key)
        if path is not None:
            yield path
            return
        with temporary.folder() as scratch:
            target = Path(scratch) / key.rsplit("/", 1)[-1]
            keys = [item.key for item in self.list(key)]
            if keys:
                self.download({name: target / name.removeprefix(key + "/") for name in keys})
            else:
                self.download({key: target})
            yield target

    def download(self, targets: Mapping[str, Path]) -> None:
        """Writes objects to files, side by side, streaming.

        Raises:
            FileNotFoundError: One does not exist.
            LakeError: The lake refuses, or a long object was changed while it was read.
        """

        def one(item: tuple[str, Path]) -> None:
            key, target = item
            target.parent.mkdir(parents=True, exist_ok=True)
            with self._asking(key), target.open("wb") as out:
                found = obstore.get(self.store, key)
                size, tag = found.meta["size"], found.meta["e_tag"]
                if size <= RANGE:
                    for chunk in found.stream(min_chunk_size=4 << 20):
                        out.write(chunk)
                else:
                    del found
                    self._in_ranges(key, size, tag, out)

        with ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(one, targets.items()))

    def _in_ranges(self, key: str, size: int, tag: str | None, out: IO[bytes]) -> None:
        """Reads a long object in pieces, all of the same state of it."""
        for start in range(0, size, RANGE):
            options: Any = {"range": (start, min(start + RANGE, size))} | ({"if_match": tag} if tag else {})
            try:
                out.write(obstore.get(self.store, key, options=options).bytes())
            except PreconditionError:
                why = "it was replaced while it was being read; run again"
                raise LakeError(errno.EAGAIN, why, self.uri_of(key)) from None

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
        attempt, files = uuid.uuid4().hex[:12], _sizes(folder)
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
        won = self.put_if_absent(f"{prefix}/{layout.MANIFEST}", orjson.dumps(manifest))
        found = self.published(prefix)
        assert found is not None, f"{prefix}: its manifest was removed while it was being published"
        # A store that took the manifest, failed to say so and was asked again says that there is one: it may be ours.
        if not won and found.folder != f"{prefix}/{attempt}":
            self.delete(f"{prefix}/{attempt}")
        return found

    def replace(self, made: Published, folder: Path, notes: Mapping[str, Any]) -> Published:
        """Publishes a local folder in the place of what is published, which is deleted.

        Only what has to be erased is a reason: whoever reads the version meanwhile finds the old or the new.

        Args:
            made: What is published.
            folder: The files that take its place; it is emptied.
            notes: Kept in the manifest beside those that there are.
        """
        attempt, files = uuid.uuid4().hex[:12], _sizes(folder)
        if files:
            self.upload(folder, f"{made.prefix}/{attempt}")
        manifest = {"folder": attempt, "files": dict(sorted(files.items())), "notes": {**made.notes, **notes}}
        self.put(f"{made.prefix}/{layout.MANIFEST}", orjson.dumps(manifest))
        self.delete(made.folder)
        found = self.published(made.prefix)
        assert found is not None, f"{made.prefix}: its manifest was removed while it was being replaced"
        return found


def _sizes(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def _stored(item: Any) -> Stored:
    written, tag = item["last_modified"], item["e_tag"] or ""
    if tag.startswith('"0x'):
        tag = tag.strip('"')  # Azure quotes them when it is asked about an object, and not in a listing
    return Stored(item["path"], item["size"], tag or written.isoformat(), written.timestamp())


def _part(size: int) -> int:
    """Bytes of a part of an upload: few enough parts, however long the file is."""
    return max(PART, -(-size // PARTS))

"""What SageMaker's agents copy between the lake and a container: its inputs, and its checkpoints both ways."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fakes import s3


class Agents:
    """Copies between a moto server's S3 and folders."""

    def __init__(self, moto: str) -> None:
        self.moto = moto

    def _store(self, uri: str) -> Any:
        from obstore.store import S3Store

        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        return S3Store(
            bucket, prefix=prefix or None, endpoint=self.moto, region=s3.REGION, access_key_id="test",
            secret_access_key="test", client_options={"allow_http": True},
        )  # fmt: skip

    def copy_in(self, local: Path, source: Mapping[str, Any]) -> None:
        """Copies an input: all below a prefix, or what a manifest names."""
        import obstore

        local.mkdir(parents=True, exist_ok=True)
        if source["S3DataType"] == "ManifestFile":
            found = self.manifest(source["S3Uri"])
            store, keys = self._store(found[0][0]) if found else None, [key for _, key in found]
        else:
            store = self._store(source["S3Uri"])
            keys = [item["path"] for batch in obstore.list(store) for item in batch]
        if not keys:
            raise RuntimeError(
                f"ClientError: Data download failed: No S3 objects found under S3 URL {source['S3Uri']!r}"
            )
        for key in keys:
            target = local / key
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(bytes(obstore.get(store, key).bytes()))

    def manifest(self, uri: str) -> list[tuple[str, str]]:
        """What a manifest names: the address of the folder that an object is in, and its path there.

        Raises:
            FileNotFoundError: There is no such manifest.
        """
        import obstore

        where, _, name = uri.rpartition("/")
        first, *keys = json.loads(bytes(obstore.get(self._store(where), name).bytes()))
        return [(first["prefix"], key) for key in keys]

    def get(self, uri: str, key: str) -> bytes:
        """An object's bytes."""
        import obstore

        return bytes(obstore.get(self._store(uri), key).bytes())

    def put(self, uri: str, key: str, data: bytes) -> None:
        """Writes an object."""
        import obstore

        obstore.put(self._store(uri), key, data)

    def unpack(self, uri: str, local: Path) -> None:
        """Makes a folder of a packed one; what is not packed with gzip is none."""
        where, _, name = uri.rpartition("/")
        local.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(self.get(where, name)), mode="r:gz") as archive:
            archive.extractall(local, filter="data")

    def sync_in(self, uri: str, local: Path, kept: dict[str, int]) -> None:
        """Brings checkpoints back; `kept` tells when each was written."""
        import obstore

        local.mkdir(parents=True, exist_ok=True)
        store = self._store(uri)
        for batch in obstore.list(store):
            for item in batch:
                target = local / item["path"]
                target.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):  # deleted since it was listed
                    target.write_bytes(bytes(obstore.get(store, item["path"]).bytes()))
                    kept[item["path"]] = target.stat().st_mtime_ns

    def sync_out(self, uri: str, local: Path, kept: dict[str, int]) -> None:
        """Copies the checkpoints that were written since."""
        import obstore

        store = self._store(uri)
        for path in sorted(local.rglob("*")):
            with suppress(FileNotFoundError):
                if path.is_file() and kept.get(key := path.relative_to(local).as_posix()) != path.stat().st_mtime_ns:
                    kept[key] = path.stat().st_mtime_ns
                    obstore.put(store, key, path)

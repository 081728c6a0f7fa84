"""The assets' tables: Parquet under their content's hash, and a small pointer that moves.

Today's table is one read away, and every earlier one stays readable. A partitioned asset has one table a partition (a
video, or a day); whoever reads several gets one DataFrame, told apart by its column `video` or `day`.
"""

import hashlib
import io
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import dagster as dg
import orjson
import pandas as pd

from detection_assets.domain import column_sources, layout, schemas
from detection_assets.domain.problems import Told
from resources import version_index
from resources.storage import Storage

TABLE = dg.PythonObjectDagsterType(pd.DataFrame, name="Table", description="A DataFrame with the asset's schema.")
"""The type of every asset's value."""
VERSION = 16
"""Digits of a table's hash that are its asset's data version, where that is the hash of the table."""


class ErasedError(Told, FileNotFoundError):
    """A table that was erased; the message says why, and what is left of it."""


def serialize(table: pd.DataFrame) -> tuple[bytes, str]:
    """A table as Parquet, and the digest of its content.

    The digest is taken over the columns' Arrow buffers and not over the Parquet file, so that a new version of the
    Parquet writer does not make a new version of the data.
    """
    import pyarrow as pa

    return packed(pa.Table.from_pandas(table, preserve_index=False))


def packed(arrow: Any) -> tuple[bytes, str]:
    """As `serialize`, of an Arrow table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = arrow.combine_chunks()
    sink = io.BytesIO()
    pq.write_table(arrow, sink, compression="zstd")
    stripped = io.BytesIO()
    plain = arrow.replace_schema_metadata(None)
    with pa.ipc.new_stream(stripped, plain.schema) as writer:
        writer.write_table(plain)
    return sink.getvalue(), hashlib.sha256(stripped.getvalue()).hexdigest()


def write(storage: Storage, asset: str, partition: str | None, table: pd.DataFrame, run_id: str) -> dict[str, Any]:
    """Writes a table and moves the pointer to it.

    Args:
        storage: The detector's storage.
        asset: The asset's name.
        partition: The video or the day, or None for an asset without partitions.
        table: The table; checked against the asset's schema.
        run_id: The run that made it, kept in the pointer.

    Returns:
        The pointer.
    """
    table = schemas.conform(asset, table)
    data, digest = serialize(table)
    key = layout.table(asset, partition, digest)
    storage.put_if_absent(key, data)
    pointer = {
        "table": key,
        "sha256": digest,
        "rows": len(table),
        "run_id": run_id,
        "written_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    # Before the pointer: what is today's can be asked about.
    version_index.note(storage, asset, table, pointer)
    storage.put(layout.table_pointer(asset, partition), orjson.dumps(pointer))
    return pointer


def read(storage: Storage, asset: str, partitions: Sequence[str] | None = None) -> pd.DataFrame:
    """Reads today's table of an asset.

    Args:
        storage: The detector's storage.
        asset: The asset's name.
        partitions: The videos or days whose tables to read and put together, or None for an asset without partitions.

    Returns:
        The table; partitions that have none yet contribute no row.

    Raises:
        FileNotFoundError: If the asset has no partitions and no table yet.
    """
    keys = [layout.table_pointer(asset, partition) for partition in partitions or [None]]
    if partitions is not None and not partitions:
        return schemas.empty(asset)
    pointers = [orjson.loads(data) for data in storage.get_many(keys) if data is not None]
    if partitions is None and not pointers:
        raise FileNotFoundError(f"{asset} has no table yet in {storage.uri}; run the detector up to {asset} first")
    return read_versions(storage, asset, [pointer["table"] for pointer in pointers])


def today(storage: Storage, asset: str, partition: str | None = None) -> str | None:
    """The storage key of today's table; None if there is none yet."""
    try:
        return str(orjson.loads(storage.get(layout.table_pointer(asset, partition)))["table"])
    except FileNotFoundError:
        return None


def read_with_versions(storage: Storage, asset: str, partitions: Sequence[str]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Reads today's tables of some partitions, and says which versions these are.

    Returns:
        The tables put together, and for each partition that has one its version: the beginning of the table's hash.
    """
    keys = [layout.table_pointer(asset, partition) for partition in partitions]
    found = zip(partitions, storage.get_many(keys), strict=True)
    pointers = {partition: orjson.loads(data) for partition, data in found if data is not None}
    table = read_versions(storage, asset, [pointer["table"] for pointer in pointers.values()])
    return table, {partition: pointer["sha256"][:VERSION] for partition, pointer in pointers.items()}


def keep(storage: Storage, asset: str, partition: str | None, table: pd.DataFrame) -> str:
    """Makes sure that a table lies under its content's hash, whatever today's is, and gives its key."""
    data, digest = serialize(schemas.conform(asset, table))
    key = layout.table(asset, partition, digest)
    storage.put_if_absent(key, data)
    return key


def read_versions(storage: Storage, asset: str, keys: Sequence[str]) -> pd.DataFrame:
    """Reads tables by their storage keys, today's or earlier ones, and puts them together.

    Raises:
        ErasedError: If one was erased, because of a video that was withdrawn.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    read = storage.get_many(keys)
    told = storage.get_many([layout.gone(key) for key, data in zip(keys, read, strict=True) if data is None])
    for note in (orjson.loads(data) for data in told if data is not None):
        left = f"; what is left of it is {note['left']}" if note["left"] else ""
        raise ErasedError(
            f"{note['key']} was erased, for it held data of {note['video']}, which was withdrawn: see "
            f"{layout.tombstone(note['video'])} in {storage.uri}{left}"
        )
    found = [data for data in read if data is not None]
    if not found:
        return schemas.empty(asset)
    arrow = pa.concat_tables([pq.read_table(io.BytesIO(data)) for data in found], promote_options="permissive")
    return schemas.conform(asset, arrow.to_pandas(strings_to_categorical=False))


def places(storage: Storage, asset: str, partitions: Sequence[str]) -> dict[str, str]:
    """The URI of today's table of each of these partitions that has one."""
    pointers = storage.get_many([layout.table_pointer(asset, partition) for partition in partitions])
    found = zip(partitions, pointers, strict=True)
    return {partition: storage.uri_of(orjson.loads(data)["table"]) for partition, data in found if data is not None}


def column_lineage(key: dg.AssetKey) -> dict[str, dg.TableColumnLineage]:
    """What Dagster is told of where the columns of an asset's table come from; nothing if they begin there."""
    deps = {
        column: [dg.TableColumnDep(dg.AssetKey([*key.path[:-1], table]), of) for table, of in sources]
        for column, sources in column_sources.of(key.path[-1]).items()
    }
    return {"dagster/column_lineage": dg.TableColumnLineage(deps)} if deps else {}


class TableIOManager(dg.ConfigurableIOManager):
    """Writes what assets return and reads what they ask for."""

    storage: dg.ResourceDependency[Storage]

    def handle_output(self, context: dg.OutputContext, obj: pd.DataFrame) -> None:
        """Writes a table; for a run over many partitions, each partition's rows as its own table."""
        asset = context.asset_key.path[-1]
        run_id = context.run_id
        metadata: dict[str, Any] = {"dagster/row_count": len(obj), **column_lineage(context.asset_key)}
        if context.has_asset_partitions:
            rows = {str(key): table for key, table in obj.groupby(schemas.partition_column(asset), sort=False)}
            pointers = [
                write(self.storage, asset, partition, rows.get(partition, schemas.empty(asset)), run_id)
                for partition in context.asset_partition_keys
            ]
        else:
            pointers = [write(self.storage, asset, None, obj, run_id)]
        if len(pointers) == 1:
            metadata["dagster/uri"] = self.storage.uri_of(pointers[0]["table"])
        context.add_output_metadata(metadata)

    def load_input(self, context: dg.InputContext) -> pd.DataFrame:
        """Reads the tables of the partitions that the reader asks for."""
        partitions = list(context.asset_partition_keys) if context.has_asset_partitions else None
        return read(self.storage, context.asset_key.path[-1], partitions)

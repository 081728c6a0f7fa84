"""What is noted of datasets, weights and evaluations when their tables are written, so that questions find them.

Of each version, which table told of it first, and in which run; of a dataset, what it has of each video. A question
about one version then reads one object, and not the tables of all. Noted once and never changed. Versions that were
made before such notes are found by reading the tables that there are.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import orjson
import pandas as pd

from detection_assets.domain import layout, schemas
from resources.storage import PARALLEL, Storage

if TYPE_CHECKING:
    import pyarrow.parquet as pq

VERSION_OF = {
    "detection_dataset": "dataset_version",
    "trained_weights": "weights_version",
    "evaluation": "evaluation_version",
}
"""The assets whose table tells of one version, and the column that names it."""
ROWS = 1024
"""Videos of a group of rows: who asks for one video reads that group alone."""


@dataclass(frozen=True)
class Made:
    """The first table that told of a version.

    Attributes:
        table: Its storage key; where rows of it were erased, that of what is left.
        run: The run that wrote it; "" if nobody noted it.
        at: When, ISO 8601, UTC; "" likewise.
    """

    table: str
    run: str = ""
    at: str = ""


def note(storage: Storage, asset: str, table: pd.DataFrame, pointer: Mapping[str, Any]) -> None:
    """Notes the version that a table tells of, if its asset has such and nobody noted it before.

    Args:
        storage: The detector's storage.
        asset: The asset's name.
        table: What was written, as its schema says.
        pointer: Where, and in which run.
    """
    column = VERSION_OF.get(asset)
    if column is None or table.empty or pd.isna(table[column].iloc[0]):
        return
    version = str(table[column].iloc[0])
    key = layout.first_table(asset, version)
    if storage.exists(key):
        return
    if asset == "detection_dataset":
        _put_videos(storage, version, by_video(table))
    storage.put_if_absent(key, orjson.dumps(dict(pointer)))


def made(storage: Storage, asset: str, version: str) -> Made | None:
    """The first table that told of a version, or None if none does."""
    try:
        told = orjson.loads(storage.get(layout.first_table(asset, version)))
        return Made(left_of(storage, told["table"]), told["run_id"], told["written_at"])
    except FileNotFoundError:
        return _searched(storage, asset, version)


def _searched(storage: Storage, asset: str, version: str) -> Made | None:
    """The oldest of all tables that tells of a version."""
    listed = [item for item in storage.list_folder(layout.table_folder(asset, None)) if item.key.endswith(".parquet")]
    for item in sorted(listed, key=lambda item: item.written):
        found = read(storage, item.key, [VERSION_OF[asset]])
        if len(found) and str(found[VERSION_OF[asset]].iloc[0]) == version:
            return Made(item.key)
    return None


def read(
    storage: Storage,
    key: str,
    columns: Sequence[str],
    where: Sequence[tuple[str, str, Any]] = (),
    names: Sequence[str] = (),
) -> pd.DataFrame:
    """Some columns and rows of a Parquet file of the lake; a column that the file lacks is left out.

    Args:
        storage: The detector's storage.
        key: The file.
        columns: The columns.
        where: Which rows, such as `[("split", "==", "test")]`; all of them by default.
        names: Columns of few different texts, to be read as categories: a tenth of the time.
    """
    import pyarrow.parquet as pq

    file = pq.ParquetDataset(_source(storage, key), filters=list(where) or None, read_dictionary=list(names))
    wanted = [name for name in columns if name in file.schema.names]
    return file.read(columns=wanted).to_pandas(ignore_metadata=True)


def opened(storage: Storage, key: str) -> pq.ParquetFile:
    """A Parquet file of the lake, for who reads columns of it first, and then `rows`."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(_source(storage, key))


def rows(file: pq.ParquetFile, columns: Sequence[str], places: npt.NDArray[np.int64]) -> pd.DataFrame:
    """A few rows of a Parquet file, in the order asked for; only the groups that they are in are read.

    Args:
        file: The file.
        columns: Some of its columns.
        places: Which rows, counted from 0.
    """
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    starts = np.cumsum([0, *sizes])
    group = np.searchsorted(starts, places, side="right") - 1
    wanted = np.unique(group)
    read = file.read_row_groups(wanted.tolist(), columns=list(columns))
    before = np.cumsum([0, *(sizes[one] for one in wanted)])[np.searchsorted(wanted, group)]
    return read.take(before + places - starts[group]).to_pandas(ignore_metadata=True)


def _source(storage: Storage, key: str) -> Any:
    local = storage.local_path(key)
    return str(local) if local is not None and local.exists() else io.BytesIO(storage.get(key))


def left_of(storage: Storage, key: str) -> str:
    """Where what is left of an object lies, some of which was erased; its own key if nothing is, or all."""
    at = key
    while not storage.exists(at):
        note = storage.get_many([layout.gone(at)])[0]
        at = orjson.loads(note)["left"] if note is not None else ""
        if not at:
            return key
    return at


def by_video(images: pd.DataFrame) -> pd.DataFrame:
    """What a dataset has of each video.

    Args:
        images: A row an image: video, group, split, boxes, and where it is known annotations (a version) and frame,
            sha256, labels.

    Returns:
        Rows in order of video: `video, group, annotations, train, val, test` (frames of each split), `boxes`, and
        `content`, a digest of its frames, their pictures, splits and labels; null where these are not known.
    """
    known = images if "annotations" in images else images.assign(annotations=None)
    splits = {split: known["split"] == split for split in ("train", "val", "test")}
    each = known.assign(**splits, content=_contents(images)).groupby("video")
    found = each.agg(
        group=("group", "first"),
        annotations=("annotations", "first"),
        train=("train", "sum"),
        val=("val", "sum"),
        test=("test", "sum"),
        boxes=("boxes", "sum"),
        content=("content", "sum"),
    ).reset_index()
    digests = [f"{one:016x}" for one in found["content"].tolist()] if "labels" in images else None
    return found.assign(content=pd.Series(digests, index=found.index, dtype=object))


def _contents(images: pd.DataFrame) -> npt.NDArray[np.uint64]:
    """A number for each image that tells what it is; a video's are added up, so that their order does not count."""
    if "labels" not in images:
        return np.zeros(len(images), np.uint64)
    of = [images[name].astype(object) for name in ("frame", "split", "sha256", "labels")]
    told = ["\0".join(map(str, one)).encode() for one in zip(*of, strict=True)]
    return np.frombuffer(b"".join(hashlib.sha256(one).digest()[:8] for one in told), "<u8").astype(np.uint64)


def _put_videos(storage: Storage, version: str, table: pd.DataFrame) -> None:
    sink = io.BytesIO()
    table.to_parquet(sink, index=False, row_group_size=ROWS)
    storage.put_if_absent(layout.dataset_videos(version), sink.getvalue())


def videos(storage: Storage, dataset: str, only: str | None = None) -> pd.DataFrame:
    """What a dataset has of each video, or of one, as of `by_video`; without rows if there is no such dataset."""
    where = [("video", "==", only)] if only is not None else []
    try:
        return read(storage, layout.dataset_videos(dataset), VIDEO_COLUMNS, where)
    except FileNotFoundError:
        pass
    found = _searched(storage, "detection_dataset", dataset)
    if found is None:
        return by_video(schemas.empty("detection_dataset"))
    return by_video(read(storage, found.table, ["video", "group", "split", "boxes", "annotations"], where))


def with_video(storage: Storage, video: str, among: Iterable[str]) -> dict[str, pd.DataFrame]:
    """What each of some datasets that has a video has of it, as of `videos`; they are read side by side."""
    names = sorted(among)
    with ThreadPoolExecutor(PARALLEL) as pool:
        rows = pool.map(lambda name: videos(storage, name, video), names)
        return {name: row for name, row in zip(names, rows, strict=True) if len(row)}


def differing(earlier: pd.DataFrame, later: pd.DataFrame) -> list[str] | None:
    """The videos of which two datasets do not have the same frames, splits and labels; None if that was not noted.

    Args:
        earlier: What one has of each video, as of `videos`.
        later: What the other has.
    """
    for one in (earlier, later):
        if len(one) and ("content" not in one or one["content"].isna().any()):
            return None
    both = earlier[["video"]].assign(was=earlier.get("content")).merge(
        later[["video"]].assign(now=later.get("content")), on="video", how="outer"
    )  # fmt: skip
    return both.loc[both["was"].fillna("") != both["now"].fillna(""), "video"].tolist()


VIDEO_COLUMNS = ("video", "group", "annotations", "train", "val", "test", "boxes", "content")


def datasets(storage: Storage) -> list[str]:
    """The datasets that were noted."""
    listed = storage.list_folder(layout.dataset_videos())
    return sorted(item.key.rpartition("/")[2].removesuffix(".parquet") for item in listed)


def versions(storage: Storage, asset: str) -> list[str]:
    """The versions of an asset that were noted."""
    listed = storage.list_folder(layout.first_table(asset, "x").rpartition("/")[0])
    return sorted(item.key.rpartition("/")[2].removesuffix(".json") for item in listed)

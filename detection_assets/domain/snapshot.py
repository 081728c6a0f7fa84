"""A version of the data set: which images, which boxes, which split, under a name that is the hash of all three.

The name depends on content alone: not on the order of rows, nor on the machine, nor on where the pictures lie. Boxes
are rounded to a hundredth of a pixel before they are hashed, and that is what is written, so one name is one data set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from detection_assets.domain import layout, near_duplicates
from detection_assets.domain.problems import InputError
from detection_assets.domain.splitting import SPLITS, History, Split

if TYPE_CHECKING:
    import pyarrow as pa

IMAGES = ["frame", "video", "group", "split", "file", "width", "height", "sha256", "phash"]
BOXES = ["frame", "class", "x1", "y1", "x2", "y2", "track"]
SIDES = ["x1", "y1", "x2", "y2"]
PER_PIXEL = 100
"""Boxes are kept to 1 / PER_PIXEL of a pixel."""
Cells = npt.NDArray[np.int64]
TABLES = ("images.parquet", "boxes.parquet")
"""The tables of images and boxes: what people read."""
HASHES = "hashes.parquet"
"""What `hashes` makes of the training frames: who asks what looks most like a picture reads a part of it."""
ROWS = 1024
"""Rows of a group of it: a few frames are read without those of all others."""
FORMAT = 1
"""Part of the hash: to be raised when the same name would stand for other content."""


@dataclass(frozen=True)
class Snapshot:
    """An immutable version of the data set.

    Attributes:
        images: One row an image, in order of `frame`: frame, video, group, split, file (relative to the folder of
            frames), width, height, sha256, phash.
        boxes: One row a box, in order of frame, class and place: frame, class, x1, y1, x2, y2 (pixels), track.
        meta: What `dataset.json` holds: version, classes, counts, shares, by, optimistic, notes.
    """

    images: pd.DataFrame
    boxes: pd.DataFrame
    meta: dict[str, Any]

    @property
    def version(self) -> str:
        """`ds-` and 12 hex digits."""
        return str(self.meta["version"])

    def history(self) -> History:
        """What the next split must keep to."""
        return History(str(self.meta["by"]), self.images.loc[:, ["frame", "video", "group", "split"]])


@dataclass(frozen=True)
class Labelled:
    """What can go into a data set: the images that were kept and looked at, and the boxes on them.

    Attributes:
        images: As in `Snapshot`, without `split`.
        boxes: As in `Snapshot`.
        notes: What was left out, a sentence each.
    """

    images: pd.DataFrame
    boxes: pd.DataFrame
    notes: list[str]


def labelled(frames: pd.DataFrame, annotations: pd.DataFrame, classes: Sequence[str]) -> Labelled:
    """Joins frames that were kept with what annotators said about them.

    A frame that an annotator looked at and found empty is an image without boxes; a frame that nobody looked at is
    left out, for it would teach that what is on it is nothing.

    Args:
        frames: The table of extracted frames of all videos, with a column `group`, and `file` (relative to the folder
            of frames) or `key` (of storage, below `frames/`).
        annotations: The table of annotations of all videos.
        classes: The detector's classes; boxes of others are left out, with a note.

    Returns:
        Images and boxes, each in a fixed order.

    Raises:
        InputError: If a frame comes twice.
    """
    images: Any = frames  # pandas' own types do not say what a selection of rows is.
    said: Any = annotations
    images = images[images["kept"].astype(bool) & images["frame"].isin(said["frame"].unique())].sort_values("frame")
    if images["frame"].duplicated().any():
        raise InputError(
            f"frame {images.loc[images['frame'].duplicated(), 'frame'].iloc[0]} comes twice: extract again"
        )
    if "file" not in images:
        images["file"] = images["key"].astype(object).map(lambda key: str(key).removeprefix(layout.FRAMES + "/"))
    if "phash" not in images:
        images["phash"] = ""
    frame = _codes(images["frame"], said["frame"])
    named = (frame >= 0) & said["class"].notna().to_numpy(np.bool_)
    said, frame = said[named], frame[named]
    kind = _codes(classes, said["class"])
    cells = np.rint(said[SIDES].to_numpy(np.float64) * PER_PIXEL)
    with np.errstate(invalid="ignore"):
        legal = (cells[:, 2:] > cells[:, :2]).all(axis=1) & np.isfinite(cells).all(axis=1)
    known = kind >= 0
    notes: list[str] = []
    if not known.all():
        names = ", ".join(sorted({str(name) for name in said["class"][~known]}))
        notes.append(f"{int((~known).sum())} boxes of classes that the detector does not have were left out: {names}.")
    if not legal[known].all():
        notes.append(f"{int((known & ~legal).sum())} boxes without an area were left out.")
    boxes = said[known & legal].copy()
    boxes[SIDES] = cells[known & legal] / PER_PIXEL
    if "track" not in boxes:
        boxes["track"] = None
    rows, _ = _rows(frame[known & legal], kind[known & legal], boxes)
    order = np.lexsort(rows.T[::-1])
    return Labelled(
        _plain(images[[name for name in IMAGES if name != "split"]]), _plain(boxes[BOXES].iloc[order]), notes
    )


def build(data: Labelled, split: Split, classes: Sequence[str], shares: Mapping[str, float]) -> Snapshot:
    """Makes the snapshot of labelled images and their split.

    Args:
        data: From `labelled`.
        split: From `splitting.split` over `data.images` and `data.boxes`. Images without a split are left out, with
            their boxes.
        classes: The class names, in the order of the model's outputs.
        shares: The shares that were asked for.

    Returns:
        The snapshot.
    """
    images: Any = data.images.copy()
    boxes: Any = data.boxes
    images["split"] = images["frame"].map(split.assignments)
    images = _plain(images.loc[images["split"].notna(), IMAGES])
    if len(images) < len(data.images):
        boxes = boxes[boxes["frame"].isin(images["frame"])]
    boxes = boxes.reset_index(drop=True)
    meta: dict[str, Any] = {
        "version": version(images, boxes, classes),
        "classes": list(classes),
        "images": len(images),
        "boxes": len(boxes),
        "videos": int(images["video"].nunique()),
        "groups": int(images["group"].nunique()),
        "counts": _counts(images, boxes, classes),
        "shares": {name: float(shares[name]) for name in SPLITS},
        "by": split.by,
        "optimistic": split.optimistic,
        "notes": [*data.notes, *split.notes],
    }
    return Snapshot(images, boxes, meta)


def version(images: pd.DataFrame, boxes: pd.DataFrame, classes: Sequence[str]) -> str:
    """The name of a data set's content: SHA-256 over its rows in a fixed order, 48 bits of it.

    Args:
        images: Columns frame, video, group, split, width, height, sha256. Where a picture lies does not count.
        boxes: Columns frame, class, x1, y1, x2, y2 (pixels), track.
        classes: The class names in order; their order counts, for it is that of the model's outputs.

    Returns:
        `ds-` and 12 hex digits.

    Raises:
        InputError: If a box is on no image, or of no known class.
    """
    digest = hashlib.sha256(json.dumps([FORMAT, list(classes)]).encode())
    images = images.sort_values("frame", kind="stable")
    for name in ["frame", "video", "group", "split", "sha256"]:
        _add_text(digest, images[name].astype(object).tolist())
    _add_numbers(digest, images[["width", "height"]].to_numpy(np.int64))
    frame, kind = _codes(images["frame"], boxes["frame"]), _codes(classes, boxes["class"])
    for codes, name in ((frame, "frame"), (kind, "class")):
        if (codes < 0).any():
            raise InputError(
                f"a box has a {name} that the data set lacks: {list(boxes[name])[int(np.argmin(codes))]!r}"
            )
    rows, tracks = _rows(frame, kind, boxes)
    _add_text(digest, tracks)
    _add_numbers(digest, rows if _is_sorted(rows) else rows[np.lexsort(rows.T[::-1])])
    return f"ds-{digest.hexdigest()[:12]}"


def labels(frames: Sequence[str], boxes: pd.DataFrame) -> list[str]:
    """A digest of the boxes on each image: alike where class and place are, whatever the boxes' order and tracks.

    Each box is mixed to 64 bits (the finalizer of SplitMix64; Steele, Lea and Flood, "Fast Splittable Pseudorandom
    Number Generators", OOPSLA 2014), and those of an image are added up.

    Args:
        frames: The images.
        boxes: Columns frame, class, x1, y1, x2, y2 (pixels); of other images, they do not count.

    Returns:
        16 hex digits for each image, zeros for one without boxes.
    """
    place = _frame_codes(frames, boxes)
    kind, kinds = pd.factorize(boxes["class"])
    # The class by its name, not its place: two tables need not meet their classes in the same order.
    named = [int.from_bytes(hashlib.sha256(str(name).encode()).digest()[:8], "little") for name in kinds]
    value = np.array(named, dtype=np.uint64)[kind] if len(boxes) else np.zeros(0, np.uint64)
    for column in np.rint(boxes[SIDES].to_numpy(np.float64) * PER_PIXEL).astype(np.int64).T:
        value = _mixed(value + column.astype(np.uint64))
    total = np.zeros(len(frames), dtype=np.uint64)
    np.add.at(total, place[place >= 0], value[place >= 0])
    return [f"{one:016x}" for one in total.tolist()]


def _mixed(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def write(images: pd.DataFrame, boxes: pd.DataFrame, meta: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes a snapshot: the same content gives the same bytes. `dataset.json` comes last and says that it is whole.

    Args:
        images: The snapshot's images.
        boxes: Its boxes.
        meta: Its description.
        folder: Where to; made if missing.

    Returns:
        The files: images.parquet, boxes.parquet, hashes.parquet, dataset.json.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, number, side = pa.string(), pa.int64(), pa.float64()
    image_types = {name: number if name in {"width", "height"} else text for name in IMAGES}
    box_types = {name: side if name in SIDES else text for name in BOXES}
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in (*TABLES, HASHES, "dataset.json")]
    for path, table, types in zip(paths, (images, boxes), (image_types, box_types), strict=False):
        schema = pa.schema(list(types.items()))
        pq.write_table(pa.Table.from_pandas(table, schema, preserve_index=False).replace_schema_metadata(None), path)
    pq.write_table(hashes(images, boxes, meta["classes"]), paths[2], row_group_size=ROWS)
    paths[3].write_text(json.dumps(meta, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    return paths


def hashes(images: pd.DataFrame, boxes: pd.DataFrame, classes: Sequence[str]) -> pa.Table:
    """The training frames with what they look like and what is on them, all of it in the other tables.

    Args:
        images: In order of frame: frame, video, split, file, phash (hex).
        boxes: Columns frame, class; of other images or classes, they do not count.
        classes: The class names.

    Returns:
        In order of frame: frame, video, file, phash (as a number of 64 bits; null where there is none), and for each
        class how many boxes, in the column that `boxes_of` names.
    """
    import pyarrow as pa

    train = images[images["split"] == "train"]
    values, known = near_duplicates.parse(train["phash"].tolist())
    frame, kind = _frame_codes(train["frame"], boxes), _codes(classes, boxes["class"])
    there = (frame >= 0) & (kind >= 0)
    cells = frame[there] * len(classes) + kind[there]
    counts = np.bincount(cells, minlength=len(train) * len(classes)).reshape(len(train), len(classes))
    columns = {name: pa.array(train[name].tolist(), pa.string()) for name in ("frame", "video", "file")}
    columns["phash"] = pa.array(values, pa.uint64(), mask=~known)
    columns |= {boxes_of(name): pa.array(counts[:, at], pa.int32()) for at, name in enumerate(classes)}
    return pa.table(columns)


def boxes_of(name: str) -> str:
    """The column of `hashes` for a class, which might be called as another column is."""
    return f"boxes of {name}"


def read(folder: Path, *, verify: bool = False) -> Snapshot:
    """Reads a snapshot.

    Args:
        folder: What `write` wrote.
        verify: Whether to hash the content and compare it with the name.

    Raises:
        InputError: If a file is missing or broken, or the content is not what the name says.
    """
    try:
        meta = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        images = _plain(pd.read_parquet(folder / "images.parquet", columns=IMAGES))
        boxes = _plain(pd.read_parquet(folder / "boxes.parquet", columns=BOXES))
        snapshot = Snapshot(images, boxes, meta)
        said, classes = snapshot.version, list(meta["classes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: not a whole data set ({error}); build it again") from error
    if verify and version(images, boxes, classes) != said:
        if meta.get("erased"):
            gone = ", ".join(map(str, meta["erased"]))
            raise InputError(f"{folder}: it was {said}; what it held of {gone} was withdrawn and erased since")
        raise InputError(f"{folder}: its content is not that of {said}; build it again")
    return snapshot


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    """Text as objects with None for nothing, sizes as int64: what the same rows look like wherever they came from."""
    columns: dict[str, Any] = {}
    for name in table.columns:
        column: Any = table[name].reset_index(drop=True)
        if name in SIDES:
            columns[name] = column.astype("float64")
        elif name in {"width", "height"}:
            columns[name] = column.astype("int64")
        else:
            column = column.astype(object)
            columns[name] = column.where(column.notna(), None)
    return pd.DataFrame(columns)


def _codes(names: Any, values: Any) -> Cells:
    """The position of each value among the names, -1 if it is not one."""
    return pd.Index(list(names), dtype=object).get_indexer(pd.Index(values.astype(object))).astype(np.int64)


def _frame_codes(frames: Any, boxes: pd.DataFrame) -> Cells:
    """The position of each box's frame among the frames, -1 if it is not one; of several boxes it is looked up once."""
    codes, names = pd.factorize(boxes["frame"])
    return _codes(frames, pd.Series(names))[codes] if len(boxes) else np.zeros(0, np.int64)


def _rows(frame: Cells, kind: Cells, boxes: Any) -> tuple[Cells, list[Any]]:
    """Boxes as whole numbers, a column each for frame, class, the four sides and track; and the tracks' names."""
    tracks, names = pd.factorize(boxes["track"].astype(object), sort=True)
    cells = np.rint(boxes[SIDES].to_numpy(np.float64) * PER_PIXEL)
    return np.column_stack([frame, kind, cells.astype(np.int64), tracks]).astype(np.int64), list(names)


def _is_sorted(rows: Cells) -> bool:
    # Sorting a million rows costs more than all the rest, and what we wrote ourselves is in order.
    if len(rows) < 2:
        return True
    differs = rows[1:] != rows[:-1]
    first, at = differs.argmax(axis=1), np.arange(len(differs))
    return bool((rows[1:][at, first] >= rows[:-1][at, first]).all())


def _counts(images: Any, boxes: Any, classes: Sequence[str]) -> dict[str, Any]:
    """For each split its images, its images without boxes, and its boxes of each class."""
    split = boxes["frame"].map(images.set_index("frame")["split"])
    table: Any = pd.crosstab(boxes["class"], split)
    table = table.reindex(index=list(classes), columns=list(SPLITS), fill_value=0)
    bare = ~images["frame"].isin(boxes["frame"])
    return {
        name: {
            "images": int((images["split"] == name).sum()),
            "without_boxes": int((bare & (images["split"] == name)).sum()),
            "boxes": {cls: int(count) for cls, count in table[name].items()},
        }
        for name in SPLITS
    }


def _add_text(digest: Any, values: Sequence[Any]) -> None:
    # Lengths first, so that no two lists of texts run into the same bytes.
    encoded = [b"" if value is None else str(value).encode() for value in values]
    _add_numbers(digest, np.array([len(text) for text in encoded], dtype=np.int64))
    digest.update(b"".join(encoded))


def _add_numbers(digest: Any, values: Cells) -> None:
    digest.update(len(values).to_bytes(8, "little"))
    digest.update(np.ascontiguousarray(values, dtype="<i8").tobytes())

"""From what a tool says is finished of a batch to annotations of the videos that the batch is about.

A tool knows pictures by the names that the batch gave them, give or take what it puts before and behind. Here they
become frames again; what is work in progress, or about no picture of the batch, is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from detection_assets.domain import formats
from detection_assets.domain.formats.frame_names import Images, Names
from detection_assets.domain.formats.parsed import FLAGS, join, relative_name
from detection_assets.domain.labels import Batch
from detection_assets.domain.matching import ASPECT
from detection_assets.domain.problems import Problem

SKIPPED = "skipped"
"""The digest of a picture that an annotator refused."""

_CORNERS = ["x1", "y1", "x2", "y2"]
_SAID = ["class", *_CORNERS, "track", "annotator", "reviewed", "confidence", *FLAGS, "attributes"]
"""What makes two states of a picture's labels different. Where in which file it is said does not."""


@dataclass(frozen=True)
class Taken:
    """What is finished of a batch.

    Attributes:
        boxes: Rows as `Parsed.boxes`, in pixels, frames named as the lake names them, with the column `name` beside:
            the picture's name in the batch. None of pictures that were skipped.
        digests: For each finished picture, by name, what changes when its labels do; `SKIPPED` for a refused one.
        problems: What could not be used.
    """

    boxes: pd.DataFrame
    digests: Mapping[str, str]
    problems: Sequence[Problem]

    def of(self, names: Collection[str]) -> Taken:
        """What it says of some pictures."""
        known = {name: digest for name, digest in self.digests.items() if name in names}
        return Taken(self.boxes[self.boxes["name"].isin(known.keys())], known, ())


def take(
    files: Sequence[Path],
    root: Path,
    batch: Batch,
    done: Collection[str] | None,
    skipped: Collection[str],
    annotators: Mapping[Path, str],
) -> Taken:
    """Reads what a tool gave.

    Args:
        files: Annotation files of any mix of formats. Where two speak for one picture by the same annotator, the later
            in this order does.
        root: Folder that messages name the files relative to.
        batch: The batch.
        done: Names of the pictures that are finished; None for all that the files name.
        skipped: Names of those that an annotator refused.
        annotators: Who made what is in a file, where the file does not say it.

    Returns:
        The finished. A picture that is said to be finished, and of which nothing usable was read, is none: nobody
        knows what is on it.
    """
    parsed = formats.load(files, root)
    problems = list(parsed.problems)
    by = parsed.boxes["file"].map({relative_name(path, root): who for path, who in annotators.items()})
    boxes = parsed.boxes.assign(annotator=parsed.boxes["annotator"].where(parsed.boxes["annotator"].notna(), by))
    boxes, strangers = _named(boxes, [str(name) for name in batch.frames["name"]])
    problems += strangers
    if done is not None:
        boxes = boxes[boxes["name"].isin(set(done))]
    boxes = boxes[~boxes["name"].isin(set(skipped))]
    boxes = _latest(boxes, [relative_name(path, root) for path in files])
    boxes, sizeless = _on_frames(boxes, batch.frames)
    boxes, misshapen = _of_one_size(boxes, batch.frames)
    problems += [*sizeless, *misshapen]
    digests = {**_digests(boxes), **dict.fromkeys(sorted(skipped), SKIPPED)}
    for name in sorted(set(done or ()) - digests.keys()):
        what = "it is finished, but nothing usable was read of it"
        problems.append(Problem(name, "", what, "left open; save it again in the tool"))
    return Taken(boxes, digests, problems)


def of_video(taken: Taken, earlier: pd.DataFrame, frames: pd.DataFrame) -> pd.DataFrame:
    """What an annotation file of a batch for one video has to say.

    Args:
        taken: What is finished now.
        earlier: What the file said before, as `Parsed.boxes`; of pictures about which nothing is told now it stays.
        frames: The batch's rows of this video.

    Returns:
        Rows to save, by the pictures' rank.
    """
    frames = frames.sort_values(["rank", "name"])
    called = dict(zip(_in_lake(frames), frames["name"].astype(str), strict=True))
    before = earlier.assign(name=earlier["frame_name"].map(called).astype("object"))
    before = before[before["name"].notna() & ~before["name"].isin(taken.digests.keys())]
    rows = join([before, taken.boxes]) if len(before) else taken.boxes
    order = {name: place for place, name in enumerate(called.values())}
    rows = rows[rows["name"].isin(order.keys())]
    return rows.iloc[np.argsort(rows["name"].map(order).to_numpy(), kind="stable")].reset_index(drop=True)


def _named(boxes: pd.DataFrame, names: Sequence[str]) -> tuple[pd.DataFrame, list[Problem]]:
    """The rows that are about a picture of the batch, with its name there; the others are told."""
    codes, unique = pd.factorize(boxes["frame_name"])
    # The names of a batch are plain file names: folders are the tool's.
    called = [str(name).rpartition("/")[2] for name in unique]
    images = Images(names, Names("", called))
    at = np.array([*(images.position(name) for name in called), -1], dtype=np.int64)[codes]
    told: dict[tuple[str, str], Problem] = {}
    for file, name in boxes.loc[at < 0, ["file", "frame_name"]].drop_duplicates().itertuples(index=False):
        what = f"names '{name}', which is no picture of the batch" if name else "names no picture"
        told[str(file), str(name)] = Problem(str(file), "", what, "left out")
    known = np.flatnonzero(at >= 0)
    named = boxes.iloc[known].assign(name=pd.Series([*names, ""], dtype="object").iloc[at[known]].to_numpy())
    return named, list(told.values())


def _latest(boxes: pd.DataFrame, files: Sequence[str]) -> pd.DataFrame:
    """Of each picture, what its annotators said last; who spoke last comes last, for it is he who may count alone."""
    age = boxes["file"].map({file: place for place, file in enumerate(files)}).fillna(-1)
    by = [boxes["name"], boxes["annotator"].fillna("")]
    last = boxes[age == age.groupby(by).transform("max")]
    # The files were read format by format.
    return last.iloc[np.argsort(age.loc[last.index].to_numpy(), kind="stable")]


def _on_frames(boxes: pd.DataFrame, frames: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """The rows in pixels, on frames as the lake names them."""
    about = frames.assign(own=_in_lake(frames)).set_index(frames["name"].astype(str)).loc[boxes["name"].tolist()]
    of_video = about["own"].eq(boxes["name"].to_numpy()) & about["source"].eq("frame")
    sizes = {side: about[side].astype("Int64").array for side in ("width", "height")}
    relative = boxes["relative"].to_numpy(dtype=bool)
    nowhere = relative & (np.asarray(pd.isna(sizes["width"])) | np.asarray(pd.isna(sizes["height"])))
    corners = boxes[_CORNERS].to_numpy(dtype=np.float64)
    scale = np.column_stack([sizes[side].to_numpy(dtype=np.float64, na_value=np.nan) for side in sizes])
    corners = np.where(relative[:, None], corners * np.tile(scale, 2), corners)
    drawn = {
        side: boxes[side].astype("Int64").mask(relative).reset_index(drop=True).fillna(pd.Series(sizes[side]))
        for side in sizes
    }
    boxes = boxes.assign(
        frame_name=about["own"].to_numpy(),
        # Images have neither.
        frame_index=about["index"].astype("Int64").where(of_video).array,
        pts_s=about["pts_s"].astype("float64").where(of_video).array,
        relative=False,
        **{side: drawn[side].array for side in drawn},
        **{name: corners[:, i] for i, name in enumerate(_CORNERS)},
    )
    told = {
        (str(file), str(name)): Problem(
            str(file), "", f"gives '{name}' in shares of a size that is not known", "left out"
        )
        for file, name in boxes.loc[nowhere, ["file", "name"]].drop_duplicates().itertuples(index=False)
    }
    return boxes[~boxes["name"].isin({name for _, name in told})], list(told.values())


def _of_one_size(boxes: pd.DataFrame, frames: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """The rows, those of pictures that were drawn on in several sizes in pixels of the picture itself.

    A file says one size of a picture, so what one annotator drew on a copy would be scaled like what others did not.
    """
    sides = ["width", "height"]
    drawn = boxes[sides].to_numpy(dtype=np.float64, na_value=np.nan)
    of_picture = frames.set_index(frames["name"].astype(str))[sides].astype("Float64").loc[boxes["name"].tolist()]
    own = of_picture.to_numpy(dtype=np.float64, na_value=np.nan)
    several = boxes[sides].groupby(boxes["name"]).transform("nunique").gt(1).any(axis=1).to_numpy(dtype=bool)
    other = several & np.isfinite(own).all(axis=1) & (own != drawn).any(axis=1)
    if not other.any():
        return boxes, []
    factor = np.where(other[:, None], own / drawn, 1.0)
    misfit = np.abs(factor[:, 0] / factor[:, 1] - 1) > ASPECT
    columns = {name: boxes[name].to_numpy(dtype=np.float64) * factor[:, i % 2] for i, name in enumerate(_CORNERS)}
    columns |= {side: boxes[side].mask(other, of_picture[side].astype("Int64").array) for side in sides}
    told = {
        (str(row.file), str(row.name)): Problem(
            str(row.file), "", f"draws '{row.name}' as {row.width}x{row.height}, another shape than its own", "left out"
        )
        for row in boxes.loc[misfit, ["file", "name", *sides]].itertuples(index=False)
    }
    return boxes.assign(**columns)[~misfit], list(told.values())


def _in_lake(frames: pd.DataFrame) -> list[str]:
    """What annotation files in the lake call a batch's pictures: an image by its own name, a frame as the tool does."""
    owns = [str(frame).rpartition("#")[2] for frame in frames["frame"]]
    return [str(name) if own.isdigit() else own for name, own in zip(frames["name"], owns, strict=True)]


def _digests(boxes: pd.DataFrame) -> dict[str, str]:
    said = (
        boxes[_SAID].astype({name: "object" for name in _SAID}).map(lambda value: "" if pd.isna(value) else str(value))
    )
    lines = pd.util.hash_pandas_object(said, index=False).to_numpy()
    return {
        str(name): hashlib.sha256(np.sort(lines[rows]).tobytes()).hexdigest()[:16]
        for name, rows in boxes.reset_index(drop=True).groupby("name", sort=True).indices.items()
    }

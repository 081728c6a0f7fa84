"""What an answer of the model goes back to: the request or the prediction, and the training frames like it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson
import pandas as pd

from detection_assets.domain import layout, lineage, quality, snapshot
from detection_assets.domain.lineage_answers import answer
from detection_assets.domain.problems import InputError
from detection_assets.pictures import pixels
from resources import tables, version_index

if TYPE_CHECKING:
    import pyarrow.parquet as pq

    from detection_assets.lineage import Lineage
    from resources.storage import Published


@dataclass(frozen=True)
class Asked:
    """A picture that a model answered.

    Attributes:
        name: The request's id, or the frame.
        version: The registered version that answered.
        found: Class and confidence of each box.
        phash: Perceptual hash of the picture; None if the picture is gone.
    """

    name: str
    version: str
    found: Sequence[tuple[str, float]]
    phash: str | None

    @classmethod
    def request(cls, of: Lineage, request: str, day: str | None) -> Asked:
        """A captured request by its id: of a day, or of the newest day that has it.

        Raises:
            InputError: None is called so.
        """
        storage, columns = of.storage, ["request_id", "version", "image", "answer"]
        days = [day] if day is not None else _days(of)
        rows: pd.DataFrame | None = None
        for one in days:
            key = tables.today(storage, "captured_requests", one)
            found = version_index.read(storage, key, columns, [("request_id", "==", request)]) if key else None
            if found is not None and len(found):
                rows = found
                break
        if rows is None:
            told = f"on {day}" if day else f"on any of {len(days)} days"
            raise InputError(
                f"{request}: no captured request of {of.name} is called so {told}; only a sample is kept, and a day's "
                f"table is made by its schedule, or by the job {of.name}_monitor"
            )
        row = rows.iloc[0]
        image = row["image"]
        raw = storage.get_many([image])[0] if isinstance(image, str) else None
        shown = pixels(raw) if raw is not None else None
        boxes = [(str(box["class"]), float(box["confidence"])) for box in orjson.loads(row["answer"])]
        return cls(request, str(row["version"]), boxes, quality.phash_of(shown) if shown is not None else None)

    @classmethod
    def frame(cls, of: Lineage, frame: str) -> Asked:
        """A frame that batch prediction looked at, as of today's table.

        Raises:
            InputError: It has not.
        """
        video = frame.rpartition("#")[0]
        rows = {}
        for asset, columns in (
            ("batch_predictions", ["class", "confidence", "model_version"]),
            ("extracted_frames", ["phash"]),
        ):
            key = tables.today(of.storage, asset, video) if video else None
            rows[asset] = version_index.read(of.storage, key, columns, [("frame", "==", frame)]) if key else ()
        found, of_frame = rows["batch_predictions"], rows["extracted_frames"]
        if not len(found):
            raise InputError(
                f"{frame}: nothing was predicted on it; a frame is <video>#<index>, and the job {of.name}_predict lets "
                "the model look at a video's frames"
            )
        drawn = found[found["class"].notna()]
        boxes = [(str(kind), float(sure)) for kind, sure in zip(drawn["class"], drawn["confidence"], strict=True)]
        phash = str(of_frame["phash"].iloc[0]) if len(of_frame) else None
        return cls(frame, str(found["model_version"].iloc[0]), boxes, phash)

    def nearest(self, of: Lineage, of_class: str | None, most: int) -> pd.DataFrame:
        """The answer `alike`.

        Raises:
            InputError: Nothing of that class was found in the picture, or its version is not registered.
        """
        surest: dict[str, float] = {}
        for kind, sure in self.found:
            surest[kind] = max(sure, surest.get(kind, 0.0))
        chosen = of_class if of_class is not None else max(surest, key=lambda kind: surest[kind], default=None)
        if chosen is None or chosen not in surest:
            raise InputError(f"{self.name}: version {self.version} found {', '.join(surest) or 'nothing'} there")
        dataset = of.model(self.version).tags.get("dataset_version", "")
        published = of.storage.published(layout.dataset(dataset)) if dataset else None
        if published is None:
            raise InputError(
                f"{of.name} version {self.version}: its dataset {dataset or '(not said)'} is not published"
            )
        column = snapshot.boxes_of(chosen)
        with _hashes(of, published, chosen) as file:
            if column not in file.schema_arrow.names:
                raise InputError(f"{self.name}: {dataset}, which taught version {self.version}, knows no {chosen}")
            known = file.read([column, "phash"])
            found = lineage.alike(self.phash, known["phash"], known[column], most)
            frames = version_index.rows(file, ["frame", "video", "file"], found["place"].to_numpy())
        found = pd.concat([found.drop(columns="place"), frames], axis="columns")
        found = found.assign(key=layout.FRAMES + "/" + found["file"].astype(object)).drop(columns="file")
        told = {"version": self.version, "dataset_version": dataset, "asked": self.name}
        return answer("alike", found.assign(**told, **{"class": chosen, "confidence": surest[chosen]}))


def _hashes(of: Lineage, dataset: Published, of_class: str) -> pq.ParquetFile:
    """The hashes of a dataset's training frames; made of its other tables if an earlier release published it."""
    import pyarrow.parquet as pq

    if snapshot.HASHES in dataset.files:
        return version_index.opened(of.storage, dataset.key(snapshot.HASHES))
    columns, wanted = ["frame", "video", "split", "file", "phash"], [("class", "==", of_class)]
    images = version_index.read(of.storage, dataset.key("images.parquet"), columns)
    boxes = version_index.read(of.storage, dataset.key("boxes.parquet"), ["frame", "class"], wanted)
    made = io.BytesIO()
    pq.write_table(snapshot.hashes(images, boxes, [of_class]), made, row_group_size=snapshot.ROWS)
    return pq.ParquetFile(made)


def _days(of: Lineage) -> list[str]:
    """The days that have a table of captured requests, the newest first."""
    listed = of.storage.folders(layout.table_folder("captured_requests", None))
    return sorted(listed, reverse=True)

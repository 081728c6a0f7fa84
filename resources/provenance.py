"""What an evaluation was judged on: the test frames, and the versions of annotations that their boxes are from.

It goes by tables alone, each of which lies under its content's hash for good: the evaluation's names the dataset's, and
that names the version of each video's annotations. So the answer is exact, also after annotations have changed, in a
lake that was copied, and without Dagster's event log.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from detection_assets.domain import layout
from detection_assets.domain.problems import InputError
from resources import table_versions, tables, version_index
from resources.storage import Storage


@dataclass(frozen=True)
class Provenance:
    """What the truth of one evaluation is.

    Attributes:
        evaluation: Its version.
        dataset: The dataset's version.
        frames: A row a test frame: `video, frame, annotations` (the version), `boxes`; ordered by frame.
        erased: Whether frames of a video that was withdrawn were among them, and were erased.
    """

    evaluation: str
    dataset: str
    frames: pd.DataFrame
    erased: bool = False

    def tables(self, storage: Storage) -> dict[str, str]:
        """By video the storage key of the table of annotations that was judged by.

        Raises:
            InputError: It is no longer in the lake.
        """
        found: dict[str, str] = {}
        for video, drawn in sorted(set(zip(self.frames["video"], self.frames["annotations"], strict=True))):
            of_video = table_versions.table_of(storage, "annotations", str(video), str(drawn))
            if of_video is None:
                raise InputError(f"{self.evaluation}: version {drawn} of {video}'s annotations is not in {storage.uri}")
            found[str(video)] = of_video
        return found

    def truth(self, storage: Storage) -> pd.DataFrame:
        """The rows of those annotations that are on test frames: a row a box, one without class for an empty frame."""
        table = tables.read_versions(storage, "annotations", list(self.tables(storage).values()))
        return table[table["frame"].isin(self.frames["frame"])].reset_index(drop=True)


def of(storage: Storage, evaluation: str | None = None) -> Provenance:
    """Finds out what an evaluation was judged on.

    Args:
        storage: The detector's storage.
        evaluation: Its version, or the beginning of it; None for today's.

    Raises:
        FileNotFoundError: There is no evaluation yet.
        InputError: None begins so, or several do; or it was made by a release that did not note it.
    """
    table = tables.read(storage, "evaluation")
    if evaluation is not None and not str(table["evaluation_version"].iloc[0]).startswith(evaluation):
        table = _earlier(storage, evaluation)
    first = table.iloc[0]
    version, dataset, key = first["evaluation_version"], first["dataset_version"], first["dataset_table"]
    columns = ["video", "frame", "annotations", "boxes"]
    now = None if pd.isna(key) else version_index.left_of(storage, str(key))
    test = None if now is None else version_index.read(storage, now, columns, [("split", "==", "test")])
    if test is None or "annotations" not in test or test["annotations"].isna().all():
        raise InputError(
            f"{version}: made by a release that did not note the versions of annotations; run `detection_dataset` and "
            "`evaluation` again to have them noted"
        )
    test = test[columns].sort_values("frame", ignore_index=True)
    return Provenance(str(version), str(dataset), test, now != key)


def _earlier(storage: Storage, beginning: str) -> pd.DataFrame:
    """The newest table of the evaluation whose version begins so."""
    noted = [name for name in version_index.versions(storage, "evaluation") if name.startswith(beginning)]
    made = version_index.made(storage, "evaluation", noted[0]) if len(noted) == 1 else None
    if made is not None:
        return tables.read_versions(storage, "evaluation", [made.table])
    listing = [item for item in storage.list_folder(layout.table_folder("evaluation", None)) if ".parquet" in item.key]
    found: dict[str, pd.DataFrame] = {}
    known: list[str] = []
    for item in sorted(listing, key=lambda item: item.written, reverse=True):
        table = tables.read_versions(storage, "evaluation", [item.key])
        version = str(table["evaluation_version"].iloc[0]) if len(table) else ""
        known.append(version)
        if version.startswith(beginning):
            found.setdefault(version, table)
    if len(found) == 1:
        return next(iter(found.values()))
    what = f"several evaluations begin so: {', '.join(found)}" if found else "no evaluation begins so"
    raise InputError(f"{beginning}: {what}; there are {', '.join(dict.fromkeys(known)) or 'none'}")

"""The rows of parsed annotation files that are on frames of one video, and who tells what is wrong with them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from detection_assets.domain.formats.parsed import ProblemLog

SAME_PX = 0.5
"""Corners that differ by no more are the same: formats round differently. A box may stick out this much unmentioned."""

REMEDIES: Mapping[str, str] = {
    "not a number": "write its corners as numbers",
    "frame of unknown size": "extract the frames again",
    "inverted": "swap its corners, or draw it again",
    "no area": "draw it again, or delete it",
    "absurd": "draw it again: a corner lies a whole frame away",
    "outside the frame": "draw it inside the picture, or delete it",
    "out of frame": "nothing to do if the object goes on outside the picture",
}
"""What an annotator can do about a box, by what is wrong with it."""


@dataclass
class Rows:
    """The rows of `Parsed.boxes` that are on frames of this video, column by column."""

    frame: np.ndarray
    label: np.ndarray
    corners: np.ndarray
    file: np.ndarray
    at: np.ndarray

    def take(self, keep: np.ndarray) -> Rows:
        """Some of the rows, by a mask or by their numbers."""
        return Rows(self.frame[keep], self.label[keep], self.corners[keep], self.file[keep], self.at[keep])


class Teller:
    """Tells problems of rows by their file and place; knows the frames' sizes."""

    def __init__(self, parsed_rows: pd.DataFrame, frames: pd.DataFrame, video: str, log: ProblemLog) -> None:
        self._parsed_rows = parsed_rows
        self.log = log
        self.video = video
        self.files: list[str] = parsed_rows["file"].tolist()
        self.places: list[str] = parsed_rows["place"].tolist()
        self.labels: list[str | None] = parsed_rows["class"].tolist()
        self.drawn = parsed_rows[["width", "height"]].to_numpy(dtype=np.float64, na_value=np.nan)
        self.relative = parsed_rows["relative"].to_numpy(dtype=bool)
        self.frames: list[str] = frames["frame"].tolist()
        self.sizes = frames[["width", "height"]].to_numpy(dtype=np.float64, na_value=np.nan)

    def column(self, name: str) -> np.ndarray:
        """What the parsed rows say in one of their columns of text, None where nothing."""
        return self._parsed_rows[name].to_numpy(dtype=object)

    def quiet(self) -> Teller:
        """One who knows the same and whom nobody hears."""
        other = copy.copy(self)
        other.log = ProblemLog()
        return other

    def boxes(self, kind: str, rows: Rows, where: Any, done: str) -> None:
        """One problem a row of `where`, showing the box."""
        for i in np.flatnonzero(where):
            file = self.files[rows.at[i]]
            if self.log.room(file, kind):
                width, height = self.sizes[rows.frame[i]]
                shown = ", ".join(f"{value:.6g}" for value in rows.corners[i])
                what = f"{kind}: box {shown} on frame {self.frames[rows.frame[i]]} of {width:.6g}x{height:.6g}"
                about = self.about(rows, i)
                fix = REMEDIES.get(kind, "")
                self.log.tell(file, self.places[rows.at[i]] or "", what, done, kind=kind, fix=fix, **about)

    def about(self, rows: Rows, i: Any) -> dict[str, Any]:
        """Which box a problem is about, for the report."""
        return {
            "video": self.video,
            "frame": self.frames[rows.frame[i]],
            "label": self.labels[rows.at[i]],
            "box": tuple(float(value) for value in rows.corners[i]),
        }

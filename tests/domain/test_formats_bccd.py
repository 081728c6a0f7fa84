"""Real annotations all the way through the formats and back, not a box lost, those without area told at every step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from detection_assets.domain import formats
from detection_assets.domain.formats.saving import Saved

CLASSES = ["RBC", "WBC", "Platelets"]
CORNERS = ["x1", "y1", "x2", "y2"]
FLAT = ["BloodImage_00338", "BloodImage_00343"]
FLAGS = ["difficult", "truncated"]

Step = Callable[[pd.DataFrame, Path], Saved]
WAY: list[tuple[str, Step]] = [
    ("coco", lambda boxes, out: formats.coco.save(boxes, CLASSES, out / "a.json")),
    ("cvat images", lambda boxes, out: formats.cvat.save(boxes, CLASSES, out / "a.xml")),
    ("cvat video", lambda boxes, out: formats.cvat.save(boxes, CLASSES, out / "a.xml", video=True)),
    ("label_studio", lambda boxes, out: formats.label_studio.save(boxes, CLASSES, out / "a.json")),
    ("pascal_voc", lambda boxes, out: formats.pascal_voc.save(boxes, CLASSES, out)),
]
"""The formats in the order of the way; each takes the table that the one before gave back."""


def in_order(boxes: pd.DataFrame) -> pd.DataFrame:
    return boxes.sort_values(["frame_name", "class", *CORNERS], kind="stable").reset_index(drop=True)


def test_bccd_goes_through_every_format_and_back(shared_data: Path, tmp_path: Path) -> None:
    start = formats.load(sorted((shared_data / "bccd" / "Annotations").iterdir()), shared_data)
    first = in_order(start.boxes)
    assert len(first) == 4888
    assert [Path(problem.file).stem for problem in start.problems] == FLAT
    names = sorted(set(first["frame_name"]))
    number = {name: i for i, name in enumerate(names)}
    boxes = start.boxes
    for step, (name, save) in enumerate(WAY):
        # What names a photograph is its file; a video has numbers, so each photograph gets one.
        boxes = boxes.assign(frame_index=[number[one] for one in boxes["frame_name"]])
        saved = save(boxes, tmp_path / str(step))
        parsed = formats.load(saved.files, tmp_path)
        boxes = parsed.boxes
        if boxes["frame_name"].isna().all():
            boxes = boxes.assign(frame_name=[names[i] for i in boxes["frame_index"]])
        assert len(boxes.dropna(subset=["class"])) == 4888, name
        flat = [problem for problem in parsed.problems if "without area" in problem.what]
        assert len(flat) == 2, name
        assert parsed.problems == flat, name
        without = boxes[(boxes["x1"] == boxes["x2"]) | (boxes["y1"] == boxes["y2"])]
        assert sorted(Path(one).stem for one in without["frame_name"]) == FLAT, name
        now = in_order(boxes)
        assert now[["frame_name", "class"]].equals(first[["frame_name", "class"]]), name
        np.testing.assert_array_equal(now[CORNERS].to_numpy(), first[CORNERS].to_numpy())
        assert now[FLAGS].sum().tolist() == first[FLAGS].sum().tolist(), name
    assert [(problem.place, problem.done) for problem in saved.problems] == [
        ("frame_index", "left out; export as another format to keep it")
    ]

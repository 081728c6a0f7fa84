import json
import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from detection_assets.domain.problems import InputError
from detection_assets.programs.train_agreement import pairs
from detection_assets.programs.train_dataset import read_snapshot, write_layout

CLASSES = ["no", "1.0"]


@pytest.fixture
def frames(tmp_path):
    folder = tmp_path / "frames of café"
    folder.mkdir()
    for name in ("a.jpg", "b.JPG", "c.png", "torn.jpg"):
        Image.new("RGB", (40, 20), (90, 90, 90)).save(folder / name)
    data = (folder / "torn.jpg").read_bytes()
    (folder / "torn.jpg").write_bytes(data[:-2])
    return folder


def images(*rows):
    return pd.DataFrame([(f"v#{file}", split, file, 40, 20) for file, split in rows],
                        columns=["frame", "split", "file", "width", "height"])  # fmt: skip


def boxes(*rows):
    columns = ["frame", "class", "x1", "y1", "x2", "y2"]
    return pd.DataFrame([(f"v#{file}", *rest) for file, *rest in rows], columns=columns)


ALL = (("a.jpg", "train"), ("b.JPG", "val"), ("c.png", "test"), ("torn.jpg", "train"))


def test_labels_links_and_yaml(frames, tmp_path):
    table = boxes(
        ("a.jpg", "1.0", 10, 5, 30, 15), ("a.jpg", "no", -4, 0, 44, 20), ("b.JPG", "no", 0, 0, 20, 20),
        ("c.png", "no", 0, 0, 1, 1), ("torn.jpg", None, *[np.nan] * 4), ("elsewhere.jpg", "no", 0, 0, 1, 1),
    )  # fmt: skip
    layout = write_layout(images(*ALL), table, frames, CLASSES, tmp_path / "out")
    assert layout.images == {"train": 2, "val": 1}
    assert layout.boxes == {"train": 2, "val": 1}
    assert not layout.optimistic
    lines = (tmp_path / "out/labels/train/000000.txt").read_text().splitlines()
    assert [[float(word) for word in line.split()] for line in lines] == [
        [1, 0.5, 0.5, 0.5, 0.5],
        [0, 0.5, 0.5, 1, 1],
    ]
    assert (tmp_path / "out/labels/train/000002.txt").read_text() == ""
    assert [path.name for path in layout.files] == ["000001.jpg"]
    assert layout.files[0].resolve() == (frames / "b.JPG").resolve()
    yaml = json.loads(layout.yaml.read_text())
    assert yaml["names"] == {"0": "no", "1": "1.0"}
    assert "download" not in yaml
    assert not (tmp_path / "out/images/test").exists(), "test images are not even near the training"


def test_a_picture_that_ultralytics_would_repair_is_copied(frames, tmp_path):
    write_layout(images(*ALL), boxes(("a.jpg", "no", 0, 0, 9, 9)), frames, CLASSES, tmp_path / "out")
    links = {path.name: path.is_symlink() for path in (tmp_path / "out/images/train").iterdir()}
    assert links == {"000000.jpg": True, "000002.jpg": False}


def test_without_boxes_to_validate_on_the_training_images_stand_in(frames, tmp_path):
    layout = write_layout(images(*ALL), boxes(("a.jpg", "no", 0, 0, 9, 9)), frames, CLASSES, tmp_path / "out")
    assert layout.optimistic
    assert json.loads(layout.yaml.read_text())["val"] == "images/train"
    assert len(layout.files) == 2


def test_a_missing_picture_is_told_and_the_rest_is_used(frames, tmp_path):
    os.remove(frames / "b.JPG")
    os.remove(frames / "c.png")  # a test frame: it is not even looked for
    layout = write_layout(images(*ALL), boxes(("a.jpg", "no", 0, 0, 9, 9)), frames, CLASSES, tmp_path / "out")
    assert [problem.file for problem in layout.problems] == ["b.JPG"]
    assert layout.images["train"] == 2


@pytest.mark.parametrize(
    ("rows", "table", "message"),
    [
        (ALL, boxes(), "the training split has 2 images and no boxes"),
        (ALL, boxes(("b.JPG", "no", 0, 0, 9, 9)), "the training split has 2 images and no boxes"),
        ([("gone.jpg", "train")], boxes(("gone.jpg", "no", 0, 0, 9, 9)), "1 pictures are missing"),
        ([], boxes(), "the training split has 0 images"),
        (ALL, boxes(("a.jpg", "pear", 0, 0, 9, 9)), "class 'pear' is not among the detector's classes"),
    ],
)
def test_what_cannot_be_trained_on(frames, tmp_path, rows, table, message):
    with pytest.raises(InputError, match=message):
        write_layout(images(*rows), table, frames, CLASSES, tmp_path / "out")


def test_a_snapshot_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"images\.parquet: cannot be read"):
        read_snapshot(tmp_path)
    (tmp_path / "images.parquet").write_text("not parquet")
    with pytest.raises(InputError, match=r"images\.parquet: cannot be read"):
        read_snapshot(tmp_path)
    pd.DataFrame({"frame": ["x"]}).to_parquet(tmp_path / "images.parquet")
    with pytest.raises(InputError, match=r"images\.parquet: has no column video"):
        read_snapshot(tmp_path)


@pytest.mark.parametrize(
    ("name", "first", "second", "expected"),
    [
        ("nothing", [], [], []),
        ("one side empty", [(0, 0, 0, 9, 9)], [], []),
        ("the same", [(0, 0, 0, 9, 9)], [(0, 0, 0, 9, 9)], [(0, 0)]),
        ("another class", [(0, 0, 0, 9, 9)], [(1, 0, 0, 9, 9)], []),
        ("too far apart", [(0, 0, 0, 9, 9)], [(0, 6, 6, 15, 15)], []),
        ("the nearest wins", [(0, 0, 0, 9, 9)], [(0, 1, 1, 10, 10), (0, 0, 0, 9, 9)], [(0, 1)]),
        ("each once", [(0, 0, 0, 9, 9), (0, 0, 0, 9, 8)], [(0, 0, 0, 9, 9)], [(0, 0)]),
    ],
)
def test_partners(name, first, second, expected):
    parts = [np.array(side, float).reshape(-1, 5) for side in (first, second)]
    assert pairs(parts[0][:, 1:], parts[0][:, 0], parts[1][:, 1:], parts[1][:, 0]) == expected

"""A real YOLO11 network, written again for fewer bits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from detection_assets.domain.problems import InputError
from detection_assets.programs.job import Job
from detection_assets.programs.quantize import run
from detection_assets.serving.predictor import Predictor


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, detector: Path) -> Path:
    """The pictures of the small detector as a training split, and one more frame that is gone."""
    folder = tmp_path_factory.mktemp("quantize")
    shutil.copytree(detector / "pictures", folder / "frames")
    (folder / "dataset").mkdir()
    (folder / "weights").mkdir()
    shutil.copyfile(detector / "best.onnx", folder / "weights" / "best.onnx")
    files = sorted(path.name for path in (folder / "frames").iterdir())
    rows = [[f"v#{file}", "v", "g", "train", file, 96, 96, ""] for file in [*files, "gone.png"]]
    rows.append(["v#test", "v", "g", "test", "never-read.png", 96, 96, ""])
    columns = ["frame", "video", "group", "split", "file", "width", "height", "sha256"]
    pd.DataFrame(rows, columns=columns).to_parquet(folder / "dataset" / "images.parquet")
    columns = ["frame", "class", "x1", "y1", "x2", "y2", "track"]
    pd.DataFrame([], columns=columns).to_parquet(folder / "dataset" / "boxes.parquet")
    return folder


def job(lake: Path, out: Path, export: Any, **inputs: Path) -> Job:
    given = {name: lake / name for name in ("weights", "dataset", "frames")} | inputs
    return Job(given, out, {"export": export, "images": 16})


def raw(predictor: Predictor, path: Path) -> np.ndarray:
    """The network's own numbers for a picture: boxes, then confidences."""
    prepared = predictor.prepare(np.asarray(Image.open(path).convert("RGB")))
    with predictor._engines.free() as engine:
        return predictor._infer(engine, prepared.pixels, None).copy()


@pytest.fixture(scope="module")
def int8(lake: Path) -> Path:
    run(job(lake, lake / "int8", "int8"))
    return lake / "int8" / "weights"


def test_int8_is_smaller_and_answers_nearly_the_same(lake: Path, int8: Path) -> None:
    before, after = Predictor(lake / "weights" / "best.onnx"), Predictor(int8 / "best.onnx")
    told = json.loads((int8 / "quantized.json").read_text())
    assert (told["export"], told["calculates_in"], after.export, before.export) == ("int8", "int8", "int8", "f32")
    assert told["bytes"] == (int8 / "best.onnx").stat().st_size < 0.5 * told["bytes_f32"]
    assert told["latency_ms"] > 0
    assert (after.classes, after.size, after.stride) == (before.classes, before.size, before.stride)
    for path in sorted((lake / "frames").iterdir())[:4]:
        first, second = raw(before, path), raw(after, path)
        assert not np.array_equal(first, second)
        assert np.corrcoef(first[:4].ravel(), second[:4].ravel())[0, 1] > 0.99
        # Its last layers are scaled up, so that confidences spread: they amplify what eight bits change.
        assert np.abs(first[4:] - second[4:]).mean() < 0.1


def test_the_weights_of_the_head_stay_float32_and_those_of_every_other_convolution_do_not(
    lake: Path, int8: Path
) -> None:
    import onnx

    graph = onnx.load(int8 / "best.onnx").graph
    producers = {name: node.op_type for node in graph.node for name in node.output}
    kinds: dict[bool, set[bool]] = {True: set(), False: set()}
    for node in graph.node:
        if node.op_type == "Conv":
            kinds["/model.23/" in node.name].add(producers.get(node.input[1]) == "DequantizeLinear")
    assert kinds == {True: {False}, False: {True}}


def test_the_same_network_and_pictures_give_the_same_file(lake: Path, int8: Path, tmp_path: Path) -> None:
    run(job(lake, tmp_path, "int8"))
    assert (tmp_path / "weights" / "best.onnx").read_bytes() == (int8 / "best.onnx").read_bytes()


def test_bf16_is_the_same_network_with_a_word_for_the_runtime(lake: Path, tmp_path: Path) -> None:
    run(job(lake, tmp_path, "bf16"))
    before, after = Predictor(lake / "weights" / "best.onnx"), Predictor(tmp_path / "weights" / "best.onnx")
    assert (before.export, before.calculates_in, after.export) == ("f32", "f32", "bf16")
    assert after.calculates_in in ("bf16", "f32")  # as the processor can
    path = next((lake / "frames").iterdir())
    same = np.array_equal(raw(before, path), raw(after, path))
    assert same == (after.calculates_in == "f32")


@pytest.mark.parametrize("export", ["f16", None, 8])
def test_an_unknown_export_is_refused(lake: Path, tmp_path: Path, export: Any) -> None:
    with pytest.raises(InputError, match="there are bf16, int8"):
        run(job(lake, tmp_path, export))
    assert not list(tmp_path.iterdir())


def test_without_a_picture_nothing_is_written(lake: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no picture of the training split can be read"):
        run(job(lake, tmp_path / "out", "int8", frames=tmp_path / "empty"))
    assert not (tmp_path / "out" / "weights").exists()

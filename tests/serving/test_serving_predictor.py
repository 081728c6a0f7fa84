"""The predictor answers what ultralytics answers, and refuses what it cannot read."""

import gc
import json
import shutil
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from served import poisoned

from detection_assets.domain.problems import InputError
from detection_assets.samples.bad_models import write_model
from detection_assets.serving.boxes import overlaps
from detection_assets.serving.images import decode
from detection_assets.serving.predictor import Detections, ModelError, ModelTimeout, Predictor

MAX_PIXELS, MAX_CONFIDENCE, SHARE = 1.0, 0.01, 0.995


def agreeing(found: Detections, reference: np.ndarray) -> int:
    """How many boxes of the reference (x1 y1 x2 y2 confidence class) have a partner of their own."""
    free = set(range(len(found)))
    for row in reference:
        for index in sorted(free):
            same = found.class_id[index] == row[5] and abs(found.confidence[index] - row[4]) <= MAX_CONFIDENCE
            if same and np.abs(found.boxes[index] - row[:4]).max() <= MAX_PIXELS:
                free.remove(index)
                break
    return len(found) - len(free)


@pytest.mark.parametrize("reference_model", ["best.pt", "best.onnx"])
@pytest.mark.parametrize(("confidence", "iou", "max_det"), [(0.25, 0.7, 300), (0.01, 0.45, 300), (0.001, 0.7, 20)])
def test_boxes_are_those_of_ultralytics(
    detector: Path, reference_model: str, confidence: float, iou: float, max_det: int
) -> None:
    predictor = Predictor(detector / "best.onnx", confidence=confidence, iou=iou, max_det=max_det)
    boxes = agreed = found_in_all = 0
    for case in json.loads((detector / "reference.json").read_text()):
        if (case["model"], case["confidence"], case["iou"]) != (reference_model, confidence, iou):
            continue
        reference = np.array(case["boxes"]).reshape(-1, 6)
        found = predictor.predict(decode((detector / "pictures" / case["picture"]).read_bytes()))
        boxes, found_in_all = boxes + len(reference), found_in_all + len(found)
        agreed += agreeing(found, reference)
    assert boxes > 250
    assert agreed / max(boxes, found_in_all) >= SHARE


def test_metadata_is_read(detector: Path) -> None:
    predictor = Predictor(detector / "best.onnx")
    assert predictor.classes == ["apple, red", "box 'o' \"tea\"", "Gurke"]
    assert (predictor.size, predictor.stride) == ((96, 96), 32)
    assert predictor.metadata["task"] == "detect"


def test_answers_are_sorted_clipped_and_apart(detector: Path) -> None:
    predictor = Predictor(detector / "best.onnx", confidence=0.05, iou=0.5, max_det=30)
    image = np.random.default_rng(0).integers(0, 255, (301, 64, 3), dtype=np.uint8)
    found = predictor.predict(image)
    assert 0 < len(found) <= 30
    assert (np.diff(found.confidence) <= 0).all()
    assert (found.confidence > 0.05).all()
    assert found.boxes.min() >= 0
    assert (found.boxes[:, 2] <= 64).all()
    assert (found.boxes[:, 3] <= 301).all()
    assert (found.boxes.dtype, found.confidence.dtype) == (np.float32, np.float32)
    stricter = predictor.predict(image, confidence=0.9)
    assert len(stricter) == (found.confidence > 0.9).sum()
    assert len(predictor.predict(image, confidence=1.0)) == 0


def test_threads_get_their_own_answers(detector: Path) -> None:
    predictor = Predictor(detector / "best.onnx", threads=1)
    pictures = [decode(path.read_bytes()) for path in sorted((detector / "pictures").iterdir())[:8]]
    expected = predictor.predict_many(pictures)
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(10):
            if not np.array_equal(predictor.predict(pictures[index]).boxes, expected[index].boxes):
                wrong.append(index)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_pictures_side_by_side_get_the_boxes_that_each_gets_alone(
    detector: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(detector / "best.onnx", confidence=0.05, threads=2)
    pictures = [decode(path.read_bytes()) for path in sorted((detector / "pictures").iterdir())[:6]]
    alone = [predictor.predict(picture) for picture in pictures]
    assert predictor.at_once == 1
    predictor.widen()
    assert predictor.at_once == 2
    together: list[int] = []
    infer = predictor._infer

    def watched(*args: object) -> object:
        together.append(len(predictor._engines.at_work))
        return infer(*args)

    monkeypatch.setattr(predictor, "_infer", watched)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for found, expected in zip(pool.map(predictor.predict, pictures), alone, strict=True):
                assert np.array_equal(found.boxes, expected.boxes)
                assert np.array_equal(found.confidence, expected.confidence)
    assert set(together) == {1, 2}, "and never more"
    assert not predictor._engines.at_work


def test_one_core_is_not_shared(detector: Path) -> None:
    predictor = Predictor(detector / "best.onnx", threads=1)
    predictor.widen()
    assert predictor.at_once == 1
    assert len(predictor.predict(np.full((96, 96, 3), 114, np.uint8))) >= 0


def test_a_model_that_nobody_holds_is_gone_at_once(detector: Path) -> None:
    predictor = Predictor(detector / "best.onnx", threads=2)
    predictor.widen()
    held = weakref.ref(predictor)
    gc.disable()  # an old version must not stay until the collector looks
    try:
        del predictor
        assert held() is None
    finally:
        gc.enable()


AT_ONCE = """
import sys, threading
from pathlib import Path
from detection_assets.serving.predictor import Predictor
sys.setswitchinterval(1e-6)
together = threading.Barrier(4)
def load():
    together.wait()
    Predictor(Path(sys.argv[1])).warm_up()
threads = [threading.Thread(target=load, daemon=True) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


@pytest.mark.parametrize("number", range(4))
def test_the_first_models_of_a_process_may_load_at_once(detector: Path, number: int) -> None:
    subprocess.run([sys.executable, "-c", AT_ONCE, str(detector / "best.onnx")], check=True, timeout=60)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 4), np.uint8),
        np.zeros((10, 10, 3), np.float32),
        np.zeros((0, 10, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(detector: Path, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="height x width x 3"):
        Predictor(detector / "best.onnx").predict(image)


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [({"confidence": 1.5}, "confidence"), ({"iou": float("nan")}, "iou"), ({"max_det": 0}, "max_det")],
)
def test_senseless_thresholds_are_refused(detector: Path, thresholds: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Predictor(detector / "best.onnx", **thresholds)


def edited(model: Path, out: Path, **metadata: str | None) -> Path:
    """A copy of a model with other metadata; None removes a key."""
    import onnx

    network = onnx.load(model)
    kept = [one for one in network.metadata_props if one.key not in metadata]
    del network.metadata_props[:]
    network.metadata_props.extend(kept)
    for key, value in metadata.items():
        if value is not None:
            network.metadata_props.add(key=key, value=value)
    onnx.save(network, out)
    return out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": None}, "lacks names"),
        ({"task": "segment"}, "task 'segment'"),
        ({"names": "{0: __import__('os').getcwd()}"}, "not a dict"),
        ({"names": "{1: 'a', 2: 'b', 3: 'c'}"}, "not a dict"),
        ({"names": "{0: 'a'}"}, "1,5,anchors"),
    ],
)
def test_other_models_are_refused(detector: Path, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Predictor(edited(detector / "best.onnx", tmp_path / "other.onnx", **changes))
    assert "other.onnx" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07\x12\x04"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "weights.onnx"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"weights\.onnx"):
        Predictor(file)


def test_a_truncated_model_is_refused(detector: Path, tmp_path: Path) -> None:
    file = tmp_path / "half.onnx"
    file.write_bytes((detector / "best.onnx").read_bytes()[:1_000_000])
    with pytest.raises(InputError, match=r"half\.onnx"):
        Predictor(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.onnx: cannot be read"):
        Predictor(tmp_path / "gone.onnx")


def test_the_digest_is_checked(detector: Path, tmp_path: Path) -> None:
    file = tmp_path / "best.onnx"
    shutil.copy(detector / "best.onnx", file)
    right = Predictor(file).sha256
    assert Predictor(file, sha256=right.upper()).sha256 == right
    with pytest.raises(InputError, match="not the expected"):
        Predictor(file, sha256="0" * 64)


def test_answers_that_are_not_numbers_are_an_error(detector: Path, tmp_path: Path) -> None:
    predictor = Predictor(poisoned(detector / "best.onnx", tmp_path / "nan.onnx"))
    with pytest.raises(ModelError, match=r"nan\.onnx.*not finite"):
        predictor.warm_up()


@pytest.mark.parametrize("kind", ["bright", "raises"])
def test_a_failure_does_not_outlast_its_picture(tmp_path: Path, kind: str) -> None:
    predictor = Predictor(write_model(tmp_path / "some.onnx", kind))
    predictor.warm_up()
    dim, bright = np.full((60, 80, 3), 120, np.uint8), np.full((60, 80, 3), 230, np.uint8)
    expected = predictor.predict(dim)
    assert len(expected) == 4
    for _ in range(3):
        with pytest.raises(ModelError, match=r"some\.onnx"):
            predictor.predict(bright)
        assert np.array_equal(predictor.predict(dim).boxes, expected.boxes)


def test_a_network_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    predictor = Predictor(write_model(tmp_path / "slow.onnx", "slow"))
    prepared = predictor.prepare(np.full((60, 80, 3), 120, np.uint8))
    started = time.monotonic()
    expected = predictor.run(prepared)
    whole = time.monotonic() - started
    started = time.monotonic()
    with pytest.raises(ModelTimeout, match=r"slow\.onnx: the network did not answer within 0\.02 seconds"):
        predictor.run(prepared, timeout_s=0.02)
    assert time.monotonic() - started < whole
    assert np.array_equal(predictor.run(prepared).boxes, expected.boxes)


def test_overlaps_of_empty_boxes_are_zero() -> None:
    empty = np.zeros((1, 4), np.float32)
    assert overlaps(empty, empty).tolist() == [[0.0]]

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from detection_assets.detector import Training
from detection_assets.domain.tuning import TUNABLE, merged
from detection_assets.programs import train
from detection_assets.programs.train_ultralytics import DEFAULTS

ROOT = Path(__file__).parents[2]
CLASSES = ["disc", 'yes: it\'s a "square"']
EPOCHS = 3


def snapshot(folder, train=16, val=4, size=64):
    """Draws a tiny dataset: a disc or a square on noise."""
    rng = np.random.default_rng(0)
    (folder / "frames" / "clip one").mkdir(parents=True)
    (folder / "dataset").mkdir()
    images, boxes = [], []
    for i in range(train + val):
        picture = Image.fromarray(rng.integers(80, 170, (size, size, 3)).astype(np.uint8))
        kind, radius = i % 2, int(rng.integers(8, 16))
        x, y = rng.integers(radius, size - radius, 2).tolist()
        corners = [x - radius, y - radius, x + radius, y + radius]
        pen = ImageDraw.Draw(picture)
        (pen.rectangle if kind else pen.ellipse)(corners, fill=(30, 40, 220) if kind else (220, 60, 30))
        file = f"clip one/{i:06d}.jpg"
        picture.save(folder / "frames" / file, quality=95)
        frame = f"g/clip one.mp4#{i:06d}"
        images.append([frame, "g/clip one.mp4", "g", "train" if i < train else "val", file, size, size, ""])
        boxes.append([frame, CLASSES[kind], *map(float, corners), None])
    columns = ["frame", "video", "group", "split", "file", "width", "height", "sha256"]
    pd.DataFrame(images, columns=columns).to_parquet(folder / "dataset" / "images.parquet")
    columns = ["frame", "class", "x1", "y1", "x2", "y2", "track"]
    pd.DataFrame(boxes, columns=columns).to_parquet(folder / "dataset" / "boxes.parquet")


def start(folder, output):
    training = {"imgsz": 64, "epochs": EPOCHS, "batch": 8, "extra": {"close_mosaic": 1}}
    (folder / "params.json").write_text(json.dumps({"classes": CLASSES, "training": training, "device": "cpu"}))
    return subprocess.Popen(
        [
            sys.executable, "-m", "detection_assets.programs.train", "--output", str(folder / output),
            "--input", f"dataset={folder / 'dataset'}", "--input", f"frames={folder / 'frames'}",
            "--params", str(folder / "params.json"), "--checkpoint", str(folder / "checkpoint"),
        ],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def reports(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One training that is killed after its first epoch, and one that goes on from there."""
    folder = tmp_path_factory.mktemp("train")
    snapshot(folder)
    before = {path: path.stat().st_mtime_ns for path in (folder / "frames").rglob("*")}
    first = start(folder, "killed")
    told = []
    for line in first.stderr:
        told.append(line)
        # The report of an epoch comes after its checkpoint.
        if '"kind": "epoch"' in line:
            os.killpg(first.pid, signal.SIGKILL)
            break
    first.stderr.close()
    assert first.wait(60) == -signal.SIGKILL, "".join(told)
    kept = {path.name for path in (folder / "checkpoint").iterdir()}
    second = start(folder, "out")
    text = second.communicate(timeout=240)[1]
    assert second.returncode == 0, text
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "frames").rglob("*")}, "frames were touched"
    return folder, kept, text


@pytest.mark.slow
def test_goes_on_after_a_kill_at_the_right_epoch(trained):
    folder, kept, text = trained
    assert {"last.pt", "best.pt", "results.csv"} <= kept
    told = reports(text)
    resumed = [item for item in told if item["kind"] == "resumed"]
    assert len(resumed) == 1
    done = resumed[0]["epoch"]
    assert done >= 1
    epochs = [item["epoch"] for item in told if item["kind"] == "epoch"]
    assert epochs == list(range(done + 1, EPOCHS + 1))
    results = pd.read_csv(folder / "out" / "weights" / "results.csv")
    assert results["epoch"].tolist() == list(range(1, EPOCHS + 1)), "no epoch is lost or doubled"
    assert not (folder / "killed" / "weights").exists(), "a killed run has no output"


@pytest.mark.slow
def test_what_training_writes(trained):
    folder, _, text = trained
    out = folder / "out" / "weights"
    assert {path.name for path in out.iterdir()} == {
        "best.pt",
        "best.onnx",
        "results.csv",
        "training.json",
        "curves.png",
    }
    assert (out / "curves.png").stat().st_size < 60_000
    summary = json.loads((out / "training.json").read_text())
    assert summary["epochs_run"] == EPOCHS
    assert summary["loss_finite"] is True
    assert summary["base_sha256"] == ""
    assert summary["optimistic"] is False
    assert summary["images"] == {"train": 16, "val": 4}
    assert set(summary["per_class"]) == set(CLASSES)
    assert set(summary["metrics"]) == {"precision", "recall", "map50", "map50_95"}
    libraries = {one["name"]: one for one in summary["environment"]["libraries"]}
    assert "AGPL" in libraries["ultralytics-opencv-headless"]["licence"]
    assert {"torch", "numpy"} <= set(libraries["ultralytics-opencv-headless"]["requires"])
    assert "pytest" not in libraries, "it is installed, and took no part"
    epoch = next(item for item in reports(text) if item["kind"] == "epoch")
    assert {"train/box_loss", "val/box_loss", "metrics/mAP50(B)"} <= set(epoch["metrics"])


def test_what_a_training_starts_from_is_noted_by_its_digest(tmp_path):
    (tmp_path / "base.pt").write_bytes(b"weights")
    assert train._digest(str(tmp_path / "base.pt")) == hashlib.sha256(b"weights").hexdigest()
    assert train._digest("yolo11n.yaml") == ""


@pytest.mark.slow
def test_the_onnx_file_answers_what_the_weights_answer(trained):
    import onnx

    out = trained[0] / "out" / "weights"
    agreement = json.loads((out / "training.json").read_text())["agreement"]
    assert agreement["agrees"] is True
    assert agreement["images"] == 4
    assert 0 <= agreement["raw_max_rel"] < 1e-3
    assert agreement["matched_share"] >= 0.99
    model = onnx.load(out / "best.onnx")
    metadata = {item.key: item.value for item in model.metadata_props}
    assert metadata["names"] == str(dict(enumerate(CLASSES)))
    assert metadata["imgsz"] == "[64, 64]"
    assert (metadata["stride"], metadata["task"]) == ("32", "detect")
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert shape == [1, 3, 64, 64]
    assert model.opset_import[0].version == 17


@pytest.mark.slow
def test_a_wrong_export_does_not_agree(trained, tmp_path):
    """The proof must be able to fail: weights that are five per cent off are found."""
    import onnx
    from onnx import numpy_helper

    out = trained[0] / "out" / "weights"
    model = onnx.load(out / "best.onnx")
    for weight in model.graph.initializer:
        if len(weight.dims) == 4:
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.05), weight.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    code = """
import json, sys
from pathlib import Path
from detection_assets.programs import train_ultralytics
train_ultralytics.prepare(Path(sys.argv[1]))
from detection_assets.programs.train_agreement import agreement
images = sorted(Path(sys.argv[4]).glob("*.jpg"))[:2]
print(json.dumps(agreement(Path(sys.argv[2]), Path(sys.argv[3]), images, 64)))
"""
    frames = trained[0] / "frames" / "clip one"
    command = [sys.executable, "-c", code, tmp_path / "c", out / "best.pt", tmp_path / "wrong.onnx", frames]
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["agrees"] is False
    assert answer["raw_max_rel"] > 1e-3


@pytest.mark.slow
def test_finished_training_is_not_done_again_and_exports_the_same_bytes(trained):
    folder = trained[0]
    third = start(folder, "again")
    text = third.communicate(timeout=240)[1]
    assert third.returncode == 0, text
    assert "training was finished before" in text
    assert not [item for item in reports(text) if item["kind"] == "epoch"]
    first, again = (folder / name / "weights" / "best.onnx" for name in ("out", "again"))
    assert first.read_bytes() == again.read_bytes()


CASES = [
    ({"epochs": "many"}, "training.epochs:"),
    ({"epochs": 0}, "training.epochs:"),
    ({"optimiser": "SGD"}, "training.optimiser: unknown; did you mean optimizer?"),
    ({"model": "yolo11n.pt"}, "set model: yolo11n.yaml to train from scratch"),
    ({"model": "nonsense.yaml"}, "training.model: ultralytics knows no network nonsense.yaml"),
    ({"model": "weights.onnx"}, "neither a network (yolo11n.yaml) nor weights"),
    ({"extra": {"mosiac": 0.5}}, "training.extra.mosiac: not a setting; did you mean mosaic?"),
    ({"extra": {"mosaic": 7}}, "training.extra.mosaic:"),
    ({"extra": {"data": "evil.yaml"}}, "training.extra.data: a setting that the platform makes itself"),
    ({"extra": {"project": "/tmp/x"}}, "training.extra.project: a setting that the platform makes itself"),
    ({"extra": {"save_dir": "/tmp/x"}}, "training.extra.save_dir:"),
    ({"extra": {"epochs": 3}}, "training.extra.epochs: set training.epochs instead"),
    ({}, {"model": "yolo11n.yaml", "batch": 8, "nbs": 8, "optimizer": "AdamW", "amp": False, "pretrained": False}),
    ({"extra": {"mosaic": 0.5}, "hardware": "gpu"}, {"mosaic": 0.5, "plots": False}),
    ({"model": "base.pt"}, {"pretrained": True}),
    (Training().for_the_trainer(), {"model": "yolo11n.yaml", "imgsz": 320}),
    # What may be tuned is known to the trainer, at both ends.
    *(
        (merged({"extra": {}}, {key: end}) if key not in DEFAULTS else {key: end}, {key: end})
        for key, about in TUNABLE.items()
        for end in (about.values or [(int if about.kind == "whole" else float)(end) for end in (about.low, about.high)])
        if end != about.default
    ),
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What each of CASES gives, and how ultralytics was set up; one process, because its import takes seconds."""
    folder = tmp_path_factory.mktemp("settings")
    (folder / "base.pt").write_bytes(b"weights")
    code = """
import json, os, sys
from pathlib import Path
from detection_assets.domain.problems import InputError
from detection_assets.programs import train_ultralytics
folder = Path(sys.argv[1])
train_ultralytics.prepare(folder / "config")
out = []
for training in json.load(sys.stdin):
    try:
        out.append(train_ultralytics.settings(training, folder))
    except InputError as error:
        out.append(str(error))
from ultralytics.utils import DEFAULT_CFG_DICT, ONLINE, SAFE_LOAD, SETTINGS
out.append({**DEFAULT_CFG_DICT, **train_ultralytics.settings({}, folder)})
from ultralytics.utils.events import events
keys = ("sync", "mlflow", "wandb", "tensorboard", "raytune", "comet", "clearml", "dvc")
out.append({"online": ONLINE, "safe": SAFE_LOAD, "events": events.enabled, "on": [k for k in keys if SETTINGS[k]],
            "torn": train_ultralytics.epoch_of(folder / "base.pt")})
print(json.dumps(out))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], input=json.dumps([case for case, _ in CASES]),
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("at", range(len(CASES)), ids=[json.dumps(case) for case, _ in CASES])
def test_settings(answers, at):
    expected, answer = CASES[at][1], answers[at]
    if isinstance(expected, str):
        assert expected in answer
    else:
        assert {key: answer[key] for key in expected} == expected


def test_what_may_be_tuned_has_the_default_that_is_taken_for_it(answers):
    known = {key: about.default for key, about in TUNABLE.items() if about.default is not None}
    assert {key: answers[-2][key] for key in known} == known


def test_ultralytics_talks_to_nobody_and_loads_safely(answers):
    assert answers[-1] == {"online": False, "safe": True, "events": False, "on": [], "torn": None}

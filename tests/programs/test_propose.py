from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from networks import CLASSES, PLACE, SIZE, network
from PIL import Image

from detection_assets.domain.description import NAMES
from detection_assets.domain.informativeness import BOXES, CHALLENGER, MIRRORED, PLAIN
from detection_assets.domain.problems import InputError
from detection_assets.programs.job import Job
from detection_assets.programs.propose import run

ROOT = Path(__file__).parents[2]
COLORS = {"red": (250, 0, 20), "blue": (20, 0, 250), "black": (0, 0, 0)}


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    network(tmp_path / "champion")
    network(tmp_path / "challenger", swap=True)
    (tmp_path / "pictures").mkdir()
    for name, color in COLORS.items():
        Image.new("RGB", (SIZE, SIZE), color).save(tmp_path / "pictures" / f"{name}.png")
    return tmp_path


def video(name: str, *frames: str) -> dict[str, Any]:
    return {"video": name, "out": name.replace("/", "-"), "frames": [[f"{name}#{one}", f"{one}.png"] for one in frames]}


def job(lake: Path, *videos: dict[str, Any], models: tuple[str, ...] = ("champion",), **params: Any) -> Job:
    inputs = {"pictures": lake / "pictures", **{name: lake / name for name in models}}
    return Job(inputs, lake / "output", {"videos": videos, **params}, lake / "checkpoint")


def seen(lake: Path, out: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    boxes, pictures = (pd.read_parquet(lake / "output" / out / f"{name}.parquet") for name in ("boxes", "pictures"))
    return boxes, pictures


def test_a_picture_is_looked_at_plain_mirrored_and_by_the_challenger(lake: Path) -> None:
    run(job(lake, video("a/b", "red", "black"), models=("champion", "challenger")))
    boxes, pictures = seen(lake, "a-b")
    assert list(boxes.columns) == list(BOXES)
    assert set(boxes["frame"]) == {"a/b#red"}
    by_view = boxes.set_index("view")
    x1, y1, x2, y2 = PLACE[0]
    assert by_view.loc[PLAIN, ["x1", "y1", "x2", "y2"]].tolist() == pytest.approx([x1, y1, x2, y2])
    assert by_view.loc[MIRRORED, ["x1", "y1", "x2", "y2"]].tolist() == pytest.approx([SIZE - x2, y1, SIZE - x1, y2])
    assert by_view.loc[CHALLENGER, "class"] == CLASSES[1]
    assert pictures["frame"].tolist() == ["a/b#red", "a/b#black"]
    assert pictures[["width", "height"]].to_numpy().tolist() == [[SIZE, SIZE]] * 2
    assert pictures["phash"].str.fullmatch("[0-9a-f]{16}").all()
    assert pictures.loc[0, NAMES[:3]].tolist() == pytest.approx([250 / 255, 0, 20 / 255], abs=1e-5)


def test_without_a_model_pictures_are_only_described(lake: Path) -> None:
    run(job(lake, video("a", "red", "blue"), models=()))
    boxes, pictures = seen(lake, "a")
    assert boxes.empty
    assert list(boxes.columns) == list(BOXES)
    assert np.isfinite(pictures[NAMES].to_numpy()).all()


def test_pictures_that_cannot_be_read_are_told_and_lose_only_themselves(lake: Path) -> None:
    (lake / "pictures" / "torn.png").write_bytes((lake / "pictures" / "red.png").read_bytes()[:40])
    run(job(lake, video("a", "red", "torn"), video("b", "gone")))
    assert seen(lake, "a")[1]["frame"].tolist() == ["a#red"]
    assert [len(table) for table in seen(lake, "b")] == [0, 0]
    problems = [json.loads((lake / "output" / out / "summary.json").read_text())["problems"] for out in "ab"]
    assert problems == [
        ["torn.png, a#torn: cannot be read as a picture (skipped)"],
        ["gone.png, b#gone: cannot be read as a picture (skipped)"],
    ]


def test_what_a_checkpoint_holds_is_not_done_again_unless_a_model_changed(lake: Path) -> None:
    run(job(lake, video("a", "red"), sha256={}))
    (lake / "champion" / "best.onnx").write_bytes(b"no model any more")
    run(job(lake, video("a", "red"), sha256={}))
    for changed in ({"sha256": {"champion": "0" * 64}}, {"models": ("champion", "challenger")}):
        with pytest.raises(InputError, match=r"not the expected|not an ONNX model"):
            run(job(lake, video("a", "red"), **changed))


def test_settings_that_no_model_takes_are_told(lake: Path) -> None:
    with pytest.raises(InputError, match="settings: confidence is 7"):
        run(job(lake, video("a", "red"), settings={"confidence": 7}))


def test_by_hand_from_the_command_line(lake: Path) -> None:
    (lake / "params.json").write_text(json.dumps({"videos": [video("a", "red")]}))
    command = [sys.executable, "-m", "detection_assets.programs.propose", "--params", str(lake / "params.json")]
    command += ["--input", f"pictures={lake / 'pictures'}", "--input", f"champion={lake / 'champion'}"]
    done = subprocess.run([*command, "--output", str(lake / "output")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(seen(lake, "a")[0]) == 2

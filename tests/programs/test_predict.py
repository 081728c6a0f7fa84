from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from networks import CLASSES, PLACE, SIZE, network
from PIL import Image

from detection_assets.domain.problems import InputError
from detection_assets.programs.job import Job
from detection_assets.programs.predict import run
from detection_assets.serving.bodies import Pictures
from detection_assets.serving.handler import Handler

ROOT = Path(__file__).parents[2]
COLORS = {"red": (250, 0, 20), "blue": (20, 0, 250), "black": (0, 0, 0)}


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    network(tmp_path / "model")
    (tmp_path / "frames").mkdir()
    for name, color in COLORS.items():
        Image.new("RGB", (SIZE, SIZE), color).save(tmp_path / "frames" / f"{name}.png")
    return tmp_path


def video(name: str, *frames: str) -> dict[str, Any]:
    return {"video": name, "out": name.replace("/", "-"), "frames": [[f"{name}#{one}", f"{one}.png"] for one in frames]}


def frame(lake: Path, name: str) -> bytes:
    return (lake / "frames" / f"{name}.png").read_bytes()


def job(lake: Path, *videos: dict[str, Any], **params: Any) -> Job:
    inputs = {"frames": lake / "frames", "model": lake / "model"}
    return Job(inputs, lake / "output", {"videos": videos, "classes": CLASSES, **params}, lake / "checkpoint")


def test_every_frame_has_its_boxes_or_says_that_there_are_none(lake: Path) -> None:
    run(job(lake, video("a", "red", "black"), video("b/c", "blue")))
    first = pd.read_parquet(lake / "output" / "a" / "predictions.parquet")
    assert first["frame"].tolist() == ["a#red", "a#black"]
    assert first["class"].tolist() == [CLASSES[0], None]
    assert first.loc[0, ["x1", "y1", "x2", "y2"]].tolist() == pytest.approx(PLACE[0])
    assert pd.read_parquet(lake / "output" / "b-c" / "predictions.parquet")["class"].tolist() == [CLASSES[1]]
    with Image.open(lake / "output" / "a" / "preview" / "01.jpg") as preview:
        assert preview.size == (SIZE, SIZE)
    summary = json.loads((lake / "output" / "a" / "summary.json").read_text())
    assert (summary["frames"], summary["boxes"], summary["problems"]) == (2, 1, [])


def test_the_settings_are_those_of_the_endpoint(lake: Path) -> None:
    run(job(lake, video("a", "red"), settings={"confidence": 0.95, "iou": 0.7, "max_det": 300}))
    assert pd.read_parquet(lake / "output" / "a" / "predictions.parquet")["class"].tolist() == [None]


def test_what_a_checkpoint_holds_is_not_done_again_and_needs_no_model(lake: Path) -> None:
    run(job(lake, video("a", "red")))
    (lake / "model" / "best.onnx").write_bytes(b"no model any more")
    run(job(lake, video("a", "red")))
    with pytest.raises(InputError, match="not an ONNX model"):
        run(job(lake, video("a", "red"), video("b", "blue")))
    with pytest.raises(InputError, match="not an ONNX model"):
        run(job(lake, video("a", "red"), settings={"confidence": 0.5}))


def test_a_half_written_checkpoint_is_done_again(lake: Path) -> None:
    run(job(lake, video("a", "red")))
    (lake / "checkpoint" / "a" / "summary.json").write_text("{")
    (lake / "checkpoint" / ".a.part").mkdir()
    (lake / "checkpoint" / "a" / "predictions.parquet").unlink()
    run(job(lake, video("a", "red")))
    assert len(pd.read_parquet(lake / "output" / "a" / "predictions.parquet")) == 1


def test_a_frame_that_cannot_be_read_is_told_and_the_rest_is_done(lake: Path) -> None:
    (lake / "frames" / "torn.png").write_bytes((lake / "frames" / "red.png").read_bytes()[:40])
    run(job(lake, video("a", "red", "torn", "gone")))
    summary = json.loads((lake / "output" / "a" / "summary.json").read_text())
    assert [problem.split(",")[0] for problem in summary["problems"]] == ["torn.png", "gone.png"]
    with pytest.raises(InputError, match="none of its frames can be read; extract them again"):
        run(job(lake, video("b", "torn")))


def answered(lake: Path, *lines: Any) -> None:
    (lake / "answers").mkdir(exist_ok=True)
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (lake / "answers" / "answers.jsonl").write_text("\n".join(text))


def from_answers(lake: Path, *videos: dict[str, Any], **params: Any) -> Job:
    inputs = {"frames": lake / "frames", "answers": lake / "answers"}
    return Job(inputs, lake / "told", {"videos": videos, "classes": CLASSES, **params})


def test_a_servers_answers_make_the_same_outputs_as_the_model(lake: Path) -> None:
    run(job(lake, video("a", "red", "black", "blue")))
    files = {f"{name}.png": Handler(lake / "model").answer(Pictures([frame(lake, name)])) for name in COLORS}
    answered(lake, *({"file": file, **answer} for file, answer in files.items()))
    run(from_answers(lake, video("a", "red", "black", "blue"), sha256="d" * 64))
    there, here = (pd.read_parquet(lake / folder / "a" / "predictions.parquet") for folder in ("told", "output"))
    pd.testing.assert_frame_equal(there, here, atol=0.01)
    summaries = [json.loads((lake / folder / "a" / "summary.json").read_text()) for folder in ("told", "output")]
    assert summaries[0]["sha256"] == "d" * 64
    for name in ("frames", "boxes", "problems"):
        assert summaries[0][name] == summaries[1][name]
    previews = [
        sorted(path.name for path in (lake / folder / "a" / "preview").iterdir()) for folder in ("told", "output")
    ]
    assert previews[0] == previews[1]


def test_an_answer_without_boxes_is_a_problem_and_only_pictures_that_are_there_are_drawn(lake: Path) -> None:
    answered(lake, {"file": "red.png", "boxes": []}, {"file": "blue.png", "error": "cut short"})
    (lake / "frames" / "red.png").unlink()
    run(from_answers(lake, video("a", "red", "blue", "black")))
    assert pd.read_parquet(lake / "told" / "a" / "predictions.parquet")["frame"].tolist() == ["a#red"]
    assert not (lake / "told" / "a" / "preview").exists()
    problems = json.loads((lake / "told" / "a" / "summary.json").read_text())["problems"]
    assert problems == [
        "blue.png, a#blue: cut short (skipped)",
        "black.png, a#black: the server gave no answer; predict again (skipped)",
    ]


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"boxes": []}', '{"file": "red.png"}', '{"file": "red.png", "boxes": [{"class": "apple"}]}']
)
def test_what_is_no_answer_is_told(lake: Path, line: str) -> None:
    answered(lake, line)
    with pytest.raises(InputError, match=r"answers\.jsonl.*is no answer"):
        run(from_answers(lake, video("a", "red")))


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"videos": []}, "at least one video"),
        ({"videos": "all"}, "not a list of video, out and frames"),
        ({"videos": [{"video": "a"}]}, "not a list of video, out and frames"),
        ({"videos": [{**video("a", "red"), "out": "../a"}]}, "plain `out`"),
        ({"videos": [video("a", "red"), video("a", "blue")]}, "of its own"),
        ({"settings": {"confidence": 7}}, "settings: confidence is 7"),
        ({"settings": {"size": 640}}, "settings: .*size"),
        ({"sha256": "0" * 64}, "not the expected"),
    ],
)
def test_parameters_that_cannot_be_used_are_told(lake: Path, params: dict[str, Any], said: str) -> None:
    given = job(lake, video("a", "red"), **params)
    with pytest.raises(InputError, match=said):
        run(given)
    assert not list((lake / "output").glob("*"))


def test_by_hand_from_the_command_line(lake: Path) -> None:
    (lake / "params.json").write_text(json.dumps({"videos": [video("a", "red")], "classes": CLASSES}))
    command = [sys.executable, "-m", "detection_assets.programs.predict", "--params", str(lake / "params.json")]
    command += ["--input", f"frames={lake / 'frames'}", "--input", f"model={lake / 'model'}"]
    done = subprocess.run([*command, "--output", str(lake / "out")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "[1/1] frames predicted" in done.stderr
    assert (lake / "out" / "a" / "predictions.parquet").exists()

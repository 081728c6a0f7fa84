import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from networks import CLASSES, PLACE, SIZE, network
from PIL import Image

from detection_assets.domain.problems import InputError
from detection_assets.programs.draw import read_rgb
from detection_assets.programs.evaluate import run
from detection_assets.programs.job import Job

ROOT = Path(__file__).parents[2]


@pytest.fixture
def lake(tmp_path):
    """Six groups of two frames; the last two groups are the test split, with one frame of each colour."""
    (tmp_path / "frames").mkdir()
    (tmp_path / "dataset").mkdir()
    images, boxes = [], []
    for i in range(12):
        group, kind = f"g{i // 2}", i % 2
        color = (250, 0, 20) if kind == 0 else (20, 0, 250)
        Image.new("RGB", (SIZE, SIZE), color).save(tmp_path / "frames" / f"{i}.png")
        split = "test" if i >= 8 else "train"
        images.append([f"{group}/v.mp4#{i}", f"{group}/v.mp4", group, split, f"{i}.png", SIZE, SIZE, ""])
        boxes.append([f"{group}/v.mp4#{i}", CLASSES[kind], *PLACE[kind], None])
    columns = ["frame", "video", "group", "split", "file", "width", "height", "sha256"]
    pd.DataFrame(images, columns=columns).to_parquet(tmp_path / "dataset" / "images.parquet")
    columns = ["frame", "class", "x1", "y1", "x2", "y2", "track"]
    pd.DataFrame(boxes, columns=columns).to_parquet(tmp_path / "dataset" / "boxes.parquet")
    return tmp_path


GATES = {"map50": 0.8, "non_inferiority": 0.02, "latency_ms": 5000, "size_mb": 1}


def job(lake, *, champion=None, challenger=None, full=None, **params):
    inputs = {"dataset": lake / "dataset", "frames": lake / "frames"}
    inputs["challenger"] = challenger or network(lake / "challenger")
    if champion:
        inputs["champion"] = champion
    if full:
        inputs["full"] = full
    chosen = {"classes": CLASSES, "evaluation": {"bootstrap": 20}, "gates": GATES, **params}
    return Job(inputs, lake / "out", chosen)


def outcome(lake):
    out = lake / "out" / "evaluation"
    return json.loads((out / "summary.json").read_text()), pd.read_parquet(out / "metrics.parquet"), out


def test_a_perfect_challenger(lake):
    run(job(lake))
    summary, table, out = outcome(lake)
    row = table[(table["model"] == "challenger") & (table["slice_kind"] == "all")].iloc[0]
    assert (row["ap50"], row["ap50_95"], row["recall"]) == pytest.approx((1, 1, 1))
    assert (row["n_images"], row["n_boxes"], row["low"], row["high"]) == (4, 4, 1, 1)
    assert set(table["slice_kind"]) == {"all", "class", "size", "group", "video"}
    assert sorted(table[table["slice_kind"] == "group"]["slice"].unique()) == ["g4", "g5"]
    assert list(table.columns) == [
        "model", "slice_kind", "slice", "class", "ap50", "ap50_95", "recall", "n_images", "n_boxes", "low", "high",
    ]  # fmt: skip
    assert summary["passed"] is True
    assert summary["difference"] is None
    assert summary["optimistic"] is False
    assert summary["resampled"] == "group"
    assert summary["challenger"]["latency_ms"] <= summary["challenger"]["latency_p95_ms"]
    assert summary["challenger"]["size_mb"] == pytest.approx((lake / "challenger/best.onnx").stat().st_size / 1e6)
    assert summary["worst"] == []
    assert not (out / "worst.html").exists()
    predictions = pd.read_parquet(out / "predictions.parquet")
    assert list(predictions.columns) == ["model", "frame", "class", "confidence", "x1", "y1", "x2", "y2"]
    sure = predictions[predictions["confidence"] > 0.5]
    assert len(sure) == 4
    np.testing.assert_allclose(sure[["x1", "y1", "x2", "y2"]].iloc[0], PLACE[0], atol=0.01)
    for name, limit in (("confusion.png", 60_000), ("pr.png", 60_000)):
        assert 1000 < (out / name).stat().st_size < limit


def test_an_export_that_answers_worse_than_the_same_network_in_float32_fails(lake):
    """Boxes that lie off by some pixels: as good at IoU 0.50, not at the strict end."""
    limits = {"map50": 0.8, "export_loss": 0.01}
    run(job(lake, challenger=network(lake / "off", shift=2.0), full=network(lake / "full"), gates=limits))
    summary, table, _ = outcome(lake)
    overall = table[table["slice_kind"] == "all"].set_index("model")
    assert overall["ap50"].to_dict() == pytest.approx({"challenger": 1.0, "full": 1.0})
    assert overall["ap50_95"]["challenger"] < overall["ap50_95"]["full"] == pytest.approx(1)
    failed = [verdict for verdict in summary["gates"] if not verdict["passed"]]
    assert [verdict["gate"] for verdict in failed] == ["export_loss"]
    assert failed[0]["value"] == pytest.approx(1 - overall["ap50_95"]["challenger"])


def test_a_worse_challenger_fails_and_its_worst_frames_are_shown(lake):
    champion = network(lake / "champion")
    run(job(lake, challenger=network(lake / "wrong", swap=True), champion=champion))
    summary, table, out = outcome(lake)
    overall = table[table["slice_kind"] == "all"].set_index("model")["ap50"]
    assert overall.to_dict() == pytest.approx({"challenger": 0.0, "champion": 1.0})
    assert summary["difference"]["value"] == pytest.approx(-1)
    assert [gate["gate"] for gate in summary["gates"] if not gate["passed"]] == ["map50", "non_inferiority"]
    assert summary["passed"] is False
    assert len(summary["worst"]) == 4
    for worst in summary["worst"]:
        assert (worst["confused"], worst["score"]) == (1, 1.0)
        assert worst["told"] in (f"1 {one} taken for {other}" for one, other in (CLASSES, CLASSES[::-1]))
    page = (out / "worst.html").read_text()
    assert page.count("<figure>") == 4
    assert page.count('<rect class="prediction"') == 4
    assert (out / "worst.jpg").stat().st_size < 60_000


def test_the_same_model_again_is_not_inferior(lake):
    run(job(lake, champion=network(lake / "champion")))
    summary, table, _ = outcome(lake)
    assert summary["difference"] == {"value": 0, "low": 0, "high": 0, "unit": "group", "units": 2}
    assert summary["passed"] is True
    mine, theirs = (table[table["model"] == name].drop(columns="model") for name in ("challenger", "champion"))
    pd.testing.assert_frame_equal(mine.reset_index(drop=True), theirs.reset_index(drop=True))


def test_classes_go_by_name_and_a_champion_may_know_others(lake):
    champion = network(lake / "champion", names=[CLASSES[1], CLASSES[0]], swap=True)
    stranger = network(lake / "stranger", names=["pear", CLASSES[1]])
    run(job(lake, champion=champion))
    assert outcome(lake)[0]["difference"]["value"] == 0
    run(job(lake, challenger=lake / "challenger", champion=stranger))
    table = outcome(lake)[1]
    apples = table[(table["model"] == "champion") & (table["slice_kind"] == "class") & (table["class"] == "apple")]
    assert apples["ap50"].tolist() == [0.0]


def test_a_broken_frame_is_told_and_the_rest_is_scored(lake):
    (lake / "frames" / "8.png").write_bytes(b"not a picture")
    (lake / "frames" / "9.png").unlink()
    run(job(lake))
    summary, table, _ = outcome(lake)
    assert summary["images"] == 2
    assert [problem.split(",")[0] for problem in summary["problems"]] == ["8.png", "9.png"]
    assert table.iloc[0]["ap50"] == pytest.approx(1)


def test_no_truth_at_all_fails_the_floor_and_is_valid_json(lake):
    pd.read_parquet(lake / "dataset/boxes.parquet")[:0].to_parquet(lake / "dataset/boxes.parquet")
    run(job(lake))
    summary, table, _ = outcome(lake)
    assert summary["challenger"]["ap50"] is None
    assert table["ap50"].isna().all()
    assert summary["passed"] is False


def test_a_group_that_was_trained_on_makes_it_optimistic(lake):
    path = lake / "dataset/images.parquet"
    pd.read_parquet(path).assign(group="one").to_parquet(path)
    run(job(lake))
    assert outcome(lake)[0]["optimistic"] is True
    assert outcome(lake)[0]["resampled"] == "video"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"classes": []}, "`classes` is empty"),
        ({"classes": [*CLASSES, "pear"]}, "the challenger does not know pear"),
        ({"classes": ["apple"]}, "is not among the detector's classes"),
        ({"split": "holdout"}, "no frame is in the split 'holdout'"),
        ({"evaluation": {"conf": 0.1}}, r"evaluation\.conf: unknown"),
        ({"evaluation": {"iou": "high"}}, r"evaluation\.iou: 'high' is not a number"),
        ({"evaluation": {"iou": 1.5}}, r"evaluation: iou is 1\.5"),
        ({"gates": {"map51": 1}}, "unknown gate 'map51'"),
    ],
)
def test_nonsense_is_refused(lake, params, message):
    with pytest.raises(InputError, match=message):
        run(job(lake, **params))


def test_all_frames_broken(lake):
    for path in (lake / "frames").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match="none of the frames can be read"):
        run(job(lake))


def test_a_model_that_is_none(lake):
    (lake / "broken").mkdir()
    (lake / "broken" / "best.onnx").write_bytes(b"pickle")
    with pytest.raises(InputError, match=r"best\.onnx"):
        run(job(lake, challenger=lake / "broken"))


def test_by_hand_from_the_command_line(lake):
    network(lake / "challenger")
    (lake / "params.json").write_text(json.dumps({"classes": CLASSES, "evaluation": {"bootstrap": 0}}))
    command = [sys.executable, "-m", "detection_assets.programs.evaluate", "--output", lake / "out"]
    for name in ("dataset", "frames", "challenger"):
        command += ["--input", f"{name}={lake / name}"]
    done = subprocess.run(
        [*map(str, command), "--params", str(lake / "params.json")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "[4/4] frames predicted" in done.stderr
    assert "gate map50: passed" in done.stderr
    assert outcome(lake)[1]["low"].isna().all()


def test_pictures_are_read_as_a_person_sees_them(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # held upright
    Image.new("L", (30, 10), 200).save(tmp_path / "turned.jpg", exif=exif)
    assert read_rgb(tmp_path / "turned.jpg").shape == (30, 10, 3)
    with pytest.raises(InputError, match=r"gone\.jpg: cannot be read"):
        read_rgb(tmp_path / "gone.jpg")

import contextlib
import io
import math

import numpy as np
import pandas as pd
import pytest

from detection_assets.domain.metrics import BACKGROUND, Scores, difference

CLASSES = ["apple", "banana", "cola"]
BOX = ["x1", "y1", "x2", "y2"]


def frames(count, groups=2, videos=4):
    return pd.DataFrame({
        "frame": [f"f{i:04d}" for i in range(count)],
        "video": [f"g{i % groups}/v{i % videos}" for i in range(count)],
        "group": [f"g{i % groups}" for i in range(count)],
        "width": 640,
        "height": 480,
    })  # fmt: skip


def boxes(rows):
    """Rows of (frame, class, x1, y1, x2, y2[, confidence])."""
    table = pd.DataFrame([row[:6] for row in rows], columns=["frame", "class", *BOX])
    table["confidence"] = np.array([row[6] if len(row) > 6 else np.nan for row in rows], float)
    return table.astype({name: float for name in BOX})


def made_up(seed, images=40, truths=150, found=600, classes=CLASSES, digits=2, **kinds):
    """Random truth and predictions that scatter around it, with ties in confidence."""
    rng = np.random.default_rng(seed)
    table = frames(images, **kinds)
    size = np.exp(rng.normal(4, 0.9, (truths, 2))).clip(3, 300)
    low = rng.uniform(0, 400, (truths, 2))
    truth = pd.DataFrame(np.hstack([low, low + size]), columns=BOX)
    truth.insert(0, "frame", table["frame"].to_numpy()[rng.integers(0, images, truths)])
    truth.insert(1, "class", np.array(classes)[rng.integers(0, len(classes), truths)])
    at = rng.integers(0, max(truths, 1), found) if truths else np.zeros(0, int)
    jitter = rng.normal(0, 0.1, (len(at), 4)) * np.hstack([size, size])[at]
    corners = truth[BOX].to_numpy()[at] + jitter
    corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 1)
    guess = pd.DataFrame(corners, columns=BOX)
    elsewhere = rng.random(len(at)) < 0.3
    guess.insert(0, "frame", np.where(elsewhere, rng.choice(table["frame"], len(at)), truth["frame"].to_numpy()[at]))
    swapped = rng.random(len(at)) < 0.2
    guess.insert(1, "class", np.where(swapped, rng.choice(classes, len(at)), truth["class"].to_numpy()[at]))
    guess["confidence"] = rng.random(len(at)).round(digits)
    return table, truth, guess


def by_pycocotools(truth, guess, table, classes, package):
    """AP50 and AP of each class, by another implementation fed by plain dicts."""
    if package == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    else:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    number = {name: i for i, name in enumerate(table["frame"], 1)}
    label = {name: k for k, name in enumerate(classes, 1)}

    def records(part):
        for i, row in enumerate(part.to_dict("records"), 1):
            wide, high = row["x2"] - row["x1"], row["y2"] - row["y1"]
            yield {
                "id": i, "image_id": number[row["frame"]], "category_id": label[row["class"]], "iscrowd": 0,
                "bbox": [row["x1"], row["y1"], wide, high], "area": wide * high, "score": row.get("confidence"),
            }  # fmt: skip

    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = {
            "images": [{"id": i, "width": 640, "height": 480} for i in number.values()],
            "categories": [{"id": k, "name": name} for name, k in label.items()],
            "annotations": list(records(truth)),
        }
        gt.createIndex()
        result = COCOeval(gt, gt.loadRes(list(records(guess))), "bbox")
        result.evaluate()
        result.accumulate()
    precision = np.asarray(result.eval["precision"]).reshape(10, 101, len(classes), 4, 3)[..., -1]
    precision = np.where(precision < 0, np.nan, precision)
    return precision[0].mean(0), precision.mean((0, 1))


@pytest.mark.parametrize("package", ["pycocotools", "faster_coco_eval"])
@pytest.mark.parametrize("seed", range(4))
def test_equals_other_implementations_by_class_and_size(seed, package):
    classes = [*CLASSES, "never there"]
    table, truth, guess = made_up(seed)
    ours = Scores(truth, guess, table, classes).table()
    ap50, ap = by_pycocotools(truth, guess, table, classes, package)
    for at, size in enumerate(["all", "small", "medium", "large"]):
        rows = ours[(ours["slice_kind"] == "class") if size == "all" else (ours["slice"] == size)]
        rows = rows.set_index("class").reindex(classes)
        np.testing.assert_allclose(rows["ap50"], ap50[:, at], atol=1e-9, equal_nan=True)
        np.testing.assert_allclose(rows["ap50_95"], ap[:, at], atol=1e-9, equal_nan=True)
    everything = ours[ours["slice_kind"] == "all"].iloc[0]
    assert everything["ap50"] == pytest.approx(np.nanmean(ap50[:, 0]))
    assert 0.1 < everything["ap50"] < 0.99


def test_slices_equal_an_evaluation_of_those_frames_alone():
    table, truth, guess = made_up(5)
    ours = Scores(truth, guess, table, CLASSES).table()
    for kind in ("group", "video"):
        for name, part in table.groupby(kind):
            alone = Scores(
                truth[truth["frame"].isin(part["frame"])], guess[guess["frame"].isin(part["frame"])], part, CLASSES
            )
            row = ours[(ours["slice_kind"] == kind) & (ours["slice"] == name) & (ours["class"] == "")].iloc[0]
            assert row["ap50"] == pytest.approx(alone.overall()["ap50"])
            assert row["ap50_95"] == pytest.approx(alone.overall()["ap50_95"])
            assert row["recall"] == pytest.approx(alone.overall()["recall"])
            assert row["n_images"] == len(part)
            assert row["n_boxes"] == truth["frame"].isin(part["frame"]).sum()


ONE = ("f0000", "apple", 0, 0, 10, 10)


@pytest.mark.parametrize(
    ("name", "truth", "guess", "ap50", "recall"),
    [
        ("nothing at all", [], [], math.nan, math.nan),
        ("no predictions", [ONE], [], 0.0, 0.0),
        ("no truth", [], [(*ONE, 0.9)], math.nan, math.nan),
        ("right", [ONE], [(*ONE, 0.9)], 1.0, 1.0),
        ("wrong class", [ONE], [("f0000", "cola", 0, 0, 10, 10, 0.9)], 0.0, 0.0),
        ("wrong frame", [ONE], [("f0001", "apple", 0, 0, 10, 10, 0.9)], 0.0, 0.0),
        ("overlap of exactly a half", [ONE], [("f0000", "apple", 0, 0, 10, 5, 0.9)], 1.0, 1.0),
        ("found twice", [ONE], [(*ONE, 0.9), (*ONE, 0.8)], 1.0, 1.0),
        ("a better wrong one first", [ONE], [("f0000", "apple", 50, 50, 60, 60, 0.9), (*ONE, 0.8)], 0.5, 1.0),
        ("empty frame among the truth", [ONE, ("f0001", None, *[math.nan] * 4)], [(*ONE, 0.9)], 1.0, 1.0),
    ],
)  # fmt: skip
def test_small_cases(name, truth, guess, ap50, recall):
    scores = Scores(boxes(truth), boxes(guess), frames(2), CLASSES)
    table = scores.table(resamples=20)
    row = table.iloc[0]
    assert (row["slice_kind"], row["class"]) == ("all", "")
    assert row["ap50"] == pytest.approx(ap50, nan_ok=True)
    assert row["recall"] == pytest.approx(recall, nan_ok=True)
    assert table[table["class"] == "banana"]["ap50"].isna().all(), "a class without truth is not a zero"
    assert set(table["slice_kind"]) == {"all", "class", "size", "group", "video"}
    assert scores.confusion(0.5).to_numpy().sum() >= len(guess)
    assert len(scores.pairs()) == len(guess)


@pytest.mark.parametrize(
    ("what", "change"),
    [("truth: unknown class 'pear'", {"class": "pear"}), ("truth: unknown frame 'x'", {"frame": "x"})],
)
def test_unknown_frames_and_classes_are_refused(what, change):
    with pytest.raises(ValueError, match=what):
        Scores(boxes([ONE]).assign(**change), boxes([]), frames(2), CLASSES)


def test_a_frame_listed_twice_is_refused():
    with pytest.raises(ValueError, match="f0000 is listed twice"):
        Scores(boxes([]), boxes([]), pd.concat([frames(1), frames(1)]), CLASSES)


@pytest.mark.parametrize(
    ("groups", "videos", "unit", "count"), [(3, 6, "group", 3), (1, 4, "video", 4), (1, 1, "image", 24)]
)
def test_what_is_resampled(groups, videos, unit, count):
    table, truth, guess = made_up(7, images=24, groups=groups, videos=videos)
    found, codes = Scores(truth, guess, table, CLASSES).units()
    assert (found, len(np.unique(codes))) == (unit, count)


@pytest.mark.parametrize(("groups", "videos"), [(4, 4), (1, 5), (1, 1)])
def test_resampling_equals_evaluating_the_resampled_frames(groups, videos):
    """A frame that was drawn three times must count as three frames, for every class and sample."""
    table, truth, guess = made_up(11, images=20, truths=60, found=300, digits=9, groups=groups, videos=videos)
    scores = Scores(truth, guess, table, CLASSES)
    _, codes = scores.units()
    samples = scores.resampled(6, seed=3)
    count = codes.max() + 1
    draws = np.random.default_rng(3).multinomial(count, np.full(count, 1 / count), size=6)
    for drawn, sample in zip(draws, samples, strict=True):
        parts = {"t": [], "g": [], "i": []}
        for frame, times in zip(table["frame"], drawn[codes], strict=True):
            for copy in range(times):
                name = {"frame": f"{frame}-{copy}"}
                parts["t"].append(truth[truth["frame"] == frame].assign(**name))
                parts["g"].append(guess[guess["frame"] == frame].assign(**name))
                parts["i"].append(table[table["frame"] == frame].assign(**name))
        again = Scores(*(pd.concat(parts[key]) for key in "tgi"), CLASSES).table()
        expected = again[again["slice_kind"] == "class"]["ap50"].to_numpy()
        np.testing.assert_allclose(sample, expected, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("size", [None, "small", "large"])
def test_a_resample_of_everything_once_is_the_score_itself(size, monkeypatch):
    from detection_assets.domain import metrics

    table, truth, guess = made_up(13, images=60, truths=200, found=900, groups=60, videos=60)
    scores = Scores(truth, guess, table, CLASSES)
    rows = scores.table()
    rows = rows[(rows["slice_kind"] == "class") if size is None else ((rows["slice"] == size) & (rows["class"] != ""))]

    class Once:
        def multinomial(self, count, chances, size):
            return np.ones((size, count), int)

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Once())
    area = (0.0, 1e10) if size is None else metrics.SIZES[size]
    np.testing.assert_allclose(scores.resampled(2, 0, area=area)[1], rows["ap50"], atol=1e-12)


def test_intervals_hold_the_value_and_shrink_with_more_groups():
    widths = []
    for groups in (4, 40):
        table, truth, guess = made_up(17, images=200, truths=800, found=1500, groups=groups, videos=groups)
        rows = Scores(truth, guess, table, CLASSES).table(resamples=200, seed=1)
        rows = rows[rows["slice_kind"].isin(["all", "class", "size"])]
        assert ((rows["low"] <= rows["ap50"] + 0.03) & (rows["ap50"] - 0.03 <= rows["high"])).all()
        widths.append(rows.iloc[0]["high"] - rows.iloc[0]["low"])
    assert 0 < widths[1] < 0.2
    again = Scores(truth, guess, table, CLASSES).table(resamples=200, seed=1)
    assert widths[1] == again.iloc[0]["high"] - again.iloc[0]["low"], "same seed, same interval"


def test_difference_is_paired():
    table, truth, guess = made_up(19, groups=10, videos=20)
    scores = Scores(truth, guess, table, CLASSES)
    same = difference(scores, Scores(truth, guess, table, CLASSES), 50)
    assert (same.value, same.low, same.high, same.unit, same.units) == (0.0, 0.0, 0.0, "group", 10)
    worse = guess.assign(confidence=1 - guess["confidence"])
    worse = worse[np.arange(len(worse)) % 8 == 0]
    loss = difference(Scores(truth, worse, table, CLASSES), scores, 200)
    assert loss.low <= loss.value <= loss.high < 0
    with pytest.raises(ValueError, match="same frames"):
        difference(scores, Scores(truth[:0], guess[:0], table[:5], CLASSES), 10)


def test_confusion_counts_swapped_missed_and_invented_boxes():
    truth = boxes([ONE, ("f0000", "banana", 50, 50, 90, 90), ("f0001", "cola", 0, 0, 20, 20)])
    guess = boxes([
        (*ONE, 0.9),
        ("f0000", "cola", 50, 50, 90, 90, 0.8),
        ("f0001", "banana", 200, 200, 240, 240, 0.7),
        ("f0001", "cola", 0, 0, 20, 20, 0.1),
    ])  # fmt: skip
    matrix = Scores(truth, guess, frames(2), CLASSES).confusion(0.25)
    expected = pd.DataFrame(0, index=matrix.index, columns=matrix.columns)
    expected.loc["apple", "apple"] = 1
    expected.loc["banana", "cola"] = 1
    expected.loc[BACKGROUND, "banana"] = 1
    expected.loc["cola", BACKGROUND] = 1
    pd.testing.assert_frame_equal(matrix, expected)


def test_pairs_are_of_one_class_each_box_once_and_the_more_confident_first():
    truth = boxes(
        [("f0001", None, 0, 0, 0, 0), ONE, ("f0001", "cola", 0, 0, 20, 20), ("f0001", "cola", 50, 50, 70, 70)]
    )
    guess = boxes([
        ("f0001", "cola", 50, 50, 70, 70, 0.3),
        ("f0001", "cola", 50, 50, 70, 72, 0.6),
        ("f0001", "apple", 0, 0, 20, 20, 0.9),
        (*ONE, 0.1),
    ])  # fmt: skip
    scores = Scores(truth, guess, frames(3), CLASSES)
    assert scores.pairs().tolist() == [-1, 2, -1, 0]
    assert scores.pairs(0.95).tolist() == [2, -1, -1, 0], "72 rows for 70 are too many then"


def test_curves_are_the_average_precision():
    table, truth, guess = made_up(23)
    scores = Scores(truth, guess, table, [*CLASSES, "never there"])
    curves = scores.curves()
    assert sorted(curves["class"].unique()) == CLASSES
    rows = scores.table().query("slice_kind == 'class'").set_index("class")["ap50"]
    for name, curve in curves.groupby("class"):
        assert curve["precision"].mean() == pytest.approx(rows[name])
        assert curve["precision"].is_monotonic_decreasing
        assert curve["confidence"].is_monotonic_decreasing

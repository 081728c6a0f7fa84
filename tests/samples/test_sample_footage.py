"""The rendered samples: the same seed gives the same bytes, and what is told about the pictures is true."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from detection_assets.domain import formats
from detection_assets.domain.formats.saving import OPTIONAL
from detection_assets.domain.matching import COLUMNS, match
from detection_assets.domain.problems import InputError
from detection_assets.samples import CLASSES, Sample, render
from detection_assets.samples import sample as sample_module
from detection_assets.samples.clip import film
from detection_assets.samples.handover import FORMS, LEAST_VISIBLE, STILLS_PER_SECOND
from detection_assets.samples.sample import CLIPS, _plan

CORNERS = ["x1", "y1", "x2", "y2"]
CLIPS_HERE = 4


@pytest.fixture(scope="module", params=["fridge", "surgical"])
def sample(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sample]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_module, "SECONDS", 1.75)
        yield render(request.param, tmp_path_factory.mktemp(request.param), seed=3, clips=CLIPS_HERE)


def truth(sample: Sample) -> pd.DataFrame:
    return pd.read_parquet(sample.folder / "truth" / "boxes.parquet")


def frames(sample: Sample) -> pd.DataFrame:
    return pd.read_parquet(sample.folder / "truth" / "frames.parquet")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def decode(path: Path) -> list[tuple[float, np.ndarray]]:
    import av

    with av.open(str(path)) as container:
        return [(float(f.pts * f.time_base), f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]


def test_same_seed_gives_the_same_bytes(sample: Sample, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    render(sample.name, tmp_path, seed=3, clips=CLIPS_HERE, progress=lambda done, total, _: told.append((done, total)))
    first, second = contents(sample.folder), contents(tmp_path)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    assert told == [(done, CLIPS_HERE) for done in range(CLIPS_HERE + 1)]


def test_a_clip_does_not_depend_on_its_neighbours_but_on_the_seed(sample: Sample, tmp_path: Path) -> None:
    alone, other = (film(_plan(sample.name, seed, 0), tmp_path / str(seed)) for seed in (3, 4))
    of_all = truth(sample)[truth(sample)["video"] == alone.plan.key]
    assert alone.rows[:, 2:6].tolist() == of_all[CORNERS].to_numpy().tolist()
    assert alone.rows[:, 6].tolist() == of_all["visible"].to_list()
    video = sample.videos / alone.plan.key
    assert (tmp_path / "3" / alone.plan.key).read_bytes() == video.read_bytes()
    assert other.rows[:, 2:6].tolist() != alone.rows[:, 2:6].tolist()


def test_every_box_is_legal_and_inside_the_picture(sample: Sample) -> None:
    boxes = truth(sample).merge(frames(sample)[["frame", "width", "height"]], on="frame", validate="many_to_one")
    assert len(boxes) == len(truth(sample)) > 500
    assert boxes[boxes["x1"].lt(0) | boxes["y1"].lt(0)].empty
    assert boxes[boxes["x2"].gt(boxes["width"]) | boxes["y2"].gt(boxes["height"])].empty
    assert boxes[boxes["x2"].le(boxes["x1"]) | boxes["y2"].le(boxes["y1"])].empty
    assert boxes["visible"].between(0, 1, inclusive="right").all()
    assert not boxes.duplicated(["frame", "track"]).any()
    assert set(boxes["class"]) == set(CLASSES[sample.name]) == set(sample.classes)
    assert boxes.groupby(["video", "track"])["class"].nunique().max() == 1
    assert set(COLUMNS) - set(OPTIONAL) <= set(boxes.columns)
    assert sample.boxes == (boxes["visible"] >= LEAST_VISIBLE).sum()
    assert sample.frames == len(frames(sample))


def test_frames_of_the_files_are_those_of_the_truth(sample: Sample) -> None:
    import av

    for clip in sample.clips:
        shown = decode(sample.videos / clip.video)
        told = frames(sample).query("video == @clip.video")
        assert [pts for pts, _ in shown] == pytest.approx(told["pts_s"].to_list(), abs=1e-9)
        assert {picture.shape for _, picture in shown} == {(told["height"].iloc[0], told["width"].iloc[0], 3)}
        assert len(shown) == clip.frames
        with av.open(str(sample.videos / clip.video)) as container:
            assert container.streams.video[0].codec_context.name == "h264"
        gaps = np.diff(told["pts_s"])
        assert (np.ptp(gaps) > 0.01) == clip.variable
        for second in np.arange(0, told["pts_s"].iloc[-1], 1 / STILLS_PER_SECOND):
            assert np.abs(told["pts_s"] - second).min() == 0
    assert any(clip.variable for clip in sample.clips)


def test_pixels_have_the_colours_of_what_is_said_to_be_there(sample: Sample) -> None:
    # What all looks of a class share and their surroundings lack: most of the middle of a box has it.
    checks = {
        "banana": lambda r, g, b: (r > b * 1.35) & (g > b * 1.15),
        "tumour": lambda r, g, b: r > b * 1.1,
    }
    boxes = truth(sample).query("visible > 0.98 and `class` in @checks")
    assert len(boxes) > 20
    for clip in sample.clips:
        pictures = decode(sample.videos / clip.video)
        for row in boxes.query("video == @clip.video and index % 8 == 0").itertuples():
            wide, tall = (row.x2 - row.x1) * 0.2, (row.y2 - row.y1) * 0.2
            middle_x, middle_y = (row.x1 + row.x2) / 2, row.y1 * 0.4 + row.y2 * 0.6
            rows = slice(round(middle_y - tall), round(middle_y + tall) + 1)
            columns = slice(round(middle_x - wide), round(middle_x + wide) + 1)
            patch = pictures[row.index][1][rows, columns].astype(float)
            kind = boxes.loc[row.Index, "class"]
            share = checks[kind](*np.moveaxis(patch, -1, 0)).mean()
            assert share > 0.5, f"{kind} at {row.frame}: only {share:.0%} of its middle has its colour"


def test_things_move_appear_and_hide_each_other(sample: Sample) -> None:
    boxes = truth(sample)
    moved = boxes.groupby(["video", "track"])["x1"].agg(np.ptp)
    assert (moved > 3).mean() > 0.8
    assert boxes["visible"].between(0.05, 0.9).mean() > 0.03
    seen = boxes.groupby(["video", "track"])["index"].nunique()
    lengths = frames(sample).groupby("video").size()
    assert (seen < lengths.reindex(seen.index.get_level_values("video")).to_numpy()).any()


def test_annotations_come_in_four_formats_and_say_the_truth(sample: Sample) -> None:
    assert {clip.form for clip in sample.clips} == set(FORMS) <= set(formats.FORMATS)
    boxes = truth(sample).query("visible >= @LEAST_VISIBLE")
    for clip in sample.clips:
        base = Path(clip.video).with_suffix("").as_posix()
        names = [path.relative_to(sample.annotations).as_posix() for path in clip.annotations]
        assert all(name.startswith((f"{base}.", f"{base}/")) for name in names)
        assert all(path.is_file() for path in clip.annotations)
        assert {formats.detect(path) for path in clip.annotations} == {clip.form}
        table = frames(sample).query("video == @clip.video").reset_index(drop=True)
        table = table.assign(file=[f"{k:06d}.jpg" for k in table["index"]], kept=True, reason="")
        parsed = formats.load(clip.annotations, sample.annotations)
        matched = match(parsed, table, clip.video, sample.classes, len(table))
        assert matched.problems == []
        covered = set(matched.boxes["frame"])
        expected_frames = table if clip.form == "cvat" else table[table["pts_s"] * STILLS_PER_SECOND % 1 == 0]
        assert covered == set(expected_frames["frame"])
        want = boxes[boxes["frame"].isin(covered)]
        have = matched.boxes.dropna(subset=["class"])
        _same_boxes(have, want)


def _same_boxes(have: pd.DataFrame, want: pd.DataFrame) -> None:
    """Asserts that there is, frame by frame and class by class, one box within 1 px for each expected one."""
    assert len(have) == len(want)
    for key, rows in want.groupby(["frame", "class"]):
        others = have[(have["frame"] == key[0]) & (have["class"] == key[1])][CORNERS].to_numpy()
        off = np.abs(rows[CORNERS].to_numpy()[:, None] - others[None]).max(axis=2)
        assert off.shape[0] == off.shape[1]
        assert (off.min(axis=1) <= 1).all(), f"{key}: {off.min(axis=1).max():.2f} px off"
        assert (off.min(axis=0) <= 1).all(), f"{key}: {off.min(axis=0).max():.2f} px off"


@pytest.mark.parametrize("name", ["fridge", "surgical"])
def test_a_whole_sample_has_twelve_groups_each_with_several_formats(name: str) -> None:
    plans = pd.DataFrame([vars(_plan(name, 0, number)) for number in range(CLIPS)])
    assert plans["group"].nunique() == 12
    assert (plans.groupby("group")["camera"].nunique() == 2).all()
    assert (plans.groupby("group")["form"].nunique() >= 2).all()
    assert (plans["form"].value_counts() == CLIPS / 4).all()
    assert plans["variable"].sum() >= 2
    assert plans["stem"].is_unique


@pytest.mark.parametrize(
    ("name", "seed", "clips", "message"),
    [
        ("freezer", 0, 1, "no sample is called 'freezer'.*fridge, surgical"),
        ("fridge", 0, 0, "clips is 0.*at least one"),
        ("fridge", -1, 1, "seed is -1.*0 or more"),
    ],
)
def test_nonsense_is_refused_before_anything_is_written(
    name: str, seed: int, clips: int, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        render(name, tmp_path / "out", seed, clips)
    assert not (tmp_path / "out").exists()

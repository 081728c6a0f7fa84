"""From parsed boxes to the annotations table: frames, pixels, legality, several files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection_assets.domain import formats
from detection_assets.domain.formats.parsed import MAX_LISTED, table
from detection_assets.domain.matching import COLUMNS, COUNTS, Matched, match

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not there")
VIDEO = "store-1/cam/clip.mp4"
CORNERS = ["x1", "y1", "x2", "y2"]
NAN = float("nan")


def video_frames(
    *indices: int, dropped: tuple[int, ...] = (), video: str = VIDEO, size: tuple[int, int] = (100, 50)
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "video": video,
            "frame": [f"{video}#{i:06d}" for i in indices],
            "index": np.array(indices, dtype=np.int64),
            "file": ["" if i in dropped else f"{i:06d}.jpg" for i in indices],
            "width": size[0],
            "height": size[1],
            "kept": [i not in dropped for i in indices],
        }
    )


def image_frames(*names: str, video: str = "store-1/photos") -> pd.DataFrame:
    frames = video_frames(*range(len(names)), video=video)
    return frames.assign(frame=[f"{video}#{name}" for name in names], file=names)


def boxes(*rows: dict[str, Any]) -> formats.Parsed:
    """Rows of one file, 10 wide and high unless said otherwise."""
    default = {"class": "cat", "x1": 10.0, "y1": 10.0, "x2": 20.0, "y2": 20.0, "file": "a.json"}
    full = [{**default, "place": f"box {i}", **row} for i, row in enumerate(rows)]
    full = [{**row, **dict.fromkeys(CORNERS, NAN)} if row["class"] is None else row for row in full]
    columns = {name: [row.get(name) for row in full] for name in formats.COLUMNS if any(name in row for row in full)}
    columns |= {name: [bool(v) for v in columns[name]] for name in ("relative", "reviewed") if name in columns}
    return formats.Parsed(table(len(full), columns), [])


def run(parsed: formats.Parsed, frames: pd.DataFrame, count: int | None = 100, video: str = VIDEO) -> Matched:
    matched = match(parsed, frames, video, ["cat", "dog"], count)
    assert matched.boxes.columns.tolist() == COLUMNS
    assert tuple(matched.counts) == COUNTS
    counts = matched.counts
    assert counts["boxes_read"] == sum(
        counts[name]
        for name in ("boxes_kept", "boxes_elsewhere", "unknown_class", "illegal", "duplicates", "superseded")
    )
    assert counts["boxes_kept"] == int(matched.boxes["class"].notna().sum())
    assert counts["frames_matched"] == sum(counts[f"matched_by_{way}"] for way in ("pts", "index", "name"))
    return matched


def changed(matched: Matched) -> dict[str, int]:
    """The counts that are not zero, without those of what went well."""
    return {
        name: n
        for name, n in matched.counts.items()
        if n and name not in ("boxes_read", "boxes_kept", "frames_annotated") and not name.startswith("matched_by")
    }


def test_frames_of_a_video() -> None:
    parsed = boxes(
        {"frame_name": "000030.jpg"},
        {"frame_name": "frame_000060.PNG", "track": "7", "annotator": "eva", "reviewed": True},
        {"frame_index": 90, "class": None},
        {"frame_name": "clip_000015.jpg"},
        {"frame_index": 45},
        {"frame_name": "store-2/cam/clip_000030.jpg"},
        {"frame_name": "clip_000100.jpg"},
        {"frame_name": "strange.jpg"},
    )
    frames = pd.concat([video_frames(0, 30, 45, 60, 90, dropped=(45,)), video_frames(30, video="other.mp4")])
    matched = run(parsed, frames)
    assert matched.boxes["frame"].tolist() == [f"{VIDEO}#{i:06d}" for i in (30, 60, 90)]
    assert matched.boxes["class"].tolist() == ["cat", "cat", None]
    assert matched.boxes.loc[1, ["track", "source", "annotator", "reviewed"]].tolist() == ["7", "a.json", "eva", True]
    assert matched.counts["frames_annotated"] == 7
    assert changed(matched) == {
        **{"boxes_elsewhere": 5, "frames_matched": 3, "frames_not_extracted": 2, "frames_unknown": 2},
        "frames_of_other_videos": 1,
    }
    assert [problem.place for problem in matched.problems] == ["box 6", "box 7"]
    assert "100 frames" in matched.problems[0].what


def timed(frames: pd.DataFrame, fps: float = 10.0, start: float = 0.0) -> pd.DataFrame:
    return frames.assign(pts_s=start + frames["index"] / fps)


def ways(matched: Matched) -> tuple[int, int, int]:
    return tuple(matched.counts[f"matched_by_{way}"] for way in ("pts", "index", "name"))  # type: ignore[return-value]


def test_a_frame_is_found_by_its_time_then_its_number_then_its_name() -> None:
    parsed = boxes(
        {"pts_s": 3.04, "frame_index": 30, "frame_name": "000030.jpg"},
        {"pts_s": 5.96},
        {"frame_index": 90},
        {"frame_name": "clip_000015.jpg"},
        {"frame_name": "clip_000030.jpg", "x1": 1.0},
        {"pts_s": 4.5},
        {"pts_s": 4.0, "frame_index": 41},
    )
    matched = run(parsed, timed(video_frames(0, 15, 30, 60, 90)))
    assert matched.boxes["frame"].tolist() == [f"{VIDEO}#{i:06d}" for i in (15, 30, 30, 60, 90)]
    assert ways(matched) == (2, 1, 1), "a frame counts once, by the surest way that any of its rows went"
    assert matched.counts["frames_not_extracted"] == 2, "frames 45 and 41; between two, what is said is surer"
    assert matched.problems == []


@pytest.mark.parametrize(
    ("off", "found"), [(0.0, True), (0.0499, True), (-0.0499, True), (0.0501, False), (-0.0501, False), (0.1, False)]
)
def test_a_time_is_met_within_half_a_frame(off: float, found: bool) -> None:
    matched = run(boxes({"pts_s": 3.0 + off}), timed(video_frames(0, 15, 30, 60)))
    assert ways(matched) == (int(found), 0, 0)
    assert matched.counts["frames_not_extracted"] == int(not found)


def test_frames_of_different_durations_have_their_own_halves() -> None:
    frames = video_frames(0, 1, 2, 3).assign(pts_s=[0.0, 0.1, 1.1, 1.2])
    times = [-0.04, 0.04, 0.5, 0.7, 1.14, 1.16]
    matched = run(boxes(*({"pts_s": time, "x1": float(i)} for i, time in enumerate(times))), frames, 4)
    assert matched.boxes["frame"].str[-1].tolist() == ["0", "0", "1", "2", "2", "3"]
    alone = run(boxes({"pts_s": 0.5005}, {"pts_s": 0.502}), video_frames(7).assign(pts_s=[0.5]))
    assert (ways(alone), alone.counts["frames_unknown"]) == ((1, 0, 0), 1)


def test_what_a_time_a_number_and_a_name_do_not_agree_on_is_told() -> None:
    parsed = boxes(
        {"pts_s": 3.0, "frame_index": 60},
        {"pts_s": 3.0, "frame_index": 60, "x1": 1.0},
        {"pts_s": 1.5, "frame_name": "000060.jpg"},
        {"frame_index": 90, "frame_name": "000060.jpg"},
        {"pts_s": 3.0, "frame_index": 30, "frame_name": "clip-b_000060.jpg"},
    )
    matched = run(parsed, timed(video_frames(0, 15, 30, 60, 90)))
    assert matched.boxes["frame"].str[-2:].tolist() == ["15", "30", "30", "90"]
    assert ways(matched) == (2, 1, 0)
    assert matched.counts["frames_of_other_videos"] == 1, "a name of another video is that video's"
    assert [(problem.place, problem.what) for problem in matched.problems] == [
        ("box 0", "it is not clear which frame is meant: its time 3 s is frame 30, its number is 60"),
        (
            "box 2",
            "it is not clear which frame is meant: its time 1.5 s is frame 15, its name '000060.jpg' is frame 60",
        ),
        ("box 3", "it is not clear which frame is meant: its number is 90, its name '000060.jpg' is frame 60"),
    ]
    assert [problem.done[:16] for problem in matched.problems] == [
        "went by its time",
        "went by its time",
        "went by its numb",
    ]


@pytest.mark.parametrize(("time", "count"), [(99.0, 100), (-1.0, 100), (float("inf"), 100), (-1.0, None)])
def test_a_time_that_no_frame_has_is_told(time: float, count: int | None) -> None:
    frames = timed(video_frames(0, 15, 30))
    matched = run(boxes({"pts_s": time, "frame_index": 30}, {"pts_s": time, "frame_name": "15"}), frames, count)
    assert ways(matched) == (0, 1, 1)
    told = [problem.done for problem in matched.problems]
    assert told == ([] if np.isinf(time) else ["went by its number", "went by its name"])
    lost = run(boxes({"pts_s": time}, {"pts_s": time + 5}), frames, count)
    assert lost.counts["frames_unknown"] == (1 if np.isinf(time) else 2 if time != -1.0 else 1)


def test_times_of_a_video_without_times_say_nothing() -> None:
    assert ways(run(boxes({"pts_s": 3.0, "frame_index": 30}), video_frames(30))) == (0, 1, 0)
    assert ways(run(boxes({"pts_s": 3.0, "frame_name": "a.jpg"}), image_frames("a.jpg"), None, "store-1/photos")) == (
        *(0, 0, 1),
    )


def test_an_image_goes_by_its_name_before_its_number() -> None:
    parsed = boxes({"frame_index": 1, "frame_name": "a.jpg"}, {"frame_index": 1})
    matched = run(parsed, image_frames("a.jpg", "b.jpg"), None, "store-1/photos")
    assert matched.boxes["frame"].str[-5:].tolist() == ["a.jpg", "b.jpg"]
    assert ways(matched) == (0, 1, 1)


def test_a_name_that_no_image_has_is_not_made_good_by_its_number() -> None:
    parsed = boxes({"frame_index": 1, "frame_name": "removed.jpg"}, {"frame_index": 1, "frame_name": "renamed.jpg"})
    matched = run(parsed, image_frames("a.jpg", "c.jpg"), None, "store-1/photos")
    assert changed(matched) == {"boxes_elsewhere": 2, "frames_unknown": 2}
    assert [problem.frame for problem in matched.problems] == ["removed.jpg", "renamed.jpg"]


def test_any_number_is_believed_if_the_length_is_unknown() -> None:
    matched = run(boxes({"frame_index": 5000}), video_frames(0), count=None)
    assert changed(matched) == {"boxes_elsewhere": 1, "frames_not_extracted": 1}


def test_frames_of_an_image_folder() -> None:
    parsed = boxes(
        {"frame_name": "a.txt"},
        {"frame_name": "b.jpg"},
        {"frame_name": "c.xml"},
        {"frame_name": "z.jpg"},
        {"frame_index": 1},
    )
    frames = image_frames("a.jpg", "B.JPG", "c.jpg", "c.png")
    matched = run(parsed, frames, None, "store-1/photos")
    assert matched.boxes["frame"].tolist() == ["store-1/photos#a.jpg", "store-1/photos#B.JPG"]
    assert changed(matched) == {"boxes_elsewhere": 2, "duplicates": 1, "frames_matched": 2, "frames_unknown": 2}
    assert "several images" in matched.problems[0].what
    assert "'z.jpg'" in matched.problems[1].what


def test_a_dropped_image_is_not_unknown() -> None:
    frames = image_frames("a.jpg", "b.jpg").assign(kept=[True, False], file=["a.jpg", ""])
    matched = run(boxes({"frame_name": "b.jpg"}), frames, None, "store-1/photos")
    assert changed(matched) == {"boxes_elsewhere": 1, "frames_not_extracted": 1}
    assert matched.problems == []


@pytest.mark.parametrize(
    ("row", "corners", "counted"),
    [
        pytest.param({}, [10, 10, 20, 20], {}, id="as it is"),
        pytest.param(
            {"relative": True, "x1": 0.1, "y1": 0.2, "x2": 0.5, "y2": 1.0}, [10, 10, 50, 50], {}, id="relative"
        ),
        pytest.param({"width": 100, "height": 50}, [10, 10, 20, 20], {}, id="same size"),
        pytest.param({"width": 50, "height": 25}, [20, 20, 40, 40], {"scaled": 1}, id="drawn on a smaller copy"),
        pytest.param({"width": 50, "height": 100}, None, {"illegal": 1}, id="drawn on a turned copy"),
        pytest.param({"x1": -3.0}, [0, 10, 20, 20], {"clipped": 1}, id="sticks out"),
        pytest.param({"x2": 100.4}, [10, 10, 100, 20], {}, id="sticks out by rounding"),
        pytest.param({"x2": 10.0}, None, {"illegal": 1}, id="no width"),
        pytest.param({"y2": 9.0}, None, {"illegal": 1}, id="upside down"),
        pytest.param({"x1": NAN}, None, {"illegal": 1}, id="nan"),
        pytest.param({"x2": float("inf")}, None, {"illegal": 1}, id="inf"),
        pytest.param({"x1": 120.0, "x2": 130.0}, None, {"illegal": 1}, id="outside"),
        pytest.param({"x2": 1e9}, None, {"illegal": 1}, id="absurd"),
        pytest.param({"relative": True, "x1": 1e308, "x2": 1e308}, None, {"illegal": 1}, id="overflow"),
        pytest.param({"class": "cow"}, None, {"unknown_class": 1}, id="class"),
    ],
)
def test_one_box(row: dict[str, Any], corners: list[float] | None, counted: dict[str, int]) -> None:
    matched = run(boxes({"frame_index": 0, **row}), video_frames(0))
    assert changed(matched) == {"frames_matched": 1, **counted}
    assert len(matched.problems) == sum(counted.values())
    assert all((problem.file, problem.place) == ("a.json", "box 0") for problem in matched.problems)
    kept = matched.boxes.dropna(subset=["class"])
    if corners is None:
        assert len(kept) == 0
    else:
        np.testing.assert_allclose(kept[CORNERS].to_numpy()[0], corners)


def test_a_frame_of_unknown_size_takes_no_box() -> None:
    matched = run(boxes({"frame_index": 0}), video_frames(0).assign(width=np.nan))
    assert changed(matched) == {"frames_matched": 1, "illegal": 1}
    assert "unknown size" in matched.problems[0].what


def test_a_frame_that_lost_its_boxes() -> None:
    parsed = boxes({"frame_index": 0, "class": "cow", "annotator": "eva", "track": "1"}, {"frame_index": 1, "x2": 0.0})
    matched = run(parsed, video_frames(0, 1))
    assert matched.boxes["frame"].tolist() == [f"{VIDEO}#000000"], "1 holds something, but nobody knows where"
    assert matched.boxes.loc[0, ["class", "track", "annotator"]].tolist() == [None, None, "eva"]


def test_unknown_classes_are_told_once_a_file_with_what_was_meant() -> None:
    parsed = boxes(
        *[{"frame_index": 0, "class": "Cat", "x1": float(i)} for i in range(5)], {"frame_index": 0, "class": "x"}
    )
    matched = run(parsed, video_frames(0))
    assert len(matched.problems) == 2
    assert "5 boxes" in matched.problems[0].what
    assert "did you mean 'cat'" in matched.problems[0].what


def test_a_doubled_file_counts_once_in_silence() -> None:
    rows = [{"frame_index": i, "x1": float(x)} for i in (0, 1) for x in (1, 5)] + [{"frame_index": 2, "class": None}]
    twice = [{**row, "file": "b.json"} for row in reversed(rows)]
    near = [{**row, "file": "c.json", "x1": row["x1"] + 0.3} for row in rows if "x1" in row]
    matched = run(boxes(*rows, *near, *twice), video_frames(0, 1, 2))
    assert changed(matched) == {"frames_matched": 3, "superseded": 8}
    assert matched.problems == []
    assert matched.boxes["source"].tolist() == ["c.json"] * 4 + ["b.json"]


def test_a_box_written_twice_in_a_file_counts_once() -> None:
    matched = run(
        boxes({"frame_index": 0}, {"frame_name": "0.jpg"}, {"frame_index": 0, "class": "dog"}), video_frames(0)
    )
    assert changed(matched) == {"frames_matched": 1, "duplicates": 1}
    assert matched.boxes["class"].tolist() == ["cat", "dog"]


@pytest.mark.parametrize(
    ("other", "kept"),
    [
        pytest.param([{"x1": 12.0}], 1, id="moved"),
        pytest.param([{"class": "dog"}], 1, id="class"),
        pytest.param([{}, {"x1": 0.0}], 2, id="one more"),
        pytest.param([{"class": None}], 0, id="nothing there"),
    ],
)
def test_files_that_disagree(other: list[dict[str, Any]], kept: int) -> None:
    same = {"frame_index": 1}
    later = [{"frame_index": 0, "file": "b/z.json", **row} for row in other]
    parsed = boxes(*later, {**same, "file": "b/z.json"}, {"frame_index": 0}, same)
    matched = run(parsed, video_frames(0, 1))
    assert matched.counts["conflicts"] == 1
    assert matched.counts["superseded"] == 2
    assert matched.boxes["source"].unique().tolist() == ["b/z.json"]
    assert int((matched.boxes.loc[matched.boxes["frame"] == f"{VIDEO}#000000", "class"].notna()).sum()) == kept
    (problem,) = matched.problems
    assert (problem.file, problem.place) == ("b/z.json", f"frame {VIDEO}#000000")
    assert "a.json" in problem.what


def test_order_of_rows_and_files_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    rows = [
        {"frame_index": int(i), "class": str(c), "x1": float(x), "file": str(f)}
        for i, c, x, f in zip(
            rng.integers(0, 9, 99),
            rng.choice(["cat", "dog", "cow"], 99),
            rng.integers(0, 30, 99),
            rng.choice(["a", "b"], 99),
            strict=True,
        )
    ]
    one = run(boxes(*rows), video_frames(*range(9)))
    two = run(boxes(*rows[::-1]), video_frames(*range(9)[::-1]))
    pd.testing.assert_frame_equal(one.boxes, two.boxes)
    assert one.counts == two.counts


def test_nothing_at_all() -> None:
    empty = formats.load([], Path("."))
    for parsed, frames in (
        (empty, video_frames(0)),
        (boxes({"frame_index": 0}), video_frames()),
        (empty, video_frames()),
    ):
        matched = run(parsed, frames)
        assert len(matched.boxes) == 0


def test_problems_of_one_kind_stay_few() -> None:
    n = 5000
    parsed = formats.Parsed(
        table(
            n,
            {
                "frame_index": 0,
                "class": "cat",
                "x1": np.arange(n),
                "y1": 0,
                "x2": 0,
                "y2": 5,
                "file": "a",
                "place": "p",
            },
        ),
        [],
    )
    matched = run(parsed, video_frames(0))
    assert matched.counts["illegal"] == n
    assert len(matched.problems) <= 2 * (MAX_LISTED + 1)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "frame_index": st.one_of(st.none(), st.integers(0, 6)),
                "pts_s": st.one_of(st.none(), st.floats()),
                "frame_name": st.sampled_from([None, "frame_3.jpg", "000002.jpg", "x_1.jpg", "?", "s/clip_2"]),
                "class": st.sampled_from(["cat", "dog", "cow", None]),
                "x1": st.floats(),
                "x2": st.floats(-200, 300),
                "relative": st.booleans(),
                "width": st.sampled_from([None, 50, 100, 7]),
                "height": st.sampled_from([None, 25, 50]),
                "file": st.sampled_from(["a", "b"]),
            }
        ),
        max_size=12,
    )
)
def test_every_box_is_accounted_for_and_what_is_kept_is_legal(rows: list[dict[str, Any]]) -> None:
    matched = run(boxes(*rows), timed(video_frames(0, 2, 3, 4, dropped=(4,)), 1.0), 6)
    kept = matched.boxes.dropna(subset=["class"])
    assert set(kept["class"]) <= {"cat", "dog"}
    assert ((kept["x1"] >= 0) & (kept["x1"] < kept["x2"]) & (kept["x2"] <= 100)).all()
    assert ((kept["y1"] >= 0) & (kept["y1"] < kept["y2"]) & (kept["y2"] <= 50)).all()
    empty = matched.boxes[matched.boxes["class"].isna()]
    assert not set(empty["frame"]) & set(kept["frame"])
    assert empty["frame"].is_unique
    assert matched.boxes.groupby("frame")["source"].nunique().le(1).all()


@needs_data
def test_bccd_loses_the_two_boxes_without_area_by_name() -> None:
    root = DATA / "bccd"
    names = sorted(path.name for path in (root / "JPEGImages").iterdir())
    frames = image_frames(*names, video="bccd").assign(width=640, height=480)
    parsed = formats.load(sorted((root / "Annotations").iterdir()), root)
    matched = match(parsed, frames, "bccd", ["RBC", "WBC", "Platelets"], None)
    assert matched.counts["boxes_read"] == 4888
    assert matched.counts["frames_matched"] == 364
    flat = [problem for problem in matched.problems if "no area" in problem.what]
    assert [problem.file for problem in flat] == [f"Annotations/BloodImage_{i}.xml" for i in ("00338", "00343")]
    assert matched.counts["illegal"] == 2
    lost = matched.counts["illegal"] + matched.counts["duplicates"]
    assert matched.counts["boxes_kept"] == 4888 - lost


def test_half_a_million_boxes_stay_columns() -> None:
    n, per = 500_000, 10
    rng = np.random.default_rng(0)
    left = rng.uniform(0, 80, (n, 2)) * (1, 0.5)
    frame = np.arange(n) // per
    names = np.array([f"clip_{i:06d}.jpg" for i in range(n // per)], dtype=object)[frame]
    parsed = formats.Parsed(
        table(
            n,
            {
                **{"frame_name": names, "class": np.array(["cat", "dog"], dtype=object)[np.arange(n) % 2]},
                **{
                    "x1": left[:, 0],
                    "y1": left[:, 1],
                    "x2": left[:, 0] + 9,
                    "y2": left[:, 1] + 9,
                    "file": "a",
                    "place": "p",
                },
            },
        ),
        [],
    )
    matched = run(parsed, video_frames(*range(n // per)), n // per)
    assert matched.counts["boxes_kept"] == n
    assert matched.problems == []

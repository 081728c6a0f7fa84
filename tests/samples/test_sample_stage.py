"""The stage behind the samples: geometry, occlusion, keyframes, timing and the recorder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from detection_assets.samples.canvas import SHADOW_MAX, SOLID, Canvas
from detection_assets.samples.film import TICKS, Recorder, beats
from detection_assets.samples.geometry import facing, look, lying
from detection_assets.samples.handover import keyframes, still_frames, with_keyframes
from detection_assets.samples.stage import Stage, Thing, rectangle, smear

SIZE = (320, 240)
AHEAD = look(np.array([0.0, 0.0, -100.0]), np.zeros(3), 0.0, 400.0, SIZE)


def block(colour: tuple[float, float, float], width: float = 20.0, height: float = 10.0):
    """A rectangle of one colour, its origin in the middle of its foot."""
    canvas = Canvas(-width / 2, width / 2, 0, height, 10)
    canvas.paint(colour, np.ones_like(canvas.x))
    return canvas.sprite()


def upright(x: float, y: float, z: float) -> np.ndarray:
    return np.column_stack([[1.0, 0, 0], [0, 1.0, 0], [x, y, z]])


def test_a_thing_is_where_pinhole_geometry_puts_it_and_has_its_colour() -> None:
    stage = Stage(AHEAD, SIZE, 25)
    stage.room([])
    stage.put(Thing(block((1.0, 0.0, 0.0)), upright(5, 0, 0), 7))
    (seen,) = stage.seen()
    # 4 px a centimetre at 100 cm: x from -5 to 15 cm, y from 0 to 10 cm above the middle (160, 120).
    assert seen.number == 7
    assert np.abs(np.array(seen.box) - [140, 80, 220, 120]).max() <= 1
    assert seen.visible == 1.0
    assert stage.picture[100, 180].tolist() == [255, 0, 0]
    assert stage.picture[60, 60].tolist() == [25, 25, 25]


@pytest.mark.parametrize(
    ("shift", "visible"), [(0.0, 0.0), (5.0, 0.25), (10.0, 0.5), (20.0, 1.0)], ids=["all", "most", "half", "none"]
)
def test_what_stands_in_front_takes_its_part_of_box_and_visible_share(shift: float, visible: float) -> None:
    stage = Stage(AHEAD, SIZE, 0)
    stage.room([])
    stage.put(Thing(block((1.0, 0.0, 0.0)), upright(0, 0, 0), 1))
    stage.put(Thing(block((0.0, 1.0, 0.0)), upright(shift, 0, 0), 2))
    found = {seen.number: seen for seen in stage.seen()}
    assert found[2].visible == 1.0
    if visible == 0:
        assert 1 not in found
    else:
        assert found[1].visible == pytest.approx(visible, abs=0.02)
        assert found[1].box[2] == pytest.approx(120 + visible * 80, abs=1)


def test_a_thing_cut_by_the_edge_of_the_picture_is_measured_against_the_whole_of_it() -> None:
    stage = Stage(AHEAD, SIZE, 0)
    stage.room([])
    stage.put(Thing(block((1.0, 1.0, 1.0)), upright(40, 0, 0), 1))
    (seen,) = stage.seen()
    assert seen.box[2] == SIZE[0]
    assert seen.visible == pytest.approx(0.5, abs=0.02)


def test_a_backdrop_in_front_hides_and_what_only_covers_has_no_truth() -> None:
    stage = Stage(AHEAD, SIZE, 0)
    stage.room([])
    stage.put(Thing(block((1.0, 0.0, 0.0)), upright(0, 0, 0), 1))
    stage.back(rectangle(np.full((50, 50, 3), 90, np.uint8), [-30, 5, -1], [60, 0, 0], [0, -20, 0]))
    stage.put(Thing(block((0.0, 0.0, 1.0)), upright(-10, 0, -2), 0))
    (seen,) = stage.seen()
    assert seen.visible == pytest.approx(0.25, abs=0.03)
    assert seen.box[3] == pytest.approx(100, abs=1)


def test_a_thing_behind_the_camera_is_not_drawn() -> None:
    stage = Stage(AHEAD, SIZE, 0)
    stage.room([])
    stage.put(Thing(block((1.0, 1.0, 1.0)), upright(0, 0, -150), 1))
    assert stage.seen() == []
    assert stage.picture.max() == 0


def test_a_shadow_is_never_taken_for_the_thing() -> None:
    canvas = Canvas(-5, 5, -5, 5, 10)
    canvas.shadow(np.hypot(canvas.x, canvas.y) - 2, 2.0, 1.0)
    alpha = canvas.sprite().image[..., 3]
    assert 0 < alpha.max() <= round(SHADOW_MAX * 255) < SOLID


finite = st.floats(-30, 30)


@settings(max_examples=60, deadline=None)
@given(st.tuples(finite, finite), st.tuples(finite, st.floats(0, 30), finite), st.floats(-3, 3), st.floats(-0.5, 0.5))
def test_homography_and_projection_agree(
    at: tuple[float, float], origin: tuple[float, float, float], angle: float, roll: float
) -> None:
    camera = look(np.array([5.0, 60.0, -120.0]), np.array([0.0, 5.0, 0.0]), roll, 500.0, SIZE)
    for plane in (lying(np.array(origin), angle), facing(np.array(origin), camera)):
        u, v, w = camera.homography(plane) @ [*at, 1.0]
        world = plane[:, 0] * at[0] + plane[:, 1] * at[1] + plane[:, 2]
        assert camera.project(world[None])[0] == pytest.approx([u / w, v / w], abs=1e-6)


@settings(max_examples=80, deadline=None)
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 60), st.just(4)), elements=st.floats(0, 640)), st.floats(0.1, 50)
)
def test_lines_between_keyframes_stay_within_the_tolerance(corners: np.ndarray, tolerance: float) -> None:
    keep = keyframes(corners, tolerance)
    at = np.flatnonzero(keep)
    assert keep[0]
    assert keep[-1]
    for k in range(4):
        line = np.interp(np.arange(len(corners)), at, corners[at, k])
        assert np.abs(line - corners[:, k]).max() <= tolerance + 1e-9


def test_keyframes_are_sparse_on_steady_motion_and_mark_both_ends_of_an_absence() -> None:
    frames = [*range(0, 20), *range(30, 40)]
    left = np.array(frames, float) * 2
    boxes = pd.DataFrame({"frame_index": frames, "class": "apple", "track": "a", "x1": left, "y1": 0.0})
    boxes = boxes.assign(x2=left + 9, y2=5.0)
    marked = with_keyframes(boxes)
    assert marked.loc[marked["keyframe"], "frame_index"].to_list() == [0, 19, 30, 39]


def test_still_frames_are_the_first_at_or_after_each_half_second() -> None:
    assert still_frames(np.array([0.0, 0.3, 0.6, 0.9, 1.0, 1.4])) == [0, 2, 4]
    assert still_frames(np.arange(64) / 16) == [0, 8, 16, 24, 32, 40, 48, 56]


@pytest.mark.parametrize("fps", [16, 20])
@pytest.mark.parametrize("variable", [False, True])
def test_frames_are_shown_in_order_and_on_each_half_second(fps: int, variable: bool) -> None:
    ticks = beats(fps, 5.0, np.random.default_rng(0) if variable else None)
    assert ticks == sorted(set(ticks))
    assert set(range(0, 5 * TICKS, TICKS // 2)) <= set(ticks)
    assert (len(set(np.diff(ticks).tolist())) > 1) == variable
    assert len(ticks) < 5 * fps if variable else len(ticks) == 5 * fps


def test_smear_spreads_along_the_way_only() -> None:
    picture = np.zeros((41, 41, 3), np.uint8)
    picture[20, 20] = 255
    blurred = smear(picture, np.array([8.0, 0.0]))[..., 0]
    rows, columns = np.nonzero(blurred)
    assert set(rows.tolist()) == {20}
    assert np.ptp(columns) == pytest.approx(8, abs=1)
    assert smear(picture, np.array([0.4, 0.3])) is picture


def test_a_recording_that_fails_leaves_no_file(tmp_path: Path) -> None:
    def break_off() -> None:
        with Recorder(tmp_path / "a" / "clip.mp4", SIZE, 16, 26) as recorder:
            recorder.write(np.zeros((SIZE[1], SIZE[0], 3), np.uint8), 0)
            raise RuntimeError("the lamp broke")

    with pytest.raises(RuntimeError, match="lamp"):
        break_off()
    assert list((tmp_path / "a").iterdir()) == []

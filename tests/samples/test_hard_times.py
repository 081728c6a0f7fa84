from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from detection_assets.domain.image_statistics import statistics
from detection_assets.domain.problems import InputError
from detection_assets.samples import hard_times


def clip(path: Path, stamps: list[int]) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        rng = np.random.default_rng(0)
        for stamp in stamps:
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (64, 96, 3), np.uint8), "rgb24")
            frame.pts = stamp
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def moments(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return sorted(float(frame.time or 0) for frame in container.decode(video=0))


def test_a_clip_in_hard_times_has_the_same_moments_and_less_light(tmp_path: Path) -> None:
    source = clip(tmp_path / "a.mp4", [0, 1, 2, 5, 6, 9])
    target = tmp_path / "dark" / "a.mp4"
    assert hard_times.degrade_clip(source, target) == 6
    assert moments(target) == moments(source)
    assert not list(target.parent.glob(".*"))
    frames = {}
    for path in (source, target):
        with av.open(str(path)) as container:
            frames[path] = statistics(next(container.decode(video=0)).to_ndarray(format="rgb24"))
    assert frames[target]["brightness"] < 0.5 * frames[source]["brightness"]
    assert frames[target]["sharpness"] < 0.2 * frames[source]["sharpness"]


def test_what_does_not_play_is_refused_by_name(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(InputError, match=r"broken\.mp4"):
        hard_times.degrade_clip(broken, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("shape", [(480, 640, 3), (20, 30, 3)])
def test_a_stranger_stands_in_the_picture(shape: tuple[int, int, int]) -> None:
    picture = np.full(shape, 128, np.uint8)
    strange = hard_times.add_stranger(picture, 1)
    assert strange.shape == shape
    assert (picture == 128).all()
    changed = (strange != picture).any(axis=2).sum()
    assert changed == min(110, shape[1]) * min(150, shape[0])
    assert (hard_times.add_stranger(picture, 1) == strange).all()


@pytest.mark.parametrize("level", [10, 60, 120, 200])
def test_glaring_light_is_brighter_than_what_bright_models_fail_at(level: int) -> None:
    rng = np.random.default_rng(0)
    picture = rng.normal(level, level / 3, (48, 64, 3)).clip(0, 255).astype(np.uint8)
    assert hard_times.brighten(picture).mean() > 0.7 * 255

"""Extraction against a full sequential decode: the same frames, to the pixel, whatever the codec and the path taken."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest
import simplejpeg

from detection_assets.domain.sampling import Sampling
from detection_assets.domain.video_timeline import read_timeline
from detection_assets.programs import extract, extract_plan
from detection_assets.programs.job import Job

WIDTH, HEIGHT = 160, 96
SHARED = Path(__file__).parents[2] / "../shared/data/videos"
TICKS = 90_000


def picture(number: int) -> np.ndarray:
    """Moving texture, a square that crosses it and some noise: something to predict from, and something not to."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    luma = 110 + 60 * np.sin((x + 2 * number) / 9) + 40 * np.cos((y - number) / 7)
    image = np.stack([luma, luma * 0.7 + 30, 200 - luma * 0.5], axis=-1)
    left = (number * 3) % (WIDTH - 24)
    image[30:54, left : left + 24] = (240, 40, 60)
    noise = np.random.default_rng(number).normal(0, 6, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def steady(number: int) -> int:
    return number * TICKS // 25


def halting(number: int) -> int:
    """Variable frame rate that starts at two seconds and pauses for three."""
    return 180_000 + number * 3_000 + (number * number * 37) % 1_900 + (270_000 if number > 40 else 0)


def encode(
    path: Path,
    codec: str,
    options: dict[str, str] | None = None,
    frames: int = 75,
    ticks: Callable[[int], int] = steady,
    pix_fmt: str = "yuv420p",
    rotation: int = 0,
    show: Callable[[int], np.ndarray] = picture,
) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        stream.codec_context.thread_count = 1
        # These two have no tick finer than a frame of a fixed rate.
        stream.codec_context.time_base = Fraction(1, 25 if codec in ("mpeg4", "mpeg2video") else TICKS)
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(show(number), format="rgb24")
            frame.pts, frame.time_base = ticks(number), Fraction(1, TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


CLIPS: dict[str, tuple[dict[str, Any], bool]] = {
    # name of the file: how to encode it, and whether leaving packets out is proven safe
    "closed.mp4": ({"codec": "libx264", "options": {"g": "20", "bf": "3"}}, True),
    "closed.mkv": ({"codec": "libx264", "options": {"g": "20", "bf": "3"}}, True),
    "closed.ts": ({"codec": "libx264", "options": {"g": "20", "bf": "3"}}, True),
    "pyramid.mp4": ({"codec": "libx264", "options": {"g": "30", "x264-params": "bframes=7:b-pyramid=normal"}}, True),
    "open.mp4": ({"codec": "libx264", "options": {"g": "12", "x264-params": "open-gop=1:bframes=3"}}, True),
    "open.ts": ({"codec": "libx264", "options": {"g": "12", "x264-params": "open-gop=1:bframes=3"}}, True),
    "no-b.mp4": ({"codec": "libx264", "options": {"g": "20", "bf": "0"}}, True),
    "one-gop.mp4": ({"codec": "libx264", "options": {"g": "999", "bf": "2", "sc_threshold": "0"}}, True),
    "intra.mp4": ({"codec": "libx264", "options": {"g": "1"}}, True),
    "vfr.mp4": ({"codec": "libx264", "options": {"g": "20", "bf": "3"}, "ticks": halting}, True),
    "vfr.mkv": ({"codec": "libx264", "options": {"g": "20", "bf": "3"}, "ticks": halting}, True),
    "slices.mp4": ({"codec": "libx264", "options": {"g": "20", "x264-params": "slices=3:bframes=2"}}, True),
    "main10.mp4": ({"codec": "libx264", "options": {"g": "20"}, "pix_fmt": "yuv420p10le"}, True),
    "rotated.mp4": ({"codec": "libx264", "options": {"g": "20"}, "rotation": 90}, True),
    "hevc.mp4": ({"codec": "libx265", "options": {"x265-params": "keyint=20:open-gop=0:log-level=none"}}, True),
    "hevc-open.mp4": ({"codec": "libx265", "options": {"x265-params": "keyint=12:open-gop=1:log-level=none"}}, True),
    "hevc-layers.mp4": (
        {"codec": "libx265", "options": {"x265-params": "keyint=20:open-gop=0:temporal-layers=3:log-level=none"}},
        True,
    ),
    "hevc-vfr.mkv": (
        {"codec": "libx265", "options": {"x265-params": "keyint=20:open-gop=0:log-level=none"}, "ticks": halting},
        True,
    ),
    "mjpeg.avi": ({"codec": "mjpeg", "pix_fmt": "yuvj420p"}, True),
    "prores.mov": ({"codec": "prores", "pix_fmt": "yuv422p10le"}, True),
    "interlaced.mp4": ({"codec": "libx264", "options": {"g": "20", "x264-params": "tff=1"}}, False),
    "refresh.mp4": ({"codec": "libx264", "options": {"x264-params": "intra-refresh=1:keyint=20"}}, True),
    "b-frames.avi": ({"codec": "libx264", "options": {"g": "20", "bf": "3"}}, False),
    "raw.h264": ({"codec": "libx264", "options": {"g": "20", "bf": "3"}}, False),
    "asp.mp4": ({"codec": "mpeg4", "options": {"g": "20", "bf": "2"}}, False),
    "asp.avi": ({"codec": "mpeg4", "options": {"g": "20", "bf": "2"}}, False),
    "mpeg2.ts": ({"codec": "mpeg2video", "options": {"g": "15", "bf": "2"}}, False),
    "vp9.webm": ({"codec": "libvpx-vp9", "options": {"g": "30", "deadline": "realtime", "cpu-used": "8"}}, False),
    "ffv1.mkv": ({"codec": "ffv1", "options": {"g": "10"}}, False),
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a clip the first time that it is asked for."""
    folder = tmp_path_factory.mktemp("clips")

    def make(name: str) -> Path:
        path = folder / name
        return path if path.exists() else encode(path, **CLIPS[name][0])

    return make


def run(
    tmp_path: Path, sources: list[Path], sampling: dict[str, Any] | None = None, workers: int = 1, kind: str = "video"
) -> tuple[list[pd.DataFrame], list[dict[str, Any]]]:
    """Runs the program in this process; gives the tables and the reports."""
    lake = tmp_path / "lake"
    lake.mkdir(parents=True, exist_ok=True)
    videos = []
    for number, source in enumerate(sources):
        if not (lake / source.name).exists():
            (lake / source.name).symlink_to(source)
        videos.append({"video": f"cam/{source.name}", "kind": kind, "path": source.name, "out": f"v{number}"})
    output = tmp_path / "out"
    output.mkdir(exist_ok=True)
    reports: list[dict[str, Any]] = []
    params = {"videos": videos, "sampling": sampling or {}, "workers": workers}
    job = Job({"videos": lake}, output, params)
    job.report = lambda payload: reports.append(json.loads(json.dumps(payload)))
    extract.run(job)
    return [pd.read_parquet(output / f"v{number}" / "frames.parquet") for number in range(len(sources))], reports


def decoded(path: Path) -> list[tuple[int | None, str, bool]]:
    """Timestamp, hash of the JPEG and key flag of each frame of a full decode, in the order in which they come."""
    found = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            pixels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
            jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=90, colorsubsampling="420")
            found.append((frame.pts, hashlib.sha256(jpeg).hexdigest(), frame.key_frame))
    return found


def by_rate(times: list[Fraction], rate: Fraction) -> list[int]:
    """The definition, word for word: for each k the first frame whose time since the first is at least k/rate."""
    chosen: list[int] = []
    instant = 0
    while True:
        later = [n for n, time in enumerate(times) if time - times[0] >= instant / rate]
        if not later:
            return sorted(set(chosen))
        chosen.append(later[0])
        instant += 1


@pytest.mark.parametrize("name", CLIPS)
def test_frames_equal_a_full_sequential_decode(name: str, clips: Callable[[str], Path], tmp_path: Path):
    path = clips(name)
    assert (read_timeline(path).doubt == "") is CLIPS[name][1], read_timeline(path).doubt
    reference = decoded(path)
    with av.open(str(path)) as container:
        time_base = container.streams.video[0].time_base
    stamps = [pts for pts, _, _ in reference]
    if None in stamps or stamps != sorted(stamps):
        # The container does not say when its frames are shown: evenly then.
        times = [Fraction(n, 25) for n in range(len(stamps))]
    else:
        times = [pts * time_base for pts in stamps]
    for number, rate in enumerate((2, 7.3, 100)):
        (table,), (report,) = run(tmp_path / str(number), [path], {"rate": rate})
        assert report["error"] is None
        assert table["kept"].all()
        assert table["index"].tolist() == by_rate(times, Fraction(str(rate)))
        assert table["pts_s"].tolist() == [float(times[n]) for n in table["index"]]
        assert table["sha256"].tolist() == [reference[n][1] for n in table["index"]]
        assert report["frames_decoded"] <= len(reference)
    assert len(table) == len(reference)
    (table,), _ = run(tmp_path / "keys", [path], {"method": "keyframes"})
    assert table["sha256"].tolist() == [reference[n][1] for n in table["index"]]
    if name != "refresh.mp4":  # its decoder and its container differ about what a key frame is
        assert table["index"].tolist() == [n for n, (_, _, key) in enumerate(reference) if key]


def test_packets_are_really_left_out(clips: Callable[[str], Path], tmp_path: Path):
    _, reports = run(tmp_path, [clips(n) for n in ("closed.mp4", "hevc.mp4", "mjpeg.avi", "asp.mp4")], {"rate": 1})
    told = {Path(report["video"]).name: report["frames_decoded"] for report in reports}
    assert told["closed.mp4"] < 40
    assert told["hevc.mp4"] < 40
    assert told["mjpeg.avi"] == 3
    assert told["asp.mp4"] == 75


@pytest.mark.parametrize("name", ["closed.mp4", "closed.mkv", "closed.ts", "vfr.mp4", "hevc.mp4", "mjpeg.avi"])
@pytest.mark.parametrize("sampling", [{"rate": 9}, {"rate": 25, "near_duplicate": 6}, {"method": "keyframes"}])
def test_parts_give_what_one_worker_gives(
    name: str, sampling: dict[str, Any], clips: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = clips(name)
    (alone,), _ = run(tmp_path / "one", [path], sampling)
    monkeypatch.setattr(extract_plan, "MIN_PART", 1)
    timeline = read_timeline(path)
    cut = extract_plan.plan(timeline, Sampling.from_params(sampling), 4)
    assert len(cut) > 1
    (parted,), _ = run(tmp_path / "many", [path], sampling, workers=2)
    pd.testing.assert_frame_equal(alone, parted)
    files = [sorted(f.name for f in (tmp_path / one / "out/v0").iterdir()) for one in ("one", "many")]
    assert files[0] == files[1] == [*sorted(alone["file"][alone["kept"]]), "frames.parquet"]


def test_many_videos_and_a_bad_one_in_a_pool(clips: Callable[[str], Path], tmp_path: Path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("these are only words\n" * 20)
    sources = [clips("closed.mp4"), tmp_path / "empty.mp4", tmp_path / "text.mp4", clips("asp.avi")]
    tables, reports = run(tmp_path, sources, {"rate": 5}, workers=2)
    failed = {r["video"]: r["error"] for r in reports if r["kind"] == "video_failed"}
    assert "0 bytes" in failed["cam/empty.mp4"]
    assert "it is text" in failed["cam/text.mp4"]
    assert [len(table) for table in tables] == [15, 0, 0, 15]
    assert list(tables[1].columns) == list(tables[0].columns)
    assert {r["video"]: (r["seen"], r["kept"]) for r in reports if r["kind"] == "video"} == {
        "cam/closed.mp4": (15, 15),
        "cam/asp.avi": (15, 15),
    }


def test_rows_tell_what_was_seen_and_why_it_was_dropped(tmp_path: Path):
    def show(number: int) -> np.ndarray:
        if 25 <= number < 50:
            return np.full((HEIGHT, WIDTH, 3), 128, np.uint8)  # nothing to see: blurred
        return picture(0 if number < 25 else number * 9)  # the first second stands still

    path = encode(tmp_path / "clip.mp4", "libx264", {"g": "25"}, show=show)
    (table,), (report,) = run(tmp_path, [path], {"rate": 5, "min_sharpness": 4, "near_duplicate": 4})
    assert table["reason"].tolist() == ["", *["near-duplicate"] * 4, *["blurred"] * 5, *[""] * 5]
    assert (table["kept"] == (table["reason"] == "")).all()
    assert (table["file"] != "").tolist() == table["kept"].tolist() == (table["sha256"] != "").tolist()
    assert table["frame"].tolist()[:2] == ["cam/clip.mp4#000000", "cam/clip.mp4#000005"]
    assert report["dropped"] == {"near-duplicate": 4, "blurred": 5}
    assert report["kept"] == 6
    for row in table[table["kept"]].itertuples():
        data = (tmp_path / "out/v0" / row.file).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row.sha256
        assert simplejpeg.decode_jpeg_header(data)[:3] == (HEIGHT, WIDTH, "YCbCr")
        assert simplejpeg.decode_jpeg_header(data)[3] == "420"


def test_scenes(tmp_path: Path):
    def show(number: int) -> np.ndarray:
        return picture(number) if number < 30 or number >= 50 else 255 - picture(number)

    path = encode(tmp_path / "scenes.mp4", "libx264", {"g": "250"}, show=show)
    (table,), _ = run(tmp_path, [path], {"method": "scene", "scene_threshold": 0.2})
    assert table["index"].tolist() == [0, 30, 50]
    (table,), _ = run(tmp_path / "fewer", [path], {"method": "scene", "scene_threshold": 0.2, "max_frames": 2})
    assert table["index"].tolist() == [0, 30]
    assert sorted(f.name for f in (tmp_path / "fewer/out/v0").glob("*.jpg")) == table["file"].tolist()


@pytest.mark.parametrize("name", ["closed.mp4", "asp.avi"])
@pytest.mark.parametrize("method", ["rate", "keyframes"])
def test_max_frames_spreads_over_the_video(name: str, method: str, clips: Callable[[str], Path], tmp_path: Path):
    (table,), _ = run(tmp_path, [clips(name)], {"method": method, "rate": 25, "max_frames": 3})
    assert len(table) == 3
    assert table["index"].iloc[-1] >= 39


def test_rotation_turns_pixels_and_size(clips: Callable[[str], Path], tmp_path: Path):
    (table,), _ = run(tmp_path, [clips("rotated.mp4")], {"rate": 1})
    assert set(zip(table["width"], table["height"], strict=True)) == {(HEIGHT, WIDTH)}
    shown = simplejpeg.decode_jpeg((tmp_path / "out/v0/000000.jpg").read_bytes())
    expected = np.rot90(picture(0), 1)
    assert np.abs(shown.astype(int) - expected).mean() < 20
    assert np.abs(np.rot90(shown, 2).astype(int) - expected).mean() > 25


def test_edit_list_hides_frames(clips: Callable[[str], Path], tmp_path: Path):
    path = tmp_path / "cut.mp4"
    with av.open(str(clips("closed.mp4"))) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        # A cut in the middle of a group of pictures: what comes before zero is stored, and not shown.
        shift = int(Fraction(27, 25) / stream.time_base)
        for packet in source.demux(stream):
            if packet.size and packet.pts >= int(Fraction(20, 25) / stream.time_base):
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = copy
                target.mux(packet)
    timeline = read_timeline(path)
    assert not timeline.doubt
    assert 0 < (~timeline.shown).sum() < 10
    reference = decoded(path)
    (table,), _ = run(tmp_path, [path], {"rate": 10})
    assert table["kept"].all()
    assert table["sha256"].tolist() == [reference[n][1] for n in table["index"]]
    assert table["index"].iloc[0] == 0


def test_a_truncated_video_records_what_is_missing(clips: Callable[[str], Path], tmp_path: Path):
    faststart = {"movflags": "faststart"}
    with (
        av.open(str(tmp_path / "whole.mp4"), "w", options=faststart) as target,
        av.open(str(clips("closed.mp4"))) as source,
    ):
        copy = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = copy
                target.mux(packet)
    data = (tmp_path / "whole.mp4").read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: len(data) * 6 // 10])
    (table,), (report,) = run(tmp_path, [path], {"rate": 5})
    assert "truncated" in report["error"]
    assert len(table) == 15
    lost = table[~table["kept"]]
    assert 4 <= len(lost) <= 9
    assert lost["reason"].str.startswith("corrupt: ").all()
    assert table["index"].is_monotonic_increasing
    assert table["index"].is_unique
    assert table["kept"].tolist() == sorted(table["kept"], reverse=True)


def test_damage_is_told_and_stays_within_its_group(clips: Callable[[str], Path], tmp_path: Path):
    source = clips("closed.mp4")
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        stream = container.streams.video[0]
        packets = [(p.pos, p.size, round(p.pts * p.time_base * 25)) for p in container.demux(stream) if p.size]
    # The second packet of the second group is a reference frame.
    start, size, shown = packets[21]
    data[start + 60 : start + size] = bytes(b ^ 0x5A for b in data[start + 60 : start + size])
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    good = decoded(source)
    (table,), (report,) = run(tmp_path, [path], {"rate": 25})
    bad = table[~table["kept"]]
    assert shown in bad["index"].tolist()
    assert bad["index"].between(20, 39).all()
    assert bad["reason"].str.startswith("corrupt: ").all()
    kept = table[table["kept"]]
    assert kept["sha256"].tolist() == [good[n][1] for n in kept["index"]]
    assert len(table) == len(good)
    assert report["dropped"] == {"corrupt": len(bad)}


@pytest.mark.skipif(not SHARED.exists(), reason="the shared videos are not on this machine")
def test_real_video_has_the_timestamps_of_ffprobe(tmp_path: Path):
    path = (SHARED / "bottle-detection.mp4").resolve()
    (table,), (report,) = run(tmp_path, [path], {"rate": 10})
    assert report["error"] is None
    assert len(table) == 399
    if shutil.which("ffprobe"):
        command = [
            "ffprobe",
            "-v",
            "error",
            "-select_streams",
            "v:0",
            "-show_entries",
            "frame=pts_time",
            "-of",
            "csv=p=0",
        ]
        told = subprocess.run([*command, str(path)], check=True, capture_output=True, text=True).stdout.split()
        assert len(told) == 1189
        assert [f"{pts:.6f}" for pts in table["pts_s"]] == [told[n].rstrip(",") for n in table["index"]]


@pytest.mark.skipif(not SHARED.exists(), reason="the shared videos are not on this machine")
def test_a_header_that_claims_more_than_decodes(tmp_path: Path):
    path = (SHARED / "tree.avi").resolve()
    reference = decoded(path)
    (table,), (report,) = run(tmp_path, [path], {"rate": 1000})
    assert len(reference) == 68 == report["frames_decoded"]
    assert table["sha256"].tolist() == [jpeg for _, jpeg, _ in reference]


def test_the_program_by_hand(clips: Callable[[str], Path], tmp_path: Path):
    lake = tmp_path / "lake"
    (lake / "store 1").mkdir(parents=True)
    shutil.copy(clips("vfr.mp4"), lake / "store 1" / "día.1.mp4")
    params = {"videos": [{"video": "store 1/día.1.mp4", "kind": "video", "path": "store 1/día.1.mp4", "out": "a"}]}
    (tmp_path / "params.json").write_text(json.dumps(params))
    command = [sys.executable, "-m", "detection_assets.programs.extract", "--input", f"videos={lake}"]
    command += ["--output", str(tmp_path / "out"), "--params", str(tmp_path / "params.json")]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = pd.read_parquet(tmp_path / "out/a/frames.parquet")
    assert table["pts_s"].iloc[0] == pytest.approx(2.0, abs=0.03)
    assert table["video"].unique().tolist() == ["store 1/día.1.mp4"]
    assert '"kind": "video"' in done.stderr

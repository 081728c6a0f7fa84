"""Frame extraction, one frame a second, against decoding everything with PyAV; and its memory over the video's length.

Run by hand: `python -m benchmarks.extraction`. The clip is made once and kept in the cache folder.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

ROUNDS = 3
SECONDS = 60
FPS = 30
SIZE = (1920, 1080)
TIME_LIMIT = 0.70
WHOLE_LIMIT = 1.00
MEMORY_LIMIT = 1.10


def main(rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """Measures, prints a table, and returns its rows.

    Args:
        rounds: Interleaved runs of each; the median of their ratios counts.
    """
    cache = Path(os.environ.get("DETECTION_BENCH_CACHE", Path(tempfile.gettempdir()) / "detection-assets-bench"))
    cache.mkdir(parents=True, exist_ok=True)
    clip = _clip(cache / f"closed-{SIZE[1]}p-{SECONDS}s.mp4")
    long_clip = _repeated(clip, cache / f"closed-{SIZE[1]}p-{SECONDS * 4}s.mp4", 4)
    ours, whole, anchor = [], [], []
    for _ in range(rounds):
        anchor.append(_timed(_decode_everything, clip))
        ours.append(_timed(_extract_here, clip))
        whole.append(_extract(clip)[0])
    short_mib, long_mib = _extract(clip)[1], _extract(long_clip)[1]
    rows = [
        _row(f"1 frame/s of {SIZE[1]}p to JPEG, against PyAV decoding all (s)", *_walls(ours, anchor), TIME_LIMIT),
        _row("the same in CPU seconds, which a busy machine does not blur", *_cpus(ours, anchor), TIME_LIMIT),
        _row("the same with Python's own start and imports (s)", whole, [wall for wall, _ in anchor], WHOLE_LIMIT),
        _row(f"peak memory, {SECONDS * 4} s of video against {SECONDS} s (MiB)", [long_mib], [short_mib], MEMORY_LIMIT),
    ]
    _print(rows)
    return rows


def _walls(*runs: list[tuple[float, float]]) -> list[list[float]]:
    return [[wall for wall, _ in run] for run in runs]


def _cpus(*runs: list[tuple[float, float]]) -> list[list[float]]:
    return [[cpu for _, cpu in run] for run in runs]


def _row(name: str, ours: list[float], anchor: list[float], limit: float) -> dict[str, Any]:
    ratio = statistics.median(one / other for one, other in zip(ours, anchor, strict=True))
    return {
        "name": name,
        "ours": statistics.median(ours),
        "anchor": statistics.median(anchor),
        "ratio": ratio,
        "limit": limit,
    }


def _clip(path: Path) -> Path:
    """A 1080p H.264 clip as a camera would give it: moving things, sensor noise, closed groups of two seconds."""
    if path.exists():
        return path
    import av
    import numpy as np

    width, height = SIZE
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0 : height + 256, 0 : width + 256]
    scene = 120 + 50 * np.sin(x / 37) * np.cos(y / 23) + 30 * np.sin((x + 2 * y) / 91)
    scene = (scene + rng.normal(0, 8, scene.shape)).clip(0, 255).astype(np.uint8)
    grains = [rng.integers(-4, 5, (height, width), dtype=np.int16) for _ in range(8)]
    part = path.with_suffix(".part.mp4")
    with av.open(str(part), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "23", "bf": "3"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = 2 * FPS
        chroma = np.full((height // 2, width), 128, np.uint8)
        for number in range(SECONDS * FPS):
            dx, dy = int(128 + 120 * np.sin(number / 90)), int(128 + 120 * np.cos(number / 70))
            luma = scene[dy : dy + height, dx : dx + width] + grains[number % len(grains)]
            left = (number * 11) % (width - 240)
            luma[400:640, left : left + 240] = 220
            planes = np.concatenate([luma.clip(0, 255).astype(np.uint8), chroma])
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    part.replace(path)
    return path


def _repeated(source: Path, path: Path, times: int) -> Path:
    """The same clip several times over, without encoding it again."""
    if path.exists():
        return path
    import av

    part = path.with_suffix(".part.mp4")
    with av.open(str(part), "w") as target:
        copy, offset = None, 0
        for _ in range(times):
            with av.open(str(source)) as container:
                stream = container.streams.video[0]
                copy = copy or target.add_stream_from_template(stream)
                for packet in container.demux(stream):
                    if packet.size:
                        packet.pts, packet.dts, packet.stream = packet.pts + offset, packet.dts + offset, copy
                        target.mux(packet)
                offset += stream.duration
    part.replace(path)
    return path


def _decode_everything(path: Path) -> None:
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for _ in container.decode(stream):
            pass


def _extract_here(path: Path) -> None:
    from detection_assets.programs import extract
    from detection_assets.programs.job import Job

    with tempfile.TemporaryDirectory() as folder:
        job = Job({"videos": path.parent}, Path(folder), _params(path))
        job.log = job.report = lambda _: None
        extract.run(job)


def _params(clip: Path) -> dict[str, Any]:
    return {
        "videos": [{"video": clip.name, "kind": "video", "path": clip.name, "out": "clip"}],
        "sampling": {"method": "rate", "rate": 1.0},
    }


def _timed(work: Callable[[Path], None], path: Path) -> tuple[float, float]:
    """Wall and CPU seconds of the work in a fresh process with all imports done: neither side pays for its start."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(_import).result()
        return pool.submit(_clocked, work, path).result()


def _import() -> None:
    import detection_assets.programs.extract  # noqa: F401


def _clocked(work: Callable[[Path], None], path: Path) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work(path)
    return time.perf_counter() - wall, time.process_time() - cpu


def _extract(clip: Path) -> tuple[float, float]:
    """Seconds of the whole program from its start to its end, and the peak of the memory of all of its processes."""
    with tempfile.TemporaryDirectory() as folder:
        params = Path(folder) / "params.json"
        params.write_text(json.dumps(_params(clip)))
        command = [sys.executable, "-m", "detection_assets.programs.extract", "--input", f"videos={clip.parent}"]
        command += ["--output", f"{folder}/out", "--params", str(params)]
        begin = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=Path(__file__).parents[1], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        peak = [0.0]
        watcher = threading.Thread(target=_watch, args=(process, peak))
        watcher.start()
        if process.wait():
            raise RuntimeError(f"extraction of {clip} failed; run {' '.join(command)}")
        seconds = time.perf_counter() - begin
        watcher.join()
        return seconds, peak[0]


def _watch(process: subprocess.Popen[bytes], peak: list[float]) -> None:
    """Notes the most memory that a process and its children hold together (proportional: shared pages count once)."""
    while process.poll() is None:
        peak[0] = max(peak[0], sum(_resident_mib(pid) for pid in _family(process.pid)))
        time.sleep(0.2)


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(one for child in children for one in _family(int(child)))]


def _resident_mib(pid: int) -> float:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Frame extraction")
    for column in ("what", "ours", "anchor", "ratio", "limit"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in rows:
        colour = "green" if row["ratio"] <= row["limit"] else "red"
        ratio = f"[{colour}]{row['ratio']:.3f}[/]"
        table.add_row(row["name"], f"{row['ours']:.2f}", f"{row['anchor']:.2f}", ratio, f"{row['limit']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()

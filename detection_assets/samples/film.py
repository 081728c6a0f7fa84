"""What happens between the scene and the file: light, the sensor's faults, and H.264."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detection_assets.samples.stage import Image, smear

TICKS = 48_000
"""Units of a second that presentation times are written in: every frame rate used divides it."""


@dataclass(frozen=True)
class Light:
    """The light of one clip.

    Attributes:
        tint: Colour temperature as RGB gains about 1.
        slope: Direction and strength in which it falls off across the picture.
        corner: Loss of light in the picture's corners, 0..1.
        exposure: Mean gain.
        drift: Slow change of exposure, as a share.
        flicker: Fast change of exposure, as a share, and its pace in Hz.
        passer: Strength of a shadow that somebody passing by throws, 0..1.
    """

    tint: tuple[float, ...]
    slope: tuple[float, float]
    corner: float
    exposure: float
    drift: float
    flicker: tuple[float, float]
    passer: float


@dataclass
class Sensor:
    """A camera's light, noise and blur; seeded, so a clip comes out the same each time.

    Attributes:
        size: Width and height in pixels.
        light: The clip's light.
        noise: Standard deviation of the noise in grey levels.
        soft: Blur of the lens in pixels (standard deviation); 0 is sharp.
        seconds: The clip's length.
        rng: Its own random numbers.
    """

    size: tuple[int, int]
    light: Light
    noise: float
    soft: float
    seconds: float
    rng: np.random.Generator
    _maps: list[Image] = field(init=False, repr=False)
    _grain: list[Image] = field(init=False, repr=False)
    _phase: NDArray[np.float64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        width, height = self.size
        u, v = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
        even = 1 + self.light.slope[0] * u + self.light.slope[1] * v
        even = even * (1 - self.light.corner * (u * u + v * v) / 2)
        shade = 1 - self.light.passer * np.exp(-(((u - self.rng.uniform(-0.8, 0.8)) / 0.55) ** 2))
        tint = np.array(self.light.tint)
        self._maps = [np.clip(m[..., None] * tint * 128, 0, 255).astype(np.uint8) for m in (even, even * shade)]
        tall = (height + 64, width + 64)
        coarse = self.rng.normal(0, self.noise, (*tall, 1)) * 0.8
        grain = coarse + self.rng.normal(0, self.noise * 0.6, (*tall, 3))
        self._grain = [np.clip(np.round(sign * grain), 0, 255).astype(np.uint8) for sign in (1, -1)]
        self._phase = self.rng.uniform(0, 2 * np.pi, 3)

    def take(self, picture: Image, time: float, shake: NDArray[np.float64]) -> Image:
        """Turns what the scene shows into what the sensor records.

        Args:
            picture: H x W x 3 RGB.
            time: Seconds since the clip's start.
            shake: How far the picture moves during the exposure, pixels.
        """
        import cv2

        picture = smear(picture, shake)
        if self.soft > 0:
            picture = cv2.GaussianBlur(picture, (3, 3), self.soft)
        light = self.light
        gain = light.exposure * (1 + light.drift * np.sin(2 * np.pi * time / self.seconds * 0.8 + self._phase[0]))
        gain *= 1 + light.flicker[0] * np.sin(2 * np.pi * light.flicker[1] * time + self._phase[1])
        lit = self._maps[0]
        if light.passer > 0:
            share = max(0.0, float(np.sin(2 * np.pi * time / self.seconds + self._phase[2])))
            lit = cv2.addWeighted(lit, 1 - share, self._maps[1], share, 0)
        picture = cv2.multiply(picture, lit, scale=float(gain) / 128)
        dx, dy = (int(v) for v in self.rng.integers(0, 64, 2))
        window = (slice(dy, dy + self.size[1]), slice(dx, dx + self.size[0]))
        return cv2.subtract(cv2.add(picture, self._grain[0][window]), self._grain[1][window])


def beats(fps: int, seconds: float, jitter: np.random.Generator | None) -> list[int]:
    """When frames are shown, in `TICKS`.

    Args:
        fps: Frames a second; divides `TICKS`.
        seconds: The clip's length.
        jitter: For a variable frame rate: frames between the half seconds come early, late or not at all.
            Those on a half second stay, as cameras with a variable rate hold their key frames to the clock.
    """
    step, half = TICKS // fps, TICKS // 2
    ticks = [k * step for k in range(round(fps * seconds))]
    if jitter is None:
        return ticks
    kept: list[int] = []
    for tick in ticks:
        if tick % half == 0:
            kept.append(tick)
        elif jitter.random() > 0.25:
            kept.append(tick + int(jitter.integers(-step // 3, step // 3)))
    return kept


class Recorder:
    """Writes frames to an MP4 file: H.264, 4:2:0, each with its own presentation time.

    Use it as a context manager. The file appears under its name only when it is whole.
    """

    def __init__(self, path: Path, size: tuple[int, int], fps: int, crf: int) -> None:
        self.path = path
        self._size, self._fps, self._crf = size, fps, crf
        self._container: Any = None
        self._stream: Any = None

    def __enter__(self) -> Recorder:
        import av

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._part = self.path.with_name(self.path.name + ".part")
        self._container = av.open(str(self._part), "w", format="mp4", options={"movflags": "+faststart"})
        stream = self._container.add_stream("libx264", rate=self._fps)
        stream.width, stream.height = self._size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, TICKS)
        stream.time_base = Fraction(1, TICKS)
        # One thread: the same bytes each time, and clips are rendered side by side already.
        stream.codec_context.thread_count = 1
        stream.options = {"preset": "superfast", "crf": str(self._crf), "g": str(2 * self._fps)}
        self._stream = stream
        return self

    def write(self, picture: Image, tick: int) -> None:
        """Adds a frame to be shown at `tick` / `TICKS` seconds; ticks rise."""
        import av

        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts = tick
        frame.time_base = Fraction(1, TICKS)
        self._mux(self._stream.encode(frame))

    def _mux(self, packets: Iterator[Any]) -> None:
        for packet in packets:
            self._container.mux(packet)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._mux(self._stream.encode(None))
        self._container.close()
        if kind is None:
            self._part.replace(self.path)
        else:
            self._part.unlink(missing_ok=True)

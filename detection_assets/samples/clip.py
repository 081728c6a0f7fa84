"""One clip: which video it is, and the filming of it, frame by frame, with its truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from detection_assets.samples.film import TICKS, Recorder, Sensor, beats
from detection_assets.samples.geometry import CameraPath
from detection_assets.samples.stage import Stage


@dataclass(frozen=True)
class Plan:
    """What is decided about a clip before it is filmed. It crosses process borders, so it holds plain values only.

    Attributes:
        sample: `fridge` or `surgical`.
        seed: Of the whole sample.
        number: Of the clip, from 0.
        place: Number of the store or theatre, from 1.
        group: Its name, the first folder of the video's key.
        camera: The second folder.
        stem: The file's name without its extension.
        fps: Nominal frames a second.
        variable: Whether the frame rate varies.
        seconds: Length.
        form: Which annotation format is handed over.
    """

    sample: str
    seed: int
    number: int
    place: int
    group: str
    camera: str
    stem: str
    fps: int
    variable: bool
    seconds: float
    form: str

    @property
    def key(self) -> str:
        """The video's key in the lake."""
        return f"{self.group}/{self.camera}/{self.stem}.mp4"

    def random(self, what: int) -> np.random.Generator:
        """Random numbers of this clip alone: the order in which clips are filmed does not matter."""
        return np.random.default_rng([self.seed, len(self.sample), 1, self.number, what])

    def random_of_place(self) -> np.random.Generator:
        """Random numbers that all clips of a store or theatre share."""
        return np.random.default_rng([self.seed, len(self.sample), 2, self.place])


@dataclass(frozen=True)
class Role:
    """What a numbered thing is.

    Attributes:
        label: Its class.
        track: Its name through the clip.
    """

    label: str
    track: str


class Scene(Protocol):
    """Something to film."""

    @property
    def path(self) -> CameraPath:
        """The camera's path; it knows the picture's size."""
        ...

    @property
    def sensor(self) -> Sensor:
        """What records the picture."""
        ...

    @property
    def roles(self) -> dict[int, Role]:
        """Class and track by a thing's number."""
        ...

    def draw(self, time: float, exposure: float) -> Stage:
        """Draws the scene at a time in seconds."""
        ...


@dataclass(frozen=True)
class Footage:
    """The truth of a clip.

    Attributes:
        plan: Which clip.
        size: Width and height in pixels.
        pts: Presentation time of each frame in seconds.
        rows: N x 7: frame index, thing number, x1, y1, x2, y2, visible share.
        roles: Class and track by number.
    """

    plan: Plan
    size: tuple[int, int]
    pts: NDArray[np.float64]
    rows: NDArray[np.float64]
    roles: dict[int, Role]


EXPOSURE_S = 1 / 45
"""How long the shutter is open."""


def scene_of(plan: Plan) -> Scene:
    """Builds the scene that a plan calls for."""
    if plan.sample == "fridge":
        from detection_assets.samples.fridge import FridgeScene

        return FridgeScene(plan)
    from detection_assets.samples.surgical import SurgicalScene

    return SurgicalScene(plan)


def film(plan: Plan, videos: Path) -> Footage:
    """Renders a clip to `videos/<key>`.

    Args:
        plan: What to film.
        videos: The folder that holds all videos.

    Returns:
        Exact truth for each frame.
    """
    import cv2

    cv2.setNumThreads(1)
    scene = scene_of(plan)
    path, sensor = scene.path, scene.sensor
    ticks = beats(plan.fps, plan.seconds, plan.random(9) if plan.variable else None)
    centre = path.target[None, :]
    rows: list[tuple[float, ...]] = []
    with Recorder(videos / plan.key, path.size, plan.fps, crf=26) as recorder:
        for index, tick in enumerate(ticks):
            time = tick / TICKS
            stage = scene.draw(time, EXPOSURE_S)
            shake = (path.at(time).project(centre) - path.at(time - EXPOSURE_S).project(centre))[0]
            recorder.write(sensor.take(stage.picture, time, shake), tick)
            rows += [(index, seen.number, *seen.box, seen.visible) for seen in stage.seen()]
    pts = np.array(ticks, np.float64) / TICKS
    return Footage(plan, path.size, pts, np.array(rows, np.float64).reshape(-1, 7), scene.roles)

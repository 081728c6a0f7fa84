"""The CVAT file as it streams by: what tasks, images and tracks it holds, kept as small as can be."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

from detection_assets.domain.formats.cvat_said import Sayings
from detection_assets.domain.formats.frame_names import without_video_suffix
from detection_assets.domain.formats.parsed import MAX_INDEX, ProblemLog, Unreadable, frame_name, whole
from detection_assets.domain.formats.shapes import TAKEN, Corners, around, is_turned, turned
from detection_assets.domain.formats.xml import check_depth

_SHAPES = ("box", "polygon", "mask", "ellipse", "polyline", "points", "skeleton", "cuboid")
_TASK_TEXTS = ("id", "name", "size", "mode", "start_frame", "stop_frame", "frame_filter", "source")
_PEOPLE = ("assignee", "reviewer")
_STEP = re.compile(r"step\s*=\s*([0-9]{1,9})")
MAX_TEXT = 2**16
"""Characters of an attribute's value, or of a text of `<meta>`; what goes on is cut, which is told."""


@dataclass
class Task:
    """One task of the file: which frames it covers and who worked on it. Frame numbers are the source video's."""

    texts: dict[str, str] = field(default_factory=dict[str, str])
    width: int | None = None
    height: int | None = None

    @property
    def step(self) -> int:
        """Every how many frames of the video the task shows one."""
        found = _STEP.search(self.texts.get("frame_filter", ""))
        return max(1, int(found[1])) if found else 1

    @property
    def start(self) -> int | None:
        """First frame, or None where the file does not say."""
        return whole(self.texts.get("start_frame"))

    @property
    def stop(self) -> int | None:
        """Last frame that may be shown, or None where the file does not say."""
        stop = whole(self.texts.get("stop_frame"))
        if stop is not None:
            return stop
        size = whole(self.texts.get("size"), 1)
        return None if size is None or self.start is None else self.start + (size - 1) * self.step

    @property
    def video(self) -> str:
        """File name of the video the task is about, made up from the task's name where the file does not say."""
        name = frame_name(self.texts.get("source") or self.texts.get("name") or "") or "unnamed"
        # Called like a file, so that nobody takes a task named `test` for a data set's folder.
        return name if without_video_suffix(name) != name else f"{name}.mp4"

    @property
    def annotator(self) -> str | None:
        """The assignee, else the reviewer."""
        return self.texts.get("assignee") or self.texts.get("reviewer") or None

    @property
    def reviewed(self) -> bool:
        """Whether the file names a reviewer."""
        return bool(self.texts.get("reviewer"))

    def is_video(self, has_tracks: bool, has_images: bool) -> bool:
        """Whether the task is a video's. One without any track is, if it says so and the file lists no images."""
        return has_tracks or (not has_images and self.texts.get("mode") == "interpolation" and self.stop is not None)


@dataclass(frozen=True)
class Image:
    """An `<image>`; not `sound` where a box of it could not be read, so that its lack of boxes means nothing."""

    name: str
    width: int | None
    height: int | None
    task: str
    sound: bool


@dataclass(frozen=True)
class ImageBox:
    """A box of an `<image>`, by the image's position. `said` is what else is said of it, as `Sayings` counts."""

    image: int
    label: str
    corners: Corners
    place: str
    said: int


@dataclass
class Track:
    """A `<track>` and the boxes drawn in it: frames, four corners each, what else is said, and two flags.

    `keys` says whether a box was drawn by hand and not by interpolation, `outside` that the object is gone.
    """

    name: str
    label: str
    task: str
    frames: array[int] = field(default_factory=lambda: array("q"))
    corners: array[float] = field(default_factory=lambda: array("d"))
    outside: array[int] = field(default_factory=lambda: array("b"))
    keys: array[int] = field(default_factory=lambda: array("b"))
    said: array[int] = field(default_factory=lambda: array("q"))
    common: dict[str, str] = field(default_factory=dict[str, str])


@dataclass
class Reader:
    """Takes the XML parser's events and keeps tasks, images, boxes and tracks."""

    file: str
    log: ProblemLog
    tasks: list[Task] = field(default_factory=list[Task])
    images: list[Image] = field(default_factory=list[Image])
    boxes: list[ImageBox] = field(default_factory=list[ImageBox])
    tracks: list[Track] = field(default_factory=list[Track])
    unsound: dict[str, set[int]] = field(default_factory=dict[str, set[int]])
    sayings: Sayings = field(default_factory=Sayings)
    _path: list[str] = field(default_factory=list[str])
    _text: list[str] = field(default_factory=list[str])
    _length: int = 0
    _common: dict[str, str] = field(default_factory=dict[str, str])
    _image: dict[str, str] | None = None
    _image_sound: bool = True
    _image_shapes: int = 0
    _track: Track | None = None
    _shape_tag: str = ""
    _shape_has: dict[str, str] = field(default_factory=dict[str, str])
    _shape_says: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    _saying: str | None = None
    _passed: dict[str, int] = field(default_factory=dict[str, int])
    _in_meta: bool = False

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """An element begins."""
        if not self._path and tag != "annotations":
            raise Unreadable(f"the root element is <{tag[:40]}>, not <annotations>", "export it again as CVAT XML")
        self._path.append(tag)
        check_depth(len(self._path))
        if self._in_meta:
            self._begin_text()
            if tag in ("task", "job") and self._path[2:-1] in ([], ["project", "tasks"]):
                self.tasks.append(Task())
        elif len(self._path) == 2:
            if tag == "meta":
                self._in_meta = True
            elif tag == "image":
                self._image, self._image_sound, self._image_shapes = attributes, True, 0
            elif tag == "track":
                self._begin_track(attributes)
        elif len(self._path) == 3 and tag in _SHAPES:
            self._shape_tag, self._shape_has, self._shape_says = tag, attributes, []
        elif len(self._path) == 4 and tag == "attribute" and self._shape_tag:
            self._saying = attributes.get("name", "")
            self._begin_text()

    def data(self, text: str) -> None:
        """Text of an element; only that of `<meta>` and of boxes' attributes says anything to us."""
        if self._in_meta or self._saying is not None:
            if self._length < MAX_TEXT:
                self._text.append(text[: MAX_TEXT - self._length])
            self._length += len(text)

    def end(self, tag: str) -> None:
        """An element ends."""
        if self._in_meta:
            self._end_meta("".join(self._text).strip())
            self._begin_text()
            self._in_meta = len(self._path) > 2
        elif len(self._path) == 4 and self._saying is not None:
            if self._saying:
                self._shape_says.append((self._saying, "".join(self._text)))
                self._tell_length(self._saying)
            self._saying = None
            self._begin_text()
        elif len(self._path) == 3 and self._shape_tag:
            self._shape(self._shape_tag, self._shape_has)
            self._shape_tag = ""
        elif len(self._path) == 2 and self._image is not None:
            self._end_image(self._image)
            self._image = None
        elif len(self._path) == 2:
            self._track = None
        self._path.pop()

    def _begin_text(self) -> None:
        self._text.clear()
        self._length = 0

    def _tell_length(self, name: str) -> None:
        if self._length > MAX_TEXT:
            whose = f"track {self._track.name}" if self._track else f"image {(self._image or {}).get('name', '')[:200]}"
            what = f"the attribute '{name[:100]}' has {self._length:,} characters"
            self.log.add("attribute", self.file, whose, what, f"kept the first {MAX_TEXT:,}")

    def close(self) -> None:
        """The file ends; tells what was passed over."""
        for tag, number in self._passed.items():
            self.log.tell(self.file, f"<{tag}>", f"{number} shapes that are no boxes", "passed over", kind="shape")

    def tasks_by_id(self) -> dict[str, Task]:
        """The tasks by the id that tracks and images refer to; one that the file does not describe is bare."""
        if len(self.tasks) <= 1:
            task = self.tasks[0] if self.tasks else Task()
            task.texts = {**self._common, **task.texts}
            return dict.fromkeys([item.task for item in (*self.tracks, *self.images)] or [""], task)
        known = {task.texts.get("id", ""): task for task in self.tasks}
        return {**{item.task: Task() for item in (*self.tracks, *self.images)}, **known}

    def _end_meta(self, text: str) -> None:
        inside, tag = self._path[2:], self._path[-1]
        if "label" in inside[:-1]:
            self.sayings.declare(inside[-2], tag, text)
            return
        owner = self.tasks[-1] if self.tasks and ("task" in inside or "job" in inside) else None
        texts = self._common if owner is None else owner.texts
        if owner is not None and len(inside) > 1 and inside[-2] == "original_size" and tag in ("width", "height"):
            setattr(owner, tag, whole(text, 1))
        elif not text:
            return
        elif tag == "username" and len(inside) > 1 and inside[-2] in _PEOPLE:
            texts.setdefault(inside[-2], text)
        elif tag in _PEOPLE or (
            tag in _TASK_TEXTS and (inside[-2:-1] in (["task"], ["job"]) if owner else len(inside) == 1)
        ):
            texts.setdefault(tag, text)

    def _end_image(self, attributes: dict[str, str]) -> None:
        name = frame_name(attributes.get("name", ""))
        place = f"image {attributes.get('id', len(self.images))}"
        if not name:
            self.log.add("image", self.file, place, "has no name", "dropped with its boxes")
            while self.boxes and self.boxes[-1].image == len(self.images):
                self.boxes.pop()
            return
        size = (whole(attributes.get("width"), 1), whole(attributes.get("height"), 1))
        self.images.append(Image(name, *size, attributes.get("task_id", ""), self._image_sound))

    def _begin_track(self, attributes: dict[str, str]) -> None:
        name = attributes.get("id") or str(len(self.tracks))
        label = attributes.get("label", "").strip()
        if not label:
            self.log.add("label", self.file, f"track {name}", "has no label", "dropped with its boxes")
            return
        common = {key: attributes[key] for key in ("source", "group_id") if key in attributes}
        self._track = Track(name, label, attributes.get("task_id", ""), common=common)
        self.tracks.append(self._track)

    def _shape(self, tag: str, attributes: dict[str, str]) -> None:
        if self._track is None and self._image is None:
            return
        extremes = _EXTREMES.get(tag)
        if extremes is None:
            self._passed[tag] = self._passed.get(tag, 0) + 1
            return
        try:
            corners = extremes(attributes)
        except (KeyError, ValueError, OverflowError):
            corners = None
        if self._track is not None:
            self._keyframe(self._track, attributes, corners)
        elif self._image is not None:
            self._image_box(self._image, attributes, corners)

    def _keyframe(self, track: Track, attributes: dict[str, str], corners: Corners | None) -> None:
        frame = whole(attributes.get("frame"))
        place = f"track {track.name}, frame {attributes.get('frame', '')[:20]}"
        if frame is None:
            self.log.add("frame", self.file, place, f"the frame is no number from 0 to {MAX_INDEX}", "dropped")
        elif corners is None:
            self.unsound.setdefault(track.task, set()).add(frame)
            self.log.add("corners", self.file, place, "has no four numbers for its corners", "dropped")
        else:
            track.frames.append(frame)
            track.corners.extend(corners)
            outside = attributes.get("outside", "0").strip().lower() in ("1", "true")
            track.outside.append(outside)
            track.keys.append(attributes.get("keyframe", "1").strip() not in ("0", "false", "False"))
            track.said.append(self.sayings.code(track.label, {**track.common, **attributes}, self._shape_says))
            if not outside:
                self._tell_shape(attributes, place)

    def _image_box(self, image: dict[str, str], attributes: dict[str, str], corners: Corners | None) -> None:
        self._image_shapes += 1
        place = f"image {image.get('name', '')[:200]}, shape {self._image_shapes}"
        label = attributes.get("label", "").strip()
        if corners is None or not label:
            self._image_sound = False
            what = "has no label" if corners is not None else "has no four numbers for its corners"
            self.log.add("corners", self.file, place, what, "dropped")
        elif attributes.get("outside", "0") not in ("1", "true"):
            said = self.sayings.code(label, attributes, self._shape_says)
            self.boxes.append(ImageBox(len(self.images), label, corners, place, said))
            self._tell_shape(attributes, place)

    def _tell_shape(self, attributes: dict[str, str], place: str) -> None:
        if self._shape_tag != "box":
            self.log.add(self._shape_tag, self.file, place, f"<{self._shape_tag}>, not a box", TAKEN)
        elif "rotation" in attributes and is_turned(angle := float(attributes["rotation"])):
            self.log.add("rotation", self.file, place, f"a box turned by {angle:g} degrees", TAKEN)


def _box(attributes: dict[str, str]) -> Corners:
    x1, y1, x2, y2 = (float(attributes[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
    return turned((x1, y1, x2, y2), float(attributes.get("rotation", "0")))


def _polygon(attributes: dict[str, str]) -> Corners:
    pairs = [point.split(",") for point in attributes["points"].split(";")]
    return around([float(pair[0]) for pair in pairs], [float(pair[-1]) for pair in pairs])


def _mask(attributes: dict[str, str]) -> Corners:
    left, top, width, height = (float(attributes[key]) for key in ("left", "top", "width", "height"))
    return left, top, left + width, top + height


def _ellipse(attributes: dict[str, str]) -> Corners:
    cx, cy, rx, ry = (float(attributes[key]) for key in ("cx", "cy", "rx", "ry"))
    angle = math.radians(float(attributes.get("rotation", "0")))
    cos, sin = math.cos(angle), math.sin(angle)
    across, down = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    return cx - across, cy - down, cx + across, cy + down


_EXTREMES: dict[str, Callable[[dict[str, str]], Corners]] = {
    "box": _box,
    "polygon": _polygon,
    "mask": _mask,
    "ellipse": _ellipse,
}

"""Writes MOT as CVAT imports it: `gt/gt.txt`, `gt/labels.txt` with the class names, and `seqinfo.ini`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pandas as pd

from detection_assets.domain.formats.saving import Saved, SavedBox, SavedFrame, frames_to_save, lost
from detection_assets.domain.problems import InputError, Problem

HOLDS = ("frame_index", "track")


def save(boxes: pd.DataFrame, classes: Sequence[str], out: Path) -> Saved:
    """Writes one video's MOT files.

    Args:
        boxes: One row a box, in pixels, each with `frame_index`; see `saving.frames_to_save`.
        classes: The classes, numbered from 1 in this order.
        out: Folder for `gt/gt.txt`, `gt/labels.txt` and `seqinfo.ini`; it is made. Corners are 0-based, as CVAT has
            them (see `mot`).

    Returns:
        The files written, and what the format cannot hold. A track that is no number from 0 gets one, which is told.

    Raises:
        InputError: A class that is not in `classes` or has more than one line, a frame without number, or two frames of
            one number.
    """
    frames = frames_to_save(boxes, classes)
    for name in classes:
        if not name.strip() or name != name.strip() or len(name.splitlines()) > 1:
            raise InputError(f"class {name!r} is no single line of text, as MOT's labels.txt needs; rename it")
    numbers = _numbers(frames)
    ids, problems = _ids(frames)
    order = sorted(numbers)
    whole = order == list(range(len(order)))
    lines: list[str] = []
    rest: list[str | None] = []
    number_of = {name: i for i, name in enumerate(classes, 1)}
    for index in order:
        for box in numbers[index].boxes:
            line, left = _line(index, ids, number_of[box.label], box)
            lines.append(line)
            rest.append(left)
    if not whole and (empty := [frame.name for frame in frames if not frame.boxes]):
        what = f"{len(empty)} frames are empty, which only a sequence of all frames from the first can say"
        problems.append(Problem("gt.txt", "", what, "left out; export as another format to keep them"))
    problems += _names_lost(frames)
    info, lost_size = _info(out.name, frames, len(order) if whole else None)
    problems += lost_size
    (out / "gt").mkdir(parents=True, exist_ok=True)
    files = {out / "gt" / "gt.txt": "".join(lines), out / "gt" / "labels.txt": "".join(f"{c}\n" for c in classes)}
    if info:
        files[out / "seqinfo.ini"] = info
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    left = pd.DataFrame({"attributes": pd.Series(rest, dtype=object)})
    kept = boxes.drop(columns="attributes", errors="ignore")
    return Saved(list(files), [*problems, *lost(kept, HOLDS, "gt.txt"), *lost(left, HOLDS, "gt.txt")])


def _numbers(frames: Iterable[SavedFrame]) -> dict[int, SavedFrame]:
    numbers: dict[int, SavedFrame] = {}
    for frame in frames:
        if frame.index is None:
            raise InputError(f"frame '{frame.name}' has no number; MOT needs frame_index in every row")
        other = numbers.setdefault(frame.index, frame)
        if other is not frame:
            raise InputError(
                f"frames '{other.name}' and '{frame.name}' are both number {frame.index}; write one video at a time"
            )
    return numbers


def _ids(frames: Iterable[SavedFrame]) -> tuple[dict[str, int], list[Problem]]:
    """The number of each track; one that is no number gets a free one."""
    tracks = dict.fromkeys(box.track for frame in frames for box in frame.boxes if box.track is not None)
    ids = {name: int(name) for name in tracks if name.isascii() and name.isdecimal() and str(int(name)) == name}
    free = max(ids.values(), default=0) + 1
    problems: list[Problem] = []
    for name in tracks:
        if name not in ids:
            ids[name] = free
            problems.append(Problem("gt.txt", "track", f"track '{name}' is no number", f"became {free}"))
            free += 1
    return ids, problems


def _line(index: int, ids: dict[str, int], number: int, box: SavedBox) -> tuple[str, str | None]:
    """The line of a box, and the attributes that have no field."""
    x1, y1, x2, y2 = box.corners
    attributes: dict[str, Any] = orjson.loads(box.says["attributes"]) if "attributes" in box.says else {}
    counted = int(attributes.pop("ignored", None) is not True)
    seen = attributes.get("visibility")
    if isinstance(seen, int | float) and not isinstance(seen, bool) and 0 <= seen <= 1:
        del attributes["visibility"]
    else:
        seen = 1
    key = -1 if box.track is None else ids[box.track]
    numbers = f"{x1!r},{y1!r},{x2 - x1!r},{y2 - y1!r}"
    return f"{index + 1},{key},{numbers},{counted},{number},{seen!r}\n", str(attributes) if attributes else None


def _names_lost(frames: Sequence[SavedFrame]) -> list[Problem]:
    """Names that say more than the number, which is all that the format keeps of a frame."""
    told = [frame.name for frame in frames if frame.stem != f"{frame.index:06d}" or "/" in frame.name]
    if not told:
        return []
    what = f"the format has no place for 'frame_name', which {len(told)} frames have, such as '{told[0]}'"
    return [Problem("gt.txt", "frame_name", what, "left out; frames are found by their number")]


def _info(name: str, frames: Sequence[SavedFrame], length: int | None) -> tuple[str, list[Problem]]:
    sizes = {(frame.width, frame.height) for frame in frames if frame.width and frame.height}
    lines = ["[Sequence]", f"name={name}", "imDir=img1"]
    problems: list[Problem] = []
    if length is not None:
        lines.append(f"seqLength={length}")
    if len(sizes) == 1:
        width, height = sizes.pop()
        lines += [f"imWidth={width}", f"imHeight={height}"]
    elif sizes:
        what = f"the frames have {len(sizes)} sizes, and a sequence has one"
        problems.append(Problem("seqinfo.ini", "imWidth", what, "left out"))
    return "\n".join([*lines, "imExt=.jpg", ""]), problems

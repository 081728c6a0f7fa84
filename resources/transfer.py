"""Moving a detector's part of a lake into another lake: what is missing or newer, things before what names them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from detection_assets.domain import inbox, layout
from detection_assets.domain.layout import Stored
from detection_assets.domain.problems import InputError
from resources import lake, temporary
from resources.storage import PARALLEL, Storage


@dataclass(frozen=True)
class Move:
    """What is to be copied from one lake to another.

    Attributes:
        todo: Objects to copy, in the order in which a reader may meet them.
        there: How many are there already.
        newer: Keys that differ and are newer in the target, which are left alone.
    """

    todo: Sequence[Stored]
    there: int
    newer: Sequence[str]

    @property
    def size(self) -> int:
        """Bytes to copy."""
        return sum(item.size for item in self.todo)


def plan(source: Storage, target: Storage) -> Move:
    """Compares the two by their listings, and what may have been replaced by its content, or by samples of it.

    An object is copied if the target has none of its key, or an older one that differs.

    Raises:
        InputError: A video was erased in the target, and is still in the source.
    """
    _refuse_what_was_erased(source, target)
    have = {item.key: item for item in target.list("")}
    todo: list[Stored] = []
    unsure: list[tuple[Stored, Stored]] = []
    newer: list[str] = []
    there = 0
    for item in source.list(""):
        if layout.is_of_this_place(item.key):
            continue
        other = have.get(item.key)
        if other is None:
            todo.append(item)
        elif item.size != other.size:
            todo.append(item) if item.written > other.written else newer.append(item.key)
        elif layout.may_change(item.key):
            unsure.append((item, other))
        else:
            there += 1
    with ThreadPoolExecutor(PARALLEL) as pool:
        same = list(pool.map(lambda pair: source.sample(pair[0].key) == target.sample(pair[0].key), unsure))
    for (item, other), equal in zip(unsure, same, strict=True):
        if equal:
            there += 1
        else:
            todo.append(item) if item.written > other.written else newer.append(item.key)
    todo.sort(key=lambda item: (layout.read_last(item.key), item.key))
    return Move(todo, there, sorted(newer))


def _refuse_what_was_erased(source: Storage, target: Storage) -> None:
    """What was erased in one lake does not come back from another, in which it is still to be erased."""
    for item in target.list_folder(layout.tombstone("").rpartition("/")[0]):
        video = layout.withdrawn_video(f"{layout.WITHDRAWN}/{item.key.rpartition('/')[2]}") or ""
        places = (layout.video(video), f"{layout.FRAMES}/{video}", layout.table_folder("raw_videos", video))
        if source.exists(places[0]) or any(next(iter(source.list(place)), None) for place in places):
            raise InputError(
                f"{video} was erased from {target.uri} and is still in {source.uri}: withdraw and erase it there first "
                "(`detection withdraw`, with that lake set), then move"
            )


def carry_out(move: Move, source: Storage, target: Storage, done: Callable[[Stored], None]) -> None:
    """Copies what a plan says, side by side, and each rank as a whole before the next.

    A reader of the target never meets a manifest or a pointer before what it names; killed and run again, it goes on.
    What the source has taken in counts as taken in at the target, so that nothing is looked at again for having moved.

    Args:
        move: From `plan`.
        source: The lake to read.
        target: The lake to write.
        done: Called after each object, from several threads.
    """

    def copy(item: Stored) -> None:
        path = source.local_path(item.key)
        if path is not None:
            target.put(item.key, path)
        else:
            with temporary.folder() as scratch:
                local = Path(scratch) / "object"
                source.download({item.key: local})
                target.put(item.key, local)
        done(item)

    with ThreadPoolExecutor(PARALLEL) as pool:
        for _, rank in groupby(move.todo, key=lambda item: layout.read_last(item.key)):
            list(pool.map(copy, rank))
    for what, fingerprints in (("videos", _videos), ("annotations", _annotations)):
        taken_in, now, then = lake.remembered(source, what), fingerprints(source), fingerprints(target)
        as_it_is = {
            video: then[video] for video, known in taken_in.items() if now.get(video) == known and video in then
        }
        there = lake.remembered(target, what)
        lake.remember(target, what, {video: one for video, one in as_it_is.items() if there.get(video) != one})


def _videos(storage: Storage) -> dict[str, str]:
    return {source.video: source.fingerprint for source in lake.list_sources(storage)[0]}


def _annotations(storage: Storage) -> dict[str, str]:
    videos = [source.video for source in lake.list_sources(storage)[0]]
    files = lake.annotation_files(storage, videos, videos)
    return {video: inbox.fingerprint(items) for video, items in files.items()}

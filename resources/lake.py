"""What lies in the lake, and how much of it is known: one listing, no file opened.

What has been taken in is remembered as empty objects whose *names* hold the key and its fingerprint, so that "what is
new?" costs two listings however much is known, and two writers cannot overwrite each other's memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import dagster as dg

from detection_assets.domain import inbox, layout
from detection_assets.domain.inbox import Source
from detection_assets.domain.layout import Stored
from resources.storage import PARALLEL, Storage
from resources.withdrawal import withdrawals

VIDEOS = dg.DynamicPartitionsDefinition(name="videos")
"""Stands for "a partition is a video" in the asset modules; each detector puts its own partitions in its place."""

DAYS = dg.DailyPartitionsDefinition(start_date="2025-01-01", end_offset=1)
"""A partition is a day, UTC, the current one included; the same days for every detector."""

FEW = 20
"""Up to this many videos are looked up one by one; for more, one listing of everything is cheaper."""


def sources_of(storage: Storage, videos: Sequence[str]) -> dict[str, Source | None]:
    """The given videos as the lake holds them now; None for one that is gone."""
    if len(videos) > FEW:
        known = {source.video: source for source in list_sources(storage)[0]}
        return {video: known.get(video) for video in videos}
    return look_up(storage, videos)


def look_up(storage: Storage, videos: Sequence[str]) -> dict[str, Source | None]:
    """As `sources_of`, but each by itself, however many: what it costs does not depend on what else there is."""
    with ThreadPoolExecutor(PARALLEL) as pool:
        found = dict(zip(videos, pool.map(lambda video: _source(storage, video), videos), strict=True))
        there = [video for video, source in found.items() if source]
        # Each by itself, too: a listing of all that were ever withdrawn would be asked for at every tick of a sensor.
        gone = dict(zip(there, pool.map(lambda video: storage.exists(layout.withdrawn(video)), there), strict=True))
    return {video: None if gone.get(video) else source for video, source in found.items()}


def _source(storage: Storage, video: str) -> Source | None:
    key = layout.video(video)
    file = storage.find(key)
    listing = [file] if file else storage.list_folder(key)
    return next((source for source in inbox.sources(listing)[0] if source.video == video), None)


def list_sources(storage: Storage) -> tuple[list[Source], dict[str, str]]:
    """Every video in the lake, and the paths that cannot be videos, or may not any more, with the reason."""
    found, refused = inbox.sources(storage.list(layout.VIDEOS))
    gone = withdrawals.videos(storage) & {source.video for source in found}
    if not gone:
        return found, refused
    why = {video: withdrawals.refused(storage, video) for video in sorted(gone)}
    return [source for source in found if source.video not in gone], {**refused, **why}


def annotation_files(
    storage: Storage,
    videos: Sequence[str],
    known: Iterable[str],
    listing: Iterable[Stored] | None = None,
    remembers: Iterable[str] | None = None,
) -> dict[str, list[Stored]]:
    """The annotation files that speak for some videos.

    Args:
        storage: The detector's storage.
        videos: The videos that are asked about.
        known: All videos that there are: a file that names one of them, or a withdrawn one, speaks for no other. Nor
            does one that is left of a video that is gone, which is remembered.
        listing: The objects below `annotations/`, if they were listed already.
        remembers: The videos whose annotations are remembered, likewise.
    """
    remembers = remembered(storage, "annotations") if remembers is None else remembers
    named = {*videos, *known, *remembers, *withdrawals.videos(storage)}
    found = inbox.annotation_files(annotation_listing(storage) if listing is None else listing, named)
    return {video: found[video] for video in videos}


def annotation_listing(storage: Storage) -> list[Stored]:
    """The objects below `annotations/`."""
    return list(storage.list(layout.ANNOTATIONS))


def known_videos(instance: dg.DagsterInstance, detector: str) -> Sequence[str]:
    """All video partitions of a detector, in Dagster's order."""
    return instance.get_dynamic_partitions(f"{detector}_videos")


def remembered(storage: Storage, what: str, videos: Sequence[str] | None = None) -> dict[str, str]:
    """The fingerprint with which each video's `what` was last taken in.

    Args:
        storage: The detector's storage.
        what: `videos` or `annotations`.
        videos: The videos that are asked about, each looked up by itself; None for all, in one listing.
    """
    return told_by(what, notes(storage, what, videos))


def told_by(what: str, keys: Iterable[str]) -> dict[str, str]:
    """The fingerprint with which each video was taken in, as the keys of `notes` tell."""
    return dict(layout.taken_in(what, key) for key in keys)


def notes(storage: Storage, what: str, videos: Sequence[str] | None = None) -> list[str]:
    """The keys of the objects that remember it; arguments as of `remembered`."""
    if videos is None:
        return list(storage.names(layout.known(what)))
    wanted = set(videos)
    folders = {place(what, video) for video in wanted for place in (layout.known_beside, layout.known_before)}
    with ThreadPoolExecutor(PARALLEL) as pool:
        each = list(pool.map(lambda folder: list(storage.names(folder)), sorted(folders)))
    return [key for keys in each for key in keys if layout.taken_in(what, key)[0] in wanted]


def remember(storage: Storage, what: str, fingerprints: Mapping[str, str]) -> None:
    """Notes that each video's `what` was taken in with a fingerprint.

    Args:
        storage: The detector's storage.
        what: `videos` or `annotations`.
        fingerprints: By video.
    """
    now = {layout.known_as(what, video, fingerprint) for video, fingerprint in fingerprints.items()}
    before = notes(storage, what, list(fingerprints) if len(fingerprints) <= FEW else None)
    with ThreadPoolExecutor(PARALLEL) as pool:
        list(pool.map(lambda key: storage.put(key, b""), sorted(now.difference(before))))
    # Only now: who is killed between the two leaves an older note beside the newer, and the video is looked at again.
    storage.remove([key for key in before if key not in now and layout.taken_in(what, key)[0] in fingerprints])


def first_with(storage: Storage, sha256: str, video: str) -> str:
    """Which video was the first with this content: the given one, unless another came before it and is still there."""
    key = layout.digest_of(sha256)
    if storage.put_if_absent(key, video.encode()):
        return video
    first = storage.get(key).decode()
    if first != video and _source(storage, first) is None:
        storage.put(key, video.encode())
        return video
    return first

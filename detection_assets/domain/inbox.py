"""What users put into the lake: which objects are a video, and which annotation files speak for it.

Which annotation files speak for which video follows from the path alone: a file at `annotations/a/b.xml` (or any file
under `annotations/a/b/` or `annotations/a/b.mp4/`) speaks for the video `a/b.mp4`; a file whose path names no video
speaks for every video at or below its own folder.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from detection_assets.domain import file_names, layout
from detection_assets.domain.layout import Stored

_NO_VIDEOS = frozenset([*file_names.ANNOTATION_SUFFIXES, ".md", ".zip", ".gz"])


class Source(NamedTuple):
    """A video as the lake's listing shows it.

    Attributes:
        video: The video key: its path below `videos/`.
        kind: `video` for a file, `images` for a folder of images.
        fingerprint: Changes when any of its files changes; computed from the listing alone.
        size: Bytes in all.
        written: When the newest of its files was written, epoch seconds; 0 where nobody asked.
    """

    video: str
    kind: str
    fingerprint: str
    size: int
    written: float = 0.0


def sources(listing: Iterable[Stored]) -> tuple[list[Source], dict[str, str]]:
    """Groups a listing of `videos/` into videos.

    A file with a video's extension, or with none that we know, is a video (whether it decodes is for the `raw_videos`
    check to say); the images directly inside a folder are one video of kind `images`. Hidden and partial files are left
    out, and empty ones without an extension: S3's console makes such a one for a folder.

    Args:
        listing: The objects under `videos/`.

    Returns:
        The videos in order of their keys, and for each path that cannot be a video the reason.
    """
    found: list[Source] = []
    refused: dict[str, str] = {}
    folders: dict[str, list[Stored]] = defaultdict(list)
    for item in listing:
        path = item.key.removeprefix(layout.VIDEOS + "/")
        if file_names.is_transient(path):
            continue
        ending = file_names.suffix(path)
        if not item.size and not ending:
            continue
        if ending in file_names.IMAGE_SUFFIXES:
            folder = path.rpartition("/")[0]
            if folder:
                folders[folder].append(item)
            else:
                refused[path] = "it is an image outside any folder; put images in a folder of their own"
        elif ending in _NO_VIDEOS or (not ending and file_names.is_annotation(path)):
            refused[path] = "it is neither a video nor an image"
        else:
            found.append(Source(path, "video", fingerprint([item]), item.size, item.written))
    for folder, items in folders.items():
        size, written = sum(item.size for item in items), max(item.written for item in items)
        found.append(Source(folder, "images", fingerprint(items), size, written))
    kept: list[Source] = []
    for source in sorted(found, key=lambda source: source.video):
        problem = layout.video_key_problem(source.video)
        if problem:
            refused[source.video] = problem
        else:
            kept.append(source)
    return kept, refused


def annotation_files(listing: Iterable[Stored], videos: Iterable[str]) -> dict[str, list[Stored]]:
    """Says which annotation files speak for which video.

    Args:
        listing: The objects under `annotations/`.
        videos: Video keys.

    Returns:
        For each video its files, in order of their keys; a video nobody annotated has an empty list.
    """
    names: dict[str, list[str]] = defaultdict(list)
    folders: dict[str, list[str]] = defaultdict(list)
    found: dict[str, list[Stored]] = {}
    for video in videos:
        found[video] = []
        names[video].append(video)
        if (plain := file_names.stem(video)) != video:
            names[plain].append(video)
        folders[video.rpartition("/")[0]].append(video)
    below: dict[str, list[str]] = defaultdict(list)
    for folder, those in folders.items():
        for one in _above(folder):
            below[one] += those
    start = len(layout.ANNOTATIONS) + 1
    for item in sorted(listing):
        if file_names.is_transient(item.key):
            continue
        for video in _spoken_for(item.key[start:], names, below):
            found[video].append(item)
    return found


def _spoken_for(path: str, names: Mapping[str, Sequence[str]], below: Mapping[str, Sequence[str]]) -> Sequence[str]:
    exact = names.get(path) or names.get(file_names.stem(path))
    if exact:
        return exact
    for folder in _above(path.rpartition("/")[0]):
        if folder in names:
            return names[folder]
        if folder in below:
            return below[folder]
    return ()


def _above(folder: str) -> Iterator[str]:
    """A folder and those that it is in, up to the topmost, ""."""
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]
    yield ""


def fingerprint(items: Iterable[Stored]) -> str:
    """A short digest of a set of objects as listed: it changes when one is added, removed or rewritten."""
    text = "".join([f"{key}\0{size}\0{tag}\n" for key, size, tag, _ in sorted(items)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]

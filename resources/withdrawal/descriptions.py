"""What tells of a video among others, in files that are no tables: reports of problems, descriptions of datasets."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator

import orjson

from detection_assets.domain import croissant, layout, problem_report
from resources import standards
from resources.storage import Storage
from resources.withdrawal import withdrawals

AT_ONCE = 64


def reports(storage: Storage, video: str, files: Collection[str]) -> Iterator[tuple[str, bytes, int]]:
    """The reports of problems with annotations that tell of a video.

    Args:
        storage: The detector's storage.
        video: The video.
        files: Keys of the annotation files that speak for it alone.

    Yields:
        The key of each, what it says of others (nothing if that is nothing), and how many rows are the video's.
    """
    keys = [item.key for item in storage.list(layout.PROBLEMS) if item.key.endswith(".csv")]
    named = [one.replace('"', '""').encode("utf-8", "backslashreplace") for one in (video, *files)]
    for first in range(0, len(keys), AT_ONCE):
        part = keys[first : first + AT_ONCE]
        for key, data in zip(part, storage.get_many(part), strict=True):
            if data is None or not any(name in data for name in named):
                continue
            table = problem_report.from_csv(data)
            its = problem_report.about(table, video, files)
            if its.any():
                rest = table[~its]
                yield key, problem_report.to_csv(rest) if len(rest) else b"", int(its.sum())


def of_datasets(storage: Storage, video: str) -> Iterator[str]:
    """The descriptions of datasets that name a video, or tables that are not published any more: their keys."""
    yield from (key for key, _ in _lessened(storage, video))


def erase(storage: Storage, video: str, files: Collection[str]) -> None:
    """Writes reports and descriptions anew without a video; a report is named by its content, so it leaves a note."""
    for key, rest, _ in reports(storage, video, files):
        left = layout.problem_report(hashlib.sha256(rest).hexdigest()) if rest else ""
        if rest:
            storage.put_if_absent(left, rest)
        withdrawals.note(storage, key, video, left)
        storage.remove([key])
    for key, data in _lessened(storage, video):
        storage.put(key, data)


def _lessened(storage: Storage, video: str) -> Iterator[tuple[str, bytes]]:
    end = f"/{layout.MANIFEST}"
    listed = [item.key for item in storage.list(layout.dataset("")[:-1]) if item.key.endswith(end)]
    versions = [key.split("/")[1] for key in listed]
    keys = [layout.croissant(version) for version in versions]
    for version, key, data in zip(versions, keys, storage.get_many(keys), strict=True):
        made = storage.published(layout.dataset(version)) if data is not None else None
        if data is None or made is None:
            continue
        told = orjson.loads(data)
        less = croissant.without(told, video, standards.files_of(storage, made))
        if less != told:
            yield key, orjson.dumps(less, option=orjson.OPT_INDENT_2)

"""Where a video's data is in the lake: the objects that are its alone, and those that hold a part of it.

All is told by lineage: by the video's key in paths, in columns and in frames' ids. A video's key may be the beginning
of another's path (`a` and `a/b.mp4`), so what lies below its folder is its own only if it is no other video's.
"""

from __future__ import annotations

import hashlib
import io
import posixpath
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from detection_assets.domain import captures, file_names, inbox, labels, layout, model_card, schemas
from detection_assets.domain.problems import InputError
from detection_assets.domain.withdrawal import is_its, rows_of, tells_of
from resources import lake
from resources.storage import Published, Storage
from resources.withdrawal import descriptions, withdrawals

SHARED = ("datasets", layout.EVALUATIONS, "profiles", layout.LABEL_REQUESTS, layout.CARDS)
"""Where versions are published that may hold a part of a video, each by itself and readable whatever part is left."""
SHEET, PAGE = "worst.jpg", "worst.html"
"""Files of an evaluation: a sheet of some of the worst frames, and a page of more."""
BY_DAY = tuple(f"tables/{name}/" for name, columns in schemas.SCHEMAS.items() if "day" in columns)
OF_A_VIDEO = ("raw_videos", "extracted_frames", "annotations", "batch_predictions")
"""The assets whose partitions are videos."""
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_VERSION = re.compile(r"[0-9a-f]{16}/")


@dataclass(frozen=True)
class Traces:
    """What there is of one video.

    Attributes:
        video: Its key.
        kind: `video` or `images`.
        sha256: Digest of its content as `raw_videos` told it last, or that of its file; "" if nothing is left of it.
        contents: Digests of the files that it is or was.
        frames: Digests of its kept frames, in every version.
        own: Keys of what is its alone, by place.
        shared_files: Annotation files that hold boxes of it and speak for other videos, too.
        tables: Keys of tables of several videos, or of a day, with the number of its rows.
        published: Prefixes of what is published and holds some of it, with the number of its rows.
        captures: Keys of the captured pictures that it was made of.
        requests: The captured requests of those pictures: day and id.
        worst: Versions of evaluations that have drawn frames of it.
        batches: Names of its pictures, by batch of labels.
        copies: Other videos with the same content.
        reports: Reports of problems with annotations that tell of it, with the number of its rows.
        described: Descriptions of datasets that name it.
    """

    video: str
    kind: str = "video"
    sha256: str = ""
    contents: Collection[str] = ()
    frames: Collection[str] = ()
    own: Mapping[str, Sequence[str]] = field(default_factory=dict)
    shared_files: Sequence[str] = ()
    tables: Mapping[str, int] = field(default_factory=dict)
    published: Mapping[str, int] = field(default_factory=dict)
    captures: Sequence[str] = ()
    requests: Sequence[tuple[str, str]] = ()
    worst: Sequence[str] = ()
    batches: Mapping[str, Sequence[str]] = field(default_factory=dict)
    copies: Sequence[str] = ()
    reports: Mapping[str, int] = field(default_factory=dict)
    described: Sequence[str] = ()

    @property
    def frames_sha256(self) -> str:
        """One digest for all frames: over their digests, sorted, a line each; "" if there are none."""
        text = "".join(f"{digest}\n" for digest in sorted(self.frames))
        return hashlib.sha256(text.encode()).hexdigest() if text else ""

    def found(self) -> dict[str, int]:
        """How much there is, by what it is."""
        counted = {place: len(keys) for place, keys in self.own.items()}
        rows = {
            "rows of tables": sum(self.tables.values()),
            "rows of what is published": sum(self.published.values()),
            "captured pictures": len(self.captures),
            "rows of reports": sum(self.reports.values()),
            "descriptions of datasets": len(self.described),
            "frames": len(self.frames),
        }
        return {what: count for what, count in {**counted, **rows}.items() if count}

    def of(self, root: str) -> list[str]:
        """The versions below a root that hold some of it."""
        return sorted(prefix.removeprefix(f"{root}/") for prefix in self.published if prefix.startswith(f"{root}/"))


def find(storage: Storage, video: str, known: Iterable[str]) -> Traces:
    """Looks for all that there is of a video; changes nothing.

    Args:
        storage: The detector's storage.
        video: The video's key.
        known: The videos that there are.

    Raises:
        InputError: There is no such video, and never was.
    """
    listed, _ = inbox.sources(storage.list(layout.VIDEOS))
    source = next((one for one in listed if one.video == video), None)
    others = beside(storage, video, known)
    raw = versions_of(storage, "raw_videos", video)
    frames = versions_of(storage, "extracted_frames", video)
    if source is None and not raw and not frames and not storage.exists(layout.withdrawn(video)):
        near = sorted(one for one in others if posixpath.basename(video) in one)[:5]
        hint = f"; did you mean {', '.join(near)}?" if near else "; it is its path below videos/, with its ending"
        raise InputError(f"{storage.prefix}: there is no video {video}{hint}")
    kind = source.kind if source else str(raw[-1]["kind"][0]) if raw else "video"
    told = [str(digest) for table in raw for digest in table["sha256"] if digest]
    digests = {str(digest) for table in frames for digest in table["sha256"] if digest}
    own = own_objects(storage, video, others)
    raws, alone = own.get("video files", ()), own.get("annotation files", ())
    files = {digest_of(storage, key) for key in raws}
    contents = {*told, *files, *(digests if kind == "images" else ())}
    batches = _batches(storage, video)
    captured, requests = _captured(storage, video, raws if kind == "images" else (), files, batches)
    published, worst = _published(storage, video, batches)
    return Traces(
        video=video,
        kind=kind,
        sha256=told[-1] if told else next(iter(files), "") if kind == "video" else "",
        contents=contents,
        frames=digests,
        own=own,
        shared_files=_shared_files(storage, video, alone),
        tables=rows_of_tables(storage, video, captured),
        published=published,
        captures=captured,
        requests=requests,
        worst=worst,
        batches={batch: [name for name, _ in named] for batch, named in batches.items()},
        copies=_copies(storage, told, source, listed),
        reports={key: rows for key, _, rows in descriptions.reports(storage, video, alone)},
        described=list(descriptions.of_datasets(storage, video)),
    )


def beside(storage: Storage, video: str, known: Iterable[str]) -> set[str]:
    """All videos but one: those that are known, those that are not taken in yet, and those that were withdrawn."""
    listed, _ = inbox.sources(storage.list(layout.VIDEOS))
    return {*known, *(one.video for one in listed), *withdrawals.videos(storage)} - {video}


def versions_of(storage: Storage, asset: str, video: str) -> list[dict[str, list[Any]]]:
    """Every version of a video's table, as columns, the one that was written last at the end."""
    import pyarrow.parquet as pq

    listing = sorted(storage.list(layout.table_folder(asset, video)), key=lambda item: item.written)
    keys = [item.key for item in listing if item.key.endswith(".parquet")]
    return [pq.read_table(io.BytesIO(data)).to_pydict() for data in storage.get_many(keys) if data is not None]


def digest_of(storage: Storage, key: str) -> str:
    """The SHA-256 of an object, read once."""
    found = hashlib.sha256()
    with storage.local_copy(key) as path, path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            found.update(chunk)
    return found.hexdigest()


# What is its alone ----------------------------------------------------------------------------------------------------


def own_objects(storage: Storage, video: str, others: Collection[str]) -> dict[str, list[str]]:
    """Keys of what is the video's alone, by place; others are all videos beside it."""
    name = layout.table_folder("", video).rpartition("/")[2]
    below = [one for one in others if one.startswith(f"{video}/")]
    speaks = lake.annotation_files(storage, [video, *others], ())
    elsewhere = {item.key for one in others for item in speaks[one]}
    found = {
        "video files": list(raw_files(storage, video)),
        "frame files": list(versions_below(storage, f"{layout.FRAMES}/{video}", f"{layout.FRAMES}/", below)),
        "prediction files": list(versions_below(storage, f"predictions/{video}", "predictions/", below)),
        "looks at its frames": list(versions_below(storage, f"looks/{video}", "looks/", below)),
        "tables": [key for key in _table_keys(storage) if _partition(key) == name and not key.startswith(BY_DAY)],
        "annotation files": [item.key for item in speaks[video] if item.key not in elsewhere],
        "notes of what is known": [
            *(key for what in ("videos", "annotations") for key in lake.notes(storage, what, [video])),
            *_remembered(storage, video),
        ],
        "files of jobs": list(_jobs(storage, video)),
    }
    return {place: keys for place, keys in found.items() if keys}


def _table_keys(storage: Storage) -> list[str]:
    return [item.key for item in storage.list("tables")]


def _partition(key: str) -> str | None:
    """The part of a table's key that names its video or its day; None for an asset without partitions."""
    parts = key.split("/")
    return parts[2] if len(parts) == 4 else None


def raw_files(storage: Storage, video: str) -> Iterator[str]:
    """The video's own file or images, and what was left of copying them: partial files of the same name."""
    folder, _, name = layout.video(video).rpartition("/")
    for item in storage.list_folder(folder):
        plain = posixpath.basename(item.key).removeprefix(".")
        while file_names.suffix(plain) in file_names.PARTIAL_SUFFIXES and plain != name:
            plain = posixpath.splitext(plain)[0]
        if plain == name:
            yield item.key
    for item in storage.list_folder(layout.video(video)):
        plain = posixpath.basename(item.key)
        while file_names.suffix(plain) in file_names.PARTIAL_SUFFIXES:
            plain = posixpath.splitext(plain)[0]
        if file_names.suffix(plain) in file_names.IMAGE_SUFFIXES:
            yield item.key


def versions_below(storage: Storage, folder: str, root: str, others: Collection[str]) -> Iterator[str]:
    """The objects of every version below a video's folder, published or begun, that are no other video's."""
    elsewhere = tuple(f"{root}{one}/" for one in others)
    for item in storage.list(folder):
        if _VERSION.match(item.key.removeprefix(f"{folder}/")) and not item.key.startswith(elsewhere):
            yield item.key


def _remembered(storage: Storage, video: str) -> Iterator[str]:
    """What is remembered of its content, which its table says, or, once that is gone, the record of its withdrawal."""
    told = {str(digest) for table in versions_of(storage, "raw_videos", video) for digest in table["sha256"] if digest}
    keys = [layout.digest_of(digest) for digest in sorted(told | withdrawals.contents(storage))]
    for key, data in zip(keys, storage.get_many(keys), strict=True):
        if data == video.encode():
            yield key


def _jobs(storage: Storage, video: str) -> Iterator[str]:
    """All of the jobs that speak of the video: their orders, messages and answers."""
    listing = list(storage.list("jobs"))
    named: set[str] = set()
    for item in listing:
        job = "/".join(item.key.split("/")[:2])
        if job not in named and item.size <= 64 << 20:
            data = storage.get_many([item.key])[0] or b""
            if tells_of(data, video):
                named.add(job)
    yield from (item.key for item in listing if "/".join(item.key.split("/")[:2]) in named)


def _shared_files(storage: Storage, video: str, alone: Collection[str]) -> list[str]:
    """Annotation files that gave boxes of the video in any version of its table, and that are not its alone."""
    sources = {str(key) for table in versions_of(storage, "annotations", video) for key in table["source"] if key}
    return sorted(key for key in sources - set(alone) if storage.exists(key))


def _copies(
    storage: Storage, digests: Sequence[str], source: inbox.Source | None, listed: Iterable[inbox.Source]
) -> list[str]:
    """Other videos with the same content, among those of the same size: the tables of all would take long to read."""
    import pyarrow.parquet as pq

    if source is None or not digests:
        return []
    alike = (one.video for one in listed if (one.kind, one.size) == (source.kind, source.size))
    wanted = sorted(video for video in alike if video != source.video)
    pointers = storage.get_many([layout.table_pointer("raw_videos", one) for one in wanted])
    keys = [orjson.loads(data)["table"] for data in pointers if data is not None]
    found: list[str] = []
    for data in storage.get_many(keys):
        if data is not None:
            table = pq.read_table(io.BytesIO(data), columns=["video", "sha256"]).to_pydict()
            found += [video for video, one in zip(table["video"], table["sha256"], strict=True) if one in digests]
    return sorted(found)


# What holds a part of it ----------------------------------------------------------------------------------------------


def rows_of_tables(storage: Storage, video: str, captured: Collection[str]) -> dict[str, int]:
    """Tables of several videos, and of days, in every version, that hold rows of the video."""
    import pyarrow.parquet as pq

    keys = [
        key
        for key in _table_keys(storage)
        if key.endswith(".parquet") and ((part := _partition(key)) is None or _DAY.fullmatch(part))
    ]
    found: dict[str, int] = {}
    for first in range(0, len(keys), 64):
        part = keys[first : first + 64]
        for key, data in zip(part, storage.get_many(part), strict=True):
            if data is not None:
                table = pq.read_table(io.BytesIO(data))
                if rows := int(rows_of(table, video, {"image": captured}).sum()):
                    found[key] = rows
    return found


def prefixes(storage: Storage) -> Iterator[str]:
    """Every prefix below which something shared is published."""
    end = f"/{layout.MANIFEST}"
    for root in SHARED:
        yield from (item.key.removesuffix(end) for item in storage.list(root) if item.key.endswith(end))


def begun(storage: Storage, video: str) -> Iterator[str]:
    """What runs that were killed left where they would have published, in folders with rows or pictures of the video.

    A folder without a table in it may be anybody's; it is of use to nobody.
    """
    import pyarrow.parquet as pq

    known = {prefix: storage.published(prefix) for prefix in prefixes(storage)}
    whole = tuple(f"{made.folder}/" for made in known.values() if made is not None)
    folders: dict[str, list[str]] = {}
    for root in SHARED:
        for item in storage.list(root):
            if not item.key.startswith(whole) and not item.key.endswith(f"/{layout.MANIFEST}"):
                depth = 4 if root in ("profiles", layout.CARDS) else 3
                folders.setdefault("/".join(item.key.split("/")[:depth]), []).append(item.key)
    for keys in folders.values():
        tables = [key for key in keys if key.endswith(".parquet")]
        if not tables or any(rows_of(pq.read_table(io.BytesIO(storage.get(key))), video).any() for key in tables):
            yield from keys


def _published(
    storage: Storage, video: str, batches: Mapping[str, Sequence[tuple[str, str]]]
) -> tuple[dict[str, int], list[str]]:
    """What is published and holds rows or pictures of the video; and the evaluations that have drawn it."""
    found: dict[str, int] = {}
    worst: list[str] = []
    for prefix in prefixes(storage):
        made = storage.published(prefix)
        if made is None:
            continue
        root, _, version = prefix.partition("/")
        names = [name for name, _ in batches.get(version, ())] if root == layout.LABEL_REQUESTS else []
        rows = sum(count for _, count in rows_in(storage, made, video, {"name": names}))
        drawn = drawn_of(storage, made, video, judged=bool(rows)) if root == layout.EVALUATIONS else []
        if drawn:
            worst.append(version)
        if rows or drawn:
            found[prefix] = rows
    return found, worst


def rows_in(
    storage: Storage, made: Published, video: str, also: Mapping[str, Collection[str]]
) -> Iterator[tuple[str, int]]:
    """The tables of what is published that hold rows of a video, those of a card among them: name and number."""
    import pyarrow.parquet as pq

    for name in made.files:
        if name.endswith(".parquet"):
            wanted = {"video", "frame", "slice_kind", "slice", *also}
            data = io.BytesIO(storage.get(made.key(name)))
            columns = [column for column in pq.read_schema(data).names if column in wanted]
            rows = int(rows_of(pq.read_table(data, columns=columns), video, also).sum()) if columns else 0
            if rows:
                yield name, rows
        elif name == model_card.CARD and (rows := model_card.without(storage.get(made.key(name)).decode(), video)[1]):
            yield name, rows


def drawn_of(storage: Storage, made: Published, video: str, *, judged: bool) -> list[str]:
    """The pictures of an evaluation that show frames of a video; its sheet may, wherever it was judged on some."""
    if "summary.json" not in made.files:
        return []
    told = orjson.loads(storage.get(made.key("summary.json"))).get("worst", ())
    worst = [one for one in told if is_its(video, str(one["frame"]))]
    sheet = [SHEET] if SHEET in made.files and (worst or judged) else []
    return [*(str(one["file"]) for one in worst if "file" in one), *sheet]


# What was captured ----------------------------------------------------------------------------------------------------


def _batches(storage: Storage, video: str) -> dict[str, list[tuple[str, str]]]:
    """The batches of labels that ask for pictures of the video: name and key of each."""
    import pyarrow.parquet as pq

    found: dict[str, list[tuple[str, str]]] = {}
    for item in storage.list(layout.LABEL_REQUESTS):
        if item.key.endswith(f"/{layout.MANIFEST}"):
            made = storage.published(item.key.removesuffix(f"/{layout.MANIFEST}"))
            if made is None or labels.FRAMES not in made.files:
                continue
            data = io.BytesIO(storage.get(made.key(labels.FRAMES)))
            table = pq.read_table(data, columns=["name", "video", "key"]).to_pydict()
            rows = zip(table["name"], table["video"], table["key"], strict=True)
            named = [(str(name), str(key)) for name, of, key in rows if of == video]
            if named:
                found[made.prefix.partition("/")[2]] = named
    return found


def _captured(
    storage: Storage,
    video: str,
    images: Sequence[str],
    digests: Collection[str],
    batches: Mapping[str, Sequence[tuple[str, str]]],
) -> tuple[list[str], list[tuple[str, str]]]:
    """The captured pictures that a folder of images was made of, and their requests.

    A batch of labels says which they are. For a folder that somebody made by hand, it is name and content that say so:
    a name alone may be anybody's.
    """
    import pyarrow.parquet as pq

    asked = {key for named in batches.values() for _, key in named if key.startswith(f"{layout.CAPTURES}/")}
    stems = {posixpath.splitext(posixpath.basename(key))[0] for key in images}
    if not asked and not stems:
        return [], []
    found: set[str] = set(asked)
    requests: list[tuple[str, str]] = []
    keys = [item.key for item in storage.list("tables/captured_requests") if item.key.endswith(".parquet")]
    rows: set[tuple[str, str, str]] = set()
    for data in storage.get_many(keys):
        if data is not None:
            table = pq.read_table(io.BytesIO(data), columns=["day", "request_id", "image"]).to_pydict()
            rows |= {row for row in zip(table["day"], table["request_id"], table["image"], strict=True) if row[2]}
    for item in storage.list(layout.CAPTURES) if stems else ():
        name = posixpath.splitext(posixpath.basename(item.key))[0]
        if name in stems and not captures.is_part(item.key) and digest_of(storage, item.key) in digests:
            found.add(item.key)
    requests = sorted({(day, request) for day, request, image in rows if image in found})
    return sorted(found), requests

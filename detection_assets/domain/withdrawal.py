"""What it means that a video was withdrawn: what is noted of it, what of a table is its, and what of a text.

A video is withdrawn for good. What is derived from it is told by lineage alone: rows that name the video or one of its
frames, and what carries their names. A picture that merely looks alike is somebody else's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pandas as pd

from detection_assets.domain import file_names, layout
from detection_assets.domain.card import escape

if TYPE_CHECKING:
    import pyarrow as pa

ERASED = "*picture erased*"
"""What stands in the place of a picture in a text of markdown."""
_PICTURE = "](data:image/"


@dataclass(frozen=True)
class Serves:
    """A registered model that learned from the video, and where it served when that was looked at.

    Attributes:
        version: The registered version.
        dataset: The dataset that taught it.
        where: Slots with their shares, as `blue 100 %`; empty if it did not serve.
    """

    version: str
    dataset: str
    where: str = ""


@dataclass(frozen=True)
class Withdrawal:
    """Who withdrew a video, and what was found to come from it. No name of a person but that of who decided.

    Attributes:
        video: The video's key.
        by: Who decided it.
        reason: Why.
        at: When, in ISO 8601, UTC.
        kind: `video` or `images`.
        sha256: Digest of its content as `raw_videos` has it, or "" if nothing is left of it.
        frames_sha256: Digest of the digests of its kept frames, sorted, a line each; "" if it has none.
        found: How much was found, by what it is.
        datasets: Versions of the dataset that hold it.
        evaluations: Versions of evaluations that were made on it.
        tunings: Versions of tunings on such datasets.
        profiles: Prefixes of profiles of such datasets.
        batches: Batches of label requests that ask for its frames.
        models: Registered versions that such datasets taught.
        shared: Annotation files that hold boxes of it and speak for other videos, too.
    """

    video: str
    by: str
    reason: str
    at: str
    kind: str = "video"
    sha256: str = ""
    frames_sha256: str = ""
    found: Mapping[str, int] = field(default_factory=dict)
    datasets: Sequence[str] = ()
    evaluations: Sequence[str] = ()
    tunings: Sequence[str] = ()
    profiles: Sequence[str] = ()
    batches: Sequence[str] = ()
    models: Sequence[Serves] = ()
    shared: Sequence[str] = ()

    def why(self) -> str:
        """The decision in a line."""
        return f"{self.video} was withdrawn by {self.by} on {self.at[:10]}: {self.reason}"

    def dump(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @staticmethod
    def load(told: Mapping[str, Any]) -> Withdrawal:
        """Reads what `dump` wrote; what a later release adds is not looked at."""
        known = _known(Withdrawal, told)
        known["models"] = tuple(Serves(**_known(Serves, one)) for one in known.get("models", ()))
        return Withdrawal(**known)


@dataclass(frozen=True)
class Override:
    """Somebody answers for it that a model serves which learned from a withdrawn video.

    Attributes:
        model: The registered version.
        video: The video.
        by: Who decided it.
        reason: Why.
        at: When, in ISO 8601, UTC.
    """

    model: str
    video: str
    by: str
    reason: str
    at: str


@dataclass(frozen=True)
class Tombstone:
    """What proves that a video's data was erased. It holds no content and nothing that content could be made from.

    Attributes:
        video: The video's key.
        withdrawn_by: Who withdrew it.
        withdrawn_at: When.
        erased_by: Who had it erased.
        began: When the plan was made.
        ended: When a search for what is left found nothing.
        sha256: Digest of the content.
        frames_sha256: As of `Withdrawal`.
        counts: How much was erased, by place.
        left: What a person has to erase, in other systems or in files that speak for others, too: place and remedy.
        software: Version of this project.
    """

    video: str
    withdrawn_by: str
    withdrawn_at: str
    erased_by: str
    began: str
    ended: str
    sha256: str
    frames_sha256: str
    counts: Mapping[str, int]
    left: Sequence[str]
    software: str

    @staticmethod
    def load(told: Mapping[str, Any]) -> Tombstone:
        """Reads one, of this release or a later one."""
        return Tombstone(**_known(Tombstone, told))


def _known(kind: type[Any], told: Mapping[str, Any]) -> dict[str, Any]:
    names = {one.name for one in fields(kind)}
    return {name: value for name, value in told.items() if name in names}


def is_its(video: str, frame: str) -> bool:
    """Whether a frame's id is one of a video."""
    return frame.startswith(f"{video}#")


def tells_of(data: bytes, video: str) -> bool:
    """Whether an order, a message or a list names a video, one of its frames, or what is published of it.

    A video's key may be a part of another's: `cam` of `cam/monday.mp4`, `clip.mp4` of `store/clip.mp4`. What names only
    these is somebody else's, and what cannot be told apart, as after a blank, counts as its own.
    """
    forms = {video, json.dumps(video)[1:-1], json.dumps(video, ensure_ascii=False)[1:-1], quote(video)}
    either = b"|".join(re.escape(form.encode()) for form in sorted(forms))
    return re.search(_BEFORE + b"(?:" + either + b")" + _BEHIND, data) is not None


_PART = rb"\w\x80-\xff-"
_ROOTS = (layout.VIDEOS, layout.FRAMES, "predictions", "looks")
_BEFORE = (
    b"(?:(?<![./" + _PART + rb"])|(?<=\\[nrt])|" + b"|".join(rf"(?<=\b{root}/)".encode() for root in _ROOTS) + b")"
)
_IMAGE = b"|".join(sorted(suffix[1:].encode() for suffix in file_names.IMAGE_SUFFIXES))
_BEHIND = (
    b"(?![" + _PART + rb"])(?!\.\w)(?!/(?!\"|$|[0-9a-f]{16}\b|[^/\"\n]*\.(?i:" + _IMAGE + rb")(?![." + _PART + b"])))"
)
"""What may stand before a key that is no part of a longer one, and behind it: its versions, and a folder's images."""


def rows_of(table: pa.Table, video: str, also: Mapping[str, Collection[str]] | None = None) -> npt.NDArray[np.bool_]:
    """Which rows of a table are a video's.

    Args:
        table: Any table of the lake.
        video: The video's key.
        also: By column, further values that are the video's: names of its pictures, keys of its captures.

    Returns:
        True for each row that names the video, one of its frames, or one of those values.
    """
    import pyarrow as pa
    from pyarrow import compute

    pc: Any = compute  # its functions are made when it is imported

    its: npt.NDArray[np.bool_] = np.zeros(table.num_rows, np.bool_)
    names = set(table.column_names)

    def add(found: Any) -> None:
        nonlocal its
        its = its | pc.fill_null(found, False).to_numpy().astype(np.bool_)

    def text(column: str) -> Any:
        return pc.cast(table.column(column), pa.string())

    if "video" in names:
        add(pc.equal(text("video"), video))
    if "frame" in names:
        add(pc.starts_with(text("frame"), f"{video}#"))
    if {"slice_kind", "slice"} <= names:
        add(pc.and_(pc.equal(text("slice_kind"), "video"), pc.equal(text("slice"), video)))
    for column, values in (also or {}).items():
        if column in names and values:
            add(pc.is_in(text(column), pa.array(sorted(values), pa.string())))
    return its


def without_pictures(text: str, video: str, also: Collection[str] = ()) -> tuple[str, int]:
    """A text, markdown or JSON with markdown in it, without the pictures of a video that are embedded in it.

    Args:
        text: The text.
        video: The video, one of whose frames a picture is called.
        also: Further names of pictures; "" is that of a picture without one.

    Returns:
        The text with a few words in the place of each such picture, and how many there were.
    """
    names = [f"![{_way(name)}" for name in (f"{video}#", escape(f"{video}#")) for _way in (str, _json)]
    whole = {f"![{_way(name)}]" for name in also for _way in (str, _json)}
    kept: list[str] = []
    done = count = 0
    for at, end in _pictures(text):
        before = text[done:at]
        start = max((before.rfind(name) for name in names), default=-1)
        start = max([start, *(before.rfind(name[:-1]) for name in whole if before.endswith(name[:-1]))])
        if start < 0:
            continue
        kept += [before[:start], ERASED]
        done, count = end, count + 1
    return "".join([*kept, text[done:]]) if count else text, count


def _pictures(text: str) -> Iterator[tuple[int, int]]:
    """Where the name of each embedded picture ends, and where the picture does."""
    at = text.find(_PICTURE)
    while at >= 0:
        end = text.find(")", at)
        if end < 0:
            return
        yield at, end + 1
        at = text.find(_PICTURE, end)


def _json(text: str) -> str:
    return json.dumps(text)[1:-1]


def told(withdrawals: Iterable[Withdrawal]) -> pd.DataFrame:
    """Withdrawals as a table: `video`, `withdrawn`, `by`, `reason`."""
    rows = [(one.video, one.at, one.by, one.reason) for one in withdrawals]
    return pd.DataFrame(rows, columns=["video", "withdrawn", "by", "reason"])

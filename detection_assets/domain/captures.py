"""Reading what the server kept of requests: parts of JSON lines, one object a request.

A part is written whole, but disks fill and machines die: a line that is no whole request is left out and told.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Any, Literal

import orjson
import pandas as pd
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from detection_assets.domain import file_names
from detection_assets.domain.image_statistics import NAMES
from detection_assets.domain.problems import Problem

SAMPLE = "sample"
"""Why a request was kept: drawn at random. Only such requests stand for all of them."""
UNSURE = "low confidence"
"""Why a request was kept: the model was unsure. Worth a look, but no fair picture of what comes in."""

_PLAIN_NAME = re.compile(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]*")


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class _Box(_Lenient):
    # `class` is a word of Python's.
    label: str = Field(alias="class")
    confidence: float
    x1: float
    y1: float
    x2: float
    y2: float


class _Row(_Lenient):
    time: AwareDatetime
    request_id: str = Field(min_length=1, max_length=200)
    slot: str
    version: str
    status: int
    latency_ms: float = Field(ge=0)
    why: Literal["sample", "low confidence"]
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    brightness: float | None = None
    contrast: float | None = None
    sharpness: float | None = None
    red: float | None = None
    green: float | None = None
    blue: float | None = None
    image: str | None = None
    boxes: list[_Box]

    @field_validator("image")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        if value is not None and not _PLAIN_NAME.fullmatch(value):
            raise ValueError("is no plain file name")
        return value


_ROW = TypeAdapter(_Row)


def is_part(key: str) -> bool:
    """Whether a key below `captures/` is a part that was written whole."""
    return key.endswith(".jsonl") and not file_names.is_transient(key)


def read(parts: Iterable[tuple[str, bytes]], day: str) -> tuple[pd.DataFrame, list[Problem]]:
    """Reads the requests of a day.

    Args:
        parts: Storage key and content of each part, in any order.
        day: The day that they belong to, such as `2026-03-01`.

    Returns:
        A table with the columns of `captured_requests`, in order of time, each request id once; and the lines that
        were left out, with file and line. Callers choose their ids and may choose one twice: the second request with
        the id `a` is called `a~2`. A request that is there twice, with the same time, is one.
    """
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for key, data in parts:
        folder = key.rpartition("/")[0]
        for number, line in enumerate(data.split(b"\n"), 1):
            if not line.strip():
                continue
            try:
                row = _ROW.validate_json(line)
            except ValidationError as error:
                problems.append(Problem(key, f"line {number}", _said(error), "skipped"))
                continue
            rows.append(_row(row, folder, day))
    rows.sort(key=lambda row: (row["time"], row["request_id"]))
    unique: dict[tuple[str, datetime], dict[str, Any]] = {}
    times: Counter[str] = Counter()
    for row in rows:
        name = row["request_id"]
        if unique.setdefault((name, row["time"]), row) is row:
            times[name] += 1
            row["request_id"] = f"{name}~{times[name]}" if times[name] > 1 else name
    table = pd.DataFrame(list(unique.values()), columns=COLUMNS)
    table["time"] = pd.to_datetime(table["time"], utc=True)
    return table, problems


def _row(row: _Row, folder: str, day: str) -> dict[str, Any]:
    boxes = [
        {"class": box.label, **{name: getattr(box, name) for name in ("confidence", "x1", "y1", "x2", "y2")}}
        for box in row.boxes
    ]
    return {
        "day": day,
        "time": row.time.astimezone(timezone.utc),
        **{name: getattr(row, name) for name in ("request_id", "slot", "version", "status", "latency_ms", "why")},
        **{name: getattr(row, name) for name in ("width", "height", *NAMES)},
        "image": f"{folder}/{row.image}" if row.image else None,
        "boxes": len(boxes),
        "answer": orjson.dumps(boxes).decode(),
    }


COLUMNS = [
    *("day", "time", "request_id", "slot", "version", "status", "latency_ms", "why", "width", "height", *NAMES),
    *("image", "boxes", "answer"),
]


def _said(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])


def boxes(requests: pd.DataFrame) -> pd.DataFrame:
    """The answered boxes of some requests.

    Args:
        requests: Rows of `captured_requests`.

    Returns:
        A row a box: `frame` (the request's id), `class`, `confidence`, `x1 y1 x2 y2` in pixels of the picture as
        displayed.
    """
    found: list[tuple[Any, ...]] = []
    for request, answer in zip(requests["request_id"], requests["answer"], strict=True):
        if answer == "[]":
            continue
        found += [
            (request, box["class"], box["confidence"], box["x1"], box["y1"], box["x2"], box["y2"])
            for box in orjson.loads(answer)
        ]
    names = ["frame", "class", "confidence", "x1", "y1", "x2", "y2"]
    table = pd.DataFrame(found, columns=names)
    return table.astype({"class": object, **dict.fromkeys(names[2:], "float64")})


def picture_name(row: Any) -> str:
    """What the picture of a request is called, without its ending: as the server kept it, or the request's id.

    Args:
        row: A row of `captured_requests`, by attribute.
    """
    image = row.image
    return posixpath.splitext(posixpath.basename(image))[0] if isinstance(image, str) else str(row.request_id)


def service(requests: pd.DataFrame) -> pd.DataFrame:
    """How the endpoint did, by deployment, as the kept requests tell it.

    Latencies are of the requests drawn at random, for the others were kept because of what was found in them.

    Args:
        requests: Rows of `captured_requests`.

    Returns:
        `version`, `slot`, `kept` (requests in all), `drawn` (at random), `p50_ms`, `p95_ms`, `p99_ms`, `first`, `last`
        (times of the day, UTC).
    """
    rows: list[dict[str, Any]] = []
    for (version, slot), part in requests.groupby(["version", "slot"], sort=True):
        drawn = part[part["why"] == SAMPLE]
        quantiles: Sequence[float] = drawn["latency_ms"].quantile([0.5, 0.95, 0.99]).tolist()
        rows.append({
            "version": version, "slot": slot, "kept": len(part), "drawn": len(drawn),
            **dict(zip(("p50_ms", "p95_ms", "p99_ms"), quantiles, strict=True)),
            "first": f"{part['time'].min():%H:%M:%S}", "last": f"{part['time'].max():%H:%M:%S}",
        })  # fmt: skip
    return pd.DataFrame(
        rows, columns=["version", "slot", "kept", "drawn", "p50_ms", "p95_ms", "p99_ms", "first", "last"]
    )

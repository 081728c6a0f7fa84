"""What an annotation tool says of a box beyond its corners: our columns where we have one, else JSON text.

Tools write these as free attributes, each with a name and a value. `occluded`, `track_id`, `annotator` and a few more
mean a column of ours; the others are kept together, as the text of a JSON object with sorted keys.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import orjson

from detection_assets.domain.formats.parsed import FLAGS

MAX_DEPTH = 64
"""Attributes nested deeper are no attributes."""

_FLAG_TEXTS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def flag(value: object) -> bool | None:
    """The value as a flag; None where it is none. Tools write `true`, `1`, `"true"` and `"1"`."""
    if isinstance(value, str):
        return _FLAG_TEXTS.get(value.strip().lower())
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    return None


def _text(value: object) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _track(value: object) -> str | None:
    if isinstance(value, bool):
        return None
    return str(value) if isinstance(value, int) else _text(value)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


MEANT: dict[str, tuple[str, Callable[[object], Any]]] = {
    "track_id": ("track", _track),
    "annotator": ("annotator", _text),
    "reviewed": ("reviewed", flag),
    "score": ("confidence", _number),
    "confidence": ("confidence", _number),
    "is_crowd": ("crowd", flag),
    **{name: (name, flag) for name in FLAGS},
}
"""The column that an attribute's name means, and how its value is read."""

NAMES = {"track": "track_id", "annotator": "annotator", "reviewed": "reviewed", "confidence": "confidence"} | {
    name: name for name in FLAGS
}
"""What a column is called among the attributes that we write."""


def sort_out(attributes: Mapping[str, object]) -> tuple[dict[str, Any], dict[str, object]]:
    """Parts attributes into our columns and the rest.

    Args:
        attributes: Values by name.

    Returns:
        Values by column, and what is left, with what has a column's name but no value that fits it.
    """
    columns: dict[str, Any] = {}
    rest: dict[str, object] = {}
    for name, value in attributes.items():
        column, read = MEANT.get(name, ("", _text))
        known = read(value) if column else None
        if known is None or column in columns:
            rest[name] = value
        else:
            columns[column] = known
    return columns, rest


def to_json(attributes: Mapping[str, object]) -> str | None:
    """The text of a JSON object with sorted keys; None for nothing, or for what JSON cannot hold."""
    if not attributes:
        return None
    try:
        return orjson.dumps(attributes, option=orjson.OPT_SORT_KEYS).decode()
    except TypeError:  # whole numbers of more than 64 bits, or half a character; json writes both
        pass
    try:
        return json.dumps(attributes, sort_keys=True, separators=(",", ":")) if _shallow(attributes, 0) else None
    except (TypeError, ValueError):
        return None


def _shallow(value: object, depth: int) -> bool:
    if depth > MAX_DEPTH:
        return False
    inside: Iterable[object] = ()
    if isinstance(value, dict):
        inside = cast("dict[object, object]", value).values()
    elif isinstance(value, list):
        inside = cast("list[object]", value)
    return all(_shallow(one, depth + 1) for one in inside)


def from_json(text: object) -> dict[str, Any]:
    """The object that the column `attributes` holds; nothing where it holds none."""
    try:
        found = orjson.loads(text) if isinstance(text, str) else None
    except orjson.JSONDecodeError:
        try:
            found = json.loads(cast("str", text))
        except (ValueError, RecursionError):
            return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def to_write(says: Mapping[str, Any], columns: Iterable[str]) -> dict[str, Any]:
    """The attributes to write of a box: those of its own, and the columns among `columns` that say something.

    A `reviewed` that is False says nothing. What a column says goes before an attribute of its name.
    """
    found = from_json(says.get("attributes"))
    for column in columns:
        value = says.get(column)
        if value is not None and not (column == "reviewed" and not value):
            found[NAMES[column]] = value
    return found


def as_text(value: object) -> str:
    """An attribute's value as XML holds it: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def is_plain(value: object) -> bool:
    """Whether XML gives back the value as it was: text, but for carriage returns, which XML turns into line feeds."""
    return isinstance(value, str) and "\r" not in value

"""A request held against botocore's model of a service, which knows more than botocore's client checks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

LETTERS = {
    **{r"\p{L}": "a-zA-Z", r"\p{Z}": " ", r"\p{N}": "0-9", r"\p{M}": "\u0300-\u036f"},
    **{r"\p{S}": r"$+<=>^`|~", r"\p{P}": r"!\"#%&'()*,\-./:;?@\[\]\\_{}"},
}
"""Classes of characters that the service's patterns name and Python's do not; narrower here."""


def problems(shape: Any, value: Any, where: str) -> Iterator[str]:
    """What botocore's model of the service has against a value: it knows more than its client checks."""
    kind = shape.type_name
    if kind == "structure":
        if not isinstance(value, dict):
            yield f"{where or 'request'} is no structure"
            return
        for name in shape.required_members:
            if name not in value:
                yield f"Value null at '{where}{name}' failed to satisfy constraint: Member must not be null"
        for name, part in value.items():
            if name not in shape.members:
                yield f"{where}{name} is unknown"
            else:
                yield from problems(shape.members[name], part, f"{where}{name}.")
    elif kind == "list":
        yield from _outside(shape, len(value), where, "length")
        for number, part in enumerate(value):
            yield from problems(shape.member, part, f"{where}{number}.")
    elif kind == "map":
        yield from _outside(shape, len(value), where, "length")
        for key, part in value.items():
            yield from problems(shape.key, key, f"{where}{key}.")
            yield from problems(shape.value, part, f"{where}{key}.")
    elif kind == "string":
        if not isinstance(value, str):
            yield f"{where} is no string"
            return
        yield from _outside(shape, len(value), where, "length")
        pattern, allowed = shape.metadata.get("pattern"), shape.metadata.get("enum")
        failed = f"Value '{value}' at '{where[:-1]}' failed to satisfy constraint: Member must satisfy"
        if pattern and not re.fullmatch(_python(pattern), value):
            yield f"{failed} regular expression pattern: {pattern}"
        if allowed and value not in allowed:
            yield f"{failed} enum value set: {sorted(allowed)}"
    elif kind in ("integer", "long", "float", "double"):
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield f"{where} is no number"
            return
        yield from _outside(shape, value, where, "value")
    elif kind == "boolean" and not isinstance(value, bool):
        yield f"{where} is no boolean"


def _python(pattern: str) -> str:
    """A pattern of the service's in Python's words; some end in a repetition of the end."""
    for java, here in LETTERS.items():
        pattern = pattern.replace(java, here)
    return re.sub(r"\$\{\d+,\d+\}$", "", pattern)


def _outside(shape: Any, value: float, where: str, what: str) -> Iterator[str]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and value < low:
        yield f"'{where[:-1]}' failed to satisfy constraint: Member must have {what} greater than or equal to {low}"
    if high is not None and value > high:
        yield f"'{where[:-1]}' failed to satisfy constraint: Member must have {what} less than or equal to {high}"

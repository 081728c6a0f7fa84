"""A request held against the models of Azure ML's interface that the SDK brings, more closely than the SDK does."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from datetime import timedelta
from enum import EnumMeta
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fakes.azureml_refusals import Refused

NAME = r"[a-zA-Z0-9][a-zA-Z0-9\-_.]{0,254}"
Answer = tuple[int, Any, dict[str, str]]
"""Status, body, headers."""


@functools.cache
def _models() -> Any:
    from azure.ai.ml._restclient.arm_ml_service import models

    return models


def held(shape: str, body: Any) -> None:
    """Refuses a request that is not of its shape.

    Args:
        shape: The shape's name, as `JobBase`.
        body: The request's.
    """
    found = problems(shape, body)
    if found:
        raise Refused(400, "UserError", f"The request is invalid: {'; '.join(found)}")


def named(path: str) -> dict[str, Any]:
    """What each resource that Azure tells of begins with."""
    moment = {"createdAt": "2026-01-01T00:00:00Z", "createdBy": "identity", "createdByType": "Application"}
    return {
        "id": path,
        "name": path.rsplit("/", 1)[-1],
        "type": "Microsoft.MachineLearningServices",
        "systemData": moment,
    }


def problems(name: str, value: Any) -> list[str]:
    """What a request has that its shape does not, or lacks.

    Args:
        name: The shape's, as `JobBase`.
        value: The request's body.
    """
    return list(_of_model(getattr(_models(), name), value, ""))


def _of_model(kind: Any, value: Any, where: str) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{where or 'the request'} is no object"
        return
    kind = _exact(kind, value)
    fields = {field._rest_name: (attribute, field) for attribute, field in _fields(kind).items()}
    hints = _hints(kind)
    for key, part in value.items():
        if key not in fields:
            yield f"Could not find member '{key}' on object of type '{kind.__name__}' at {where or '/'}"
        elif part is not None:
            yield from _of(hints[fields[key][0]], part, f"{where}/{key}")
    for key, (attribute, field) in fields.items():
        optional = type(None) in get_args(hints[attribute])
        if not optional and value.get(key) is None and field._visibility != ["read"]:
            yield f"The {key} field is required at {where or '/'}"


def _exact(kind: Any, value: Mapping[str, Any]) -> Any:
    """The shape that a request says it has, where there are several."""
    known = dict(getattr(kind, "__mapping__", {}))
    for field in _fields(kind).values():
        if field._is_discriminator and value.get(field._rest_name) in known:
            return known[value[field._rest_name]]
    return kind


@functools.cache
def _fields(kind: Any) -> dict[str, Any]:
    kind.__new__(kind)  # which works them out
    return dict(kind._attr_to_rest_field)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    import datetime

    names = {**vars(_models()), "_models": _models(), "datetime": datetime}
    hints: dict[str, Any] = {}
    for one in reversed(kind.__mro__):
        if "__annotations__" in vars(one) and hasattr(one, "as_dict"):
            hints |= get_type_hints(one, {**names, **vars(__import__(one.__module__, fromlist=["x"]))}, names)
    return hints


def _of(kind: Any, value: Any, where: str) -> Iterator[str]:
    origin, parts = get_origin(kind), [part for part in get_args(kind) if part is not type(None)]
    if kind is Any:
        return
    if origin in (Union, UnionType):
        enums = [part for part in parts if isinstance(part, EnumMeta)]
        if enums:
            allowed = [str(item.value) for item in enums[0]]
            # The service reads these words without a look at their case, and the SDK writes `aadToken`.
            if str(value).lower() not in [one.lower() for one in allowed]:
                yield f"{where}: {value!r} is none of {allowed}"
            return
        tries = [list(_of(part, value, where)) for part in parts]
        if all(tries):
            yield from tries[0]
    elif origin is Literal:
        if value not in [getattr(part, "value", part) for part in parts]:
            yield f"{where}: {value!r} is not {parts}"
    elif origin is dict:
        if not isinstance(value, Mapping):
            yield f"{where} is no object"
            return
        for key, part in value.items():
            # The service takes null in a map for nothing at all.
            yield from _of(parts[1], part, f"{where}/{key}") if part is not None else ()
    elif origin is list:
        if not isinstance(value, list):
            yield f"{where} is no list"
            return
        for number, part in enumerate(value):
            yield from _of(parts[0], part, f"{where}/{number}")
    elif isinstance(kind, type) and hasattr(kind, "as_dict"):
        yield from _of_model(kind, value, where)
    elif kind in (str, bool, int, float, timedelta):
        wanted = {str: str, bool: bool, int: int, float: (int, float), timedelta: str}[kind]
        if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
            yield f"{where} is no {kind.__name__}"

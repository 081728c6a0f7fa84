"""Cron schedules: what is wrong with one, said in words."""

from __future__ import annotations

import re

CRON: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day", 1, 31, ()),
    ("month", 1, 12, ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")),
    ("weekday", 0, 7, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
)


def cron_problem(text: str) -> str | None:
    """Says what is wrong with a cron schedule of five fields or a word such as `@weekly`; None if it is right."""
    if text in {"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"}:
        return None
    fields = text.lower().split()
    if len(fields) != 5:
        return f"has {len(fields)} fields, not the five of minute, hour, day, month and weekday: {text!r}"
    taken: list[set[int]] = []
    for field, (what, low, high, names) in zip(fields, CRON, strict=True):
        values: set[int] = set()
        for part in field.split(","):
            match = re.fullmatch(r"(?:\*|([a-z]+|[0-9]{1,4})(?:-([a-z]+|[0-9]{1,4}))?)(?:/([0-9]{1,4}))?", part)
            if not match:
                return f"cannot be read: {what} {part!r}"
            first, last, step = match.groups()
            ends = [
                names.index(end) + low if end in names else int(end) if end.isdigit() else -1
                for end in (first, last)
                if end
            ]
            start, stop = (ends[0], ends[-1]) if ends else (low, high)
            if not low <= start <= stop <= high or step == "0":
                return f"has {what} {part!r}, which is not within {low} to {high}"
            values.update(range(start, (high if step and not last else stop) + 1, int(step or 1)))
        taken.append(values)
    if min(taken[2]) > max((29 if month == 2 else 30 if month in {4, 6, 9, 11} else 31) for month in taken[3]):
        return f"names a day that its months do not have: {text!r}"
    return None

"""The report of what was wrong with annotations, as a CSV that an annotator works through in a spreadsheet.

Its texts come from strangers, so what a spreadsheet would take for a formula is marked as text.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from detection_assets.domain.problems import Problem

COLUMNS = [
    *("file", "place", "video", "frame", "class", "x1", "y1", "x2", "y2", "kind", "what", "action", "remedy", "number")
]
LOST = ("dropped", "skipped")
"""Actions after which something that an annotator drew is not in the table."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_TEXT = ("file", "place", "video", "frame", "class", "kind", "what", "action", "remedy")
_MARK = "\ufeff"  # without it, a spreadsheet takes UTF-8 for something else


def rows(problems: Iterable[Problem]) -> pd.DataFrame:
    """A row a problem, columns as `COLUMNS`; corners in pixels where the frame is known, NaN where there is no box."""
    nowhere = (float("nan"),) * 4
    return pd.DataFrame(
        [
            (
                *(one.file, one.place, one.video or "", one.frame or "", one.label or "", *(one.box or nowhere)),
                *(one.kind or "other", one.what, one.action, one.remedy, one.number),
            )
            for one in problems
        ],
        columns=COLUMNS,
    )


def by_kind(problems: Iterable[Problem]) -> dict[str, int]:
    """How many boxes, or places of files, had a problem of each kind and what was done: `no area, dropped` for one."""
    counts: Counter[str] = Counter()
    for one in problems:
        counts[f"{one.kind or 'other'}, {one.action}"] += one.number
    return dict(sorted(counts.items()))


def to_csv(table: pd.DataFrame) -> bytes:
    """A table as CSV for spreadsheets: UTF-8 with its mark, texts that look like formulas with an apostrophe before.

    Args:
        table: Any table; numbers stay numbers, NaN and None become empty cells.
    """
    columns: list[Sequence[Any]] = []
    for name in table.columns:
        column = table[name]
        values = column.astype(object).where(column.notna(), "").tolist()
        columns.append([_as_text(value) if isinstance(value, str) else value for value in values])
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([_as_text(str(name)) for name in table.columns])
    writer.writerows(zip(*columns, strict=True))
    return (_MARK + out.getvalue()).encode("utf-8", "backslashreplace")


def from_csv(data: bytes) -> pd.DataFrame:
    """What `to_csv` wrote of `rows`."""
    table = pd.read_csv(
        io.BytesIO(data), encoding="utf-8-sig", dtype=dict.fromkeys(_TEXT, object), keep_default_na=False
    )
    for name in _TEXT:
        table[name] = [text[1:] if text[:1] == "'" and text[1:].startswith(_FORMULA) else text for text in table[name]]
    for name in ("x1", "y1", "x2", "y2"):
        table[name] = pd.to_numeric(table[name], errors="coerce").astype("float64")
    return table


def _as_text(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def lost(table: pd.DataFrame) -> int:
    """How many boxes, or places of files, of a report were dropped or skipped."""
    return int(table.loc[table["action"].isin(LOST), "number"].sum())


def summary(counts: Mapping[str, int]) -> pd.DataFrame:
    """`by_kind` as a table, most first: kind, action, number."""
    split = [(*kind.rsplit(", ", 1), number) for kind, number in counts.items()]
    table = pd.DataFrame(split, columns=["kind", "action", "number"])
    return table.sort_values(["number", "kind"], ascending=[False, True], ignore_index=True)


def about(table: pd.DataFrame, video: str, files: Collection[str] = ()) -> pd.Series:
    """Which rows are about a video: they name it, one of its frames, or a file that speaks for it alone."""
    its = (table["video"] == video) | table["frame"].str.startswith(f"{video}#") | table["file"].isin(list(files))
    return its.astype(bool)

"""An answer of lineage for people: at a terminal and, in Markdown, on an asset's page in Dagster."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from detection_assets.domain import card
from detection_assets.domain.lineage_questions import Question, about

MOST = 20
"""Rows of an answer that an asset's page shows."""
HIDDEN = ("sha256", "key", "run")
"""Columns that only programs read."""


def condensed(found: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """What all rows of an answer have in common, in a line, and a table of the rest without its empty columns."""
    shown = found.drop(columns=[name for name in HIDDEN if name in found])
    same = [name for name in shown if len(shown) > 1 and shown[name].nunique(dropna=False) == 1]
    said = [f"{name} {text(shown[name].iloc[0])}" for name in same if text(shown[name].iloc[0])]
    rest = shown.drop(columns=same)
    return ", ".join(said), rest.loc[:, [bool(rest[name].notna().any()) for name in rest]]


def text(value: Any) -> str:
    """A value as people read it; "" if there is none."""
    if value is None or pd.isna(value):
        return ""
    if isinstance(value, pd.Timestamp):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def markdown(question: Question, detector: str, found: pd.DataFrame, **known: str) -> str:
    """The question, the first rows of its answer, how many there are, and how to ask for all of them.

    Args:
        question: The question.
        detector: The detector.
        found: The answer, or a table that sums it up.
        known: What is filled in, such as the version.
    """
    said, shown = condensed(found)
    parts = [f"**{question.title}**", card.escape(said)]
    if found.empty:
        parts.append(card.escape(question.nothing(**known)))
    elif len(shown.columns):
        parts.append(first(shown))
    if len(found) > MOST:
        parts.append(f"The first {MOST} of {len(found):,}.")
    return "\n\n".join(part for part in [*parts, ways(question, detector, **known)] if part)


def first(found: pd.DataFrame) -> str:
    """The first rows of a table, in Markdown, times to the second."""
    rows = found.head(MOST)
    times = [name for name in rows if isinstance(rows[name].dtype, pd.DatetimeTZDtype)]
    return card.frame_table(rows.assign(**{str(name): [text(value) or None for value in rows[name]] for name in times}))


def ways(question: Question, detector: str, **known: str) -> str:
    """How to ask a question, as a list: the command, and the line of Python."""
    asking = question.asking(detector, **known)
    return "\n".join(f"- {_code(command)}, or {_code(line)}" for line, command in asking)


def offered(asset: str, detector: str) -> str:
    """The questions about an asset and how to ask them, as Markdown; "" if there are none."""
    parts = []
    for question in about(asset):
        also = f" {question.also}." if question.also else ""
        parts.append(f"**{question.title}**{also}\n\n{ways(question, detector)}")
    return "\n\n".join([*parts, "The Python begins with `from detection_assets import lineage`."]) if parts else ""


def _code(said: str) -> str:
    """Text as Markdown's code, whatever stands in it."""
    line = " ".join(said.split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line}{fence}"

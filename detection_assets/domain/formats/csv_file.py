"""CSV from strangers, as columns of text: lines of the wrong length are told apart, the others keep their numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detection_assets.domain.formats.parsed import Unreadable

_BLOCK = 2**24
"""Bytes read at a time; no line can be longer."""

_NUMBER = r"^-?(\d+(\.\d*)?(e[-+]?\d{1,9})?|\.\d+(e[-+]?\d{1,9})?|inf(inity)?)$"


@dataclass(frozen=True)
class Lines:
    """The lines of a CSV file.

    Attributes:
        columns: Text by column name.
        numbers: The number of each line, counted from 1.
        bad: Number, fields expected, fields found, of each line that was left out.
    """

    columns: dict[str, np.ndarray]
    numbers: np.ndarray
    bad: list[tuple[int, int, int]]


def fields(line: str, delimiter: str) -> list[str]:
    """The fields of one line, without the spaces around them."""
    try:
        return [field.strip() for field in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []


def read(text: str, delimiter: str, names: Sequence[str], remedy: str, *, header: bool) -> Lines:
    """Reads a file of lines that all have the same fields.

    Args:
        text: The file.
        delimiter: What stands between fields.
        names: The fields' names, each once.
        remedy: What to do about a file that cannot be read.
        header: Whether the first line says only the names.

    Raises:
        Unreadable: It is no CSV.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow

    bad: list[tuple[int, int, int]] = []
    width = len(names)

    if not text.strip():
        return Lines({name: np.empty(0, dtype=object) for name in names}, np.empty(0, dtype=np.int64), bad)

    def leave_out(row: Any) -> str:
        bad.append((row.number, width, row.actual_columns))
        return "skip"

    try:
        found = arrow.read_csv(
            io.BytesIO(text.encode()),
            read_options=arrow.ReadOptions(use_threads=False, block_size=_BLOCK, column_names=list(names)),
            parse_options=arrow.ParseOptions(
                delimiter=delimiter, invalid_row_handler=leave_out, ignore_empty_lines=False
            ),
            convert_options=arrow.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise Unreadable(f"not CSV: {str(error)[:200]}", remedy) from None
    columns = {name: found.column(name).to_numpy() for name in names}
    every = np.arange(1, found.num_rows + len(bad) + 1)
    numbers = every[~np.isin(every, np.array([number for number, _, _ in bad], dtype=np.int64))]
    said = np.zeros(len(numbers), dtype=bool)
    for column in columns.values():
        said |= column != ""
    if header:
        said[np.flatnonzero(said)[:1]] = False
    # Blank lines are no mistake, but count.
    return Lines({name: column[said] for name, column in columns.items()}, numbers[said], bad)


def number(texts: np.ndarray) -> np.ndarray:
    """Texts as numbers, with a point or a comma before the decimals; NaN for what is none."""
    import pyarrow as pa
    from pyarrow import compute

    # Not pandas' to_numeric: it is off in the last digit, and what was written must come back.
    plain = compute.utf8_trim_whitespace(pa.array(texts, type=pa.string()))
    plain = compute.utf8_ltrim(compute.replace_substring(plain, ",", "."), "+")
    is_one = compute.match_substring_regex(plain, _NUMBER, ignore_case=True)
    return compute.cast(compute.if_else(is_one, plain, None), pa.float64()).to_numpy(zero_copy_only=False)

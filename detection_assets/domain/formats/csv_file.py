"""CSV from strangers, as columns of text: lines of the wrong length are told apart, the others keep their numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detection_assets.domain.formats.parsed import Unreadable, decode

_BLOCK = 2**24
"""Bytes read at a time; no line can be longer."""

MAX_BAD = 100_000
"""Lines of the wrong length in a file that is read all the same."""

_NUMBER = r"^-?(\d+(\.\d*)?(e[-+]?\d{1,9})?|\.\d+(e[-+]?\d{1,9})?|inf(inity)?)$"


@dataclass(frozen=True)
class Lines:
    """The lines of a CSV file.

    Attributes:
        columns: Text by column name, as arrow's arrays: a tenth of the memory of Python's strings.
        numbers: The number of each line, counted from 1.
        bad: Number, fields expected, fields found, of each line that was left out.
    """

    columns: dict[str, Any]
    numbers: np.ndarray
    bad: list[tuple[int, int, int]]


def fields(line: str, delimiter: str) -> list[str]:
    """The fields of one line, without the spaces around them."""
    try:
        return [field.strip() for field in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []


def read(data: bytes, delimiter: str, names: Sequence[str], remedy: str, *, header: bool) -> Lines:
    """Reads a file of lines that all have the same fields.

    Args:
        data: The file.
        delimiter: What stands between fields.
        names: The fields' names, each once.
        remedy: What to do about a file that cannot be read.
        header: Whether the first line says only the names.

    Raises:
        Unreadable: It is no text, or no CSV.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow

    compute = _compute()
    bad: list[tuple[int, int, int]] = []
    width = len(names)
    # Before arrow sees it: it cannot tell of a line that is no text.
    text = decode(data)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        data = text.encode()
    del text
    if not data.strip():
        return Lines({name: pa.array([], type=pa.string()) for name in names}, np.empty(0, dtype=np.int64), bad)

    def leave_out(row: Any) -> str:
        bad.append((row.number, width, row.actual_columns))
        return "skip" if len(bad) <= MAX_BAD else "error"

    try:
        found = arrow.read_csv(
            io.BytesIO(data),
            read_options=arrow.ReadOptions(use_threads=False, block_size=_BLOCK, column_names=list(names)),
            parse_options=arrow.ParseOptions(
                delimiter=delimiter, invalid_row_handler=leave_out, ignore_empty_lines=False
            ),
            convert_options=arrow.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        what = f"not CSV: {str(error)[:200]}"
        if len(bad) > MAX_BAD:
            what = f"more than {MAX_BAD:,} lines do not have {width} fields as the first has"
        elif "straddl" in what:
            what = f"a line of more than {_BLOCK // 2**20} MiB"
        raise Unreadable(what, remedy) from None
    columns = {name: compute.utf8_trim_whitespace(found.column(name)) for name in names}
    every = np.arange(1, found.num_rows + len(bad) + 1)
    numbers = every[~np.isin(every, np.array([number for number, _, _ in bad], dtype=np.int64))]
    said = np.zeros(len(numbers), dtype=bool)
    for column in columns.values():
        said |= compute.not_equal(column, "").to_numpy()
    if header:
        said[np.flatnonzero(said)[:1]] = False
    # Blank lines are no mistake, but count.
    return Lines({name: column.filter(pa.array(said)) for name, column in columns.items()}, numbers[said], bad)


def number(texts: Any) -> np.ndarray:
    """Texts as numbers, with a point or a comma before the decimals; NaN for what is none."""
    import pyarrow as pa

    # Not pandas' to_numeric: it is off in the last digit, and what was written must come back.
    compute = _compute()
    plain = compute.utf8_ltrim(compute.replace_substring(texts, ",", "."), "+")
    is_one = compute.match_substring_regex(plain, _NUMBER, ignore_case=True)
    numbers = compute.cast(compute.if_else(is_one, plain, None), pa.float64())
    return compute.fill_null(numbers, float("nan")).to_numpy()


def words(texts: Any) -> tuple[np.ndarray, list[str]]:
    """Texts as positions in a list of the different ones."""
    import pyarrow as pa

    found = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    coded = found.dictionary_encode()
    return coded.indices.to_numpy(), coded.dictionary.to_pylist()


def _compute() -> Any:
    from pyarrow import compute

    return compute

"""What was wrong with an input, where, and what was done about it.

Bad input never stops the rest: a reader returns what it could read together with the problems it met.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


class Told(Exception):
    """An error whose message says all that a person needs: what, where, and what to do."""


class InputError(Told, ValueError):
    """An input that cannot be used at all. The message names the file, the place and the remedy."""


def ending(code: int) -> str:
    """How a program ended, by the exit status that `subprocess` tells of it: below 0 it is a signal's number."""
    return f"killed by signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that was wrong in one input.

    Attributes:
        file: The file as the user knows it (a lake key or a path), never a temporary copy.
        place: Line, element, frame or field inside the file; empty if it is the whole file.
        what: What is wrong, with the offending value.
        done: What was done about it: `dropped`, `clipped`, `kept` or `skipped`, and where it helps, the remedy.
    """

    file: str
    place: str
    what: str
    done: str

    def __str__(self) -> str:
        where = f"{self.file}, {self.place}" if self.place else self.file
        return f"{where}: {self.what} ({self.done})"


PROBLEM_COLUMNS = ["file", "place", "what", "done"]


def problems_table(problems: Iterable[Problem]) -> pd.DataFrame:
    """Puts problems in a table, one a row, with columns `file, place, what, done`."""
    import pandas as pd

    return pd.DataFrame([asdict(problem) for problem in problems], columns=PROBLEM_COLUMNS)

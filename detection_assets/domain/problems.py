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
        kind: What kind of thing is wrong, in a word or two, to count by.
        video: The video it is about, where that is known.
        frame: The frame, by its id, or by what the file calls it where no frame is called so.
        label: The class of the box.
        box: Its corners x1, y1, x2, y2 as the file has them, in pixels of the frame where it is known.
        fix: What the annotator can do, where `done` does not say it.
        number: How many boxes, or places of the file, it stands for.
    """

    file: str
    place: str
    what: str
    done: str
    kind: str = ""
    video: str | None = None
    frame: str | None = None
    label: str | None = None
    box: tuple[float, float, float, float] | None = None
    fix: str = ""
    number: int = 1

    def __str__(self) -> str:
        where = f"{self.file}, {self.place}" if self.place else self.file
        return f"{where}: {self.what} ({self.done})"

    @property
    def action(self) -> str:
        """What was done, as one of `ACTIONS`: `noted` is what cost no box."""
        return next((action for begin, action in _BEGINS if self.done.startswith(begin)), "noted")

    @property
    def remedy(self) -> str:
        """What the annotator can do about it; empty if nobody knows."""
        if self.fix:
            return self.fix
        _, semicolon, remedy = self.done.rpartition("; ")
        return remedy if semicolon else self.done.partition(": ")[2]


ACTIONS = ("kept", "clipped", "dropped", "skipped", "noted")
_BEGINS = (
    *(("kept", "kept"), ("scaled", "kept"), ("taken by", "kept"), ("clipped", "clipped"), ("dropped", "dropped")),
    *(("skipped", "skipped"), ("passed over", "skipped")),
)
PROBLEM_COLUMNS = ["file", "place", "what", "done"]


def problems_table(problems: Iterable[Problem]) -> pd.DataFrame:
    """Puts problems in a table, one a row, with columns `file, place, what, done`."""
    import pandas as pd

    return pd.DataFrame([asdict(problem) for problem in problems], columns=PROBLEM_COLUMNS)

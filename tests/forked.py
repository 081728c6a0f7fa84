"""`detection` as a process of its own that need not begin by importing: a fork of one that has.

Half of a short command's time is spent on importing the same libraries. One process imports them once and does nothing
else; each command is a fork of it with an environment of its own. Its main function, output, exit code and death are
those of the program.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection

IMPORTED = [
    "detection_assets.definitions", "jobs.runs", "jobs.update", "mlflow", "pandas", "pyarrow.parquet", "pytest",
    "rich.table", "sqlalchemy", "typer",
]  # fmt: skip
"""What is imported once; the command line itself is not, for it looks at its environment when it is.

Of the threads that imports begin, all are of allocators and of polars, which MLflow imports and no command uses: a fork
does not miss them.
"""
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(IMPORTED)


class Command:
    """A `detection` that runs.

    Attributes:
        said: Its output and its errors, in the order in which it says them.
    """

    def __init__(self, env: Mapping[str, str], *words: str) -> None:
        """Starts it with this environment and no other."""
        reading, writing = FORKS.Pipe(duplex=False)
        self._process = FORKS.Process(target=_detection, args=(words, {**env, "COLUMNS": "250"}, writing))
        self._process.start()
        writing.close()
        self.said = os.fdopen(os.dup(reading.fileno()), errors="replace")
        reading.close()

    def poll(self) -> int | None:
        """Its exit code, or the negative number of the signal that ended it; None while it runs."""
        return self._process.exitcode

    def kill(self) -> None:
        """Ends it on the spot."""
        os.kill(self._process.pid or 0, signal.SIGKILL)

    def wait(self) -> int:
        """Waits for its end; gives what `poll` does."""
        self._process.join()
        code = self._process.exitcode
        assert code is not None
        return code

    def end(self) -> tuple[int, str]:
        """Waits for its end; gives its exit code and what it had not yet been heard to say."""
        with self.said:
            told = self.said.read()
        return self.wait(), told


def _detection(words: tuple[str, ...], env: dict[str, str], out: Connection) -> None:
    for number in (1, 2):
        os.dup2(out.fileno(), number)
    out.close()
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["detection", *words]
    from detection_assets.cli import main

    try:
        main()
    finally:
        atexit._run_exitfuncs()  # a fork of multiprocessing's would not

"""Pictures of a terminal: what a command said, as an SVG that loads nothing and reads well on light and dark pages."""

from __future__ import annotations

import io
import os
import re
import subprocess
from pathlib import Path

import pandas as pd
from project import DETECTION
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from detection_assets.domain import answer_text

COLUMNS = 112
"""Of the terminal: as many as are legible where a page is as wide as GitHub's."""
WORDS = 320
"""Letters of what a picture says to those who do not see it."""


def said(command: str) -> str:
    """What a command line says at a terminal of that width, with its colours.

    Raises:
        AssertionError: It says nothing.
    """
    paths = f"{Path(DETECTION).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": paths, "COLUMNS": str(COLUMNS), "FORCE_COLOR": "1"}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=env)
    assert done.stdout, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def picture(title: str, command: str, output: str) -> str:
    """A window with a title, and in it a command and what it said, as SVG."""
    screen = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    screen.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
    screen.print(Text.from_ansi(output.rstrip()), overflow="fold")
    screen.print()  # or what is below the line of the last letters would be cut
    svg = screen.export_svg(title=title, theme=MONOKAI)
    svg = re.sub(r"\s*@font-face \{[^}]*\}", "", svg).replace("Fira Code, monospace", "Menlo, Consolas, monospace")
    return "".join(f"{line.strip()}\n" for line in svg.splitlines() if line.strip())


def in_words(found: pd.DataFrame) -> str:
    """An answer for those who do not see its picture: what all rows say, and the first of them."""
    if found.empty:
        return "nothing"
    common, shown = answer_text.condensed(found)
    first = [f"{name} {answer_text.text(value)}" for name, value in shown.iloc[0].items() if answer_text.text(value)]
    rows = f"{len(found):,} rows, the first: " if len(found) > 1 else ""
    told = "; ".join(part for part in (common, rows + ", ".join(first)) if part)
    told = told.translate(str.maketrans("[]\n", "() "))
    return told if len(told) <= WORDS else f"{told[:WORDS]} …"

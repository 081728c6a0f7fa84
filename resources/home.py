"""Where the project lies. Apart from the profiles: the command line asks for it before anything heavy is loaded."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The project's folder: where `workspace.yaml`, the lake and the Dagster instance lie."""
    told = os.environ.get("DETECTION_HOME")
    return Path(told).absolute() if told else Path(__file__).parents[1]


def lake_here() -> Path:
    """This machine's own lake, where no other is set."""
    return home() / "lake"

"""The one Dagster instance that the command line, the sensors and the UI share."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from resources.home import home

if TYPE_CHECKING:
    from dagster import DagsterInstance


def dagster_home() -> Path:
    """The instance's folder: DAGSTER_HOME, or `.dagster/` of the project; made, with our `dagster.yaml`, if missing."""
    folder = Path(os.environ.get("DAGSTER_HOME") or home() / ".dagster").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / "dagster.yaml"
    if not settings.exists():
        ours = home() / "dagster.yaml"
        if not ours.exists():
            ours = Path(__file__).parents[1] / "dagster.yaml"
        half = folder / f".dagster.yaml.{os.getpid()}"
        shutil.copyfile(ours, half)
        half.replace(settings)
    os.environ["DAGSTER_HOME"] = str(folder)
    return folder


def open_instance() -> DagsterInstance:
    """The shared instance; of several processes that open a new one, the first makes its databases.

    Dagster itself lets each of them make the tables, and all but one fail.
    """
    from dagster import DagsterInstance

    with (dagster_home() / "instance.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return DagsterInstance.get()

"""What steps that were killed leave on this machine, and what of it may be a withdrawn video's."""

import os
import shutil
import tempfile
from pathlib import Path

from detection_assets.domain.withdrawal import tells_of

TRAINING = "train-*"
"""What a training calls its temporary folder, which has links to pictures and files of boxes."""


def pages(folder: Path, detector: str) -> None:
    """Deletes the pages of a detector's frames that `detection show` made: each is made again when it is asked for."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.lstrip(".").startswith(f"{detector}-"):
            path.unlink(missing_ok=True)


def forget(scratch: Path, lake: Path | None, video: str) -> None:
    """Deletes inputs, outputs and orders in a scratch, and what a killed training left among temporary files.

    Args:
        scratch: The folder of the steps' own folders.
        lake: The detector's part of the lake, where that is a folder of this machine.
        video: Steps that name it go as a whole, with their checkpoints; others keep these.
    """
    for folder in scratch.iterdir() if scratch.is_dir() else ():
        params = folder / "params.json"
        if params.exists() and tells_of(params.read_bytes(), video):
            shutil.rmtree(folder, ignore_errors=True)
        for name in ("inputs", "output"):
            shutil.rmtree(folder / name, ignore_errors=True)  # made anew when the step is begun again
    ours = tuple(f"{place}{os.sep}" for place in (scratch, lake) if place)
    for folder in Path(tempfile.gettempdir()).glob(TRAINING):
        links = (path for path in (folder / "data").rglob("*") if path.is_symlink())
        if any(os.readlink(link).startswith(ours) for link in links):
            shutil.rmtree(folder, ignore_errors=True)

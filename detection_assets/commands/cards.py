"""What other tools read of a model: its card, its bill of materials, the description of its dataset."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from rich.console import Console

from detection_assets.commands.context import Project
from detection_assets.commands.written import whole
from detection_assets.domain import croissant, model_card
from detection_assets.domain.problems import InputError

Kind = Literal["card", "bom", "croissant"]


def kind(*, bom: bool, croissant: bool) -> Kind:
    """Which of the documents is asked for.

    Raises:
        InputError: If two are.
    """
    if bom and croissant:
        raise InputError("--bom and --croissant: ask for one at a time")
    return "bom" if bom else "croissant" if croissant else "card"


def show(out: Console, name: str, version: str | None, what: Kind, to: Path | None) -> None:
    """Prints or writes a document; one of before there were such documents is made now, and kept.

    Args:
        out: Where to say what was written.
        name: The detector.
        version: The registered version; None for the newest.
        what: The document.
        to: The file; None to print it.

    Raises:
        InputError: If there is no such version, or the file cannot be written.
    """
    from resources import standards

    project = Project.of(name)
    registry = project.resources["registry"]
    history = registry.history()
    found = next((known for known in history if version is None or known.version == version), None)
    if found is None:
        there = ", ".join(known.version for known in history)
        which = f"there is no version {version}; there are: {there}" if there else "no version is registered yet"
        raise InputError(f"{name}: {which}")
    said, storage = project.detector.said, project.storage
    if what == "croissant":
        about = croissant.About.of(name, said)
        key = standards.describe_dataset(storage, found.tags.get("dataset_version") or "-", about)
    else:
        told = standards.describe_model(storage, found, name, said)
        key = told.key(model_card.BOM if what == "bom" else model_card.CARD)
    data = storage.get(key)
    if to is None:
        # As it is: a terminal's width or colours have no business in a document.
        sys.stdout.write(data.decode())
        return
    with whole(to, "--to") as part:
        part.write_bytes(data)
    out.print(f"{to}: {storage.uri_of(key)}", markup=False, soft_wrap=True)

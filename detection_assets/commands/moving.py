"""Moving a detector's part of the lake between this machine and a cloud."""

from __future__ import annotations

import os
import threading

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from detection_assets import detector_file as detectors
from detection_assets.domain.layout import Stored
from detection_assets.domain.problems import InputError
from resources import profiles, transfer
from resources.home import lake_here
from resources.storage import Storage

SHOWN = 5
"""Keys that are named; of more, only how many."""


def push(out: Console, name: str, lake: str) -> None:
    """Copies a detector's part of the lake of this machine into another lake."""
    _move(out, name, "pushing", _here(name), _there(name, lake))


def pull(out: Console, name: str, lake: str) -> None:
    """Copies a detector's part of another lake into the lake of this machine."""
    _move(out, name, "pulling", _there(name, lake), _here(name))


def _here(name: str) -> Storage:
    return Storage(root=str(lake_here()), prefix=detectors.find(name).name)


def _there(name: str, lake: str) -> Storage:
    setting = profiles.lake_setting(detectors.find(name).platform)
    told = lake or os.environ.get(setting, "")
    if "://" not in told:
        raise InputError(
            f"{told or 'no lake'}: the other lake is a bucket or container, as s3:// or az://my-bucket/detectors; set "
            f"{setting}, or say --lake"
        )
    return Storage(root=told, prefix=name)


def _move(out: Console, name: str, what: str, source: Storage, target: Storage) -> None:
    move = transfer.plan(source, target)
    if not move.todo and not move.there:
        raise InputError(f"{source.uri}: nothing of {name} is there")
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
        console=out, transient=True,
    )  # fmt: skip
    lock = threading.Lock()
    with bar:
        task = bar.add_task(what, total=move.size)

        def done(item: Stored) -> None:
            with lock:
                bar.advance(task, item.size)

        transfer.carry_out(move, source, target, done)
    copied = f"{len(move.todo)} objects copied" if move.todo else "nothing to copy"
    out.print(f"{source.uri} -> [bold]{target.uri}[/bold]: {copied}, {move.there} there already")
    if move.newer:
        named = ", ".join(move.newer[:SHOWN]) + (", ..." if len(move.newer) > SHOWN else "")
        out.print(f"[yellow]{len(move.newer)} are newer there and were left alone[/yellow]: {named}", soft_wrap=True)

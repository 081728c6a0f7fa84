"""What a detector in a cloud shows, whichever the cloud: a canary and its way back, its costs, and moving there."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pytest
from forked import Command
from PIL import Image

Ask = Callable[[bytes, Mapping[str, str]], tuple[int, str]]
"""Sends a picture with headers to an endpoint: the status, and the slot that answered."""


def detection(env: Mapping[str, str], *words: str, code: int = 0) -> str:
    """Runs the command line to its end, which has to be `code`; what it told."""
    ended, told = Command({**os.environ, **env}, *words).end()
    assert ended == code, f"{words}: {ended}\n{told}"
    return told


def comparable(table: pd.DataFrame) -> pd.DataFrame:
    """A table without what names the attempt that made it, in an order that does not depend on who was first."""
    left = table.drop(columns=[name for name in table.columns if name == "key"])
    return left.sort_values(list(left.columns[:2]), ignore_index=True)


@dataclass
class Seen:
    """What a caller has seen, in order."""

    statuses: list[int] = field(default_factory=list)
    slots: list[str] = field(default_factory=list)

    def went(self, one: str, other: str) -> bool:
        """Whether every request was answered, the first by a slot and the last by another."""
        return {*self.statuses} == {200} and (self.slots[0], self.slots[-1]) == (one, other)


@contextmanager
def traffic(ask: Ask) -> Iterator[Seen]:
    """Sends pictures to an endpoint, one after the other."""
    seen, over = Seen(), threading.Event()
    out = io.BytesIO()
    Image.new("RGB", (96, 96), (120, 130, 140)).save(out, "JPEG")

    def send() -> None:
        while not over.wait(0.05):
            status, slot = ask(out.getvalue(), {"Content-Type": "image/jpeg"})
            seen.statuses.append(status)
            seen.slots.append(slot)

    sending = threading.Thread(target=send)
    sending.start()
    try:
        yield seen
        time.sleep(0.5)
    finally:
        over.set()
        sending.join()


def configure(env: Mapping[str, str], detector: str, settings: str) -> None:
    """Says how a detector rolls out and answers; other settings of the same version are enough to roll out."""
    file = Path(env["DETECTION_DETECTORS"]) / f"{detector}.yaml"
    lines = [line for line in file.read_text().splitlines() if not line.startswith(("rollout:", "endpoint:"))]
    file.write_text("\n".join([*lines, settings, ""]))


def takes_over_and_goes_back(env: Mapping[str, str], asks: Mapping[str, Ask]) -> None:
    """A canary takes over while pictures arrive, and somebody takes it back, for several detectors at once.

    Args:
        env: Of the project.
        asks: How the endpoint of each detector is asked.
    """
    canary = "rollout: {canary: [30], bake_s: 3.0, shadow_s: 2.0, shadow_share: 1.0}\nendpoint: {confidence: 0.2}"
    for detector in asks:
        configure(env, detector, canary)
    for seen in at_once(env, asks, "run"):
        assert seen.went("blue", "green"), seen
    for detector in asks:
        assert "30" in detection(env, "history", detector)
    for seen in at_once(env, asks, "rollback", "--by", "eve", "--reason", "a test of the way back"):
        assert seen.went("green", "blue"), seen


def at_once(env: Mapping[str, str], asks: Mapping[str, Ask], command: str, *options: str) -> list[Seen]:
    """Runs a command for several detectors side by side, while pictures arrive at the endpoint of each."""
    with ExitStack() as opened:
        seen = [opened.enter_context(traffic(ask)) for ask in asks.values()]
        running = {name: Command({**os.environ, **env}, command, name, *options) for name in asks}
        for name, one in running.items():
            code, told = one.end()
            assert code == 0, f"{command} {name}: {told}"
    return seen


def costs(env: Mapping[str, str], detector: str, machines: str) -> None:
    """Each asset with a job says what it cost, once, whatever happened to the run.

    Args:
        env: Of the project.
        detector: The detector.
        machines: What the names of the cloud's machines begin with.
    """
    lines = [line.split("│")[1:-1] for line in detection(env, "cost", detector).splitlines() if "│" in line]
    rows = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}
    assert list(rows) == ["extracted_frames", "trained_weights", "evaluation", "all"]
    assert [row[0] for row in rows.values()] == ["1", "1", "1", "3"], "what is killed and taken up again counts once"
    assert rows["trained_weights"][1].startswith(machines)
    dollars = [float(row[3]) for row in rows.values()]
    assert min(dollars) > 0
    assert sum(dollars[:-1]) == pytest.approx(dollars[-1], abs=2e-4)


def moves(local: Mapping[str, str], switched: Mapping[str, str], detector: str, jobs: Callable[[], int]) -> None:
    """A detector that was begun on one machine is pushed to a cloud, goes on there, and comes back.

    Args:
        local: The project on this machine, up to its dataset.
        switched: The same with the settings of a cloud.
        detector: The detector.
        jobs: How many jobs the cloud has had.
    """
    before = jobs()
    assert "objects copied" in detection(switched, "push", detector)
    assert "nothing to copy" in detection(switched, "push", detector)
    assert "nothing to do" in detection(switched, "run", detector, "--until", "detection_dataset")
    assert jobs() == before, "what was extracted here is not extracted again there"
    detection(switched, "pull", detector)
    assert "nothing to do" in detection(local, "run", detector, "--until", "detection_dataset")

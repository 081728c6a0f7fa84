"""Training by several processes at once: one for each GPU of this machine, and of the other instances of a job.

Ultralytics starts such processes itself, on one machine and from a pickled trainer: what we hang on the trainer would
be lost, and so would every process when one of them is stopped. So they are ours (`train_rank`), numbered as torch
does, and the trainer in each finds itself in a world that is already made. The program that starts them trains
nothing: it passes on what the first of them tells, keeps its checkpoints, ends all when one has failed, and validates
the best weights.

Where there are more instances, each has such a program. They meet at a small store that the first one keeps, agree on
what there is to do, and tell each other there when something fails.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

from detection_assets.domain.problems import InputError, ending
from detection_assets.domain.world import World
from detection_assets.programs.job import cores
from detection_assets.programs.train_ultralytics import Hooks

LEAST = 4
"""Images of a batch that each process has, at least, where it is left to us how many there are: below that the
network's own statistics of a batch say little."""
ONLY_ALONE = {
    "rect": "ultralytics sorts the images for one process",
    "time": "each process would count its own epochs",
}
"""Settings of `training.extra` that several processes cannot have, and why."""
MEET_S = 1800.0
"""Seconds that the other instances, and the processes, may come later than the first."""
LOOK_S = 0.5
"""Seconds between two looks at the processes, and at what other instances tell."""
ECHO_S = 1.0
"""Seconds in which, after a failure, those that fail for it do: the reason is the first one's."""
ELSEWHERE_S = 5.0
"""Seconds that another instance has to tell why it left those here alone."""
PROGRAM = "detection_assets.programs.train_rank"
HERE = "127.0.0.1"


@dataclass(frozen=True)
class Crew:
    """The processes that train together.

    Attributes:
        world: The instances.
        devices: What each process of this instance trains on: `cpu`, a GPU's number, or nothing for what there is.
    """

    world: World
    devices: tuple[str, ...]

    @property
    def size(self) -> int:
        """How many there are on all instances."""
        return self.world.instances * len(self.devices)

    @property
    def before(self) -> int:
        """How many there are on the instances before this one."""
        return self.world.instance * len(self.devices)


def crew(world: World, chosen: Mapping[str, Any], device: str | None, log: Callable[[str], None]) -> Crew:
    """Decides how many processes train.

    Args:
        world: The instances.
        chosen: From `train_ultralytics.settings`.
        device: `cpu`, or GPUs' numbers with commas between; None for all GPUs of this machine that have enough to do.
            `cpu,cpu` is two processes on the CPU.
        log: Gets a line where GPUs are left idle.

    Raises:
        InputError: The settings cannot be shared by so many processes.
    """
    asked = [part.strip() for part in str(device).split(",")] if device not in (None, "") else []
    if (
        len(asked) > 1
        and set(asked) != {"cpu"}
        and not (all(part.isdecimal() for part in asked) and len(set(asked)) == len(asked))
    ):
        raise InputError(f"device: {device}: several are GPUs' numbers, each once, with commas between")
    there = asked or _gpus() or [""]
    sizes = [len(there)] if asked else range(len(there), 0, -1)
    obstacles = {size: _obstacle(chosen, size * world.instances, 1 if asked else LEAST) for size in sizes}
    possible = [size for size, obstacle in obstacles.items() if obstacle is None]
    if not possible:
        raise InputError(obstacles[min(obstacles)])
    if possible[0] < len(there):
        log(f"{possible[0]} of {len(there)} GPUs train: {obstacles[len(there)]}")
    return Crew(world, tuple(there[: possible[0]]))


def _gpus() -> list[str]:
    import torch

    return [str(number) for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)]


def _obstacle(chosen: Mapping[str, Any], size: int, least: int) -> str | None:
    """Why so many processes cannot train with these settings."""
    if size == 1:
        return None
    for key, why in ONLY_ALONE.items():
        if chosen.get(key):
            return f"training.extra.{key}: not with {size} processes, for {why}; take it out, or train on one GPU"
    batch = chosen["batch"]
    if batch != int(batch) or batch < least * size or batch % size:
        return (
            f"training.batch: {batch} images cannot be shared by {size} processes; set a multiple of {size}, "
            f"{least * size} or more"
        )
    return None


class Meeting:
    """Where the processes of a crew find each other, and the instances tell what is to be known on all.

    Args:
        crew: The crew.

    Raises:
        InputError: The first instance cannot listen where it is to.
        RuntimeError: The first instance was not found.
    """

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        name, _, port = crew.world.first.rpartition(":")
        if not crew.world.leads:
            self.address = (found(name, int(port)), int(port))
            self._store = store(*self.address)
            return
        # Torch would listen to everybody; nobody but this machine is to come where there are no others.
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("" if name else HERE, int(port or 0)))
        except OSError as error:
            listening.close()
            raise InputError(f"port {port}: {error}; let the instances meet at another") from error
        listening.listen(1024)
        self.address = (HERE, listening.getsockname()[1])
        self._store = store(*self.address, listening.detach())

    def agree(self, task: Mapping[str, Any]) -> Mapping[str, Any]:
        """Tells the other instances what there is to do, or is told.

        Args:
            task: What there is to do; on another instance than the first, what it takes it to be, but for `go`.

        Returns:
            The first one's.

        Raises:
            RuntimeError: They would not do the same, or do not come.
        """
        if self.crew.world.leads:
            self._store.set("task", json.dumps(task))
            others = self.crew.world.instances - 1
            self._wait(lambda: self._store.add("read", 0) == others, "not all instances have come")
            return task
        self._wait(lambda: self._store.check(["task"]), "the first instance has not said what there is to do")
        told = json.loads(self._store.get("task"))
        different = [
            f"{key}: {task[key]} here, {told[key]} there" for key in task.keys() - {"go"} if task[key] != told[key]
        ]
        if different:
            self.fail(why := f"not as on the first instance: {'; '.join(different)}")
            raise RuntimeError(why)
        self._store.add("read", 1)
        return told

    def _wait(self, until: Callable[[], bool], late: str) -> None:
        ends = time.monotonic() + MEET_S
        while not until():
            if elsewhere := self.failed():
                raise RuntimeError(elsewhere)
            if time.monotonic() > ends:
                raise RuntimeError(f"{late} within {MEET_S:.0f} s")
            time.sleep(LOOK_S)

    def fail(self, why: str) -> None:
        """Tells the other instances that this one has failed."""
        if self.crew.world.instances > 1:
            with suppress(Exception):  # they may be gone already
                self._store.compare_set("failed", "", f"instance {self.crew.world.instance + 1}: {why}")

    def failed(self) -> str | None:
        """What another instance has failed of; of the first, also that it is gone."""
        if self.crew.world.instances == 1:
            return None
        try:
            return self._store.get("failed").decode() if self._store.check(["failed"]) else None
        except Exception as error:  # torch's own, of several kinds
            return f"instance 1 is gone: {error}"


def store(host: str, port: int, listening: int | None = None) -> Any:
    """The store that a crew meets at: kept by this process if it has the socket that listens, or else joined."""
    from torch import distributed

    made: Any = distributed  # which does not say that this is for others
    keeps = {"is_master": True, "wait_for_workers": False, "master_listen_fd": listening} if listening else {}
    return made.TCPStore(host, port, timeout=timedelta(seconds=MEET_S), **{"is_master": False, **keeps})


def found(name: str, port: int) -> str:
    """The address of the first instance, which may begin later than this one and be known by name later still."""
    ends = time.monotonic() + MEET_S
    while True:
        try:
            with socket.create_connection((name, port), timeout=10) as there:
                return str(there.getpeername()[0])
        except OSError as error:
            if time.monotonic() > ends:
                raise RuntimeError(f"the first instance, {name}:{port}, was not found: {error}") from error
        time.sleep(LOOK_S)


@dataclass
class Rank:
    """One of the processes.

    Attributes:
        number: Among all, from 0.
        device: What it trains on.
        process: The process.
        line: What it tells comes here, and that it was heard goes there.
        told: The same, to be read line by line.
        why: Why it has failed, if it said so.
        lost_others: Whether it failed because it lost another one.
    """

    number: int
    device: str
    process: subprocess.Popen[bytes]
    line: socket.socket
    told: IO[bytes]
    why: str = ""
    lost_others: bool = False

    @property
    def failed(self) -> bool:
        """Whether it has said that it failed, or has ended badly."""
        return bool(self.why) or bool(self.process.poll())

    @property
    def ended_well(self) -> bool:
        """Whether it has done all that it was to do."""
        return self.process.poll() == 0


def fit(
    meeting: Meeting,
    chosen: Mapping[str, Any],
    *,
    data: Path,
    run: Path,
    resume: Path | None,
    hooks: Hooks,
) -> None:
    """Trains with all processes of a crew; arguments as for `train_ultralytics.fit`.

    On an instance that is not the first, nothing is called, nothing is written that outlives the run, and `resume`
    comes from the first.

    Raises:
        RuntimeError: A process failed, here or elsewhere; the message says which and why.
    """
    crew, ranks = meeting.crew, list[Rank]()
    work = {
        "store": meeting.address, "chosen": dict(chosen), "data": str(data), "run": str(run),
        "resume": str(resume or ""),
    }  # fmt: skip
    calls = {"epoch": hooks.epoch, "saved": lambda: hooks.saved(run), "batch": hooks.batch}
    run.mkdir(parents=True, exist_ok=True)
    try:
        for local, device in enumerate(crew.devices):
            ranks.append(_started(crew, local, run, {**work, "device": device}))
        _follow(meeting, ranks, calls)
    finally:
        # What has to outlive them is kept by us, so they need no time to end.
        for rank in ranks:
            rank.process.kill()
            rank.process.wait()
            rank.told.close()
            rank.line.close()


def _started(crew: Crew, local: int, run: Path, order: Mapping[str, Any]) -> Rank:
    number = crew.before + local
    path = run / f"rank-{number}.json"
    path.write_text(json.dumps({**order, "config": str(run / f"config-{number}"), "beside": len(crew.devices)}))
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // len(crew.devices)))
    env = {
        **os.environ,
        "RANK": str(number),
        "LOCAL_RANK": str(local),
        "WORLD_SIZE": str(crew.size),
        "LOCAL_WORLD_SIZE": str(len(crew.devices)),
        "OMP_NUM_THREADS": threads,
        "DETECTION_PARENT_PID": str(os.getpid()),
    }
    if crew.world.interface:
        env = {"NCCL_SOCKET_IFNAME": crew.world.interface, "GLOO_SOCKET_IFNAME": crew.world.interface, **env}
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-m", PROGRAM, str(path), str(theirs.fileno())]
        process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
    return Rank(number, crew.devices[local], process, ours, ours.makefile("rb"))


def _follow(meeting: Meeting, ranks: Sequence[Rank], calls: Mapping[str, Callable[..., object]]) -> None:
    """Passes on what the processes tell, until all have ended."""
    with selectors.DefaultSelector() as lines:
        for rank in ranks:
            lines.register(rank.line, selectors.EVENT_READ, rank)

        def listen(seconds: float, until: Callable[[], bool]) -> None:
            ends = time.monotonic() + seconds
            while not until() and (left := ends - time.monotonic()) > 0:
                _hear(lines, min(left, LOOK_S), calls)

        while not all(rank.ended_well for rank in ranks):
            listen(LOOK_S, lambda: False)
            elsewhere = meeting.failed()
            if not elsewhere and not any(rank.failed for rank in ranks):
                continue
            # The others fail for it in a moment, or else have just come to their end.
            listen(ECHO_S, lambda: all(rank.failed or rank.ended_well for rank in ranks))
            if all(rank.ended_well for rank in ranks):
                return
            why, is_cause = _reason(ranks, meeting.crew)
            if not is_cause and meeting.crew.world.instances > 1:
                listen(0.0 if elsewhere else ELSEWHERE_S, lambda: meeting.failed() is not None)
                why = meeting.failed() or why
            meeting.fail(why)
            raise RuntimeError(why)


def _hear(lines: selectors.BaseSelector, seconds: float, calls: Mapping[str, Callable[..., object]]) -> None:
    """Hears what comes within some seconds. Who has told something waits until it was done about."""
    if not lines.get_map():
        time.sleep(seconds)
    for key, _ in lines.select(seconds):
        rank: Rank = key.data
        line = rank.told.readline()
        if not line:
            lines.unregister(rank.line)
            continue
        event, *told = json.loads(line)
        if event == "failed":
            rank.why, rank.lost_others = told
        else:
            calls[event](*told)
        with suppress(OSError):  # it was ended meanwhile
            rank.line.sendall(b"\n")


def _reason(ranks: Sequence[Rank], crew: Crew) -> tuple[str, bool]:
    """Why the processes have failed, and whether that is the cause, or but what came of one that lies elsewhere."""

    def weight(rank: Rank) -> int:
        if (rank.process.poll() or 0) < 0 and rank.process.returncode != -signal.SIGABRT:
            return 3  # killed from without; torch ends a process by SIGABRT when it has lost the others
        return 2 if rank.why and not rank.lost_others else 1 if rank.failed else 0

    worst = max(ranks, key=weight)
    on = f" on GPU {worst.device}" if worst.device.isdecimal() else ""
    why = worst.why if weight(worst) < 3 and worst.why else ending(worst.process.poll() or 0)
    return f"process {worst.number + 1} of {crew.size}{on}: {why}", weight(worst) > 1

"""Runs tasks on every core: in processes, which outlive the ones that a broken file crashes; or in threads.

Threads start at once and decode as fast, as the decoder does not hold Python's lock; so the parts of a single video, of
which none is of use without the others, run in threads. Processes are spawned, not forked: decoders and the message
channel have threads, which a fork would leave half alive.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import av.error

from detection_assets.domain.video_timeline import VideoError
from detection_assets.programs.extract_decode import NotAsPromisedError
from detection_assets.programs.extract_frames import DiskFullError, Outcome, Task, work

_SLOTS = 4096
_LOOK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Done:
    """A task that is finished."""

    task: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Failed:
    """A task that gave nothing.

    Attributes:
        task: Its number.
        why: For people.
        as_a_whole: It was a part of a video that does not stand alone; the whole video may well work.
    """

    task: int
    why: str
    as_a_whole: bool = False


class Pool:
    """Workers for tasks; a single task, or a single worker, does without.

    Args:
        workers: How many.
        apart: Each in a process of its own, or else in a thread.
        told: Is called now and then with a task's number and the share of it that is done.
    """

    def __init__(self, workers: int, apart: bool, told: Callable[[int, float], None]):
        self._workers = workers
        self._apart = apart
        self._told = told
        self._tasks: list[Task] = []
        self._pending: list[int] = []
        self._context = multiprocessing.get_context("spawn")
        # Plain shared memory: a lock would stay taken for ever by a process that dies with it.
        self._shares = self._context.RawArray("d", _SLOTS)
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def warm(self, processes: int) -> None:
        """Starts processes now, so that they are ready when the tasks are known."""
        if self._apart and self._workers > 1 and processes > 1:
            executor = self._started()
            for _ in range(min(processes, self._workers)):
                executor.submit(os.getpid)

    def add(self, task: Task) -> int:
        """Adds a task, also while others run; returns its number."""
        self._tasks.append(task)
        self._pending.append(len(self._tasks) - 1)
        return len(self._tasks) - 1

    def run(self, tasks: Sequence[Task]) -> Iterator[Done | Failed]:
        """Runs tasks, and those that are added meanwhile.

        Args:
            tasks: They get the numbers 0, 1, ...

        Yields:
            What became of each, in the order in which they finish.

        Raises:
            DiskFullError: There is no room for the output.
        """
        for task in tasks:
            self.add(task)
        if self._workers > 1 and len(tasks) > 1:
            yield from self._run_apart() if self._apart else self._run_in_threads()
        while self._pending:
            number = self._pending.pop(0)
            told = functools.partial(self._told, number)
            yield _judged(number, functools.partial(work, self._tasks[number], told))

    def _run_in_threads(self) -> Iterator[Done | Failed]:
        shares: dict[int, float] = {}
        with ThreadPoolExecutor(self._workers) as executor:
            running: dict[Future[Outcome], int] = {}
            for number in self._pending:
                told = functools.partial(shares.__setitem__, number)
                running[executor.submit(work, self._tasks[number], told)] = number
            self._pending.clear()
            try:
                while running:
                    done, _ = wait(running, timeout=_LOOK_EVERY_S, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield _judged(running.pop(future), future.result)
                    for number in running.values():
                        self._told(number, shares.get(number, 0.0))
            finally:
                executor.shutdown(wait=True, cancel_futures=True)

    def _run_apart(self) -> Iterator[Done | Failed]:
        running: dict[Future[Outcome], int] = {}
        shares: dict[int, float] = {}
        while self._pending or running:
            broken: list[int] = []
            while self._pending:
                number = self._pending.pop(0)
                try:
                    running[self._started().submit(_work_apart, number % _SLOTS, self._tasks[number])] = number
                except BrokenProcessPool:
                    broken.append(number)
                    break
            done, _ = wait(running, timeout=_LOOK_EVERY_S, return_when=FIRST_COMPLETED)
            for future in done:
                number = running.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    broken.append(number)
                else:
                    yield _judged(number, future.result)
            if broken:
                # Which task brought the process down is not told, so each goes again in a process of its own.
                broken += running.values()
                running.clear()
                self._stop()
                for number in sorted(broken):
                    yield self._run_alone(number)
            for number in running.values():
                share = self._shares[number % _SLOTS]
                if share != shares.get(number, 0.0):
                    shares[number] = share
                    self._told(number, share)

    def _run_alone(self, number: int) -> Done | Failed:
        with self._new_executor(1) as executor:
            future = executor.submit(_work_apart, number % _SLOTS, self._tasks[number])
            if isinstance(future.exception(), BrokenProcessPool):
                return Failed(
                    number, "the process that decoded it died (out of memory, or a crash); convert it to H.264"
                )
            return _judged(number, future.result)

    def _started(self) -> ProcessPoolExecutor:
        if self._executor is None:
            self._executor = self._new_executor(self._workers)
        return self._executor

    def _new_executor(self, workers: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(workers, self._context, initializer=_begin, initargs=(self._shares,))

    def _stop(self) -> None:
        if self._executor:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None


def _judged(number: int, result: Callable[[], Outcome]) -> Done | Failed:
    """Tells what is wrong with a video from what is wrong with the run; a mistake of ours goes up as it is."""
    try:
        return Done(number, result())
    except DiskFullError:
        raise
    except VideoError as error:
        return Failed(number, str(error))
    except NotAsPromisedError as error:
        return Failed(number, str(error), as_a_whole=True)
    except (av.error.FFmpegError, OSError) as error:
        return Failed(number, f"{error.strerror or error}; export it again as H.264 in MP4")
    except MemoryError:
        return Failed(number, "it needs more memory than there is; scale it down")


_shares: Any = None


def _begin(shares: Any) -> None:
    """Sets a process up: where it tells its progress, and that it ends when its parent is killed."""
    global _shares
    _shares = shares
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work_apart(slot: int, task: Task) -> Outcome:
    def told(share: float) -> None:
        _shares[slot] = share

    return work(task, told)

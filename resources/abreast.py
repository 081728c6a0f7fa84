"""Work that is mostly waiting, done side by side in one thread."""

import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")
E = TypeVar("E", bound=Exception)


def abreast(works: Iterable[Generator[float, None, T]], places: int, failure: type[E]) -> tuple[list[T], list[E]]:
    """Does works, so many of them at once. After one that failed no more are begun; those that were go on to their end.

    Args:
        works: Each gives the seconds after which it is to be gone on with, and returns what came of it.
        places: How many are at work at once, at most.
        failure: What a work raises that fails, and leaves the others alone.

    Returns:
        What came of those that succeeded and why the others failed, each in their order.

    Raises:
        BaseException: What else a work raises, or what comes from without, such as an interrupt. Each work that had
            begun has had it raised at the place where it waited, and has ended.
    """
    waiting = deque(enumerate(works))
    running: dict[int, Generator[float, None, T]] = {}
    due: dict[int, float] = {}
    results: dict[int, T] = {}
    failures: dict[int, E] = {}
    try:
        while running or (waiting and not failures):
            while waiting and not failures and len(running) < places:
                number, work = waiting.popleft()
                running[number], due[number] = work, 0.0
            number = min(due, key=lambda one: due[one])
            time.sleep(max(0.0, due[number] - time.monotonic()))
            try:
                due[number] = next(running[number]) + time.monotonic()
                continue
            except StopIteration as ended:
                results[number] = ended.value
            except failure as why:
                failures[number] = why
            del running[number], due[number]
    except BaseException as error:
        _throw(error, list(running.values()))
        raise
    return [results[number] for number in sorted(results)], [failures[number] for number in sorted(failures)]


def _throw(error: BaseException, running: Sequence[Generator[Any, None, Any]]) -> None:
    """Raises an error in each work, at the same time: to stop a job may take a minute."""

    def end(work: Generator[Any, None, Any]) -> None:
        with suppress(BaseException):
            work.throw(error)

    if running:
        with ThreadPoolExecutor(len(running)) as pool:
            list(pool.map(end, running))

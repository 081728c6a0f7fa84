"""Works side by side: their order, their failures, and what comes from without."""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator

import pytest

from resources.abreast import abreast


class Bad(Exception):
    """A work's own failure."""


def work(
    name: str, log: list[str], looks: int = 2, wait: float = 0.02, fails: bool = False
) -> Generator[float, None, str]:
    log.append(f"{name} begins")
    try:
        for _ in range(looks):
            yield wait
    except KeyboardInterrupt:
        time.sleep(0.3)  # as a job takes a while to stop
        log.append(f"{name} stopped")
        raise
    if fails:
        raise Bad(name)
    log.append(f"{name} ends")
    return name


def test_results_come_in_the_order_of_the_works_whoever_ends_first() -> None:
    log: list[str] = []
    results, failures = abreast([work("slow", log, 10), work("fast", log, 1), work("third", log, 1)], 2, Bad)
    assert (results, failures) == (["slow", "fast", "third"], [])
    assert log.index("fast ends") < log.index("slow ends")
    assert log.index("third begins") > log.index("fast ends"), "there are two places"


def test_one_place_is_one_after_the_other() -> None:
    log: list[str] = []
    abreast([work("a", log), work("b", log)], 1, Bad)
    assert log == ["a begins", "a ends", "b begins", "b ends"]


def test_after_a_failure_those_that_run_go_on_and_none_is_begun() -> None:
    log: list[str] = []
    results, failures = abreast([work("a", log, 1, fails=True), work("b", log, 6), work("c", log)], 2, Bad)
    assert results == ["b"]
    assert [str(failure) for failure in failures] == ["a"]
    assert "c begins" not in log


def test_failures_come_in_the_order_of_the_works_whichever_fails_first() -> None:
    _, failures = abreast([work("slow", [], 6, fails=True), work("fast", [], 1, fails=True)], 2, Bad)
    assert [str(failure) for failure in failures] == ["slow", "fast"]


def test_an_interrupt_stops_all_at_the_same_time() -> None:
    log: list[str] = []

    def interrupted() -> Generator[float, None, str]:
        yield 0.05
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        abreast([work("a", log, 1000), work("b", log, 1000), interrupted()], 3, Bad)
    assert sorted(log)[1::2] == ["a stopped", "b stopped"]
    assert time.monotonic() - began < 0.55, "stopping takes as long as the slowest, not as all of them"


def test_each_is_looked_at_when_it_wants_to_be() -> None:
    looked: list[float] = []

    def patient() -> Generator[float, None, str]:
        for _ in range(3):
            looked.append(time.monotonic())
            yield 0.2
        return ""

    abreast([patient(), work("busy", [], 100, 0.005)], 2, Bad)
    assert min(after - before for before, after in itertools.pairwise(looked)) >= 0.2


def test_nothing_is_done_when_there_is_nothing_to_do() -> None:
    assert abreast([], 3, Bad) == ([], [])

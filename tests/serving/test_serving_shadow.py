"""Mirrored requests: compared, counted, never returned."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from served import Server, grey, spec

from detection_assets.domain.rollout import Health
from detection_assets.samples.bad_models import write_model

DIM, BRIGHT = grey(120), grey(230)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    one = Server(tmp_path_factory.mktemp("shadow"))
    yield one
    one.stop()


def mirror(server: Server, folder: Path, kind: str, share: float = 1.0) -> None:
    blue = spec(write_model(folder / "good.onnx", "good"), f"good-{folder}")
    green = spec(write_model(folder / f"{kind}.onnx", kind), f"{kind}-{folder}")
    slots = {"blue": blue, "green": green}
    server.write(slots, {"shadow": {"slot": "green", "share": share}}, blue=100, green=0)
    server.until_serving(slots)  # whom requests come to as well: without it they are refused


def health(server: Server, slot: str = "green") -> Health:
    return Health.of(server.status()["statistics"][slot])


@pytest.mark.parametrize(("kind", "agreed"), [("good", 12), ("wrong", 0), ("bright", 6)])
def test_the_shadow_is_compared_with_the_answer(server: Server, tmp_path: Path, kind: str, agreed: int) -> None:
    mirror(server, tmp_path, kind)
    for number in range(12):
        answer = server.score(BRIGHT if number % 2 else DIM)
        assert answer.json()["slot"] == "blue"
        server.until(lambda number=number: health(server).compared == number + 1, "compared", 5)
    seen = health(server)
    assert (seen.compared, seen.agreed) == (12, agreed)
    assert (seen.requests, seen.errors, sum(seen.latency)) == (0, 0, 0)  # nobody was answered by it
    assert server.status()["slots"]["green"]["state"] == "ready"
    assert server.status()["shadow"] == {"slot": "green", "share": 1.0}
    assert 'detection_mirrored_total{outcome="' in httpx.get(f"{server.url}/metrics").text


def test_trials_are_not_mirrored_and_shares_are_kept(server: Server, tmp_path: Path) -> None:
    mirror(server, tmp_path, "good", share=0.5)
    for _ in range(10):
        server.score(DIM, "blue")
    for _ in range(60):
        server.score(DIM)
        time.sleep(0.01)
    server.until(lambda: health(server).compared > 10, "compared", 5)
    time.sleep(0.2)
    assert 10 < health(server).compared < 50


def test_a_shadow_that_is_too_slow_is_dropped_and_slows_nobody(server: Server, tmp_path: Path) -> None:
    mirror(server, tmp_path, "slow")
    began = time.monotonic()
    answers = [server.score(DIM) for _ in range(30)]
    seconds = time.monotonic() - began
    assert {answer.status_code for answer in answers} == {200}
    assert seconds < 4  # 30 of its own would take twice that, at least
    line = 'detection_mirrored_total{outcome="dropped",slot="green"}'
    dropped = [row for row in httpx.get(f"{server.url}/metrics").text.splitlines() if row.startswith(line)]
    assert float(dropped[0].split()[-1]) >= 15

"""Many callers at once: more than the endpoint can take, and callers who are there when it ends."""

import itertools
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from served import KEY, Server, grey, spec

PICTURE = grey(120, 320, 240)


class Callers:
    """Threads that ask without a pause, each over a connection that is kept alive."""

    def __init__(self, server: Server, number: int, *, patient: bool = False) -> None:
        self.server, self.patient = server, patient
        self.codes: Counter[str] = Counter()
        self.times: list[float] = []
        self.running = True
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(number)]

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.running = False
        for thread in self._threads:
            thread.join()

    def until_answered(self, number: int) -> None:
        """Waits for so many answers, however long a busy machine takes over them."""
        self.server.until(lambda: self.codes["200"] >= number, f"{number} answers", 60)

    def _run(self) -> None:
        with httpx.Client(base_url=self.server.url, headers={"X-API-Key": KEY}, timeout=30) as client:
            while self.running:
                try:
                    response = client.post("/score", content=PICTURE)
                    told = str(response.status_code)
                except httpx.ConnectError:
                    told = "nobody there"
                except httpx.TransportError as error:
                    told = repr(error)
                with self._lock:
                    self.codes[told] += 1
                    if told == "200":
                        self.times.append(response.json()["latency_ms"])
                if told == "nobody there":
                    return
                if told == "429":
                    assert int(response.headers["retry-after"]) >= 1
                    time.sleep(0.05 if self.patient else 0)


@pytest.fixture
def server(detector: Path, tmp_path: Path) -> Iterator[Server]:
    one = Server(tmp_path)
    one.write({"blue": spec(detector / "best.onnx", "1")}, blue=1)
    one.until_ready()
    yield one
    one.client.close()
    if one.process.poll() is None:
        one.stop()


def test_too_many_callers_are_refused_and_the_others_do_not_wait(server: Server) -> None:
    """Who waited for all others took forty times as long; callers share the cores, and the benchmark measures."""
    with Callers(server, 1) as alone:
        alone.until_answered(50)
    with Callers(server, 40) as crowd:
        crowd.until_answered(100)
    assert set(crowd.codes) == {"200", "429"}
    assert crowd.codes["429"] > crowd.codes["200"]
    assert statistics.median(crowd.times) < 25 * statistics.median(alone.times)
    assert server.status()["in_flight"] == 0


def test_a_sender_that_is_slow_holds_nobody_up(server: Server) -> None:
    import socket

    head = (
        f"POST /score HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Type: image/jpeg\r\n"
        f"Content-Length: {len(PICTURE)}\r\n\r\n"
    ).encode()
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
    for one in slow:
        one.sendall(head + PICTURE[:10])
    server.until(lambda: server.status()["in_flight"] == 20, "all are reading")
    with Callers(server, 2) as callers:
        callers.until_answered(10)
    assert set(callers.codes) == {"200"}
    slow[0].sendall(PICTURE[10:])
    assert slow[0].recv(100).startswith(b"HTTP/1.1 200")
    for one in slow:
        one.close()


@pytest.mark.parametrize(
    "turn", [pytest.param(turn, marks=[] if turn < 5 else [pytest.mark.long]) for turn in range(20)]
)
def test_no_request_is_lost_when_the_server_ends(server: Server, turn: int) -> None:
    with Callers(server, 6, patient=True) as callers:
        callers.until_answered(6)
        time.sleep(turn * 0.037)  # the end comes at another place of a request
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=30) in (0, -signal.SIGTERM)  # told on, once all is done
    assert set(callers.codes) <= {"200", "429", "nobody there"}
    assert callers.codes["nobody there"] == 6


def test_a_route_changes_within_a_second_under_load(server: Server, detector: Path) -> None:
    slots = {name: spec(detector / "best.onnx", name) for name in ("blue", "green")}
    server.write(slots, blue=1, green=0)
    server.until_loaded("blue", "green")
    with Callers(server, 2) as callers:
        time.sleep(0.3)
        for name in itertools.islice(itertools.cycle(("green", "blue")), 4):
            other = {"green": "blue", "blue": "green"}[name]
            server.write(slots, **{name: 1, other: 0})
            time.sleep(1.0)
            asked = [server.score(PICTURE) for _ in range(5)]
            assert {one.json()["slot"] for one in asked if one.status_code == 200} == {name}
    assert set(callers.codes) <= {"200", "429"}

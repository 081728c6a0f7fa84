"""Exchanging models under load: no request fails, and a bad model answers none."""

import threading
import time
from pathlib import Path

import httpx
import pytest
from served import KEY, Server, poisoned, spec


class Load:
    """Requests without a pause from a few threads, until told to stop."""

    def __init__(self, server: Server, body: bytes) -> None:
        self.server, self.body, self.answers, self.running = server, body, [], True
        self.threads = [threading.Thread(target=self._run) for _ in range(3)]

    def _run(self) -> None:
        with httpx.Client(base_url=self.server.url, headers={"X-API-Key": KEY}, timeout=30) as client:
            while self.running:
                response = client.post("/score", content=self.body)
                self.answers.append((time.monotonic(), response.status_code, response.json().get("model_version")))

    def __enter__(self) -> "Load":
        for thread in self.threads:
            thread.start()
        self.further(1)
        return self

    def further(self, count: int) -> None:
        """Waits for so many answers more: on a busy machine a pause says nothing of what was answered in it."""
        had = len(self.answers)
        self.server.until(lambda: len(self.answers) >= had + count, f"{count} answers more")

    def __exit__(self, *_: object) -> None:
        self.running = False
        for thread in self.threads:
            thread.join()


def test_models_are_exchanged_without_a_failed_request(
    server: Server, detector: Path, picture: bytes, tmp_path: Path
) -> None:
    model = detector / "best.onnx"
    blue, green = spec(model, "3"), spec(model, "4", confidence=0.5)

    def slot(name: str) -> dict:
        return server.status()["slots"].get(name, {})

    try:
        with Load(server, picture) as load:
            server.write({"blue": blue, "green": green}, blue=100, green=0)
            server.until(lambda: slot("green").get("state") == "ready", "green ready")
            assert {version for _, _, version in load.answers} == {"3"}
            addressed = server.client.post("/score", content=picture, headers={"X-Detection-Slot": "green"}).json()
            assert (addressed["slot"], addressed["model_version"]) == ("green", "4")

            server.write({"blue": blue, "green": green}, blue=50, green=50)
            began = time.monotonic()
            server.until(lambda: any(v == "4" and t > began for t, _, v in load.answers), "green has traffic", 3)

            began = time.monotonic()
            server.write({"blue": blue, "green": green}, blue=0, green=100)
            server.until(lambda: {v for t, _, v in load.answers if t > time.monotonic() - 0.3} == {"4"}, "all green", 5)
            assert not [t for t, _, v in load.answers if v == "3" and t > began + 1.0]

            # the same slot gets another model while it serves
            server.write({"green": spec(model, "5")}, green=100)
            server.until(lambda: load.answers[-1][2] == "5", "version 5 in green")
            assert "blue" not in server.status()["slots"]
            gone = server.client.post("/score", content=picture, headers={"X-Detection-Slot": "blue"})
            assert gone.status_code == 404
    finally:
        server.write({"blue": blue}, blue=100)
        server.until(
            lambda: slot("blue").get("state") == "ready" and "green" not in server.status()["slots"], "as before"
        )
    assert {status for _, status, _ in load.answers} == {200}
    assert len(load.answers) > 50


def test_traffic_follows_the_weights(server: Server, detector: Path, picture: bytes) -> None:
    model = detector / "best.onnx"
    try:
        server.write({"blue": spec(model, "3"), "green": spec(model, "4")}, blue=4, green=1)
        server.until(lambda: server.status()["slots"].get("green", {}).get("state") == "ready", "green ready")
        count = 300
        slots = [server.client.post("/score", content=picture).json()["slot"] for _ in range(count)]
    finally:
        server.write({"blue": spec(model, "3")}, blue=100)
        server.until(lambda: "green" not in server.status()["slots"], "as before")
    # Within a few requests of the share, however few are looked at, and for cameras that take turns, too.
    for cameras in (1, 2, 3, 4, 5, 8):
        for camera in range(cameras):
            own = slots[camera::cameras]
            assert abs(own.count("green") - 0.2 * len(own)) < 6, f"camera {camera} of {cameras}"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda d, t: spec(d / "pictures" / "00.png", "9"), "not an ONNX model", id="not a model"),
        pytest.param(lambda d, t: spec(d / "best.onnx", "9", sha256="0" * 64), "not the expected", id="wrong digest"),
        pytest.param(lambda d, t: spec(d / "best.onnx", "9", model=str(t / "no.onnx")), "cannot be read", id="missing"),
        pytest.param(lambda d, t: spec(poisoned(d / "best.onnx", t / "nan.onnx"), "9"), "not finite", id="NaN"),
    ],
)
def test_a_bad_model_never_takes_traffic(
    server: Server, detector: Path, picture: bytes, tmp_path: Path, make, reason: str
) -> None:
    blue = spec(detector / "best.onnx", "3")
    try:
        with Load(server, picture) as load:
            server.write({"blue": blue, "green": make(detector, tmp_path)}, blue=1, green=99)
            server.until(lambda: server.status()["slots"].get("green", {}).get("state") == "failed", "green failed")
            status = server.status()
            addressed = server.client.post("/score", content=picture, headers={"X-Detection-Slot": "green"})
            load.further(10)
    finally:
        server.write({"blue": blue}, blue=100)
        server.until(lambda: "green" not in server.status()["slots"], "as before")
    assert reason in status["slots"]["green"]["error"]
    assert status["slots"]["green"]["serving"] is None
    assert (status["slots"]["blue"]["state"], status["ready"]) == ("ready", True)
    assert addressed.status_code == 503
    assert {(code, version) for _, code, version in load.answers} == {(200, "3")}


def test_a_broken_state_file_changes_nothing(server: Server, detector: Path, picture: bytes) -> None:
    blue = spec(detector / "best.onnx", "3")
    try:
        server.state_file.write_text('{"detector": "fridge", "slots"')
        server.until(lambda: server.status()["state_error"] is not None, "complaint")
        assert "state.json" in server.status()["state_error"]
        assert server.client.post("/score", content=picture).status_code == 200
        server.state_file.unlink()
        server.until(lambda: "is gone" in server.status()["state_error"], "other complaint")
        assert server.client.post("/score", content=picture).status_code == 200
    finally:
        server.write({"blue": blue}, blue=100)
        server.until(lambda: server.status()["state_error"] is None, "as before")

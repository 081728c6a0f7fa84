"""Callers of an endpoint: cameras that send a picture again and again, and write down what they were answered.

`python -m detection_assets.samples.traffic --url URL --key-file FILE --pictures FOLDER --out FILE` sends until SIGTERM
or for `--requests`. The folder is read again every second, so what the cameras see can be changed while they send.
"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SUFFIXES = (".jpg", ".jpeg", ".png")


class Cameras:
    """Some callers side by side, each with a connection of its own."""

    def __init__(self, url: str, key: str, pictures: Path, out: Path, *, rate: float, callers: int, most: int) -> None:
        self.host = urlsplit(url).netloc
        self.key, self.pictures, self.out = key, pictures, out
        self.pause_s = callers / rate if rate else 0.0
        self.callers, self.most = callers, most
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._sent = 0
        self._seen: tuple[float, list[bytes]] = (0.0, [])

    def run(self) -> int:
        """Sends until told to stop; returns how many requests were not answered with 200."""
        failed = 0
        with self.out.open("a") as out:

            def caller(number: int) -> None:
                nonlocal failed
                connection = http.client.HTTPConnection(self.host, timeout=30)
                while not self.stopping.is_set() and (turn := self._turn()) is not None:
                    began = time.perf_counter()
                    told = self._send(connection, turn)
                    told |= {"time": time.time(), "ms": round((time.perf_counter() - began) * 1000, 2)}
                    with self._lock:
                        out.write(json.dumps(told) + "\n")
                        out.flush()
                        failed += told["status"] != 200
                    left = self.pause_s - (time.perf_counter() - began)
                    if left > 0:
                        self.stopping.wait(left)
                connection.close()

            threads = [threading.Thread(target=caller, args=(number,)) for number in range(self.callers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        return failed

    def _turn(self) -> int | None:
        with self._lock:
            if self.most and self._sent >= self.most:
                return None
            self._sent += 1
            return self._sent - 1

    def _picture(self, turn: int) -> bytes:
        with self._lock:
            read, found = self._seen
            if time.monotonic() - read > 1 or not found:
                files = sorted(path for path in self.pictures.iterdir() if path.suffix.lower() in SUFFIXES)
                found = [path.read_bytes() for path in files]
                self._seen = (time.monotonic(), found)
        return found[turn % len(found)]

    def _send(self, connection: http.client.HTTPConnection, turn: int) -> dict[str, Any]:
        headers = {"X-API-Key": self.key, "Content-Type": "application/octet-stream"}
        try:
            connection.request("POST", "/score", self._picture(turn), headers)
            with connection.getresponse() as response:
                body = json.loads(response.read())
                told = {"status": response.status, "version": body.get("model_version"), "slot": body.get("slot")}
                return told | ({"error": body.get("error")} if response.status != 200 else {})
        except (OSError, ValueError, http.client.HTTPException) as error:
            connection.close()
            return {"status": 0, "error": f"{type(error).__name__}: {error}"}


def main() -> int:
    """Runs the callers; 0 if every request was answered with 200, else 1."""
    parser = argparse.ArgumentParser(prog="detection_assets.samples.traffic", description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--key-file", type=Path, required=True)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of JPEG or PNG files")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, one a request; appended to")
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second over all callers; 0: no pause")
    parser.add_argument("--callers", type=int, default=1)
    parser.add_argument("--requests", type=int, default=0, help="how many to send; 0: until SIGTERM")
    given = parser.parse_args()
    key = given.key_file.read_text().strip()
    cameras = Cameras(
        given.url, key, given.pictures, given.out, rate=given.rate, callers=given.callers, most=given.requests
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: cameras.stopping.set())
    return 1 if cameras.run() else 0


if __name__ == "__main__":
    raise SystemExit(main())

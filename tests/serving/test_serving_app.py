"""A real server: what it answers, what it refuses, and how it ends."""

import base64
import concurrent.futures
import io
import json
import re
import socket
import struct
import threading
import zlib
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from served import KEY, Server, spec

from detection_assets.serving.images import decode
from detection_assets.serving.predictor import Predictor
from detection_assets.serving.protocol import AHEAD


@pytest.fixture(scope="session")
def slow_body() -> bytes:
    """A request that takes a good part of a second: eight photographs of twelve million pixels."""
    out = io.BytesIO()
    Image.fromarray(np.full((3000, 4000, 3), 90, np.uint8)).save(out, "JPEG")
    return json.dumps({"images": [base64.b64encode(out.getvalue()).decode()] * 8}).encode()


def as_json(picture: bytes, **more: object) -> dict:
    return {"json": {"image": base64.b64encode(picture).decode(), **more}}


WAYS = {
    "raw": lambda p: {"content": p, "headers": {"content-type": "image/png"}},
    "octets": lambda p: {"content": p, "headers": {"content-type": "application/octet-stream"}},
    "no type": lambda p: {"content": p},
    "json": as_json,
    "data url": lambda p: {"json": {"image": "data:image/png;base64," + base64.b64encode(p).decode()}},
    "broken lines": lambda p: {"json": {"image": base64.encodebytes(p).decode()}},
    "form": lambda p: {"files": {"file": ("a.png", p, "image/png")}},
}


@pytest.mark.parametrize("way", WAYS)
def test_each_way_of_sending_gives_the_predictors_boxes(
    server: Server, detector: Path, picture: bytes, way: str
) -> None:
    response = server.client.post("/score", **WAYS[way](picture))
    assert response.status_code == 200, response.text
    answer = response.json()
    expected = Predictor(detector / "best.onnx").predict(decode(picture))
    assert (answer["detector"], answer["slot"], answer["model_version"]) == ("fridge", "blue", "3")
    assert (answer["width"], answer["height"]) == (160, 120)
    assert answer["latency_ms"] > 0
    assert answer["request_id"] == response.headers["x-request-id"]
    assert len(answer["boxes"]) == len(expected) > 0
    for box, corners, sure, class_id in zip(
        answer["boxes"], expected.boxes, expected.confidence, expected.class_id, strict=True
    ):
        assert [box["x1"], box["y1"], box["x2"], box["y2"]] == pytest.approx(corners.tolist(), abs=0.006)
        assert box["normalised"] == pytest.approx((corners / [160, 120, 160, 120]).tolist(), abs=1e-5)
        assert (box["confidence"], box["class_id"]) == (pytest.approx(float(sure), abs=1e-5), class_id)
        assert box["class"] == ["apple, red", "box 'o' \"tea\"", "Gurke"][class_id]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/score?confidence=0.9", lambda p: {"content": p}),
        ("/score?confidence=0.1", lambda p: as_json(p, confidence=0.9)),
        ("/score", lambda p: {"files": {"file": p}, "data": {"confidence": "0.9"}}),
    ],
)
def test_the_callers_threshold_counts(server: Server, picture: bytes, path: str, body) -> None:
    usual = server.client.post("/score", content=picture).json()["boxes"]
    strict = server.client.post(path, **body(picture)).json()["boxes"]
    assert strict == [box for box in usual if box["confidence"] > 0.9]
    assert 0 < len(strict) < len(usual)


def test_a_batch_keeps_its_order_and_survives_a_bad_picture(server: Server, picture: bytes) -> None:
    good = base64.b64encode(picture).decode()
    answer = server.client.post("/score", json={"images": [good, "AAAA", "?", good]}).json()
    first, unreadable, not_base64, last = answer["results"]
    assert first == last
    assert first["boxes"]
    assert "picture 1 is not a JPEG" in unreadable["error"]
    assert "not base64" in not_base64["error"]
    files = [("file", ("a.png", picture)), ("file", ("b.png", picture))]
    assert server.client.post("/score", files=files).json()["results"] == [first, first]


def bomb() -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(9_999)))
        + chunk(b"IEND", b"")
    )


def jpeg() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((60, 80, 3), 90, np.uint8)).save(out, "JPEG")
    return out.getvalue()


def typed(content: bytes, kind: str) -> dict:
    return {"content": content, "headers": {"content-type": kind}}


BAD = {
    "truncated jpeg": (typed(jpeg()[:300], "image/jpeg"), 422, "cut short or damaged"),
    "bomb": (typed(bomb(), "image/png"), 422, "more than the limit of 50,000,000"),
    "text": (typed(b"hello", "image/png"), 422, "not a JPEG"),
    "empty": (typed(b"", "image/png"), 400, "body is empty"),
    "empty json": (typed(b"", "application/json"), 400, "body is empty"),
    "huge": (typed(bytes(30 * 2**20), "image/png"), 413, "more than 20,971,520 bytes"),
    "huge without a length": ({"content": (bytes(2**20) for _ in range(30))}, 413, "more than 20,971,520 bytes"),
    "html": (typed(b"<p>", "text/html"), 415, "cannot read 'text/html'"),
    "curl -d": (typed(b"image=1", "application/x-www-form-urlencoded"), 415, "cannot read"),
    "not json": (typed(b"{", "application/json"), 400, "not JSON"),
    "deep json": (typed(b"[" * 100_000, "application/json"), 400, "not JSON"),
    "not utf-8": (typed(b'{"image": "\xff"}', "application/json"), 400, "not JSON"),
    "a list": ({"json": ["image"]}, 422, "JSON list"),
    "no image": ({"json": {"confidence": 0.5}}, 422, "exactly one of"),
    "both": ({"json": {"image": "", "images": []}}, 422, "exactly one of"),
    "typo": ({"json": {"image": "AAAA", "confidance": 1}}, 422, "unknown key 'confidance'"),
    "a number": ({"json": {"image": 5}}, 422, "JSON int"),
    "null": ({"json": {"image": None}}, 422, "JSON NoneType"),
    "empty string": ({"json": {"image": ""}}, 422, "is empty"),
    "bad base64": ({"json": {"image": "***"}}, 422, "not base64"),
    "not ascii": ({"json": {"image": "äöü"}}, 422, "not base64"),
    "no pictures": ({"json": {"images": []}}, 422, "at least one"),
    "too many pictures": ({"json": {"images": ["AAAA"] * 17}}, 413, "17 pictures"),
    "only bad pictures": ({"json": {"images": ["AAAA", 5]}}, 422, "picture 0 is not a JPEG"),
    "confidence 2": (as_json(jpeg(), confidence=2), 422, "between 0 and 1"),
    "confidence true": (as_json(jpeg(), confidence=True), 422, "between 0 and 1"),
    "confidence list": (as_json(jpeg(), confidence=[1]), 422, "between 0 and 1"),
    "confidence huge": (typed(b'{"image":"AAAA","confidence":1e999}', "application/json"), 400, "not JSON"),
    "query confidence": ({"params": {"confidence": "much"}, "content": jpeg()}, 422, "query confidence"),
    "query nan": ({"params": {"confidence": "nan"}, "content": jpeg()}, 422, "query confidence"),
    "form without a file": ({"files": {"confidence": (None, "0.5")}}, 422, "no file"),
    "form with a field": ({"files": {"file": jpeg()}, "data": {"colour": "red"}}, 422, "unknown field 'colour'"),
    "form cut short": (typed(b"--x\r\nContent-Disp", "multipart/form-data; boundary=x"), 422, "no file"),
    "form without a boundary": (typed(b"--x", "multipart/form-data"), 400, "boundary"),
    "unknown slot": ({"content": jpeg(), "headers": {"x-detection-slot": "pink"}}, 404, "no slot 'pink'"),
    "no key": ({"content": jpeg(), "headers": {"x-api-key": ""}}, 401, "key is missing"),
    "wrong key": ({"content": jpeg(), "headers": {"x-api-key": "guess"}}, 401, "key is wrong"),
    "key not ascii": ({"content": jpeg(), "headers": {"x-api-key": "schlüssel".encode()}}, 401, "key is wrong"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_get_a_reason(server: Server, case: str) -> None:
    request, status, reason = BAD[case]
    response = server.client.post("/score", **request)
    assert response.status_code == status, response.text
    assert reason in response.json()["error"]
    assert response.json()["request_id"] == response.headers["x-request-id"]
    assert server.client.get("/healthz").status_code == 200


def test_the_key_may_be_a_bearer_token(server: Server, picture: bytes) -> None:
    bearer = {"Authorization": f"Bearer {KEY}"}
    assert httpx.post(f"{server.url}/score", content=picture, headers=bearer).status_code == 200
    assert httpx.get(f"{server.url}/status", headers=bearer).status_code == 200
    refused = httpx.get(f"{server.url}/status")
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize(
    "path", ["/", "/page.css", "/page.js", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"]
)
def test_open_routes_need_no_key(server: Server, path: str) -> None:
    assert httpx.get(server.url + path).status_code == 200


def test_unknown_paths_and_methods_are_json_errors(server: Server) -> None:
    for response, status in ((server.client.get("/nothing"), 404), (server.client.get("/score"), 405)):
        assert response.status_code == status
        assert set(response.json()) == {"error", "request_id"}


def test_the_document_describes_score(server: Server) -> None:
    document = server.client.get("/openapi.json").json()
    score = document["paths"]["/score"]["post"]
    assert {"application/json", "image/*", "multipart/form-data"} <= set(score["requestBody"]["content"])
    assert {"200", "400", "401", "413", "422", "429", "503", "504"} <= set(score["responses"])
    assert {"x1", "class", "normalised"} <= set(document["components"]["schemas"]["Box"]["properties"])


def test_a_harmless_request_id_is_kept_and_logged(server: Server, picture: bytes) -> None:
    kept = server.client.post("/score", content=picture, headers={"X-Request-ID": "order-17.a"})
    assert kept.headers["x-request-id"] == kept.json()["request_id"] == "order-17.a"
    replaced = server.client.post("/score", content=picture, headers={"X-Request-ID": 'x" onload'})
    assert re.fullmatch("[0-9a-f]{32}", replaced.headers["x-request-id"])
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    (line,) = [line for line in lines if line.get("request_id") == "order-17.a"]
    assert (line["path"], line["status"], line["slot"], line["version"]) == ("/score", 200, "blue", "3")
    assert line["boxes"] == len(kept.json()["boxes"])
    assert line["ms"] > 0


def samples(server: Server) -> dict[tuple, float]:
    families = text_string_to_metric_families(httpx.get(f"{server.url}/metrics").text)
    return {(one.name, *sorted(one.labels.values())): one.value for family in families for one in family.samples}


def test_metrics_count_requests_boxes_and_time(server: Server, picture: bytes) -> None:
    before = samples(server)
    answer = server.client.post("/score", content=picture).json()
    server.client.post("/score", content=b"?")
    after = samples(server)

    def grown(*key: str) -> float:
        return after[key] - before.get(key, 0)

    assert grown("detection_requests_total", "200", "blue") == 1
    assert grown("detection_requests_total", "422", "blue") == 1
    assert grown("detection_request_seconds_count", "blue") == 1
    assert 0 < grown("detection_request_seconds_sum", "blue") < 10
    for name in {box["class"] for box in answer["boxes"]}:
        count = sum(box["class"] == name for box in answer["boxes"])
        assert grown("detection_boxes_total", *sorted(["blue", name])) == count
    assert after["detection_in_flight",] == 0


def test_a_small_server_refuses_what_it_cannot_take(
    detector: Path, tmp_path: Path, picture: bytes, slow_body: bytes
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("from a file\n")
    server = Server(tmp_path, "--queue", "0", "--max-pixels", "12000000", "--key-file", str(key_file))
    server.until(lambda: server.client.get("/healthz").status_code == 200, "alive")
    assert server.client.get("/status").status_code == 401
    server.client.headers["X-API-Key"] = "from a file"
    not_ready = server.client.post("/score", content=picture)
    assert (not_ready.status_code, not_ready.headers["retry-after"]) == (503, "1")
    assert server.client.get("/readyz").status_code == 503
    server.write({"blue": spec(detector / "best.onnx", "1")}, blue=1)
    server.until_ready()

    wide = io.BytesIO()
    Image.new("L", (4001, 3000)).save(wide, "PNG")
    too_large = server.client.post("/score", content=wide.getvalue())
    assert (too_large.status_code, "limit of 12,000,000" in too_large.text) == (422, True)

    json_type = {"content-type": "application/json"}

    def slow(_: int) -> httpx.Response:
        return httpx.post(
            f"{server.url}/score", content=slow_body, headers={**server.client.headers, **json_type}, timeout=60
        )

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(slow, range(5)))
    assert {answer.status_code for answer in answers} == {200, 429}
    refused = [answer for answer in answers if answer.status_code == 429]
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert "try again" in refused[0].json()["error"]

    # SIGTERM: the request in flight is answered, then the process ends
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        last = pool.submit(slow, 0)
        server.until(lambda: samples(server)["detection_in_flight",] == 1, "in flight")
        server.stop()
        assert last.result().status_code == 200
        assert len(last.result().json()["results"]) == 8


def test_a_server_gives_up_in_time(detector: Path, tmp_path: Path, slow_body: bytes) -> None:
    server = Server(tmp_path, "--timeout", "0.05")
    server.write({"blue": spec(detector / "best.onnx", "1")}, blue=1)
    server.until_ready()
    late = server.client.post("/score", content=slow_body, headers={"content-type": "application/json"})
    assert late.status_code == 504
    assert "not answered within 0.05 seconds" in late.json()["error"]
    server.stop()


def test_a_server_without_a_key_does_not_start(tmp_path: Path) -> None:
    empty = tmp_path / "key"
    empty.write_text("\n")
    server = Server(tmp_path, "--key-file", str(empty))
    assert server.process.wait(timeout=30) == 2
    server.client.close()
    assert "needs a key" in server.log.read_text()


def test_large_pictures_one_behind_the_other_are_answered_in_order(server: Server) -> None:
    """Over one connection, none waiting for the answer before: some larger than what is taken in ahead."""
    noise = np.random.default_rng(0)
    sizes = [(900, 700), (80, 60), (640, 480), (1000, 800)]
    bodies = []
    for width, height in sizes:
        out = io.BytesIO()
        Image.fromarray(noise.integers(0, 255, (height, width, 3), np.uint8)).save(out, "JPEG", quality=95)
        bodies.append(out.getvalue())
    assert max(map(len, bodies)) > AHEAD > min(map(len, bodies))
    head = "POST /score HTTP/1.1\r\nHost: here\r\nX-API-Key: {}\r\nContent-Length: {}\r\n\r\n"
    said = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        sender = threading.Thread(
            target=lambda: [connection.sendall(head.format(KEY, len(body)).encode() + body) for body in bodies]
        )
        sender.start()
        while said.count(b'"width":') < len(sizes):
            said += connection.recv(1 << 16)
        sender.join()
    assert said.count(b"HTTP/1.1 200") == len(sizes)
    assert [int(width) for width in re.findall(rb'"width":(\d+)', said)] == [width for width, _ in sizes]

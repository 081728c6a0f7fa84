"""The function of infra/aws/front.yaml, as it stands there, between callers and a real server behind an endpoint."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cfnlint.decode.cfn_yaml import load
from fakes import sagemaker
from PIL import Image
from project import ROOT

from detection_assets.domain.rollout import TRIAL

PLATFORMS = ["aws"]
pytestmark = pytest.mark.stand_in("how many callers are too many is known of this machine alone")
TEMPLATE = ROOT / "infra" / "aws" / "front.yaml"
REQUEST = "JKJaXmPLvHcESHA="
SETTINGS = {"confidence": 0.01, "iou": 0.7, "max_det": 300}
Ask = Callable[..., tuple[int, dict[str, str], bytes]]


@pytest.fixture
def ask(platform: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """Sends a request through the function, in the form that API Gateway gives it; gives status, headers and body."""
    monkeypatch.setenv("ENDPOINT", platform.endpoints.name)
    function: dict[str, Any] = {}
    exec(load(str(TEMPLATE))["Resources"]["Front"]["Properties"]["Code"]["ZipFile"], function)

    def send(body: bytes | str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        event = {
            "version": "2.0",
            "routeKey": "POST /score",
            "headers": {name.replace("_", "-"): value for name, value in headers.items()},
            "requestContext": {"requestId": REQUEST, "http": {"method": "POST", "path": "/score"}},
            "isBase64Encoded": isinstance(body, bytes),
            "body": base64.b64encode(body).decode() if isinstance(body, bytes) else body,
        }
        told = function["handler"](json.loads(json.dumps(event)), None)
        assert told["isBase64Encoded"]
        assert told["headers"]["X-Request-ID"] == REQUEST
        json.dumps(told)
        return told["statusCode"], told["headers"], base64.b64decode(told["body"])

    yield send
    function["runtime"].close()


def why(body: bytes) -> str:
    return json.loads(body)["error"]


def jpeg(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.convert("RGB").save(out, "JPEG", quality=95)
    return out.getvalue()


def test_pictures_go_in_and_what_the_endpoint_says_comes_out(
    platform: Any, ask: Ask, detector: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Image.open(min((detector / "pictures").iterdir())) as opened:
        sent = jpeg(opened)
    endpoints = platform.endpoints
    status, headers, body = ask(sent, content_type="image/jpeg")
    assert (status, headers["Retry-After"]) == (503, "1")
    assert "never deployed" in why(body)

    onnx = (detector / "best.onnx").read_bytes()
    platform.storage.put("weights/w1/best.onnx", onnx)
    digest = hashlib.sha256(onnx).hexdigest()
    endpoints.deploy("blue", "weights/w1/best.onnx", digest, version="1", settings=SETTINGS)
    endpoints.wait_ready("blue", 60)
    endpoints.route({"blue": 100})

    # The word by which trials are known is none that a caller can say: the request counts.
    status, headers, body = ask(sent, content_type="image/jpeg", x_amzn_sagemaker_custom_attributes=TRIAL)
    ends = time.monotonic() + 20
    while (seen := endpoints.health("blue")) is None or seen.requests != 1:
        assert time.monotonic() < ends, seen
        time.sleep(0.1)
    answer, direct = json.loads(body), endpoints.invoke(None, sent)
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert answer["boxes"] == direct["boxes"] != []
    assert answer["model_version"] == "1"
    text = json.dumps({"images": [base64.b64encode(sent).decode()] * 2, "confidence": SETTINGS["confidence"]})
    status, _, body = ask(text, content_type="application/json; charset=utf-8")
    assert [one["boxes"] for one in json.loads(body)["results"]] == [direct["boxes"]] * 2
    status, headers, body = ask(sent, content_type="image/jpeg", accept="image/jpeg")
    assert (status, headers["Content-Type"], body[:3]) == (200, "image/jpeg", b"\xff\xd8\xff")

    for content, given, number, words in (
        (b"", {"content_type": "image/jpeg"}, 400, "the body is empty"),
        (b"no picture", {"content_type": "image/jpeg"}, 422, "picture"),
        (b"no picture", {}, 422, "picture"),
        ("{", {"content_type": "application/json"}, 400, "the body is not JSON"),
        ("<svg/>", {"content_type": "text/html"}, 415, "text/html"),
        (sent, {"content_type": "im\u00e4ge/jpeg", "accept": "x" * 5000}, 415, "im?ge/jpeg"),
        (bytes(4_500_001), {"content_type": "image/jpeg"}, 413, "more than 4,500,000: send a smaller picture"),
    ):
        status, headers, body = ask(content, **given)
        assert (status, headers["Content-Type"]) == (number, "application/json"), body
        assert words in why(body)
        assert "Retry-After" not in headers

    noise = np.random.default_rng(0).integers(0, 255, (1000, 1000, 3), np.uint8)
    several = json.dumps({"images": [base64.b64encode(jpeg(Image.fromarray(noise))).decode()] * 2})
    with ThreadPoolExecutor(12) as callers:
        answers = list(callers.map(lambda _: ask(several, content_type="application/json"), range(24)))
    assert {status for status, _, _ in answers} == {200, 429}
    for status, headers, body in answers:
        assert ("Retry-After" in headers) == (status == 429)
        assert status == 200 or "try again later" in why(body)

    capsys.readouterr()
    endpoints.stop()
    status, headers, body = ask(sent, content_type="image/jpeg")
    assert (status, headers["Retry-After"]) == (503, "1")
    logged = capsys.readouterr().out
    assert json.loads(logged)["request_id"] == REQUEST
    assert sagemaker.ACCOUNT not in body.decode(), "whose account it is, is nobody's business"

"""The OpenAPI document keeps its word: what it allows is answered as it says, and nothing is a server's error."""

import base64
import io
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import schemathesis
from hypothesis import strategies as st
from PIL import Image
from schemathesis.specs.openapi.checks import positive_data_acceptance
from served import KEY, Server, grey, spec

from detection_assets.samples.bad_models import write_model

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "12"))


def png(level: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 30), (level, level, level)).save(out, "PNG")
    return out.getvalue()


# What it makes up by itself is hardly ever a picture: half of the time it gets one.
PICTURES = st.sampled_from([grey(60), grey(120), grey(230, 7, 900), png(200)])
for kind in ("image/*", "application/octet-stream"):
    schemathesis.openapi.media_type(kind, st.one_of(PICTURES, st.binary(max_size=200)))


@schemathesis.hook
def map_body(context: object, body: object) -> object:
    """Puts a picture in the place of some of the texts that JSON bodies have for one."""
    picture = base64.b64encode(png(len(repr(body)) % 256)).decode()
    if isinstance(body, dict) and len(repr(body)) % 2:
        if isinstance(body.get("image"), str):
            return body | {"image": picture}
        if isinstance(body.get("images"), list) and body["images"]:
            return body | {"images": [picture, *body["images"][1:]]}
    return body


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("document")
    server = Server(folder)
    server.write({"blue": spec(write_model(folder / "m.onnx", "good"), "1")}, blue=1)
    server.until_ready()
    yield server.url
    assert server.process.poll() is None
    assert '"status":200' in server.log.read_text()
    server.stop()


def test_the_document_keeps_its_word(address: str) -> None:
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    tried: dict[str, int] = {}
    for found in schema.get_all_operations():
        operation = found.ok()

        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
            derandomize=True,
            database=None,
        )
        @hypothesis.given(case=operation.as_strategy())
        def keeps_its_word(case: schemathesis.Case) -> None:
            response = case.call(headers={"X-API-Key": KEY})
            # That a text is base64 of a picture is more than a schema can say: what it allows may still be refused.
            case.validate_response(response, excluded_checks=[positive_data_acceptance])
            assert response.status_code < 500
            tried[case.operation.label] = tried.get(case.operation.label, 0) + 1

        keeps_its_word()
    assert set(tried) == {
        *("POST /score", "POST /invocations", "GET /status", "GET /metrics"),
        *("GET /healthz", "GET /readyz", "GET /ping"),
    }
    assert tried["POST /score"] >= EXAMPLES

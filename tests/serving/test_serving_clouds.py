"""The same boxes, to the byte, from our server, Azure ML's inference server and SageMaker's inference toolkit."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import orjson
import pytest
from project import free_port
from served import ROOT, Server, grey

from detection_assets.domain.problems import InputError
from detection_assets.samples.bad_models import write_model
from detection_assets.serving import batch, bundle
from detection_assets.serving.options import read_options


def boxes(answer: bytes) -> bytes:
    """The boxes as they stand in the answer."""
    found = re.search(rb'"boxes":\s*\[.*\]', answer, re.DOTALL)
    assert found, answer
    return found[0]


@pytest.fixture(scope="module")
def folder(detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as a cloud unpacks it."""
    place = tmp_path_factory.mktemp("model") / "fridge" / "INPUT_model"
    place.mkdir(parents=True)
    (place / "best.onnx").write_bytes((detector / "best.onnx").read_bytes())
    (place / "serving.json").write_text(json.dumps({"detector": "fridge", "version": "17", "confidence": 0.3}))
    return place.parents[1]


@pytest.fixture(scope="module")
def local(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Our server as a container of a cloud runs it: one model, no key."""
    server = Server(tmp_path_factory.mktemp("local"), "--no-key", model=folder)
    server.client.headers.pop("X-API-Key")
    server.until_ready()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def pictures(detector: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((detector / "pictures").iterdir())]


def test_a_container_serves_one_model_without_a_controller(local: Server, pictures: list[bytes]) -> None:
    assert local.client.get("/ping").status_code == 200
    assert local.client.get("/healthz").status_code == local.client.get("/readyz").status_code == 200
    answer = local.client.post("/invocations", content=pictures[0], headers={"content-type": "image/png"})
    assert answer.status_code == 200
    told = answer.json()
    assert (told["detector"], told["slot"], told["model_version"]) == ("fridge", "blue", "17")
    assert boxes(answer.content) == boxes(local.score(pictures[0]).content)
    status = local.status()
    assert (status["traffic"], status["state_file"], status["state_error"]) == ({"blue": 100.0}, None, None)
    assert status["slots"]["blue"]["confidence"] == 0.3


def test_options_and_places(detector: Path, tmp_path: Path) -> None:
    cloud = tmp_path / "azureml"
    cloud.mkdir()
    (cloud / "m.onnx").write_bytes((detector / "best.onnx").read_bytes())
    os.environ["AZUREML_MODEL_DIR"] = str(cloud)
    try:
        server = Server(tmp_path, "--confidence", "0.9", "--no-key", model="")
    finally:
        del os.environ["AZUREML_MODEL_DIR"]
    try:
        server.until(lambda: server.client.get("/ping").status_code == 200, "ready")
        slot = server.status()["slots"]["blue"]
        assert (slot["confidence"], slot["version"]) == (0.9, slot["sha256"][:12])
        assert server.status()["detector"] == "m"
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], r"holds 0 \.onnx files \(none\)"),
        (["a.onnx", "b/c.onnx"], r"holds 2 \.onnx files \(a\.onnx, b/c\.onnx\)"),
        (["a.onnx", "serving.json"], "must be an object with some of confidence, deployment, desk, detector"),
    ],
)
def test_a_folder_that_is_no_bundle_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: list[str], message: str
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"detectr": "x"}')
    with pytest.raises(InputError, match=message):
        bundle.find(tmp_path)
    with pytest.raises(SystemExit):
        read_options(["--no-key", "--model", str(tmp_path)])
    assert re.search(message, capsys.readouterr().err)


def test_a_bundle_says_what_it_knows(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.onnx", "good")
    plain = bundle.find(tmp_path)
    assert (plain.detector, plain.spec.version, plain.spec.confidence) == ("m", plain.spec.sha256[:12], 0.25)
    (tmp_path / "serving.json").write_text('{"version": "4", "iou": 0.5}')
    better = bundle.find(model, version=None, confidence=0.6)
    assert (better.spec.version, better.spec.iou, better.spec.confidence) == ("4", 0.5, 0.6)
    (tmp_path / "serving.json").write_text('{"iou": 5}')
    with pytest.raises(InputError, match="iou is 5"):
        bundle.find(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        bundle.find(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "one of the arguments --state --model is required"),
        (["--state", "s", "--model", "m"], "not allowed with argument"),
        (["--state", "s", "--key-file", "k", "--no-key"], "not allowed with argument"),
        (["--state", "s", "--no-key", "--version", "3"], "--version: the state file says that"),
        (["--model", "--no-key"], "neither AZUREML_MODEL_DIR nor /opt/ml/model"),
        (["--model", "m"], "an endpoint needs a key"),
    ],
)
def test_a_server_wants_one_source_and_one_answer_about_keys(
    options: list[str], reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DETECTION_ENDPOINT_KEY", raising=False)
    with pytest.raises(SystemExit) as caught:
        read_options(options)
    assert caught.value.code == 2
    assert reason in capsys.readouterr().err


@pytest.fixture(scope="module")
def azure(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Azure ML's own inference server with score.py in it; its address."""
    port = free_port()
    log = tmp_path_factory.mktemp("azure") / "log"
    script = Path(__file__).with_name("azure_server.py")
    env = {**os.environ, "AZUREML_MODEL_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, str(script), str(port)], stdout=out, stderr=out, env=env, cwd=log.parent
        )
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()
            try:
                if httpx.get(f"http://127.0.0.1:{port}/").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/score"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def test_azures_server_gives_the_same_boxes(local: Server, azure: str, pictures: list[bytes]) -> None:
    some = 0
    for picture in pictures:
        ours = boxes(local.score(picture).content)
        raw = httpx.post(azure, content=picture, headers={"content-type": "image/png"})
        assert raw.status_code == 200, raw.text
        assert boxes(raw.content) == ours
        as_json = httpx.post(azure, json={"image": base64.b64encode(picture).decode()})
        assert boxes(as_json.content) == ours
        some += ours.count(b"class_id")
    assert some > 100
    told = raw.json()
    assert (told["detector"], told["slot"], told["model_version"]) == ("fridge", "blue", "17")
    assert raw.headers["content-type"] == "application/json"
    many = httpx.post(azure, json={"images": [base64.b64encode(one).decode() for one in pictures[:2]] + ["?"]})
    assert [len(one.get("boxes", [])) > 0 for one in many.json()["results"]] == [True, True, False]


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        ({"content": b"?", "headers": {"content-type": "image/png"}}, 422, "is not a JPEG"),
        ({"content": b"", "headers": {"content-type": "image/png"}}, 400, "body is empty"),
        ({"json": {"picture": "AAAA"}}, 422, "unknown key 'picture'"),
        ({"files": {"file": b"?"}}, 415, "cannot read 'multipart/form-data'"),
        ({"content": bytes(21 * 2**20)}, 413, "more than 20,971,520 bytes"),
    ],
)
def test_azures_server_refuses_with_the_same_reasons(azure: str, request_: dict, status: int, reason: str) -> None:
    refused = httpx.post(azure, timeout=30, **request_)
    assert (refused.status_code, reason in refused.json()["error"]) == (status, True), refused.text


@pytest.fixture
def toolkit(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Any:
    """SageMaker's inference toolkit with inference.py in it: a body and its type to status, type and answer."""
    from sagemaker_inference.transformer import Transformer

    monkeypatch.setenv("SAGEMAKER_PROGRAM", "detection_assets.serving.inference")
    transformer = Transformer()

    class Context:
        """What the model server hands to the toolkit."""

        def __init__(self, content_type: str) -> None:
            self.system_properties = {"model_dir": str(folder)}
            self.request_processor = [
                SimpleNamespace(get_request_properties=lambda: {"Content-Type": content_type, "Accept": "*/*"})
            ]
            self.status, self.content_type = 200, ""

        def set_response_content_type(self, _: int, content_type: str) -> None:
            self.content_type = content_type

        def set_response_status(self, code: int, phrase: str) -> None:
            self.status, self.phrase = code, phrase

    def invoke(body: bytes, content_type: str) -> tuple[int, str, bytes]:
        context = Context(content_type)
        (answer,) = transformer.transform([{"body": bytearray(body)}], context)
        return context.status, context.content_type, answer.encode()

    return invoke


def test_sagemakers_toolkit_gives_the_same_boxes(local: Server, toolkit: Any, pictures: list[bytes]) -> None:
    for picture in pictures:
        ours = boxes(local.client.post("/invocations", content=picture).content)
        status, content_type, answer = toolkit(picture, "image/png")
        assert (status, content_type) == (200, "application/json")
        assert boxes(answer) == ours
        as_json = toolkit(orjson.dumps({"image": base64.b64encode(picture).decode()}), "application/json")
        assert boxes(as_json[2]) == ours
    assert json.loads(answer)["model_version"] == "17"


@pytest.mark.parametrize(
    ("body", "content_type", "status", "reason"),
    [
        (b"?", "image/png", 422, b"is not a JPEG"),
        (b"[]", "application/json", 422, b"JSON list"),
        (b"a,b", "text/csv", 415, b"cannot read 'text/csv'"),
        (grey(90)[:300], "image/jpeg", 422, b"cut short or damaged"),
    ],
)
def test_sagemakers_toolkit_refuses_with_the_same_reasons(
    toolkit: Any, body: bytes, content_type: str, status: int, reason: bytes
) -> None:
    told, _, answer = toolkit(body, content_type)
    assert (told, reason in answer) == (status, True), answer


def test_a_batch_endpoints_script_answers_lists_and_pictures_as_the_server_does(
    local: Server, folder: Path, pictures: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, given = tmp_path / "lake", tmp_path / "given"
    given.mkdir()
    names = [f"store/{number}.jpg" for number in range(len(pictures))]
    for name, picture in zip(names, pictures, strict=True):
        (lake / "frames" / name).parent.mkdir(parents=True, exist_ok=True)
        (lake / "frames" / name).write_bytes(picture)
    (lake / "frames" / "torn.jpg").write_bytes(pictures[0][:50])
    (lake / "answers").mkdir()
    told = {"frames": (lake / "frames").as_uri(), "answers": (lake / "answers").as_uri()}
    listed = given / f"000007{batch.LISTS}"
    listed.write_bytes(orjson.dumps({**told, "pictures": [*names, "torn.jpg", "gone.jpg"]}))
    (given / "alone.jpg").write_bytes(pictures[0])
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(folder))
    monkeypatch.setenv(batch.OUTPUT, str(tmp_path))
    batch.init()
    rows = batch.run([str(listed), str(given / "alone.jpg")])
    assert len(rows) == 2, "one for each file, or Azure ML takes it for failed"
    assert f"{len(names) + 2} pictures, 2 of them not readable, the first torn.jpg: the picture is" in rows[0]
    lines = (lake / "answers" / "000007.jsonl").read_bytes().splitlines()
    answers = {one["file"]: one for one in map(orjson.loads, lines)}
    for name, picture in zip(names, pictures, strict=True):
        assert answers[name]["boxes"] == local.score(picture).json()["boxes"]
    assert answers["gone.jpg"]["error"] == "it is gone; extract its video again"
    (guests,) = tmp_path.glob("*.jsonl")
    assert boxes(guests.read_bytes()) == boxes(local.score(pictures[0]).content)
    before = guests.read_bytes()
    batch.run([str(given / "alone.jpg")])
    assert [path.read_bytes() for path in tmp_path.glob("*.jsonl")] == [before], "tried again, it is no other file"


def test_a_batch_endpoints_script_takes_no_other_model_than_it_was_told_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(folder))
    monkeypatch.setenv(batch.SETTINGS, json.dumps({"sha256": "0" * 64}))
    with pytest.raises(InputError, match="sha256"):
        batch.init()

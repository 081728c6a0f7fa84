"""The annotated picture, in the answer or in its place."""

import base64
import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from served import Server, grey, spec

from detection_assets.samples.bad_models import write_model
from detection_assets.serving.app import wants_picture


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("annotated")
    one = Server(folder)
    model = write_model(folder / "m.onnx", "good", classes=["apple", "größer", "水"])
    one.write({"blue": spec(model, "1")}, blue=1)
    one.until_ready()
    yield one
    one.stop()


def pixels(jpeg: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_boxes_are_drawn_where_they_are(server: Server) -> None:
    picture = grey(200, 640, 480)
    plain = server.client.post("/score", content=picture).json()
    answer = server.client.post("/score?annotated=true", content=picture).json()
    assert "annotated" not in plain
    assert answer["boxes"] == plain["boxes"]
    drawn = pixels(base64.b64decode(answer["annotated"]))
    assert drawn.shape == (480, 640, 3)
    coloured = np.ptp(drawn, axis=2) > 60
    for box in answer["boxes"]:
        x1, y1, x2, y2 = (round(box[name]) for name in ("x1", "y1", "x2", "y2"))
        assert coloured[y1 + 1, x1 + 40 : x2].mean() > 0.8  # its upper edge
        assert coloured[y1:y2, x1 + 1].mean() > 0.8
        assert not coloured[(y1 + y2) // 2, x1 + 40 : x2 - 40].any()  # its middle is the picture's own
    assert drawn[5, 5].tolist() == pytest.approx([200] * 3, abs=3)


def test_the_picture_alone(server: Server) -> None:
    response = server.client.post("/score", content=grey(200, 320, 240), headers={"Accept": "image/jpeg"})
    assert (response.status_code, response.headers["content-type"]) == (200, "image/jpeg")
    assert pixels(response.content).shape == (240, 320, 3)
    assert response.headers["x-detection-boxes"] == "4"
    assert (response.headers["x-detection-slot"], response.headers["x-model-version"]) == ("blue", "1")


def test_a_batch_is_annotated_in_json_alone(server: Server) -> None:
    good = base64.b64encode(grey(200)).decode()
    batch = {"images": [good, "?"]}
    first, second = server.client.post("/score?annotated=true", json=batch).json()["results"]
    assert pixels(base64.b64decode(first["annotated"])).shape == (60, 80, 3)
    assert set(second) == {"error"}
    refused = server.client.post("/score", json=batch, headers={"Accept": "image/jpeg"})
    assert (refused.status_code, "one picture, not several" in refused.json()["error"]) == (406, True)


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False), ("*/*", False), ("application/json", False), ("text/html", False), ("image/jpeg", True),
        ("image/jpeg;q=1, */*", True), ("application/json, image/jpeg", False), ("text/html, image/*", True),
    ],
)  # fmt: skip
def test_who_wants_a_picture(accept: str, wanted: bool) -> None:
    assert wants_picture(accept) is wanted


def test_thin_and_tiny_pictures_can_be_drawn_on(server: Server) -> None:
    for width, height in ((1, 1), (2, 900), (900, 2)):
        out = io.BytesIO()
        Image.new("RGB", (width, height), (240, 240, 240)).save(out, "PNG")
        response = server.client.post("/score?confidence=0", content=out.getvalue(), headers={"Accept": "image/jpeg"})
        assert pixels(response.content).shape == (height, width, 3)

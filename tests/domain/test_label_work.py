"""What a tool has of a batch says nothing more of pictures that were withdrawn, and the same of all others."""

from __future__ import annotations

import json

import pytest

from detection_assets.domain import label_work

ITS = {"a-1.jpg", "é b.jpg"}
ABOUT = ["s3://lake/frames/v/a-1.jpg", "azureml://x/paths/label_work/lb/a-1.jpg?sig=1", "https://x/%C3%A9%20b.jpg"]


@pytest.mark.parametrize("address", ABOUT)
def test_a_line_is_about_a_picture_by_its_name_alone(address: str) -> None:
    lines = [json.dumps({"source-ref": one, "boxes": []}).encode() + b"\n" for one in (address, "x/aa-1.jpg", "1.jpg")]
    data = b"".join([*lines, b"torn {a-1.jpg"])
    assert label_work.lines_without(data, ITS) == b"".join([*lines[1:], b"torn {a-1.jpg"])
    less = label_work.lines_without(data, ITS, label_work.GONE)
    assert less == b"".join([b"{}\n", *lines[1:], b"torn {a-1.jpg"])
    assert label_work.lines_without(less, ITS, label_work.GONE) == less, "done again, it changes nothing"
    assert label_work.gone_lines(less) == {0}


def test_what_several_pictures_were_put_together_from_loses_one() -> None:
    data = json.dumps([{"datasetObjectId": str(at), "annotations": [at]} for at in range(12)]).encode()
    kept = json.loads(label_work.answers_without(data, {1}))
    assert [one["datasetObjectId"] for one in kept] == ["0", *map(str, range(2, 12))]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"images": 3}', b'{"images": [{"id": 1, "file_name": "b.jpg"}]}'])
def test_what_is_something_else_stays_as_it_is(data: bytes) -> None:
    assert label_work.boxes_without(data, ITS) == data
    assert label_work.answers_without(data, {1}) == data

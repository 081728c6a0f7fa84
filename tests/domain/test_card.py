from __future__ import annotations

import base64
import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detection_assets.domain import card, snapshot, splitting

SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}


def made(groups: int = 3) -> snapshot.Snapshot:
    frames = pd.DataFrame(
        [(f"s{g}/v.mp4", f"s{g}/v.mp4#{at:06d}", f"s{g}") for g in range(groups) for at in range(4)],
        columns=["video", "frame", "group"],
    ).assign(width=640, height=480, sha256="00", file="x.jpg", kept=True)
    rows = []
    for row in frames.itertuples():
        for side, name in ((10, "apple"), (50, "apple"), (200, "cola|<b>")):
            empty = row.frame.endswith("3")
            rows.append((row.frame, None if empty else name, 0.0, 0.0, float(side), side * 2.0))
    annotations = pd.DataFrame(rows, columns=["frame", "class", "x1", "y1", "x2", "y2"])
    classes = ["apple", "cola|<b>", "water"]
    data = snapshot.labelled(frames, annotations, classes)
    return snapshot.build(data, splitting.split(data.images, data.boxes, SHARES), classes, SHARES)


def row_of(text: str, first: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.removeprefix("| ").removesuffix(" |").split(" | ")]


def test_the_card_tells_counts_sizes_and_what_is_bare():
    data = made()
    text = card.card(data)
    assert text.startswith(f"## Dataset {data.version}\n")
    assert "12 images with 27 boxes, from 3 videos in 3 groups, split by group." in text
    assert "Optimistic" not in text
    assert row_of(text, "train") == ["train", "4", "33% of 60%", "1", "9"]
    classes, groups, sizes = (text.split(title)[1] for title in ("### Boxes of", "### Groups", "### Sizes"))
    assert row_of(classes, "apple") == ["apple", "6", "6", "6", "18"]
    assert row_of(classes, "cola\\|&lt;b&gt;") == ["cola\\|&lt;b&gt;", "3", "3", "3", "9"]
    assert row_of(classes, "water") == ["water", "0", "0", "0", "0"]
    assert sorted(row_of(groups, "s1")[1:]) == sorted(["4", "0", "0", "9"])
    # 10 x 20 is small; 50 x 100 is medium; 200 x 400 is large.
    assert row_of(sizes, "apple") == ["apple", "9", "9", "0", "30 x 60", "14", "42", "71"]
    assert row_of(sizes, "all")[1:4] == ["9", "9", "9"]
    assert "Class water" not in text


def test_optimism_and_notes_are_shouted():
    text = card.card(made(groups=1))
    assert "**Optimistic:**" in text
    assert "- Split by image, because 1 group and 1 video" in text


def test_the_table_of_groups_stays_readable():
    text = card.card(made(groups=60))
    assert "… and 10 more." in text
    assert text.count("\n| s") == 50 + 1  # and the heading `split`


def jpeg() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(out, "JPEG")
    return out.getvalue()


def test_thumbnails_are_embedded():
    picture = card.thumbnail(jpeg(), "a [frame](x)")
    assert picture.startswith("![a \\[frame\\](x)](data:image/jpeg;base64,")
    assert base64.b64decode(picture.rsplit(",", 1)[1].rstrip(")")) == jpeg()
    assert picture in card.card(made(), [picture])
    with pytest.raises(ValueError, match="must be a JPEG"):
        card.thumbnail(b"GIF89a")


CELLS = {
    "none": (None, "–"),
    "nan": (float("nan"), "–"),
    "missing": (pd.NA, "–"),
    "whole": (1234567, "1,234,567"),
    "numpy whole": (np.int64(12), "12"),
    "fraction": (0.123456, "0.123"),
    "large fraction": (12345.6, "12,346"),
    "truth": (True, "yes"),
    "numpy truth": (np.bool_(False), "no"),
    "text": ("a|b\nc", "a\\|b c"),
    "html": ("<script>", "&lt;script&gt;"),
}


@pytest.mark.parametrize(("value", "shown"), CELLS.values(), ids=CELLS)
def test_cells(value, shown):
    assert card.table(["x"], [[value]]).splitlines()[2] == f"| {shown} |"


def test_numbers_are_aligned_and_an_empty_table_says_so():
    assert card.table(["name", "n"], [("a", 1), ("b", 2.5)]).splitlines()[1] == "| --- | ---: |"
    assert card.table(["name"], []) == "*none*"
    frame = pd.DataFrame({"name": ["a", "b", "c"], "n": [1, 2, 3]})
    assert card.frame_table(frame).count("\n") == 4
    assert card.frame_table(frame, most=1).endswith("… and 2 more.")


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.text(max_size=20), min_size=2, max_size=2), min_size=1, max_size=3))
def test_no_text_breaks_out_of_its_cell(rows):
    lines = card.table(["a", "b"], rows).split("\n")
    assert len(lines) == len(rows) + 2
    for line in lines[2:]:
        assert line.replace("\\\\", "").replace("\\|", "").count("|") == 3
        assert "<" not in line

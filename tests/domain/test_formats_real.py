"""Real exports of labelling tools: every box is read, or it is told why not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from detection_assets.domain import formats


def kinds(parsed: formats.Parsed) -> dict[str, int]:
    """How often each problem is told, by its words without numbers and names."""
    return dict(Counter(" ".join(word for word in one.what.split() if word.isalpha()) for one in parsed.problems))


@pytest.mark.parametrize(
    ("name", "form", "boxes", "frames", "people", "told"),
    [
        ("ground_truth/sample_output.manifest", "ground_truth", 192, 100, set[str](), {}),
        ("label_studio/rectangles.json", "label_studio", 6, 2, {"1", "2"}, {}),
        # All 25 are turned.
        ("label_studio/rotated_rectangles.json", "label_studio", 25, 3, {"1"}, {"a box turned by not a box": 25}),
        ("label_studio/polygons.json", "label_studio", 1, 1, {"1"}, {"a polygon of not a box": 1}),
        # Three polygons have boxes around them; three polylines and two points have none.
        ("cvat/images/annotations.xml", "cvat", 6, 2, set[str](), {"not a box": 3, "shapes that are no boxes": 2}),
        # Of the video's tracks one is of boxes; the others are points and polylines.
        ("cvat/video/annotations.xml", "cvat", 1, 4, set[str](), {"shapes that are no boxes": 2}),
    ],
)
def test_every_box_is_read(
    shared_data: Path,
    name: str,
    form: str,
    boxes: int,
    frames: int,
    people: set[str],
    told: dict[str, int],
) -> None:
    path = shared_data / "annotations" / name
    assert formats.detect(path) == form
    parsed = formats.load([path], shared_data)
    assert len(parsed.boxes.dropna(subset=["class"])) == boxes
    assert len(parsed.boxes[["frame_name", "frame_index"]].drop_duplicates()) == frames
    assert set(parsed.boxes["annotator"].dropna()) == people
    assert kinds(parsed) == told

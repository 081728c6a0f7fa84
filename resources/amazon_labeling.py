"""What a Ground Truth labeling job of bounding boxes is told, and what it tells: its input, its page, its answers."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from detection_assets.domain.formats import ground_truth
from detection_assets.domain.labels import Batch
from detection_assets.domain.problems import Problem
from resources import temporary
from resources.labeling.local import proposed

BOXES, PROPOSALS = "detection-boxes", "detection-proposals"
"""Attributes of a manifest's line: what people draw, and what they begin with. An image job's may end neither in
`-ref` nor in `-metadata`, and an adjustment's is another one than that which it adjusts."""
FRAME = "frame"
"""Of a line, what the batch calls the picture; what Ground Truth does not know it hands on."""
NO_TIME = "2000-01-01T00:00:00"
"""When proposals are said to be made: before whatever anybody draws, and the same each time."""
ACCOUNTS = {
    "us-east-1": "432418664414",
    "us-east-2": "266458841044",
    "us-west-2": "081040173940",
    "ca-central-1": "918755190332",
    "eu-west-1": "568282634449",
    "eu-west-2": "487402164563",
    "eu-central-1": "203001061592",
    "ap-northeast-1": "477331159723",
    "ap-northeast-2": "845288260483",
    "ap-south-1": "565803892007",
    "ap-southeast-1": "377565633583",
    "ap-southeast-2": "454466003867",
}
"""Whose functions prepare tasks and put answers together, by region, as the documentation of `CreateLabelingJob` has
them."""
SIDES = ("left", "top", "width", "height")

_PAGE = """\
<script src="https://assets.crowd.aws/crowd-html-elements.js"></script>
<crowd-form>
  <crowd-bounding-box
    name="boundingBox"
    src="{{ task.input.taskObject | grant_read_access }}"
    header="@title@"
    labels="{{ task.input.labels | to_json | escape }}"@initial@
  >
    <full-instructions header="@title@">
      <p>@instructions@</p>
    </full-instructions>
    <short-instructions>
      <p>@instructions@</p>
    </short-instructions>
  </crowd-bounding-box>
</crowd-form>
"""
_INITIAL = (
    "\n"
    '    initial-value="[{% for box in task.input.manifestLine.@attribute@.annotations %}'
    "{% capture class_id %}{{ box.class_id }}{% endcapture %}"
    "{% assign label = task.input.manifestLine.@attribute@-metadata.class-map[class_id] %}"
    "{&quot;label&quot;: {{ label | to_json | escape }}, &quot;left&quot;: {{ box.left }}, "
    "&quot;top&quot;: {{ box.top }}, &quot;width&quot;: {{ box.width }}, &quot;height&quot;: {{ box.height }}}"
    '{% unless forloop.last %}, {% endunless %}{% endfor %}]"'
)


def functions(region: str, account: str, *, adjust: bool) -> tuple[str, str]:
    """The ARNs of the functions that prepare a task, and that put the answers of several workers together.

    Args:
        region: Where the job is.
        account: Whose they are, as `ACCOUNTS` has it.
        adjust: Whether there are boxes to begin with.
    """
    kind = "AdjustmentBoundingBox" if adjust else "BoundingBox"
    partition = "aws-cn" if region.startswith("cn-") else "aws-us-gov" if region.startswith("us-gov-") else "aws"
    place = f"arn:{partition}:lambda:{region}:{account}:function"
    return f"{place}:PRE-{kind}", f"{place}:ACS-{kind}"


def manifest(batch: Batch, names: Sequence[str], uris: Mapping[str, str], *, adjust: bool) -> bytes:
    """The pictures of a job, a line each, which says in `frame` what the batch calls it.

    Args:
        batch: The batch.
        names: Those of its pictures that the job is about.
        uris: The address of each picture, by its name.
        adjust: Whether each has boxes to begin with, and be it none.
    """
    if not adjust:
        return b"".join(orjson.dumps({"source-ref": uris[name], FRAME: name}) + b"\n" for name in names)
    boxes = proposed(batch)
    boxes = boxes[boxes["frame_name"].isin(names)].reset_index(drop=True)
    for side, most in (("x1", "width"), ("y1", "height"), ("x2", "width"), ("y2", "height")):
        boxes[side] = boxes[side].round().clip(0, boxes[most].astype("float64"))
    # What nobody would see is none; its picture is still one of the job's.
    seen = boxes["class"].isin(batch.classes) & (boxes["x2"] > boxes["x1"]) & (boxes["y2"] > boxes["y1"])
    boxes.loc[~seen, "class"] = None
    with temporary.folder() as scratch:
        out = Path(scratch) / "input.manifest"
        ground_truth.save(boxes, batch.classes, out, attribute=PROPOSALS, urls=uris, job=PROPOSALS, created=NO_TIME)
        return out.read_bytes()


def categories(classes: Sequence[str]) -> bytes:
    """The file of what may be drawn."""
    return orjson.dumps({"document-version": "2018-11-28", "labels": [{"label": name} for name in classes]})


def page(title: str, instructions: str, *, adjust: bool) -> bytes:
    """What a worker sees. The classes come from the categories' file, the picture and its boxes from the manifest."""
    initial = _INITIAL.replace("@attribute@", PROPOSALS) if adjust else ""
    said = {"@title@": _plain(title), "@instructions@": _plain(instructions), "@initial@": initial}
    text = _PAGE
    for mark, value in said.items():
        text = text.replace(mark, value)
    return text.encode()


def _plain(text: str) -> str:
    # What looks like a tag of the template language is none.
    return html.escape(text).replace("{", "&#123;").replace("}", "&#125;")


def answers(files: Sequence[bytes], where: str) -> tuple[dict[str, list[Mapping[str, Any]]], list[Problem]]:
    """Who drew what in a picture: the boxes of each worker, as the last answer of his or hers has them.

    Args:
        files: What Ground Truth has kept of the workers' responses.
        where: What problems are told of.
    """
    last: dict[str, tuple[str, list[Mapping[str, Any]]]] = {}
    problems: list[Problem] = []
    for number, data in enumerate(files, 1):
        try:
            given = list(_answers(data))
        except ValueError:
            problems.append(Problem(where, f"response {number}", "not JSON", "dropped"))
            continue
        for answer in given:
            worker, time = answer.get("workerId"), str(answer.get("submissionTime") or "")
            content = answer.get("answerContent")
            drawn = content.get("boundingBox") if isinstance(content, dict) else None
            boxes = drawn.get("boundingBoxes") if isinstance(drawn, dict) else None
            if not isinstance(worker, str) or not isinstance(boxes, list):
                problems.append(Problem(where, str(worker or ""), "an answer without boundingBoxes", "dropped"))
            elif worker not in last or time >= last[worker][0]:
                good = [box for box in boxes if _is_box(box)]
                if len(good) < len(boxes):
                    what = f"{len(boxes) - len(good)} of {len(boxes)} boxes have no label or no place"
                    problems.append(Problem(where, worker, what, "dropped"))
                last[worker] = time, good
    return {worker: boxes for worker, (_, boxes) in sorted(last.items())}, problems


def _answers(data: bytes) -> Iterator[Mapping[str, Any]]:
    told = orjson.loads(data)
    found = told.get("answers") if isinstance(told, dict) else None
    yield from (one for one in found or [] if isinstance(one, dict))


def _is_box(box: object) -> bool:
    if not isinstance(box, dict) or not isinstance(box.get("label"), str):
        return False
    sides = [box.get(side) for side in SIDES]
    return all(isinstance(side, int | float) and not isinstance(side, bool) and math.isfinite(side) for side in sides)


def lines(data: bytes, where: str) -> tuple[list[dict[str, Any]], list[Problem]]:
    """The lines of an output manifest, and those that are none; the last one may be cut off while it is written."""
    found: list[dict[str, Any]] = []
    problems: list[Problem] = []
    rows = data.splitlines()
    for number, row in enumerate(rows, 1):
        if not row.strip():
            continue
        try:
            told = orjson.loads(row)
        except orjson.JSONDecodeError:
            told = None
        if isinstance(told, dict):
            found.append(told)
        elif number < len(rows) or data.endswith(b"\n"):
            problems.append(Problem(where, f"line {number}", "not a JSON object", "dropped"))
    return found, problems

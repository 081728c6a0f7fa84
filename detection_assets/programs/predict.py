"""Runs a model over the frames of many videos, with the code that serves.

Inputs: `frames`, `model` (folder with best.onnx). Parameters: `videos` (a list of `video`, `out`, and `frames`: pairs
of a frame's id and its file below the input `frames`), `settings` (confidence, iou, max_det), `sha256` of the model,
`classes`. Output `<out>/` for each video: predictions.parquet, summary.json, preview/*.jpg. With a checkpoint folder, a
killed run goes on after its last finished video.

In place of `model` there may be `answers`, where a server with the model was asked already: a folder with
answers.jsonl, which says of each `file` its `boxes`, or the `error`. `frames` needs only pictures to draw on then.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from detection_assets.domain import contact_sheet, tiles
from detection_assets.domain.previews import worth_a_look
from detection_assets.domain.problems import InputError, Problem
from detection_assets.programs.draw import read_ahead
from detection_assets.programs.job import Job, main
from detection_assets.programs.video_by_video import Video, each, videos_of

PREVIEW_WIDTH = 320
COLUMNS = ["frame", "class", "confidence", "x1", "y1", "x2", "y2"]
Box: TypeAlias = "tuple[Any, ...]"
"""Class, confidence, and x1 y1 x2 y2 in pixels of the picture."""
Look: TypeAlias = "Callable[[Sequence[str]], Iterator[list[Box] | InputError]]"
"""Says of each of some files what is in it, or why nobody can say."""


def run(job: Job) -> None:
    """Predicts.

    Args:
        job: See the module.

    Raises:
        InputError: The model or a parameter cannot be used, or no frame at all can be read.
        ModelError: The model failed on a frame.
    """
    by_answers = "answers" in job.inputs
    job.needs("frames", "answers" if by_answers else "model")
    videos = videos_of(job.params.get("videos") or [])
    looked: list[tuple[Look, str]] = []

    def one(video: Video, out: Path, fingerprint: str, before: int, total: int) -> None:
        if not looked:  # loaded when there is something left to do
            looked.append(_by_answers(job) if by_answers else _by_model(job))
        _predict(job, *looked[0], video, out, fingerprint, before, total)

    each(job, videos, [job.params.get("sha256"), job.params.get("settings")], one)


def _by_model(job: Job) -> tuple[Look, str]:
    """Loads the model; returns what looks with it, and its digest."""
    from detection_assets.serving.predictor import Predictor

    job.log("loading the model")
    folder = job.inputs["model"]
    path = folder / "best.onnx" if folder.is_dir() else folder
    try:
        model = Predictor(path, sha256=job.params.get("sha256"), **(job.params.get("settings") or {}))
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, InputError) else InputError(f"settings: {error}") from error

    def look(files: Sequence[str]) -> Iterator[list[Box] | InputError]:
        for picture in read_ahead([job.inputs["frames"] / file for file in files]):
            if isinstance(picture, InputError):
                yield picture
                continue
            found = model.predict(picture)
            each = zip(found.class_id.tolist(), found.confidence.tolist(), found.boxes.tolist(), strict=True)
            yield [(model.classes[kind], sure, *box) for kind, sure, box in each]

    return look, model.sha256


def _by_answers(job: Job) -> tuple[Look, str]:
    """Reads what a server has answered; returns what looks there, and the digest of the server's model."""
    path = job.inputs["answers"] / "answers.jsonl"
    answers: dict[str, list[Box] | InputError] = {}
    line = b""
    try:
        for line in path.read_bytes().splitlines():
            told = json.loads(line)
            answers[told["file"]] = (
                InputError(str(told["error"])) if "error" in told else [_box(box) for box in told["boxes"]]
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: {line[:200]!r} is no answer ({error!r}); ask the server again") from error

    def look(files: Sequence[str]) -> Iterator[list[Box] | InputError]:
        for file in files:
            yield answers.get(file, InputError("the server gave no answer; predict again"))

    return look, str(job.params.get("sha256") or "")


def _box(told: Mapping[str, Any]) -> Box:
    return (str(told["class"]), *(float(told[name]) for name in COLUMNS[2:]))


def _predict(
    job: Job, look: Look, sha256: str, video: Video, out: Path, fingerprint: str, before: int, total: int
) -> None:
    rows: list[tuple[Any, ...]] = []
    problems: list[Problem] = []
    looked = look([file for _, file in video.frames])
    for at, ((frame, file), boxes) in enumerate(zip(video.frames, looked, strict=True)):
        if isinstance(boxes, InputError):
            problems.append(Problem(file, frame, str(boxes), "skipped"))
            job.log(str(problems[-1]))
        else:
            # One row without a class for a frame in which nothing was found, so that it counts as looked at.
            rows += [(frame, *box) for box in boxes] or [(frame, None, *([np.nan] * 5))]
        job.progress(before + at, total, "frames predicted")
    if video.frames and len(problems) == len(video.frames):
        raise InputError(f"{video.key}: none of its frames can be read; extract them again. The first: {problems[0]}")
    table = pd.DataFrame(rows, columns=COLUMNS).astype({name: "float64" for name in COLUMNS[2:]})
    table["class"] = table["class"].astype(object).where(table["class"].notna(), None)
    table.to_parquet(out / "predictions.parquet", index=False)
    _previews(job, video, table, out / "preview")
    summary = {
        "video": video.key,
        "frames": len(video.frames),
        "boxes": int(table["class"].notna().sum()),
        "sha256": sha256,
        "problems": [str(problem) for problem in problems],
        "fingerprint": fingerprint,
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=1))


def _previews(job: Job, video: Video, table: pd.DataFrame, folder: Path) -> None:
    """Draws some frames, evenly chosen, those with boxes first."""
    boxes = table[table["class"].notna()]
    files: Mapping[str, str] = dict(video.frames)
    looked_at = [frame for frame in dict.fromkeys(table["frame"]) if (job.inputs["frames"] / files[frame]).exists()]
    classes = [str(name) for name in job.params.get("classes", [])]
    for at, frame in enumerate(worth_a_look(looked_at, set(boxes["frame"])), 1):
        decoded = tiles.small((job.inputs["frames"] / files[frame]).read_bytes(), PREVIEW_WIDTH)
        if decoded is None:
            continue  # it was told when it was looked at
        (picture, own), mine = decoded, boxes[boxes["frame"] == frame]
        scale = picture.width / own[0], picture.height / own[1]
        contact_sheet.draw(picture, tiles.marks(mine, classes, dashed=True), scale)
        folder.mkdir(exist_ok=True)
        (folder / f"{at:02d}.jpg").write_bytes(contact_sheet.encoded(picture, "JPEG", 70))


if __name__ == "__main__":
    main(run, __doc__)

"""Looks at pictures that nobody has labelled, to tell which are worth it: what models find there, what they look like.

Inputs: `pictures`; `champion`, the model in service, and `challenger`, another one, each a folder with best.onnx, where
there are such. Parameters: `videos` (a list of `video`, `out`, and `frames`: pairs of a picture's id and its file below
`pictures`), `settings` (confidence, iou, max_det), `sha256` of each model by its input's name. Output `<out>/` for each
video: boxes.parquet (columns `informativeness.BOXES`), pictures.parquet, summary.json. With a checkpoint folder, a
killed run goes on after its last finished video.

The champion looks at a picture twice, at it and at its mirror image, whose boxes are turned back. A row of
pictures.parquet is a picture that could be read: `frame`, `width`, `height`, `phash`, and its `description`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from detection_assets.domain import quality
from detection_assets.domain.description import NAMES, describe
from detection_assets.domain.informativeness import BOXES, CHALLENGER, MIRRORED, PLAIN
from detection_assets.domain.problems import InputError, Problem
from detection_assets.programs.draw import Picture, read_ahead
from detection_assets.programs.job import Job, main
from detection_assets.programs.video_by_video import Video, each, videos_of

if TYPE_CHECKING:
    from detection_assets.serving.predictor import Predictor

CHAMPION = "champion"


def run(job: Job) -> None:
    """Looks at pictures.

    Args:
        job: See the module.

    Raises:
        InputError: A model or a parameter cannot be used. A picture that cannot be read is told in the summary.
        ModelError: A model failed on a picture.
    """
    job.needs("pictures")
    videos = videos_of(job.params.get("videos") or [])
    names = [name for name in (CHAMPION, CHALLENGER) if name in job.inputs]
    loaded: dict[str, Predictor] = {}

    def one(video: Video, out: Path, fingerprint: str, before: int, total: int) -> None:
        for name in names:
            if name not in loaded:  # when there is something left to do
                loaded[name] = _model(job, name)
        _look(job, loaded, video, out, fingerprint, before, total)

    each(job, videos, [names, job.params.get("sha256"), job.params.get("settings")], one)


def _model(job: Job, name: str) -> Predictor:
    from detection_assets.serving.predictor import Predictor

    job.log(f"loading the {name}")
    digests: Mapping[str, str] = job.params.get("sha256") or {}
    try:
        settings = job.params.get("settings") or {}
        return Predictor(job.inputs[name] / "best.onnx", sha256=digests.get(name), **settings)
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, InputError) else InputError(f"settings: {error}") from error


def _look(
    job: Job, models: Mapping[str, Predictor], video: Video, out: Path, fingerprint: str, before: int, total: int
) -> None:
    boxes: list[tuple[Any, ...]] = []
    pictures: list[tuple[Any, ...]] = []
    problems: list[Problem] = []
    read = read_ahead([job.inputs["pictures"] / file for _, file in video.frames])
    for at, ((frame, file), picture) in enumerate(zip(video.frames, read, strict=True)):
        if isinstance(picture, InputError):
            problems.append(Problem(file, frame, "cannot be read as a picture", "skipped"))
            job.log(str(problems[-1]))
        else:
            height, width = picture.shape[:2]
            pictures.append((frame, width, height, phash(picture), *describe(picture).tolist()))
            if CHAMPION in models:
                boxes += [(frame, PLAIN, *box) for box in _found(models[CHAMPION], picture)]
                boxes += [
                    (frame, MIRRORED, kind, sure, width - x2, y1, width - x1, y2)
                    for kind, sure, x1, y1, x2, y2 in _found(models[CHAMPION], picture[:, ::-1])
                ]
            if CHALLENGER in models:
                boxes += [(frame, CHALLENGER, *box) for box in _found(models[CHALLENGER], picture)]
        job.progress(before + at, total, "pictures looked at")
    kinds = {name: "object" if name in ("frame", "view", "class") else "float64" for name in BOXES}
    pd.DataFrame(boxes, columns=list(BOXES)).astype(kinds).to_parquet(out / "boxes.parquet", index=False)
    table = pd.DataFrame(pictures, columns=["frame", "width", "height", "phash", *NAMES])
    kinds = {**dict.fromkeys(("width", "height"), "int64"), **dict.fromkeys(NAMES, "float32")}
    kinds |= dict.fromkeys(("frame", "phash"), "object")
    table.astype(kinds).to_parquet(out / "pictures.parquet", index=False)
    summary = {
        "video": video.key,
        "pictures": len(pictures),
        "boxes": len(boxes),
        "problems": [str(problem) for problem in problems],
        "fingerprint": fingerprint,
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=1))


def _found(model: Predictor, picture: Picture) -> list[tuple[Any, ...]]:
    found = model.predict(np.ascontiguousarray(picture))
    each_one = zip(found.class_id.tolist(), found.confidence.tolist(), found.boxes.tolist(), strict=True)
    return [(model.classes[kind], sure, *box) for kind, sure, box in each_one]


def phash(picture: Picture) -> str:
    """The perceptual hash of a picture, 16 hexadecimal digits, as extraction takes it of a frame."""
    import cv2

    size = quality.luma_size(picture.shape[1], picture.shape[0])
    luma = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
    return f"{quality.phash(np.asarray(luma)):016x}"


if __name__ == "__main__":
    main(run, __doc__)

"""What a batch endpoint of Azure ML calls: `init` once in each process, and `run` with some files at a time.

A file is a list of pictures that lie in the lake, `*.pictures.json`: where they are (`frames`), their paths below it
(`pictures`), and where the answers go (`answers`), as JSON lines under the list's name. So a job reads the pictures
that it is asked about, however many lie beside them. Any other file is taken for a picture, so that whoever has a
folder of pictures can ask the endpoint about it; the answers are in the job's own output.

The model is the one in `$AZUREML_MODEL_DIR`; what is to be known about it is told in `DETECTION_BATCH`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

from detection_assets.object_store import open_store
from detection_assets.serving.bundle import usual_place
from detection_assets.serving.handler import Handler

LISTS = ".pictures.json"
SETTINGS = "DETECTION_BATCH"
"""JSON: `detector`, `version`, `sha256`, `confidence`, `iou`, `max_det`, as beside a model in `serving.json`."""
OUTPUT = "AZUREML_BI_OUTPUT_PATH"
"""Where Azure ML says what a job's output folder is."""
READERS = 4
"""Pictures on their way from the lake at once; the network has the cores."""
_loaded: list[Handler] = []


def init() -> None:
    """Loads the model."""
    _loaded[:] = [Handler(usual_place(), **orjson.loads(os.environ.get(SETTINGS) or "{}"))]


def run(mini_batch: Sequence[str]) -> list[str]:
    """Answers some files.

    A picture that cannot be read is answered with the reason, so it loses no other.

    Args:
        mini_batch: Their paths.

    Returns:
        A line for each.

    Raises:
        ModelError: The model failed.
        OSError: The lake was not reached; Azure ML tries these files again.
    """
    lists = [Path(file) for file in mini_batch if file.endswith(LISTS)]
    pictures = [Path(file) for file in mini_batch if not file.endswith(LISTS)]
    told = [f"{path.name}: {_listed(path)}" for path in lists]
    if pictures:
        answers = [{"file": str(path), **_answer(path.read_bytes())} for path in pictures]
        # The same files are answered in the same place when they are tried again.
        name = hashlib.sha256("\0".join(map(str, pictures)).encode()).hexdigest()[:12]
        Path(os.environ[OUTPUT], f"{name}.jsonl").write_bytes(_lines(answers))
        told += [f"{path.name}: in {name}.jsonl" for path in pictures]
    print(*told, sep="\n", flush=True)
    return told


def _listed(path: Path) -> str:
    import obstore

    order = orjson.loads(path.read_bytes())
    answers = [{"file": name, **answer} for name, answer in _answers(order["frames"], order["pictures"])]
    obstore.put(open_store(order["answers"]), f"{path.name.removesuffix(LISTS)}.jsonl", _lines(answers))
    problems = [one for one in answers if "error" in one]
    first = f", the first {problems[0]['file']}: {problems[0]['error']}" if problems else ""
    return f"{len(answers)} pictures, {len(problems)} of them not readable{first}"


def _answers(frames: str, pictures: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    import obstore

    store = open_store(frames)

    def read(name: str) -> bytes | None:
        try:
            return bytes(obstore.get(store, name).bytes())
        except FileNotFoundError:
            return None

    with ThreadPoolExecutor(READERS) as pool:
        for name, data in zip(pictures, pool.map(read, pictures), strict=True):
            yield name, {"error": "it is gone; extract its video again"} if data is None else _answer(data)


def _answer(data: bytes) -> dict[str, Any]:
    return _loaded[0].look(data, "the picture")


def _lines(answers: Sequence[dict[str, Any]]) -> bytes:
    return b"\n".join(map(orjson.dumps, answers))

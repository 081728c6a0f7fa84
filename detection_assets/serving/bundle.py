"""One model in a folder, as the clouds hand it to a container: `/opt/ml/model` or `$AZUREML_MODEL_DIR`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from detection_assets.domain.problems import InputError
from detection_assets.serving.state import SlotSpec, State, parse_slot

SAGEMAKER = Path("/opt/ml/model")
AZURE_VARIABLE = "AZUREML_MODEL_DIR"
SLOT = "blue"
ABOUT = "serving.json"
"""May lie beside the model: `detector`, `version`, `sha256`, `confidence`, `iou`, `max_det`, each of them optional; and
for a server of a managed endpoint `slot`, `deployment` and `desk`."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model and what is known about it.

    Attributes:
        detector: The detector's name.
        spec: What the one slot is to hold.
        slot: What the endpoint, of which this server may be a part, calls it.
        deployment: The name of what the slot was given; nobody else's.
        desk: URI of the folder where the endpoint's servers find their orders and leave their reports, or "".
    """

    detector: str
    spec: SlotSpec
    slot: str = SLOT
    deployment: str = ""
    desk: str = ""

    def state(self) -> State:
        """An endpoint with this model alone."""
        return State(self.detector, {self.slot: self.spec}, {self.slot: 100.0})


def usual_place() -> Path:
    """Where the cloud that this container runs in puts the model.

    Raises:
        InputError: This is no such container.
    """
    if os.environ.get(AZURE_VARIABLE):
        return Path(os.environ[AZURE_VARIABLE])
    if SAGEMAKER.is_dir():
        return SAGEMAKER
    raise InputError(f"neither {AZURE_VARIABLE} nor {SAGEMAKER} says where the model is: name its file or folder")


def find(place: Path, **changes: Any) -> Bundle:
    """Finds the one model in a folder, or takes the file that is named.

    Args:
        place: An .onnx file, or a folder with one .onnx file in it, at whatever depth.
        **changes: What is known better than the file `serving.json` beside the model says; None is not known.

    Raises:
        InputError: There is no such file, more than one, or `serving.json` makes no sense.
    """
    model = _model(place)
    known = _about(model.with_name(ABOUT)) | {key: value for key, value in changes.items() if value is not None}
    try:
        digest = hashlib.sha256(model.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{model}: cannot be read ({error.strerror or error}): check the path") from error
    fields = {"sha256": digest, "version": str(known.get("sha256", digest))[:12]} | known | {"model": str(model)}
    try:
        where = {name: str(known[name]) for name in ("slot", "deployment", "desk") if name in known}
        return Bundle(str(known.get("detector", model.stem)), parse_slot(fields), **where)
    except (ValueError, TypeError) as error:
        raise InputError(f"{model.with_name(ABOUT)} or an option: {error}") from error


def _model(place: Path) -> Path:
    place = place.absolute()
    if place.is_file():
        return place
    if not place.is_dir():
        raise InputError(f"{place}: no such file or folder; name an .onnx file or a folder with one in it")
    found = sorted(place.rglob("*.onnx"))
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(place)) for path in found[:5]) or "none"
        raise InputError(f"{place}: holds {len(found)} .onnx files ({names}) where one is needed; name the file")
    return found[0]


def _about(file: Path) -> dict[str, Any]:
    try:
        raw = orjson.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({error}); write it again, or remove it") from error
    allowed = {"detector", "version", "sha256", "confidence", "iou", "max_det", "slot", "deployment", "desk"}
    if not isinstance(raw, Mapping) or not raw.keys() <= allowed:
        raise InputError(f"{file}: must be an object with some of {', '.join(sorted(allowed))} and nothing else")
    return dict(raw)

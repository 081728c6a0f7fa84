"""The state file: what a controller tells an endpoint to be.

    {"detector": "fridge",
     "slots": {"blue": {"model": "/m/3.onnx", "sha256": "...", "version": "3", "confidence": 0.25}, ...},
     "traffic": {"blue": 95, "green": 5},
     "shadow": {"slot": "green", "share": 0.5},
     "capture": {"folder": "/lake/fridge/captures", "rate": 0.05, "below": 0.4, "images": true, "keep_days": 30}}

`shadow` and `capture` may be absent. A controller replaces the file as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from detection_assets.domain.problems import InputError
from detection_assets.serving.predictor import check_thresholds


@dataclass(frozen=True, slots=True)
class SlotSpec:
    """What a slot is to hold.

    Attributes:
        model: Absolute path of the .onnx file.
        sha256: Digest that the file must have.
        version: The registry's version, repeated in each answer.
        confidence: Boxes must be more confident than this.
        iou: Limit of overlap within a class.
        max_det: Most boxes in an answer.
    """

    model: Path
    sha256: str
    version: str
    confidence: float = 0.25
    iou: float = 0.7
    max_det: int = 300


@dataclass(frozen=True, slots=True)
class ShadowSpec:
    """Which slot sees copies of other slots' requests, and what share of them (0 to 1)."""

    slot: str
    share: float


@dataclass(frozen=True, slots=True)
class CaptureSpec:
    """Which requests are kept, where and how.

    Attributes:
        folder: Where they are written, an absolute path or a URI; a folder a day and an hour in it.
        rate: Share of the requests, 0 to 1, kept whatever was found.
        below: Requests with a box less confident than this are always kept.
        images: Whether pictures are kept; if not, only what was measured and found.
        keep_days: Whole days after which a day's folder is removed.
    """

    folder: Path | str
    rate: float = 0.0
    below: float = 0.0
    images: bool = True
    keep_days: int = 30


@dataclass(frozen=True, slots=True)
class State:
    """What an endpoint is to be.

    Attributes:
        detector: The detector's name.
        slots: What each slot is to hold.
        traffic: Weight of each slot; a slot that is not named gets none.
        shadow: The slot that sees copies, if there is one.
        capture: What is kept of requests, if anything.
    """

    detector: str
    slots: Mapping[str, SlotSpec] = field(default_factory=dict)
    traffic: Mapping[str, float] = field(default_factory=dict)
    shadow: ShadowSpec | None = None
    capture: CaptureSpec | None = None


def parse_state(content: bytes, file: Path) -> State:
    """Reads a state file.

    Args:
        content: Its bytes, as described at the top of this module.
        file: Its path, for errors.

    Raises:
        InputError: Not JSON, a field is missing or has a bad value, or traffic goes to a slot that is not there.
    """
    try:
        raw = orjson.loads(content)
        slots = {str(name): parse_slot(spec) for name, spec in raw.get("slots", {}).items()}
        traffic = {str(name): float(weight) for name, weight in raw.get("traffic", {}).items()}
        shadow, capture = raw.get("shadow"), raw.get("capture")
        state = State(
            str(raw["detector"]),
            slots,
            traffic,
            None if shadow is None else ShadowSpec(str(shadow["slot"]), parse_share(shadow["share"], "shadow.share")),
            None if capture is None else parse_capture(capture),
        )
    except KeyError as error:
        raise InputError(f"{file}: {error.args[0]!r} is missing; write the state again") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: not a state file ({error}); write the state again") from None
    for name, weight in traffic.items():
        if name not in slots and weight:
            raise InputError(f"{file}: traffic goes to the slot {name!r}, which is not among the slots {sorted(slots)}")
        if not 0 <= weight < math.inf:
            raise InputError(f"{file}: the traffic of {name!r} is {weight}; it must be 0 or more")
    if state.shadow is not None and state.shadow.slot not in slots:
        raise InputError(f"{file}: the shadow is {state.shadow.slot!r}, which is not among the slots {sorted(slots)}")
    return state


def parse_slot(raw: Mapping[str, Any]) -> SlotSpec:
    """Reads what one slot is to hold.

    Raises:
        KeyError: A field is missing.
        ValueError: A threshold makes no sense.
        TypeError: A value is of the wrong type.
    """
    given = {key: raw[key] for key in ("confidence", "iou", "max_det") if key in raw}
    spec = SlotSpec(Path(raw["model"]), str(raw["sha256"]), str(raw["version"]), **given)
    check_thresholds(spec.confidence, spec.iou, spec.max_det)
    return spec


def parse_capture(raw: Mapping[str, Any]) -> CaptureSpec:
    """Reads which requests are kept.

    Raises:
        KeyError: A field is missing.
        ValueError: A value makes no sense.
        TypeError: A value is of the wrong type.
    """
    folder, images, keep_days = raw["folder"], raw.get("images", True), raw.get("keep_days", 30)
    if "://" not in folder:
        folder = Path(folder)
        if not folder.is_absolute():
            raise ValueError(f"capture.folder is {str(folder)!r}; it must be absolute, or a URI")
    if not isinstance(images, bool):
        raise ValueError(f"capture.images is {images!r}; it must be true or false")
    if isinstance(keep_days, bool) or not isinstance(keep_days, int) or keep_days < 1:
        raise ValueError(f"capture.keep_days is {keep_days!r}; it must be a whole number, 1 or more")
    rate, below = parse_share(raw.get("rate", 0), "capture.rate"), parse_share(raw.get("below", 0), "capture.below")
    return CaptureSpec(folder, rate, below, images, keep_days)


def parse_share(value: Any, name: str) -> float:
    """Reads a share, 0 to 1.

    Raises:
        ValueError: It is none; the message has the name.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{name} is {value!r}; it must be between 0 and 1")
    return float(value)

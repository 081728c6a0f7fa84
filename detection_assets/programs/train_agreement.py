"""Proof that the ONNX file answers what the trained weights answer, on real images.

Two comparisons: the raw numbers of the network (PyTorch against ONNX Runtime on the very same input), and the boxes
at the end (ultralytics' own prediction against the predictor that will serve).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detection_assets.programs.draw import read_rgb

Numbers = npt.NDArray[Any]

CONFIDENCE = 0.05
"""Low, so that there are boxes to compare even after a short training."""

BOX_PX, CONFIDENCE_OFF, RAW_RELATIVE, SHARE = 1.0, 0.01, 1e-3, 0.99
"""How far apart two boxes may be and still agree; the raw outputs; and the least share of boxes that agree."""

_IOU = 0.7
_SAME_OBJECT = 0.5


def agreement(weights: Path, onnx: Path, images: Sequence[Path], imgsz: int) -> dict[str, Any]:
    """Compares weights with their export.

    Args:
        weights: The `.pt` file.
        onnx: Its export.
        images: Pictures to compare on.
        imgsz: Side of the network's input, pixels.

    Returns:
        `agrees`; `images`; `boxes_pytorch` and `boxes_onnx`; `matched_share` (of all boxes of both sides, those that
        have a partner of the same class within 1 px and 0.01 of confidence; 1 if neither side has any);
        `max_box_px` and `max_conf`, the largest differences between partners; `raw_max_abs`, and `raw_max_rel`, which
        is relative to the largest number of the same row of the output.
    """
    from ultralytics import YOLO

    from detection_assets.serving.predictor import Predictor

    pictures = [read_rgb(path) for path in images]
    predictor = Predictor(onnx, confidence=CONFIDENCE, iou=_IOU)
    raw_abs, raw_rel = _raw(weights, onnx, [predictor.prepare(picture).pixels for picture in pictures])
    torch_side: Any = YOLO(weights)
    most = {"box": 0.0, "confidence": 0.0}
    boxes, agreeing = [0, 0], 0
    for picture in pictures:
        theirs = torch_side.predict(
            picture[..., ::-1], imgsz=imgsz, conf=CONFIDENCE, iou=_IOU, rect=False, device="cpu", verbose=False
        )[0].boxes
        ours = predictor.predict(picture)
        first = np.asarray(theirs.xyxy, np.float64), np.asarray(theirs.conf, np.float64), np.asarray(theirs.cls)
        second = ours.boxes.astype(np.float64), ours.confidence.astype(np.float64), ours.class_id
        boxes[0] += len(first[1])
        boxes[1] += len(second[1])
        for i, j in pairs(first[0], first[2], second[0], second[2]):
            apart = float(np.abs(first[0][i] - second[0][j]).max())
            off = float(abs(first[1][i] - second[1][j]))
            most = {"box": max(most["box"], apart), "confidence": max(most["confidence"], off)}
            agreeing += apart <= BOX_PX and off <= CONFIDENCE_OFF
    share = 2 * agreeing / sum(boxes) if sum(boxes) else 1.0
    return {
        "agrees": bool(share >= SHARE and raw_rel <= RAW_RELATIVE),
        "images": len(pictures),
        "boxes_pytorch": boxes[0],
        "boxes_onnx": boxes[1],
        "matched_share": share,
        "max_box_px": most["box"],
        "max_conf": most["confidence"],
        "raw_max_abs": raw_abs,
        "raw_max_rel": raw_rel,
    }


def _raw(weights: Path, onnx: Path, inputs: Sequence[npt.NDArray[np.uint8]]) -> tuple[float, float]:
    """Largest absolute and relative difference between the raw outputs of the two networks."""
    import onnxruntime
    import torch
    from ultralytics.nn.tasks import load_checkpoint

    network: Any = load_checkpoint(weights, device=torch.device("cpu"))[0]
    network = network.float().fuse().eval()
    network.model[-1].export = True  # the head then answers as in the export
    network.model[-1].format = "onnx"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    most_abs, most_rel = 0.0, 0.0
    with torch.inference_mode():
        for pixels in inputs:
            batch = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32) / 255
            answer = network(torch.from_numpy(batch))
            ours = (answer[0] if isinstance(answer, (tuple, list)) else answer).numpy()
            theirs: Any = session.run(None, {name: batch})[0]
            gap = np.abs(ours - theirs)
            # Rows are coordinates (hundreds) or confidences (below one); each is held against its own scale.
            scale = np.maximum(np.abs(ours).max(axis=-1, keepdims=True), 1e-6)
            most_abs = max(most_abs, float(gap.max()))
            most_rel = max(most_rel, float((gap / scale).max()))
    return most_abs, most_rel


def pairs(first: Numbers, first_class: Numbers, second: Numbers, second_class: Numbers) -> list[tuple[int, int]]:
    """Partners among two sets of boxes: same class, largest overlap first, each box once.

    Args:
        first: N x 4, x1 y1 x2 y2.
        first_class: N class ids.
        second: M x 4.
        second_class: M class ids.

    Returns:
        Positions in `first` and `second` of boxes that overlap by at least half.
    """
    if not len(first) or not len(second):
        return []
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    inside = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(part[:, 2:] - part[:, :2]).prod(axis=1) for part in (first, second)]
    overlap = inside / np.maximum(areas[0][:, None] + areas[1][None] - inside, 1e-9)
    overlap[first_class[:, None] != second_class[None]] = 0
    found: list[tuple[int, int]] = []
    for flat in np.argsort(-overlap, axis=None, kind="stable"):
        i, j = divmod(int(flat), len(second))
        if overlap[i, j] < _SAME_OBJECT:
            break
        if all(i != a and j != b for a, b in found):
            found.append((i, j))
    return found

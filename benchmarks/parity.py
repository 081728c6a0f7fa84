"""How many boxes of the predictor that serves are those of ultralytics itself, on a folder of pictures.

`python -m benchmarks.parity best.pt best.onnx PICTURES [--confidence C]`. Both get the same picture and the same
thresholds; ultralytics runs the PyTorch weights. A box is the same if class and place agree to 1 px and confidence to
0.01.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

PIXELS, CONFIDENCE, SHARE = 1.0, 0.01, 0.995


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("onnx", type=Path)
    parser.add_argument("pictures", type=Path, help="folder; its JPEG and PNG files, however deep")
    parser.add_argument("--confidence", type=float, default=0.25)
    parser.add_argument("--iou", type=float, default=0.7)
    given = parser.parse_args()
    os.environ.update(YOLO_CONFIG_DIR=tempfile.mkdtemp(), YOLO_OFFLINE="true", YOLO_VERBOSE="false")
    from ultralytics import YOLO

    from detection_assets.serving.images import decode
    from detection_assets.serving.predictor import Predictor

    theirs = YOLO(given.weights)
    ours = Predictor(given.onnx, confidence=given.confidence, iou=given.iou)
    found = expected = same = pictures = 0
    for path in sorted(path for path in given.pictures.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"}):
        image = decode(path.read_bytes())
        mine = ours.predict(image)
        answer = theirs.predict(
            np.ascontiguousarray(image[..., ::-1]),
            imgsz=max(ours.size),
            conf=given.confidence,
            iou=given.iou,
            rect=False,
            verbose=False,
        )
        boxes = answer[0].boxes.cpu().numpy()
        free = set(range(len(mine)))
        for corner, confidence, kind in zip(boxes.xyxy, boxes.conf, boxes.cls, strict=True):
            for index in sorted(free):
                near = np.abs(mine.boxes[index] - corner).max() <= PIXELS
                if near and mine.class_id[index] == kind and abs(mine.confidence[index] - confidence) <= CONFIDENCE:
                    free.remove(index)
                    same += 1
                    break
        found, expected, pictures = found + len(mine), expected + len(boxes), pictures + 1
    share = same / max(found, expected, 1)
    print(f"{pictures} pictures, {expected} boxes of ultralytics, {found} of ours, {same} the same: {share:.4%}")
    return 0 if share >= SHARE else 1


if __name__ == "__main__":
    sys.exit(main())

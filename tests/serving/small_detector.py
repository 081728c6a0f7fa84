"""Builds a small detector with ultralytics and writes down what ultralytics predicts with it.

Run as a program, so that torch and ultralytics stay out of the process that tests the server:
`python small_detector.py OUT` writes OUT/best.onnx, OUT/best.pt, OUT/pictures/*.png and OUT/reference.json.
"""

import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np

CLASSES = ["apple, red", "box 'o' \"tea\"", "Gurke"]
COLOURS = [(40, 40, 220), (200, 120, 30), (60, 180, 60)]
SIZE = 96
THRESHOLDS = [(0.25, 0.7, 300), (0.01, 0.45, 300), (0.001, 0.7, 20)]
SHAPES = [(96, 96), (120, 160), (481, 333), (64, 301), (33, 47), (97, 500)]


def draw(
    rng: np.random.Generator, height: int, width: int
) -> tuple[np.ndarray, list[tuple[int, float, float, float, float]]]:
    """A BGR picture of a few flat shapes over noise, and its boxes as class, x1, y1, x2, y2 in pixels."""
    picture = rng.integers(90, 150, (height, width, 3), dtype=np.uint8)
    boxes = []
    for _ in range(int(rng.integers(1, 5))):
        kind = int(rng.integers(3))
        side = int(min(height, width) * rng.uniform(0.2, 0.4))
        x, y = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
        if kind == 0:
            cv2.circle(picture, (x + side // 2, y + side // 2), side // 2, COLOURS[kind], -1)
        elif kind == 1:
            cv2.rectangle(picture, (x, y), (x + side, y + side), COLOURS[kind], -1)
        else:
            corners = np.array([[x, y + side], [x + side, y + side], [x + side // 2, y]])
            cv2.fillPoly(picture, [corners], COLOURS[kind])
        boxes.append((kind, x, y, x + side, y + side))
    return picture, boxes


def build(out: Path) -> None:
    """Writes an untrained YOLO11n whose confidences spread over 0 to 1, as best.pt and best.onnx.

    Random weights answer every picture alike and with next to no confidence. So batch normalisation is calibrated on
    drawn pictures, which makes each layer depend on what it sees, and the last layers are scaled up: many overlapping
    boxes of all classes, near every threshold, which is more than a trained model asks of suppression.
    """
    import torch
    from ultralytics import YOLO

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = YOLO("yolo11n.yaml")
    network = type(model.model)({**model.model.yaml, "nc": len(CLASSES)}, nc=len(CLASSES), verbose=False)
    network.names = dict(enumerate(CLASSES))
    network.args = model.model.args
    batch = np.stack([draw(rng, SIZE, SIZE)[0][..., ::-1] for _ in range(16)])
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # a plain average over what it is shown
    network.train()
    with torch.no_grad():
        network(torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255)
        for branch in network.model[-1].cv3:
            branch[-1].weight *= 4
            branch[-1].bias.fill_(-2.0)
        for branch in network.model[-1].cv2:
            branch[-1].weight *= 2
    network.eval()
    model.model = network
    model.ckpt = {}
    model.save(out / "best.pt")
    YOLO(str(out / "best.pt")).export(format="onnx", imgsz=SIZE, dynamic=False)


def main(out: Path) -> None:
    """Builds, exports, predicts."""
    os.environ.update(YOLO_OFFLINE="1", YOLO_CONFIG_DIR=str(out / "settings"), YOLO_VERBOSE="false")
    (out / "settings").mkdir(parents=True)
    from ultralytics import YOLO

    build(out)
    rng = np.random.default_rng(1)
    pictures = out / "pictures"
    pictures.mkdir()
    names = []
    for index in range(18):
        names.append(f"{index:02d}.png")
        cv2.imwrite(str(pictures / names[-1]), draw(rng, *SHAPES[index % len(SHAPES)])[0])
    reference = []
    for file in ("best.pt", "best.onnx"):
        model = YOLO(str(out / file), task="detect")
        for confidence, iou, max_det in THRESHOLDS:
            for name in names:
                result = model.predict(
                    str(pictures / name), imgsz=SIZE, rect=False, conf=confidence, iou=iou, max_det=max_det,
                    verbose=False, device="cpu",
                )[0]  # fmt: skip
                reference.append(
                    {
                        "model": file, "picture": name, "confidence": confidence, "iou": iou, "max_det": max_det,
                        "boxes": result.boxes.data.tolist(),
                    }
                )  # fmt: skip
    (out / "reference.json").write_text(json.dumps(reference))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""A real ONNX detector with known answers, made in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

CLASSES = ["apple", "kéfir $5"]
SIZE = 64
PLACE = {0: (8.0, 8.0, 24.0, 24.0), 1: (32.0, 32.0, 60.0, 56.0)}
"""Where the two classes are in every picture that has them: red pictures have apples, blue ones the other."""


def network(path: Path, *, names: Sequence[str] = CLASSES, swap: bool = False, shift: float = 0.0) -> Path:
    """A real network with known answers: its confidence in a class is how red, or how blue, the picture is."""
    import onnx
    from onnx import TensorProto, helper

    values = np.zeros((3, 4 + len(names), 2), np.float32)
    bias = np.zeros((4 + len(names), 2), np.float32)
    for anchor, (x1, y1, x2, y2) in PLACE.items():
        bias[:4, anchor] = (x1 + x2) / 2 + shift, (y1 + y2) / 2, x2 - x1, y2 - y1
        values[0 if anchor == 0 else 2, 4 + (1 - anchor if swap else anchor), anchor] = 0.9
    flat = [1, -1]
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["mean", "values"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["sum"]),
        helper.make_node("Reshape", ["sum", "shape"], ["output0"]),
    ]
    constants = {
        "values": values.reshape(3, -1),
        "bias": bias.reshape(flat),
        "shape": np.array([1, 4 + len(names), 2], np.int64),
    }
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 4 + len(names), 2])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    metadata = {"task": "detect", "names": str(dict(enumerate(names))), "imgsz": f"[{SIZE}, {SIZE}]", "stride": "32"}
    helper.set_model_props(model, metadata)
    path.mkdir(parents=True)
    onnx.save(model, path / "best.onnx")
    return path

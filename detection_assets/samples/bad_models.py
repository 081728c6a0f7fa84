"""Models that fail on purpose, in the form that ultralytics exports, made in milliseconds and without training.

`write_model(path, kind)` writes a whole small detector; `spoil(model, path, kind)` makes a trained one bad in the same
way, so that it keeps its classes and its input. The kinds:

- `good`: nothing is wrong. The small detector finds a box in each quarter of the picture that is not dark, as sure as
  the quarter is bright (mean level / 255); the classes take turns over the quarters.
- `wrong`: each box has the next class and lies a quarter of the input too far to the right.
- `slow`: the right answer, after some hundred milliseconds of arithmetic.
- `nan`: no answer is a number, so it fails in warm-up and never loads.
- `bright`: answers are not numbers where the picture's mean level is above 0.6, so it loads and then fails some.
- `raises`: likewise, but the runtime itself raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

KINDS = ("good", "wrong", "slow", "nan", "bright", "raises")
CLASSES = ("apple", "banana", "cola", "water")
BRIGHT = 0.6
"""Mean level above which `bright` and `raises` fail; the grey of the warm-up is at 0.45."""
SLOW_STEPS = 8
"""Products of two 1024 x 1024 matrices that `slow` computes for nothing: 17 GFLOP, some hundred milliseconds."""


def write_model(path: Path, kind: str, *, classes: Sequence[str] = CLASSES, size: int = 64) -> Path:
    """Writes a small detector of one kind and returns its path."""
    import onnx

    onnx.save(_spoilt(_small(classes, size), kind), path)
    return path


def spoil(model: Path, path: Path, kind: str, *, slow_steps: int = SLOW_STEPS) -> Path:
    """Writes a copy of an exported detector that is bad in one way and returns its path."""
    import onnx

    onnx.save(_spoilt(onnx.load(model), kind, slow_steps), path)
    return path


def _small(classes: Sequence[str], size: int) -> Any:
    from onnx import TensorProto, helper

    half = size // 2
    corners = [(x * half, y * half) for y in (0, 1) for x in (0, 1)]
    boxes = np.array([[x + half / 2, y + half / 2, half * 0.75, half * 0.75] for x, y in corners], np.float32).T
    turns = np.array([[float(k % len(classes) == row) for k in range(4)] for row in range(len(classes))], np.float32)
    nodes = [
        helper.make_node("AveragePool", ["images"], ["quarters"], kernel_shape=[half, half], strides=[half, half]),
        helper.make_node("Conv", ["quarters", "thirds"], ["level"]),
        helper.make_node("Reshape", ["level", "row"], ["levels"]),
        helper.make_node("Mul", ["levels", "turns"], ["scores"]),
        helper.make_node("Concat", ["boxes", "scores"], ["output0"], axis=1),
    ]
    constants = {
        "thirds": np.full((1, 3, 1, 1), 1 / 3, np.float32),
        "row": np.array([1, 1, 4], np.int64),
        "turns": turns[None],
        "boxes": boxes[None],
    }
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 4 + len(classes), 4])],
        [_constant(name, value) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(
        model,
        {
            "task": "detect",
            "stride": "32",
            "imgsz": str([size, size]),
            "names": str(dict(enumerate(classes))),
        },
    )
    return model


def _spoilt(model: Any, kind: str, slow_steps: int = SLOW_STEPS) -> Any:
    """Puts something bad between a network and its output."""
    from onnx import helper

    if kind not in KINDS:
        raise ValueError(f"no kind {kind!r}; there are {', '.join(KINDS)}")
    graph = model.graph
    given, answer = graph.input[0].name, graph.output[0].name
    shape = [d.dim_value for d in graph.output[0].type.tensor_type.shape.dim]
    side = graph.input[0].type.tensor_type.shape.dim[3].dim_value
    if kind == "good":
        return model
    for node in graph.node:
        for index, name in enumerate(node.output):
            if name == answer:
                node.output[index] = "unspoilt"

    def constant(name: str, value: Any) -> str:
        graph.initializer.append(_constant(name, value))
        return name

    def add(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        graph.node.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    if kind == "nan":
        add("Add", ["unspoilt", constant("no_number", np.array([np.nan], np.float32))], answer)
    elif kind == "wrong":
        order = [0, 1, 2, 3, *(4 + (row - 1) % (shape[1] - 4) for row in range(shape[1] - 4))]
        turned = add("Gather", ["unspoilt", constant("order", np.array(order, np.int64))], "turned", axis=1)
        shift = np.zeros((1, shape[1], 1), np.float32)
        shift[0, 0] = side / 4
        add("Add", [turned, constant("shift", shift)], answer)
    elif kind == "slow":
        level = add("ReduceMean", [given], "slow_level", keepdims=0)
        weights = np.random.default_rng(0).normal(0, 1 / 32, (1024, 1024)).astype(np.float32)
        wide = add("Add", [level, constant("slow_weights", weights)], "slow_0")
        for step in range(slow_steps):
            wide = add("MatMul", [wide, "slow_weights"], f"slow_{step + 1}")
        bounded = add("Tanh", [wide], "slow_bounded")
        least = add("ReduceMean", [bounded], "slow_mean", keepdims=0)
        nothing = add("Mul", [least, constant("slow_nothing", np.float32(1e-30))], "slow_added")
        add("Add", ["unspoilt", nothing], answer)
    else:
        level = add("ReduceMean", [given], "bright_level", keepdims=0)
        bright = add("Greater", [level, constant("bright_limit", np.float32(BRIGHT))], "is_bright")
        if kind == "bright":
            add("Where", [bright, constant("no_number", np.array([np.nan], np.float32)), "unspoilt"], answer)
        else:
            # As many rows as the answer has, or three, which cannot be added to it: known only when it runs.
            rows = [constant("three", np.float32(3)), constant("all_rows", np.float32(shape[1]))]
            count = add("Where", [bright, *rows], "row_count")
            zeros = add("Range", [constant("zero", np.float32(0)), count, constant("one", np.float32(1))], "numbers")
            least = add("Mul", [zeros, constant("nothing", np.float32(1e-30))], "almost_zeros")
            column = add("Reshape", [least, constant("column", np.array([1, -1, 1], np.int64))], "as_column")
            add("Add", ["unspoilt", column], answer)
    return model


def _constant(name: str, value: Any) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.asarray(value), name)

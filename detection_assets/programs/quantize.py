"""Writes an exported network again, so that it calculates in fewer bits than float32.

Inputs: `weights` (folder with best.onnx), `dataset` (images.parquet) and `frames`. Parameters: `export` (bf16 or int8),
`images` (how many pictures of the training split tell the range of the numbers inside, for int8).
Output `weights/`: best.onnx, quantized.json.

- bf16: the same file with a word in its metadata; the processor rounds while it calculates.
- int8: convolutions between `QuantizeLinear` and `DequantizeLinear`, weights a channel each, the rest stays float32
  (Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, 2018).
  The last module, which says where boxes are and how sure they are, goes on calculating in float32: it is small, and
  a step of eight bits there moves a box by pixels.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detection_assets.domain.problems import InputError
from detection_assets.programs.draw import Picture, read_ahead
from detection_assets.programs.job import Job, main
from detection_assets.programs.train_dataset import read_snapshot

if TYPE_CHECKING:
    from detection_assets.serving.predictor import Predictor

EXPORTS = ("bf16", "int8")
IMAGES = 128
ROUNDS = 60
"""Predictions of each network that tell how fast it is."""
MODULE = re.compile(r"/model\.(\d+)/")


def run(job: Job) -> None:
    """Writes it.

    Args:
        job: See the module.

    Raises:
        InputError: The network, the dataset or a parameter cannot be used.
    """
    from detection_assets.serving.predictor import Predictor

    export = job.params.get("export")
    if export not in EXPORTS:
        raise InputError(f"params.json: export is {export!r}; there are {', '.join(EXPORTS)}")
    job.needs("weights", "dataset", "frames")
    full = Predictor(job.inputs["weights"] / "best.onnx")
    pictures = _pictures(job, int(job.params.get("images", IMAGES)))
    out = job.output / "weights"
    out.mkdir(parents=True, exist_ok=True)
    job.log(f"writing the network for {export}")
    if export == "bf16":
        _mark(full.path, out / "best.onnx", export)
    else:
        _to_int8(full, pictures, out / "best.onnx")
    made = Predictor(out / "best.onnx")
    job.log("timing both")
    before, after = _milliseconds(full, made, pictures)
    summary = {
        "export": export,
        "pictures": len(pictures),
        "latency_ms": after,
        "latency_ms_f32": before,
        "calculates_in": made.calculates_in,
        "bytes": (out / "best.onnx").stat().st_size,
        "bytes_f32": full.path.stat().st_size,
    }
    (out / "quantized.json").write_text(json.dumps(summary, indent=1))
    job.report({"kind": "quantized", **summary})
    job.log(f"{export}: {after:.1f} ms a picture beside {before:.1f} ms in float32")


def _pictures(job: Job, count: int) -> list[Picture]:
    """Pictures of the training split, evenly spread over it."""
    images, _ = read_snapshot(job.inputs["dataset"])
    files = images.loc[images["split"] == "train", "file"].astype(str).sort_values().tolist()
    chosen = files[:: max(1, len(files) // max(1, count))][:count]
    read = read_ahead([job.inputs["frames"] / file for file in chosen])
    found = [picture for picture in read if not isinstance(picture, InputError)]
    if not found:
        raise InputError("no picture of the training split can be read; extract the frames again")
    return found


def _mark(source: Path, target: Path, export: str) -> None:
    import onnx

    network = onnx.load(source)
    network.metadata_props.add(key="export", value=export)
    onnx.save(network, target)


def _to_int8(full: Predictor, pictures: Sequence[Picture], target: Path) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as quantize
    from onnxruntime.quantization.shape_inference import quant_pre_process

    network = onnx.load(full.path)
    given = network.graph.input[0].name
    modules = [int(found[1]) for node in network.graph.node if (found := MODULE.search(node.name))]
    head = f"/model.{max(modules)}/" if modules else ""
    kept = [node.name for node in network.graph.node if head and node.name.startswith(head)]

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left: Iterator[dict[str, Any]] = iter({given: _input(full, picture)} for picture in pictures)

        def get_next(self) -> dict[str, Any] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
            return next(self.left, None)

    with tempfile.TemporaryDirectory() as scratch:
        prepared, quantized = Path(scratch) / "prepared.onnx", Path(scratch) / "best.onnx"
        quant_pre_process(full.path, prepared, skip_symbolic_shape=True)
        quantize(
            prepared,
            quantized,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            reduce_range=True,  # processors without VNNI add pairs of products in 16 bits, which eight would overflow
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=kept,
            calibrate_method=CalibrationMethod.MinMax,
        )
        _mark(quantized, target, "int8")


def _input(predictor: Predictor, picture: Picture) -> Any:
    """What the network itself is given: 1 x 3 x height x width float32, 0 to 1."""
    pixels = predictor.prepare(picture).pixels
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32) / 255


def _milliseconds(first: Predictor, second: Predictor, pictures: Sequence[Picture]) -> tuple[float, float]:
    """Medians of a prediction of both, by turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for predictor in (first, second):
        predictor.warm_up()
    for turn in range(ROUNDS):
        picture = pictures[turn % len(pictures)]
        for predictor, seen in zip((first, second), times, strict=True):
            began = time.perf_counter()
            predictor.predict(picture)
            seen.append((time.perf_counter() - began) * 1000)
    before, after = (float(np.median(seen)) for seen in times)
    return before, after


if __name__ == "__main__":
    main(run, __doc__)

"""Runs an exported detector on pictures and answers exactly what ultralytics would, without it and without torch.

The network runs on OpenVINO in float32, or in what its file was exported for; docs/decisions/0005-onnx-runtime.md and
0014-exports-below-float32.md say why.
"""

from __future__ import annotations

import ast
import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detection_assets.domain.problems import InputError
from detection_assets.serving.boxes import Letterbox, suppress
from detection_assets.serving.engines import NO_LIMIT_MS, Engine, Engines

PADDING = 114
"""Grey value around a picture that does not fill the input; the one used in training."""

WARM_UP_ROUNDS = 3

EXPORT_HINT = "export the detector with ultralytics, format=onnx, task detect, dynamic=False, batch=1"


class ModelError(RuntimeError):
    """The model itself failed or answered nonsense; the picture is not to blame."""


class ModelTimeout(ModelError):
    """The model did not answer in the time it had."""


@dataclass(frozen=True, slots=True)
class Detections:
    """What was found in one picture, most confident first.

    Attributes:
        boxes: N x 4 float32, x1 y1 x2 y2 in pixels of the picture, clipped to it.
        confidence: N float32, between 0 and 1.
        class_id: N int64, positions in `Predictor.classes`.
    """

    boxes: NDArray[np.float32]
    confidence: NDArray[np.float32]
    class_id: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.confidence)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A picture in the network's input: all that has to wait while the network is busy.

    Attributes:
        pixels: 1 x height x width x 3, RGB, uint8, of the network's size.
        letterbox: Where in it the picture lies.
    """

    pixels: NDArray[np.uint8]
    letterbox: Letterbox


class Predictor:
    """A detector that ultralytics exported to ONNX.

    Safe to call from several threads. One picture alone has all the cores; of several, two are answered side by side
    once the predictor is widened, and otherwise one after the other. The boxes are the same, to the bit.

    Attributes:
        classes: Class names, by class id.
        size: Height and width of the network's input.
        stride: The network's largest stride.
        sha256: Digest of the file that was loaded.
        metadata: What ultralytics wrote in the file, as text.
        export: What the file was exported for: `f32`, `bf16` or `int8`.
    """

    def __init__(
        self,
        model: Path,
        *,
        confidence: float = 0.25,
        iou: float = 0.7,
        max_det: int = 300,
        threads: int | None = None,
        sha256: str | None = None,
    ) -> None:
        """Loads the model.

        Args:
            model: The .onnx file.
            confidence: Boxes must be more confident than this.
            iou: Of two boxes of a class that overlap by more than this, the more confident stays.
            max_det: Most boxes in an answer.
            threads: Cores to use; all that this process may use if None.
            sha256: The digest that the file must have, if it is known.

        Raises:
            InputError: The file is missing, is not the one expected, or is not such a model.
            ValueError: A threshold is outside 0 to 1, or `max_det` is below 1.
        """
        check_thresholds(confidence, iou, max_det)
        self.path, self.confidence, self.iou, self.max_det = Path(model), confidence, iou, max_det
        content = _read(self.path)
        self.sha256 = hashlib.sha256(content).hexdigest()
        if sha256 is not None and sha256.lower() != self.sha256:
            raise InputError(
                f"{model}: its sha256 is {self.sha256}, not the expected {sha256}: the file was changed or damaged "
                "after it was registered; publish it again"
            )
        network = _network(self.path, content)
        self.metadata = _metadata(self.path, network)
        self.size = _input_size(self.path, network)
        self.stride = int(self.metadata.get("stride", "32"))
        self.export = self.metadata.get("export", "f32")
        self.classes = _class_names(self.path, self.metadata)
        self._end_to_end = self.metadata.get("end2end", "False") == "True"
        _check_output(self.path, network, len(self.classes), self._end_to_end)
        self._engines = Engines(_fed_with_pixels(network), self.export, threads or available_cores())

    def predict(self, image: NDArray[np.uint8], confidence: float | None = None) -> Detections:
        """Finds objects in one picture.

        Args:
            image: Height x width x 3, RGB, uint8.
            confidence: Overrides the predictor's own threshold for this picture.

        Returns:
            What was found.

        Raises:
            ValueError: Not such an array, or a threshold outside 0 to 1.
            ModelError: The network failed or answered with numbers that are not finite.
        """
        return self.run(self.prepare(image), confidence)

    def predict_many(self, images: Sequence[NDArray[np.uint8]], confidence: float | None = None) -> list[Detections]:
        """Finds objects in several pictures, which may differ in size; see `predict`."""
        return [self.predict(image, confidence) for image in images]

    def warm_up(self) -> None:
        """Runs the network a few times, so that the first picture is answered as fast as the others.

        Raises:
            ModelError: The network fails or answers with numbers that are not finite.
        """
        blank = np.full((*self.size, 3), PADDING, np.uint8)
        for _ in range(WARM_UP_ROUNDS):
            self.predict(blank)

    @property
    def at_once(self) -> int:
        """How many pictures the network answers side by side."""
        return self._engines.at_once

    def widen(self) -> None:
        """Readies the network for several pictures side by side; takes as long as loading it, and nobody waits for it.

        Raises:
            ModelError: It could not be compiled once more; what was there before goes on answering.
        """
        try:
            self._engines.widen(np.full((1, *self.size, 3), PADDING, np.uint8))
        except RuntimeError as error:
            raise ModelError(f"{self.path.name}: not readied for several pictures at once: {error}") from error

    def prepare(self, image: NDArray[np.uint8]) -> Prepared:
        """Scales a picture into the network's input; see `predict`."""
        import cv2

        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(f"a picture is height x width x 3, uint8; got {image.shape}, {image.dtype}")
        height, width = image.shape[:2]
        place = Letterbox.fit(width, height, self.size)
        scaled = image
        if (place.scaled_width, place.scaled_height) != (width, height):
            scaled = cv2.resize(image, (place.scaled_width, place.scaled_height), interpolation=cv2.INTER_LINEAR)
        pixels = np.full((1, *self.size, 3), PADDING, np.uint8)
        rows = slice(place.top, place.top + place.scaled_height)
        columns = slice(place.left, place.left + place.scaled_width)
        pixels[0, rows, columns] = scaled
        return Prepared(pixels, place)

    def run(self, prepared: Prepared, confidence: float | None = None, timeout_s: float | None = None) -> Detections:
        """Runs the network on a prepared picture; see `predict`.

        Raises:
            ModelTimeout: It took longer than `timeout_s`; the network was stopped and can be asked again.
        """
        threshold = self.confidence if confidence is None else confidence
        check_thresholds(threshold, self.iou, self.max_det)
        with self._engines.free() as engine:  # the output is the engine's own memory, gone with its next picture
            output = self._infer(engine, prepared.pixels, timeout_s)
            select = self._select_final if self._end_to_end else self._select
            boxes, scores, classes = select(output, threshold)
        return Detections(prepared.letterbox.restore(boxes), scores, classes)

    @property
    def calculates_in(self) -> str:
        """What this processor calculates in; one that knows no bf16 takes float32."""
        kind = self._engines.alone.compiled.get_property("INFERENCE_PRECISION_HINT")
        return "int8" if self.export == "int8" else kind.to_string()

    def _infer(self, engine: Engine, pixels: NDArray[np.uint8], timeout_s: float | None) -> NDArray[np.float32]:
        milliseconds = NO_LIMIT_MS if timeout_s is None else max(1, round(timeout_s * 1000))
        try:
            output = engine.infer(pixels, milliseconds)
        except RuntimeError as error:
            raise ModelError(f"{self.path.name}: the network failed: {error}") from error
        if output is None:
            raise ModelTimeout(f"{self.path.name}: the network did not answer within {milliseconds / 1000:g} seconds")
        return output

    def _select(self, output: NDArray[np.float32], threshold: float) -> _Selected:
        """Takes (4 + classes) x anchors, boxes as centre and size, to the boxes that survive."""
        best = output[4:].max(axis=0)
        self._check_finite(best, output[:4])
        candidates = np.flatnonzero(best > threshold)
        scores = best[candidates]
        classes = output[4:, candidates].argmax(axis=0)
        x, y, width, height = output[:4, candidates]
        half_width, half_height = width / 2, height / 2
        boxes = np.stack([x - half_width, y - half_height, x + half_width, y + half_height], axis=1)
        kept = suppress(boxes, scores, classes, self.iou, self.max_det)
        return boxes[kept], scores[kept], classes[kept]

    def _select_final(self, output: NDArray[np.float32], threshold: float) -> _Selected:
        """Takes rows of x1 y1 x2 y2 confidence class, from a network that suppresses by itself."""
        self._check_finite(output)
        rows = output[output[:, 4] > threshold][: self.max_det]
        return rows[:, :4].copy(), rows[:, 4].copy(), rows[:, 5].astype(np.int64)

    def _check_finite(self, *parts: NDArray[np.float32]) -> None:
        if not all(np.isfinite(part).all() for part in parts):
            raise ModelError(
                f"{self.path.name}: the network answered with numbers that are not finite: its weights are damaged or "
                "training diverged; go back to the version before it"
            )


_Selected = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]
_FIRST_USE = threading.Lock()


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_thresholds(confidence: float, iou: float, max_det: int) -> None:
    """Raises ValueError for thresholds that make no sense."""
    for name, value in (("confidence", confidence), ("iou", iou)):
        if not 0 <= value <= 1:  # also false for NaN
            raise ValueError(f"{name} is {value}; it must be between 0 and 1")
    if max_det < 1:
        raise ValueError(f"max_det is {max_det}; it must be at least 1")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}): check the path") from error


def _network(path: Path, content: bytes) -> Any:
    import openvino

    with _FIRST_USE:
        # It fills its table of types on first use, and two threads that come at once stop the process for ever.
        openvino.Type.u8.to_dtype()
    try:
        # From memory: what is loaded is what was digested, and a model cannot pull in files beside it.
        return openvino.Core().read_model(content)
    except (RuntimeError, TypeError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"{path}: not an ONNX model that can be read ({reason}); {EXPORT_HINT}") from error


def _metadata(path: Path, network: Any) -> dict[str, str]:
    """The metadata_props of the ONNX file; OpenVINO keeps them under `framework`."""
    found: Mapping[str, Any] = network.get_rt_info("framework").value if network.has_rt_info("framework") else {}
    metadata = {key: str(getattr(value, "value", value)) for key, value in found.items()}
    missing = [key for key in ("task", "names", "imgsz") if key not in metadata]
    if missing:
        raise InputError(
            f"{path}: not a detector of ultralytics: its metadata lacks {', '.join(missing)}; {EXPORT_HINT}"
        )
    if metadata["task"] != "detect":
        raise InputError(f"{path}: a model for the task {metadata['task']!r}, not for detection; {EXPORT_HINT}")
    return metadata


def _input_size(path: Path, network: Any) -> tuple[int, int]:
    if len(network.inputs) != 1:
        raise InputError(f"{path}: has {len(network.inputs)} inputs where a detector has one; {EXPORT_HINT}")
    shape = network.inputs[0].get_partial_shape()
    sizes = [d.get_length() if d.is_static else -1 for d in shape]
    if network.inputs[0].get_element_type().get_type_name() != "f32":
        raise InputError(f"{path}: its input is not float32; {EXPORT_HINT}, quantize=None")
    if len(sizes) != 4 or sizes[:2] != [1, 3] or min(sizes) < 1:
        raise InputError(f"{path}: input has shape {shape} where [1,3,height,width] is needed; {EXPORT_HINT}")
    return sizes[2], sizes[3]


def _class_names(path: Path, metadata: Mapping[str, str]) -> list[str]:
    try:
        names = ast.literal_eval(metadata["names"])
        return [str(names[i]) for i in range(len(names))]
    except (ValueError, SyntaxError, TypeError, KeyError, IndexError, MemoryError, RecursionError):
        raise InputError(
            f"{path}: class names in its metadata are not a dict of ids from 0: {metadata['names'][:80]!r}; "
            f"{EXPORT_HINT}"
        ) from None


def _check_output(path: Path, network: Any, classes: int, end_to_end: bool) -> None:
    shape = network.outputs[0].get_partial_shape()
    sizes = [d.get_length() if d.is_static else -1 for d in shape]
    axis, wanted = (2, 6) if end_to_end else (1, 4 + classes)
    if len(sizes) != 3 or sizes[0] != 1 or sizes[axis] != wanted:
        needed = "[1,boxes,6]" if end_to_end else f"[1,{wanted},anchors] for its {classes} classes"
        raise InputError(f"{path}: output has shape {shape} where {needed} is needed; {EXPORT_HINT}")


def _fed_with_pixels(network: Any) -> Any:
    """Makes layout and scaling a part of the graph.

    So there is no float copy of the picture in Python, and a quarter of the memory for each one that waits.
    """
    import openvino
    from openvino.preprocess import PrePostProcessor

    steps = PrePostProcessor(network)
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    steps.input().preprocess().convert_element_type(openvino.Type.f32).scale(255.0)
    return steps.build()

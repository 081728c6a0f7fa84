"""A detector: what it detects, how its frames are taken, what it must reach and where it answers.

Each `detectors/NAME.yaml` is read into a `Detector` by `detector_file`. The descriptions here are the documentation:
they become the comments of a new file.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from detection_assets.domain.cron import cron_problem
from detection_assets.domain.problems import InputError

NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
OWNER = re.compile(r"team:\S+|[^@\s]+@[^@\s]+\.[^@\s]+")
Share = Annotated[float, Field(gt=0, lt=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


class DetectorError(InputError):
    """A detector file that cannot be used. The message has a line for each problem: file, line, key and remedy."""


class Part(BaseModel):
    """A section of a detector's file: unknown keys are refused, values are not coerced."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


def _key(default: Any, description: str, **limits: Any) -> Any:
    """A key of the file; `...` as default: it must be there."""
    return Field(default=default, description=description, **limits)


class Videos(Part):
    """How videos belong together."""

    group: str | None = _key(
        None,
        "a regex whose (?P<group>...) names the store or patient; null: the first folder",
        examples=["(?P<group>store-[0-9]+)/"],
    )

    @field_validator("group")
    @classmethod
    def _names_a_group(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                names = re.compile(value).groupindex
            except re.error as error:
                raise PydanticCustomError("regex", "is no regular expression: {why}", {"why": str(error)}) from None
            if "group" not in names:
                raise PydanticCustomError("regex", "has no part named `group`", {})
        return value


class Sampling(Part):
    """Which frames are taken from a video. Photographs are all taken."""

    method: Literal["rate", "scene", "keyframes"] = _key(
        "rate", "rate (so many a second), scene (where the picture changes) or keyframes (the codec's own)"
    )
    rate: float = _key(2.0, "frames per second, for method `rate`", gt=0, le=1000)
    scene_threshold: float = _key(0.3, "how much the picture changes at a cut, for method `scene`; 0 to 1", gt=0, le=1)
    min_sharpness: float = _key(4.0, "the variance of the Laplacian below which a frame is blurred; 0: off", ge=0)
    near_duplicate: int | None = _key(2, "bits of 64 up to which a frame is like one just kept; null: off", ge=0, le=64)
    max_frames: Positive | None = _key(None, "the most frames to keep of one video; null: all", examples=[5000])
    jpeg_quality: int = _key(90, "the quality of the pictures that are kept, 1 to 100", ge=1, le=100)
    hardware: Literal["here", "cpu", "gpu"] = _key("here", "here (beside the run), cpu or gpu (a job of the platform)")


class Shares(Part):
    """How much of the data teaches, tunes and judges. Together 1."""

    train: Share = _key(0.7, "the share of the images that teaches")
    val: Share = _key(0.15, "the share that tunes and picks the best epoch")
    test: Share = _key(0.15, "the share that judges, never seen in training")

    @model_validator(mode="after")
    def _add_up(self) -> Shares:
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-6:
            raise PydanticCustomError(
                "sum", "train, val and test must add up to 1, got {total}", {"total": f"{total:g}"}
            )
        return self


class Dataset(Part):
    """How the data set is put together."""

    split: Shares = _key(Shares(), "shares of the images; groups stay whole")
    seed: int = _key(0, "the seed; breaks ties of the split", ge=0)
    near_duplicate: int = _key(4, "bits of 64 up to which images are alike and may not lie in two splits", ge=0, le=32)
    min_images: Positive = _key(20, "the fewest annotated images worth training on")


class Training(Part):
    """How the network is trained."""

    model: str = _key(
        "yolo11n.yaml", "a network from scratch (yolo11n.yaml) or weights to go on from (yolo11n.pt)", min_length=1
    )
    imgsz: int = _key(320, "the side of the network's input, pixels", ge=32, le=4096, multiple_of=32)
    epochs: Positive = _key(25, "times through the data")
    batch: Positive = _key(8, "images a step")
    nbs: Positive = _key(8, "images a weight update; above `batch`, gradients accumulate")
    optimizer: Literal["SGD", "Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSProp", "auto"] = _key(
        "AdamW", "the optimizer; AdamW suits small data sets, auto leaves the choice to the trainer"
    )
    lr0: float = _key(0.002, "the first learning rate", gt=0, le=1)
    patience: int = _key(50, "epochs without gain before it stops", ge=0)
    seed: int = _key(0, "the seed; the same gives the same training on the same machine", ge=0)
    hardware: Literal["here", "cpu", "gpu"] = _key("here", "here (beside the run), cpu or gpu (a job of the platform)")
    extra: dict[str, Any] = _key({}, "any other setting of the trainer", examples=["{mosaic: 0.5}"])

    @field_validator("extra")
    @classmethod
    def _is_other(cls, value: dict[str, Any]) -> dict[str, Any]:
        taken = sorted(set(value) & {*Training.model_fields, "data", "device", "project", "name", "resume"})
        if taken:
            raise PydanticCustomError(
                "extra", "may not hold {taken}, which is set elsewhere", {"taken": ", ".join(taken)}
            )
        return value


class Evaluation(Part):
    """How the model is scored."""

    confidence: Fraction = _key(0.001, "the least confidence of a prediction that is scored")
    iou: Fraction = _key(0.7, "the overlap above which the weaker of two boxes is dropped")
    max_det: Positive = _key(300, "the most boxes an image")
    bootstrap: int = _key(1000, "resamples for the 95 % interval; 0: no interval", ge=0, le=100_000)
    seed: int = _key(0, "the seed of the resampling", ge=0)


class Gates(Part):
    """What a model must reach before it is registered."""

    map50: Fraction = _key(0.5, "the least mAP50 on the test split")
    non_inferiority: Fraction = _key(
        0.05, "the most AP50 it may lose to the model in service, at the low end of the interval"
    )
    latency_ms: float = _key(500.0, "the most milliseconds an image", gt=0)
    size_mb: float = _key(100.0, "the most megabytes of the ONNX file", gt=0)


class Endpoint(Part):
    """Where it answers."""

    host: str = _key("127.0.0.1", "the address to listen on; 0.0.0.0 lets others in", min_length=1)
    port: int | None = _key(
        None, "the port; null: one that is free the first time, and kept", ge=1, le=65535, examples=[8700]
    )
    confidence: Fraction = _key(0.25, "the least confidence of a box in an answer")
    iou: Fraction = _key(0.7, "the overlap above which the weaker of two boxes is dropped")
    max_det: Positive = _key(300, "the most boxes in an answer")
    p95_ms: float = _key(1000.0, "the milliseconds within which 95 of 100 requests are answered", gt=0)


class Retraining(Part):
    """When it is trained again."""

    schedule: str = _key("0 3 * * 1", "a cron schedule of minute, hour, day, month, weekday; off until switched on")

    @field_validator("schedule")
    @classmethod
    def _is_cron(cls, value: str) -> str:
        problem = cron_problem(value)
        if problem:
            raise PydanticCustomError("cron", "{problem}", {"problem": problem})
        return value


SECTIONS = ("videos", "sampling", "dataset", "training", "evaluation", "gates", "endpoint", "retraining")


class Detector(Part):
    """A detector, as its file says."""

    name: str = _key(..., "the detector's name, as its file's; prefix of all its assets", examples=["fridge"])
    description: str = _key("", "what it is for, in a sentence")
    owner: str | None = _key(None, "who answers for it, `team:NAME` or an e-mail address", examples=["team:vision"])
    classes: Annotated[tuple[str, ...], Field(strict=False)] = _key(
        ..., "what it detects, one name a line, as annotators write it", min_length=1, examples=["[apple, banana]"]
    )
    platform: Literal["local", "aws", "azure"] | None = _key(
        None, "local, aws or azure; null: what DETECTION_PLATFORM says, else local"
    )
    videos: Videos = _key(Videos(), "how videos belong together")
    sampling: Sampling = _key(Sampling(), "which frames are taken from a video")
    dataset: Dataset = _key(Dataset(), "how the data set is put together")
    training: Training = _key(Training(), "how the network is trained")
    evaluation: Evaluation = _key(Evaluation(), "how the model is scored")
    gates: Gates = _key(Gates(), "what a model must reach before it is registered")
    endpoint: Endpoint = _key(Endpoint(), "where it answers")
    retraining: Retraining = _key(Retraining(), "when it is trained again")

    @field_validator("name")
    @classmethod
    def _is_a_key(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            text = "must be a small letter, then at most 39 small letters, digits or underscores, got {value}"
            raise PydanticCustomError("name", text, {"value": repr(value)})
        return value

    @field_validator("owner")
    @classmethod
    def _is_reachable(cls, value: str | None) -> str | None:
        if value is not None and not OWNER.fullmatch(value):
            raise PydanticCustomError(
                "owner", "is neither `team:NAME` nor an e-mail address: {value}", {"value": repr(value)}
            )
        return value

    @field_validator("classes", mode="before")
    @classmethod
    def _are_distinct(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            return value
        first: dict[str, int] = {}
        wrong: list[tuple[int, str]] = []
        for at, name in enumerate(value):
            if not isinstance(name, str):
                wrong.append((at, f"must be text, got {name!r:.60}. Put it in quotes."))
            elif not name.strip() or name != name.strip() or any(ord(char) < 32 for char in name):
                wrong.append((at, f"{name!r} is empty, or has blanks around it or control characters. Write a name."))
            elif first.setdefault(name.casefold(), at) != at:
                wrong.append((at, f"doubled class {name!r} (as number {first[name.casefold()] + 1}). Remove one."))
        if wrong:
            text = " ".join(f"[{at}]: {what}" for at, what in wrong)
            raise PydanticCustomError("items", "{text}", {"text": text, "items": wrong})
        return value

    @model_validator(mode="before")
    @classmethod
    def _may_be_bare(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        # A section whose every line is commented out reads as null.
        return {key: {} if value is None and key in SECTIONS else value for key, value in data.items()}

    def group_of(self, video: str) -> str:
        """The group of a video: what the regex finds, or the first folder of its key.

        Args:
            video: The video's key, such as `store-03/cam-1/clip-007.mp4`. One at the top level is a group of its own,
                called as it is without the extension.
        """
        found = re.search(self.videos.group, video) if self.videos.group else None
        if found and found["group"]:
            return found["group"]
        first, _, rest = video.partition("/")
        if rest:
            return first
        # `2024.05` is a folder of images, not a file with the extension `.05`.
        path = PurePosixPath(first)
        return path.stem if re.search("[A-Za-z]", path.suffix) else first

    def fingerprint(self, *sections: str) -> str:
        """12 hex digits that change when a value of these sections does.

        Comments, the order of keys and defaults that are spelled out do not change it.

        Args:
            sections: Keys of the file, such as `sampling` or `classes`.

        Raises:
            ValueError: If there is no such key, or none is named.
        """
        unknown = [section for section in sections if section not in Detector.model_fields]
        if unknown or not sections:
            raise ValueError(f"sections {unknown or '()'}: expected some of {', '.join(Detector.model_fields)}")
        # Where a step runs does not change what comes of it.
        where = {"sampling": {"hardware"}, "training": {"hardware"}}
        values = self.model_dump(mode="json", include=set(sections), exclude=where)
        canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

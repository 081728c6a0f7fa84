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

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from detection_assets.detector_labeling import Labeling
from detection_assets.detector_part import Fraction, Part, Positive, Share
from detection_assets.detector_part import key as _key
from detection_assets.domain import tuning
from detection_assets.domain.cron import cron_problem
from detection_assets.domain.problems import InputError

NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
OWNER = re.compile(r"team:\S+|[^@\s]+@[^@\s]+\.[^@\s]+")


class DetectorError(InputError):
    """A detector file that cannot be used. The message has a line for each problem: file, line, key and remedy."""


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


class Annotations(Part):
    """Whose boxes count where several people, or files, annotated one frame."""

    policy: Literal["latest", "union", "consensus"] = _key(
        "latest", "latest (the last file, in it the last annotator), union (what anybody drew) or consensus"
    )
    iou: float = _key(0.5, "the least overlap of two people's boxes of one object", gt=0, le=1)
    min_annotators: Positive | None = _key(
        None,
        "how many must have drawn an object, for `consensus`; null: more than half of those who looked",
        examples=[2],
    )
    agreement: Fraction = _key(0.8, "the least F1 of two annotators' boxes; below it, a check warns")


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
    batch: Positive = _key(
        8, "images a step, in all: several GPUs share them, each at least 4, and GPUs that would have fewer stay idle"
    )
    nbs: Positive = _key(8, "images a weight update; above `batch`, gradients accumulate")
    optimizer: Literal["SGD", "Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSProp", "auto"] = _key(
        "AdamW", "the optimizer; AdamW suits small data sets, auto leaves the choice to the trainer"
    )
    lr0: float = _key(0.002, "the first learning rate", gt=0, le=1)
    patience: int = _key(50, "epochs without gain before it stops", ge=0)
    seed: int = _key(0, "the seed; the same gives the same training on the same machine and as many GPUs", ge=0)
    hardware: Literal["here", "cpu", "gpu"] = _key("here", "here (beside the run), cpu or gpu (a job of the platform)")
    export: Literal["f32", "bf16", "int8"] = _key(
        "f32",
        "what the served network calculates in: f32, or faster bf16 or int8, whose loss is measured and gated",
    )
    extra: dict[str, Any] = _key({}, "any other setting of the trainer", examples=["{mosaic: 0.5}"])
    tuned: bool = _key(True, "whether what `detection tune` found best, once it has, goes over what is written here")

    @field_validator("extra")
    @classmethod
    def _is_other(cls, value: dict[str, Any]) -> dict[str, Any]:
        taken = sorted(set(value) & {*Training.model_fields, "data", "device", "project", "name", "resume"})
        if taken:
            raise PydanticCustomError(
                "extra", "may not hold {taken}, which is set elsewhere", {"taken": ", ".join(taken)}
            )
        return value

    def for_the_trainer(self) -> dict[str, Any]:
        """What the program `train` takes: all but where it runs, and what is done about its values before and after."""
        return self.model_dump(mode="json", exclude={"hardware", "tuned", "export"})


class Tuning(Part):
    """What `detection tune` tries."""

    trials: Positive = _key(20, "how many trainings are tried and judged on the validation split")
    epochs: Positive | None = _key(None, "times through the data in each of them; null: as many as the training")
    timeout_h: float | None = _key(
        None, "hours after which a tuning stops, to be gone on with; null: none", gt=0, examples=[8.0]
    )
    parallel: Positive = _key(1, "how many are tried side by side")
    prune: bool = _key(True, "whether one that falls behind the median of the others ends early")
    seed: int = _key(0, "the seed of what is tried", ge=0)
    space: dict[str, Any] = _key(
        {key: dict(among) for key, among in tuning.SPACE.items()},
        "what is searched, by setting of the training: {low, high, log} or {choices}",
        min_length=1,
        examples=["{lr0: {low: 0.0001, high: 0.01, log: true}}"],
    )

    @field_validator("space")
    @classmethod
    def _can_be_searched(cls, value: dict[str, Any]) -> dict[str, Any]:
        wrong: list[tuple[str, str]] = []
        for key, written in value.items():
            try:
                tuning.parameter(key, written)
            except ValueError as error:
                wrong.append((key, str(error)))
        if wrong:
            text = " ".join(f"{key}: {what}" for key, what in wrong)
            raise PydanticCustomError("items", "{text}", {"text": text, "items": wrong})
        return value


class Evaluation(Part):
    """How the model is scored."""

    confidence: Fraction = _key(0.001, "the least confidence of a prediction that is scored")
    iou: Fraction = _key(0.7, "the overlap above which the weaker of two boxes is dropped")
    max_det: Positive = _key(300, "the most boxes an image")
    bootstrap: int = _key(1000, "resamples for the 95 % interval; 0: no interval", ge=0, le=100_000)
    seed: int = _key(0, "the seed of the resampling", ge=0)
    hardware: Literal["here", "cpu", "gpu"] = _key(
        "here", "here (beside the run), cpu or gpu (a job of the platform); batch predictions run there, too"
    )


class Gates(Part):
    """What a model must reach before it is registered."""

    map50: Fraction = _key(0.5, "the least mAP50 on the test split")
    non_inferiority: Fraction = _key(
        0.05, "the most AP50 it may lose to the model in service, at the low end of the interval"
    )
    export_loss: Fraction = _key(0.01, "the most mAP50-95 that an export below f32 may lose to the same model in f32")
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


class Rollout(Part):
    """How a new version takes the traffic over."""

    shadow_s: float = _key(0.0, "seconds in which requests are only mirrored to a new version; 0: none", ge=0)
    shadow_share: Fraction = _key(
        1.0, "the share of the requests mirrored to a new version and compared, in shadow and canary"
    )
    canary: Annotated[tuple[int, ...], Field(strict=False)] = _key(
        (10, 50), "the shares of the traffic in per cent that a new version gets before all of it; may be empty"
    )
    bake_s: float = _key(20.0, "seconds that each share, and then 100 %, is watched", ge=0)
    min_requests: Positive = _key(20, "the fewest requests for a verdict; with fewer it passes on time, and says so")
    max_error_rate: Fraction = _key(0.01, "the most of its requests that a new version may fail")
    max_disagreement: Fraction = _key(
        0.8, "the most mirrored requests answered differently; a better model differs, too"
    )
    max_slowdown: float = _key(2.0, "how many times the old version's 95th percentile the new one's may be", ge=1)
    keep_s: float = _key(3600.0, "seconds that the old version stays loaded after 100 %, for the way back", ge=0)

    @field_validator("canary")
    @classmethod
    def _rises(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 0 < share < 100 for share in value) or list(value) != sorted(set(value)):
            raise PydanticCustomError(
                "canary", "must be rising shares of 1 to 99 per cent, got {value}", {"value": str(list(value))}
            )
        return value


class Retraining(Part):
    """When it is trained again."""

    schedule: str = _key("0 3 * * 1", "a cron schedule of minute, hour, day, month, weekday; off until switched on")
    new_frames: Positive | None = _key(
        50, "newly labelled frames that are worth a training; null: their number starts none", examples=[200]
    )
    on_drift: bool = _key(True, "whether drift starts a training, once something new is labelled")
    cooldown_h: float = _key(24.0, "hours between a training's end and the next that starts by itself", ge=0)
    budget_h: float | None = _key(None, "most hours of training in 30 days; null: no ceiling", gt=0, examples=[40.0])
    budget_usd: float | None = _key(
        None, "most estimated US dollars of training in 30 days; null: no ceiling", gt=0, examples=[100.0]
    )

    @field_validator("schedule")
    @classmethod
    def _is_cron(cls, value: str) -> str:
        problem = cron_problem(value)
        if problem:
            raise PydanticCustomError("cron", "{problem}", {"problem": problem})
        return value


class Capture(Part):
    """Which requests are kept."""

    rate: Fraction = _key(0.05, "the share of the requests that is kept, drawn at random; 0: none")
    below: Fraction = _key(0.4, "requests with a box less confident than this are all kept, too; 0: none")
    images: bool = _key(True, "whether the pictures are kept; false: statistics and boxes alone")
    keep_days: Positive = _key(30, "the days after which what was kept is deleted")


class Drift(Part):
    """When production counts as different from what taught the model."""

    psi: float = _key(0.2, "the population stability index from which a feature has drifted", gt=0)
    ks: float = _key(0.15, "the distance of two distributions (Kolmogorov-Smirnov) that is drift; 0 to 1", gt=0, le=1)
    min_requests: int = _key(50, "the fewest requests drawn at random that can be judged", ge=10)


class Monitoring(Part):
    """How it is watched while it serves."""

    capture: Capture = _key(Capture(), "which requests are kept, to look at and to learn from")
    drift: Drift = _key(Drift(), "when what comes in counts as different from what taught the model")


class Card(Part):
    """What only people know of its data and models; it stands in their descriptions."""

    license: str | None = _key(
        None, "the licence of videos and annotations, an SPDX identifier or an address", examples=["CC-BY-4.0"]
    )
    intended_use: str = _key("", "what its models are for, and for whom")
    out_of_scope: str = _key("", "what they must not be used for")
    ethics: str = _key("", "whom a mistake hurts, and what is done about it")
    caveats: str = _key("", "what else somebody who uses them should know")


SECTIONS = (
    *("videos", "sampling", "annotations", "dataset", "training", "tuning", "evaluation", "gates", "endpoint"),
    *("rollout", "monitoring", "retraining", "labeling", "card"),
)


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
    approval: Literal["auto", "manual"] = _key(
        "auto", "auto (what passes its gates is deployed) or manual (it waits until a person approves it)"
    )
    videos: Videos = _key(Videos(), "how videos belong together")
    sampling: Sampling = _key(Sampling(), "which frames are taken from a video")
    annotations: Annotations = _key(Annotations(), "whose boxes count where several people annotated one frame")
    dataset: Dataset = _key(Dataset(), "how the data set is put together")
    training: Training = _key(Training(), "how the network is trained")
    tuning: Tuning = _key(Tuning(), "what `detection tune` tries")
    evaluation: Evaluation = _key(Evaluation(), "how the model is scored")
    gates: Gates = _key(Gates(), "what a model must reach before it is registered")
    endpoint: Endpoint = _key(Endpoint(), "where it answers")
    rollout: Rollout = _key(Rollout(), "how a new version takes the traffic over")
    monitoring: Monitoring = _key(Monitoring(), "how it is watched while it serves")
    retraining: Retraining = _key(Retraining(), "when it is trained again")
    labeling: Labeling = _key(Labeling(), "which pictures annotators are asked about")
    card: Card = _key(Card(), "what people say in the descriptions of its datasets and models")

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

    @property
    def said(self) -> dict[str, Any]:
        """What people say of it: description, owner, and its section `card`."""
        return {"description": self.description, "owner": self.owner, **self.card.model_dump()}

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
        where = {section: {"hardware"} for section in ("sampling", "training", "evaluation")}
        values = self.model_dump(mode="json", include=set(sections), exclude=where)
        canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

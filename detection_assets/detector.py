"""A detector: what it detects, how its frames are taken, what it must reach and where it answers.

Each `detectors/NAME.yaml` is read into a `Detector`; whatever is wrong with the file is told at once, each with its
line and what to write instead. The descriptions here are the documentation: they become the comments of a new file.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeGuard

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from detection_assets.domain.problems import InputError

NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
OWNER = re.compile(r"team:\S+|[^@\s]+@[^@\s]+\.[^@\s]+")
Share = Annotated[float, Field(gt=0, lt=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


class DetectorError(InputError):
    """A detector file that cannot be used. The message has a line for each problem: file, line, key and remedy."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


def _key(default: Any, description: str, **limits: Any) -> Any:
    """A key of the file; `...` as default: it must be there."""
    return Field(default=default, description=description, **limits)


class Videos(_Part):
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


class Sampling(_Part):
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


class Shares(_Part):
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


class Dataset(_Part):
    """How the data set is put together."""

    split: Shares = _key(Shares(), "shares of the images; groups stay whole")
    seed: int = _key(0, "the seed; breaks ties of the split", ge=0)
    near_duplicate: int = _key(4, "bits of 64 up to which images are alike and may not lie in two splits", ge=0, le=32)
    min_images: Positive = _key(20, "the fewest annotated images worth training on")


class Training(_Part):
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


class Evaluation(_Part):
    """How the model is scored."""

    confidence: Fraction = _key(0.001, "the least confidence of a prediction that is scored")
    iou: Fraction = _key(0.7, "the overlap above which the weaker of two boxes is dropped")
    max_det: Positive = _key(300, "the most boxes an image")
    bootstrap: int = _key(1000, "resamples for the 95 % interval; 0: no interval", ge=0, le=100_000)
    seed: int = _key(0, "the seed of the resampling", ge=0)


class Gates(_Part):
    """What a model must reach before it is registered."""

    map50: Fraction = _key(0.5, "the least mAP50 on the test split")
    non_inferiority: Fraction = _key(
        0.05, "the most AP50 it may lose to the model in service, at the low end of the interval"
    )
    latency_ms: float = _key(500.0, "the most milliseconds an image", gt=0)
    size_mb: float = _key(100.0, "the most megabytes of the ONNX file", gt=0)


class Endpoint(_Part):
    """Where it answers."""

    host: str = _key("127.0.0.1", "the address to listen on; 0.0.0.0 lets others in", min_length=1)
    port: int | None = _key(
        None, "the port; null: one that is free the first time, and kept", ge=1, le=65535, examples=[8700]
    )
    confidence: Fraction = _key(0.25, "the least confidence of a box in an answer")
    iou: Fraction = _key(0.7, "the overlap above which the weaker of two boxes is dropped")
    max_det: Positive = _key(300, "the most boxes in an answer")
    p95_ms: float = _key(1000.0, "the milliseconds within which 95 of 100 requests are answered", gt=0)


class Retraining(_Part):
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


class Detector(_Part):
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


def detectors_folder() -> Path:
    """Where the detector files are: DETECTION_DETECTORS if it is set, else `detectors/` of the project."""
    return Path(os.environ.get("DETECTION_DETECTORS") or Path(__file__).parents[1] / "detectors")


def available(folder: Path) -> list[str]:
    """Names of the detectors in a folder, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def find(name: str, folder: Path | None = None) -> Detector:
    """Loads a detector by its name.

    Args:
        name: The detector's name.
        folder: Where to look; `detectors_folder()` if None.

    Raises:
        DetectorError: If there is none of that name (the message lists those there are), or its file cannot be used.
    """
    folder = detectors_folder() if folder is None else folder
    names = available(folder)
    if name in names:
        return load(folder / f"{name}.yaml")
    there = f"There are: {', '.join(names)}." if names else "There are none."
    raise DetectorError(
        f"{_shown(folder)}: no detector {name!r}.{_guess(name, names)} {there} `detection init NAME` makes one."
    )


def load(path: Path) -> Detector:
    """Reads a detector's file.

    Args:
        path: A YAML file, called as the detector is.

    Raises:
        DetectorError: If it cannot be used; one line for each problem, with file, line and remedy.
    """
    shown = _shown(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DetectorError(f"{shown}: there is no such file. `detection init {path.stem}` makes one.") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise DetectorError(f"{shown}:{line}: is not UTF-8 text. Save it as UTF-8.") from None
    except OSError as error:
        raise DetectorError(f"{shown}: cannot be read: {error.strerror}.") from None
    return _parse(text, shown, path.stem)


def template(name: str, classes: Sequence[str] | None = None) -> str:
    """A commented detector file with every setting and its default.

    Args:
        name: The detector's name.
        classes: What it detects; one placeholder if None.

    Raises:
        DetectorError: If the name or the classes cannot be used.
    """
    own = {"name": name, "classes": classes or ["object"]}
    lines = [
        f"# What `{name}` detects, how it learns and where it answers.",
        "# Only name and classes must be there; for any other key that is left out, the value here is taken.",
        *_rendered(Detector, own, ""),
    ]
    text = "\n".join(lines) + "\n"
    _parse(text, f"detectors/{name}.yaml", name)
    return text


def cron_problem(text: str) -> str | None:
    """Says what is wrong with a cron schedule of five fields or a word such as `@weekly`; None if it is right."""
    if text in {"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"}:
        return None
    fields = text.lower().split()
    if len(fields) != 5:
        return f"has {len(fields)} fields, not the five of minute, hour, day, month and weekday: {text!r}"
    taken: list[set[int]] = []
    for field, (what, low, high, names) in zip(fields, CRON, strict=True):
        values: set[int] = set()
        for part in field.split(","):
            match = re.fullmatch(r"(?:\*|([a-z]+|[0-9]{1,4})(?:-([a-z]+|[0-9]{1,4}))?)(?:/([0-9]{1,4}))?", part)
            if not match:
                return f"cannot be read: {what} {part!r}"
            first, last, step = match.groups()
            ends = [
                names.index(end) + low if end in names else int(end) if end.isdigit() else -1
                for end in (first, last)
                if end
            ]
            start, stop = (ends[0], ends[-1]) if ends else (low, high)
            if not low <= start <= stop <= high or step == "0":
                return f"has {what} {part!r}, which is not within {low} to {high}"
            values.update(range(start, (high if step and not last else stop) + 1, int(step or 1)))
        taken.append(values)
    if min(taken[2]) > max((29 if month == 2 else 30 if month in {4, 6, 9, 11} else 31) for month in taken[3]):
        return f"names a day that its months do not have: {text!r}"
    return None


CRON: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day", 1, 31, ()),
    ("month", 1, 12, ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")),
    ("weekday", 0, 7, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
)


def _shown(path: Path) -> str:
    """The path as a user would type it here."""
    try:
        return path.resolve().relative_to(Path.cwd()).as_posix()
    except (ValueError, OSError):
        return str(path)


def _guess(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean `{close[0]}`?" if close else ""


def _parse(text: str, shown: str, stem: str) -> Detector:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        node = YAML(typ="rt").compose(text)
        plain = YAML(typ="safe", pure=True)
        plain.allow_duplicate_keys = True  # Told below, with the lines of both.
        data = plain.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        begin = "".join(text.split("\n")[mark.line : mark.line + 1]) if mark else ""
        tab = "\t" in begin[: len(begin) - len(begin.lstrip())]
        why = "a tab. Indent with spaces" if tab else f"not YAML: {error.problem or error.context}"
        raise DetectorError(f"{shown}{f':{mark.line + 1}' if mark else ''}: {why}.") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise DetectorError(f"{shown}: not YAML: {str(error).splitlines()[0]}.") from None
    if not isinstance(data, dict):
        what = "is empty" if data is None else "must be keys and values, such as `name: fridge`"
        raise DetectorError(f"{shown}: {what}. `detection init NAME` makes a file to start from.")
    lines: dict[tuple[str, ...], int] = {}
    problems: list[tuple[int, str]] = []
    _locate(node, (), lines, problems, set())
    found: Detector | None = None
    try:
        found = Detector.model_validate(data)
    except ValidationError as error:
        for one in error.errors(include_url=False):
            for loc, what in _explained(one):
                key = tuple(str(part) for part in loc)
                line = next((lines[key[:end]] for end in range(len(key), 0, -1) if key[:end] in lines), 1)
                problems.append((line, f"{_dotted(loc)}: {what}"))
    if isinstance(data.get("name"), str) and data["name"] != stem:
        what = f"name: is {data['name']!r}, but the file is called {stem}.yaml. Make them the same."
        problems.append((lines.get(("name",), 1), what))
    if problems or found is None:
        raise DetectorError("\n".join(f"{shown}:{line}: {what}" for line, what in sorted(problems)))
    return found


def _locate(
    node: Any, at: tuple[str, ...], lines: dict[tuple[str, ...], int], problems: list[tuple[int, str]], seen: set[int]
) -> None:
    """Notes the line of each key and list item, and tells doubled keys."""
    if not isinstance(node.value, list) or id(node) in seen:
        return
    seen.add(id(node))
    for number, item in enumerate(node.value):
        key, value = item if isinstance(item, tuple) else (None, item)
        path = (*at, str(number) if key is None else str(key.value))
        line = (key or value).start_mark.line + 1
        if path in lines:
            problems.append((line, f"{_dotted(path)}: doubled key (first on line {lines[path]}). Remove one."))
        else:
            lines[path] = line
            _locate(value, path, lines, problems, seen)


def _dotted(loc: Sequence[int | str]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")


WORDS = (
    ("Input should be", "must be"),
    ("greater than or equal to", "at least"),
    ("less than or equal to", "at most"),
    ("greater than", "above"),
    ("less than", "below"),
    ("a valid string", "text"),
    ("a valid tuple", "a list"),
    ("a valid ", "a "),
    ("a integer", "a whole number"),
)


def _explained(error: Any) -> list[tuple[tuple[int | str, ...], str]]:
    """Where a validation error lies, and what is wrong and what to do, in our words."""
    loc, kind, context = error["loc"], error["type"], error.get("ctx", {})
    model: Any = Detector
    info: Any = None
    for part in loc:
        fields = getattr(model, "model_fields", {})
        if part in fields:
            info = fields[part]
            model = info.annotation
        elif kind in {"extra_forbidden", "invalid_key"}:
            known = f" Known here: {', '.join(fields)}."
            return [(loc, f"unknown key.{_guess(str(part), fields) or known}")]
    if kind == "items":
        return [((*loc, at), text) for at, text in context["items"]]
    what, given = error["msg"], f"{error['input']!r:.60}"
    if kind == "missing":
        what = "is missing"
    elif kind in {"too_short", "string_too_short"}:
        what = "must not be empty"
    elif _is_part(model):
        known = f" Known here: {', '.join(model.model_fields)}." if kind == "model_type" else ""
        return [(loc, f"must be keys and values, got {given}.{known}" if known else f"{what}.")]
    elif what.startswith("Input should"):
        for theirs, ours in WORDS:
            what = what.replace(theirs, ours)
        what += f", got {given}"
    return [(loc, f"{what}. {_remedy(info)}".strip())]


def _is_part(annotation: Any) -> TypeGuard[type[_Part]]:
    return isinstance(annotation, type) and issubclass(annotation, _Part)


def _remedy(info: Any) -> str:
    default = info.get_default(call_default_factory=True)
    example = info.examples[0] if info.examples else None if info.is_required() else default
    # What comes after a semicolon explains the default, not the value to write.
    return f"Set {info.description.partition(';')[0]}" + (f", such as {example}." if example not in (None, "") else ".")


def _rendered(model: type[_Part], own: dict[str, Any], at: str) -> Iterable[str]:
    """The lines of a section: each key with its default (or our own value) and its description as a comment."""
    indent = "  " * at.count(".")
    for key, info in model.model_fields.items():
        if _is_part(info.annotation):
            yield from [""] * (not at)
            yield f"{indent}{key}:  # {info.description}"
            yield from _rendered(info.annotation, own, f"{at}{key}.")
            continue
        value = own[at + key] if at + key in own else info.get_default(call_default_factory=True)
        if isinstance(value, (list, tuple)):
            yield f"{indent}{key}:  # {info.description}"
            yield from (f"{indent}  - {_scalar(item)}" for item in value)
        else:
            yield f"{indent}{key}: {_scalar(value)}  # {info.description}"


def _scalar(value: Any) -> str:
    # JSON is YAML; a word that YAML cannot take for anything else needs no quotes.
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", value)
    if plain and value.lower() not in {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}:
        return value
    return json.dumps(value, ensure_ascii=False)

"""What a tuning searches and how its trials are judged.

A search space has a parameter for each setting of the training: a real number, a whole number or a choice, which is
what every tuner knows, on one's own machine or in a cloud. A trial is judged on the validation split; the test split
stays unseen until the evaluation.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

METRIC = "metrics/mAP50-95(B)"
"""What a trial is judged by, under the name that the training program reports after each epoch."""


@dataclass(frozen=True, slots=True)
class Real:
    """A real number from `low` to `high`; with `log`, each order of magnitude is as likely as the next."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number from `low` to `high`, both possible; `log` as for a real one."""

    low: int
    high: int
    log: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some values that have no order."""

    values: tuple[str | float | int | bool, ...]


Parameter = Real | Whole | Choice


@dataclass(frozen=True, slots=True)
class Tunable:
    """A setting of the training that may be tuned.

    Attributes:
        kind: What its values are.
        low: The least that makes sense.
        high: The most that makes sense.
        default: What the training takes where the detector's file says nothing; None where it always says.
        values: What there is to choose from, for a choice.
    """

    kind: Literal["real", "whole", "choice"]
    low: float = 0.0
    high: float = 1.0
    default: float | bool | None = None
    values: tuple[str | bool, ...] = ()


OPTIMIZERS = ("SGD", "Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSProp", "auto")

TUNABLE: Mapping[str, Tunable] = {
    "lr0": Tunable("real", 1e-7, 1),
    "lrf": Tunable("real", 1e-4, 1, 0.01),
    "momentum": Tunable("real", 0, 0.999, 0.937),
    "weight_decay": Tunable("real", 0, 1, 0.0005),
    "warmup_epochs": Tunable("real", 0, 100, 1.0),
    "warmup_momentum": Tunable("real", 0, 0.999, 0.8),
    "box": Tunable("real", 0, 100, 7.5),
    "cls": Tunable("real", 0, 100, 0.5),
    "dfl": Tunable("real", 0, 100, 1.5),
    "hsv_h": Tunable("real", 0, 1, 0.015),
    "hsv_s": Tunable("real", 0, 1, 0.7),
    "hsv_v": Tunable("real", 0, 1, 0.4),
    "degrees": Tunable("real", 0, 180, 0.0),
    "translate": Tunable("real", 0, 0.9, 0.1),
    "scale": Tunable("real", 0, 0.95, 0.5),
    "shear": Tunable("real", 0, 45, 0.0),
    "perspective": Tunable("real", 0, 0.001, 0.0),
    "flipud": Tunable("real", 0, 1, 0.0),
    "fliplr": Tunable("real", 0, 1, 0.5),
    "bgr": Tunable("real", 0, 1, 0.0),
    "mosaic": Tunable("real", 0, 1, 1.0),
    "mixup": Tunable("real", 0, 1, 0.0),
    "cutmix": Tunable("real", 0, 1, 0.0),
    "close_mosaic": Tunable("whole", 0, 10_000, 10),
    "batch": Tunable("whole", 1, 4096),
    "nbs": Tunable("whole", 1, 65_536),
    "optimizer": Tunable("choice", values=OPTIMIZERS),
    "cos_lr": Tunable("choice", default=False, values=(True, False)),
}
"""What may be tuned: how the network learns and how its pictures are varied. Not what it is, how long it learns or by
what seed, for a trial must be the training that follows it."""

SPACE: Mapping[str, Mapping[str, Any]] = {
    "lr0": {"low": 1e-4, "high": 1e-2, "log": True},
    "weight_decay": {"low": 1e-5, "high": 1e-2, "log": True},
    "mosaic": {"low": 0.0, "high": 1.0},
    "scale": {"low": 0.0, "high": 0.9},
    "fliplr": {"low": 0.0, "high": 0.5},
}
"""What is searched unless the detector's file says otherwise."""


def parameter(key: str, written: Any) -> Parameter:
    """A parameter of the search space as the detector's file writes it.

    Args:
        key: The setting of the training.
        written: `{low: ..., high: ..., log: true}` or `{choices: [...]}`.

    Raises:
        ValueError: It cannot be used; the message says why and what to write.
    """
    about = TUNABLE.get(key)
    if about is None:
        near = difflib.get_close_matches(str(key), TUNABLE, 1)
        known = f"Did you mean `{near[0]}`?" if near else f"There are: {', '.join(TUNABLE)}."
        raise ValueError(f"is nothing that can be tuned. {known}")
    form = "{choices: [...]}" if about.kind == "choice" else "{low: ..., high: ...} or {choices: [...]}"
    if not isinstance(written, Mapping) or not written:
        raise ValueError(f"must be {form}, got {written!r:.60}.")
    unknown = [str(name) for name in written if name not in ("low", "high", "log", "choices")]
    if unknown:
        raise ValueError(f"has {', '.join(unknown)}, which means nothing here. Write {form}.")
    if "choices" in written:
        if len(written) > 1:
            raise ValueError("has choices and limits. Write one of the two.")
        return Choice(_choices(about, written["choices"]))
    if about.kind == "choice" or not {"low", "high"} <= set(written):
        raise ValueError(f"must be {form}, got {dict(written)!r:.60}.")
    low, high, log = _number(about, written["low"]), _number(about, written["high"]), written.get("log", False)
    if not isinstance(log, bool):
        raise ValueError(f"has log {log!r:.60}. Write true or false.")
    if low >= high:
        raise ValueError(f"has low {low:g}, which is not below high {high:g}. Turn them round, or leave the key out.")
    if log and low <= 0:
        raise ValueError(f"has low {low:g}, and with log: true it must be above 0. Write a small number, such as 1e-5.")
    return Whole(int(low), int(high), log) if about.kind == "whole" else Real(float(low), float(high), log)


def _number(about: Tunable, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"has {value!r:.60}, which is not a number. Write one from {about.low:g} to {about.high:g}.")
    if about.kind == "whole" and int(value) != value:
        raise ValueError(f"has {value!r}, which is not a whole number. Write one without a fraction.")
    if not about.low <= value <= about.high:
        raise ValueError(f"has {value:g}, which is not within {about.low:g} to {about.high:g}. Stay within.")
    return value


def _choices(about: Tunable, values: Any) -> tuple[Any, ...]:
    if not isinstance(values, (list, tuple)) or len(values) < 2:
        raise ValueError("has choices that are not a list of at least two values. Write some, such as [0.1, 0.5].")
    for value in values:
        if about.kind != "choice":
            _number(about, value)
        elif not any(value is known or (isinstance(value, str) and value == known) for known in about.values):
            known = ", ".join(str(known).lower() if isinstance(known, bool) else known for known in about.values)
            raise ValueError(f"has the choice {value!r:.60}. There are: {known}.")
    if len(set(values)) < len(values):
        raise ValueError("has a choice twice. Remove one.")
    return tuple(values)


def parameters(space: Mapping[str, Any]) -> dict[str, Parameter]:
    """A search space by the name of the setting; from what `parameter` has accepted."""
    return {key: parameter(key, written) for key, written in space.items()}


def merged(training: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a training with values of a trial put in: each where the detector's file has it.

    Args:
        training: The settings, with their own keys and `extra` for those of the trainer.
        values: By setting; one that is no key of its own goes to `extra`, unless it is what the training takes anyway:
            a training that would be the same must not look like another.
    """
    given = training.get("extra") or {}
    own = {key: value for key, value in values.items() if key in training}
    extra = {
        key: value
        for key, value in values.items()
        if key not in training and (key in given or key not in TUNABLE or value != TUNABLE[key].default)
    }
    return {**training, **own, "extra": {**given, **extra}}


def own_values(space: Mapping[str, Parameter], training: Mapping[str, Any]) -> dict[str, Any]:
    """What the detector's file has for each parameter, for a first trial; one outside the space is left out."""
    extra = training.get("extra") or {}
    found: dict[str, Any] = {}
    for key, among in space.items():
        value = training.get(key, extra.get(key, TUNABLE[key].default))
        if value is not None and within(among, value):
            found[key] = float(value) if isinstance(among, Real) else value
    return found


def within(among: Parameter, value: Any) -> bool:
    """Whether a parameter can have a value."""
    if isinstance(among, Choice):
        return value in among.values
    return isinstance(value, (int, float)) and among.low <= value <= among.high


def drawn(among: Parameter, chance: float) -> Any:
    """The value that lies at a chance, from 0 to below 1, among all that a parameter can have."""
    if isinstance(among, Choice):
        return among.values[int(chance * len(among.values))]
    high = among.high + 1 if isinstance(among, Whole) else among.high
    value = among.low * (high / among.low) ** chance if among.log else among.low + chance * (high - among.low)
    return min(among.high, int(value)) if isinstance(among, Whole) else value


# A tuner elsewhere knows only text ------------------------------------------------------------------------------------

OBJECTIVE_PATTERN = r"objective=([-+.0-9eE]+);"
"""How a tuner finds, in a trial's log, what `objective_line` has written."""
LOGARITHM = "ln_"
"""Stands before the name of a parameter of which a tuner gives the natural logarithm."""
KINDS: Mapping[str, type[Parameter]] = {"real": Real, "whole": Whole, "choice": Choice}


def objective_line(value: float) -> str:
    """A line of a trial's log that tells what it has reached; the last one counts."""
    return f"objective={value:.9g};"


def described(space: Mapping[str, Parameter]) -> dict[str, Any]:
    """A search space as JSON; `space_of` is the way back."""
    names = {kind: name for name, kind in KINDS.items()}
    return {key: {names[type(among)]: asdict(among)} for key, among in space.items()}


def space_of(described: Mapping[str, Any]) -> dict[str, Parameter]:
    """The search space that `described` has put into JSON."""
    return {key: KINDS[kind](**limits) for key, about in described.items() for kind, limits in about.items()}


def as_text(value: Any) -> str:
    """A value as text."""
    return value if isinstance(value, str) else json.dumps(value)


def from_text(among: Parameter, text: str) -> Any:
    """The value of a parameter that a tuner gives as text, in its own type.

    Raises:
        ValueError: It is none that the parameter can have.
    """
    if isinstance(among, Real):
        return float(text)
    if isinstance(among, Whole):
        if float(text) != int(float(text)):  # some tuners write 16.0
            raise ValueError(f"{text!r} is no whole number")
        return int(float(text))
    found = [value for value in among.values if as_text(value) == text]
    if not found:
        raise ValueError(f"{text!r} is none of the choices {', '.join(map(as_text, among.values))}")
    return found[0]


def taken(space: Mapping[str, Parameter], given: Mapping[str, str]) -> dict[str, Any]:
    """The values of all parameters, as a tuner gives them.

    Args:
        space: What is searched.
        given: Values as text, by setting, or natural logarithms by `LOGARITHM` and the setting; what is not of the
            space is the tuner's own.

    Raises:
        ValueError: A value is missing, or is none that its parameter can have.
    """
    return {key: _taken(key, among, given) for key, among in space.items()}


def _taken(key: str, among: Parameter, given: Mapping[str, str]) -> Any:
    if LOGARITHM + key in given and not isinstance(among, Choice):
        value = math.exp(float(given[LOGARITHM + key]))
        return min(among.high, max(among.low, int(value) if isinstance(among, Whole) else value))
    if key not in given:
        raise ValueError(f"the tuner gives no value of {key}, but of {', '.join(sorted(given))}")
    return from_text(among, given[key])


@dataclass(frozen=True)
class Trial:
    """One training with values of the search space.

    Attributes:
        number: From 0, in the order in which the trials began.
        state: `running`, `complete`, `pruned` (ended early, because it fell behind) or `failed`.
        values: By setting.
        value: What it is judged by; for one that was pruned or that runs, the best so far. None if there is nothing.
        epochs: The same by epoch, from 1.
        seconds: How long it ran, in all its attempts.
        why: Why it failed.
    """

    number: int
    state: Literal["running", "complete", "pruned", "failed"]
    values: Mapping[str, Any]
    value: float | None = None
    epochs: Mapping[int, float] = field(default_factory=dict)
    seconds: float = 0.0
    why: str = ""

    @property
    def judged(self) -> bool:
        """Whether it has come to a verdict: it counts among the trials that were asked for."""
        return self.state in ("complete", "pruned")


def best(trials: Iterable[Trial], *, maximize: bool = True) -> Trial | None:
    """The best of the complete trials; of equal ones the earliest, so that values are not changed for nothing."""
    done = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
    sign = -1.0 if maximize else 1.0
    return min(done, key=lambda trial: (sign * (trial.value or 0.0), trial.number), default=None)


def in_words(values: Mapping[str, Any]) -> str:
    """Values for a line of progress: `lr0 0.00213, mosaic 0.5`."""
    return ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )

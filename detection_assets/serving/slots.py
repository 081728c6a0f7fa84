"""Which models one endpoint holds, and which of them answers the next request.

A controller writes a small state file and replaces it atomically; the endpoint follows it without a restart. Loading
happens beside serving: a model takes traffic only when it is loaded, checked and warm, and one that fails to load
changes nothing but the status.
"""

from __future__ import annotations

import bisect
import itertools
import logging
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from detection_assets.domain.problems import InputError
from detection_assets.serving import images
from detection_assets.serving.predictor import Predictor, check_thresholds
from detection_assets.serving.refusals import Refused

POLL_S = 0.25
"""Between two looks at the state file; a change of route must take effect within a second."""

logger = logging.getLogger("detection.slots")


@dataclass(frozen=True, slots=True)
class SlotSpec:
    """What a slot is to hold.

    Attributes:
        model: Absolute path of the .onnx file.
        sha256: Digest that the file must have.
        version: The registry's version, repeated in each answer.
        confidence: Boxes must be more confident than this.
        iou: Limit of overlap within a class.
        max_det: Most boxes in an answer.
    """

    model: Path
    sha256: str
    version: str
    confidence: float = 0.25
    iou: float = 0.7
    max_det: int = 300


@dataclass(frozen=True, slots=True)
class State:
    """The state file: which slots there are and how requests are shared among them.

    Attributes:
        detector: The detector's name.
        slots: What each slot is to hold.
        traffic: Weight of each slot; a slot that is not named gets none.
    """

    detector: str
    slots: Mapping[str, SlotSpec] = field(default_factory=dict)
    traffic: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is loaded and warm."""

    name: str
    spec: SlotSpec
    predictor: Predictor
    seconds: float


def parse_state(content: bytes, file: Path) -> State:
    """Reads a state file.

    Args:
        content: Its bytes: `{"detector", "slots": {name: {model, sha256, version, ...}}, "traffic": {name: weight}}`.
        file: Its path, for errors.

    Raises:
        InputError: Not JSON, a field is missing or has a bad value, or traffic goes to a slot that is not there.
    """
    try:
        raw = orjson.loads(content)
        slots = {str(name): _parse_spec(spec) for name, spec in raw.get("slots", {}).items()}
        traffic = {str(name): float(weight) for name, weight in raw.get("traffic", {}).items()}
        state = State(str(raw["detector"]), slots, traffic)
    except KeyError as error:
        raise InputError(f"{file}: {error.args[0]!r} is missing; write the state again") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: not a state file ({error}); write the state again") from None
    for name, weight in traffic.items():
        if name not in slots and weight:
            raise InputError(f"{file}: traffic goes to the slot {name!r}, which is not among the slots {sorted(slots)}")
        if not 0 <= weight < float("inf"):
            raise InputError(f"{file}: the traffic of {name!r} is {weight}; it must be 0 or more")
    return state


def _parse_spec(raw: Mapping[str, Any]) -> SlotSpec:
    given = {key: raw[key] for key in ("confidence", "iou", "max_det") if key in raw}
    spec = SlotSpec(Path(raw["model"]), str(raw["sha256"]), str(raw["version"]), **given)
    check_thresholds(spec.confidence, spec.iou, spec.max_det)
    return spec


@dataclass(slots=True)
class _Slot:
    """One slot: what it should hold, what it holds, and why they differ."""

    wanted: SlotSpec
    loaded: Loaded | None = None
    error: str | None = None

    @property
    def state(self) -> str:
        if self.loaded is not None and self.loaded.spec == self.wanted:
            return "ready"
        return "loading" if self.error is None else "failed"


@dataclass(frozen=True, slots=True)
class _Routes:
    """What `choose` needs, replaced as a whole so that it needs no lock."""

    names: frozenset[str] = frozenset()
    loaded: Mapping[str, Loaded] = field(default_factory=dict)
    sharing: tuple[Loaded, ...] = ()
    bounds: tuple[float, ...] = ()


class Slots:
    """The models of one endpoint, kept as its state file says.

    A slot whose model is exchanged goes on answering with the old one until the new one is warm. If the new one fails,
    the old one stays and the status says `failed`, with the error and with the version that still answers.
    """

    def __init__(self, state_file: Path, *, threads: int | None = None, poll_s: float = POLL_S) -> None:
        """Takes the file to follow; nothing is read before `start`.

        Args:
            state_file: The state file; it may appear later.
            threads: Cores for each model; all if None.
            poll_s: Seconds between two looks at the file.
        """
        self.state_file = state_file
        self._threads, self._poll_s = threads, poll_s
        self._state: State | None = None
        self._state_error: str | None = f"{state_file} does not exist yet: deploy a model to this endpoint"
        self._slots: dict[str, _Slot] = {}
        self._routes = _Routes()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._seen: tuple[int, ...] | None = None
        self._watcher: threading.Thread | None = None

    def start(self) -> None:
        """Begins to follow the state file, in a thread."""
        self._watcher = threading.Thread(target=self._watch, name="slots", daemon=True)
        self._watcher.start()

    def stop(self) -> None:
        """Stops following the state file; what is loaded goes on answering."""
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join()

    @property
    def detector(self) -> str:
        """The detector's name; empty until a state file was read."""
        return self._state.detector if self._state else ""

    @property
    def ready(self) -> bool:
        """Whether a slot with traffic is loaded and warm."""
        return bool(self._routes.sharing)

    def choose(self, wanted: str | None = None) -> Loaded:
        """Draws the slot that answers a request.

        Args:
            wanted: A slot to address whatever its weight; None draws by weight among the slots that are loaded.

        Raises:
            Refused: 404 if there is no such slot, 503 if it or every slot with traffic is not loaded.
        """
        routes = self._routes
        if wanted is not None:
            if wanted not in routes.names:
                there = ", ".join(sorted(routes.names)) or "none"
                raise Refused(404, f"there is no slot {wanted!r} (slots: {there}); leave X-Detection-Slot out")
            if wanted not in routes.loaded:
                raise Refused(503, f"the slot {wanted!r} holds no model yet; see GET /status", retry_after=1)
            return routes.loaded[wanted]
        if not routes.sharing:
            raise Refused(503, "no slot with traffic is loaded yet; see GET /status and try again", retry_after=1)
        if len(routes.sharing) == 1:
            return routes.sharing[0]
        return routes.sharing[bisect.bisect_right(routes.bounds, random.random() * routes.bounds[-1])]

    def status(self) -> dict[str, Any]:
        """The slots, versions, digests, traffic and errors, as JSON-serialisable values."""
        with self._lock:
            slots = {name: _describe(slot) for name, slot in self._slots.items()}
            traffic = dict(self._state.traffic) if self._state else {}
            return {
                "detector": self.detector,
                "ready": self.ready,
                "state_file": str(self.state_file),
                "state_error": self._state_error,
                "traffic": traffic,
                "slots": slots,
            }

    def _watch(self) -> None:
        while True:
            self._look()
            if self._stopping.wait(self._poll_s):
                return

    def _look(self) -> None:
        stamp = None
        try:
            stat = self.state_file.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if stamp == self._seen:
                return
            state = parse_state(self.state_file.read_bytes(), self.state_file)
        except FileNotFoundError:
            if self._seen is not None:
                self._seen = None
                self._complain(f"{self.state_file} is gone; serving goes on as before: deploy again to change it")
            return
        except (InputError, OSError) as error:
            self._seen = stamp if isinstance(error, InputError) else None
            self._complain(f"{error}; serving goes on as before")
            return
        self._seen = stamp
        self._apply(state)

    def _complain(self, message: str) -> None:
        with self._lock:
            news = message != self._state_error
            self._state_error = message
        if news:
            logger.error(message)

    def _apply(self, state: State) -> None:
        with self._lock:
            self._state, self._state_error = state, None
            for name in self._slots.keys() - state.slots.keys():
                del self._slots[name]
            to_load: list[tuple[str, SlotSpec]] = []
            for name, spec in state.slots.items():
                slot = self._slots.setdefault(name, _Slot(spec))
                if slot.wanted is not spec and slot.wanted == spec and slot.error is None:
                    continue  # ready or on its way
                slot.wanted, slot.error = spec, None
                if slot.state != "ready":
                    to_load.append((name, spec))
            self._reroute()
        logger.info("state applied", extra={"fields": {"traffic": dict(state.traffic), "slots": sorted(state.slots)}})
        for name, spec in to_load:
            # A thread each: a model that is slow to load holds nobody up.
            threading.Thread(target=self._load, args=(name, spec), name=f"load-{name}", daemon=True).start()

    def _load(self, name: str, spec: SlotSpec) -> None:
        started = time.perf_counter()
        loaded, problem = None, None
        try:
            images.warm_up()
            predictor = Predictor(
                spec.model,
                confidence=spec.confidence,
                iou=spec.iou,
                max_det=spec.max_det,
                threads=self._threads,
                sha256=spec.sha256,
            )
            predictor.warm_up()
            loaded = Loaded(name, spec, predictor, time.perf_counter() - started)
        except Exception as error:  # whatever a model does while it loads, the other slot goes on
            problem = str(error) or type(error).__name__
        with self._lock:
            slot = self._slots.get(name)
            if slot is None or slot.wanted is not spec:
                return  # overtaken by a later state
            slot.loaded, slot.error = loaded or slot.loaded, problem
            self._reroute()
        fields = {"slot": name, "version": spec.version, "seconds": round(time.perf_counter() - started, 3)}
        if problem:
            logger.error(f"slot not loaded: {problem}", extra={"fields": fields})
        else:
            logger.info("slot ready", extra={"fields": fields})

    def _reroute(self) -> None:
        traffic = self._state.traffic if self._state else {}
        loaded = {name: slot.loaded for name, slot in self._slots.items() if slot.loaded is not None}
        sharing = tuple(one for name, one in loaded.items() if traffic.get(name, 0) > 0)
        bounds = tuple(itertools.accumulate(traffic[one.name] for one in sharing))
        self._routes = _Routes(frozenset(self._slots), loaded, sharing, bounds)


def _describe(slot: _Slot) -> dict[str, Any]:
    loaded = slot.loaded
    answer: dict[str, Any] = {"state": slot.state, "error": slot.error}
    answer |= asdict(replace(slot.wanted)) | {"model": str(slot.wanted.model)}
    answer["serving"] = loaded and {
        "version": loaded.spec.version,
        "sha256": loaded.predictor.sha256,
        "classes": loaded.predictor.classes,
        "input": list(loaded.predictor.size),
        "load_seconds": round(loaded.seconds, 3),
    }
    return answer

"""Which models one endpoint holds, and which of them answers the next request.

A controller writes a small state file and replaces it atomically; the endpoint follows it without a restart. Loading
happens beside serving: a model takes traffic only when it is loaded, checked and warm, and one that fails to load
changes nothing but the status.
"""

from __future__ import annotations

import bisect
import itertools
import logging
import math
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from detection_assets.domain.problems import InputError
from detection_assets.serving import images
from detection_assets.serving.lanes import Lane
from detection_assets.serving.predictor import ModelError, Predictor
from detection_assets.serving.refusals import Refused
from detection_assets.serving.state import CaptureSpec, SlotSpec, State, parse_state
from detection_assets.serving.tally import RECENT, TOO_MANY, Tally

POLL_S = 0.25
"""Between two looks at the state file; a change of route must take effect within a second."""

GOLDEN = (math.sqrt(5) - 1) / 2
"""From one draw to the next, modulo 1.

Its multiples fill the unit interval more evenly than random numbers do, and so do those of every k-th request: a slot's
share is right after some dozen requests, also for each of several cameras that take turns (Weyl's theorem; Kuipers and
Niederreiter, Uniform Distribution of Sequences, 1974, chapters 1 and 2).
"""

logger = logging.getLogger("detection.slots")


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A model that is loaded and warm.

    Attributes:
        name: Its slot.
        spec: What the slot was to hold.
        predictor: The model.
        seconds: How long loading took.
        lane: Where its requests run.
        tally: What it did so far.
    """

    name: str
    spec: SlotSpec
    predictor: Predictor
    seconds: float
    lane: Lane
    tally: Tally = field(default_factory=Tally)


@dataclass(slots=True)
class _Slot:
    """One slot: what it should hold, what it holds, and why they differ."""

    wanted: SlotSpec
    loaded: Loaded | None = None
    error: str | None = None
    tripped: bool = False

    @property
    def state(self) -> str:
        if self.tripped:
            return "tripped"
        if self.loaded is not None and self.loaded.spec == self.wanted:
            return "ready"
        return "loading" if self.error is None else "failed"


@dataclass(frozen=True, slots=True)
class _Routes:
    """What a request needs to know, replaced as a whole so that it needs no lock.

    Attributes:
        names: All slots.
        loaded: Those with a model.
        sharing: Those that share the traffic, the most weight first; of equal ones the oldest first.
        bounds: Their weights, summed up from the first to each.
        shadow: The one that sees copies, and the share of them.
    """

    names: frozenset[str] = frozenset()
    loaded: Mapping[str, Loaded] = field(default_factory=dict)
    sharing: tuple[Loaded, ...] = ()
    bounds: tuple[float, ...] = ()
    shadow: tuple[Loaded, float] | None = None


class Slots:
    """The models of one endpoint, kept as its state file says.

    A slot whose model is exchanged goes on answering with the old one until the new one is warm. If the new one fails,
    the old one stays and the status says `failed`, with the error and with the version that still answers.
    """

    def __init__(self, source: Path | State, *, threads: int | None = None, poll_s: float = POLL_S) -> None:
        """Takes the file to follow, or a state that stays as it is; nothing is read before `start`.

        Args:
            source: The state file, which may appear later; or a state, where no controller writes one.
            threads: Cores for each model; all if None.
            poll_s: Seconds between two looks at the file.
        """
        self.state_file = source if isinstance(source, Path) else None
        self._fixed = source if isinstance(source, State) else None
        self._threads, self._poll_s = threads, poll_s
        self._state: State | None = None
        self._state_error = None if self._fixed else f"{source} does not exist yet: deploy a model to this endpoint"
        self._slots: dict[str, _Slot] = {}
        self._routes = _Routes()
        self._draw = random.random()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._seen: tuple[int, ...] | None = None
        self._watcher: threading.Thread | None = None

    def start(self) -> None:
        """Loads the fixed state, or begins to follow the state file, in a thread."""
        if self._fixed is not None:
            self._apply(self._fixed)
        if self.state_file is not None:
            self._watcher = threading.Thread(target=self._watch, args=(self.state_file,), name="slots", daemon=True)
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
    def capture(self) -> CaptureSpec | None:
        """What is to be kept of requests."""
        return self._state.capture if self._state else None

    def keep(self, capture: CaptureSpec | None) -> None:
        """Changes what is to be kept of requests, where no state file says it."""
        with self._lock:
            if self._state is not None:
                self._state = replace(self._state, capture=capture)

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
        self._draw = (self._draw + GOLDEN) % 1.0
        return routes.sharing[bisect.bisect_right(routes.bounds, self._draw * routes.bounds[-1])]

    @property
    def sharing(self) -> Sequence[Loaded]:
        """Who shares the traffic, the most weight first."""
        return self._routes.sharing

    def others(self, drawn: Loaded) -> list[Loaded]:
        """Who else shares the traffic, the most weight first: they answer where the drawn slot cannot."""
        return [one for one in self.sharing if one is not drawn]

    def leads(self, loaded: Loaded) -> bool:
        """Whether it is the one with the most traffic."""
        return self._routes.sharing[:1] == (loaded,)

    @property
    def shadowed(self) -> bool:
        """Whether a slot sees copies."""
        return self._routes.shadow is not None

    def shadow_of(self, answered: Loaded) -> Loaded | None:
        """Draws whether a request that a slot answered is copied, and names the slot that sees the copy."""
        shadow = self._routes.shadow
        if shadow is None or shadow[0].name == answered.name or random.random() >= shadow[1]:
            return None
        return shadow[0]

    def failed(self, loaded: Loaded, reason: str) -> None:
        """Counts a failed request, and takes the traffic from a slot that fails too many.

        The slot with the most traffic keeps it: there is nothing better to send its requests to.
        """
        loaded.tally.failed()
        if not loaded.tally.failing or self.leads(loaded):
            return
        with self._lock:
            slot, sharing = self._slots.get(loaded.name), self._routes.sharing
            if slot is None or slot.loaded is not loaded or loaded not in sharing[1:]:
                return
            slot.tripped = True
            slot.error = (
                f"{TOO_MANY} of its last {RECENT} requests failed, so it gets no more until the state is written "
                f"again; the last: {reason}"
            )
            self._reroute()
        logger.error("slot tripped", extra={"fields": {"slot": loaded.name, "version": loaded.spec.version}})

    def status(self) -> dict[str, Any]:
        """The slots, versions, digests, traffic, counters and errors, as JSON-serialisable values."""
        with self._lock:
            slots = {name: _describe(slot) for name, slot in self._slots.items()}
            shadow = self._state.shadow if self._state else None
            return {
                "detector": self.detector,
                "ready": self.ready,
                "state_file": self.state_file and str(self.state_file),
                "state_error": self._state_error,
                "traffic": dict(self._state.traffic) if self._state else {},
                "shadow": shadow and asdict(shadow),
                "slots": slots,
                "statistics": {name: one.tally.dump(one.spec.version) for name, one in self._routes.loaded.items()},
            }

    def _watch(self, state_file: Path) -> None:
        while True:
            self._look(state_file)
            if self._stopping.wait(self._poll_s):
                return

    def _look(self, state_file: Path) -> None:
        stamp = None
        try:
            stat = state_file.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if stamp == self._seen:
                return
            state = parse_state(state_file.read_bytes(), state_file)
        except FileNotFoundError:
            if self._seen is not None:
                self._seen = None
                self._complain(f"{state_file} is gone; serving goes on as before: deploy again to change it")
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
                if slot.tripped:  # whoever writes the state has seen it, or will see it again
                    slot.tripped, slot.error = False, None
                if slot.loaded is not None:
                    slot.loaded.tally.forgive()
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
            loaded = Loaded(name, spec, predictor, time.perf_counter() - started, Lane(name, predictor))
        except Exception as error:  # whatever a model does while it loads, the other slot goes on
            problem = str(error) or type(error).__name__
        with self._lock:
            slot = self._slots.get(name)
            if slot is None or slot.wanted is not spec:
                return  # overtaken by a later state
            slot.loaded, slot.error = loaded or slot.loaded, problem
            self._reroute()
        fields = {"slot": name, "version": spec.version, "seconds": round(time.perf_counter() - started, 3)}
        if loaded is None:
            logger.error(f"slot not loaded: {problem}", extra={"fields": fields})
            return
        logger.info("slot ready", extra={"fields": fields})
        try:
            loaded.predictor.widen()  # not before: nobody waits for it
        except ModelError as error:
            logger.warning(str(error), extra={"fields": fields})

    def _reroute(self) -> None:
        state = self._state or State("")
        loaded = {name: slot.loaded for name, slot in self._slots.items() if slot.loaded is not None}
        sharing = [
            one for name, one in loaded.items() if state.traffic.get(name, 0) > 0 and not self._slots[name].tripped
        ]
        sharing.sort(key=lambda one: (-state.traffic[one.name], one.tally.since))
        bounds = tuple(itertools.accumulate(state.traffic[one.name] for one in sharing))
        shadow = None
        if state.shadow is not None and state.shadow.share > 0 and state.shadow.slot in loaded:
            shadow = (loaded[state.shadow.slot], state.shadow.share)
        self._routes = _Routes(frozenset(self._slots), loaded, tuple(sharing), bounds, shadow)


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

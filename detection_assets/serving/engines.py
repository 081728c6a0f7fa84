"""A compiled network, and which part of the processor answers which picture.

docs/decisions/0008-queue-and-batching.md says why there are two ways to be answered, and what they bring.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

AT_ONCE = 2
"""Pictures that a network answers side by side when several wait, each on its share of the cores."""
NO_LIMIT_MS = 2**31 - 1


class Engine:
    """A compiled network that answers one picture at a time."""

    def __init__(self, compile: Callable[[], Any], compiled: Any = None) -> None:
        self._compile, self._broken = compile, False
        self.compiled = compiled or compile()
        self._request = self.compiled.create_infer_request()

    def infer(self, pixels: NDArray[np.uint8], milliseconds: int = NO_LIMIT_MS) -> NDArray[np.float32] | None:
        """The output for one picture, a view of memory that the next picture overwrites; None if time was up.

        Raises:
            RuntimeError: The network failed.
        """
        try:
            if self._broken:
                self.compiled, self._broken = self._compile(), False
                self._request = self.compiled.create_infer_request()
            self._request.start_async({0: pixels}, share_inputs=True)
            if self._request.wait_for(milliseconds):
                return self._request.get_output_tensor(0).data[0]
        except RuntimeError:
            self._broken = True  # a network that raised once may go on raising, whatever it is given
            raise
        self._request.cancel()
        with contextlib.suppress(RuntimeError):  # says that it was cancelled
            self._request.wait()
        return None


class Engines:
    """The engines of one network: one with all the cores, and once it is widened `AT_ONCE` that share them.

    Attributes:
        alone: Answers a picture when no other is being answered.
        at_work: Those that answer one now.
    """

    def __init__(self, network: Any, export: str, threads: int) -> None:
        """Compiles the network.

        Args:
            network: OpenVINO's model.
            export: What its file was exported for: `f32`, `bf16` or `int8`.
            threads: Cores to use.
        """
        self._compile, self._threads = functools.partial(_compile, network, export, threads), threads
        self.alone = Engine(functools.partial(self._compile, streams=1))
        self._beside: list[Engine] = []
        self.at_work: list[Engine] = []
        self._turn = threading.Condition()

    @property
    def at_once(self) -> int:
        """How many pictures are answered side by side."""
        return len(self._beside) or 1

    def widen(self, blank: NDArray[np.uint8]) -> None:
        """Readies the network for several pictures side by side; nobody waits for it meanwhile.

        Args:
            blank: A picture to warm up on.

        Raises:
            RuntimeError: It could not be compiled once more, or failed; what was there before goes on answering.
        """
        if self._threads < AT_ONCE or self._beside:
            return
        again = functools.partial(self._compile, streams=AT_ONCE)
        compiled = again()
        engines = [Engine(again, compiled) for _ in range(AT_ONCE)]
        for engine in engines:
            engine.infer(blank)
        with self._turn:
            self._beside = engines
            self._turn.notify_all()

    @contextlib.contextmanager
    def free(self) -> Iterator[Engine]:
        """Waits for an engine that is free, and keeps it for as long as the context lasts."""
        with self._turn:
            while (engine := self._next()) is None:
                self._turn.wait()
            self.at_work.append(engine)
        try:
            yield engine
        finally:
            with self._turn:
                self.at_work.remove(engine)
                self._turn.notify()

    def _next(self) -> Engine | None:
        if not self.at_work:
            return self.alone
        if len(self.at_work) >= AT_ONCE:
            return None
        return next((engine for engine in self._beside if engine not in self.at_work), None)


def _compile(network: Any, export: str, threads: int, *, streams: int) -> Any:
    import openvino

    settings = {
        # The default is bf16 where the processor has it: other boxes, unless that is what was evaluated.
        "INFERENCE_PRECISION_HINT": "bf16" if export == "bf16" else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": streams,
        "ENABLE_CPU_PINNING": False,  # two slots and their neighbours share the cores
        "INFERENCE_NUM_THREADS": threads,
    }
    return openvino.Core().compile_model(network, "CPU", settings)

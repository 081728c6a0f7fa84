"""One of several processes that train together: `train_together` starts it and hears what it tells.

Ultralytics' trainer takes its place among the others from the environment. What it would do about a world of several
machines, or of CPUs, is put right here.
"""

from __future__ import annotations

import functools
import json
import math
import os
import socket
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from detection_assets.programs import train_ultralytics as ultralytics
from detection_assets.programs.job import end_with_parent
from detection_assets.programs.train_together import MEET_S, store


class Line:
    """The way to the program that has started this process. It answers when what was told is done about."""

    def __init__(self, descriptor: int) -> None:
        """Takes the open socket."""
        self._line = socket.socket(fileno=descriptor)
        self._heard = self._line.makefile("rb")

    def tell(self, event: str, *told: Any) -> None:
        """Tells something, and waits until it was heard."""
        self._line.sendall(json.dumps([event, *told]).encode() + b"\n")
        if not self._heard.readline():
            sys.exit("the program that has started this process is gone")


def train(order: Mapping[str, Any], line: Line) -> None:
    """Trains, and tells how far it is if this is the first of the processes.

    Args:
        order: As `train_together` writes it.
        line: To it.
    """
    ultralytics.prepare(Path(order["config"]))
    import torch
    from torch import distributed
    from ultralytics.models.yolo.detect import DetectionTrainer

    rank, size, on_gpu = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), order["device"].isdecimal()
    if on_gpu:
        torch.cuda.set_device(int(order["device"]))
    distributed.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=store(*order["store"]),
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=MEET_S),
    )
    if not on_gpu:
        _let_cpus_share()
    _share_memory(order["beside"])
    run = Path(order["run"])

    def hand_out(path: Path | None) -> Path | None:
        """Where this process is to read a file that the first one has; None if it has none."""
        content = [path.read_bytes() if path and rank == 0 else None]
        distributed.broadcast_object_list(content)
        if content[0] is None or rank < order["beside"]:
            return path
        own = run / f"handed-out-{rank}.pt"
        own.write_bytes(content[0])
        return own

    class Run(DetectionTrainer):
        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            self.world_size = size  # which it takes to be the number of its own devices

        def _setup_ddp(self) -> None:
            """The processes have met already."""

        def validate(self) -> tuple[Any, Any]:
            figures, fitness = super().validate()
            batches = torch.tensor(float(len(self.test_loader)), device=self.device)
            distributed.all_reduce(batches)
            if figures is not None:  # it divides as if all processes had as many batches as the first
                share = size * len(self.test_loader) / float(batches)
                figures = {key: value * share if key.startswith("val/") else value for key, value in figures.items()}
            return figures, fitness

        def _handle_nan_recovery(self, epoch: int) -> bool:
            assert self.loss is not None
            if size > order["beside"] and epoch > self.start_epoch:
                figures = [float(figure) for figure in (self.loss.detach(), self.fitness) if figure is not None]
                lost = [rank == 0 and not all(map(math.isfinite, figures))]
                distributed.broadcast_object_list(lost)
                if lost[0]:  # all go back to the last weights, which only the first instance has
                    self.last = hand_out(self.last) or self.last
            return super()._handle_nan_recovery(epoch)

        def final_eval(self) -> None:
            """Done by whoever has started this process, without the others."""

    resume = hand_out(Path(order["resume"]) if order["resume"] else None)
    trainer = Run(
        overrides=ultralytics.overrides(
            order["chosen"], data=Path(order["data"]), run=run, device=order["device"], resume=resume
        )
    )
    ultralytics.use_cores_with(trainer)
    if rank == 0:
        told = {event: functools.partial(line.tell, event) for event in ("epoch", "batch")}
        ultralytics.follow(trainer, ultralytics.Hooks(saved=lambda _: line.tell("saved"), **told))
    trainer.train()
    distributed.barrier(device_ids=[int(order["device"])] if on_gpu else None)
    distributed.destroy_process_group()


def _let_cpus_share() -> None:
    """Ultralytics shares a model among GPUs only: it names a device, which torch refuses for one on the CPU."""
    from torch.nn import parallel

    class OnCpu(parallel.DistributedDataParallel):
        def __init__(self, module: Any, device_ids: Any = None, **given: Any) -> None:
            super().__init__(module, **given)

    parallel.DistributedDataParallel = OnCpu


def _share_memory(beside: int) -> None:
    """Each process keeps all images in memory, if there is room: there has to be room for all processes."""
    from ultralytics.data.base import BaseDataset

    fits = BaseDataset.check_cache_ram

    def fits_for_all(self: Any, safety_margin: float = 1.0) -> bool:
        return fits(self, (1 + safety_margin) * beside - 1)

    BaseDataset.check_cache_ram = fits_for_all


def main() -> None:
    """Trains as the order says that is named on the command line, and tells why if that fails."""
    end_with_parent()
    line = Line(int(sys.argv[2]))
    try:
        train(json.loads(Path(sys.argv[1]).read_text()), line)
    except Exception as error:
        line.tell("failed", f"{type(error).__name__}: {error}", _lost_others(error))
        raise


def _lost_others(error: Exception) -> bool:
    """Whether it says no more than that another process is gone."""
    from torch import distributed

    return isinstance(error, distributed.DistError) or any(word in str(error) for word in ("gloo/", "NCCL"))


if __name__ == "__main__":
    main()

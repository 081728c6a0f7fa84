"""Several processes that train together: how many, what becomes of all when one fails, and that it is one training."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from programs.test_train import CLASSES, reports, snapshot
from project import free_port

from detection_assets.domain.problems import InputError
from detection_assets.domain.world import World
from detection_assets.programs import train_together as together
from detection_assets.programs.train_ultralytics import DEFAULTS, Hooks

ROOT = Path(__file__).parents[2]
TWO = World(2, 0, "algo-1:29500")


# How many -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus", "world", "device", "batch", "expected"),
    [
        (0, World(), None, 8, ("",)),
        (1, World(), None, 8, ("0",)),
        (2, World(), None, 8, ("0", "1")),
        (2, World(), "1", 8, ("1",)),
        (2, World(), 0, 8, ("0",)),
        (2, World(), "cpu", 8, ("cpu",)),
        (4, World(), "1,3", 8, ("1", "3")),
        (4, World(), "0,1,2,3", 8, ("0", "1", "2", "3")),
        (0, World(), "cpu,cpu", 8, ("cpu", "cpu")),
        # GPUs that would have too few images, or unequally many, are left idle.
        (4, World(), None, 8, ("0", "1")),
        (4, World(), None, 16, ("0", "1", "2", "3")),
        (3, World(), None, 16, ("0", "1")),
        (8, World(), None, 3, ("0",)),
        (2, World(), None, 0.7, ("0",)),
        (0, TWO, None, 8, ("",)),
        (4, TWO, None, 16, ("0", "1")),
        (4, TWO, None, 32, ("0", "1", "2", "3")),
    ],
)
def test_all_gpus_train_that_have_enough_to_do(
    monkeypatch: pytest.MonkeyPatch,
    gpus: int,
    world: World,
    device: str | None,
    batch: float,
    expected: tuple[str, ...],
) -> None:
    monkeypatch.setattr(together, "_gpus", lambda: [str(number) for number in range(gpus)])
    told: list[str] = []
    crew = together.crew(world, {**DEFAULTS, "batch": batch}, device, told.append)
    assert crew.devices == expected
    assert crew.size == len(expected) * world.instances
    assert bool(told) == (device is None and gpus > len(expected))
    assert all(f"{len(expected)} of {gpus} GPUs train: training.batch: {batch} images" in line for line in told)


@pytest.mark.parametrize(
    ("world", "device", "chosen", "complaint"),
    [
        (World(), "0,1,2", {}, "training.batch: 8 images cannot be shared by 3 processes; set a multiple of 3"),
        (TWO, None, {"batch": 6}, r"training.batch: 6 images .* 2 processes; set a multiple of 2, 8 or more"),
        (TWO, None, {"batch": 9}, "multiple of 2"),
        (TWO, None, {"batch": -1}, "multiple of 2"),
        (TWO, None, {"rect": True}, "training.extra.rect: not with 2 processes"),
        (TWO, None, {"time": 1.5}, "training.extra.time: not with 2 processes"),
        (World(), "0,0", {}, "each once"),
        (World(), "0,cpu", {}, "each once"),
        (World(), "0,", {}, "each once"),
        (World(), "mps,mps", {}, "each once"),
    ],
)
def test_what_cannot_be_shared_is_refused_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, world: World, device: str | None, chosen: dict[str, Any], complaint: str
) -> None:
    monkeypatch.setattr(together, "_gpus", list)
    with pytest.raises(InputError, match=complaint):
        together.crew(world, {**DEFAULTS, **chosen}, device, print)


# What becomes of all --------------------------------------------------------------------------------------------------

SCRIPTED = """
import os, signal, sys, time
from detection_assets.programs import train_rank
rank, line = int(os.environ["RANK"]), train_rank.Line(int(sys.argv[2]))

def fails(why, lost):
    line.tell("failed", why, lost)
    sys.exit(1)

"""


def hooks(heard: list[Any]) -> Hooks:
    return Hooks(
        lambda *told: heard.append(("epoch", *told)),
        lambda run: heard.append(("saved", run.name)),
        lambda *told: heard.append(("batch", *told)),
    )


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Starts processes that do what a line of Python says, in the place of the trainer."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    monkeypatch.setattr(together, "PROGRAM", "scripted")
    monkeypatch.setattr(together, "ELSEWHERE_S", 2.0)

    def run(does: str, world: World | None = None, count: int = 2) -> list[Any]:
        (tmp_path / "scripted.py").write_text(SCRIPTED + does)
        meeting = together.Meeting(together.Crew(world or World(), ("cpu",) * count))
        meeting.agree({"go": True})
        heard: list[Any] = []
        folder = tmp_path / f"run-{meeting.crew.world.instance}"
        together.fit(meeting, {}, data=tmp_path, run=folder, resume=None, hooks=hooks(heard))
        return heard

    return run


def test_what_a_process_tells_is_done_before_it_goes_on(fit: Callable[..., list[Any]]) -> None:
    heard = fit(
        'if rank == 0:\n    for epoch in (1, 2): line.tell("saved"); line.tell("epoch", epoch, 2, {"loss": 0.5})'
    )
    assert heard == [
        ("saved", "run-0"),
        ("epoch", 1, 2, {"loss": 0.5}),
        ("saved", "run-0"),
        ("epoch", 2, 2, {"loss": 0.5}),
    ]


LOST = 'fails("gloo/ closed", True)'
"""What a process tells that fails because another one did."""


@pytest.mark.parametrize(
    ("one", "other", "why"),
    [
        # The reason is the first one's, not that of those who fail for it, whoever is heard of first.
        (LOST, 'fails("ValueError: no loss", False)', "process 2 of 2: ValueError: no loss"),
        (LOST, "os.kill(os.getpid(), signal.SIGKILL)", "process 2 of 2: killed by signal SIGKILL"),
        ('fails("OutOfMemoryError: full", False)', "os.abort()", "process 1 of 2: OutOfMemoryError: full"),
        ("time.sleep(60)", "sys.exit(7)", "process 2 of 2: exit code 7"),
    ],
)
def test_one_that_fails_ends_all_and_its_reason_is_told(
    fit: Callable[..., list[Any]], one: str, other: str, why: str
) -> None:
    began = time.monotonic()
    with pytest.raises(RuntimeError, match=f"^{why}$"):
        fit(f"{other} if rank else {one}")
    assert time.monotonic() - began < 20


def test_one_whose_starter_is_killed_ends_too(tmp_path: Path) -> None:
    waits = "train_rank.end_with_parent()\nprint(os.getpid(), flush=True)\ntime.sleep(60)"
    (tmp_path / "scripted.py").write_text(SCRIPTED + waits)
    code = f"""
from pathlib import Path
from detection_assets.domain.world import World
from detection_assets.programs import train_together as together
from detection_assets.programs.train_ultralytics import Hooks
together.PROGRAM = "scripted"
meeting = together.Meeting(together.Crew(World(), ("cpu", "cpu")))
together.fit(meeting, {{}}, data=Path("."), run=Path({str(tmp_path)!r}), resume=None, hooks=Hooks(print, print, print))
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    with subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pids = [int(starter.stdout.readline()) for _ in range(2)]
        starter.kill()
    ends = time.monotonic() + 10
    while any(map(alive, pids)):
        assert time.monotonic() < ends
        time.sleep(0.1)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def worlds() -> tuple[World, World]:
    where = f"localhost:{free_port()}"
    return World(2, 0, where), World(2, 1, where)


def both(run: Callable[..., Any], first: Sequence[Any], second: Sequence[Any]) -> list[Any]:
    """What came of a call on each of two instances: what it returned, or what it raised."""
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(run, *given) for given in (first, second)]
        return [one.exception(timeout=60) or one.result() for one in asked]


def test_what_fails_on_one_instance_is_the_reason_on_the_other(fit: Callable[..., list[Any]]) -> None:
    one, other = worlds()
    does = f'fails("ValueError: no loss", False) if rank == 2 else {LOST}'
    here, there = both(fit, (does, one), (does, other))
    assert str(there) == "process 3 of 4: ValueError: no loss"
    assert str(here) == f"instance 2: {there}"


def test_the_others_end_when_the_first_instance_is_gone(fit: Callable[..., list[Any]]) -> None:
    one, other = worlds()
    code = """
import os, time
from detection_assets.domain.world import World
from detection_assets.programs import train_together as together
together.Meeting(together.Crew(World.of(os.environ), ("cpu",))).agree({"go": True})
print("met", flush=True)
time.sleep(60)
"""
    env = {**os.environ, **one.settings}
    with (
        subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True) as first,
        ThreadPoolExecutor(1) as pool,
    ):
        asked = pool.submit(fit, "time.sleep(60)", other, 1)
        assert first.stdout is not None
        assert first.stdout.readline() == "met\n"
        first.kill()
        assert str(asked.exception(timeout=30)).startswith("instance 1 is gone")


def test_an_instance_without_the_same_data_is_found_before_anything_is_trained() -> None:
    def agree(world: World, task: dict[str, Any]) -> Any:
        return together.Meeting(together.Crew(world, ("cpu",))).agree(task)

    one, other = worlds()
    mine = {"go": True, "images": {"train": 16}}
    here, there = both(agree, (one, mine), (other, {"go": True, "images": {"train": 15}}))
    assert str(there) == "not as on the first instance: images: {'train': 15} here, {'train': 16} there"
    assert str(here) == f"instance 2: {there}"
    one, other = worlds()
    here, there = both(agree, (one, {**mine, "go": False}), (other, mine))
    assert here == there == {**mine, "go": False}, "what is to be done is the first one's to know"


def test_the_others_wait_for_the_first_and_it_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "MEET_S", 1.0)
    one, other = worlds()
    with pytest.raises(RuntimeError, match=f"{one.first}, was not found"):
        together.Meeting(together.Crew(other, ("cpu",)))
    with pytest.raises(RuntimeError, match="not all instances have come within 1 s"):
        together.Meeting(together.Crew(one, ("cpu",))).agree({"go": True})
    with socket.socket() as taken:
        taken.bind(("", int(one.first.rpartition(":")[2])))
        taken.listen()
        with pytest.raises(InputError, match="let the instances meet at another"):
            together.Meeting(together.Crew(one, ("cpu",)))


# One training ---------------------------------------------------------------------------------------------------------

WATCHED = '''
"""The trainer's process, watched: what it has learnt from, and what it knows at the end."""
import hashlib, json, os
from pathlib import Path
from detection_assets.programs import train_rank, train_ultralytics as ultralytics

def watched(prepare):
    def prepared(config):
        prepare(config)
        from ultralytics.models.yolo.detect import DetectionTrainer
        train, take, judge = DetectionTrainer.train, DetectionTrainer.preprocess_batch, DetectionTrainer.validate
        seen, spoiled = [], []

        def judged(self):
            if self.epoch == 1 and "SPOILED" in os.environ and not spoiled:
                spoiled.append(True)
                self.loss = self.loss * float("nan")
            return judge(self)

        def taken(self, batch):
            seen.extend(Path(file).name for file in batch["im_file"])
            return take(self, batch)

        def trained(self):
            train(self)
            digest = hashlib.sha256()
            for value in self.model.parameters():
                digest.update(value.detach().numpy().tobytes())
            told = {"seen": seen, "knows": digest.hexdigest(), "from": self.start_epoch}
            Path(os.environ["WATCHED"], f"{os.environ['RANK']}.json").write_text(json.dumps(told))

        DetectionTrainer.train, DetectionTrainer.preprocess_batch, DetectionTrainer.validate = trained, taken, judged
    return prepared

ultralytics.prepare = watched(ultralytics.prepare)
train_rank.main()
'''
PROGRAM = """
from detection_assets.programs import train, train_together
from detection_assets.programs.job import main
train_together.PROGRAM = "watched"
main(train.run, None)
"""


def start(
    folder: Path, output: str, device: str, epochs: int, told: Mapping[str, str] | None = None, **more: Any
) -> subprocess.Popen[str]:
    """Starts the program over a tiny dataset; its own processes write down what they learn from."""
    (folder / output).mkdir()
    (folder / "watched.py").write_text(WATCHED)
    # No mosaic: then what a process has seen is what it was given.
    training = {"imgsz": 64, "epochs": epochs, "batch": 8, "extra": {"mosaic": 0.0}}
    params = folder / f"{output}.json"
    params.write_text(json.dumps({"classes": CLASSES, "training": training, "device": device, **more}))
    words = ["--output", folder / output, "--params", params, "--checkpoint", folder / f"checkpoint-{device}"]
    words += [word for name in ("dataset", "frames") for word in ("--input", f"{name}={folder / name}")]
    env = {
        **os.environ, "OMP_NUM_THREADS": "1", "WATCHED": str(folder / output),
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), **(told or {}),
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, words)],
        env=env, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def until(process: subprocess.Popen[str], does: Callable[[str], bool]) -> str:
    """Reads what a program tells until a line of it does."""
    told: list[str] = []
    for line in process.stderr or ():
        told.append(line)
        if does(line):
            break
    return "".join(told)


def watched(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("[0-9].json"))]


def are_one_training(folder: Path, epochs: int) -> list[dict[str, Any]]:
    """What two processes have learnt from, once it is seen that they have learnt together."""
    here, there = watched(folder)
    assert here["knows"] == there["knows"], "what one has learnt the other knows"
    assert len(here["seen"]) == len(there["seen"]) == 8 * epochs, "each has its half"
    for first in range(0, 8 * epochs, 8):
        mine, its = (set(one["seen"][first : first + 8]) for one in (here, there))
        assert len(mine) == len(its) == 8
        assert not mine & its, "no picture is learnt from twice in an epoch"
    return [here, there]


@pytest.mark.slow
@pytest.mark.long
def test_two_processes_are_one_training(tmp_path: Path) -> None:
    snapshot(tmp_path)
    process = start(tmp_path, "out", "cpu,cpu", 2, trial=True)
    text = process.communicate(timeout=240)[1]
    assert process.returncode == 0, text
    assert [item["epoch"] for item in reports(text) if item["kind"] == "epoch"] == [1, 2], "the first speaks for both"
    are_one_training(tmp_path / "out", 2)
    assert json.loads((tmp_path / "out" / "trial" / "trial.json").read_text())["epochs_run"] == 2


@pytest.mark.long
def test_two_processes_are_stopped_together_and_go_on_together(tmp_path: Path) -> None:
    snapshot(tmp_path)
    first = start(tmp_path, "stopped", "cpu,cpu", 3)
    told = until(first, lambda line: '"kind": "epoch"' in line)
    first.terminate()
    told += first.communicate(timeout=60)[1]
    assert first.returncode == 128 + signal.SIGTERM, told
    assert not list(tmp_path.glob("stopped/*")), "what is stopped has no output"
    second = start(tmp_path, "out", "cpu,cpu", 3)
    text = second.communicate(timeout=240)[1]
    assert second.returncode == 0, text
    (done,) = [item["epoch"] for item in reports(text) if item["kind"] == "resumed"]
    assert [item["epoch"] for item in reports(text) if item["kind"] == "epoch"] == list(range(done + 1, 4))
    assert [one["from"] for one in are_one_training(tmp_path / "out", 3 - done)] == [done, done]
    results = pd.read_csv(tmp_path / "out" / "weights" / "results.csv")
    assert results["epoch"].tolist() == [1, 2, 3], "no epoch is lost or doubled"
    assert {path.name for path in (tmp_path / "out" / "weights").iterdir()} >= {"best.pt", "best.onnx", "training.json"}


@pytest.mark.long
def test_two_processes_come_to_what_one_comes_to(tmp_path: Path) -> None:
    snapshot(tmp_path, train=32, val=8)
    reached: dict[str, dict[str, Any]] = {}
    for device in ("cpu", "cpu,cpu"):
        process = start(tmp_path, f"out-{device}", device, 40)
        text = process.communicate(timeout=280)[1]
        assert process.returncode == 0, text
        weights = tmp_path / f"out-{device}" / "weights"
        reached[device] = json.loads((weights / "training.json").read_text())
        results = pd.read_csv(weights / "results.csv")
        assert results["epoch"].tolist() == list(range(1, 41))
        losses = results[["val/box_loss", "val/cls_loss", "val/dfl_loss"]].sum(axis=1)
        assert losses.iloc[-1] < 0.8 * losses.max()
        assert reached[device]["agreement"]["agrees"]
    alone, both = reached["cpu"], reached["cpu,cpu"]
    assert (alone["processes"], both["processes"]) == (1, 2)
    assert alone["settings"] == both["settings"]
    assert both["metrics"]["map50"] == pytest.approx(alone["metrics"]["map50"], abs=0.2)
    assert both["metrics"]["map50"] > 0.5


@pytest.mark.long
def test_instances_go_back_together_when_the_loss_is_lost(tmp_path: Path) -> None:
    snapshot(tmp_path)
    there = str(tmp_path)
    begun = [
        start(
            tmp_path,
            f"out-{world.instance}",
            "cpu",
            3,
            {**world.settings, "SPOILED": "1", "WATCHED": there},
            trial=True,
        )
        for world in worlds()
    ]
    texts = [process.communicate(timeout=280)[1] for process in begun]
    assert [process.returncode for process in begun] == [0, 0], "".join(texts)
    assert [item["epoch"] for item in reports(texts[0]) if item["kind"] == "epoch"] == [1, 2, 3]
    assert not reports(texts[1]), "the first speaks for both"
    one, other = watched(tmp_path)
    assert len(one["seen"]) == len(other["seen"]) == 4 * 8, "the epoch without a loss is learnt again"
    assert one["knows"] == other["knows"]
    assert (tmp_path / "out-0" / "trial" / "trial.json").exists()
    assert not list((tmp_path / "out-1").iterdir())


@pytest.mark.long
def test_a_process_that_is_killed_ends_the_training_with_its_reason(tmp_path: Path) -> None:
    snapshot(tmp_path)
    process = start(tmp_path, "out", "cpu,cpu", 30, trial=True)
    until(process, lambda line: '"kind": "epoch"' in line)
    (victim,) = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if "rank-1.json" in readable(path) and f"PPid:\t{process.pid}\n" in readable(path.with_name("status"))
    ]
    began = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    text = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert text.rstrip().endswith("RuntimeError: process 2 of 2: killed by signal SIGKILL")
    assert time.monotonic() - began < 15


def readable(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""

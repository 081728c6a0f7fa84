"""Work that is divided: several jobs side by side, each with its own part of the inputs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from contract.a_training import ROOT, until
from contract.in_a_run import in_a_run
from dagster._core.errors import DagsterExecutionInterruptedError
from fakes import sagemaker

from resources.compute import managed
from resources.compute.base import Input, Step, StepFailed

PLATFORMS = ["aws"]
PROGRAM = '''
"""Copies what it was given, after a while."""
import time
from detection_assets.programs.job import main

def run(job):
    (file,) = job.inputs["videos"].iterdir()
    time.sleep(job.params["pause"])
    if file.name == job.params["bad"]:
        raise RuntimeError(f"{file.name} is no video")
    job.report({"file": file.name})
    (job.output / file.stem).mkdir()
    (job.output / file.stem / "copy").write_bytes(file.read_bytes())

if __name__ == "__main__":
    main(run, __doc__)
'''
WORKER = """
import dagster as dg
from contract.in_a_run import in_a_run
from contract.test_compute_abreast import part
from resources import profiles
from resources.compute import managed
managed.PROGRAMS = "scripted"
with dg.build_resources(profiles.PROFILES["aws"]("tiny", host="127.0.0.1", port=0)) as opened:
    in_a_run(lambda context: opened.compute.run_all(context, [part(name, pause=2) for name in "ab"]))
"""


def part(name: str, pause: float = 0, bad: str = "") -> Step:
    return Step(
        program="extract",
        version=name * 16,
        inputs={"videos": Input("videos", [f"{name}.mp4"])},
        outputs={name: f"frames/{name}"},
        params={"pause": pause, "bad": bad},
        hardware="cpu",
    )


@pytest.fixture
def service(sagemaker_service: sagemaker.SageMaker) -> sagemaker.SageMaker:
    sagemaker_service.jobs.clear()
    sagemaker_service.calls.clear()
    return sagemaker_service


@pytest.fixture(autouse=True)
def compute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: Any, service: sagemaker.SageMaker) -> Any:
    """Two jobs side by side, of a program that the containers find, over three videos."""
    package = tmp_path / "scripted"
    package.mkdir()
    (package / "extract.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "tests")]))
    monkeypatch.setenv("DETECTION_AWS_PROCESSING_INSTANCES", "2")
    monkeypatch.setattr(managed, "PROGRAMS", "scripted")
    for name in "abc":
        platform.storage.put(f"videos/{name}.mp4", name.encode())
    return platform.compute.model_copy(update={"jobs": 2})


def run(compute: Any, *steps: Step) -> Any:
    return in_a_run(lambda context: compute.run_all(context, steps))


def test_each_part_is_a_job_with_its_own_inputs_and_two_run_at_once(
    platform: Any, compute: Any, service: sagemaker.SageMaker
) -> None:
    parts = [part("a", pause=5), part("b", pause=2), part("c")]
    results = run(compute, *parts)
    assert [result.reports for result in results] == [[{"file": f"{name}.mp4"}] for name in "abc"]
    for name, result in zip("abc", results, strict=True):
        assert platform.storage.get(result.outputs[name].key("copy")) == name.encode()
    first, second, third = service.jobs.values()
    assert second.began < first.ended, "side by side"
    assert third.began >= min(first.ended, second.ended), "as many as there are places"
    assert {job.asked["ProcessingResources"]["ClusterConfig"]["InstanceCount"] for job in service.jobs.values()} == {1}
    assert all(result.reused for result in run(compute, *parts))
    assert len(service.jobs) == 3


def test_a_part_that_fails_takes_none_along_that_runs_beside_it(
    platform: Any, compute: Any, service: sagemaker.SageMaker
) -> None:
    with pytest.raises(StepFailed, match=r"a\.mp4 is no video"):
        run(compute, part("a", bad="a.mp4"), part("b", pause=3), part("c"))
    assert platform.storage.published("frames/b")
    assert len(service.jobs) == 2, "none is begun after one that failed"
    with pytest.raises(StepFailed, match=r"(?s)2 of 2 steps failed.*a\.mp4 is no video.*c\.mp4 is no video"):
        run(compute, part("a", bad="a.mp4"), part("c", bad="c.mp4"))


def test_a_run_that_is_cancelled_stops_all_its_jobs(platform: Any, compute: Any, service: sagemaker.SageMaker) -> None:
    def interrupted(context: Any) -> None:
        def cancel(_: Any) -> None:
            raise DagsterExecutionInterruptedError

        compute.run_all(context, [part("a", pause=1), part("b", pause=60)], cancel)

    with pytest.raises(BaseException) as raised:  # noqa: PT011 - as Dagster wraps it
        in_a_run(interrupted)
    assert not isinstance(raised.value, AssertionError)
    (slow,) = [job for job in service.jobs.values() if "b" * 16 in str(job.asked)]
    assert slow.status == "Stopped"
    assert all(job.status != "InProgress" for job in service.jobs.values())
    assert platform.storage.published("frames/b") is None


def test_a_run_that_is_killed_finds_all_its_jobs(platform: Any, compute: Any, service: sagemaker.SageMaker) -> None:
    worker = subprocess.Popen([sys.executable, "-c", WORKER], env=os.environ.copy(), cwd=ROOT)
    try:
        until(lambda: len(service.jobs) == 2, "both are begun")
    finally:
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
    results = run(compute, part("a", pause=2), part("b", pause=2))
    assert service.calls.count("CreateProcessingJob") == 2
    assert {result.outputs[name].notes["job"] for name, result in zip("ab", results, strict=True)} == set(service.jobs)


def test_what_runs_beside_the_run_is_not_divided(compute: Any) -> None:
    assert compute.places("cpu") == 2
    assert compute.places("here") == 1

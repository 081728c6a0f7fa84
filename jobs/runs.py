"""Runs of a detector that are not over, and those that only look so because their process was killed."""

import os
import socket
from collections.abc import Iterable

import dagster as dg
from dagster import DagsterInstance, DagsterRunStatus

from resources import temporary

PROCESS = "detection/process"
"""Tag of a run that runs inside a process of ours: host and process id, so that a killed one is recognised."""
WAITING = (DagsterRunStatus.QUEUED, DagsterRunStatus.NOT_STARTED)
RUNNING = (DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING)


def here() -> dict[str, str]:
    """The tag of a run that runs in this process."""
    return {PROCESS: f"{socket.gethostname()}/{os.getpid()}"}


def under_way(instance: DagsterInstance, detector: str, jobs: Iterable[str], beside: str = "") -> bool:
    """Whether a run of one of these jobs goes on or waits to.

    Args:
        instance: The Dagster instance.
        detector: The detector's name.
        jobs: The jobs' names, without the detector's.
        beside: A run that does not count, or "".
    """
    wanted = {f"{detector}_{job}" for job in jobs}
    found = instance.get_runs(_of(detector, *WAITING, *RUNNING))
    return any(run.job_name in wanted and run.run_id != beside for run in found)


def goes_on(instance: DagsterInstance, detector: str) -> str | None:
    """The id of a run of a detector that goes on or waits to, also of one that was started in the UI; or None."""
    for run in instance.get_runs(dg.RunsFilter(statuses=[*WAITING, *RUNNING])):
        selected = {key.path[0] for key in run.asset_selection or ()}
        if run.tags.get("detection/detector") == detector or detector in selected:
            return run.run_id
    return None


def close_dead(instance: DagsterInstance, detector: str) -> int:
    """Marks runs as failed whose process on this machine is gone; returns how many."""
    closed = 0
    this = socket.gethostname()
    for run in instance.get_runs(_of(detector, *RUNNING)):
        host, _, pid = run.tags.get(PROCESS, "").partition("/")
        if host == this and pid.isdigit() and not temporary.lives(int(pid)):
            instance.report_run_failed(run, "The process that ran it was killed.")
            closed += 1
    return closed


def _of(detector: str, *statuses: DagsterRunStatus) -> dg.RunsFilter:
    return dg.RunsFilter(statuses=list(statuses), tags={"detection/detector": detector})

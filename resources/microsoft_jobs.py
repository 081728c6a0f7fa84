"""What Azure ML tells of its jobs, of whatever kind, in the words of `resources.compute.managed`."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from resources import microsoft
from resources.compute.managed import JobState
from resources.microsoft import Workspace

PHASES: Mapping[str, Any] = {"Completed": "done", "Failed": "failed", "NotResponding": "failed", "Canceled": "stopped"}
"""What has ended, by Azure ML's word for it; everything else goes on."""


def phase(status: str) -> Any:
    """Azure ML's word for how a job is, as `JobState` has it."""
    return PHASES.get(status, "running")


def state(status: str, about: Mapping[str, Any], cluster: Mapping[str, Any], count: int = 1) -> JobState:
    """How a job is.

    Args:
        status: Azure ML's word for it.
        about: What the run history tells of it, as far as it is known.
        cluster: What runs it, as far as it is known; a job that waits says why it has no machines.
        count: How many machines it has.
    """
    size, found = str(cluster.get("vmSize", "")), phase(status)
    detail = ": ".join([status, *shortages(cluster)][:2]) if found == "running" else status
    return JobState(
        found,
        detail,
        why(about.get("error"), size),
        f"{count} x {size}" if size and count > 1 else size,
        duration(about),
    )


def shortages(cluster: Mapping[str, Any]) -> list[str]:
    """Why a cluster has no machines."""
    return [why(item, str(cluster.get("vmSize", ""))) for item in cluster.get("errors") or ()]


def why(item: Mapping[str, Any] | None, size: str) -> str:
    """An error of a cluster's or of a run's, with its remedy; "" if there is none."""
    error = (item or {}).get("error") or {}
    code = str(error.get("code") or "")
    remedy = microsoft.help_for(code, size)
    said = f"{code}: {error.get('message', '')}" if code else ""
    return f"{said} ({remedy})" if remedy else said


def duration(about: Mapping[str, Any]) -> float | None:
    """Seconds from a job's first command to its end."""
    from datetime import datetime

    began, ended = about.get("startTimeUtc"), about.get("endTimeUtc")
    if not began or not ended:
        return None
    moments = [datetime.fromisoformat(re.sub(r"\.\d+", "", text).replace("Z", "+00:00")) for text in (began, ended)]
    return max(0.0, (moments[1] - moments[0]).total_seconds())


def cancel(ml: Workspace, name: str) -> str:
    """Asks Azure ML to cancel a job; returns why it does not, which may be that the job has ended."""
    from azure.core.exceptions import AzureError

    try:
        ml.client.jobs.begin_cancel(name, polling=False)
    except AzureError as error:
        return microsoft.refusal(error)
    return ""


def logged(ml: Workspace, name: str, wanted: re.Pattern[str], cursor: Any) -> tuple[Sequence[str], Any]:
    """The whole lines that a job has printed since, and where to go on.

    Args:
        ml: The workspace.
        name: The job's.
        wanted: Which of its files are of interest.
        cursor: The bytes of each file that were read; None at first.
    """
    from azure.core.exceptions import AzureError

    read: dict[str, int] = dict(cursor or {})
    lines: list[str] = []
    try:
        files = ml.run(name).get("logFiles") or {}
        for file in sorted(file for file in files if wanted.search(file)):
            first = read.get(file, 0)
            data = _from(files[file], first)
            if data is None:  # it is shorter than it was: another machine has begun it again
                read[file] = 0
                continue
            whole = data[: data.rfind(b"\n") + 1]
            lines += whole.decode(errors="replace").splitlines()
            read[file] = first + len(whole)
    except (AzureError, urllib.error.URLError):
        pass  # later is soon enough
    return lines, read


def _from(url: str, first: int) -> bytes | None:
    """A file's bytes from one on; None if it has fewer than that."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={max(0, first - 1)}-"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            data = answer.read()
    except urllib.error.HTTPError as error:
        if error.code == 416:
            return None if first else b""
        raise
    return data[1:] if first else data

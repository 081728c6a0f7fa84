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
PRICES: Mapping[str, float] = {
    **{"Standard_DS3_v2": 0.293, "Standard_DS4_v2": 0.585, "Standard_DS11_v2": 0.185, "Standard_DS12_v2": 0.371},
    **{"Standard_D4s_v3": 0.192, "Standard_D8s_v3": 0.384, "Standard_D4ds_v5": 0.226, "Standard_D8ds_v5": 0.452},
    **{"Standard_F4s_v2": 0.169, "Standard_F8s_v2": 0.338, "Standard_F16s_v2": 0.677, "Standard_E4s_v3": 0.252},
    **{"Standard_NC4as_T4_v3": 0.526, "Standard_NC8as_T4_v3": 0.752, "Standard_NC16as_T4_v3": 1.204},
    **{"Standard_NC6s_v3": 3.06, "Standard_NC12s_v3": 6.12, "Standard_NC24ads_A100_v4": 3.673},
    **{"Standard_NC40ads_H100_v5": 6.98, "Standard_ND96asr_v4": 27.197},
}
"""US dollars an hour, dedicated, in East US: an estimate elsewhere, and an upper bound for low priority."""


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
    # Azure ML writes seven digits, and Python reads six.
    texts = [re.sub(r"\.(\d+)", lambda found: f".{found[1][:6]:0<6}", text) for text in (began, ended)]
    moments = [datetime.fromisoformat(text.replace("Z", "+00:00")) for text in texts]
    return max(0.0, (moments[1] - moments[0]).total_seconds())


def cancel(ml: Workspace, name: str) -> str:
    """Asks Azure ML to cancel a job; returns why it does not, which may be that the job has ended."""
    from azure.core.exceptions import AzureError

    try:
        ml.client.jobs.begin_cancel(name, polling=False)
    except AzureError as error:
        return microsoft.refusal(error)
    return ""


def logged(
    ml: Workspace, name: str, wanted: re.Pattern[str], cursor: Any, *, several: bool = False
) -> tuple[Sequence[str], Any]:
    """The whole lines that a job has printed since, and where to go on.

    Args:
        ml: The workspace.
        name: The job's.
        wanted: Which of its files are of interest.
        cursor: The bytes of each file that were read; None at first.
        several: Whether there are several instances: then each line begins with the number of its own, which is the
            first group of what is wanted.
    """
    from azure.core.exceptions import AzureError

    read: dict[str, int] = dict(cursor or {})
    lines: list[str] = []
    try:
        files = ml.run(name).get("logFiles") or {}
        for file in sorted(files):
            found = wanted.search(file)
            if found is None:
                continue
            first = read.get(file, 0)
            data = _from(files[file], first)
            if data is None:  # it is shorter than it was: another machine has begun it again
                read[file] = 0
                continue
            whole = data[: data.rfind(b"\n") + 1]
            host = f"instance {int(found[1] or 0)}: " if several else ""
            lines += [host + line for line in whole.decode(errors="replace").splitlines()]
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

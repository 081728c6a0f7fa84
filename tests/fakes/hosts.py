"""The instances of a training job on this machine: what each is told of the others, and how they end together.

Names of hosts mean something in SageMaker's network only, and not at once. Here a `sitecustomize` that only these
containers have on their path gives them their meaning, after a moment, for whatever Python looks up.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from project import free_port

UNKNOWN_S = 0.5
"""Seconds after its start for which a container does not know the others' names."""
NAMES = """
import os, socket, time

known, since = set(os.environ["STAND_IN_HOSTS"].split(",")), float(os.environ["STAND_IN_HOSTS_SINCE"])
ask = socket.getaddrinfo

def answer(host, *args, **named):
    if host in known:
        if time.time() < since:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        host = "127.0.0.1"
    return ask(host, *args, **named)

socket.getaddrinfo = answer
"""


@dataclass
class Host:
    """One instance.

    Attributes:
        name: As SageMaker calls it.
        folder: Its /opt/ml.
    """

    name: str
    folder: Path
    process: subprocess.Popen[str] | None = None
    told_to_end: bool = False
    code: int | None = None


def hosts_of(folder: Path, count: int) -> list[Host]:
    """The instances of a job; the first has the job's own folder."""
    names = [f"algo-{number + 1}" for number in range(count)]
    return [Host(name, folder if name == names[0] else folder.with_name(f"{folder.name}@{name}")) for name in names]


def told_to(host: Host, hosts: Sequence[Host], instance: str) -> None:
    """Writes what SageMaker says of the instances into a container."""
    config = host.folder / "input" / "config" / "resourceconfig.json"
    config.parent.mkdir(parents=True, exist_ok=True)
    names = [one.name for one in hosts]
    group = {"instance_group_name": "homogeneousCluster", "instance_type": instance, "hosts": names}
    config.write_text(
        json.dumps(
            {
                "current_host": host.name,
                "current_instance_type": instance,
                "current_group_name": group["instance_group_name"],
                "hosts": names,
                "instance_groups": [group],
                "network_interface_name": "lo",
            }
        )
    )


def environment(hosts: Sequence[Host], given: Mapping[str, str]) -> dict[str, str]:
    """What containers of this machine are told so that they find each other, and keep out of other jobs' way."""
    if len(hosts) == 1:
        return {}
    names = hosts[0].folder.with_name(f"{hosts[0].folder.name}@names")
    names.mkdir(parents=True, exist_ok=True)
    (names / "sitecustomize.py").write_text(NAMES)
    return {
        "PYTHONPATH": os.pathsep.join([str(names), *filter(None, [given.get("PYTHONPATH")])]),
        "STAND_IN_HOSTS": ",".join(host.name for host in hosts),
        "STAND_IN_HOSTS_SINCE": str(time.time() + UNKNOWN_S),
        "DETECTION_JOB_PORT": str(free_port()),
    }


def run_all(hosts: Sequence[Host], run: Callable[[Host], int], end: Callable[[Host], Any]) -> Host:
    """Runs all containers until all have ended; when one fails the others are ended.

    Returns:
        The one that failed first, or else the first.
    """
    failed: list[Host] = []
    problems: list[Exception] = []

    def one(host: Host) -> None:
        try:
            host.code = run(host)
        except Exception as error:
            problems.append(error)
            host.code = 1
        if host.code:
            failed.append(host)
            for other in hosts:
                if other.code is None:
                    end(other)

    threads = [threading.Thread(target=one, args=(host,), daemon=True) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    return failed[0] if failed else hosts[0]

"""Endpoints in the foreground, stopping them, and the pages over everything."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from detection_assets import detector_file as detectors
from detection_assets.commands.context import Project
from detection_assets.domain.problems import InputError
from resources.endpoints.base import Endpoints
from resources.endpoints.local import LocalEndpoints
from resources.home import home
from resources.instance import dagster_home
from resources.microsoft_tracking import is_azure


def serve(out: Console, name: str) -> None:
    """Replaces this process by the endpoint's server."""
    endpoints = Project.of(name).endpoints
    if not isinstance(endpoints, LocalEndpoints):
        raise InputError(f"{name}: its endpoint is no server of this machine; `detection run {name}` sees to it")
    if not endpoints.state()["slots"]:
        raise InputError(f"{name}: nothing is deployed yet; `detection run {name}` deploys what passes its gates")
    if endpoints.server.pid() is not None:
        raise InputError(f"{name}: answers at {endpoints.url} already; `detection stop {name}` ends that first")
    out.print(f"{name} answers at [bold]{endpoints.url}[/bold]")
    tell_how(out, endpoints)
    (endpoints.home / "pid").write_text(str(os.getpid()))
    command = endpoints.server.command()
    os.execv(command[0], command)


def tell_how(out: Console, endpoints: Endpoints) -> None:
    """Prints how to ask the endpoint, as commands that can be pasted."""
    for line in endpoints.how_to_ask():
        out.print(f"  {line}", markup=False, soft_wrap=True)


def stop(out: Console, name: str | None) -> None:
    """Ends the server of one detector, or of every detector that has one."""
    names = [name] if name else detectors.available(detectors.detectors_folder())
    stopped = 0
    for each in names:
        endpoints = Project.of(each).endpoints
        if endpoints.stop():
            stopped += 1
            out.print(f"stopped {each} at {endpoints.url}")
    if not stopped:
        out.print("no endpoint was running")


def dev(out: Console, port: int, mlflow_port: int) -> int:
    """Runs the Dagster UI with its daemon, and the MLflow pages, until Ctrl-C."""
    dagster_home()
    root = home()
    env = {
        **os.environ,
        "DETECTION_MLFLOW_UI": f"http://127.0.0.1:{mlflow_port}",
        # Workers that judge answers of language models: four processes that nobody here would give anything to do.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # Used knowingly, and pinned: no need to tell a person at each start.
        "PYTHONWARNINGS": "ignore:Parameter `backfill_policy`",
    }
    store = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / '.mlflow' / 'mlflow.db'}"
    (root / ".mlflow").mkdir(exist_ok=True)
    binaries = Path(sys.executable).parent
    commands = [
        [str(binaries / "dagster"), "dev", "-w", str(root / "workspace.yaml"), "-h", "127.0.0.1", "-p", str(port)],
        [
            str(binaries / "mlflow"),
            "ui",
            "--backend-store-uri",
            store,
            "--host",
            "127.0.0.1",
            "--port",
            str(mlflow_port),
        ],
    ]
    pages = f"http://127.0.0.1:{mlflow_port}"
    if is_azure(store):
        del commands[1]
        pages = "at https://ml.azure.com"
    out.print(f"Dagster [bold]http://127.0.0.1:{port}[/bold]   MLflow [bold]{pages}[/bold]")
    # Begun in the background by a script we would ignore Ctrl-C, and so would all that we begin, which ends by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    processes = [subprocess.Popen(command, env=env, cwd=root) for command in commands]
    # `kill` should end what Ctrl-C ends.
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    try:
        while all(process.poll() is None for process in processes):
            time.sleep(0.5)
        return max(process.poll() or 0 for process in processes)
    except KeyboardInterrupt:
        return 0
    finally:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()

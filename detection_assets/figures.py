"""What a trial has reached, told to whoever draws the values of the next: by its log, and by its MLflow run.

A platform that reads the run opens it, and says in the environment where it is, as MLflow's own client expects it. One
request a figure needs no client, which the image therefore lacks.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from detection_assets.domain import tuning
from detection_assets.domain.problems import InputError

TRIES = 3
"""How often a figure is told to a run that does not take it; the next epoch brings another."""
TIMEOUT_S = 30.0


class Figures:
    """Tells the values of a trial once, and then what it reaches.

    Args:
        metric: The metric of the MLflow run that is read; None where the log is.
    """

    def __init__(self, metric: str | None) -> None:
        self._metric, self._last = metric, 0
        self._where = (os.environ.get("MLFLOW_TRACKING_URI", ""), os.environ.get("MLFLOW_RUN_ID", ""))

    def begin(self, values: Mapping[str, str]) -> None:
        """Tells what is tried.

        Args:
            values: As text, by setting.
        """
        if self._metric:
            self._post("log-batch", {"params": [{"key": key, "value": value} for key, value in values.items()]})

    def tell(self, value: float, epoch: int | None = None) -> None:
        """Tells what is reached after an epoch, or at the end."""
        sys.stdout.write(f"{tuning.objective_line(value)}\n")
        sys.stdout.flush()
        self._last = self._last + 1 if epoch is None else epoch
        if self._metric:
            about = {"key": self._metric, "value": value, "timestamp": int(time.time() * 1000), "step": self._last}
            self._post("log-metric", about)

    def _post(self, what: str, about: Mapping[str, Any]) -> None:
        uri, run = self._where
        parts = urlsplit(uri)
        scheme = "http" if parts.scheme == "http" else "https"  # Azure ML writes azureml:
        request = urllib.request.Request(
            f"{scheme}://{parts.netloc}{parts.path}/api/2.0/mlflow/runs/{what}",
            json.dumps({"run_id": run, **about}).encode(),
            {
                "Content-Type": "application/json",
                "Authorization": f"Bearer {os.environ.get('MLFLOW_TRACKING_TOKEN', '')}",
            },
        )
        for attempt in range(1, TRIES + 1):
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT_S):
                    return
            except (OSError, ValueError) as error:
                if attempt == TRIES:
                    # The trial is judged by its messages; who draws the next values just does not learn from it.
                    print(f"launcher: the run at {uri or 'no address'} did not take {what}: {error}", file=sys.stderr)
                    return
                time.sleep(attempt)


def reached(objective: Mapping[str, Any], output: Path) -> float:
    """What a trial has come to, by a file of its output.

    Raises:
        InputError: There is no such figure, or it is not finite.
    """
    file, key = objective["file"], objective["key"]
    try:
        value = float(json.loads((output / file).read_bytes())[key])
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise InputError(f"{file} has no {key}: {problem}") from problem
    if not math.isfinite(value):
        raise InputError(f"{file}: its {key} is {value}")
    return value

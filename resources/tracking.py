"""Experiment tracking with MLflow: one class, whichever server the URI names.

One MLflow run for each Dagster run that trains; `dagster-mlflow` keeps that book. MLflow costs seconds to import, so
nothing here touches it before the first figure is logged, by when a training is already running beside us.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg

# Usage reports are off unless a user turns them on.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


def metric_name(text: str) -> str:
    """A name that MLflow takes: other characters than letters, digits and `_-. /:` become `_`."""
    return re.sub(r"[^\w\-. /:]", "_", text)


@dataclass
class TrackedRun:
    """An MLflow run that is opened when the first thing is logged."""

    tracking: Tracking
    context: dg.AssetExecutionContext
    tags: Mapping[str, str]
    _mlflow: Any = field(default=None, repr=False)
    _run_id: str = ""

    @property
    def mlflow(self) -> Any:
        """dagster-mlflow's view of MLflow, with this run as its active run."""
        if self._mlflow is None:
            self.tracking.close_left_open(self.tags)
            self.tracking.experiment_id()
            from dagster_mlflow.resources import MlFlow

            config = {
                "experiment_name": self.tracking.experiment,
                "mlflow_tracking_uri": self.tracking.uri,
                "env": {},
                "extra_tags": dict(self.tags),
            }
            run = self.context.run
            book = SimpleNamespace(log=self.context.log, dagster_run=run, run_id=run.run_id, resource_config=config)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", dg.BetaWarning)  # used knowingly; pinned in requirements.lock
                self._mlflow = MlFlow(book)
            self._run_id = self._mlflow.active_run().info.run_id
        return self._mlflow

    @property
    def run_id(self) -> str:
        """The run's id; opens the run if nothing was logged yet."""
        _ = self.mlflow
        return self._run_id

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Logs parameters; values are cut at MLflow's limit."""
        self.mlflow.log_params({metric_name(key): str(value)[:500] for key, value in params.items()})

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs figures; ones that are not finite are left out, because MLflow's stores differ on them."""
        import math

        finite = {metric_name(key): float(value) for key, value in metrics.items() if math.isfinite(float(value))}
        if finite:
            self.mlflow.log_metrics(finite, step=step)

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Keeps a file with the run."""
        self.mlflow.log_artifact(str(path), folder)

    def end(self, status: str) -> None:
        """Ends the run, if it was ever opened, and leaves no run active in this process."""
        if self._mlflow is not None:
            self._mlflow.end_run(status)


class Tracking(dg.ConfigurableResource):
    """An MLflow experiment.

    Attributes:
        uri: The tracking server: `sqlite:///...`, `https://...`, or a managed server's ARN.
        experiment: The detector's experiment.
        artifacts: Where the experiment's files go; empty leaves it to the server.
        ui: Address of the MLflow pages, for links; empty for none.
    """

    uri: str
    experiment: str
    artifacts: str = ""
    ui: str = ""

    def client(self) -> Any:
        """An MLflow client for the server."""
        from mlflow.tracking import MlflowClient

        return MlflowClient(self.uri)

    def experiment_id(self) -> str:
        """The experiment's id; it is made if missing."""
        from mlflow.exceptions import MlflowException

        client = self.client()
        found = client.get_experiment_by_name(self.experiment)
        if found:
            return found.experiment_id
        try:
            return client.create_experiment(self.experiment, artifact_location=self.artifacts or None)
        except MlflowException:
            found = client.get_experiment_by_name(self.experiment)  # somebody else was first
            if found is None:
                raise
            return found.experiment_id

    @contextmanager
    def run(self, context: dg.AssetExecutionContext, tags: Mapping[str, str]) -> Iterator[TrackedRun]:
        """An MLflow run that always ends, with the status that fits how the block was left.

        Args:
            context: Of the asset that logs.
            tags: Say what is being done; a run with the same tags that was left open by a killed process is closed.
        """
        tracked = TrackedRun(self, context, tags)
        try:
            yield tracked
        except Exception:
            tracked.end("FAILED")
            raise
        except BaseException:
            tracked.end("KILLED")
            raise
        else:
            tracked.end("FINISHED")

    def find(self, tags: Mapping[str, str], status: str = "FINISHED") -> list[Any]:
        """The experiment's runs with these tags and this status, newest first."""
        query = " and ".join(
            [f"attributes.status = '{status}'", *(f"tags.`{key}` = '{value}'" for key, value in tags.items())]
        )
        return list(self.client().search_runs([self.experiment_id()], query, order_by=["attributes.start_time DESC"]))

    def close_left_open(self, tags: Mapping[str, str]) -> int:
        """Closes the runs with these tags that nobody can be working on any more; returns how many."""
        left = self.find(tags, "RUNNING")
        for run in left:
            self.client().set_terminated(run.info.run_id, "KILLED")
        return len(left)

    def link(self, run_id: str) -> str:
        """The address of a run in the MLflow pages, or a line that opens them."""
        if self.ui:
            return f"{self.ui.rstrip('/')}/#/experiments/{self.experiment_id()}/runs/{run_id}"
        return ""

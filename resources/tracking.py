"""Experiment tracking with MLflow: one class, whichever server the URI names.

One MLflow run for each Dagster run that trains; `dagster-mlflow` keeps that book. MLflow costs seconds to import, so
nothing here touches it before the first figure is logged, by when a training is already running beside us.
"""

from __future__ import annotations

import fcntl
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

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
                "mlflow_tracking_uri": self.tracking.server,
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


PARENT = "mlflow.parentRunId"
"""MLflow's tag that makes a run the child of another."""
CHILD = "child"
"""Our tag with a child's name."""
ENDED = "ended"
"""Our tag of a child that has ended for good: MLflow's status does not tell it from one that was interrupted."""


@dataclass
class TrackedFamily:
    """A run with children, each found again by its name; the runs outlive the Dagster run that began them.

    What is logged under the same tags later, after a kill or by a second call, goes on with the same runs.
    """

    tracking: Tracking
    context: dg.AssetExecutionContext
    tags: Mapping[str, str]
    _client: Any = field(default=None, repr=False)
    _run_id: str = ""
    _children: dict[str, str] = field(default_factory=dict, repr=False)
    _ended: set[str] = field(default_factory=set, repr=False)
    _going: set[str] = field(default_factory=set, repr=False)

    @property
    def client(self) -> Any:
        """An MLflow client, with the family's own run open."""
        if self._client is None:
            self._client = self.tracking.client()
            self._run_id = self._open()
        return self._client

    def _open(self) -> str:
        found = self.tracking.search(self.tags)
        parents = [run for run in found if PARENT not in run.data.tags]
        if not parents:
            return self._create(self.tags)
        parent = parents[-1]
        for run in found:
            if run.data.tags.get(PARENT) == parent.info.run_id:
                self._children[run.data.tags[CHILD]] = run.info.run_id
                if ENDED in run.data.tags:
                    self._ended.add(run.data.tags[CHILD])
        self._client.update_run(parent.info.run_id, status="RUNNING")
        self._client.set_tag(parent.info.run_id, "dagster_run_id", self.context.run.run_id)
        return parent.info.run_id

    def _create(self, tags: Mapping[str, str], name: str | None = None) -> str:
        tags = {**tags, "dagster_run_id": self.context.run.run_id}
        return self._client.create_run(self.tracking.experiment_id(), tags=tags, run_name=name).info.run_id

    @property
    def run_id(self) -> str:
        """The id of the family's own run; opens it if nothing was logged yet."""
        _ = self.client
        return self._run_id

    def ended(self, name: str) -> bool:
        """Whether a child is there and has ended for good."""
        _ = self.client
        return name in self._ended

    def child(self, name: str, params: Mapping[str, Any]) -> str:
        """The id of a child's run, which is made, with its parameters, if it is not there."""
        client = self.client
        if name not in self._children:
            run_id = self._create({**self.tags, PARENT: self._run_id, CHILD: name}, name)
            for key, value in params.items():
                client.log_param(run_id, metric_name(key), str(value)[:500])
            self._children[name] = run_id
        elif name not in self._ended and name not in self._going:
            client.update_run(self._children[name], status="RUNNING")
            client.set_tag(self._children[name], "dagster_run_id", self.context.run.run_id)
        self._going.add(name)
        return self._children[name]

    def log(self, name: str, metric: str, steps: Mapping[int, float]) -> None:
        """Logs those values of a child's metric, by step, that are not there yet."""
        run_id = self._children[name]
        known = {kept.step for kept in self._client.get_metric_history(run_id, metric_name(metric))}
        for step, value in steps.items():
            if step not in known:
                self._client.log_metric(run_id, metric_name(metric), value, step=step)

    def end_child(self, name: str, status: str, tags: Mapping[str, str]) -> None:
        """Ends a child's run with a status and tags that say more."""
        run_id = self._children[name]
        for key, value in tags.items():
            self._client.set_tag(run_id, key, value[:5000])
        self._client.set_terminated(run_id, status)
        self._client.set_tag(run_id, ENDED, status)
        self._ended.add(name)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs figures of the whole family."""
        for key, value in metrics.items():
            self.client.log_metric(self._run_id, metric_name(key), value, step=step)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Logs parameters of the whole family; those that are there stay."""
        known = self.client.get_run(self._run_id).data.params
        for key, value in params.items():
            if metric_name(key) not in known:
                self.client.log_param(self._run_id, metric_name(key), str(value)[:500])

    def end(self, status: str) -> None:
        """Ends the family's run, if it was ever opened; children that are still open can be gone on with."""
        if not self._run_id:
            return
        for name in self._children.keys() - self._ended:
            self._client.set_terminated(self._children[name], "KILLED")
        self._client.set_terminated(self._run_id, status)


Tracked = TypeVar("Tracked", TrackedRun, TrackedFamily)


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

    @property
    def server(self) -> str:
        """The tracking server without user and password: MLflow prints its address, and repeats it in errors.

        MLflow is told of these where it asks for them without printing them, in this process' environment.
        """
        parts = urlsplit(self.uri)
        if parts.scheme not in ("http", "https") or parts.username is None:
            return self.uri
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password or "")
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    def client(self) -> Any:
        """An MLflow client for the server."""
        from mlflow.tracking import MlflowClient

        with self._alone():
            return MlflowClient(self.server)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps others from opening a new database meanwhile: all but one would fail to make its tables."""
        _, here, path = self.uri.partition("sqlite:///")
        if not here:
            yield
            return
        beside = Path(f"{path}.lock")
        beside.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

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
        with _ending(TrackedRun(self, context, tags)) as tracked:
            yield tracked

    @contextmanager
    def family(self, context: dg.AssetExecutionContext, tags: Mapping[str, str]) -> Iterator[TrackedFamily]:
        """A run with children that always ends, and is gone on with when the same is done again.

        Args:
            context: Of the asset that logs.
            tags: Say what is being done; what was logged with the same tags is gone on with.
        """
        with _ending(TrackedFamily(self, context, tags)) as tracked:
            yield tracked

    def find(self, tags: Mapping[str, str], status: str = "FINISHED") -> list[Any]:
        """The experiment's runs with these tags and this status, newest first."""
        return self.search(tags, f"attributes.status = '{status}'")

    def search(self, tags: Mapping[str, str], *conditions: str) -> list[Any]:
        """The experiment's runs with these tags that fulfil MLflow's conditions, newest first."""
        query = " and ".join([*conditions, *(f"tags.`{key}` = '{value}'" for key, value in tags.items())])
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


@contextmanager
def _ending(tracked: Tracked) -> Iterator[Tracked]:
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

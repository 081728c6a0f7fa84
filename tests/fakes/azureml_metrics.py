"""The MLflow run that Azure ML opens for each job: who runs in it logs to it by a token of its own."""

from __future__ import annotations

import re
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fakes.azureml_refusals import Refused
from fakes.azureml_shapes import Answer

if TYPE_CHECKING:
    from fakes.azureml import AzureML

API = "/api/2.0/mlflow/runs"


class Metrics:
    """Parameters and metrics, by the run's id.

    Attributes:
        refused: Whether nothing that is logged is taken.
    """

    def __init__(self, service: AzureML) -> None:
        self._service = service
        self._tokens: dict[str, str] = {}
        self._metrics: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._params: dict[str, dict[str, str]] = defaultdict(dict)
        self.refused = False

    def rows(self) -> Iterator[tuple[str, str, Callable[..., Answer]]]:
        """What is answered: method, path, and by what."""
        below = re.escape(f"/mlflow/v1.0{self._service.root}{API}")
        yield "POST", f"{below}/(log-metric|log-batch)", self._log
        yield "GET", f"{below}/get", self._get

    def environment(self, run: str) -> dict[str, str]:
        """What a job is told of its run."""
        self._tokens.setdefault(run, secrets.token_hex(16))
        return {
            "MLFLOW_TRACKING_URI": f"{self._service.url.replace('https:', 'azureml:')}/mlflow/v1.0{self._service.root}",
            "MLFLOW_TRACKING_TOKEN": self._tokens[run],
            "MLFLOW_RUN_ID": run,
        }

    def figures(self, run: str, key: str) -> list[float]:
        """All that was logged of a metric, in order."""
        return [metric["value"] for metric in list(self._metrics[run]) if metric["key"] == key]

    def _log(self, _: Mapping[str, str], headers: Mapping[str, str], body: Any, what: str) -> Answer:
        run = str(body.get("run_id"))
        if headers.get("Authorization") != f"Bearer {self._tokens.get(run)}" or self.refused:
            raise Refused(401, "UNAUTHENTICATED", "the token is not of this run")
        metrics = [body] if what == "log-metric" else body.get("metrics", [])
        for metric in metrics:
            if not isinstance(metric.get("key"), str) or not isinstance(metric.get("value"), (int, float)):
                raise Refused(400, "INVALID_PARAMETER_VALUE", f"{metric} is no metric")
            self._metrics[run].append({name: metric.get(name) for name in ("key", "value", "step", "timestamp")})
        for param in body.get("params", []):
            if self._params[run].setdefault(param["key"], param["value"]) != param["value"]:
                raise Refused(400, "INVALID_PARAMETER_VALUE", f"{param['key']} was logged with another value")
        return 200, {}, {}

    def _get(self, query: Mapping[str, str], headers: Mapping[str, str], _: Any) -> Answer:
        self._service.known(headers)
        run = query.get("run_id", "")
        if run not in self._tokens:
            raise Refused(404, "RESOURCE_DOES_NOT_EXIST", f"Run {run} was not found")
        last = {metric["key"]: metric for metric in self._metrics[run]}
        params = [{"key": key, "value": value} for key, value in self._params[run].items()]
        data = {"metrics": list(last.values()), "params": params, "tags": []}
        return 200, {"run": {"info": {"run_id": run}, "data": data}}, {}

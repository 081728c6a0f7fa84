"""The MLflow registry, on the same server as the tracking."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from resources.registry.base import ModelVersion, Registry
from resources.tracking import Tracking


class LocalRegistry(Registry):
    """Registered models in MLflow."""

    tracking: dg.ResourceDependency[Tracking]

    def create(self, tags: Mapping[str, str], uri: str, run_id: str) -> ModelVersion:
        """Makes a model version whose source is the published ONNX."""
        from mlflow.exceptions import MlflowException

        client = self.tracking.client()
        try:
            client.get_registered_model(self.model)
        except MlflowException:
            try:
                client.create_registered_model(self.model)
            except MlflowException:
                client.get_registered_model(self.model)  # somebody else was first
        made = client.create_model_version(self.model, source=uri, run_id=run_id or None, tags=dict(tags))
        return self._version(made, {})

    def history(self) -> Sequence[ModelVersion]:
        """All versions, newest first."""
        from mlflow.exceptions import MlflowException

        client = self.tracking.client()
        try:
            aliases = client.get_registered_model(self.model).aliases
        except MlflowException:
            return []
        found = client.search_model_versions(f"name = '{self.model}'")
        return sorted(
            (self._version(item, aliases) for item in found), key=lambda known: int(known.version), reverse=True
        )

    def _version(self, item: Any, aliases: Mapping[str, str]) -> ModelVersion:
        tags = {str(key): str(value) for key, value in item.tags.items()}
        version = str(item.version)
        ui = self.tracking.ui.rstrip("/")
        return ModelVersion(
            name=self.model,
            version=version,
            sha256=tags.get("sha256", ""),
            onnx=tags.get("onnx", ""),
            aliases=[alias for alias, target in aliases.items() if str(target) == version],
            tags=tags,
            link=f"{ui}/#/models/{self.model}/versions/{version}" if ui else "",
        )

    def point(self, alias: str, version: str) -> None:
        """Points an alias at a version."""
        self.tracking.client().set_registered_model_alias(self.model, alias, version)

    def tag(self, version: str, tags: Mapping[str, str]) -> None:
        """Adds tags to a version."""
        client = self.tracking.client()
        for key, value in tags.items():
            client.set_model_version_tag(self.model, version, key, value)

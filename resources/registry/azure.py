"""Models and data assets of Azure ML: a model a detector, a version each registration, a data asset each dataset.

What a version is made from are its properties, which nobody can change. Tags can be changed by whoever may write to
the workspace: the studio's `approval` is how people decide there, so what was decided by command is kept beside it.
"""

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import dagster as dg

from detection_assets.domain import layout, snapshot
from resources import microsoft
from resources.microsoft import Workspace
from resources.registry.base import DataEntry, ModelVersion, Registry, in_parts, summary_of, whole
from resources.storage import LakeError, Published, Storage

CHARS = 1000
"""Characters that the value of a tag or of a property may have."""
APPROVAL, DECIDED = "approval", "approval_decided"
"""The tag that people see and change, and the one that says what was decided by command."""
ALIAS = "alias."
"""How tags begin that are our aliases; their value is since when."""
REGISTRATION = "registration"
"""The property by which a registration knows the version that it made from one that somebody else made meanwhile."""
ATTEMPTS = 5
"""How often a number is asked for that somebody else has taken meanwhile."""
TAKEN = "already exists"
"""What Azure ML says of a version that is there, and that differs in what cannot be changed."""
SAID_ONLY = ("provisioningState",)
"""What is told of a version and is not to be told back."""
NEVER = datetime.min.replace(tzinfo=timezone.utc)
TABLE = ".parquet"
MLTABLE = """\
$schema: https://azuremlschemas.azureedge.net/latest/MLTable.schema.json
type: mltable
paths:
  - file: {file}
transformations:
  - read_parquet:
      include_path_column: false
"""


class AzureRegistry(Registry):
    """Models and data assets of a workspace.

    Attributes:
        subscription: Id of the subscription.
        group: Name of the resource group.
        workspace: Name of the workspace.
        datastore: The workspace's name for the container that the lake is in.
    """

    storage: dg.ResourceDependency[Storage]
    subscription: str
    group: str
    workspace: str
    datastore: str

    @property
    def ml(self) -> Workspace:
        """The workspace."""
        return Workspace(self.subscription, self.group, self.workspace)

    # Models ----------------------------------------------------------------------------------------------------------

    def create(self, tags: Mapping[str, str], uri: str, run_id: str) -> ModelVersion:
        """Makes a version whose file is the published ONNX, as it lies there."""
        from azure.ai.ml.entities import Model
        from azure.core.exceptions import HttpResponseError

        mine = uuid.uuid4().hex
        lineage = {**self._figures(tags), **tags, REGISTRATION: mine, **({"mlflow_run": run_id} if run_id else {})}
        asked: dict[str, Any] = {
            "name": self.model,
            "type": "custom_model",
            "path": microsoft.place(self.datastore, uri),
            "description": f"{self.model}, dataset {tags.get('dataset_version', '')}",
            "properties": {name: text for name, text in in_parts(lineage, CHARS).items() if text},
        }
        with self._asking():
            for _ in range(ATTEMPTS):
                try:
                    # Which number comes next the SDK asks for, and only then for the version of that number.
                    made = self.ml.client.models.create_or_update(Model(**asked))
                except HttpResponseError as error:
                    if TAKEN not in str(error):
                        raise
                    continue
                if (made.properties or {}).get(REGISTRATION) == mine:
                    return self._version(made, {})
        raise LakeError(f"{self.model}: others register versions at the same time; run again")

    def _figures(self, tags: Mapping[str, str]) -> dict[str, str]:
        """What the evaluation says of the model, each figure by its name."""
        found = summary_of(self.storage, tags)
        told = json.loads(self.storage.get(found)).get("challenger", {}) if found else {}
        return {name: f"{value:.6g}" for name, value in told.items() if type(value) in (int, float)}

    def history(self) -> Sequence[ModelVersion]:
        """All versions that were registered here, newest first; archived ones, too, for they have served."""
        found = self._models()
        pointed = {name for model in found for name in _aliases(model)}
        holders = {name: max(found, key=lambda model, name=name: _rank(model, name)).version for name in pointed}
        return [self._version(model, holders) for model in sorted(found, key=_number, reverse=True)]

    def _models(self) -> list[Any]:
        from azure.ai.ml.constants import ListViewType

        with self._asking():
            found = microsoft.there(
                lambda: list(self.ml.client.models.list(self.model, list_view_type=ListViewType.ALL))
            )
        # A name is open to all who may write to the workspace; what they put there themselves is not ours.
        return [model for model in found or () if REGISTRATION in (model.properties or {})]

    def _version(self, model: Any, holders: Mapping[str, str]) -> ModelVersion:
        told = whole(model.tags or {})
        state, decided = told.pop(APPROVAL, ""), told.pop(DECIDED, "")
        said = {name: text for name, text in told.items() if not name.startswith(ALIAS)}
        tags = {**said, **({APPROVAL: decided} if decided else {}), **whole(model.properties or {})}
        return ModelVersion(
            name=self.model,
            version=str(model.version),
            sha256=tags.get("sha256", ""),
            onnx=tags.get("onnx", ""),
            aliases=sorted(alias for alias, version in holders.items() if version == model.version),
            tags=tags,
            link=self.ml.page_of(f"model/{self.model}:{model.version}"),
        ).heard(state.strip().lower())

    def point(self, alias: str, version: str) -> None:
        """Points an alias at a version.

        Who dies before the alias is taken from the others leaves two that have it: the one that got it last counts.
        """
        found = self._models()
        others = [model for model in found if alias in _aliases(model) and model.version != version]
        later = max((_since(model, alias) for model in others), default=NEVER) + timedelta(microseconds=1)
        now = max(datetime.now(timezone.utc), later).isoformat(timespec="microseconds")
        if others or not any(alias in _aliases(model) for model in found):
            self._change(version, {ALIAS + alias: now}, ())
        for model in others:
            self._change(model.version, {}, [ALIAS + alias])

    def tag(self, version: str, tags: Mapping[str, str]) -> None:
        """Adds tags to a version; what says that it is approved or not is what people see in the studio, too."""
        self._change(version, {**tags, **({DECIDED: tags[APPROVAL]} if APPROVAL in tags else {})}, ())

    def _change(self, version: str, tags: Mapping[str, str], gone: Sequence[str]) -> None:
        # All tags are written at once. They are read right before: whatever somebody else writes in between is lost.
        # By hand: the SDK would bring back what somebody has archived.
        below = f"models/{self.model}/versions/{version}"
        with self._asking():
            told = self.ml.get(below)["properties"]
            about = {name: value for name, value in told.items() if value is not None and name not in SAID_ONLY}
            kept = {name: text for name, text in whole(about.get("tags") or {}).items() if name not in gone}
            self.ml.put(below, {"properties": {**about, "tags": in_parts({**kept, **tags}, CHARS)}})

    # Data assets -----------------------------------------------------------------------------------------------------

    def keep_dataset(self, version: str, published: Published, about: Mapping[str, str]) -> Sequence[DataEntry]:
        """Enters a dataset as a folder, and each of its tables as one that studio and notebooks read as a table."""
        folder = self.ml.place(self.datastore, self.storage.uri_of(published.folder))
        entries = [self._entry("dataset", version, {"dataType": "uri_folder", "dataUri": f"{folder}/"}, about)]
        for table in sorted(snapshot.TABLES):
            text = MLTABLE.format(file=json.dumps(f"{folder}/{table}")).encode()
            name = table.removesuffix(TABLE)
            # Its content is in its place, so whoever finds something there finds this.
            key = layout.catalogue(version, name, hashlib.sha256(text).hexdigest()[:12])
            self.storage.put_if_absent(f"{key}/MLTable", text)
            place = f"{self.ml.place(self.datastore, self.storage.uri_of(key))}/"
            kind = {"dataType": "mltable", "dataUri": place, "referencedUris": [f"{folder}/{table}"]}
            entries.append(self._entry(name, version, kind, about))
        return entries

    def _entry(self, what: str, version: str, kind: Mapping[str, Any], about: Mapping[str, str]) -> DataEntry:
        name = f"{self.model}-{what}"
        described = {"description": f"{self.model}, {what} {version}", "tags": dict(about)}
        with self._asking():
            place = self.ml.enter(name, version, {**kind, **described})
        return DataEntry(f"{name}:{version}", place, self.ml.page_of(f"data/{name}/{version}"))

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Says in words of ours what Azure ML refuses, and what is to be done about it."""
        from azure.ai.ml.exceptions import MlException
        from azure.core.exceptions import AzureError

        try:
            yield
        except (AzureError, MlException) as error:
            raise LakeError(f"{self.model}: Azure ML refuses it: {microsoft.refusal(error)}") from error


def _number(model: Any) -> int:
    """A version's number; 0 of one that somebody has named otherwise."""
    return int(model.version) if str(model.version).isdecimal() else 0


def _aliases(model: Any) -> Sequence[str]:
    return [name.removeprefix(ALIAS) for name in model.tags or {} if name.startswith(ALIAS)]


def _since(model: Any, alias: str) -> datetime:
    """Since when a version has an alias; `NEVER` if it has not, or if somebody has written something else there."""
    try:
        moment = datetime.fromisoformat((model.tags or {}).get(ALIAS + alias, ""))
    except ValueError:
        return NEVER
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _rank(model: Any, alias: str) -> tuple[bool, datetime, int]:
    return alias in _aliases(model), _since(model, alias), _number(model)

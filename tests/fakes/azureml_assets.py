"""Versions of environments, data and models in the stand-in of an Azure ML workspace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fakes.azureml_refusals import Refused, not_found
from fakes.azureml_shapes import NAME, Answer, held, named

KINDS = {
    "environments": ("EnvironmentVersion", "image"),
    "data": ("DataVersionBase", "dataUri"),
    "models": ("ModelVersion", "modelUri"),
}
"""Of each kind its shape, and what of a version can never be changed."""


class Assets:
    """What is there, by kind, name and version."""

    def __init__(self, service: Any) -> None:
        """Takes the workspace that it is of."""
        self.service = service
        self.there: dict[tuple[str, str, str], dict[str, Any]] = {}

    def rows(self) -> Iterator[tuple[str, str, str, Callable[..., Answer]]]:
        """What is answered: method, kind, what follows in the path, and by what."""
        for kind in KINDS:
            one = f"/({NAME})/versions/({NAME})"
            yield "PUT", kind, one, lambda body, *key, kind=kind: self.put(body, kind, *key)
            yield "GET", kind, one, lambda _, *key, kind=kind: (200, self.get(kind, *key), {})
            yield "DELETE", kind, one, lambda _, *key, kind=kind: self.delete(kind, *key)
            yield "GET", kind, f"/({NAME})/versions", lambda _, name, kind=kind: (200, self.list(kind, name), {})

    def put(self, body: Any, kind: str, name: str, version: str) -> Answer:
        """Makes a version, or changes what may be changed of it."""
        shape, fixed = KINDS[kind]
        held(shape, body)
        there = self.there.get((kind, name, version))
        if there is not None and there["properties"].get(fixed) != body["properties"].get(fixed):
            raise Refused(409, "UserError", f"A resource with the name {name} and version {version} already exists")
        path = f"{self.service.root}/{kind}/{name}/versions/{version}"
        made = {**named(path), "properties": {**({"flavors": {}} if kind == "models" else {}), **body["properties"]}}
        self.there[kind, name, version] = made
        return 200 if there else 201, made, {}

    def get(self, kind: str, name: str, version: str) -> dict[str, Any]:
        """A version."""
        if (kind, name, version) not in self.there:
            raise not_found(f"{kind}/{name}/versions/{version}")
        return self.there[kind, name, version]

    def delete(self, kind: str, name: str, version: str) -> Answer:
        """Deletes a version that no endpoint has."""
        path = f"{self.service.root}/{kind}/{name}/versions/{version}"
        if self.service.endpoints.uses(path):
            raise Refused(409, "Conflict", f"{path} is in use")
        self.get(kind, name, version)
        del self.there[kind, name, version]
        return 200, None, {}

    def list(self, kind: str, name: str) -> dict[str, Any]:
        """All versions of a name, newest first."""
        found = [one for key, one in self.there.items() if key[:2] == (kind, name)]
        return {"value": found[::-1], "nextLink": None}

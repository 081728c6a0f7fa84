"""Versions of environments, data and models in the stand-in of an Azure ML workspace.

Of a version that is there only tags, description and whether it is archived can be changed, as Azure ML says itself.
Limits of tags and properties are those that its documentation has for runs; for assets it has none.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from fakes import blob
from fakes.azureml_refusals import Refused, not_found
from fakes.azureml_shapes import NAME, Answer, held, named

if TYPE_CHECKING:
    from fakes.azureml import AzureML

KINDS = {
    "environments": ("EnvironmentVersion", "image", "environment"),
    "data": ("DataVersionBase", "dataUri", "data"),
    "models": ("ModelVersion", "modelUri", "model"),
}
"""Of each kind its shape, what of a version says what it is, and the service's word for it."""
FIXED = ("properties", "dataType", "modelType", "referencedUris")
"""What else of a version can never be changed."""
MUTABLE = ("tags", "description", "isArchived")
PAGE = 3
"""Versions of a list that come at once."""
MOST, KEY, VALUE = 50, 100, 1000
"""Tags or properties of one thing, and the characters of their names and values."""


class Assets:
    """What is there, by kind, name and version."""

    def __init__(self, service: AzureML) -> None:
        """Takes the workspace that it is of."""
        self.service = service
        self.there: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._lock = threading.Lock()

    def rows(self) -> Iterator[tuple[str, str, str, Callable[..., Answer]]]:
        """What is answered: method, kind, what follows in the path, and by what."""
        for kind in KINDS:
            one = "/([^/]+)/versions/([^/]+)"
            yield "PUT", kind, one, lambda body, *key, kind=kind: self.put(body, kind, *key)
            yield "GET", kind, one, lambda _, *key, kind=kind: (200, self.get(kind, *key), {})
            if kind == "models":
                yield "DELETE", kind, one, lambda _, *key, kind=kind: self.delete(kind, *key)
            yield (
                "GET",
                kind,
                "/([^/]+)/versions",
                lambda query, name, kind=kind: (200, self.list(kind, name, query), {}),
            )
            yield "GET", kind, "/([^/]+)", lambda _, name, kind=kind: (200, self.container(kind, name), {})

    def put(self, body: Any, kind: str, name: str, version: str) -> Answer:
        """Makes a version, or changes what may be changed of it."""
        shape, place, word = KINDS[kind]
        for text in (name, version):
            if not re.fullmatch(NAME, text):
                raise Refused(400, "UserError", f"{text!r} is no name of a {word}; it has to match {NAME}")
        held(shape, body)
        asked = {key: value for key, value in body["properties"].items() if value is not None}
        for few in ("tags", "properties"):
            _limited(few, asked.get(few) or {})
        with self._lock:
            there = self.there.get((kind, name, version))
            if there is None:
                self._has(kind, str(asked.get(place, "")))
                made = {**({"flavors": {}} if kind == "models" else {}), "tags": {}, "properties": {}, **asked}
            else:
                self._same(there["properties"], asked, place, word)
                made = {**there["properties"], **{key: asked[key] for key in MUTABLE if key in asked}}
            made["provisioningState"] = "Succeeded"
            told = {**named(f"{self.service.root}/{kind}/{name}/versions/{version}"), "properties": made}
            self.there[kind, name, version] = told
        return 200 if there else 201, told, {}

    def _same(self, there: Mapping[str, Any], asked: Mapping[str, Any], place: str, word: str) -> None:
        for key in (place, *FIXED):
            if key in asked and (asked[key] or None) != (there.get(key) or None):
                what = re.sub("([A-Z])", lambda found: f" {found[1].lower()}", key)
                raise Refused(
                    400,
                    "UserError",
                    f"A {word} version with this name and version already exists. If you are trying to create a new "
                    f"{word} version, use a different name or version. If you are trying to update an existing {word} "
                    f"version, the existing asset's {what} cannot be changed. Only tags, description, and isArchived "
                    "can be updated.",
                )

    def _has(self, kind: str, uri: str) -> None:
        """Refuses an address of no datastore, and a model of which there is no file."""
        found = re.fullmatch(r"azureml://(?:subscriptions/[^/]+/resourcegroups/[^/]+/workspaces/[^/]+/)?(.*)", uri)
        below = re.fullmatch(r"datastores/([^/]+)/paths/(.+)", found[1]) if found else None
        if found is None or below is None:
            if kind != "environments":
                raise Refused(400, "UserError", f"{uri!r} is no address that this stand-in knows")
        elif below[1] not in self.service.datastores:
            raise Refused(400, "UserError", f"Could not find datastore {below[1]!r} in this workspace.")
        elif kind == "models" and not blob.exists(self.service.azurite, self.service.datastores[below[1]], below[2]):
            raise Refused(400, "UserError", f"The specified path {below[2]} does not exist in datastore {below[1]}")

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

    def _of(self, kind: str, name: str) -> list[dict[str, Any]]:
        found = [one for key, one in self.there.items() if key[:2] == (kind, name)]
        if not found:
            raise not_found(f"{kind}/{name}")
        return found

    def list(self, kind: str, name: str, query: Mapping[str, str]) -> dict[str, Any]:
        """A page of a name's versions: the newest first where that is asked for, else in no order of note."""
        found, view = self._of(kind, name), query.get("listViewType", "ActiveOnly")
        if view not in ("ActiveOnly", "ArchivedOnly", "All"):
            raise Refused(400, "UserError", f"listViewType is {view!r}")
        if view != "All":
            found = [one for one in found if bool(one["properties"].get("isArchived")) == (view == "ArchivedOnly")]
        newest = query.get("$orderBy", "").lower().startswith("createdtime desc")
        found = found[::-1] if newest else sorted(found, key=lambda one: one["name"])
        first, most = int(query.get("$skip", "0")), min(int(query.get("$top", PAGE)), PAGE)
        more = urlencode({**query, "$skip": first + most}, safe="$")
        url = f"{self.service.url}{self.service.root}/{kind}/{name}/versions?{more}"
        rest = len(found) > first + most and "$top" not in query
        return {"value": found[first : first + most], "nextLink": url if rest else None}

    def container(self, kind: str, name: str) -> dict[str, Any]:
        """What all versions of a name have in common: which is the latest, and which number comes next."""
        found = self._of(kind, name)
        numbers = [int(one["name"]) for one in found if one["name"].isdecimal()]
        about: dict[str, Any] = {"latestVersion": found[-1]["name"], "nextVersion": str(max(numbers, default=0) + 1)}
        if kind == "data":
            about["dataType"] = found[-1]["properties"]["dataType"]
        return {**named(f"{self.service.root}/{kind}/{name}"), "properties": {**about, "isArchived": False}}


def _limited(what: str, given: Mapping[str, Any]) -> None:
    if len(given) > MOST:
        raise Refused(400, "UserError", f"{len(given)} {what}, at most {MOST} are allowed")
    for key, value in given.items():
        if not 0 < len(key) <= KEY or len(value or "") > VALUE:
            raise Refused(
                400, "UserError", f"{what}: {key[:KEY]!r} or its value is too long: {KEY} and {VALUE} at most"
            )

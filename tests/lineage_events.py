"""OpenLineage events held against OpenLineage's own classes."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import attr
from openlineage.client import event_v2, generated
from openlineage.client.generated import base


def _facets() -> dict[str, Any]:
    """Each facet's class by the address of its schema."""
    found: dict[str, Any] = {}
    for module in pkgutil.iter_modules(generated.__path__):
        for one in vars(importlib.import_module(f"{generated.__name__}.{module.name}")).values():
            if isinstance(one, type) and issubclass(one, base.BaseFacet):
                found[one._get_schema()] = one
    return found


FACETS = _facets()


def facets_of(value: Any) -> list[dict[str, Any]]:
    """Every facet in an event."""
    if isinstance(value, list):
        return [facet for item in value for facet in facets_of(item)]
    if not isinstance(value, dict):
        return []
    return [value] * ("_schemaURL" in value) + [facet for item in value.values() for facet in facets_of(item)]


def check(event: dict[str, Any]) -> None:
    """Fails unless the event and all of its facets are what OpenLineage's classes take, and nothing else is in them."""
    for facet in facets_of(event):
        known = FACETS[facet["_schemaURL"]]  # of this version, or the address is wrong
        values = {key: value for key, value in facet.items() if not key.startswith("_")}
        fields = {field.name: field for field in attr.fields(known) if field.init and not field.name.startswith("_")}
        assert not values.keys() - fields.keys(), f"{known.__name__}: {values.keys() - fields.keys()}"
        known(**values)
    run, job = event["run"], event["job"]
    made = event_v2.RunEvent(
        eventType=event_v2.RunState(event["eventType"]),
        eventTime=event["eventTime"],
        producer=event["producer"],
        run=event_v2.Run(**run),
        job=event_v2.Job(**job),
        inputs=[event_v2.InputDataset(**one) for one in event["inputs"]],
        outputs=[event_v2.OutputDataset(**one) for one in event["outputs"]],
    )
    assert made.schemaURL == event["schemaURL"]
